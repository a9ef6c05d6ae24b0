#pragma once
/// @file
/// `column_parts`: a matrix as parts that stand side by side, each with its own columns and its own codes. What groups of
/// unequal bits (SliM-LLM, arXiv 2405.14917; 2/4/16, arXiv 2311.16442) and a permutation of channels (SpQR, arXiv 2306.03078)
/// become where codes are stored and multiplied: parts of one width, and the order of the columns.

#include "slim/quantization/codes/any_codes.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"
#include "slim/quantization/codes/integer_codes.hpp"
#include "slim/quantization/codes/with_outliers.hpp"

#include <numeric>
#include <tuple>
#include <utility>

namespace slim {
inline namespace SLIM_ABI {

/// Codes in parts of some columns each. Column k of the parts, one beside the other, is column order[k] of the matrix.
struct column_parts {
  std::vector<std::int32_t> order; ///< d_in numbers, each column once
  std::vector<any_codes> parts;    ///< of d_out rows each

  [[nodiscard]] index_t rows() const { return parts.empty() ? 0 : parts.front().rows(); }
  [[nodiscard]] index_t cols() const noexcept { return std::ssize(order); }
  /// The parts, and the number of every column in 16 bits (32 above 65,536 columns). A mask of the matrix leaves no codes out:
  /// they stand in another order.
  [[nodiscard]] double stored_bits(mask const* = nullptr) const {
    double total = static_cast<double>(cols()) * (cols() > 65536 ? 32 : 16);
    for (any_codes const& part : parts) total += part.stored_bits(nullptr);
    return total;
  }

  /// @throws shape_error, config_error unless the parts have as many rows and together the columns of the order, each once.
  void check(std::string_view who) const {
    index_t wide = 0;
    for (any_codes const& part : parts) {
      part.check(who);
      if (part.rows() != rows() || part.cols() < 1)
        throw shape_error(message(who, ": a part of ", part.rows(), " x ", part.cols(), " columns beside ", rows(), " rows"));
      wide += part.cols();
    }
    if (wide != cols()) throw shape_error(message(who, ": parts of ", wide, " columns with the order of ", cols()));
    std::vector<char> seen(order.size(), 0);
    for (std::int32_t const j : order)
      if (j < 0 || j >= cols() || std::exchange(seen[static_cast<std::size_t>(j)], char{1}))
        throw config_error(message(who, ": the order of the columns names ", j, " of ", cols(), ", each belongs there once"));
  }

  /// @throws shape_error, config_error
  void dequantize_into(matrix_view<float> out, context const& ctx = {}) const {
    check("dequantize_into");
    detail::require_shape(rows(), cols(), out.rows(), out.cols(), "dequantize_into");
    std::int32_t const* at = order.data();
    for (any_codes const& part : parts) {
      matrix<float> values(part.rows(), part.cols());
      part.dequantize_into(values.view(), ctx);
      for (index_t i = 0; i < values.rows(); ++i)
        for (index_t k = 0; k < values.cols(); ++k) out(i, at[k]) = values(i, k);
      at += part.cols();
    }
  }
};

static_assert(quantized_matrix<column_parts>);

namespace detail {

/// Columns [first, first + count) of a table of scales, of blocks of the second level one column wide.
inline void copy_groups(scale_table& to, scale_table const& from, std::vector<index_t> const& groups) {
  auto const columns = [&](auto const& source) {
    auto out = std::remove_cvref_t<decltype(source)>(source.rows(), source.empty() ? 0 : std::ssize(groups));
    for (index_t b = 0; b < out.rows(); ++b)
      for (index_t g = 0; g < out.cols(); ++g) out(b, g) = source(b, groups[static_cast<std::size_t>(g)]);
    return out;
  };
  if (from.has_second_level())
    to.set_second_level(columns(from.codes()), columns(from.steps()), columns(from.offsets()));
  else
    for (index_t b = 0; b < to.rows(); ++b)
      for (index_t g = 0; g < to.cols(); ++g) to(b, g) = from(b, groups[static_cast<std::size_t>(g)]);
}

/// The groups of columns whose codes have so many bits, as codes of their own, and their columns.
[[nodiscard]] inline integer_codes groups_of_bits(integer_codes const& from, int bits, std::vector<std::int32_t>& order) {
  index_t const wide = from.block.cols_of(from.cols());
  std::vector<index_t> groups, columns;
  for (index_t g = 0; g < from.scales.cols(); ++g) {
    if (from.bits_of(g) != bits) continue;
    groups.push_back(g);
    for (index_t j = g * wide; j < std::min(from.cols(), (g + 1) * wide); ++j) columns.push_back(j);
  }
  integer_codes part(from.rows(), std::ssize(columns), bits, {from.block.rows, wide}, from.scales.stored());
  for (index_t i = 0; i < from.rows(); ++i)
    for (std::size_t k = 0; k < columns.size(); ++k) part.codes(i, static_cast<index_t>(k)) = from.codes(i, columns[k]);
  copy_groups(part.scales, from.scales, groups);
  if (!from.zeros.empty()) {
    part.zeros = matrix<std::int8_t>(part.scales.rows(), part.scales.cols());
    for (index_t b = 0; b < part.zeros.rows(); ++b)
      for (index_t g = 0; g < part.zeros.cols(); ++g) part.zeros(b, g) = from.zeros(b, groups[static_cast<std::size_t>(g)]);
  }
  if (!from.offsets.empty()) {
    part.offsets = scale_table(part.scales.rows(), part.scales.cols(), from.offsets.stored());
    copy_groups(part.offsets, from.offsets, groups);
  }
  for (index_t const j : columns) order.push_back(static_cast<std::int32_t>(j));
  return part;
}

/// Codes whose groups have bits of their own, as parts of one width each, narrow ones first. Groups of columns stay whole and
/// in their order. @throws config_error if codes of a second level span groups, or channels have factors.
[[nodiscard]] inline any_codes by_bits(integer_codes const& codes) {
  codes.check("in_parts");
  for (scale_table const* const table : {&codes.scales, &codes.offsets})
    if (table->has_second_level() && table->stored().block.cols != 1)
      throw config_error(message("in_parts: groups of unequal bits share steps of a second level over ",
                                 table->stored().block.cols, " groups; possible is 1"));
  if (!codes.channel_factors.empty())
    throw config_error("in_parts: codes with bits per group and channel factors have no parts");
  column_parts out;
  for (int bits = 1; bits <= 8; ++bits)
    if (std::find(codes.group_bits.begin(), codes.group_bits.end(), bits) != codes.group_bits.end())
      out.parts.emplace_back(groups_of_bits(codes, bits, out.order));
  if (out.parts.empty()) {
    integer_codes even = codes;
    even.group_bits.clear();
    return even;
  }
  return out;
}

/// A residual beside codes; without entries the codes alone.
[[nodiscard]] inline any_codes with_residual(any_codes base, sparse_residual residual) {
  if (residual.count() == 0) return base;
  return with_outliers<any_codes>{std::move(base), std::move(residual)};
}

/// A residual in another order of the columns: column j goes to to[j].
[[nodiscard]] inline sparse_residual moved_columns(sparse_residual const& from, std::vector<index_t> const& to) {
  sparse_residual out = from;
  for (std::size_t i = 0; i + 1 < from.row_begin.size(); ++i) {
    auto const first = static_cast<std::size_t>(from.row_begin[i]), last = static_cast<std::size_t>(from.row_begin[i + 1]);
    std::vector<std::pair<std::int32_t, float>> row;
    for (std::size_t k = first; k < last; ++k)
      row.emplace_back(static_cast<std::int32_t>(to[static_cast<std::size_t>(from.columns[k])]), from.values[k]);
    std::stable_sort(row.begin(), row.end(), [](auto const& a, auto const& b) { return a.first < b.first; });
    for (std::size_t k = first; k < last; ++k) std::tie(out.columns[k], out.values[k]) = row[k - first];
  }
  return out;
}

} // namespace detail

/// Codes as packed formats and kernels hold them: groups of unequal bits as column_parts, a basis that permutes channels as
/// the order of column_parts, outliers (with_outliers<any_codes>) around them; others as they are. The values are the same,
/// bit for bit. @throws shape_error, config_error if they cannot be said so
[[nodiscard]] inline any_codes in_parts(any_codes const& codes) {
  if (auto const* const c = codes.get_if<integer_codes>()) return c->group_bits.empty() ? codes : detail::by_bits(*c);
  if (auto const* const c = codes.get_if<with_outliers<integer_codes>>()) {
    c->check("in_parts");
    return detail::with_residual(in_parts(any_codes(c->base)), c->outliers);
  }
  if (auto const* const c = codes.get_if<with_outliers<codebook_codes>>()) {
    c->check("in_parts");
    return detail::with_residual(any_codes(c->base), c->outliers);
  }
  return codes.own_parts();
}

namespace detail {

/// Codes (as in_parts has them) of a matrix whose column k is column order[k] of another, as codes of that one.
[[nodiscard]] inline any_codes reordered(any_codes const& codes, std::vector<index_t> const& order) {
  if (auto const* const c = codes.get_if<with_outliers<any_codes>>())
    return with_outliers<any_codes>{reordered(c->base, order), moved_columns(c->outliers, order)};
  column_parts out;
  if (auto const* const c = codes.get_if<column_parts>()) {
    out = *c;
  } else if (!order.empty()) {
    out.order.resize(order.size());
    std::iota(out.order.begin(), out.order.end(), 0);
    out.parts.push_back(codes);
  } else {
    return codes;
  }
  for (std::int32_t& j : out.order) j = static_cast<std::int32_t>(order[static_cast<std::size_t>(j)]);
  return out;
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
