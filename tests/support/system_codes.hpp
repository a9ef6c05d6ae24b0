#pragma once
/// @file
/// Small codes of the kinds that packed formats of version 2 hold, from a seed.

#include "slim/core/random.hpp"
#include "slim/quantization/codes/column_parts.hpp"

#include <algorithm>
#include <numeric>

namespace slim_test {

using slim::any_codes;
using slim::codebook_codes;
using slim::column_parts;
using slim::index_t;
using slim::integer_codes;
using slim::number_format;

inline std::uint64_t random(std::uint64_t seed, std::uint64_t counter) { return slim::random_bits(seed, counter); }

inline codebook_codes books(index_t rows, index_t cols, int bits, std::uint64_t seed) {
  codebook_codes codes(rows, cols, bits, slim::per_channel);
  for (index_t k = 0; k < codes.books.size(); ++k)
    codes.books.data()[k] =
        static_cast<float>(slim::fp16(static_cast<float>(random(seed, static_cast<std::uint64_t>(k)) % 999) - 500.0f));
  for (index_t k = 0; k < codes.codes.size(); ++k)
    codes.codes.data()[k] = static_cast<std::uint8_t>(random(seed + 1, static_cast<std::uint64_t>(k)) % (1u << bits));
  return codes;
}

/// Groups of two columns, scales of 3 bits over 2 rows and offsets of 2 bits, some groups of other bits if asked for.
inline integer_codes second_level(index_t rows, index_t cols, bool by_group, std::uint64_t seed) {
  slim::scale_storage stored{.format = number_format::fp16, .bits = 3, .block = {.rows = 2, .cols = 1}, .shifted = true};
  integer_codes codes(rows, cols, 3, slim::per_group(2), stored);
  stored.bits = 2;
  stored.shifted = false;
  codes.offsets = slim::scale_table(codes.scales.rows(), codes.scales.cols(), stored);
  for (index_t k = 0; k < codes.scales.size(); ++k) {
    codes.scales.data()[k] = 1.0f + static_cast<float>(random(seed, static_cast<std::uint64_t>(k)) % 40);
    codes.offsets.data()[k] = -static_cast<float>(random(seed + 1, static_cast<std::uint64_t>(k)) % 9);
  }
  codes.scales.store(true);
  codes.offsets.store(false);
  for (index_t g = 0; by_group && g < codes.scales.cols(); ++g)
    codes.group_bits.push_back(static_cast<std::uint8_t>(1 + random(seed + 2, static_cast<std::uint64_t>(g)) % 3));
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      int const bits = codes.bits_of(j / 2);
      codes.codes(i, j) = static_cast<std::int8_t>(
          static_cast<int>(random(seed + 3, static_cast<std::uint64_t>(i * cols + j)) % (1u << bits)) - (1 << (bits - 1)));
    }
  return codes;
}

inline slim::sparse_residual residual(index_t rows, index_t cols, number_format format, std::uint64_t seed) {
  slim::sparse_residual r{.row_begin = {0}, .columns = {}, .values = {}, .format = format};
  for (index_t i = 0; i < rows; ++i) {
    for (index_t j = 0; j < cols; ++j)
      if (random(seed, static_cast<std::uint64_t>(i * cols + j)) % 4 == 0) {
        r.columns.push_back(static_cast<std::int32_t>(j));
        r.values.push_back(static_cast<float>(random(seed + 1, static_cast<std::uint64_t>(i * cols + j)) % 64) - 31.5f);
      }
    r.row_begin.push_back(r.count());
  }
  return r;
}

inline std::vector<std::int32_t> order(index_t cols) {
  std::vector<std::int32_t> all(static_cast<std::size_t>(cols));
  std::iota(all.begin(), all.end(), 0);
  std::reverse(all.begin(), all.end());
  if (cols > 2) std::swap(all[0], all[1]);
  return all;
}

/// One of each kind, and what they make together.
inline std::vector<any_codes> small_codes() {
  std::vector<any_codes> all;
  all.emplace_back(books(3, 5, 3, 1));
  all.emplace_back(second_level(5, 7, false, 2));
  all.emplace_back(column_parts{order(7), {any_codes(second_level(5, 7, false, 3))}});
  all.push_back(slim::in_parts(any_codes(second_level(5, 9, true, 4))));
  all.push_back(slim::in_parts(
      any_codes(slim::with_outliers<codebook_codes>{books(3, 5, 2, 5), residual(3, 5, number_format::bf16, 6)})));
  all.push_back(slim::in_parts(
      any_codes(slim::with_outliers<integer_codes>{second_level(4, 9, true, 7), residual(4, 9, number_format::fp32, 8)})));
  integer_codes plain(3, 6, 4, slim::per_group(2), number_format::fp16);
  for (index_t k = 0; k < plain.scales.size(); ++k) plain.scales.data()[k] = 0.5f * static_cast<float>(k);
  for (index_t k = 0; k < plain.codes.size(); ++k) plain.codes.data()[k] = static_cast<std::int8_t>(k % 16 - 8);
  all.push_back(slim::in_parts(any_codes(slim::with_outliers<integer_codes>{plain, residual(3, 6, number_format::fp16, 9)})));
  return all;
}

} // namespace slim_test
