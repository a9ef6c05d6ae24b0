#pragma once
/// @file
/// `matrix_view<T, Layout>`: what every algorithm of the library sees of a matrix. A pointer, two extents, strides in
/// elements. It never owns; copying it copies five words.

#include "slim/core/error.hpp"

#include <concepts>
#include <cstddef>
#include <type_traits>

namespace slim {
inline namespace SLIM_ABI {

/// Sizes and positions, signed so that differences are.
using index_t = std::ptrdiff_t;

/// Consecutive columns are neighbours in memory (`col_stride() == 1`); rows may be further apart than `cols()`.
struct row_major {};
/// Any two strides, negative ones included: columns of a column-major matrix, slices, transposes.
struct strided {};

/// View of a `rows x cols` matrix. `T const` for reading. Elements are not bounds-checked.
template <class T, class Layout = row_major>
class matrix_view {
  static constexpr bool is_row_major = std::same_as<Layout, row_major>;

public:
  using value_type = std::remove_const_t<T>;
  using layout = Layout;

  constexpr matrix_view() noexcept = default;

  /// Dense rows: `row_stride == cols`.
  constexpr matrix_view(T* data, index_t rows, index_t cols) : matrix_view(data, rows, cols, cols, 1) {}

  /// Strides are counted in elements. @throws shape_error on a negative extent, or if a row-major view is asked for
  /// with `col_stride != 1` and more than one column.
  constexpr matrix_view(T* data, index_t rows, index_t cols, index_t row_stride, index_t col_stride = 1)
      : data_(data), rows_(rows), cols_(cols), row_stride_(row_stride), col_stride_(is_row_major ? 1 : col_stride) {
    if (rows < 0 || cols < 0) throw shape_error(message("matrix_view: negative extent ", rows, " x ", cols));
    if (is_row_major && col_stride != 1 && cols > 1)
      throw shape_error(message("matrix_view: a row-major view needs neighbouring columns, stride is ", col_stride));
  }

  /// T -> T const, and row_major -> strided. There is no way back but a copy: matrix<T>(view).
  template <class U, class OtherLayout>
    requires(std::same_as<U const, T> || std::same_as<U, T>) &&
                (std::same_as<OtherLayout, Layout> || std::same_as<Layout, strided>)
  constexpr matrix_view(matrix_view<U, OtherLayout> other) noexcept
      : data_(other.data()), rows_(other.rows()), cols_(other.cols()), row_stride_(other.row_stride()),
        col_stride_(other.col_stride()) {}

  [[nodiscard]] constexpr T* data() const noexcept { return data_; }
  [[nodiscard]] constexpr index_t rows() const noexcept { return rows_; }
  [[nodiscard]] constexpr index_t cols() const noexcept { return cols_; }
  [[nodiscard]] constexpr index_t size() const noexcept { return rows_ * cols_; }
  [[nodiscard]] constexpr bool empty() const noexcept { return rows_ == 0 || cols_ == 0; }
  [[nodiscard]] constexpr index_t row_stride() const noexcept { return row_stride_; }
  [[nodiscard]] constexpr index_t col_stride() const noexcept { return col_stride_; }

  [[nodiscard]] constexpr T& operator()(index_t i, index_t j) const noexcept {
    if constexpr (is_row_major)
      return data_[i * row_stride_ + j];
    else
      return data_[i * row_stride_ + j * col_stride_];
  }

  /// Pointer to row i; its `cols()` elements are neighbours.
  [[nodiscard]] constexpr T* row(index_t i) const noexcept
    requires is_row_major
  {
    return data_ + i * row_stride_;
  }

  /// The `rows x cols` part whose upper left corner is (i, j). @throws shape_error if it does not lie inside.
  [[nodiscard]] constexpr matrix_view block(index_t i, index_t j, index_t rows, index_t cols) const {
    if (i < 0 || j < 0 || rows < 0 || cols < 0 || i > rows_ - rows || j > cols_ - cols)
      throw shape_error(message("matrix_view::block: ", rows, " x ", cols, " at (", i, ", ", j, ") of ", rows_, " x ", cols_));
    T* const corner = (rows == 0 || cols == 0) ? data_ : data_ + i * row_stride_ + j * col_stride_;
    return {corner, rows, cols, row_stride_, col_stride_};
  }

  /// Rows i .. i + count - 1.
  [[nodiscard]] constexpr matrix_view middle_rows(index_t i, index_t count) const { return block(i, 0, count, cols_); }

private:
  T* data_ = nullptr;
  index_t rows_ = 0;
  index_t cols_ = 0;
  index_t row_stride_ = 0;
  index_t col_stride_ = 1;
};

/// The transpose: same memory, extents and strides swapped. O(1).
template <class T, class Layout>
[[nodiscard]] constexpr matrix_view<T, strided> transposed(matrix_view<T, Layout> view) {
  return {view.data(), view.cols(), view.rows(), view.col_stride(), view.row_stride()};
}

} // namespace SLIM_ABI
} // namespace slim
