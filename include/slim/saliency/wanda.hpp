#pragma once
/// @file
/// Wanda: |w_ij| * ||x_j||_2 (Sun et al. 2023, arXiv 2306.11695). The norm is taken as root mean square over tokens, which
/// ranks the same. Weights of dead channels score 0: they go first.

#include "slim/saliency/saliency.hpp"

namespace slim::inline SLIM_ABI {

class wanda {
public:
  class scorer {
  public:
    scorer(matrix_view<float const> w, calibration const& seen) : w_(w) {
      for (double const square : seen.mean_square()) norm_.push_back(static_cast<float>(std::sqrt(square)));
    }
    float operator()(index_t i, index_t j) const noexcept { return std::abs(w_(i, j)) * norm_[static_cast<std::size_t>(j)]; }

  private:
    matrix_view<float const> w_;
    std::vector<float> norm_;
  };

  /// @throws config_error before the first token.
  [[nodiscard]] scorer prepare(matrix_view<float const> w, calibration const& seen) const {
    require_observed(seen, "wanda");
    return scorer(w, seen);
  }
  [[nodiscard]] std::string describe() const { return "wanda"; }
};

static_assert(saliency<wanda>);

} // namespace slim::inline SLIM_ABI
