#pragma once
/// @file
/// From a layer, X and Y to dense products: the layer's matrices are written out as 16-bit numbers, the adapter is added to the
/// weight, and X is multiplied with the sum.

#include "slim/kernels/cuda/dense_product.cuh"
#include "slim/kernels/cuda/dequantize_kernel.cuh"
#include "slim/kernels/cuda/forward_plan.cuh"

#include <limits>

namespace slim {
inline namespace SLIM_ABI {
namespace cuda {

/// W, L^T and R^T as numbers, W += R^T L^T, Y = X W^T: a launch and one product, two with an adapter.
struct dense_plan {
  dequantize_plan matrices;
  dense_product products[2] = {};
  int count = 0;
};

namespace detail {

/// The matrices of a layer, one behind the other at `out`.
[[nodiscard]] inline dequantize_plan plan_dequantize(std::uint8_t const* bytes, device_header const& header, u32* out) {
  device_layer_layout const l(header);
  dequantize_plan plan;
  auto const add = [&](device_layout const& layout, std::int64_t offset) {
    dequantize_job const job{layout, bytes + offset, out, plan.ctas};
    out += job.size();
    plan.ctas += static_cast<int>(job.ctas());
    plan.shared_bytes = std::max(plan.shared_bytes, warps_per_cta * layout.atom_bytes());
    plan.jobs[plan.count++] = job;
  };
  add(l.weight, l.weight_offset());
  if (header.rank > 0) {
    add(l.left, l.left_offset());
    add(l.right, l.right_offset());
  }
  return plan;
}

} // namespace detail

/// Words that plan_dense needs at `out`.
[[nodiscard]] inline std::int64_t dense_size(device_header const& h) {
  device_layer_layout const l(h);
  std::int64_t words = 0;
  for (device_layout const& m : {l.weight, l.left, l.right})
    if (m.rows > 0) words += dequantize_job{.layout = m}.size();
  return words;
}

/// Whether a dense product takes X and Y as they are: not empty, extents and distances of rows fit an int, rows do not overlap.
[[nodiscard]] inline bool fits_dense_product(device_header const& h, std::int64_t tokens, std::int64_t x_stride,
                                             std::int64_t y_stride) {
  constexpr std::int64_t most = std::numeric_limits<int>::max() - device_atom_cols;
  return h.rows > 0 && h.cols > 0 && h.cols <= most && h.rank <= most && tokens > 0 && tokens <= most && x_stride >= h.cols &&
         x_stride <= most && y_stride >= h.rows && y_stride <= most;
}

/// Plans Y = X (W + R^T L^T)^T, or Y +=, for X and Y with fits_dense_product. `out` has room for dense_size words, on 16 bytes.
[[nodiscard]] inline dense_plan plan_dense(layer_call const& call, input_rows const& x, u32* out, bool add,
                                           number_format numbers) {
  dense_plan plan{.matrices = detail::plan_dequantize(call.bytes, call.header, out)};
  auto const dense = [&](int k) { return reinterpret_cast<std::uint16_t*>(plan.matrices.jobs[k].out); };
  auto const stride = [&](int k) { return 2 * plan.matrices.jobs[k].stride(); };
  device_header const& h = call.header;
  if (h.rank > 0)
    plan.products[plan.count++] = {numbers,  false,     true,     h.rows,    h.cols,   h.rank,
                                   dense(2), stride(2), dense(1), stride(1), dense(0), stride(0)};
  plan.products[plan.count++] = {numbers, true,     add,      x.tokens,  h.rows, h.cols,
                                 x.data,  x.stride, dense(0), stride(0), call.y, call.y_stride};
  return plan;
}

} // namespace cuda
} // namespace SLIM_ABI
} // namespace slim
