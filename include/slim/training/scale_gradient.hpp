#pragma once
/// @file
/// Gradients of what stands beside codes that stay as they are.

#include "slim/pruning/mask.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Gradient of a loss by the scales of W_c, given that by W_c, dW (d_out x d_in): one number per block, the sum over its
/// weights of dW_ij (code_ij - zero) / factor_j. Weights that `kept` prunes count as 0; null: all are kept. Codes, zero points
/// and offsets are taken as constants. Sums are double. O(d_out d_in). Bit-identical for any executor.
/// @throws shape_error, config_error if the parts do not fit each other.
[[nodiscard]] inline matrix<float> scale_gradient(integer_codes const& codes, mask const* kept, matrix_view<float const> dw,
                                                  context const& ctx = {}) {
  codes.check("scale_gradient");
  detail::require_shape(codes.rows(), codes.cols(), dw.rows(), dw.cols(), "scale_gradient");
  if (kept) kept->check("scale_gradient", codes.rows(), codes.cols());
  index_t const tall = codes.block.rows_of(codes.rows()), wide = codes.block.cols_of(codes.cols());
  matrix<float> gradient(codes.scales.rows(), codes.scales.cols());
  ctx.parallel_for(gradient.rows(), 1, [&](index_t begin, index_t end) {
    for (index_t b = begin; b < end; ++b)
      for (index_t g = 0; g < gradient.cols(); ++g) {
        double sum = 0;
        for (index_t i = b * tall; i < std::min(codes.rows(), (b + 1) * tall); ++i)
          for (index_t j = g * wide; j < std::min(codes.cols(), (g + 1) * wide); ++j) {
            if (kept && !kept->kept(i, j)) continue;
            double const level = static_cast<double>(codes.codes(i, j) - codes.zero_at(i, j));
            sum += static_cast<double>(dw(i, j)) * level / static_cast<double>(codes.factor_at(j));
          }
        gradient(b, g) = static_cast<float>(sum);
      }
  });
  return gradient;
}

} // namespace SLIM_ABI
} // namespace slim
