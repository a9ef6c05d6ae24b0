#pragma once
/// @file
/// Laws of a grid.

#include "slim/calibration/hessian.hpp"
#include "slim/core/norms.hpp"
#include "slim/joint/sweepable.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/quantizer_laws.hpp"
#include "slim/testing/same_bits.hpp"
#include "slim/testing/violation.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

namespace detail {

/// The values that row i may take in the group of column j, as the grid says them.
template <grid G>
[[nodiscard]] std::vector<double> admissible(G const& g, typename G::codes_type const& codes, index_t i, index_t j) {
  index_t const count = std::max<index_t>(g.level_count(), 1);
  matrix<float> room(5, grid_lanes), levels(count, grid_lanes);
  lane_group const lanes{room.row(0), room.row(1), room.row(2), room.row(3), room.row(4), levels.data()};
  g.load(codes, i, 1, j / g.group_cols(codes), lanes);
  std::vector<double> values;
  if (g.level_count() > 0)
    for (index_t k = 0; k < g.level_count(); ++k) values.push_back(static_cast<double>(levels(k, 0)));
  else
    for (float level = room(2, 0); level <= room(3, 0); ++level)
      values.push_back(static_cast<double>(room(0, 0)) * static_cast<double>(level) + static_cast<double>(room(4, 0)));
  return values;
}

/// A gradient that was carried along is (V - S) H to float rounding.
inline void judge_gradient(collector& judge, matrix<float> const& carried, matrix<float> const& exact, matrix<float> const& v,
                           matrix<float> const& h) {
  auto const length = [](matrix<float> const& a) { return std::sqrt(squared_norm(a.data(), a.size())); };
  double apart = 0;
  for (index_t k = 0; k < exact.size(); ++k) {
    double const one = static_cast<double>(carried.data()[k]) - static_cast<double>(exact.data()[k]);
    apart += one * one;
  }
  double const bound = 1e-5 * length(v) * length(h);
  judge.expect(std::sqrt(apart) <= bound, "the gradient is (V - S) H on return", message(std::sqrt(apart), " > ", bound));
}

/// Every stored level stands for the value that the lanes give it; every weight went to the nearest admissible value.
template <grid G>
void judge_lanes(collector& judge, G const& g, typename G::codes_type& codes, matrix<float> const& w) {
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j) {
      auto const values = admissible(g, codes, i, j);
      float const value = g.value(codes, i, j), level = g.level(codes, i, j);
      double least = 3e38, own = 3e38, largest = 0;
      for (double const v : values) {
        least = std::min(least, std::abs(static_cast<double>(w(i, j)) - v));
        own = std::min(own, std::abs(static_cast<double>(value) - v));
        largest = std::max(largest, std::abs(v));
      }
      std::string const at = message("(", i, ", ", j, "): ", w(i, j), " -> ", value);
      if (!judge.expect(own <= 1e-5 * largest + 0x1p-148, "a code stands for a value of its lanes", at)) return;
      double const error = std::abs(static_cast<double>(w(i, j)) - static_cast<double>(value));
      if (!judge.expect(error <= least + 1e-5 * largest + 0x1p-148, "a weight goes to the nearest value", at)) return;
      typename G::codes_type again = codes;
      g.store(again, i, j, level, true);
      if (!judge.expect(same_bits(g.value(again, i, j), value), "storing a level gives its value", at)) return;
    }
}

} // namespace detail

/// Codes have the shape they were asked for; groups cover the columns; stored levels stand for the values that the lanes give;
/// without error to spread (H = I) error feedback takes every weight to the nearest of them; refit never raises ||V - S||_H
/// beyond rounding and leaves its gradient; the same on every executor.
template <grid G>
[[nodiscard]] violations check_grid(G const& g, std::vector<named_matrix> const& matrices = hard_matrices()) {
  violations broken;
  for (named_matrix const& v : matrices) {
    detail::collector judge(broken, v.name);
    matrix<float> const& w = v.values;
    auto codes = g.empty(w.rows(), w.cols());
    if (!judge.expect(codes.rows() == w.rows() && codes.cols() == w.cols(), "codes have the shape that was asked for"))
      continue;
    if (w.empty()) continue;
    index_t const wide = g.group_cols(codes);
    judge.expect(wide > 0 && (g.groups(codes) - 1) * wide < w.cols() && w.cols() <= g.groups(codes) * wide,
                 "groups cover the columns", message(g.groups(codes), " of ", wide, " for ", w.cols()));
    g.fit(codes, w.view(), context{});
    matrix<float> unit(w.cols(), w.cols()), rounded = w;
    for (index_t j = 0; j < w.cols(); ++j) unit(j, j) = 1.0f;
    feed_back(rounded.view(), unit.view(), g, codes, nullptr);
    detail::judge_lanes(judge, g, codes, w);
    detail::judge_stored_bits(judge, codes);
    matrix<float> values(w.rows(), w.cols());
    codes.dequantize_into(values.view(), context{});
    judge.expect(all_finite(values), "finite weights have finite values");
    auto const run = [&](context const& ctx) {
      auto other = g.empty(w.rows(), w.cols());
      g.fit(other, w.view(), ctx);
      matrix<float> to = w, out(w.rows(), w.cols());
      feed_back(to.view(), unit.view(), g, other, nullptr, {}, ctx);
      other.dequantize_into(out.view(), ctx);
      return out;
    };
    judge.expect(same_bits(run(on(backwards_executor{})), values), "the same when tasks run backwards");
    judge.expect(same_bits(run(on(thread_team_executor{})), values), "the same on several threads");
    calibration const seen = observed(normal_matrix(48, w.cols(), 5), {.gram = true});
    matrix<float> const h = hessian(seen, 0.1);
    auto const energy = [&](auto const& p) {
      matrix<float> rest = p.values();
      for (index_t k = 0; k < rest.size(); ++k) rest.data()[k] = w.data()[k] - rest.data()[k];
      return hessian_energy(rest.view(), h.view());
    };
    sparse_codes<none, typename G::codes_type> p{{}, std::move(codes)};
    double const before = energy(p);
    matrix<float> gradient = error_gradient(w.view(), p, h.view());
    g.refit(p.codes, nullptr, gradient.view(), h.view(), context{});
    detail::judge_gradient(judge, gradient, error_gradient(w.view(), p, h.view()), w, h);
    double const after = energy(p);
    judge.expect(after <= before * (1 + 1e-4) + 1e-6 * hessian_energy(w.view(), h.view()), "refit does not raise the error",
                 message(after / before));
  }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
