#pragma once
/// @file
/// RIA, relative importance and activations (Zhang et al., ICLR 2024, "Plug-and-Play"): a weight counts by its share of its row
/// and of its column, so that no channel of small weights is pruned away whole:
/// (|w_ij| / sum_k |w_ik| + |w_ij| / sum_k |w_kj|) * ||x_j||_2^power.

#include "slim/core/finite.hpp"
#include "slim/saliency/saliency.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Settings of ria.
struct ria_config {
  double power = 0.5; ///< of the channel's norm; 0: relative importance alone, needs no activations

  friend bool operator==(ria_config const&, ria_config const&) = default;
};

/// **Numerics** Sums and scores in double, rounded once. Norms are taken as root mean square relative to the largest: scores
/// lie in [0, 2] and rank as the formula does. Weights of dead channels score 0 unless the power is 0. O(d_out d_in) to
/// prepare.
class ria {
public:
  /// @throws config_error unless power is a finite number >= 0.
  explicit ria(ria_config config = {}) : config_(config) {
    if (!(config.power >= 0.0) || !detail::is_finite(config.power))
      throw config_error(message("ria: power ", config.power, " is not a number >= 0"));
  }

  [[nodiscard]] ria_config const& config() const noexcept { return config_; }

  class scorer {
  public:
    scorer(matrix_view<float const> w, std::vector<double> channel_factor)
        : w_(w), row_share_(static_cast<std::size_t>(w.rows())), column_share_(static_cast<std::size_t>(w.cols())),
          channel_factor_(std::move(channel_factor)) {
      for (index_t i = 0; i < w.rows(); ++i)
        for (index_t j = 0; j < w.cols(); ++j) {
          double const magnitude = static_cast<double>(std::abs(w(i, j)));
          row_share_[static_cast<std::size_t>(i)] += magnitude;
          column_share_[static_cast<std::size_t>(j)] += magnitude;
        }
      for (double& sum : row_share_) sum = sum > 0.0 ? 1.0 / sum : 0.0;
      for (double& sum : column_share_) sum = sum > 0.0 ? 1.0 / sum : 0.0;
    }

    float operator()(index_t i, index_t j) const noexcept {
      auto const column = static_cast<std::size_t>(j);
      double const share = row_share_[static_cast<std::size_t>(i)] + column_share_[column];
      return static_cast<float>(static_cast<double>(std::abs(w_(i, j))) * share * channel_factor_[column]);
    }

  private:
    matrix_view<float const> w_;
    std::vector<double> row_share_, column_share_; ///< 1 / sum of magnitudes; 0 for a row or column of zeros
    std::vector<double> channel_factor_;
  };

  /// @throws shape_error if W and the calibration disagree on d_in; config_error before the first token, if it needs tokens.
  [[nodiscard]] scorer prepare(matrix_view<float const> w, calibration const& calib, context const& = {}) const {
    require_channels(calib, w.cols(), "ria");
    if (config_.power == 0.0) return scorer(w, std::vector<double>(static_cast<std::size_t>(w.cols()), 1.0));
    require_observed(calib, "ria");
    std::vector<double> factor = calib.mean_square();
    double const largest = factor.empty() ? 0.0 : *std::max_element(factor.begin(), factor.end());
    for (double& square : factor) square = largest > 0.0 ? std::pow(square / largest, config_.power / 2) : 0.0;
    return scorer(w, std::move(factor));
  }

  [[nodiscard]] std::string describe() const { return config_.power == 0.5 ? "ria" : message("ria^", config_.power); }

private:
  ria_config config_;
};

static_assert(saliency<ria>);

} // namespace SLIM_ABI
} // namespace slim
