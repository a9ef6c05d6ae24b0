#pragma once
/// @file
/// Laws of a trainable quantizer.

#include "slim/core/finite.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"
#include "slim/testing/violation.hpp"
#include "slim/training/trainable_quantizer.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// Codes and gradients have the shape of W, and there are as many gradients of parameters as parameters; finite weights have
/// finite values and gradients; a gradient of 0 behind gives gradients of 0, and twice the gradient behind gives twice the
/// gradients; the same twice and on every executor; W is not changed. What a gradient is worth is for the component's own
/// tests: differences of its surrogate.
template <trainable_quantizer Q>
[[nodiscard]] violations check_trainable_quantizer(Q const& q, std::vector<named_matrix> const& matrices = hard_matrices()) {
  violations broken;
  thread_team_executor const team;
  for (named_matrix const& w : matrices) {
    detail::collector judge(broken, w.name);
    index_t const rows = w.values.rows(), cols = w.values.cols();
    matrix<float> const given = w.values, dq = normal_matrix(rows, cols, 71);
    matrix<float> twice = dq;
    for (index_t k = 0; k < twice.size(); ++k) twice.data()[k] *= 2;
    auto const parameters = q.first(given.view());
    matrix<float> const values = quantized(q, given.view(), parameters);
    auto const g = q.backward(given.view(), parameters, dq.view()),
               doubled = q.backward(given.view(), parameters, twice.view());
    auto const none = q.backward(given.view(), parameters, matrix<float>(rows, cols).view());
    bool const shaped = g.weight.rows() == rows && g.weight.cols() == cols && g.parameters.size() == parameters.size();
    if (!judge.expect(shaped, "gradients are as many as numbers that train",
                      message(g.weight.rows(), " x ", g.weight.cols(), " and ", g.parameters.size(), " for ", rows, " x ", cols,
                              " and ", parameters.size())))
      continue;
    judge.expect(same_bits(given, w.values), "W is not changed");
    judge.expect(same_bits(values, quantized(q, given.view(), parameters, on(team))) &&
                     same_bits(g.weight, q.backward(given.view(), parameters, dq.view(), on(team)).weight),
                 "the same twice and on every executor");
    auto const all = [](auto const& f, matrix<float> const& m, std::vector<float> const& v) {
      bool holds = true;
      for (index_t k = 0; k < m.size(); ++k) holds = holds && f(m.data()[k]);
      for (float const x : v) holds = holds && f(x);
      return holds;
    };
    judge.expect(all([](float x) { return slim::detail::is_finite(x); }, values, parameters),
                 "finite weights have finite values and parameters");
    judge.expect(all([](float x) { return slim::detail::is_finite(x); }, g.weight, {}), "finite weights have finite gradients");
    judge.expect(all([](float x) { return x == 0.0f; }, none.weight, none.parameters), "no gradient behind, none before");
    bool linear = true;
    for (index_t k = 0; k < g.weight.size(); ++k) linear = linear && doubled.weight.data()[k] == 2 * g.weight.data()[k];
    judge.expect(linear, "gradients are linear in the gradient behind");
  }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
