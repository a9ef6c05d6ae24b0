#pragma once
/// @file
/// `scale_block`: which weights of a matrix share a scale, an offset or a code book.

#include "slim/core/error.hpp"
#include "slim/core/matrix_view.hpp"

#include <algorithm>
#include <string>

namespace slim {
inline namespace SLIM_ABI {

/// Which weights share a scale: blocks of `rows x cols`, ragged at the ends; 0 means the whole extent.
struct scale_block {
  index_t rows = 1;
  index_t cols = 0;

  [[nodiscard]] constexpr index_t rows_of(index_t extent) const noexcept { return covered(rows, extent); }
  [[nodiscard]] constexpr index_t cols_of(index_t extent) const noexcept { return covered(cols, extent); }

  friend constexpr bool operator==(scale_block const&, scale_block const&) = default;

private:
  /// At least 1, and no more than there is, so that block positions never overflow.
  [[nodiscard]] static constexpr index_t covered(index_t size, index_t extent) noexcept {
    return std::max<index_t>(size == 0 ? extent : std::min(size, extent), 1);
  }
};

/// One scale for the matrix.
inline constexpr scale_block per_tensor{.rows = 0, .cols = 0};
/// One scale per output channel (row of W).
inline constexpr scale_block per_channel{.rows = 1, .cols = 0};
/// One scale per `size` consecutive input channels of a row.
[[nodiscard]] constexpr scale_block per_group(index_t size) { return {.rows = 1, .cols = size}; }
/// One scale per `size` consecutive rows of a column: SLiM's code with column_wise_grouping off, and how adapters are grouped
/// along the dimension that is summed over.
[[nodiscard]] constexpr scale_block per_column_group(index_t size) { return {.rows = size, .cols = 1}; }

/// The block in words, for reports.
[[nodiscard]] inline std::string describe(scale_block block) {
  if (block == per_tensor) return "per tensor";
  if (block == per_channel) return "per channel";
  if (block.rows == 1) return message("per group of ", block.cols);
  if (block.cols == 1) return message("per column group of ", block.rows);
  return message("per block of ", block.rows, " x ", block.cols);
}

namespace detail {
/// Blocks of `size` that cover `extent`.
[[nodiscard]] constexpr index_t blocks_of(index_t extent, index_t size) noexcept { return (extent + size - 1) / size; }
} // namespace detail

} // namespace SLIM_ABI
} // namespace slim
