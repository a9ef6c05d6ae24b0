#pragma once
/// @file
/// SparseGPT with joint quantization (Frantar and Alistarh, arXiv 2301.00774, section 3.4): mask and codes by error feedback.

#include "slim/joint/error_feedback.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// SparseGPT on any grid and pattern: `chain(sparsegpt(nm<2, 4>{}, uniform_grid{.bits = 4}))`.
template <class Pattern = nm<2, 4>, grid Grid = uniform_grid>
[[nodiscard]] error_feedback<quantized_set<Grid, Pattern>> sparsegpt(Pattern pattern = {}, Grid grid = {},
                                                                     error_feedback_config config = {}) {
  return error_feedback(quantized_set<Grid, Pattern>(std::move(grid), pattern), config);
}

} // namespace SLIM_ABI
} // namespace slim
