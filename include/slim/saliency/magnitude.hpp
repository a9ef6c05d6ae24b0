#pragma once
/// @file
/// Magnitude: |w_ij|. Needs no activations.

#include "slim/saliency/saliency.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// |w_ij|.
class magnitude {
public:
  class scorer {
  public:
    explicit scorer(matrix_view<float const> w) : w_(w) {}
    float operator()(index_t i, index_t j) const noexcept { return std::abs(w_(i, j)); }

  private:
    matrix_view<float const> w_;
  };

  [[nodiscard]] scorer prepare(matrix_view<float const> w, calibration const&, context const& = {}) const { return scorer(w); }
  [[nodiscard]] std::string describe() const { return "magnitude"; }
};

static_assert(saliency<magnitude>);

} // namespace SLIM_ABI
} // namespace slim
