#pragma once
/// @file
/// Layers that read the same input (q, k, v; gate, up) as one matrix: compressed together they share what belongs to the input,
/// a scaling of its channels and the factor of a low-rank branch that reads it (SVDQuant, arXiv 2411.05007).

#include "slim/adapters/adapter.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <span>

namespace slim {
inline namespace SLIM_ABI {

/// The rows of all parts (d_out_k x d_in each), one part below the other. @throws shape_error if their d_in differ
[[nodiscard]] inline matrix<float> stack_rows(std::span<matrix_view<float const> const> parts) {
  index_t rows = 0;
  for (auto const& part : parts) {
    if (part.cols() != parts.front().cols())
      throw shape_error(message("stack_rows: parts of ", parts.front().cols(), " and ", part.cols(), " columns"));
    rows += part.rows();
  }
  matrix<float> all(rows, parts.empty() ? 0 : parts.front().cols());
  index_t first = 0;
  for (auto const& part : parts)
    for (index_t i = 0; i < part.rows(); ++i) std::copy_n(part.row(i), part.cols(), all.row(first++));
  return all;
}

namespace detail {

/// @throws shape_error unless the parts' rows are all there are. `who` begins the message.
inline void check_split(std::span<index_t const> rows, index_t all, char const* who) {
  index_t sum = 0;
  for (index_t const count : rows) {
    if (count < 0) throw shape_error(message(who, ": a part of ", count, " rows"));
    sum += count;
  }
  if (sum != all) throw shape_error(message(who, ": parts of ", sum, " rows in all, there are ", all));
}

/// Rows [first, first + count) of a matrix.
template <class T>
[[nodiscard]] matrix<T> rows_of(matrix<T> const& m, index_t first, index_t count) {
  matrix<T> out(count, m.cols());
  for (index_t i = 0; i < count; ++i) std::copy_n(m.row(first + i), m.cols(), out.row(i));
  return out;
}

} // namespace detail

/// Codes of the parts, `rows[k]` rows each, of codes of a stacked matrix; their values are the stacked ones, row by row. A
/// scale of all rows goes to every part. @throws shape_error unless the parts are all rows; config_error if a scale of several
/// rows lies in two parts, or scales have a second level over several rows.
[[nodiscard]] inline std::vector<integer_codes> split_rows(integer_codes const& stacked, std::span<index_t const> rows) {
  stacked.check("split_rows");
  detail::check_split(rows, stacked.rows(), "split_rows");
  index_t const tall = stacked.block.rows; // 0: all rows
  auto const refuse_second = [](scale_table const& table) {
    if (table.has_second_level() && table.stored().block.rows != 1)
      throw config_error("split_rows: scales have a second level over several rows");
  };
  refuse_second(stacked.scales);
  refuse_second(stacked.offsets);
  std::vector<integer_codes> parts;
  index_t first = 0;
  for (index_t const count : rows) {
    if (tall > 1 && first % tall != 0)
      throw config_error(message("split_rows: a part begins at row ", first, ", inside a scale of ", tall, " rows"));
    index_t const block = tall == 0 ? 0 : first / tall,
                  blocks = tall == 0 ? std::min<index_t>(count, 1) : detail::blocks_of(count, tall);
    auto const table = [&](scale_table const& of) {
      if (of.empty()) return scale_table(0, 0, of.stored());
      scale_table out(blocks, of.cols(), of.stored());
      if (of.has_second_level()) {
        out.set_second_level(detail::rows_of(of.codes(), block, blocks), detail::rows_of(of.steps(), block, blocks),
                             of.stored().shifted ? detail::rows_of(of.offsets(), block, blocks) : matrix<float>());
        return out;
      }
      for (index_t i = 0; i < blocks; ++i) std::copy_n(of.row(block + i), of.cols(), out.row(i));
      return out;
    };
    integer_codes part = stacked;
    part.codes = detail::rows_of(stacked.codes, first, count);
    part.scales = table(stacked.scales);
    part.offsets = table(stacked.offsets);
    if (!stacked.zeros.empty()) part.zeros = detail::rows_of(stacked.zeros, block, blocks);
    parts.push_back(std::move(part));
    first += count;
  }
  return parts;
}

/// Adapters of the parts: all have the stacked one's left factor, each its columns of the right one. A right factor with
/// codes is refused. @throws shape_error, config_error
[[nodiscard]] inline std::vector<adapter> split_rows(adapter const& stacked, std::span<index_t const> rows) {
  detail::check_split(rows, stacked.right.cols(), "split_rows");
  if (stacked.right_codes) throw config_error("split_rows: the right factor of the adapter has codes");
  std::vector<adapter> parts;
  index_t first = 0;
  for (index_t const count : rows) {
    adapter part = stacked;
    part.right = matrix<float>(stacked.right.view().block(0, first, stacked.rank(), count));
    parts.push_back(std::move(part));
    first += count;
  }
  return parts;
}

} // namespace SLIM_ABI
} // namespace slim
