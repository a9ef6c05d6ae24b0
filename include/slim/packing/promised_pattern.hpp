#pragma once
/// @file
/// Whether a mask keeps what its n:m pattern promises: formats store a promise only if it is true, and a reader believes none.

#include "slim/packing/row_tasks.hpp"
#include "slim/pruning/mask.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// n of every m consecutive columns of a row, ceil(t n / m) of a ragged last group of t. True without a pattern.
[[nodiscard]] inline bool row_keeps(mask const& kept, sparsity_pattern pattern, index_t i) noexcept {
  if (!pattern.structured()) return true;
  index_t first = 0;
  if (pattern.m == 4) { // the pattern that there are files of: four bytes at a time
    std::uint8_t const* const row = kept.row(i);
    for (; first + 4 <= kept.cols(); first += 4)
      if (row[first] + row[first + 1] + row[first + 2] + row[first + 3] != pattern.n) return false;
  }
  for (; first < kept.cols(); first += pattern.m) {
    index_t const width = std::min(pattern.m, kept.cols() - first);
    index_t count = 0;
    for (index_t j = first; j < first + width; ++j) count += kept.kept(i, j) ? 1 : 0;
    if (count != pattern.kept_of(width)) return false;
  }
  return true;
}

/// The pattern of a mask if it holds and fits into a header, else none.
[[nodiscard]] inline sparsity_pattern true_pattern(mask const& kept, context const& ctx) {
  sparsity_pattern const promised = kept.pattern();
  bool const fits = promised.n >= 0 && promised.n <= promised.m && promised.m < (index_t{1} << 31);
  if (!promised.structured() || !fits) return {};
  std::string const broken = first_complaint(
      kept.rows(), kept.cols(), ctx, [&](index_t i) -> std::string { return row_keeps(kept, promised, i) ? "" : "broken"; });
  return broken.empty() ? promised : sparsity_pattern{};
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
