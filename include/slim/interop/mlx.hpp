#pragma once
/// @file
/// Layers in MLX's affine quantization (mlx-lm): `weight`, `scales`, `biases`, w = scale * q + bias. Source: ml-explore/mlx
/// 0.32, mlx.core.quantize and dequantize.

#include "slim/interop/even_groups.hpp"
#include "slim/interop/packed_words.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// The tensors of a layer as a checkpoint has them, row-major. Nothing is owned.
struct mlx_arrays {
  index_t d_out = 0, d_in = 0;
  int bits = 4;                               ///< 2, 3, 4 or 8
  number_format format = number_format::fp16; ///< of scales and biases in the file
  std::span<std::int32_t const> weight;       ///< d_out x (d_in bits / 32): codes of a row from 0 on, lowest bits first (U32)
  std::span<float const> scales, biases;      ///< d_out x groups
};

/// The same, owned, in F16: with fewer bits the biases of most codes would be rounded.
struct mlx_layer {
  index_t d_out = 0, d_in = 0;
  int bits = 4;
  std::vector<std::int32_t> weight;
  matrix<float> scales, biases;

  [[nodiscard]] mlx_arrays arrays() const {
    auto const numbers = [](matrix<float> const& m) { return std::span(m.data(), static_cast<std::size_t>(m.size())); };
    return {d_out, d_in, bits, number_format::fp16, weight, numbers(scales), numbers(biases)};
  }
};

namespace detail {

/// The value of code 0 from 0 on: what MLX calls a bias. Exact in a float for scales of fp16 or bf16.
[[nodiscard]] inline float mlx_bias(integer_codes const& even, index_t i, index_t g) noexcept {
  float const lowest = even.scales(i, g) * static_cast<float>(even.lowest() - even.zero_at(i, g * even.block.cols));
  return lowest + even.offset_at(i, g * even.block.cols) + 0.0f; // no negative 0
}

} // namespace detail

/// What of the codes the format cannot hold with groups of `group` columns (32, 64 or 128); empty: nothing is lost.
[[nodiscard]] inline std::string why_not_mlx(integer_codes const& codes, index_t group) {
  codes.check("why_not_mlx");
  if (std::string why = detail::why_not_words(codes, group); !why.empty()) return why;
  if (group != 32 && group != 64 && group != 128) return message("groups of ", group, " columns, it has 32, 64 and 128");
  if (std::string why = detail::why_not_numbers_of(number_format::fp16, codes.scales, "the scale"); !why.empty()) return why;
  integer_codes const even = in_even_groups(codes, group);
  for (index_t i = 0; i < even.scales.rows(); ++i)
    for (index_t g = 0; g < even.scales.cols(); ++g)
      if (float const bias = detail::mlx_bias(even, i, g); rounded_to(number_format::fp16, bias) != bias)
        return message("scale ", even.scales(i, g), " times zero point (", bias, ") of row ", i,
                       " is not a number of fp16; scales of 8 significant bits (bf16) and at most 3 bits make it one");
  return {};
}

/// The codes as the format has them. @throws config_error with why_not_mlx's sentence; as codes.check_codes
[[nodiscard]] inline mlx_layer to_mlx(integer_codes const& codes, index_t group, context const& ctx = {}) {
  codes.check_codes("to_mlx");
  detail::require_none("to_mlx", why_not_mlx(codes, group));
  integer_codes const even = in_even_groups(codes, group);
  mlx_layer out{codes.rows(), codes.cols(), codes.bits, {}, even.scales.values(), {}};
  out.weight = detail::row_words(even.codes, codes.bits, 1 << (codes.bits - 1), ctx);
  out.biases = matrix<float>(out.scales.rows(), out.scales.cols());
  for (index_t i = 0; i < out.biases.rows(); ++i)
    for (index_t g = 0; g < out.biases.cols(); ++g) out.biases(i, g) = detail::mlx_bias(even, i, g);
  return out;
}

/// The layer's weight is scale * code + bias, as the checkpoint says: codes with zero points if every bias is a whole multiple
/// of its scale that the codes' bits have, else with offsets. @throws shape_error if an array has another size than the others
/// ask for; config_error on bits that are not written here.
[[nodiscard]] inline integer_codes from_mlx(mlx_arrays const& a, context const& ctx = {}) {
  if (a.bits != 2 && a.bits != 3 && a.bits != 4 && a.bits != 8)
    throw config_error(message("from_mlx: ", a.bits, " bits, possible are 2, 3, 4 and 8"));
  detail::require_extent("from_mlx", "d_out", a.d_out);
  detail::require_words("from_mlx", "d_in", a.d_in, a.bits);
  index_t const groups = a.d_out > 0 ? std::ssize(a.scales) / a.d_out : 0;
  if (groups < 1 || a.d_in < groups || a.d_in % groups != 0)
    throw shape_error(message("from_mlx: ", a.scales.size(), " scales for ", a.d_out, " outputs of ", a.d_in, " channels"));
  detail::require_size("from_mlx", "scales", a.scales.size(), a.d_out, groups);
  detail::require_size("from_mlx", "biases", a.biases.size(), a.d_out, groups);
  detail::require_size("from_mlx", "weight", a.weight.size(), a.d_out, a.d_in * a.bits / 32);
  integer_codes out(a.d_out, a.d_in, a.bits, per_group(a.d_in / groups), a.format);
  int const middle = 1 << (a.bits - 1);
  std::copy(a.scales.begin(), a.scales.end(), out.scales.data());
  detail::codes_of_row_words(a.weight, out.codes, a.bits, middle, ctx);
  matrix<std::int8_t> zeros(a.d_out, groups);
  bool whole = true, symmetric = true;
  for (index_t k = 0; k < zeros.size(); ++k) {
    auto const at = static_cast<std::size_t>(k);
    float const level = a.scales[at] == 0.0f ? static_cast<float>(middle) : -a.biases[at] / a.scales[at];
    float const inside = std::min(std::max(std::nearbyint(level), 0.0f), static_cast<float>(2 * middle - 1));
    whole = whole && a.scales[at] * inside == -a.biases[at];
    zeros.data()[k] = static_cast<std::int8_t>(static_cast<int>(inside) - middle);
    symmetric = symmetric && zeros.data()[k] == 0;
  }
  if (whole && !symmetric) out.zeros = std::move(zeros);
  if (whole) return out;
  out.offsets = scale_table(a.d_out, groups, {.format = a.format});
  std::copy(a.biases.begin(), a.biases.end(), out.offsets.data());
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
