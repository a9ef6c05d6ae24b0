#pragma once
/// @file
/// Rows of a packed matrix start on bytes, so tasks can read and write them side by side.

#include "slim/core/byte_stream.hpp"
#include "slim/core/context.hpp"

#include <string>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Rows that are worth a task.
[[nodiscard]] constexpr index_t packed_rows_per_task(index_t cols) noexcept {
  constexpr index_t weights = index_t{1} << 16;
  return cols < weights ? weights / std::max<index_t>(cols, 1) : 1;
}

/// The bytes of row i.
[[nodiscard]] inline std::span<std::byte const> row_part(std::span<std::byte const> rows, index_t i,
                                                         std::int64_t row_bytes) noexcept {
  return rows.subspan(static_cast<std::size_t>(i * row_bytes), static_cast<std::size_t>(row_bytes));
}

/// Calls `check(i)` for the rows of a matrix and returns the first row's sentence that is not empty; no rows of a task are
/// looked at behind one that has something to say.
template <class Check>
[[nodiscard]] std::string first_complaint(index_t rows, index_t cols, context const& ctx, Check const& check) {
  index_t const grain = packed_rows_per_task(cols);
  std::vector<std::string> said(static_cast<std::size_t>(rows / grain + 1));
  ctx.parallel_for(rows, grain, [&](index_t begin, index_t end) {
    std::string& mine = said[static_cast<std::size_t>(begin / grain)];
    for (index_t i = begin; i < end && mine.empty(); ++i) mine = check(i);
  });
  for (std::string& sentence : said)
    if (!sentence.empty()) return std::move(sentence);
  return {};
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
