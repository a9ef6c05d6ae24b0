#pragma once
/// @file
/// Difficult codes and masks: the inputs of packed_format_laws.hpp. They are made from a seed and have names. The codes of
/// pruned weights are arbitrary, so that a format that reads them breaks a law.

#include "slim/core/random.hpp"
#include "slim/packing/packed_format.hpp"

#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// Codes of a hard case, and its name in broken laws.
template <class Codes>
struct named_codes {
  std::string name;
  Codes codes;
  mask kept;
};

/// Arbitrary codes, scales exact in the format (some 0), zero points and channel factors if asked for.
[[nodiscard]] inline integer_codes random_codes(index_t rows, index_t cols, int bits, scale_block block, number_format format,
                                                bool zeros, bool factors, std::uint64_t seed) {
  integer_codes made(rows, cols, bits, block, format);
  std::uint64_t counter = 0;
  auto const next = [&] { return random_bits(seed, counter++); };
  auto const code = [&] { return static_cast<std::int8_t>(static_cast<int>(next() % (1u << bits)) + made.lowest()); };
  for (index_t k = 0; k < made.codes.size(); ++k) made.codes.data()[k] = code();
  for (index_t k = 0; k < made.scales.size(); ++k)
    made.scales.data()[k] = next() % 8 == 0 ? 0.0f : rounded_to(format, 0.001f * static_cast<float>(next() % 1000 + 1));
  if (zeros && !made.scales.empty()) {
    made.zeros = matrix<std::int8_t>(made.scales.rows(), made.scales.cols());
    for (index_t k = 0; k < made.zeros.size(); ++k) made.zeros.data()[k] = code();
  }
  if (factors)
    for (index_t j = 0; j < cols; ++j) made.channel_factors.push_back(next() % 3 == 0 ? 1.3f : 1.0f);
  return made;
}

/// Keeps each weight with probability `tenths` / 10, but at most `most` of every four columns, and none of every third row.
[[nodiscard]] inline mask random_mask(index_t rows, index_t cols, unsigned tenths, index_t most, std::uint64_t seed) {
  mask kept(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t first = 0, count = 0; first < cols; first += 4, count = 0)
      for (index_t j = first; j < std::min(cols, first + 4) && i % 3 != 2; ++j)
        if (count < most && random_bits(seed, static_cast<std::uint64_t>(i * cols + j)) % 10 < tenths) {
          kept.keep(i, j);
          ++count;
        }
  return kept;
}

/// What a 2:4 pruner makes: two columns of each whole group, ceil(t / 2) of the last t, promised.
[[nodiscard]] inline mask random_mask24(index_t rows, index_t cols, std::uint64_t seed) {
  mask kept(rows, cols, {.n = 2, .m = 4});
  for (index_t i = 0; i < rows; ++i)
    for (index_t first = 0; first < cols; first += 4) {
      auto const width = std::min<index_t>(4, cols - first);
      auto const start = static_cast<index_t>(random_bits(seed, static_cast<std::uint64_t>(i * cols + first)) % 4) % width;
      auto const step = width == 4 ? index_t{1} + start % 3 : index_t{1};
      for (index_t k = 0; k < kept.pattern().kept_of(width); ++k) kept.keep(i, first + (start + k * step) % width);
    }
  return kept;
}

/// Shapes that end raggedly, all scale blocks, formats and bits, with and without zero points and factors; masks that keep at
/// most two of every four columns, so that every format can take them.
[[nodiscard]] inline std::vector<named_codes<integer_codes>> hard_codes(std::uint64_t seed = 1) {
  index_t const extents[][2] = {{0, 0}, {0, 5}, {5, 0}, {1, 1}, {1, 2}, {2, 3}, {1, 37}, {37, 1}, {3, 5}, {16, 16}, {7, 130}};
  scale_block const blocks[] = {per_tensor,     per_channel,         per_group(6),
                                per_group(128), per_column_group(3), {.rows = 2, .cols = 5}};
  number_format const formats[] = {number_format::fp16, number_format::bf16, number_format::fp32};
  std::vector<named_codes<integer_codes>> all;
  for (auto const& [rows, cols] : extents)
    for (scale_block const block : blocks)
      for (int variant = 0; variant < 4; ++variant, ++seed) {
        int const bits = 2 + static_cast<int>(seed % 7);
        number_format const format = formats[seed % 3];
        bool const zeros = variant % 2 == 1;
        bool const factors = variant >= 2;
        all.push_back({message(rows, " x ", cols, ", ", bits, " bits, ", slim::describe(block), " ", name_of(format),
                               zeros ? ", zero points" : "", factors ? ", factors" : ""),
                       random_codes(rows, cols, bits, block, format, zeros, factors, seed),
                       variant % 2 == 0 ? random_mask24(rows, cols, seed) : random_mask(rows, cols, 6, 2, seed)});
      }
  all.push_back({"all pruned", random_codes(5, 11, 4, per_group(4), number_format::fp16, true, false, seed), mask(5, 11)});
  return all;
}

/// Integer codes of 4 bits as positions in a table of 16 levels: code c takes level c + 8.
[[nodiscard]] inline codebook_codes in_table(integer_codes const& codes, std::vector<float> const& levels) {
  codebook_codes made(codes.rows(), codes.cols(), levels, codes.block, codes.scales.stored());
  made.book_format = number_format::fp32;
  for (index_t k = 0; k < codes.codes.size(); ++k) made.codes.data()[k] = static_cast<std::uint8_t>(codes.codes.data()[k] + 8);
  made.scales = codes.scales;
  made.channel_factors = codes.channel_factors;
  return made;
}

/// Codes of 4 bits in one table of 16 levels, the ninth of which is 0, ragged shapes, with and without channel factors.
[[nodiscard]] inline std::vector<named_codes<codebook_codes>> hard_table_codes(std::uint64_t seed = 1) {
  std::vector<float> const levels{-1.0f, -0.7f, -0.5f, -0.4f, -0.3f, -0.2f, -0.1f, -0.05f,
                                  0.0f,  0.05f, 0.1f,  0.2f,  0.3f,  0.4f,  0.7f,  1.0f};
  index_t const extents[][2] = {{0, 5}, {1, 1}, {6, 13}, {16, 16}, {7, 130}};
  std::vector<named_codes<codebook_codes>> all;
  for (auto const& [rows, cols] : extents)
    for (bool const factors : {false, true}) {
      codebook_codes made(rows, cols, levels, per_channel, {.format = number_format::fp16});
      made.book_format = number_format::fp32;
      std::uint64_t counter = 0;
      for (index_t k = 0; k < made.codes.size(); ++k)
        made.codes.data()[k] = static_cast<std::uint8_t>(random_bits(seed, counter++) % 16);
      for (index_t k = 0; k < made.scales.size(); ++k) made.scales.data()[k] = 0.25f * static_cast<float>(k % 5);
      if (factors)
        for (index_t j = 0; j < cols; ++j) made.channel_factors.push_back(random_bits(seed, counter++) % 3 == 0 ? 1.3f : 1.0f);
      all.push_back({message("table, ", rows, " x ", cols, factors ? ", factors" : ""), std::move(made),
                     random_mask(rows, cols, 7, 2, seed++)});
    }
  return all;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
