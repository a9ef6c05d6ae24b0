#pragma once
/// @file
/// What error feedback needs where some weights are stored apart: the errors of a sweep, and grids that are fitted to the other
/// weights of a group.

#include "slim/linalg/cholesky.hpp"
#include "slim/pruning/mask.hpp"
#include "slim/quantization/grids/grid.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// e = (w - q) / u_jj of every weight when a sweep reached it, d_out x d_in, from W and the Q that the sweep left: W - Q = E U,
/// U upper triangular with H^-1 = U^T U; 0 where that is no number. A template, as everything that takes a decomposition.
template <std::same_as<float> T = float>
[[nodiscard]] matrix<float> sweep_errors(matrix_view<float const> w, matrix_view<float const> q, matrix_view<float const> upper,
                                         context const& ctx) {
  matrix<T> change(w.cols(), w.rows());
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j) change(j, i) = w(i, j) - q(i, j);
  matrix<T> const lower(transposed(upper));
  solve_lower_inplace<T>(lower.view(), change.view(), ctx); // U^T E^T = (W - Q)^T
  matrix<float> errors(transposed(change.view()));
  for (index_t k = 0; k < errors.size(); ++k)
    if (!(errors.data()[k] == errors.data()[k])) errors.data()[k] = 0.0f;
  return errors;
}

/// The `share` of all weights with the largest |errors|, of those in `among` (null: all). Ties keep the earlier weight.
[[nodiscard]] inline mask largest_errors(matrix_view<float const> errors, double share, mask const* among) {
  mask chosen(errors.rows(), errors.cols());
  std::vector<std::pair<float, index_t>> ranked;
  for (index_t i = 0; i < errors.rows(); ++i)
    for (index_t j = 0; j < errors.cols(); ++j)
      if (!among || among->kept(i, j)) ranked.emplace_back(-std::abs(errors(i, j)), i * errors.cols() + j);
  auto const all = static_cast<std::ptrdiff_t>(ranked.size());
  auto const wanted = std::min(all, static_cast<std::ptrdiff_t>(share * static_cast<double>(errors.rows() * errors.cols())));
  std::nth_element(ranked.begin(), ranked.begin() + wanted, ranked.end());
  for (std::ptrdiff_t k = 0; k < wanted; ++k) {
    index_t const at = ranked[static_cast<std::size_t>(k)].second;
    chosen.keep(at / errors.cols(), at % errors.cols());
  }
  return chosen;
}

/// One lane of a tile of `width` columns: the weights that `apart` names become the mean of the others. As they are if no other
/// is left.
template <class Apart>
void replace_by_mean(float* tile, index_t width, index_t lane, Apart const& apart) {
  double sum = 0;
  index_t others = 0;
  for (index_t j = 0; j < width; ++j)
    if (!apart(j)) {
      sum += static_cast<double>(tile[j * grid_lanes + lane]);
      ++others;
    }
  if (others == 0) return;
  for (index_t j = 0; j < width; ++j)
    if (apart(j)) tile[j * grid_lanes + lane] = static_cast<float>(sum / static_cast<double>(others));
}

/// A grid whose groups, when error feedback reaches them, are fitted to the weights that `apart` does not keep.
template <class Grid>
struct fit_beside : Grid {
  mask const* apart;

  fit_beside(Grid const& values, mask const& stored_apart) : Grid(values), apart(&stored_apart) {}

  void fit_tile(typename Grid::codes_type& codes, float const* tile, index_t row, index_t count, index_t first, index_t width,
                context const& ctx = {}) const {
    std::vector<float> rest(tile, tile + width * grid_lanes);
    index_t const wide = Grid::group_cols(codes);
    for (index_t j = 0; j < width; j += wide)
      for (index_t lane = 0; lane < count; ++lane)
        replace_by_mean(rest.data() + j * grid_lanes, std::min(wide, width - j), lane,
                        [&](index_t k) { return apart->kept(row + lane, first + j + k); });
    Grid::fit_tile(codes, rest.data(), row, count, first, width, ctx);
  }
};

/// A grid whose groups, when error feedback reaches them, are fitted without likely outliers, found by leaving one out (SpQR,
/// arXiv 2306.03078, Algorithm 1, and its code): weight k is one if the group's loss, the sum of ((w - round(w)) / u_jj)^2 on a
/// range that reaches all weights, falls by more than the threshold when the group is fitted and counted without it.
template <class Grid>
struct leave_one_out : Grid {
  std::vector<float> inverse_pivots; ///< 1 / u_jj
  float threshold;

  leave_one_out(Grid const& values, matrix_view<float const> upper, float at) : Grid(values), threshold(at) {
    for (index_t j = 0; j < upper.rows(); ++j) inverse_pivots.push_back(1.0f / upper(j, j));
  }

  void fit_tile(typename Grid::codes_type& codes, float const* tile, index_t row, index_t count, index_t first, index_t width,
                context const& ctx = {}) const {
    std::vector<float> rest(tile, tile + width * grid_lanes);
    index_t const wide = Grid::group_cols(codes);
    std::vector<char> likely(static_cast<std::size_t>(wide));
    for (index_t j = 0; j < width; j += wide)
      for (index_t lane = 0; lane < count; ++lane) {
        float* const part = rest.data() + j * grid_lanes;
        index_t const here = std::min(wide, width - j);
        find_likely(part, here, lane, first + j, static_cast<float>((1 << codes.bits) - 1), likely);
        replace_by_mean(part, here, lane, [&](index_t k) { return likely[static_cast<std::size_t>(k)] != 0; });
      }
    Grid::fit_tile(codes, rest.data(), row, count, first, width, ctx);
  }

private:
  /// A range that holds 0.
  struct range {
    float low = 0, high = 0;
    void add(float x) noexcept {
      low = std::min(low, x);
      high = std::max(high, x);
    }
    friend bool operator==(range const&, range const&) = default;
  };

  /// Loss of one weight on `top` + 1 levels over a range.
  static double loss(float x, float inverse_pivot, range over, float top) noexcept {
    float const step = (over.high - over.low) / top;
    float const value = step > 0.0f ? std::nearbyint((x - over.low) / step) * step + over.low : 0.0f;
    double const e = static_cast<double>(x - value) * static_cast<double>(inverse_pivot);
    return e * e;
  }

  void find_likely(float const* part, index_t width, index_t lane, index_t first, float top, std::vector<char>& likely) const {
    auto const at = [&](index_t k) { return part[k * grid_lanes + lane]; };
    auto const pivot = [&](index_t k) { return inverse_pivots[static_cast<std::size_t>(first + k)]; };
    range whole;
    double base = 0;
    for (index_t k = 0; k < width; ++k) whole.add(at(k));
    for (index_t k = 0; k < width; ++k) base += loss(at(k), pivot(k), whole, top);
    for (index_t k = 0; k < width; ++k) {
      double gain = loss(at(k), pivot(k), whole, top);
      if (at(k) == whole.low || at(k) == whole.high) { // without it the range may be smaller
        range without;
        for (index_t l = 0; l < width; ++l)
          if (l != k) without.add(at(l));
        if (!(without == whole)) {
          gain = base;
          for (index_t l = 0; l < width; ++l)
            if (l != k) gain -= loss(at(l), pivot(l), without, top);
        }
      }
      likely[static_cast<std::size_t>(k)] = gain > static_cast<double>(threshold) ? 1 : 0;
    }
  }
};

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
