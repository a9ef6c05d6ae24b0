#pragma once
/// @file
/// The concepts of a transform: another basis for the input channels of a layer; and one that a calibration can follow.

#include "slim/calibration/calibration.hpp"

#include <concepts>
#include <string>

namespace slim {
inline namespace SLIM_ABI {

/// `apply(W)` is the weight for transformed inputs, `invert` its inverse; both take every row of W (d_out x d_in) by itself.
/// Rotations, permutations, scalings. Laws: invert(apply(W)) = W up to rounding; shapes stay; pure.
template <class T>
concept transform = requires(T const& t, matrix_view<float const> w) {
  { t.apply(w) } -> std::same_as<matrix<float>>;
  { t.invert(w) } -> std::same_as<matrix<float>>;
  { t.describe() } -> std::convertible_to<std::string>;
};

/// A transform of which `apply_to(calibration)` is what the calibration would have seen of transformed inputs, every statistic
/// of it. Only transforms that mix no channels (permutations, scalings) can say that: mean |x| of a rotated channel does not
/// follow from the statistics of the channels before. Law: outputs stay, X W^T of the pair (W, X) is that of the transformed
/// pair, so the energy of any change of the weights is the same before and after.
template <class T>
concept calibration_transform = transform<T> && requires(T const& t, calibration const& calib) {
  { t.apply_to(calib) } -> std::same_as<calibration>;
};

} // namespace SLIM_ABI
} // namespace slim
