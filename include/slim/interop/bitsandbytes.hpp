#pragma once
/// @file
/// Layers that bitsandbytes saved in 4 bits (NF4, FP4: a byte for two weights, `absmax` of each block) as codebook_codes.

#include "slim/interop/packed_words.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// A weight (d_out x d_in) whose rows lie one behind the other: `packed` has two positions a byte, the first one in the upper
/// half; `absmax` a scale for each `block` weights, as numbers (with double quantization: after decoding them); `book` is
/// quant_map. @throws shape_error if an array has another size; config_error if blocks do not divide rows, so that a block
/// would belong to two of them, or the book has not 16 levels.
[[nodiscard]] inline codebook_codes from_bitsandbytes(index_t d_out, index_t d_in, std::span<std::uint8_t const> packed,
                                                      std::span<float const> absmax, index_t block = 64,
                                                      std::vector<float> const& book = nf4_levels()) {
  if (d_out < 0 || d_in < 0 || block < 1 || d_in % block != 0 || book.size() != 16)
    throw config_error(message("from_bitsandbytes: blocks of ", block, " weights in rows of ", d_in, ", ", book.size(),
                               " levels; needed are whole blocks in every row, and 16 levels"));
  detail::require_size("from_bitsandbytes", "packed", 2 * packed.size(), d_out, d_in);
  detail::require_size("from_bitsandbytes", "absmax", absmax.size(), d_out, d_in / block);
  codebook_codes out(d_out, d_in, book, per_group(block), {.format = number_format::fp32});
  std::copy(absmax.begin(), absmax.end(), out.scales.data());
  for (std::size_t k = 0; k < packed.size(); ++k) {
    out.codes.data()[2 * k] = static_cast<std::uint8_t>(packed[k] >> 4);
    out.codes.data()[2 * k + 1] = static_cast<std::uint8_t>(packed[k] & 15);
  }
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
