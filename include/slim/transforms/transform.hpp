#pragma once
/// @file
/// The concept of a transform: another basis for the input channels of a layer.

#include "slim/calibration/calibration.hpp"

#include <concepts>
#include <string>

namespace slim {
inline namespace SLIM_ABI {

/// `apply(W)` is the weight for transformed inputs, `invert` its inverse, `apply_to(calibration)` what the calibration would
/// have seen of transformed inputs. Laws: invert(apply(W)) = W to 2 ulp; outputs stay: X W^T of the pair (W, X) is that of the
/// transformed pair, so the energy of any change of the weights is the same before and after.
template <class T>
concept transform = requires(T const& t, matrix_view<float const> w, calibration const& calib) {
  { t.apply(w) } -> std::same_as<matrix<float>>;
  { t.invert(w) } -> std::same_as<matrix<float>>;
  { t.apply_to(calib) } -> std::same_as<calibration>;
  { t.describe() } -> std::convertible_to<std::string>;
};

} // namespace SLIM_ABI
} // namespace slim
