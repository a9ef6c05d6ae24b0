#include "slim/core/matrix.hpp"

#include <catch2/catch.hpp>

#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

using slim::index_t;
using slim::matrix;
using slim::matrix_view;
using slim::row_major;
using slim::strided;

namespace {

constexpr index_t largest = std::numeric_limits<index_t>::max();

std::vector<int> counting(int n) {
  std::vector<int> values(static_cast<std::size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

} // namespace

TEST_CASE("a view shows the element at i * row_stride + j * col_stride") {
  auto values = counting(24);
  SECTION("dense rows") {
    matrix_view<int> const view(values.data(), 4, 6);
    for (index_t i = 0; i < 4; ++i)
      for (index_t j = 0; j < 6; ++j) CHECK(view(i, j) == 6 * i + j);
    CHECK(view.row(2) == values.data() + 12);
  }
  SECTION("rows with a gap") {
    matrix_view<int> const view(values.data(), 3, 5, 8);
    CHECK(view(2, 4) == 20);
    CHECK(view.row(1)[4] == 12);
    CHECK(view.size() == 15);
  }
  SECTION("column-major") {
    matrix_view<int, strided> const view(values.data(), 4, 6, 1, 4);
    CHECK(view(3, 0) == 3);
    CHECK(view(0, 1) == 4);
    CHECK(view(3, 5) == 23);
  }
  SECTION("strides may be negative: a matrix upside down and mirrored") {
    matrix_view<int, strided> const view(values.data() + 23, 4, 6, -6, -1);
    CHECK(view(0, 0) == 23);
    CHECK(view(3, 5) == 0);
    CHECK(view(1, 2) == 15);
  }
  SECTION("a stride of zero repeats an element") {
    matrix_view<int, strided> const view(values.data(), 4, 6, 0, 1);
    CHECK(view(3, 5) == 5);
  }
}

TEST_CASE("writing through a view writes the owner's element") {
  auto values = counting(6);
  matrix_view<int> const view(values.data(), 2, 3);
  view(1, 2) = 50;
  slim::transposed(view)(0, 1) = 30;
  CHECK(values == std::vector<int>{0, 1, 2, 30, 4, 50});
}

TEST_CASE("a view converts to reading and to strided, never back") {
  STATIC_REQUIRE(std::is_convertible_v<matrix_view<float>, matrix_view<float const>>);
  STATIC_REQUIRE(std::is_convertible_v<matrix_view<float>, matrix_view<float, strided>>);
  STATIC_REQUIRE(std::is_convertible_v<matrix_view<float>, matrix_view<float const, strided>>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<matrix_view<float>, matrix_view<float const>>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<matrix_view<float>, matrix_view<float, strided>>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<matrix_view<double>, matrix_view<float>>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<matrix_view<double const>, matrix_view<float const>>);
  STATIC_REQUIRE(std::is_trivially_copyable_v<matrix_view<float>>);
  STATIC_REQUIRE(std::is_trivially_copyable_v<matrix_view<float, strided>>);
}

TEST_CASE("a view of nothing is empty and has no elements") {
  matrix_view<float> const none;
  CHECK(none.empty());
  CHECK(none.size() == 0);
  CHECK(none.data() == nullptr);
  CHECK(matrix_view<float>(nullptr, 0, 7).empty());
  CHECK(matrix_view<float>(nullptr, 7, 0).empty());
  CHECK(matrix_view<float>(nullptr, 7, 0).rows() == 7);
}

TEST_CASE("impossible views are refused") {
  int value = 0;
  CHECK_THROWS_AS(matrix_view<int>(&value, -1, 2), slim::shape_error);
  CHECK_THROWS_AS(matrix_view<int>(&value, 2, -1), slim::shape_error);
  CHECK_THROWS_WITH(matrix_view<int>(&value, 3, 2, 1, 3), Catch::Contains("stride is 3"));
  CHECK_NOTHROW(matrix_view<int>(&value, 3, 1, 1, 3)); // one column: its stride is never used
  CHECK_NOTHROW(matrix_view<int, strided>(&value, 3, 2, 1, 3));
}

TEST_CASE("a block is the part of the matrix at its corner") {
  auto values = counting(24);
  matrix_view<int> const view(values.data(), 4, 6);
  auto const part = view.block(1, 2, 2, 3);
  CHECK(part.rows() == 2);
  CHECK(part.cols() == 3);
  CHECK(part(0, 0) == 8);
  CHECK(part(1, 2) == 16);
  CHECK(part.block(1, 1, 1, 1)(0, 0) == 15);
  CHECK(view.middle_rows(3, 1)(0, 5) == 23);
  CHECK(slim::transposed(view).block(2, 1, 3, 2)(2, 1) == 16);
}

TEST_CASE("blocks may be empty, also at the far edges") {
  auto values = counting(24);
  matrix_view<int> const view(values.data(), 4, 6);
  CHECK(view.block(4, 6, 0, 0).empty());
  CHECK(view.block(4, 0, 0, 6).cols() == 6);
  CHECK(view.middle_rows(4, 0).rows() == 0);
  CHECK(matrix_view<int>().block(0, 0, 0, 0).empty());
}

TEST_CASE("a block that does not lie inside is refused, whatever the numbers") {
  auto values = counting(24);
  matrix_view<int> const view(values.data(), 4, 6);
  CHECK_THROWS_AS(view.block(-1, 0, 1, 1), slim::shape_error);
  CHECK_THROWS_AS(view.block(0, -1, 1, 1), slim::shape_error);
  CHECK_THROWS_AS(view.block(0, 0, -1, 1), slim::shape_error);
  CHECK_THROWS_AS(view.block(0, 0, 1, -1), slim::shape_error);
  CHECK_THROWS_AS(view.block(3, 0, 2, 1), slim::shape_error);
  CHECK_THROWS_AS(view.block(0, 6, 1, 1), slim::shape_error);
  CHECK_THROWS_AS(view.block(1, 0, largest, 1), slim::shape_error); // i + rows would overflow
  CHECK_THROWS_AS(view.block(0, largest, 1, largest), slim::shape_error);
  CHECK_THROWS_AS(view.middle_rows(largest, 1), slim::shape_error);
}

TEST_CASE("transposing swaps indices, and twice gives the same view") {
  auto values = counting(6);
  matrix_view<int> const view(values.data(), 2, 3);
  auto const turned = slim::transposed(view);
  REQUIRE(turned.rows() == 3);
  REQUIRE(turned.cols() == 2);
  for (index_t i = 0; i < 2; ++i)
    for (index_t j = 0; j < 3; ++j) {
      CHECK(turned(j, i) == view(i, j));
      CHECK(slim::transposed(turned)(i, j) == view(i, j));
    }
}

TEST_CASE("a matrix starts at zero and owns its rows") {
  matrix<float> const m(3, 4);
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 4; ++j) CHECK(m(i, j) == 0.0f);
  CHECK(m.size() == 12);
  CHECK(m.row(2) == m.data() + 8);
}

TEST_CASE("copies of a matrix are independent, and equal until one changes") {
  matrix<int> a(2, 2);
  auto b = a;
  CHECK(a == b);
  b(0, 1) = 1;
  CHECK_FALSE(a == b);
  CHECK(a(0, 1) == 0);
  CHECK_FALSE(matrix<int>(1, 4) == matrix<int>(2, 2)); // the same elements in another shape
}

TEST_CASE("a matrix copies any view, converting the elements") {
  std::vector<double> values{1, 2, 3, 4, 5, 6};
  matrix<float> const copy(matrix_view<double, strided>(values.data(), 3, 2, 1, 3));
  REQUIRE(copy.rows() == 3);
  CHECK(copy(0, 1) == 4.0f);
  CHECK(copy(2, 0) == 3.0f);
}

TEST_CASE("extents that cannot be are refused with a sentence") {
  CHECK_THROWS_AS(matrix<float>(-1, 2), slim::shape_error);
  CHECK_THROWS_AS(matrix<float>(2, -1), slim::shape_error);
  CHECK_THROWS_WITH(matrix<float>(largest, 2), Catch::Contains("do not fit"));
  CHECK_THROWS_WITH(matrix<float>(largest / 4, 2), Catch::Contains("do not fit"));
  CHECK_THROWS_WITH(matrix<double>(1, largest), Catch::Contains("do not fit"));
  CHECK(matrix<float>(largest, 0).empty());
  CHECK(matrix<float>(0, largest).empty());
}
