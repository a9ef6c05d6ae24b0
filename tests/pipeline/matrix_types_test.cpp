/// One matrix, held in many ways, compresses to the same bits.
#include "slim/pipeline/compress.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include <Eigen/Core>

#if __has_include(<xtensor/xarray.hpp>)
#define SLIM_TEST_XTENSOR 1
#include <xtensor/xarray.hpp>
#include <xtensor/xtensor.hpp>
#endif

#include <catch2/catch.hpp>

namespace {

/// A user's own matrix: columns of doubles, each a vector.
struct columns_of_doubles {
  std::vector<double> values;
  slim::index_t height = 0, width = 0;
};

} // namespace

template <>
struct slim::matrix_traits<columns_of_doubles> {
  static auto view(columns_of_doubles const& m) {
    return slim::matrix_view<double const, slim::strided>(m.values.data(), m.height, m.width, 1, m.height);
  }
};

using namespace slim;
using namespace slim::testing;

namespace {

template <class W, class X>
matrix<float> compressed(W const& w, X const& x) {
  calibration calib(as_matrix_view(x).cols());
  calib.observe(x);
  return compress(w, calib, chain(absmax_quantizer({.bits = 4, .block = per_group(8)}), nm_pruner<2, 4>(wanda())))
      .weight.values();
}

} // namespace

TEST_CASE("Eigen, strided, column-major, double, bf16, own and xtensor matrices compress as the float matrix does") {
  // bf16-exact values, so that every type holds the same numbers.
  auto const exact = [](matrix<float> const& m) { return mapped(m, [](float v) { return static_cast<float>(bf16(v)); }); };
  matrix<float> const w = exact(normal_matrix(9, 22, 1)), x = exact(normal_matrix(14, 22, 2));
  matrix<float> const expected = compressed(w, x);

  Eigen::MatrixXf eigen_w(9, 22);
  Eigen::MatrixXd wide_w(20, 50);
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> eigen_x(14, 22);
  matrix<bf16> small(9, 22);
  matrix<double> doubles(9, 22);
  columns_of_doubles own{std::vector<double>(9 * 22), 9, 22};
  wide_w.setConstant(99);
  for (index_t i = 0; i < 9; ++i)
    for (index_t j = 0; j < 22; ++j) {
      eigen_w(i, j) = w(i, j);
      wide_w(2 * i, 3 + 2 * j) = static_cast<double>(w(i, j));
      small(i, j) = bf16(w(i, j));
      doubles(i, j) = own.values[static_cast<std::size_t>(j * 9 + i)] = static_cast<double>(w(i, j));
    }
  for (index_t t = 0; t < 14; ++t)
    for (index_t j = 0; j < 22; ++j) eigen_x(t, j) = static_cast<double>(x(t, j));

  CHECK(same_bits(compressed(eigen_w, x), expected));
  CHECK(same_bits(compressed(eigen_w, eigen_x), expected));
  CHECK(same_bits(compressed(small, x), expected));
  CHECK(same_bits(compressed(doubles, x), expected));
  CHECK(same_bits(compressed(own, x), expected));
  matrix_view<double const, strided> const every_second(wide_w.data() + 3 * 20, 9, 22, 2, 40);
  CHECK(same_bits(compressed(every_second, x), expected));
  Eigen::MatrixXf const turned = eigen_w.transpose();
  CHECK(same_bits(compressed(transposed(as_matrix_view(turned)), x), expected));
  Eigen::MatrixXf framed = Eigen::MatrixXf::Constant(12, 30, 7.0f);
  framed.block(1, 4, 9, 22) = eigen_w;
  auto const inside = framed.block(1, 4, 9, 22);
  CHECK(same_bits(compressed(inside, x), expected));
#if SLIM_TEST_XTENSOR
  xt::xtensor<float, 2> const tensor = [&] {
    xt::xtensor<float, 2> t({std::size_t{9}, std::size_t{22}});
    for (std::size_t i = 0; i < 9; ++i)
      for (std::size_t j = 0; j < 22; ++j) t(i, j) = w(static_cast<index_t>(i), static_cast<index_t>(j));
    return t;
  }();
  CHECK(same_bits(compressed(tensor, x), expected));
  xt::xarray<double, xt::layout_type::column_major> const array = tensor;
  CHECK(same_bits(compressed(array, x), expected));
#endif
}
