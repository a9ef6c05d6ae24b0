#pragma once
/// @file
/// The grid of each block type of ggml: what a solver rounds to so that encode_blocks (io/gguf/encode_blocks.hpp) holds the
/// codes exactly.

#include "slim/io/gguf/blocks.hpp"
#include "slim/io/tensor.hpp"
#include "slim/quantization/grids/codebook_grid.hpp"
#include "slim/quantization/grids/stock_grid.hpp"

#include <optional>

namespace slim {
inline namespace SLIM_ABI {

/// The grid of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K; none of other types. Scales of Q3_K go to 31 and
/// those of Q6_K to 127 in size, one less than their types could hold on the negative side.
[[nodiscard]] inline std::optional<stock_grid> stock_grid_of(tensor_type type) {
  switch (type) {
  case tensor_type::q4_0: return stock_grid{.bits = 4};
  case tensor_type::q5_0: return stock_grid{.bits = 5};
  case tensor_type::q8_0: return stock_grid{.bits = 8};
  case tensor_type::q4_1: return stock_grid{.bits = 4, .minima = true, .positive_minima = true};
  case tensor_type::q5_1: return stock_grid{.bits = 5, .minima = true, .positive_minima = true};
  case tensor_type::q2_k:
    return stock_grid{.bits = 2, .block = per_group(16), .minima = true, .scale_bits = 4, .super_groups = 16};
  case tensor_type::q3_k: return stock_grid{.bits = 3, .block = per_group(16), .scale_bits = 5, .super_groups = 16};
  case tensor_type::q4_k: return stock_grid{.bits = 4, .minima = true, .scale_bits = 6, .super_groups = 8};
  case tensor_type::q5_k: return stock_grid{.bits = 5, .minima = true, .scale_bits = 6, .super_groups = 8};
  case tensor_type::q6_k: return stock_grid{.bits = 6, .block = per_group(16), .scale_bits = 7, .super_groups = 16};
  default: return std::nullopt;
  }
}

/// The grid of IQ4_NL (a scale per 32 weights) or IQ4_XS (6 bits over the 8 groups of a super-block); none of other types.
[[nodiscard]] inline std::optional<codebook_grid> codebook_grid_of(tensor_type type) {
  if (type != tensor_type::iq4_nl && type != tensor_type::iq4_xs) return std::nullopt;
  codebook_grid grid{.levels = {}, .block = per_group(32), .signed_scales = true};
  for (std::int8_t const level : ggml::iq4_levels) grid.levels.push_back(static_cast<float>(level));
  if (type == tensor_type::iq4_xs) {
    grid.scale_bits = 6;
    grid.super_groups = 8;
  }
  return grid;
}

} // namespace SLIM_ABI
} // namespace slim
