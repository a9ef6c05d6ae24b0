#pragma once
/// @file
/// Laws of a low-rank solver.

#include "slim/adapters/diagonal_norm.hpp"
#include "slim/core/finite.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/pruner_laws.hpp"
#include "slim/testing/same_bits.hpp"
#include "slim/testing/violation.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// ||(E - (L R)^T) diag(w)||_F^2 in double, with the library's gemm out of the way. O(d_out d_in r).
[[nodiscard]] inline double weighted_rest(matrix<float> const& e, adapter const& a, std::vector<float> const& weights) {
  double energy = 0;
  for (index_t i = 0; i < e.rows(); ++i)
    for (index_t j = 0; j < e.cols(); ++j) {
      double rest = static_cast<double>(e(i, j));
      for (index_t k = 0; k < a.rank(); ++k) rest -= static_cast<double>(a.left(j, k)) * static_cast<double>(a.right(k, i));
      rest *= static_cast<double>(weights[static_cast<std::size_t>(j)]);
      energy += rest * rest;
    }
  return energy;
}

namespace detail {

/// A factor is what its codes say, or numbers of its format; returns its stored bits, `kept` of its elements stored.
inline double judge_factor(collector& judge, matrix<float> const& factor, std::optional<integer_codes> const& codes,
                           number_format format, index_t kept) {
  if (codes) {
    matrix<float> values(codes->rows(), codes->cols());
    codes->dequantize_into(values.view());
    judge.expect(same_bits(values, factor), "a factor with codes holds their values");
    mask const nothing(codes->rows(), codes->cols());
    return static_cast<double>(kept) * codes->bits + codes->stored_bits(&nothing);
  }
  bool const exact =
      std::all_of(factor.data(), factor.data() + factor.size(), [&](float x) { return same_bits(x, rounded_to(format, x)); });
  judge.expect(exact, "a factor without codes holds numbers of its format");
  return static_cast<double>(kept) * bit_width(format);
}

/// The stored form of an adapter: codes, format, mask and the bits it reports.
inline void judge_storage(collector& judge, adapter const& found) {
  index_t kept = found.left.size();
  double index_bits = 0;
  if (found.left_mask) {
    mask const& m = *found.left_mask;
    if (!judge.expect(m.rows() == found.rank() && m.cols() == found.left.rows(), "the mask has the shape of left transposed"))
      return;
    std::string const group = broken_group(m);
    judge.expect(group.empty(), "the mask of the left factor keeps its pattern", group);
    bool zero = true;
    for (index_t k = 0; k < m.rows(); ++k)
      for (index_t j = 0; j < m.cols(); ++j) zero = zero && (m.kept(k, j) || found.left(j, k) == 0.0f);
    judge.expect(zero, "pruned entries of the left factor are 0");
    kept = m.count();
    index_bits = m.index_bits();
  }
  double const pruned = judge_factor(judge, found.left, found.left_codes, found.format, kept) + index_bits,
               whole = judge_factor(judge, found.left, found.left_codes, found.format, found.left.size());
  double const bits = std::min(pruned, whole) + // zeros are stored where their positions would cost more
                      judge_factor(judge, found.right, found.right_codes, found.format, found.right.size());
  judge.expect(std::abs(found.bits() - bits) <= 1e-9 * bits, "bits() is what the factors take",
               message(found.bits(), " for ", bits));
}

/// The energy of E is the one that the channel weights give.
inline void judge_norm(collector& judge, matrix<float> const& e, std::vector<float> const& weights, double energy) {
  bool const positive =
      std::all_of(weights.begin(), weights.end(), [](float w) { return w > 0.0f && slim::detail::is_finite(w); });
  if (!judge.expect(static_cast<index_t>(weights.size()) == e.cols() && positive,
                    "a diagonal norm has a positive finite weight per channel"))
    return;
  double const expected = weighted_rest(e, {}, weights);
  judge.expect(std::abs(energy - expected) <= 1e-5 * expected, "the energy is the one of the channel weights",
               message(energy, " instead of ", expected));
}

} // namespace detail

/// Factors have the layer's shape and finite numbers; the rank is at most `largest_rank` (and min(d_out, d_in)); the energy
/// that is left is not above that of no adapter; storage is what it says; the same every time and on every executor; E is not
/// changed. A solver with a diagonal norm has one positive finite weight per channel, and the energy is ||E diag(w)||_F^2.
template <low_rank_solver S>
[[nodiscard]] violations check_low_rank_solver(S const& s, index_t largest_rank,
                                               std::vector<named_matrix> const& matrices = hard_matrices()) {
  violations broken;
  for (named_matrix const& e : matrices)
    for (named_calibration const& c : hard_calibrations(e.values.cols())) {
      detail::collector judge(broken, message(e.name, "; ", c.name));
      matrix<float> const before = e.values;
      index_t const d_out = before.rows(), d_in = before.cols();
      auto const solve = [&](auto const& where) {
        return s.solve(matrix_view<float const>(e.values.view()), c.calib, on(where));
      };
      adapter const found = solve(serial_executor{});
      judge.expect(same_bits(e.values, before), "E is not changed");
      if (!judge.expect(found.left.rows() == d_in && found.right.cols() == d_out && found.left.cols() == found.right.rows(),
                        "factors are (d_in x r) and (r x d_out)"))
        continue;
      judge.expect(found.rank() <= std::min({largest_rank, d_in, d_out}), "the rank is at most the rank asked for",
                   message(found.rank()));
      judge.expect(all_finite(found.left) && all_finite(found.right), "factors are finite");
      matrix<float> left_over = before;
      found.subtract_from(left_over.view());
      double const none = s.energy(matrix_view<float const>(before.view()), c.calib, context{}),
                   rest = s.energy(matrix_view<float const>(left_over.view()), c.calib, context{});
      judge.expect(slim::detail::is_finite(none) && none >= 0.0, "the energy of an error is finite and not negative",
                   message(none));
      judge.expect(rest <= none * (1 + 1e-5), "the energy left is not above that of no adapter",
                   message(rest / none, " times"));
      if constexpr (diagonal_norm<S>) detail::judge_norm(judge, before, s.channel_weights(c.calib), none);
      detail::judge_storage(judge, found);
      judge.expect(same_bits(found, solve(serial_executor{})), "the same twice");
      judge.expect(same_bits(found, solve(backwards_executor{})), "the same when tasks run backwards");
      judge.expect(same_bits(found, solve(thread_team_executor{})), "the same on several threads");
    }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
