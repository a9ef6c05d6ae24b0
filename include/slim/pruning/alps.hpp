#pragma once
/// @file
/// ALPS (Meng et al., NeurIPS 2024, arXiv 2406.07831): a mask and the weights on it, found together. Minimises
/// tr((W - S) C (W - S)^T) over sparse S, C = X^T X + damping, by ADMM: B is dense, D is sparse, and the
/// multiplier V makes them agree while the penalty rho grows. Then the weights on D's support are solved exactly
/// (masked_least_squares.hpp).

#include "slim/core/finite.hpp"
#include "slim/linalg/eigh.hpp"
#include "slim/pruning/masked_least_squares.hpp"
#include "slim/pruning/pruner.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Defaults are those of the paper (section 3.2) and its published code, except for the last solve, which takes 10 steps there.
struct alps_config {
  masked_least_squares_config solve{}; ///< damping of C, and the last solve
  double rho = 0.1;                    ///< first penalty, relative to the unit diagonal of the scaled C
  int max_iterations = 300;            ///< of ADMM; a product with C each
  int update_every = 3;                ///< iterations between two updates of the support and of rho
  double fast_growth = 1.3;            ///< of rho, while the support changes by more than 10% of the kept weights
  double growth = 1.2;                 ///< of rho, while the support changes by 0.5 to 10%
  double slow_growth = 1.1;            ///< of rho, while the support changes by less than 0.5%

  friend bool operator==(alps_config const&, alps_config const&) = default;
};

/// Mask and weights of `alps::solve`, and how the iteration ended.
struct alps_result {
  mask kept;
  masked_weights solved;   ///< the last solve; error_before is that of the weights ADMM ended with
  int iterations = 0;      ///< of ADMM
  int restarts = 0;        ///< with a fifth of rho, because the support did not move
  double rho = 0;          ///< the last one
  bool from_start = false; ///< the first mask, solved exactly, was better than ADMM's: it is the result
};

namespace detail {

/// ADMM in the coordinates of normalized_hessian: w is W~ = W diag(scale), H has a unit diagonal.
template <pruner Projection>
class alps_iteration {
public:
  alps_iteration(matrix<float> w, normalized_hessian const& hessian, Projection const& projection, calibration const& calib,
                 alps_config const& config, context const& ctx)
      : config_(config), projection_(projection), seen_(calib), ctx_(ctx), w_(std::move(w)), pull_(w_.rows(), w_.cols()),
        b_(pull_), d_(pull_), v_(pull_), kept_(projected(w_)), first_(kept_), rho_(config.rho),
        eigen_(symmetric_eigen(matrix<double>(hessian.h.view()).view())), inverse_(w_.cols(), w_.cols()) {
    if (!eigen_.converged) throw error("alps: the eigenvalue iteration did not converge");
    gemm_into(w_.view(), hessian.h.view(), pull_.view(), ctx.in_fp32());
    restart();
  }

  void run() {
    mask before = kept_;
    bool growing = false;
    for (iterations_ = 1; iterations_ <= config_.max_iterations; ++iterations_) {
      iterate();
      if (iterations_ % config_.update_every != 0) continue;
      index_t const changed = difference(kept_, before);
      auto const share = static_cast<double>(changed) / static_cast<double>(std::max<index_t>(kept_.count(), 1));
      growing = growing || share > moving || restarts_ == most_restarts;
      if (growing && (changed == 0 || (iterations_ >= 30 && share < settled))) break;
      before = kept_;
      if (growing) {
        rho_ *= share > moving_fast ? config_.fast_growth : share > moving ? config_.growth : config_.slow_growth;
        rho_ = std::min(rho_, 1e6);
        set_inverse();
      } else { // the penalty froze the support before it could move
        rho_ /= 5;
        ++restarts_;
        restart();
        before = kept_;
      }
    }
    iterations_ = std::min(iterations_, config_.max_iterations);
    kept_ = projected(b_);
  }

  [[nodiscard]] mask const& kept() const noexcept { return kept_; }
  [[nodiscard]] mask const& first() const noexcept { return first_; }
  [[nodiscard]] matrix<float> const& weights() const noexcept { return b_; }
  [[nodiscard]] int iterations() const noexcept { return iterations_; }
  [[nodiscard]] int restarts() const noexcept { return restarts_; }
  [[nodiscard]] double rho() const noexcept { return rho_; }

private:
  static constexpr double moving_fast = 0.1, moving = 0.005, settled = 0.0003; ///< shares of the kept weights
  static constexpr int most_restarts = 6;

  [[nodiscard]] mask projected(matrix<float> const& a) const {
    return projection_.select(matrix_view<float const>(a.view()), seen_, ctx_);
  }

  [[nodiscard]] static index_t difference(mask const& a, mask const& b) {
    index_t count = 0;
    for (index_t i = 0; i < a.rows(); ++i)
      for (index_t j = 0; j < a.cols(); ++j) count += a.kept(i, j) != b.kept(i, j) ? 1 : 0;
    return count;
  }

  void restart() {
    kept_ = first_;
    d_ = b_ = w_;
    kept_.apply_to(d_.view());
    v_ = matrix<float>(w_.rows(), w_.cols());
    set_inverse();
  }

  /// (H + rho I)^-1 from the one eigendecomposition of H.
  void set_inverse() {
    index_t const n = inverse_.rows();
    matrix<float> vectors(eigen_.vectors.view()), weighted = vectors;
    for (index_t k = 0; k < n; ++k) {
      double const factor = 1.0 / (std::max(eigen_.values[static_cast<std::size_t>(k)], 0.0) + rho_);
      for (index_t i = 0; i < n; ++i) weighted(i, k) = static_cast<float>(eigen_.vectors(i, k) * factor);
    }
    gemm_into(weighted.view(), transposed(matrix_view<float const>(vectors.view())), inverse_.view(), ctx_.in_fp32());
  }

  void iterate() {
    auto const rho = static_cast<float>(rho_);
    auto const each = [&](auto const& f) { ctx_.parallel_for(w_.size(), 1 << 14, f); };
    each([&](index_t begin, index_t end) {
      for (index_t k = begin; k < end; ++k) d_.data()[k] = pull_.data()[k] - v_.data()[k] + rho * d_.data()[k];
    });
    gemm_into(d_.view(), inverse_.view(), b_.view(), ctx_.in_fp32());
    each([&](index_t begin, index_t end) {
      for (index_t k = begin; k < end; ++k) d_.data()[k] = b_.data()[k] + v_.data()[k] / rho;
    });
    kept_ = projected(d_);
    kept_.apply_to(d_.view());
    each([&](index_t begin, index_t end) {
      for (index_t k = begin; k < end; ++k) v_.data()[k] += rho * (b_.data()[k] - d_.data()[k]);
    });
  }

  alps_config const& config_;
  Projection const& projection_;
  calibration const& seen_;
  context const& ctx_;
  matrix<float> w_;         ///< W~
  matrix<float> pull_;      ///< W~ H
  matrix<float> b_, d_, v_; ///< dense weights, sparse weights, multiplier of B = D
  mask kept_, first_;
  double rho_;
  eigh_result<double> eigen_; ///< of H
  matrix<float> inverse_;     ///< (H + rho I)^-1
  int iterations_ = 0, restarts_ = 0;
};

} // namespace detail

/// A pruner whose `solve` also returns the weights on the mask.
///
/// @tparam Projection keeps the largest weights of a matrix, in any pattern: nm_pruner<2, 4>(magnitude()),
/// unstructured_pruner(magnitude(), {.sparsity = 0.5, .scope = prune_scope::matrix}). It gets W diag(scale), so the
/// first mask is that of Wanda on the damped second moments.
///
/// **Numerics** Products in float, eigendecomposition in double. The error is never above that of the first mask with its
/// weights solved exactly. Bits do not depend on the executor. O(d_in^3) on the calling thread, and O(d_out d_in^2) per
/// iteration, plus O(d_in^3) every third.
template <pruner Projection>
class alps {
public:
  /// @throws config_error on a rho, growth or number of iterations that cannot work.
  explicit alps(Projection projection, alps_config config = {}) : config_(config), projection_(std::move(projection)) {
    bool const grows = config.fast_growth >= 1 && config.growth >= 1 && config.slow_growth >= 1;
    if (!(config.rho > 0) || !detail::is_finite(config.rho) || !grows || config.max_iterations < 0 || config.update_every < 1)
      throw config_error(message("alps: rho ", config.rho, ", growth ", config.fast_growth, " ", config.growth, " ",
                                 config.slow_growth, ", ", config.max_iterations, " iterations, update every ",
                                 config.update_every));
  }

  [[nodiscard]] alps_config const& config() const noexcept { return config_; }

  /// Mask and weights. @throws shape_error if W and the calibration disagree on d_in; config_error without a Gram matrix or
  /// tokens.
  [[nodiscard]] alps_result solve(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, w.cols(), "alps");
    require_observed(calib, "alps");
    normalized_hessian const hessian(calib.gram(), config_.solve.damping, ctx);
    matrix<float> scaled(w.rows(), w.cols());
    int const power = scale_into(w, hessian, scaled);
    detail::alps_iteration<Projection> admm(std::move(scaled), hessian, projection_, calib, config_, ctx);
    admm.run();
    matrix<float> start(w.rows(), w.cols());
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j)
        if (admm.kept().kept(i, j)) start(i, j) = unscaled(w(i, j), admm.weights()(i, j), hessian, j, power);
    alps_result out{admm.kept(), detail::solve_on_support(w, std::move(start), admm.kept(), hessian, config_.solve, ctx),
                    admm.iterations(), admm.restarts(), admm.rho()};
    matrix<float> masked(w);
    admm.first().apply_to(masked.view());
    masked_weights plain = detail::solve_on_support(w, std::move(masked), admm.first(), hessian, config_.solve, ctx);
    if (!(out.solved.error_after <= plain.error_after)) {
      out.kept = admm.first();
      out.solved = std::move(plain);
      out.from_start = true;
    }
    return out;
  }

  /// The mask alone.
  [[nodiscard]] mask select(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    return solve(w, calib, ctx).kept;
  }

  [[nodiscard]] std::string describe() const { return message("alps, ", std::string(projection_.describe())); }

private:
  /// W diag(scale) times a power of two that brings the largest weight near 1; returns the power.
  [[nodiscard]] static int scale_into(matrix_view<float const> w, normalized_hessian const& hessian, matrix<float>& scaled) {
    float largest = 0.0f;
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) largest = std::max(largest, std::abs(w(i, j)));
    int const power = power_below(largest, 1);
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j)
        scaled(i, j) =
            static_cast<float>(std::ldexp(static_cast<double>(w(i, j)), power) * hessian.scale[static_cast<std::size_t>(j)]);
    return power;
  }

  /// Weights of dead channels are not changed.
  [[nodiscard]] static float unscaled(float original, float scaled, normalized_hessian const& hessian, index_t j, int power) {
    double const inverse = hessian.inverse[static_cast<std::size_t>(j)];
    return inverse > 0.0 ? static_cast<float>(std::ldexp(static_cast<double>(scaled) * inverse, -power)) : original;
  }

  alps_config config_;
  Projection projection_;
};

} // namespace SLIM_ABI
} // namespace slim
