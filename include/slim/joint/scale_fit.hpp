#pragma once
/// @file
/// Steps (and zero points) of integer_codes: fitted to a matrix before it is rounded, and refitted to codes that are chosen.

#include "slim/joint/sweep_kernels.hpp"
#include "slim/linalg/gemm.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/slim_quantizer.hpp"

#include <span>

namespace slim {
inline namespace SLIM_ABI {

/// What decides a step before rounding.
enum class scale_rule {
  least_error, ///< least squared error of rounding
  absmax,      ///< nothing is clipped
};

/// Fractions of the step that clips nothing which a search tries: 48 of them, 0.15 to 1 in equal ratios, for symmetric grids;
/// 26 from 0.5 to 1 for grids with a zero point; 1 alone for absmax.
[[nodiscard]] inline std::vector<float> scale_fractions(scale_rule rule, bool symmetric) {
  if (rule == scale_rule::absmax) return {1.0f};
  std::vector<float> fractions;
  for (int k = 0; k < (symmetric ? 48 : 26); ++k)
    fractions.push_back(static_cast<float>(symmetric ? 0.15 * std::pow(1 / 0.15, k / 47.0) : 0.5 + 0.5 * k / 25.0));
  return fractions;
}

namespace detail {

/// Groups that lie in one row: sixteen rows in the lanes of a vector.
inline void fit_row_groups(integer_codes& codes, matrix_view<float const> v, std::span<float const> fractions,
                           std::span<float const> weights, context const& ctx) {
  index_t const wide = codes.block.cols_of(codes.cols());
  bool const symmetric = codes.zeros.empty();
  auto const top = static_cast<float>(symmetric ? codes.highest() : codes.highest() - codes.lowest());
  auto const& kernels = sweep_kernels_of(ctx.simd);
  ctx.parallel_for(v.rows(), sweep_lanes, [&](index_t begin, index_t end) {
    std::vector<float> tile(static_cast<std::size_t>(wide * sweep_lanes));
    for (index_t g = 0; g < codes.scales.cols(); ++g) {
      index_t const first = g * wide, width = std::min(wide, v.cols() - first);
      for (index_t j = 0; j < width; ++j)
        for (index_t lane = 0; lane < sweep_lanes; ++lane)
          tile[static_cast<std::size_t>(j * sweep_lanes + lane)] = begin + lane < end ? v(begin + lane, first + j) : 0.0f;
      float step[sweep_lanes], zero[sweep_lanes];
      kernels.search_scales(tile.data(), width, weights.empty() ? nullptr : weights.data() + first, fractions.data(),
                            static_cast<index_t>(fractions.size()), symmetric, top, {step, zero});
      for (index_t lane = 0; begin + lane < end; ++lane) {
        codes.scales(begin + lane, g) = stored_scale(codes.scale_format, step[lane]);
        if (!symmetric) codes.zeros(begin + lane, g) = static_cast<std::int8_t>(codes.lowest() + static_cast<int>(zero[lane]));
      }
    }
  });
}

} // namespace detail

/// Sets scales and zero points of `codes` for rounding V (d_out x d_in, 0 where pruned): a search over fractions of the largest
/// weight for per-channel and per-group scales, the quantizers' own rules for larger blocks. `weights` (d_in, or empty) weigh
/// squared errors. @throws shape_error
inline void fit_scales(integer_codes& codes, matrix_view<float const> v, scale_rule rule, std::span<float const> weights = {},
                       context const& ctx = {}) {
  if (v.rows() != codes.rows() || v.cols() != codes.cols())
    throw shape_error(
        message("fit_scales: codes are ", codes.rows(), " x ", codes.cols(), ", V is ", v.rows(), " x ", v.cols()));
  if (v.empty()) return;
  bool const symmetric = codes.zeros.empty();
  if (codes.block.rows_of(codes.rows()) == 1)
    return detail::fit_row_groups(codes, v, scale_fractions(rule, symmetric), weights, ctx);
  calibration const unseen(codes.cols());
  integer_codes const fitted =
      symmetric && rule == scale_rule::least_error
          ? slim_quantizer({.bits = codes.bits, .block = codes.block, .scale_format = codes.scale_format})
                .quantize(v, unseen, ctx)
          : absmax_quantizer(
                {.bits = codes.bits, .block = codes.block, .symmetric = symmetric, .scale_format = codes.scale_format})
                .quantize(v, unseen, ctx);
  codes.scales = fitted.scales;
  codes.zeros = fitted.zeros;
}

/// Moves every step to where ||V - S||_H is least with the levels as they are, one group of columns after another. A step that
/// would not lower it, as stored, stays. O(d_out d_in^2). @throws shape_error
inline void refit_scales(integer_codes& codes, matrix_view<float const> v, matrix_view<float const> h,
                         context const& ctx = {}) {
  index_t const rows = codes.rows(), n = codes.cols();
  if (v.rows() != rows || v.cols() != n || h.rows() != n || h.cols() != n)
    throw shape_error(message("refit_scales: codes are ", rows, " x ", n, ", V is ", v.rows(), " x ", v.cols(), ", H is ",
                              h.rows(), " x ", h.cols()));
  index_t const tall = codes.block.rows_of(rows), wide = codes.block.cols_of(n);
  matrix<float> rest(v), gradient(rows, n), levels(rows, wide), curved(rows, wide);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < n; ++j) rest(i, j) -= codes.value(i, j);
  gemm_into(rest.view(), h, gradient.view(), ctx);
  std::vector<double> slope(static_cast<std::size_t>(rows)), bend(static_cast<std::size_t>(rows));
  for (index_t g = 0; g < codes.scales.cols(); ++g) {
    index_t const first = g * wide, width = std::min(wide, n - first), last = first + width;
    auto const level = levels.view().block(0, 0, rows, width), curve = curved.view().block(0, 0, rows, width);
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < width; ++j)
        level(i, j) = static_cast<float>(codes.codes(i, first + j) - codes.zero_at(i, first + j));
    gemm_into(matrix_view<float const>(level), h.block(first, first, width, width), curve, ctx);
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
    for (index_t block = 0; block < codes.scales.rows(); ++block) {
      double b = 0, a = 0;
      index_t const end = std::min(rows, (block + 1) * tall);
      for (index_t i = block * tall; i < end; ++i) {
        b += slope[static_cast<std::size_t>(i)];
        a += bend[static_cast<std::size_t>(i)];
      }
      float& scale = codes.scales(block, g);
      float const moved =
          a > 0.0 ? detail::stored_scale(codes.scale_format, static_cast<float>(static_cast<double>(scale) + b / a)) : scale;
      double const by = static_cast<double>(moved) - static_cast<double>(scale);
      bool const better = moved > 0.0f && std::isfinite(moved) && by * (by * a - 2 * b) < 0;
      if (better) scale = moved;
      for (index_t i = block * tall; i < end; ++i)
        for (index_t j = 0; j < width; ++j) level(i, j) = better ? level(i, j) * static_cast<float>(by) : 0.0f;
    }
    gemm_into(matrix_view<float const>(level), h.block(first, last, width, n - last),
              gradient.view().block(0, last, rows, n - last), destination::subtract, ctx);
  }
}

} // namespace SLIM_ABI
} // namespace slim
