#pragma once
/// @file
/// Layers that AWQ's software saved (AutoAWQ's "gemm" version: `qweight`, `qzeros`, `scales`) as integer_codes.

#include "slim/core/scalar.hpp"
#include "slim/interop/packed_words.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// The tensors of a layer as a checkpoint has them, row-major. Codes of 4 bits; the eight outputs of a word stand in the order
/// 0 2 4 6 1 3 5 7. Nothing is owned. The scaling of channels that AWQ searches is no part of them: it lies in the layer
/// before.
struct awq_arrays {
  index_t d_out = 0, d_in = 0;
  std::span<std::int32_t const> qweight; ///< d_in x (d_out / 8)
  std::span<std::int32_t const> qzeros;  ///< groups x (d_out / 8), zero points as they are
  std::span<fp16 const> scales;          ///< groups x d_out
};

/// The layer's weight is scale * (code - zero point), as the checkpoint says. @throws shape_error if an array has another size
/// than the others ask for.
[[nodiscard]] inline integer_codes from_awq(awq_arrays const& a) {
  constexpr int bits = 4, middle = 8;
  detail::require_words("from_awq", "d_out", a.d_out, bits);
  index_t const words = a.d_out / 8, groups = a.d_out > 0 ? std::ssize(a.scales) / a.d_out : 0;
  if (groups < 1 || a.d_in < 0 || a.d_in % groups != 0)
    throw shape_error(message("from_awq: ", a.scales.size(), " scales for ", a.d_out, " outputs of ", a.d_in, " channels"));
  detail::require_size("from_awq", "qweight", a.qweight.size(), a.d_in, words);
  detail::require_size("from_awq", "scales", a.scales.size(), groups, a.d_out);
  detail::require_size("from_awq", "qzeros", a.qzeros.size(), groups, words);
  constexpr index_t place[8] = {0, 4, 1, 5, 2, 6, 3, 7}; // of output i in its word
  auto const field = [&](std::span<std::int32_t const> rows, index_t row, index_t i) {
    return detail::word_field(rows.data() + row * words + i / 8, 1, place[i % 8], bits) - middle;
  };
  integer_codes out(a.d_out, a.d_in, bits, per_group(std::max<index_t>(a.d_in / groups, 1)), number_format::fp16);
  out.zeros = matrix<std::int8_t>(a.d_out, out.scales.cols());
  for (index_t i = 0; i < a.d_out; ++i) {
    for (index_t g = 0; g < out.scales.cols(); ++g) {
      out.scales(i, g) = static_cast<float>(a.scales[static_cast<std::size_t>(g * a.d_out + i)]);
      out.zeros(i, g) = static_cast<std::int8_t>(field(a.qzeros, g, i));
    }
    for (index_t j = 0; j < a.d_in; ++j) out.codes(i, j) = static_cast<std::int8_t>(field(a.qweight, j, i));
  }
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
