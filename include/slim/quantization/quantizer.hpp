#pragma once
/// @file
/// The concepts of a quantizer and of what it returns.

#include "slim/calibration/calibration.hpp"

#include <concepts>
#include <string>

namespace slim {
inline namespace SLIM_ABI {

/// Codes of a matrix. `dequantize_into(V)` writes their values (V has the matrix's shape); `code_bits()` is what one code
/// costs, `side_bits()` what everything else does (scales, zero points, channel factors), in bits of the whole matrix.
template <class C>
concept quantized_matrix = requires(C const& codes, matrix_view<float> values, context const& ctx) {
  { codes.rows() } -> std::same_as<index_t>;
  { codes.cols() } -> std::same_as<index_t>;
  { codes.code_bits() } -> std::same_as<int>;
  { codes.side_bits() } -> std::same_as<double>;
  codes.dequantize_into(values, ctx);
};

/// `quantize(W, calibration, ctx)` returns codes. Laws: values lie on the documented grid; finite in, finite out; the same
/// for every executor. Input channels run along the columns of W (d_out x d_in).
template <class Q>
concept quantizer = requires(Q const& q, matrix_view<float const> w, calibration const& calib, context const& ctx) {
  { q.quantize(w, calib, ctx) } -> quantized_matrix;
  { q.describe() } -> std::convertible_to<std::string>;
};

/// Stored bits per weight when all codes are stored; 0 for an empty matrix.
template <quantized_matrix C>
[[nodiscard]] double bits_per_weight(C const& codes) {
  auto const size = static_cast<double>(codes.rows() * codes.cols());
  return size == 0.0 ? 0.0 : static_cast<double>(codes.code_bits()) + codes.side_bits() / size;
}

} // namespace SLIM_ABI
} // namespace slim
