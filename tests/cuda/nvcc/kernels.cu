// Every kernel that forward_into launches, for gates.py.
#include "slim/interop/cublas_dense.hpp"
#include "slim/kernels/cuda/forward.cuh"

void every_kernel(slim::cuda::device_linear const& w, slim::cuda::workspace& room, slim::matrix_view<__half const> x,
                  slim::matrix_view<__half> y, slim::matrix_view<__nv_bfloat16 const> bx, slim::matrix_view<__nv_bfloat16> by,
                  cublasHandle_t handle) {
  room.set_gemm(slim::cuda::gemm_by_cublas(handle));
  slim::cuda::forward_into(w, x, y, room);
  slim::cuda::forward_into(w, bx, by, room, {.add = true});
  slim::cuda::layer_output<__half> const both[] = {{&w, y}, {&w, y}};
  slim::cuda::forward_into<__half>(both, x, room);
}
