#pragma once
/// @file
/// Laws of a transform.

#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"
#include "slim/testing/violation.hpp"
#include "slim/transforms/transform.hpp"

#include <numeric>
#include <type_traits>

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

namespace detail {

/// Energy of the outputs of one row of weights, in double and plainly, and the energy if nothing cancelled: what rounding of
/// the weights is relative to. Weights round no finer than the smallest normal float does.
struct row_energy {
  double energy = 0, uncancelled = 0;
};

[[nodiscard]] inline row_energy plain_row_energy(matrix<float> const& e, index_t i, calibration const& calib) {
  row_energy out;
  std::vector<double> const square = calib.mean_square();
  double norms = 0;
  for (index_t j = 0; j < e.cols(); ++j) {
    double const x = static_cast<double>(e(i, j)), size = std::max(std::abs(x), 0x1p-126);
    double const weight = calib.has_gram() ? calib.gram()(j, j) : square[static_cast<std::size_t>(j)];
    norms += size * std::sqrt(weight);
    if (!calib.has_gram()) out.energy += x * x * weight;
    for (index_t k = 0; calib.has_gram() && k < e.cols(); ++k)
      out.energy += x * calib.gram()(j, k) * static_cast<double>(e(i, k));
  }
  out.uncancelled = norms * norms;
  return out;
}

} // namespace detail

namespace detail {

/// Every row of weights has the same energy before and after, with a Gram matrix and without.
template <calibration_transform T>
void judge_calibrations(violations& broken, std::string const& name, T const& t, matrix<float> const& before,
                        matrix<float> const& applied) {
  for (named_calibration const& c : hard_calibrations(before.cols())) {
    collector judge(broken, message(name, "; ", c.name));
    calibration const calib = t.apply_to(c.calib);
    if (!judge.expect(calib.channels() == before.cols() && calib.tokens() == c.calib.tokens() &&
                          calib.config() == c.calib.config() && calib.samples().rows() == c.calib.samples().rows(),
                      "the calibration keeps its channels, tokens, statistics and samples"))
      continue;
    for (index_t i = 0; i < before.rows(); ++i) {
      auto const old = plain_row_energy(before, i, c.calib), now = plain_row_energy(applied, i, calib);
      if (!judge.expect(std::abs(now.energy - old.energy) <= 1e-6 * old.uncancelled, "outputs stay",
                        message("row ", i, ": energy ", old.energy, " became ", now.energy)))
        break;
    }
  }
}

} // namespace detail

/// `make(channels)` returns the transform to judge for that many channels. Shapes stay; invert(apply(W)) = W to `ulps` ulp of
/// the largest weight of the row (where nothing underflows; a rotation takes more than the default); every row is transformed
/// by itself; the same twice; arguments are not changed. If it is a calibration_transform, outputs stay: every row of weights
/// has the same energy before and after, with a Gram matrix and without.
template <class Make>
  requires transform<std::invoke_result_t<Make const&, index_t>>
[[nodiscard]] violations check_transform(Make const& make, std::vector<named_matrix> const& matrices = hard_matrices(),
                                         double ulps = 2.0) {
  violations broken;
  for (named_matrix const& w : matrices) {
    auto const t = make(w.values.cols());
    matrix<float> const before = w.values;
    matrix<float> const applied = t.apply(w.values.view());
    detail::collector judge(broken, w.name);
    judge.expect(same_bits(w.values, before), "W is not changed");
    if (!judge.expect(applied.rows() == before.rows() && applied.cols() == before.cols(), "the result has the shape of W"))
      continue;
    judge.expect(same_bits(applied, t.apply(before.view())), "the same twice");
    matrix<float> const back = t.invert(applied.view());
    if (!judge.expect(back.rows() == before.rows() && back.cols() == before.cols(), "the inverse has the shape of W")) continue;
    for (index_t i = 0; i < before.rows(); ++i) {
      auto const largest = [&](matrix<float> const& m) {
        return std::accumulate(m.row(i), m.row(i) + m.cols(), 0.0f, [](float a, float x) { return std::max(a, std::abs(x)); });
      };
      double const room = ulps * 0x1p-23;
      double const there = room * static_cast<double>(largest(applied)) + 0x1p-140,
                   here = room * static_cast<double>(largest(before)) + 0x1p-140;
      matrix<float> const alone = t.apply(before.view().middle_rows(i, 1));
      bool undone = true, by_itself = alone.rows() == 1 && alone.cols() == before.cols();
      for (index_t j = 0; j < before.cols(); ++j) {
        undone = undone && std::abs(static_cast<double>(back(i, j)) - static_cast<double>(before(i, j))) <= here;
        by_itself = by_itself && std::abs(static_cast<double>(alone(0, j)) - static_cast<double>(applied(i, j))) <= there;
      }
      if (!judge.expect(undone, "invert undoes apply", message("not in row ", i))) break;
      if (!judge.expect(by_itself, "every row is transformed by itself", message("not row ", i))) break;
    }
    if constexpr (calibration_transform<decltype(t)>) detail::judge_calibrations(broken, w.name, t, before, applied);
  }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
