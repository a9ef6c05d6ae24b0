#pragma once
/// @file
/// `unpack`: packed bytes of any format.

#include "slim/packing/csr_codes.hpp"
#include "slim/packing/dense_codes.hpp"
#include "slim/packing/nm_bitmask.hpp"
#include "slim/packing/part_bytes.hpp"
#include "slim/packing/residuals.hpp"
#include "slim/packing/row_books.hpp"
#include "slim/packing/second_level.hpp"
#include "slim/packing/sparse24.hpp"

namespace slim {
inline namespace SLIM_ABI {

[[nodiscard]] inline result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                                    context const& ctx = {});

namespace detail {

/// Codes inside other bytes, all of whose weights are kept: of `rows` x `cols`, dense or row_books or second_level, and
/// column_parts if `parts`.
[[nodiscard]] inline result<unpacked_matrix> unpack_inner(std::string_view who, std::span<std::byte const> bytes, index_t rows,
                                                          index_t cols, bool parts, unpack_limit limit, context const& ctx) {
  result<packed_header> const h = read_packed_header(bytes, limit);
  if (!h) return failure{message(who, ": ", h.why())};
  bool const possible = h->kind == packed_kind::dense_codes || h->kind == packed_kind::row_books ||
                        h->kind == packed_kind::second_level || (parts && h->kind == packed_kind::column_parts);
  if (!possible || h->rows != rows || (cols >= 0 && h->cols != cols))
    return failure{message(who, ": ", h->rows, " x ", h->cols, " ", name_of(h->kind), " inside a matrix of ", rows,
                           " rows: other codes or another shape are needed")};
  auto inner = slim::unpack(bytes, limit, ctx);
  if (!inner) return failure{message(who, ": ", inner.why())};
  return inner;
}

[[nodiscard]] inline result<unpacked_matrix> unpack_residuals(std::span<std::byte const> bytes, unpack_limit limit,
                                                              context const& ctx) {
  auto found = residuals::unpack(bytes, limit);
  if (!found) return failure{found.why()};
  auto const header = read_packed_header(bytes, limit);
  auto inner = unpack_inner("residuals", bytes.subspan(found->second), header->rows, header->cols, true, limit, ctx);
  if (!inner) return inner;
  return unpacked_matrix{std::move(inner->mask),
                         any_codes(with_outliers<any_codes>{std::move(inner->codes), std::move(found->first)})};
}

[[nodiscard]] inline result<unpacked_matrix> unpack_parts(std::span<std::byte const> bytes, unpack_limit limit,
                                                          context const& ctx) {
  auto found = part_bytes::unpack(bytes, limit);
  if (!found) return failure{found.why()};
  column_parts out{.order = std::move(found->order), .parts = {}};
  index_t cols = 0;
  for (auto const part : found->parts) {
    auto inner = unpack_inner("column_parts", part, found->rows, -1, false, limit, ctx);
    if (!inner) return inner;
    cols += inner->cols();
    if (inner->cols() < 1 || cols > out.cols())
      return failure{message("column_parts: parts of ", cols, " columns and more, the order has ", out.cols())};
    out.parts.push_back(std::move(inner->codes));
  }
  if (cols != out.cols()) return failure{message("column_parts: parts of ", cols, " columns, the order has ", out.cols())};
  std::vector<char> seen(out.order.size(), 0);
  for (std::int32_t const j : out.order)
    if (j >= cols || std::exchange(seen[static_cast<std::size_t>(j)], char{1}))
      return failure{message("column_parts: the order names column ", j, " of ", cols, ", each belongs there once")};
  return unpacked_matrix{all_kept(found->rows, cols), any_codes(std::move(out))};
}

} // namespace detail

/// Reads the kind from the header and unpacks. Formats of version 2 keep all weights; residuals give with_outliers<any_codes>.
inline result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit, context const& ctx) {
  result<packed_header> const header = read_packed_header(bytes, limit);
  if (!header) return failure{header.why()};
  switch (header->kind) {
  case packed_kind::dense_codes: return dense_codes::unpack(bytes, limit, ctx);
  case packed_kind::sparse24: return sparse24::unpack(bytes, limit, ctx);
  case packed_kind::nm_bitmask: return nm_bitmask::unpack(bytes, limit, ctx);
  case packed_kind::csr_codes: return csr_codes::unpack(bytes, limit, ctx);
  case packed_kind::residuals: return detail::unpack_residuals(bytes, limit, ctx);
  case packed_kind::row_books: return row_books::unpack(bytes, limit, ctx);
  case packed_kind::second_level: return second_level::unpack(bytes, limit, ctx);
  case packed_kind::column_parts: return detail::unpack_parts(bytes, limit, ctx);
  }
  return failure{"packed matrix: unknown kind"};
}

} // namespace SLIM_ABI
} // namespace slim
