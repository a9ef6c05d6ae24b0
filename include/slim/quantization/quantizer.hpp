#pragma once
/// @file
/// The concept of a quantizer.

#include "slim/calibration/calibration.hpp"
#include "slim/quantization/quantized_matrix.hpp"

#include <concepts>
#include <string>

namespace slim {
inline namespace SLIM_ABI {

/// `quantize(W, calibration, ctx)` returns codes. Laws: values lie on the documented grid; finite in, finite out; the same
/// for every executor. Input channels run along the columns of W (d_out x d_in).
template <class Q>
concept quantizer = requires(Q const& q, matrix_view<float const> w, calibration const& calib, context const& ctx) {
  { q.quantize(w, calib, ctx) } -> quantized_matrix;
  { q.describe() } -> std::convertible_to<std::string>;
};

} // namespace SLIM_ABI
} // namespace slim
