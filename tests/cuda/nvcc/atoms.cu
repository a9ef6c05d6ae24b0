// Products of a few atoms with 8 tokens, without loops, scales and copies: the difference of 4 and 2 atoms is the cost of two.
#include "slim/kernels/cuda/warp.cuh"

using namespace slim::cuda;

template <slim::device_kind K, int COUNT>
__global__ void atoms(float* out) {
  extern __shared__ __align__(128) unsigned char shared[];
  device_warp w(shared);
  tile_sums<1, device_warp> part, total;
#pragma unroll
  for (int s = 0; s < COUNT; ++s)
    multiply_codes<slim::number_format::fp16, K, 1>(w, atom_scales{}, 1024 * s, 65536 + input_bytes(1) * s, part, total);
  for (int k = 0; k < 4; ++k) out[k * 256 + threadIdx.x] = part.v[0][k];
}

#define SLIM_ATOMS(K) \
  template __global__ void atoms<slim::device_kind::K, 2>(float*); \
  template __global__ void atoms<slim::device_kind::K, 4>(float*);
SLIM_ATOMS(sparse24)
SLIM_ATOMS(dense2)
SLIM_ATOMS(dense3)
SLIM_ATOMS(dense4)
