#pragma once
/// @file
/// The concept of a method that prunes and quantizes together, and what it returns.

#include "slim/calibration/calibration.hpp"
#include "slim/core/none.hpp"

#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// What a joint method made of W. Parts that it does not make have type `none`.
template <class Mask = none, class Codes = none, class Adapter = none>
struct joint_result {
  matrix<float> weights;                    ///< W_c = mask .* dequantize(codes), d_out x d_in
  [[no_unique_address]] Mask kept{};        ///< slim::mask
  [[no_unique_address]] Codes codes{};      ///< slim::integer_codes
  [[no_unique_address]] Adapter low_rank{}; ///< slim::adapter
  std::vector<double> objective;            ///< error the method minimises, relative to that of no weights, per iteration
  std::vector<std::string> notes;           ///< damping raised, fallbacks
};

namespace detail {
template <class R>
inline constexpr bool is_joint_result = false;
template <class Mask, class Codes, class Adapter>
inline constexpr bool is_joint_result<joint_result<Mask, Codes, Adapter>> = true;
} // namespace detail

/// `compress(W, calibration, ctx)` returns a joint_result. Laws: those of a pruner for its mask, of a quantizer for its codes,
/// of a low-rank solver for its adapter; the same for every executor.
///
/// `compress` may be a template, so that its linear algebra is compiled only where it is used.
template <class J>
concept joint_compressor = requires(J const& j, matrix_view<float const> w, calibration const& calib, context const& ctx) {
  requires detail::is_joint_result<decltype(j.compress(w, calib, ctx))>;
  { j.describe() } -> std::convertible_to<std::string>;
};

} // namespace SLIM_ABI
} // namespace slim
