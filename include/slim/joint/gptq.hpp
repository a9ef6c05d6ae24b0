#pragma once
/// @file
/// GPTQ / OPTQ (Frantar et al., arXiv 2210.17323): dense codes by error feedback.

#include "slim/joint/error_feedback.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// GPTQ on any grid: `chain(gptq({.bits = 4, .block = per_group(128)}))`. `config` has act-order, damping, and whether the
/// scales of a group are fitted when the sweep reaches it (the paper's way with groups).
template <grid Grid = uniform_grid>
[[nodiscard]] error_feedback<quantized_set<Grid, dense_pattern>> gptq(Grid grid = {}, error_feedback_config config = {}) {
  return error_feedback(quantized_set<Grid, dense_pattern>(std::move(grid)), config);
}

} // namespace SLIM_ABI
} // namespace slim
