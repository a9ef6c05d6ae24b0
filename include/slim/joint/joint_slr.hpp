#pragma once
/// @file
/// `joint_slr`: W ~ S + (L R)^T with S in a set of sparse and/or quantized matrices and L R of low rank, solved together under
/// the curvature H of the layer's output error. SLiM (arXiv 2410.09615) solves one after the other under a diagonal; CALDERA
/// (arXiv 2405.18886) alternates for dense codes; this is the loop with every known improvement, each of which can be switched
/// off (the derivation is in docs/decisions.md, "The joint solver"):
///
///  1. (L, R) from W itself, the best part of rank r, before anything is rounded;
///  2. alternate: S by error feedback on W - (L R)^T, under H without the directions that L will absorb; (L, R) exact;
///  3. descend on codes (six patterns of a 2:4 group) and refit steps;
///  4. quantized adapters: rounded with error feedback, then S once more around them, so that S ends last;
///  5. never worse than SLiM's own solution in the same set, on the calibration and on tokens held out: measured, retried with
///     more damping, replaced, and noted.

#include "slim/adapters/exact_lora.hpp"
#include "slim/adapters/quantized_adapter.hpp"
#include "slim/calibration/output_error.hpp"
#include "slim/core/elementwise.hpp"
#include "slim/joint/error_feedback.hpp"
#include "slim/joint/feedback_adapter.hpp"

#include <utility>

namespace slim {
inline namespace SLIM_ABI {

/// Where the alternation begins.
enum class low_rank_start {
  weight, ///< (L, R) is the best low-rank part of W
  error,  ///< (L, R) repairs S found without it
};

/// Settings of joint_slr.
struct joint_config {
  adapter_rank rank = {};
  adapter_format stored = {};
  double damping = 0.1; ///< of the mean diagonal of H
  int iterations = 10;  ///< of the alternation, at most
  /// The alternation ends after an iteration that lowers the energy of the error by a smaller share. 0: never before its end.
  double tolerance = 0.0;
  int descents = 2; ///< rounds of descent and refit after it
  low_rank_start start = low_rank_start::weight;
  bool down_date = true; ///< feedback under H without the directions of L
  int down_dates = 4;    ///< iterations that do it anew, the first ones; later, L hardly turns, and the last one holds
  double down_date_damping = 0.02; ///< of the mean diagonal of H
  svd_method method = svd_method::truncated;
  bool guard = true; ///< compare with SLiM's solution

  friend bool operator==(joint_config const&, joint_config const&) = default;
};

/// CALDERA's loop: the same alternation without the other's ideas, on any set.
[[nodiscard]] inline joint_config alternating_config(adapter_rank rank = {}, adapter_format stored = {}) {
  return {.rank = rank,
          .stored = stored,
          .damping = 0.01,
          .iterations = 5,
          .tolerance = 0.0,
          .descents = 0,
          .start = low_rank_start::error,
          .down_date = false};
}

/// Each iteration costs about d_out d_in^2 multiply-adds and a truncated decomposition, the first ones d_in^3 / 3 more.
///
/// **Numerics** float, energies in double. Bits do not depend on the executor.
template <sweepable Set>
class joint_slr {
public:
  using element = element_of<Set>;
  using result = joint_result<typename Set::mask_type, typename Set::codes_type, adapter>;

  /// @throws config_error on a negative count or a damping that is not positive.
  explicit joint_slr(Set set, joint_config config = {}) : set_(std::move(set)), config_(config) {
    (void)config.rank.of(1, 1);
    if (!(config.damping > 0.0) || !(config.down_date_damping > 0.0) || config.iterations < 1 || config.down_dates < 1 ||
        config.descents < 0 || !(config.tolerance >= 0.0 && config.tolerance < 1.0))
      throw config_error(message("joint_slr: damping ", config.damping, ", down_date_damping ", config.down_date_damping,
                                 ", iterations ", config.iterations, ", down_dates ", config.down_dates, ", tolerance ",
                                 config.tolerance, ", descents ", config.descents,
                                 "; needed are > 0, > 0, >= 1, >= 1, 0 to below 1, and >= 0"));
  }

  [[nodiscard]] joint_config const& config() const noexcept { return config_; }

  /// @throws shape_error if W and the calibration disagree on d_in; config_error before the first token.
  template <std::same_as<float> T>
  [[nodiscard]] result compress(matrix_view<T const> w, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, w.cols(), "joint_slr");
    if (!config_.guard) return solve(w, calib, config_.damping, ctx);
    result plain = slim_solution(w, calib, ctx);
    judgement const bar = judged(w, plain, calib, ctx);
    std::vector<std::string> notes;
    for (double const damping : {config_.damping, 10 * config_.damping}) {
      result found = solve(w, calib, damping, ctx);
      if (judged(w, found, calib, ctx).no_worse_than(bar)) {
        found.notes.insert(found.notes.begin(), notes.begin(), notes.end());
        return found;
      }
      notes.push_back(message("joint solution at damping ", damping, " was worse than SLiM's"));
    }
    notes.push_back("SLiM's solution taken instead");
    plain.notes.insert(plain.notes.begin(), notes.begin(), notes.end());
    return plain;
  }

  [[nodiscard]] std::string describe() const {
    return message(config_.down_date ? "joint " : "alternating ", std::string(set_.describe()), " + low rank, ",
                   slim::describe(config_.rank), ", ", slim::describe(config_.stored), ", ", config_.iterations,
                   " iterations, damping ", config_.damping);
  }

private:
  /// Everything about one layer that does not change between iterations.
  struct layer {
    matrix_view<float const> w;
    calibration const& calib;
    context const& ctx;
    matrix<float> h;
    matrix<float> root; ///< C lower, H = C C^T
    double mean_diagonal = 0;
    index_t rank = 0;
  };

  template <class T>
  [[nodiscard]] layer prepare(matrix_view<T const> w, calibration const& calib, double damping, context const& ctx) const {
    layer one{w, calib, ctx, hessian(calib, damping, ctx), {}, 0.0, config_.rank.of(w.rows(), w.cols())};
    one.root = one.h;
    if (!cholesky_inplace(one.root.view(), ctx))
      throw nonfinite_error("joint_slr: the damped Gram matrix is not positive definite; raise the damping");
    for (index_t j = 0; j < w.cols(); ++j)
      one.mean_diagonal += static_cast<double>(one.h(j, j)) / static_cast<double>(w.cols());
    return one;
  }

  [[nodiscard]] static matrix<float> without(matrix_view<float const> w, adapter const& low, context const& ctx) {
    matrix<float> rest(w);
    low.subtract_from(rest.view(), ctx);
    return rest;
  }
  [[nodiscard]] static matrix<float> without(matrix_view<float const> w, element const& p, context const& ctx) {
    matrix<float> rest = p.values(ctx);
    subtract_into(w, rest.view(), rest.view(), ctx);
    return rest;
  }

  /// The exact (L, R) for what S leaves, found from the one before.
  template <class T>
  [[nodiscard]] fitted_adapter fit(layer const& one, element const& p, adapter const& before) const {
    matrix<T> const start(transposed(before.right.view()));
    return output_optimal_adapter<T>(matrix_view<T const>(without(one.w, p, one.ctx).view()), one.root.view(), one.rank,
                                     config_.method, start.view(), one.ctx);
  }

  /// The factor for feedback under the Hessian that (L, R) leaves when it is fitted again.
  [[nodiscard]] feedback_factor factor_beside(layer const& one, adapter const& low, std::vector<std::string>& notes) const {
    auto const factored = [&](matrix_view<float const> h) {
      auto factor = factor_for_feedback(h, one.ctx);
      detail::note_damping(notes, factor);
      return factor;
    };
    if (one.rank == 0 || !config_.down_date) return factored(one.h.view());
    matrix<float> h = without_directions(one.h.view(), low.left.view(), one.ctx);
    for (index_t j = 0; j < h.rows(); ++j) h(j, j) += static_cast<float>(config_.down_date_damping * one.mean_diagonal);
    return factored(h.view());
  }

  void descend(layer const& one, element& p, adapter const& low, int rounds) const {
    detail::descend(set_, without(one.w, low, one.ctx).view(), one.h.view(), p, rounds, one.ctx);
  }

  template <class T>
  [[nodiscard]] result solve(matrix_view<T const> w, calibration const& calib, double damping, context const& ctx) const {
    layer const one = prepare(w, calib, damping, ctx);
    std::vector<std::string> notes;
    std::vector<double> objective;
    double const reference = hessian_energy(w, one.h.view(), ctx);
    auto const record = [&](double energy) { objective.push_back(reference > 0.0 ? std::sqrt(energy / reference) : 0.0); };

    adapter low = empty_adapter(w.cols(), w.rows());
    if (config_.start == low_rank_start::weight)
      low = output_optimal_adapter<T>(w, one.root.view(), one.rank, config_.method, {}, ctx).factors;
    matrix<float> const rest = without(w, low, ctx);
    element p = set_.start(rest.view(), calib, ctx);
    element best = p;
    adapter best_low = low;
    double least = std::numeric_limits<double>::infinity();
    feedback_factor factor = factor_beside(one, low, notes);
    for (int k = 0; k < config_.iterations; ++k) {
      if (k > 0 && config_.down_date && k < config_.down_dates) {
        factor = {}; // its memory is needed
        factor = factor_beside(one, low, notes);
      }
      matrix<float> const v = without(w, low, ctx);
      set_.sweep(v.view(), std::as_const(factor.upper).view(), p, {}, ctx);
      auto fitted = fit<T>(one, p, low);
      low = std::move(fitted.factors);
      record(fitted.energy);
      double const before = least;
      if (fitted.energy < least) {
        least = fitted.energy;
        best = p;
        best_low = low;
      }
      if (one.rank == 0) break; // nothing to alternate with
      if (least > (1 - config_.tolerance) * before) break;
    }
    factor = {};
    p = std::move(best);
    low = std::move(best_low);
    for (int k = 0; k < config_.descents; ++k) {
      descend(one, p, low, 1);
      low = fit<T>(one, p, low).factors;
    }
    record(config_.stored.bits > 0 ? quantize_around(one, p, low, notes) : store_around(one, p, low));
    return {std::move(p), std::move(low), std::move(objective), std::move(notes)};
  }

  /// (L, R) as stored, and S around it. Returns the energy of the error.
  [[nodiscard]] double store_around(layer const& one, element& p, adapter& low) const {
    round_factors(low, config_.stored.format);
    matrix<float> const v = without(one.w, low, one.ctx);
    matrix<float> gradient = error_gradient(v.view(), p, one.h.view(), one.ctx);
    detail::descend(set_, gradient, one.h.view(), p, std::min(config_.descents, 1), one.ctx);
    return error_energy(v.view(), p, gradient.view(), one.ctx);
  }

  /// The same for codes, which may move (L, R) so far that S is better found again: at 4 bits it is, at 8 bits S is better left
  /// alone. Descents are spent on the better of the two only.
  [[nodiscard]] double quantize_around(layer const& one, element& p, adapter& low, std::vector<std::string>& notes) const {
    auto const factor = factor_for_feedback(one.h.view(), one.ctx);
    detail::note_damping(notes, factor);
    matrix<float> const e = without(one.w, p, one.ctx);
    low = round_with_feedback(std::move(low), e.view(), one.h.view(), factor.upper.view(), config_.stored, one.ctx);
    matrix<float> const v = without(one.w, low, one.ctx);
    element swept = p;
    set_.sweep(v.view(), factor.upper.view(), swept, {}, one.ctx);
    matrix<float> gradient = error_gradient(v.view(), p, one.h.view(), one.ctx);
    {
      matrix<float> of_swept = error_gradient(v.view(), swept, one.h.view(), one.ctx);
      if (error_energy(v.view(), swept, of_swept.view(), one.ctx) < error_energy(v.view(), p, gradient.view(), one.ctx)) {
        p = std::move(swept);
        gradient = std::move(of_swept);
      }
    }
    detail::descend(set_, gradient, one.h.view(), p, config_.descents, one.ctx);
    return error_energy(v.view(), p, gradient.view(), one.ctx);
  }

  /// SLiM in the same set: Wanda's mask, codes to nearest, (L, R) by mean |x|, its codes by absmax.
  template <class T>
  [[nodiscard]] result slim_solution(matrix_view<T const> w, calibration const& calib, context const& ctx) const {
    element p = set_.start(w, calib, ctx);
    matrix<T> const e = without(w, p, ctx);
    adapter_format const& stored = config_.stored;
    auto const solver = slim_lora(
        {.rank = config_.rank, .method = config_.method, .format = stored.bits == 0 ? stored.format : number_format::fp32});
    adapter low = stored.bits == 0 ? solver.solve(matrix_view<T const>(e.view()), calib, ctx)
                                   : quantized_adapter(solver, absmax_quantizer({.bits = stored.bits,
                                                                                 .block = per_column_group(stored.group),
                                                                                 .scale_format = stored.scale_format}))
                                         .solve(matrix_view<T const>(e.view()), calib, ctx);
    return {std::move(p), std::move(low), {}, {}};
  }

  /// Output errors that decide between solutions.
  struct judgement {
    double calibration = 0, held_out = 0;
    [[nodiscard]] bool no_worse_than(judgement const& other) const {
      return calibration <= other.calibration && held_out <= other.held_out;
    }
  };

  template <class T>
  [[nodiscard]] static judgement judged(matrix_view<T const> w, result const& r, calibration const& calib, context const& ctx) {
    matrix<float> rest = without(w, r.weight, ctx);
    r.adapter.subtract_from(rest.view(), ctx);
    return {output_energy(rest.view(), calib, ctx),
            calib.held_out() ? output_energy(rest.view(), *calib.held_out(), ctx) : 0.0};
  }

  Set set_;
  joint_config config_;
};

static_assert(joint_compressor<joint_slr<quantized_set<uniform_grid, nm<2, 4>>>>);

} // namespace SLIM_ABI
} // namespace slim
