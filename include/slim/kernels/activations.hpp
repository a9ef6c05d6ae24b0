#pragma once
/// @file
/// Inputs of a product as small integers, the way the R16 kernels read them: 8 bits with one scale per token and 32 channels,
/// as ggml's Q8_0 has it; for 16 bits, two such vectors per token, the second for what the first leaves.

#include "slim/kernels/cpu/r16_kernels.hpp"

namespace slim::inline SLIM_ABI {

/// Precision of the inputs of a product with codes.
enum class input_precision {
  int8,  ///< one scale per 32 channels: about 0.5% error of a product
  int16, ///< two int8 vectors: about 0.004%
  exact, ///< floats
};

/// Some vectors side by side: for each stage of 32 channels, 32 bytes of each vector.
struct input_tile {
  index_t width = 0; ///< vectors, padding included
  std::vector<std::int8_t> values;
  std::vector<float> scales; ///< [stage][vector]
  std::vector<float> sums;   ///< [stage][vector]: scale * sum of values

  input_tile(index_t vectors, index_t stages)
      : width(vectors), values(static_cast<std::size_t>(vectors * stages * r16_stage_cols)),
        scales(static_cast<std::size_t>(vectors * stages)), sums(scales) {}
};

/// Tokens [first, first + count) of X as a tile of `width` vectors, `planes` (1 or 2) per token, each token's beside each
/// other. `factors`: what channels are multiplied by, or empty. `offset`: values are stored with their top bit flipped, + 128.
[[nodiscard]] inline input_tile quantize_inputs(detail::r16_kernels const& kernels, matrix_view<float const> x, index_t first,
                                                index_t count, index_t width, index_t planes, std::vector<float> const& factors,
                                                bool offset) {
  index_t const stages = (x.cols() + r16_stage_cols - 1) / r16_stage_cols;
  input_tile tile(width, stages);
  for (index_t stage = 0; stage < stages; ++stage)
    for (index_t t = 0; t < count; ++t) {
      float now[r16_stage_cols] = {};
      index_t const from = stage * r16_stage_cols, cols = std::min(r16_stage_cols, x.cols() - from);
      std::copy_n(x.row(first + t) + from, cols, now);
      if (!factors.empty())
        for (index_t k = 0; k < cols; ++k) now[k] *= factors[static_cast<std::size_t>(from + k)];
      for (index_t plane = 0; plane < planes; ++plane) {
        index_t const at = stage * width + t * planes + plane;
        kernels.round_inputs(now, tile.values.data() + at * r16_stage_cols, tile.scales.data() + at, tile.sums.data() + at);
      }
    }
  if (offset)
    for (std::int8_t& v : tile.values) v = static_cast<std::int8_t>(v ^ -128);
  return tile;
}

} // namespace slim::inline SLIM_ABI
