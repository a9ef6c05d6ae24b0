#pragma once
/// @file
/// A component to copy: what it is, its configuration, the component, the assertion that it models its concept. The test
/// beside it runs the law suite. Pruning by threshold: a row keeps what is not small beside its root mean square.

#include <slim/core/error.hpp>
#include <slim/pruning/pruner.hpp>

#include <cmath>
#include <string>

namespace mine {

struct threshold_config {
  double share = 0.5; ///< of the row's root mean square; weights below it are pruned

  friend bool operator==(threshold_config const&, threshold_config const&) = default;
};

/// Keeps w_ij if |w_ij| >= share * rms of row i. Sums are double; a row of zeros is kept. O(d_out d_in).
class threshold_pruner {
public:
  /// @throws slim::config_error if the share is negative or not a number.
  explicit threshold_pruner(threshold_config config = {}) : config_(config) {
    if (!(config.share >= 0.0))
      throw slim::config_error(slim::message("threshold_pruner: share ", config.share, " is negative or not a number"));
  }

  [[nodiscard]] threshold_config const& config() const noexcept { return config_; }

  /// W is (d_out x d_in). The mask promises no pattern.
  [[nodiscard]] slim::mask select(slim::matrix_view<float const> w, slim::calibration const&,
                                  slim::context const& ctx = {}) const {
    slim::mask kept(w.rows(), w.cols());
    constexpr slim::index_t rows_per_task = 16;
    ctx.parallel_for(w.rows(), rows_per_task, [&](slim::index_t begin, slim::index_t end) {
      for (slim::index_t i = begin; i < end; ++i) {
        double energy = 0;
        for (slim::index_t j = 0; j < w.cols(); ++j) energy += static_cast<double>(w(i, j)) * static_cast<double>(w(i, j));
        double const threshold = config_.share * std::sqrt(energy / static_cast<double>(w.cols()));
        for (slim::index_t j = 0; j < w.cols(); ++j) kept.keep(i, j, std::abs(static_cast<double>(w(i, j))) >= threshold);
      }
    });
    return kept;
  }

  [[nodiscard]] std::string describe() const { return slim::message("prune below ", config_.share, " of the row's rms"); }

private:
  threshold_config config_;
};

static_assert(slim::pruner<threshold_pruner>);

} // namespace mine
