#pragma once
/// @file
/// Inputs of a product as small integers, the way the R16 kernels read them: 8 bits with one scale per token and 32 channels,
/// as ggml's Q8_0 has it; for 16 bits, two such vectors per token, the second for what the first leaves.

#include "slim/kernels/cpu/r16_kernels.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Precision of the inputs of a product with codes.
enum class input_precision {
  int8,     ///< one scale per 32 channels: about 0.5% error of a product
  int8_128, ///< one scale per 128 channels, where scales of the weights allow it: faster for many tokens, twice the error where
            ///< few channels are large
  int16,    ///< two int8 vectors: about 0.004%
  exact,    ///< floats
};

/// Some vectors side by side: for each stage of 32 channels, 32 bytes of each vector.
struct input_tile {
  index_t width = 1; ///< vectors, padding included
  std::vector<std::int8_t> values;
  std::vector<float> scales; ///< [stages that share one][vector]
  /// [sets of scales][vector]: sum of scale * value. Where a set is two tiles, [sets][tile][vector]: sum of value.
  std::vector<float> sums;
};

/// The top bit of every value: values + 128 become values and the other way round.
inline void flip_values(input_tile& tile) noexcept {
  for (std::int8_t& v : tile.values) v = static_cast<std::int8_t>(v ^ -128);
}

/// How inputs become tiles.
struct input_rounding {
  index_t planes = 1;                          ///< vectors per token
  index_t stages_per_scale = 1;                ///< at most 4
  index_t scales_per_set = 1;                  ///< that share a sum
  std::vector<float> const* factors = nullptr; ///< what channels are multiplied by, if not empty
  bool offset = false;                         ///< values are stored with their top bit flipped, + 128
  bool tiles = false;                          ///< a set is one stage, with a sum for each half of it
};

/// The tokens of X as a tile of `width` vectors, the planes of a token beside each other.
[[nodiscard]] inline input_tile quantize_inputs(detail::r16_kernels const& kernels, matrix_view<float const> x, index_t width,
                                                input_rounding const& how) {
  index_t const stages = (x.cols() + r16_stage_cols - 1) / r16_stage_cols, per_scale = how.stages_per_scale;
  bool const scaled = how.factors && !how.factors->empty();
  index_t const scales = (stages + per_scale - 1) / per_scale;
  index_t const sets = std::max<index_t>((scales + how.scales_per_set - 1) / how.scales_per_set, 1); // also of no channels
  input_tile tile{width, std::vector<std::int8_t>(static_cast<std::size_t>(width * stages * r16_stage_cols)),
                  std::vector<float>(static_cast<std::size_t>(width * scales)),
                  std::vector<float>(static_cast<std::size_t>(width * sets * (how.tiles ? 2 : 1)))};
  for (index_t first = 0; first < stages; first += per_scale)
    for (index_t t = 0; t < x.rows(); ++t) {
      index_t const count = std::min(per_scale, stages - first), from = first * r16_stage_cols;
      index_t const cols = std::min(count * r16_stage_cols, x.cols() - from);
      float const* now = x.row(t) + from;
      float room[4 * r16_stage_cols];
      if (scaled || cols < count * r16_stage_cols) {
        for (index_t k = 0; k < cols; ++k)
          room[k] = scaled ? now[k] * (*how.factors)[static_cast<std::size_t>(from + k)] : now[k];
        std::fill(room + cols, room + count * r16_stage_cols, 0.0f);
        now = room;
      }
      for (index_t plane = 0; plane < how.planes; ++plane, now = room) {
        index_t const vector = t * how.planes + plane, scale = first / per_scale;
        float sum;
        std::int8_t* const values = tile.values.data() + (first * width + vector) * r16_stage_cols;
        kernels.round_inputs(now, count, values, width * r16_stage_cols, tile.scales.data() + scale * width + vector, &sum,
                             plane + 1 < how.planes ? room : nullptr);
        if (!how.tiles) {
          tile.sums[static_cast<std::size_t>(scale / how.scales_per_set * width + vector)] += sum;
          continue;
        }
        for (index_t half = 0; half < 2; ++half) {
          int total = 0;
          for (index_t k = 0; k < r16_stage_cols / 2; ++k) total += values[half * (r16_stage_cols / 2) + k];
          tile.sums[static_cast<std::size_t>((2 * scale + half) * width + vector)] = static_cast<float>(total);
        }
      }
    }
  if (how.offset) flip_values(tile);
  return tile;
}

} // namespace SLIM_ABI
} // namespace slim
