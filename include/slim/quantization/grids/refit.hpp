#pragma once
/// @file
/// How a grid's scales and offsets move to their optimum for codes that are already chosen.

#include "slim/linalg/gemm.hpp"
#include "slim/pruning/mask.hpp"
#include "slim/quantization/scale_block.hpp"

#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// S (d_out x d_in) depends linearly on one parameter per block of `tall x wide` weights: its derivative is `basis(i, j)`.
/// Every parameter in turn moves towards the minimiser of ||V - S||_H with all others fixed, one column of blocks after
/// another. `gradient` is (V - S) H on entry and on return, to float rounding. `move(block, g, a, b)` gets the curvature and
/// the slope of the parameter (the minimiser is b / a away), changes it as far as its storage allows and lowers_error() holds,
/// and returns the change; 0 if there is none. d_out d_in^2 multiply-adds.
template <class Basis, class Move>
void refit_parameters(index_t tall, index_t wide, matrix_view<float> gradient, matrix_view<float const> h, Basis const& basis,
                      Move const& move, context const& ctx) {
  index_t const rows = gradient.rows(), n = gradient.cols(), blocks = blocks_of(rows, tall), groups = blocks_of(n, wide);
  matrix<float> levels(rows, wide, uninitialized), curved(rows, wide, uninitialized);
  std::vector<double> slope(static_cast<std::size_t>(rows)), bend(static_cast<std::size_t>(rows));
  std::vector<double> moved(static_cast<std::size_t>(blocks));
  for (index_t g = 0; g < groups; ++g) {
    index_t const first = g * wide, width = std::min(wide, n - first);
    auto const level = levels.view().block(0, 0, rows, width), curve = curved.view().block(0, 0, rows, width);
    ctx.parallel_for(rows, 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < width; ++j) level(i, j) = basis(i, first + j);
    });
    gemm_into(matrix_view<float const>(level), h.block(first, first, width, width), curve, ctx.in_fp32());
    ctx.parallel_for(rows, 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        double b = 0, a = 0;
        for (index_t j = 0; j < width; ++j) {
          b += static_cast<double>(level(i, j)) * static_cast<double>(gradient(i, first + j));
          a += static_cast<double>(level(i, j)) * static_cast<double>(curve(i, j));
        }
        slope[static_cast<std::size_t>(i)] = b;
        bend[static_cast<std::size_t>(i)] = a;
      }
    });
    for (index_t block = 0; block < blocks; ++block) {
      double b = 0, a = 0;
      index_t const end = std::min(rows, (block + 1) * tall);
      for (index_t i = block * tall; i < end; ++i) {
        b += slope[static_cast<std::size_t>(i)];
        a += bend[static_cast<std::size_t>(i)];
      }
      moved[static_cast<std::size_t>(block)] = move(block, g, a, b);
    }
    ctx.parallel_for(rows, 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        double const by = moved[static_cast<std::size_t>(i / tall)];
        for (index_t j = 0; j < width; ++j) level(i, j) = by != 0.0 ? level(i, j) * static_cast<float>(by) : 0.0f;
      }
    });
    gemm_into(matrix_view<float const>(level), h.middle_rows(first, width), gradient, destination::subtract, ctx);
  }
}

/// Whether a parameter of curvature `a` and slope `b` that moves by `by` lowers the error.
[[nodiscard]] inline bool lowers_error(double a, double b, double by) noexcept { return by * (by * a - 2 * b) < 0; }

/// @throws shape_error unless the gradient has the codes' shape and H is d_in x d_in.
inline void check_refit(index_t rows, index_t cols, matrix_view<float const> gradient, matrix_view<float const> h) {
  if (gradient.rows() != rows || gradient.cols() != cols || h.rows() != cols || h.cols() != cols)
    throw shape_error(message("refit: codes are ", rows, " x ", cols, ", the gradient is ", gradient.rows(), " x ",
                              gradient.cols(), ", H is ", h.rows(), " x ", h.cols()));
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
