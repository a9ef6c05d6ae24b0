#pragma once
/// @file
/// Gradients of one linear layer Y = X W^T + b + (X L) R, for whoever walks backwards through a model.

#include "slim/linalg/gemm.hpp"

#include <span>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// The numbers of the layer as it computes: W_c as floats, and the adapter. No adapter: both views empty.
struct linear_weights {
  matrix_view<float const> weight; ///< d_out x d_in
  matrix_view<float const> left;   ///< d_in x r
  matrix_view<float const> right;  ///< r x d_out

  /// @throws shape_error unless the parts fit each other. `who` begins the message.
  void check(char const* who) const {
    if (left.cols() != right.rows() || (left.cols() > 0 && (left.rows() != weight.cols() || right.cols() != weight.rows())))
      throw shape_error(message(who, ": adapter of left ", left.rows(), " x ", left.cols(), " and right ", right.rows(), " x ",
                                right.cols(), " for a weight of ", weight.rows(), " x ", weight.cols()));
  }
};

/// Where the gradients go. All are added to what is there. Those whose view or span is empty are not computed.
struct linear_gradients {
  matrix_view<float> x;        ///< tokens x d_in: dY W + (dY R^T) L^T
  matrix_view<float> weight;   ///< d_out x d_in: dY^T X
  matrix_view<float> left;     ///< d_in x r: X^T (dY R^T)
  matrix_view<float> right;    ///< r x d_out: (X L)^T dY
  std::span<double> bias = {}; ///< d_out: sums of the columns of dY
};

/// Adds the gradients of a loss, given that of the layer's output, dY (tokens x d_out), and its input X (tokens x d_in).
/// O(tokens d_out d_in) for each of dX and dW, O(tokens r (d_out + d_in)) for an adapter. Bit-identical for any executor.
/// **Numerics** products as in gemm_into; the bias is summed over tokens in double.
/// @throws shape_error if sizes do not fit.
inline void add_linear_gradients(linear_weights const& layer, matrix_view<float const> x, matrix_view<float const> dy,
                                 linear_gradients const& to, context const& ctx = {}) {
  layer.check("add_linear_gradients");
  index_t const d_out = layer.weight.rows(), d_in = layer.weight.cols(), rank = layer.left.cols();
  auto const require = [](char const* what, index_t have_rows, index_t have_cols, index_t rows, index_t cols) {
    if (have_rows != rows || have_cols != cols)
      throw shape_error(
          message("add_linear_gradients: ", what, " is ", have_rows, " x ", have_cols, ", needed is ", rows, " x ", cols));
  };
  auto const require_result = [&](char const* what, matrix_view<float> m, index_t rows, index_t cols) {
    if (!m.empty()) require(what, m.rows(), m.cols(), rows, cols);
  };
  require("X", x.rows(), x.cols(), dy.rows(), d_in);
  require("dY", dy.rows(), dy.cols(), x.rows(), d_out);
  require_result("dX", to.x, x.rows(), d_in);
  require_result("dW", to.weight, d_out, d_in);
  require_result("dL", to.left, d_in, rank);
  require_result("dR", to.right, rank, d_out);
  if (!to.bias.empty()) require("db", std::ssize(to.bias), 1, d_out, 1);

  if (!to.x.empty()) gemm_into(dy, layer.weight, to.x, destination::add, ctx);
  if (!to.weight.empty()) gemm_into(transposed(dy), x, to.weight, destination::add, ctx);
  if (rank > 0 && (!to.x.empty() || !to.left.empty())) {
    matrix<float> inner(dy.rows(), rank); // dY R^T
    gemm_into(dy, transposed(layer.right), inner.view(), ctx);
    if (!to.x.empty()) gemm_into(matrix_view<float const>(inner), transposed(layer.left), to.x, destination::add, ctx);
    if (!to.left.empty()) gemm_into(transposed(x), matrix_view<float const>(inner), to.left, destination::add, ctx);
  }
  if (rank > 0 && !to.right.empty()) {
    matrix<float> inner(x.rows(), rank); // X L
    gemm_into(x, layer.left, inner.view(), ctx);
    gemm_into(transposed(matrix_view<float const>(inner)), dy, to.right, destination::add, ctx);
  }
  for (index_t t = 0; !to.bias.empty() && t < dy.rows(); ++t)
    for (index_t i = 0; i < d_out; ++i) to.bias[static_cast<std::size_t>(i)] += static_cast<double>(dy(t, i));
}

} // namespace SLIM_ABI
} // namespace slim
