#include "slim/core/matrix_traits.hpp"
#include "slim/core/scalar.hpp"

#include <Eigen/Core>
#include <Eigen/SparseCore>
#include <catch2/catch.hpp>

#include <array>
#include <complex>
#include <version>
#if defined(__cpp_lib_mdspan)
#include <mdspan>
#endif
#include <string>
#include <vector>

using slim::index_t;

namespace {

/// A user's matrix that looks like nothing the library knows.
struct image {
  std::vector<float> pixels;
  int height, width;
};

/// A user's class with Eigen-like members that mean something else: the trait must win.
struct impostor {
  static constexpr bool IsRowMajor = true;
  float value = 1;
  float* data() { return &value; }
  int rows() const { return 99; }
  int cols() const { return 99; }
  int innerStride() const { return 1; }
  int outerStride() const { return 99; }
};

/// The members of std::mdspan (C++23, [mdspan.mdspan.overview]) that matter, of any rank: data_handle returns a reference to
/// const. Compilers here have no <mdspan>; where there is one, it is tested below, too.
template <class T, std::size_t Rank, class Reference = T&>
struct mdspan_like {
  using reference = Reference;
  T* pointer;
  std::array<std::size_t, Rank> extents, strides;

  static constexpr std::size_t rank() noexcept { return Rank; }
  constexpr T* const& data_handle() const noexcept { return pointer; }
  std::size_t extent(std::size_t k) const { return extents[k]; }
  std::size_t stride(std::size_t k) const { return strides[k]; }
};

} // namespace

template <>
struct slim::matrix_traits<image> {
  static auto view(image const& m) { return slim::matrix_view<float const>(m.pixels.data(), m.height, m.width); }
  static auto view(image& m) { return slim::matrix_view<float>(m.pixels.data(), m.height, m.width); }
};

template <>
struct slim::matrix_traits<impostor> {
  static auto view(impostor& m) { return slim::matrix_view<float>(&m.value, 1, 1); }
};

namespace {

/// Does the view show what `element(i, j)` says?
template <class View, class Element>
bool shows(View const& view, index_t rows, index_t cols, Element const& element) {
  if (view.rows() != rows || view.cols() != cols) return false;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j)
      if (static_cast<float>(view(i, j)) != static_cast<float>(element(i, j))) return false;
  return true;
}

/// An Eigen object and its view agree element by element; a writable view writes through.
template <class Matrix>
bool agrees(Matrix&& m) {
  return shows(slim::as_matrix_view(m), m.rows(), m.cols(), [&](index_t i, index_t j) { return m.coeff(i, j); });
}

using row_major_matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class Matrix>
Matrix numbered(index_t rows, index_t cols) {
  Matrix m(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) m(i, j) = static_cast<typename Matrix::Scalar>(static_cast<float>(100 * i + j));
  return m;
}

} // namespace

TEMPLATE_TEST_CASE("Eigen matrices of either order are seen as they are", "", Eigen::MatrixXf, row_major_matrix,
                   Eigen::MatrixXd, Eigen::ArrayXXf) {
  for (auto const& [rows, cols] : {std::pair<index_t, index_t>{3, 5}, {1, 5}, {5, 1}, {1, 1}, {0, 4}, {4, 0}}) {
    auto m = numbered<TestType>(rows, cols);
    CHECK(agrees(m));
    CHECK(agrees(std::as_const(m)));
  }
  auto m = numbered<TestType>(3, 5);
  slim::as_matrix_view(m)(2, 1) = -1;
  CHECK(m(2, 1) == -1);
}

TEST_CASE("parts of Eigen matrices without a copy: blocks, rows, columns, transposes, diagonals, vectors") {
  auto a = numbered<Eigen::MatrixXf>(6, 7);
  auto b = numbered<row_major_matrix>(6, 7);
  auto block = a.block(1, 2, 3, 4);
  auto block_by_rows = b.block(1, 2, 3, 4);
  auto inner_block = block.block(1, 1, 2, 2);
  auto row = a.row(3);
  auto row_of_rows = b.row(3);
  auto column = a.col(3);
  auto column_of_rows = b.col(3);
  auto turned = a.transpose();
  auto turned_block = block.transpose();
  auto diagonal = a.diagonal();
  CHECK(agrees(block));
  CHECK(agrees(block_by_rows));
  CHECK(agrees(inner_block));
  CHECK(agrees(row));
  CHECK(agrees(row_of_rows));
  CHECK(agrees(column));
  CHECK(agrees(column_of_rows));
  CHECK(agrees(turned));
  CHECK(agrees(turned_block));
  CHECK(agrees(diagonal));
  Eigen::VectorXf v = Eigen::VectorXf::LinSpaced(5, 0, 4);
  Eigen::RowVectorXf w = v;
  CHECK(agrees(v));
  CHECK(agrees(w));
  Eigen::Matrix<float, 2, 3> const fixed = Eigen::Matrix<float, 2, 3>::Random();
  CHECK(agrees(fixed));
}

TEST_CASE("Eigen maps and references, strides included") {
  std::vector<float> values(60);
  for (std::size_t k = 0; k < values.size(); ++k) values[k] = static_cast<float>(k);
  Eigen::Map<Eigen::MatrixXf> map(values.data(), 5, 6);
  Eigen::Map<row_major_matrix const> by_rows(values.data(), 5, 6);
  Eigen::Map<Eigen::MatrixXf, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> gaps(
      values.data(), 3, 4, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(14, 2));
  Eigen::Map<row_major_matrix, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> gaps_by_rows(
      values.data(), 3, 4, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(14, 2));
  Eigen::Ref<Eigen::MatrixXf> const reference = map.topRows(2);
  CHECK(agrees(map));
  CHECK(agrees(by_rows));
  CHECK(agrees(gaps));
  CHECK(agrees(gaps_by_rows));
  CHECK(agrees(reference));
  STATIC_REQUIRE(std::is_same_v<decltype(slim::as_matrix_view(by_rows).data()), float const*>);
  STATIC_REQUIRE(std::is_same_v<decltype(slim::as_matrix_view(map).data()), float*>);
}

TEST_CASE("16-bit storage enters as float") {
  auto const halves = numbered<Eigen::Matrix<Eigen::half, Eigen::Dynamic, Eigen::Dynamic>>(2, 3);
  CHECK(slim::to_float(halves)(1, 2) == 102.0f);
  std::vector<slim::bf16> brains{slim::bf16(1.0f), slim::bf16(2.0f)};
  slim::matrix_view<slim::bf16 const> const view(brains.data(), 1, 2);
  CHECK(slim::to_float(view)(0, 1) == 2.0f);
}

TEST_CASE("mdspan-like types of rank 2 are matrices, of any layout, as lvalue or temporary") {
  std::vector<float> values{0, 1, 2, 3, 4, 5};
  mdspan_like<float, 2> const by_rows{values.data(), {2, 3}, {3, 1}};
  mdspan_like<float const, 2> by_columns{values.data(), {2, 3}, {1, 2}};
  CHECK(shows(slim::as_matrix_view(by_rows), 2, 3, [](index_t i, index_t j) { return 3 * i + j; }));
  CHECK(shows(slim::as_matrix_view(by_columns), 2, 3, [](index_t i, index_t j) { return i + 2 * j; }));
  CHECK(slim::as_matrix_view(mdspan_like<float, 2>{values.data(), {2, 3}, {3, 1}})(1, 1) == 4.0f); // it owns nothing
  STATIC_REQUIRE_FALSE(slim::matrix_like<mdspan_like<float, 1>>);
  STATIC_REQUIRE_FALSE(slim::matrix_like<mdspan_like<float, 3>>);
  STATIC_REQUIRE_FALSE(slim::matrix_like<mdspan_like<float, 2, float>>); // an accessor that computes, as that of a scaled span
}

#if defined(__cpp_lib_mdspan)
TEST_CASE("std::mdspan is a matrix") {
  std::vector<float> values{0, 1, 2, 3, 4, 5};
  std::mdspan<float, std::dextents<int, 2>> const by_rows(values.data(), 2, 3);
  std::mdspan<float const, std::extents<int, 2, 3>, std::layout_left> by_columns(values.data());
  CHECK(shows(slim::as_matrix_view(by_rows), 2, 3, [](index_t i, index_t j) { return 3 * i + j; }));
  CHECK(shows(slim::as_matrix_view(by_columns), 2, 3, [](index_t i, index_t j) { return i + 2 * j; }));
}
#endif

TEST_CASE("complex numbers are no matrix of real ones") {
  STATIC_REQUIRE_FALSE(slim::matrix_like<Eigen::MatrixXcf>);
  STATIC_REQUIRE_FALSE(slim::matrix_like<mdspan_like<std::complex<double>, 2>>);
}

TEST_CASE("rows of floats are read where they are, everything else is copied") {
  slim::matrix<float> const m(2, 3);
  CHECK(slim::detail::float_rows<slim::matrix<float>>(m).view().data() == m.data());
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> const rows =
      Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>::Random(4, 5);
  auto const block = rows.block(1, 2, 2, 3);
  CHECK(slim::detail::float_rows<std::remove_const_t<decltype(block)>>(block).view().row_stride() == 5);
  CHECK(slim::detail::float_rows<std::remove_const_t<decltype(block)>>(block).view()(1, 2) == rows(2, 4));
  Eigen::MatrixXf const columns = rows;
  slim::detail::float_rows<Eigen::MatrixXf> const copied(columns);
  CHECK(copied.view().data() != columns.data());
  CHECK(shows(copied.view(), 4, 5, [&](index_t i, index_t j) { return columns(i, j); }));
}

TEST_CASE("one specialisation lets a user's own type in") {
  image picture{{1, 2, 3, 4, 5, 6}, 2, 3};
  CHECK(slim::as_matrix_view(picture)(1, 0) == 4.0f);
  CHECK(slim::to_float(picture)(0, 2) == 3.0f);
  slim::as_matrix_view(picture)(1, 0) = 40;
  CHECK(picture.pixels[3] == 40.0f);
  STATIC_REQUIRE(std::is_same_v<decltype(slim::as_matrix_view(std::as_const(picture)).data()), float const*>);
  STATIC_REQUIRE(std::is_same_v<slim::matrix_value_t<image>, float>);
}

TEST_CASE("a specialisation wins over what a type looks like") {
  impostor m;
  CHECK(slim::as_matrix_view(m).rows() == 1);
}

TEST_CASE("the library's own matrices and views pass through") {
  slim::matrix<float> m(2, 3);
  m(1, 2) = 7;
  CHECK(slim::as_matrix_view(m)(1, 2) == 7.0f);
  CHECK(slim::as_matrix_view(std::as_const(m)).data() == m.data());
  CHECK(slim::as_matrix_view(slim::transposed(m.view()))(2, 1) == 7.0f); // a view is no owner: temporaries are fine
  STATIC_REQUIRE(std::is_same_v<decltype(slim::as_matrix_view(m)), slim::matrix_view<float>>);
}

TEST_CASE("to_float copies: later changes of the source do not show") {
  auto a = numbered<Eigen::MatrixXd>(2, 2);
  auto const copy = slim::to_float(a);
  a(1, 1) = 0;
  CHECK(copy(1, 1) == 101.0f);
}

TEST_CASE("what is no matrix is not taken for one") {
  using sum = decltype(std::declval<Eigen::MatrixXf const&>() + std::declval<Eigen::MatrixXf const&>());
  using product = decltype(std::declval<Eigen::MatrixXf const&>() * std::declval<Eigen::MatrixXf const&>());
  STATIC_REQUIRE_FALSE(slim::matrix_like<sum>);
  STATIC_REQUIRE_FALSE(slim::matrix_like<product>);
  STATIC_REQUIRE_FALSE(slim::matrix_like<Eigen::SparseMatrix<float>>);
  STATIC_REQUIRE_FALSE(slim::matrix_like<std::vector<float>>);
  STATIC_REQUIRE_FALSE(slim::matrix_like<std::string>);
  STATIC_REQUIRE_FALSE(slim::matrix_like<float>);
  STATIC_REQUIRE_FALSE(slim::matrix_like<float*>);
  STATIC_REQUIRE_FALSE(slim::matrix_like<std::vector<std::vector<float>>>);
}
