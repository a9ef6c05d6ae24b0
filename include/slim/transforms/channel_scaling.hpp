#pragma once
/// @file
/// Input channels on other scales: W diag(s) and X diag(1/s), the transform of SmoothQuant (arXiv 2211.10438) and AWQ
/// (arXiv 2306.00978). It costs nothing at run time where the layer before can absorb 1/s.

#include "slim/core/finite.hpp"
#include "slim/transforms/transform.hpp"

#include <numeric>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Column j of W times factors[j], inputs divided by it. Exact if all factors are powers of two and nothing over- or
/// underflows, else each of apply and invert rounds once.
class channel_scaling {
public:
  /// @throws config_error unless all factors are positive, normal and have a normal inverse.
  explicit channel_scaling(std::vector<float> factors) : factors_(std::move(factors)) {
    for (std::size_t j = 0; j < factors_.size(); ++j)
      if (float const s = factors_[j]; !(s > 0.0f && detail::is_normal(s) && detail::is_normal(1.0f / s)))
        throw config_error(message("channel_scaling: factor ", s, " of channel ", j, " is not a positive normal number"));
  }

  [[nodiscard]] index_t channels() const noexcept { return static_cast<index_t>(factors_.size()); }
  [[nodiscard]] std::vector<float> const& factors() const noexcept { return factors_; }

  /// @throws shape_error
  [[nodiscard]] matrix<float> apply(matrix_view<float const> w) const {
    return mapped(w, [](float x, float s) { return x * s; });
  }
  [[nodiscard]] matrix<float> invert(matrix_view<float const> w) const {
    return mapped(w, [](float x, float s) { return x / s; });
  }

  /// @throws shape_error
  [[nodiscard]] calibration apply_to(calibration const& calib) const {
    require_channels(calib, channels(), "channel_scaling");
    std::vector<index_t> same(factors_.size());
    std::iota(same.begin(), same.end(), index_t{0});
    std::vector<double> inverse;
    for (float const s : factors_) inverse.push_back(1.0 / static_cast<double>(s));
    return calib.remapped(same, inverse);
  }

  /// A 32-bit number and a 16-bit position for each factor other than 1.
  [[nodiscard]] double stored_bits() const noexcept {
    return 48.0 * static_cast<double>(std::count_if(factors_.begin(), factors_.end(), [](float s) { return s != 1.0f; }));
  }

  [[nodiscard]] std::string describe() const { return message("scaling of ", channels(), " channels"); }

  friend bool operator==(channel_scaling const&, channel_scaling const&) = default;

private:
  template <class F>
  [[nodiscard]] matrix<float> mapped(matrix_view<float const> w, F const& f) const {
    if (w.cols() != channels())
      throw shape_error(message("channel_scaling: W has ", w.cols(), " columns, expected ", channels()));
    matrix<float> out(w);
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) out(i, j) = f(w(i, j), factors_[static_cast<std::size_t>(j)]);
    return out;
  }

  std::vector<float> factors_;
};

static_assert(calibration_transform<channel_scaling>);

} // namespace SLIM_ABI
} // namespace slim
