#pragma once
/// @file
/// The concept of a pruner.

#include "slim/calibration/calibration.hpp"
#include "slim/pruning/mask.hpp"

#include <concepts>
#include <string>

namespace slim {
inline namespace SLIM_ABI {

/// `select(W, calibration, ctx)` says which weights of W (d_out x d_in) are kept. Laws: the mask has W's shape and, where it
/// promises a pattern, the pattern holds everywhere, ragged ends included; the same for every executor.
template <class P>
concept pruner = requires(P const& p, matrix_view<float const> w, calibration const& calib, context const& ctx) {
  { p.select(w, calib, ctx) } -> std::same_as<mask>;
  { p.describe() } -> std::convertible_to<std::string>;
};

} // namespace SLIM_ABI
} // namespace slim
