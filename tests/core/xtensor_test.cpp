// xtensor's containers and views enter by their shape; the library includes none of its headers. Skipped where xtensor is
// not installed; both header layouts are known (flat up to 0.25, in folders from 0.26 on).
#include "slim/core/matrix_traits.hpp"

#include <catch2/catch.hpp>

#if __has_include(<xtensor/containers/xarray.hpp>)
#include <xtensor/containers/xadapt.hpp>
#include <xtensor/containers/xarray.hpp>
#include <xtensor/containers/xtensor.hpp>
#include <xtensor/views/xstrided_view.hpp>
#include <xtensor/views/xview.hpp>
#define SLIM_TEST_XTENSOR
#elif __has_include(<xtensor/xarray.hpp>)
#include <xtensor/xadapt.hpp>
#include <xtensor/xarray.hpp>
#include <xtensor/xstrided_view.hpp>
#include <xtensor/xtensor.hpp>
#include <xtensor/xview.hpp>
#define SLIM_TEST_XTENSOR
#endif

#if !defined(SLIM_TEST_XTENSOR)
#include "support/skip.hpp"

TEST_CASE("xtensor containers and views are matrices") { slim_test::skip("xtensor is not installed (libxtensor-dev)"); }
#else
#include <vector>

using slim::index_t;

namespace {

/// The view shows what the xtensor object's own operator() gives.
template <class Tensor>
bool agrees(Tensor&& x) {
  auto const view = slim::as_matrix_view(x);
  if (view.rows() != static_cast<index_t>(x.shape()[0]) || view.cols() != static_cast<index_t>(x.shape()[1])) return false;
  for (index_t i = 0; i < view.rows(); ++i)
    for (index_t j = 0; j < view.cols(); ++j)
      if (view(i, j) != x(static_cast<std::size_t>(i), static_cast<std::size_t>(j))) return false;
  return true;
}

template <class Tensor>
Tensor numbered(std::size_t rows, std::size_t cols) {
  Tensor x = Tensor::from_shape({rows, cols});
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < cols; ++j) x(i, j) = static_cast<float>(100 * i + j);
  return x;
}

} // namespace

TEMPLATE_TEST_CASE("xtensor containers are matrices, in either order, of any extents", "", (xt::xtensor<float, 2>),
                   (xt::xtensor<float, 2, xt::layout_type::column_major>), xt::xarray<float>,
                   (xt::xarray<float, xt::layout_type::column_major>)) {
  for (auto const& [rows, cols] : {std::pair<std::size_t, std::size_t>{4, 6}, {1, 6}, {4, 1}, {1, 1}, {0, 3}, {3, 0}}) {
    auto x = numbered<TestType>(rows, cols);
    INFO(rows << " x " << cols);
    CHECK(agrees(x));
    CHECK(agrees(std::as_const(x)));
  }
  auto x = numbered<TestType>(4, 6);
  slim::as_matrix_view(x)(2, 5) = -1.0f;
  CHECK(x(2, 5) == -1.0f);
}

TEMPLATE_TEST_CASE("slices of xtensor containers: offsets, steps, backwards, one row, one column", "", (xt::xtensor<float, 2>),
                   xt::xarray<float>) {
  auto x = numbered<TestType>(6, 8);
  auto middle = xt::view(x, xt::range(1, 4), xt::range(2, 7));
  auto steps = xt::view(x, xt::range(0, 6, 2), xt::range(1, 8, 3));
  auto one_row = xt::view(x, xt::range(2, 3), xt::all());
  auto one_column = xt::view(x, xt::all(), xt::range(5, 6));
  auto one_element = xt::view(x, xt::range(4, 5), xt::range(3, 4));
  CHECK(agrees(middle));
  CHECK(agrees(steps));
  CHECK(agrees(one_row));
  CHECK(agrees(one_column));
  CHECK(agrees(one_element));
  CHECK(slim::to_float(middle)(2, 4) == 306.0f);
  auto inner = xt::view(middle, xt::range(1, 3), xt::range(1, 3));
  CHECK(agrees(inner));
  auto backwards = xt::strided_view(x, {xt::range(xt::placeholders::_, xt::placeholders::_, -1), xt::range(2, 5)});
  CHECK(agrees(backwards));
  auto turned = xt::transpose(x);
  CHECK(agrees(turned));
}

TEST_CASE("one matrix out of a tensor of three dimensions") {
  xt::xtensor<float, 3> x = xt::xtensor<float, 3>::from_shape({3, 4, 5});
  float k = 0;
  for (auto& value : x) value = k++;
  auto layer = xt::view(x, 1, xt::all(), xt::range(1, 4));
  CHECK(agrees(layer));
  auto across = xt::view(x, xt::all(), 2, xt::all());
  CHECK(agrees(across));
}

TEST_CASE("adapted memory is a matrix") {
  std::vector<float> values{0, 1, 2, 3, 4, 5};
  auto owned_elsewhere = xt::adapt(values, std::array<std::size_t, 2>{2, 3});
  auto raw = xt::adapt(values.data(), values.size(), xt::no_ownership(), std::array<std::size_t, 2>{3, 2});
  CHECK(agrees(owned_elsewhere));
  CHECK(agrees(raw));
}

TEST_CASE("a tensor that has not two dimensions is refused when it is known") {
  xt::xarray<float> const vector = xt::xarray<float>::from_shape({5});
  xt::xarray<float> const cube = xt::xarray<float>::from_shape({2, 2, 2});
  CHECK_THROWS_WITH(slim::as_matrix_view(vector), Catch::Contains("this tensor has 1"));
  CHECK_THROWS_WITH(slim::as_matrix_view(cube), Catch::Contains("this tensor has 3"));
}

TEST_CASE("lazy xtensor expressions are not matrices") {
  using sum = decltype(std::declval<xt::xtensor<float, 2>&>() + std::declval<xt::xtensor<float, 2>&>());
  STATIC_REQUIRE_FALSE(slim::matrix_like<sum>);
}
#endif
