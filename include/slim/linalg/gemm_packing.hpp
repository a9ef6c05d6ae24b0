#pragma once
/// @file
/// Packed panels: the order in which the inner loops of linalg/gemm_kernels.hpp read their operands. A panel holds `width`
/// neighbouring rows of A (or columns of B), one after the other for each inner index; lanes behind the last one are zero.

#include "slim/core/matrix_view.hpp"

#include <algorithm>
#include <cstddef>
#include <new>
#include <type_traits>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Uninitialised storage on a cache-line boundary, for packed panels.
template <class T>
class aligned_buffer {
  static_assert(std::is_trivial_v<T>);
  static constexpr std::align_val_t alignment{64};

public:
  explicit aligned_buffer(index_t size)
      : data_(static_cast<T*>(::operator new(static_cast<std::size_t>(size) * sizeof(T), alignment))) {}
  ~aligned_buffer() { ::operator delete(data_, alignment); }
  aligned_buffer(aligned_buffer const&) = delete;
  aligned_buffer& operator=(aligned_buffer const&) = delete;

  [[nodiscard]] T* data() const noexcept { return data_; }

private:
  T* data_;
};

[[nodiscard]] constexpr index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }
[[nodiscard]] constexpr index_t round_up(index_t a, index_t b) { return ceil_div(a, b) * b; }

/// Lanes (rows of A, columns of B) and inner index of an operand, with their strides in elements.
struct panel_source {
  float const* data;
  index_t lane_stride;
  index_t depth_stride;

  [[nodiscard]] float const* at(index_t lane, index_t k) const { return data + lane * lane_stride + k * depth_stride; }
};

/// out[k * width + lane] for a 4 x 4 corner whose inner index is contiguous in the source.
inline void pack_4x4(float const* source, index_t lane_stride, float* out, index_t width) {
#if defined(__SSE__)
  __m128 r0 = _mm_loadu_ps(source), r1 = _mm_loadu_ps(source + lane_stride);
  __m128 r2 = _mm_loadu_ps(source + 2 * lane_stride), r3 = _mm_loadu_ps(source + 3 * lane_stride);
  _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
  _mm_storeu_ps(out, r0);
  _mm_storeu_ps(out + width, r1);
  _mm_storeu_ps(out + 2 * width, r2);
  _mm_storeu_ps(out + 3 * width, r3);
#else
  for (index_t lane = 0; lane < 4; ++lane)
    for (index_t k = 0; k < 4; ++k) out[k * width + lane] = source[lane * lane_stride + k];
#endif
}

/// One panel: `lanes <= width` lanes from `first` on, inner indices [k0, k0 + depth).
inline void pack_panel(panel_source source, index_t first, index_t lanes, index_t k0, index_t depth, index_t width,
                       float* out) {
  float const* const corner = source.at(first, k0);
  index_t const lane_stride = source.lane_stride, depth_stride = source.depth_stride;
  if (lanes < width) std::fill_n(out, width * depth, 0.0f);
  if (lane_stride == 1) {
    for (index_t k = 0; k < depth; ++k) std::copy_n(corner + k * depth_stride, lanes, out + k * width);
    return;
  }
  index_t const whole_lanes = depth_stride == 1 ? lanes / 4 * 4 : 0, whole_depth = depth / 4 * 4;
  for (index_t k = 0; k < whole_depth; k += 4)
    for (index_t lane = 0; lane < whole_lanes; lane += 4)
      pack_4x4(corner + lane * lane_stride + k, lane_stride, out + k * width + lane, width);
  for (index_t k = 0; k < depth; ++k)
    for (index_t lane = k < whole_depth ? whole_lanes : 0; lane < lanes; ++lane)
      out[k * width + lane] = corner[lane * lane_stride + k * depth_stride];
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
