#pragma once
/// @file
/// Laws of a joint compressor and of a set that solvers sweep over.

#include "slim/calibration/hessian.hpp"
#include "slim/joint/joint_compressor.hpp"
#include "slim/joint/quantized_set.hpp"
#include "slim/linalg/feedback_factor.hpp"
#include "slim/testing/grid_laws.hpp"
#include "slim/testing/low_rank_solver_laws.hpp"
#include "slim/testing/pruner_laws.hpp"
#include "slim/testing/quantizer_laws.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

namespace detail {

template <class Mask, class Codes, class Adapter>
[[nodiscard]] bool same_result(joint_result<Mask, Codes, Adapter> const& a, joint_result<Mask, Codes, Adapter> const& b) {
  bool same = same_bits(a.weight.values(), b.weight.values()) && a.objective == b.objective && a.notes == b.notes;
  if constexpr (!is_none<Mask>) same = same && a.weight.mask == b.weight.mask;
  if constexpr (requires { same_bits(a.weight.codes, b.weight.codes); })
    same = same && same_bits(a.weight.codes, b.weight.codes);
  if constexpr (!is_none<Adapter>) same = same && same_bits(a.adapter, b.adapter);
  return same;
}

/// The mask keeps its pattern, values are finite and priced, codes of integers fit in their bits.
template <class Mask, class Codes>
void judge_weight(collector& judge, sparse_codes<Mask, Codes> const& weight) {
  if constexpr (!is_none<Mask>) {
    std::string const group = broken_group(weight.mask);
    judge.expect(group.empty(), "the promised pattern holds in every group", group);
  }
  if (!judge_soundness(judge, weight.codes)) return;
  judge.expect(all_finite(weight.values()), "finite weights have finite values");
  judge_stored_bits(judge, weight.codes);
}

} // namespace detail

/// Shapes fit; the mask holds its pattern; everything is finite and priced; the same every time and on every executor; W is not
/// changed.
template <joint_compressor J>
[[nodiscard]] violations check_joint_compressor(J const& j, std::vector<named_matrix> const& matrices = hard_matrices()) {
  violations broken;
  for (named_matrix const& w : matrices)
    for (named_calibration const& c : hard_calibrations(w.values.cols())) {
      detail::collector judge(broken, message(w.name, "; ", c.name));
      matrix<float> const before = w.values;
      auto const run = [&](auto const& where) {
        return j.compress(matrix_view<float const>(w.values.view()), c.calib, on(where));
      };
      auto const found = run(serial_executor{});
      judge.expect(same_bits(w.values, before), "W is not changed");
      if (!judge.expect(found.weight.rows() == before.rows() && found.weight.cols() == before.cols(),
                        "the result has the shape of W"))
        continue;
      detail::judge_weight(judge, found.weight);
      if constexpr (std::same_as<std::remove_const_t<decltype(found.adapter)>, adapter>) {
        judge.expect(found.adapter.left.rows() == before.cols() && found.adapter.right.cols() == before.rows(),
                     "factors are (d_in x r) and (r x d_out)");
        judge.expect(all_finite(found.adapter.left) && all_finite(found.adapter.right), "factors are finite");
        detail::judge_storage(judge, found.adapter);
      }
      judge.expect(detail::same_result(found, run(serial_executor{})), "the same twice");
      judge.expect(detail::same_result(found, run(backwards_executor{})), "the same when tasks run backwards");
      judge.expect(detail::same_result(found, run(thread_team_executor{})), "the same on several threads");
    }
  return broken;
}

/// Every element lies in the set; refine and refit never raise ||V - S||_H beyond rounding, and leave its gradient.
template <sweepable S>
[[nodiscard]] violations check_sweepable(S const& s, std::vector<named_matrix> const& matrices = hard_matrices()) {
  violations broken;
  for (named_matrix const& v : matrices)
    for (named_calibration const& c : hard_calibrations(v.values.cols())) {
      detail::collector judge(broken, message(v.name, "; ", c.name));
      matrix_view<float const> const target = v.values.view();
      matrix<float> const h = hessian(c.calib, 0.1);
      auto const energy = [&](auto const& p) {
        matrix<float> rest = p.values();
        for (index_t k = 0; k < rest.size(); ++k) rest.data()[k] = v.values.data()[k] - rest.data()[k];
        return hessian_energy(rest.view(), h.view());
      };
      double const whole = hessian_energy(target, h.view());
      auto p = s.start(target, c.calib, context{});
      detail::judge_weight(judge, p);
      s.sweep(target, factor_for_feedback(h.view()).upper.view(), p, {}, context{});
      detail::judge_weight(judge, p);
      matrix<float> gradient = error_gradient(target, p, h.view());
      for (int round = 0; round < 2; ++round) {
        double const before = energy(p);
        s.refine(gradient.view(), h.view(), p, context{});
        double const refined = energy(p);
        judge.expect(refined <= before * (1 + 1e-4) + 1e-6 * whole, "refine does not raise the error",
                     message(refined / before));
        s.refit(gradient.view(), h.view(), p, context{});
        double const refitted = energy(p);
        judge.expect(refitted <= refined * (1 + 1e-4) + 1e-6 * whole, "refit does not raise the error",
                     message(refitted / refined));
        detail::judge_weight(judge, p);
        detail::judge_gradient(judge, gradient, error_gradient(target, p, h.view()), v.values, h);
      }
    }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
