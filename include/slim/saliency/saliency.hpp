#pragma once
/// @file
/// The two concepts of "how important is this weight".

#include "slim/calibration/calibration.hpp"

#include <concepts>
#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

namespace detail {
/// A scorer as algorithms hold it: a const lvalue.
template <class T>
std::remove_cvref_t<T> const& as_held(T&&) noexcept;
} // namespace detail

/// Ranks single weights. `prepare(W, calibration, ctx)` returns a scorer; `scorer(i, j)` is a float, asked of a const scorer
/// and from several threads. The scorer may refer to W and to the calibration, not to the context. Laws: finite for finite
/// input, pure, the same for every executor, larger = more important. `describe()` says what it is, for reports.
template <class S>
concept saliency = requires(S const& s, matrix_view<float const> w, calibration const& calib, context const& ctx) {
  { detail::as_held(s.prepare(w, calib, ctx))(index_t{}, index_t{}) } -> std::same_as<float>;
  { s.describe() } -> std::convertible_to<std::string>;
};

/// Weighs input channels, for adapters: F(E) = E diag(w). `channel_weights` returns d_in positive finite numbers, so that F
/// is additive and invertible, the two conditions SLiM puts on a saliency (arXiv 2410.09615, section 3.3).
template <class S>
concept linear_saliency = requires(S const& s, calibration const& calib) {
  { s.channel_weights(calib) } -> std::same_as<std::vector<float>>;
  { s.describe() } -> std::convertible_to<std::string>;
};

} // namespace SLIM_ABI
} // namespace slim
