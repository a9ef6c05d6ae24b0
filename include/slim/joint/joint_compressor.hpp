#pragma once
/// @file
/// The concept of a method that prunes and quantizes together, and what it returns.

#include "slim/calibration/calibration.hpp"
#include "slim/quantization/codes/plain_values.hpp"
#include "slim/quantization/sparse_codes.hpp"

#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// What a joint method made of W: codes on a mask, an adapter. Parts that it does not make have type `none`, values that it
/// does not quantize are `plain_values`.
template <class Mask = none, class Codes = plain_values, class Adapter = none>
struct joint_result {
  sparse_codes<Mask, Codes> weight;        ///< W_c, d_out x d_in
  [[no_unique_address]] Adapter adapter{}; ///< slim::adapter
  std::vector<double> objective;           ///< error the method minimises, relative to that of no weights, per iteration
  std::vector<std::string> notes;          ///< damping raised, fallbacks
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
