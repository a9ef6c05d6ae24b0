#pragma once
/// @file
/// `with_outliers<Codes>`: any codes, and a sparse residual beside them for the weights that the grid serves worst (SpQR, arXiv
/// 2306.03078; SqueezeLLM, arXiv 2306.07629). The residual belongs to the decoded value: w = decoded + residual, so that
/// nothing is counted twice, whatever the grid made of an outlier.

#include "slim/core/scalar.hpp"
#include "slim/quantization/quantized_matrix.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Rows of (column, number) pairs: entry k of row i is `columns[k]`, `values[k]` for row_begin[i] <= k < row_begin[i + 1].
struct sparse_residual {
  std::vector<index_t> row_begin; ///< rows + 1 numbers, from 0 upwards
  std::vector<std::int32_t> columns;
  std::vector<float> values; ///< numbers of the format
  number_format format = number_format::fp16;

  [[nodiscard]] index_t count() const noexcept { return std::ssize(values); }
  /// A row's first position as 32 bits; a column as 16 bits (32 above 65,536 columns), a number in its format. Nothing where
  /// there is no entry at all.
  [[nodiscard]] double stored_bits(index_t cols) const noexcept {
    if (count() == 0) return 0.0;
    return 32.0 * static_cast<double>(row_begin.size()) +
           static_cast<double>(count()) * ((cols > 65536 ? 32 : 16) + bit_width(format));
  }

  friend bool operator==(sparse_residual const&, sparse_residual const&) = default;
};

/// Codes with a sparse residual to their decoded values.
template <quantized_matrix Codes>
struct with_outliers {
  Codes base;
  sparse_residual outliers;

  [[nodiscard]] index_t rows() const noexcept { return base.rows(); }
  [[nodiscard]] index_t cols() const noexcept { return base.cols(); }
  [[nodiscard]] double stored_bits(mask const* kept = nullptr) const {
    check("stored_bits");
    return base.stored_bits(kept) + outliers.stored_bits(cols());
  }

  friend bool operator==(with_outliers const&, with_outliers const&) = default;

  /// Whether a pruned weight can be stored as a code.
  [[nodiscard]] bool has_zero() const noexcept {
    if constexpr (requires { base.has_zero(); })
      return base.has_zero();
    else
      return false;
  }

  /// @throws shape_error, config_error unless the residual fits the codes.
  void check(std::string_view who) const {
    if constexpr (requires { base.check(who); }) base.check(who);
    if (std::ssize(outliers.row_begin) != rows() + 1 || outliers.columns.size() != outliers.values.size() ||
        outliers.row_begin.front() != 0 || outliers.row_begin.back() != outliers.count())
      throw shape_error(message(who, ": ", outliers.count(), " outliers with ", outliers.columns.size(), " columns and ",
                                outliers.row_begin.size(), " row positions for ", rows(), " rows"));
    for (index_t i = 0; i < rows(); ++i)
      if (outliers.row_begin[static_cast<std::size_t>(i)] > outliers.row_begin[static_cast<std::size_t>(i + 1)])
        throw config_error(message(who, ": the outliers of row ", i, " end before they begin"));
    for (std::int32_t const column : outliers.columns)
      if (column < 0 || column >= cols()) throw config_error(message(who, ": an outlier in column ", column, " of ", cols()));
  }

  /// @throws shape_error, config_error
  void dequantize_into(matrix_view<float> out, context const& ctx = {}) const {
    check("dequantize_into");
    base.dequantize_into(out, ctx);
    for (index_t i = 0; i < rows(); ++i)
      for (index_t k = outliers.row_begin[static_cast<std::size_t>(i)]; k < outliers.row_begin[static_cast<std::size_t>(i + 1)];
           ++k)
        out(i, outliers.columns[static_cast<std::size_t>(k)]) += outliers.values[static_cast<std::size_t>(k)];
  }
};

/// Codes whose weights in `where` also keep the rest, w - decoded, as numbers of the format, at most its largest. W (d_out x
/// d_in) is what the codes stand for. @throws shape_error
template <quantized_matrix Codes>
[[nodiscard]] with_outliers<Codes> keep_outliers(Codes codes, matrix_view<float const> w, mask const& where,
                                                 number_format format = number_format::fp16, context const& ctx = {}) {
  index_t const rows = codes.rows(), cols = codes.cols();
  detail::require_shape(rows, cols, w.rows(), w.cols(), "keep_outliers");
  detail::require_shape(rows, cols, where.rows(), where.cols(), "keep_outliers");
  float const largest = largest_number(format);
  matrix<float> decoded(rows, cols);
  codes.dequantize_into(decoded.view(), ctx);
  with_outliers<Codes> out{std::move(codes), {.row_begin = {0}, .columns = {}, .values = {}, .format = format}};
  for (index_t i = 0; i < rows; ++i) {
    for (index_t j = 0; j < cols; ++j) {
      if (!where.kept(i, j)) continue;
      out.outliers.columns.push_back(static_cast<std::int32_t>(j));
      out.outliers.values.push_back(rounded_to(format, std::clamp(w(i, j) - decoded(i, j), -largest, largest)));
    }
    out.outliers.row_begin.push_back(out.outliers.count());
  }
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
