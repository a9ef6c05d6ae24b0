#pragma once
/// @file
/// `matrix<T>`: the storage of results. Dense rows, value semantics, zero-initialised unless asked otherwise.

#include "slim/core/large_pages.hpp"
#include "slim/core/matrix_view.hpp"

#include <limits>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Asks a matrix to leave its elements as the memory has them: for those who write every element next.
struct uninitialized_t {};
/// For `matrix(rows, cols, uninitialized)`.
inline constexpr uninitialized_t uninitialized{};

/// Owns a row-major `rows x cols` matrix. Converts implicitly to the views of its elements.
template <class T>
class matrix {
public:
  using value_type = T;

  matrix() = default;
  // Not inlined: what allocates takes longer than a call, and a matrix is a member of most results, whose destructors stand at
  // the end of every function and on every path out of it.
  [[gnu::noinline]] matrix(matrix const&) = default;
  matrix(matrix&&) noexcept = default;
  [[gnu::noinline]] matrix& operator=(matrix const&) = default;
  matrix& operator=(matrix&&) noexcept = default;
  [[gnu::noinline]] ~matrix() = default;

  /// All elements zero. @throws shape_error on a negative extent or one whose product overflows.
  [[gnu::noinline]] matrix(index_t rows, index_t cols) : data_(checked_size(rows, cols), T{}), rows_(rows), cols_(cols) {}

  /// Elements of no value. @throws as above
  [[gnu::noinline]] matrix(index_t rows, index_t cols, uninitialized_t)
      : data_(checked_size(rows, cols)), rows_(rows), cols_(cols) {}

  /// A copy of what a view shows, element by element.
  template <class U, class Layout>
  [[gnu::noinline]] explicit matrix(matrix_view<U, Layout> view) : matrix(view.rows(), view.cols(), uninitialized) {
    for (index_t i = 0; i < rows_; ++i)
      for (index_t j = 0; j < cols_; ++j) (*this)(i, j) = static_cast<T>(view(i, j));
  }

  [[nodiscard]] index_t rows() const noexcept { return rows_; }
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] index_t size() const noexcept { return rows_ * cols_; }
  [[nodiscard]] bool empty() const noexcept { return data_.empty(); }
  [[nodiscard]] T* data() noexcept { return data_.data(); }
  [[nodiscard]] T const* data() const noexcept { return data_.data(); }
  [[nodiscard]] T* row(index_t i) noexcept { return data() + i * cols_; }
  [[nodiscard]] T const* row(index_t i) const noexcept { return data() + i * cols_; }
  [[nodiscard]] T& operator()(index_t i, index_t j) noexcept { return data()[i * cols_ + j]; }
  [[nodiscard]] T const& operator()(index_t i, index_t j) const noexcept { return data()[i * cols_ + j]; }

  [[nodiscard]] matrix_view<T> view() noexcept { return {data(), rows_, cols_}; }
  [[nodiscard]] matrix_view<T const> view() const noexcept { return {data(), rows_, cols_}; }
  operator matrix_view<T>() noexcept { return view(); }
  operator matrix_view<T const>() const noexcept { return view(); }

  friend bool operator==(matrix const&, matrix const&) = default;

private:
  static std::size_t checked_size(index_t rows, index_t cols) {
    if (rows < 0 || cols < 0) throw shape_error(message("matrix: negative extent ", rows, " x ", cols));
    if (cols != 0 && rows > std::numeric_limits<index_t>::max() / cols / static_cast<index_t>(sizeof(T)))
      throw shape_error(message("matrix: ", rows, " x ", cols, " elements do not fit into memory"));
    return static_cast<std::size_t>(rows * cols);
  }

  std::vector<T, large_page_allocator<T>> data_;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

} // namespace SLIM_ABI
} // namespace slim
