#pragma once
/// @file
/// Laws of saliencies, of single weights and of channels.

#include "slim/core/finite.hpp"
#include "slim/saliency/saliency.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"
#include "slim/testing/violation.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// Scores are finite for finite input, the same every time, for every executor and from any thread; W is not changed.
template <saliency S>
[[nodiscard]] violations check_saliency(S const& s, std::vector<named_matrix> const& matrices = hard_matrices()) {
  violations broken;
  auto const scores = [&](matrix<float> const& w, calibration const& calib, context const& ctx) {
    auto const score = s.prepare(w.view(), calib, ctx);
    matrix<float> all(w.rows(), w.cols());
    ctx.parallel_for(w.rows(), 2, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < w.cols(); ++j) all(i, j) = score(i, j);
    });
    return all;
  };
  for (named_matrix const& w : matrices)
    for (named_calibration const& c : hard_calibrations(w.values.cols())) {
      detail::collector judge(broken, message(w.name, "; ", c.name));
      matrix<float> const before = w.values;
      matrix<float> const found = scores(w.values, c.calib, on(serial_executor{}));
      judge.expect(all_finite(found), "scores are finite for finite input");
      judge.expect(same_bits(w.values, before), "W is not changed");
      judge.expect(same_bits(found, scores(w.values, c.calib, on(serial_executor{}))), "the same twice");
      judge.expect(same_bits(found, scores(w.values, c.calib, on(thread_team_executor{}))),
                   "a scorer is the same for every executor, and may be asked from several threads");
      judge.expect(same_bits(found, scores(w.values, c.calib, on(backwards_executor{}))),
                   "a scorer is the same for every executor");
    }
  return broken;
}

/// Weights are one positive finite number per channel, the same every time, and F(E) = E diag(w) can be undone:
/// F^-1(F(x)) = x to 2 ulp for |x| in [0.25, 1].
template <linear_saliency S>
[[nodiscard]] violations check_linear_saliency(S const& s) {
  violations broken;
  for (index_t const channels : {0, 1, 2, 30, 131})
    for (named_calibration const& c : hard_calibrations(channels)) {
      detail::collector judge(broken, message(channels, " channels; ", c.name));
      std::vector<float> const weights = s.channel_weights(c.calib);
      if (!judge.expect(static_cast<index_t>(weights.size()) == channels, "one weight per channel",
                        message(weights.size(), " weights")))
        continue;
      judge.expect(same_bits(weights, s.channel_weights(c.calib)), "the same twice");
      for (std::size_t j = 0; j < weights.size(); ++j) {
        float const w = weights[j];
        if (!judge.expect(w > 0.0f && slim::detail::is_finite(w), "weights are positive and finite",
                          message("channel ", j, ": ", w)))
          break;
        float const x = 0.25f + 0.75f * static_cast<float>(random_uniform(5, j));
        if (!judge.expect(std::abs(x * w / w - x) <= 0x1p-22f, "F^-1(F(x)) = x",
                          message("channel ", j, ": weight ", w, ", ", x, " -> ", x * w / w)))
          break;
      }
    }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
