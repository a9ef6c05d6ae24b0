#pragma once
/// @file
/// Layers in the format `pack-quantized` of compressed-tensors (vLLM, transformers, SGLang): `weight_packed`, `weight_scale`,
/// `weight_zero_point`. Source: vllm-project/compressed-tensors, src/compressed_tensors/compressors/pack_quantized; codes of 3
/// bits as a dense stream, as from its pull request 732 on.

#include "slim/interop/even_groups.hpp"
#include "slim/interop/packed_words.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// The tensors of a layer as a checkpoint has them, row-major. Nothing is owned.
struct pack_quantized_arrays {
  index_t d_out = 0, d_in = 0;
  int bits = 4;                                         ///< 2, 3, 4 or 8
  number_format scale_format = number_format::fp16;     ///< of weight_scale in the file
  std::span<std::int32_t const> weight_packed;          ///< d_out x ceil(d_in bits / 32): codes of a row, lowest bits first
  std::span<float const> weight_scale;                  ///< d_out x groups
  std::span<std::int32_t const> weight_zero_point = {}; ///< ceil(d_out bits / 32) x groups, along d_out; empty: symmetric
};

/// The same, owned.
struct pack_quantized_layer {
  index_t d_out = 0, d_in = 0;
  int bits = 4;
  number_format scale_format = number_format::fp16;
  std::vector<std::int32_t> weight_packed, weight_zero_point;
  matrix<float> weight_scale;

  [[nodiscard]] pack_quantized_arrays arrays() const {
    return {d_out,
            d_in,
            bits,
            scale_format,
            weight_packed,
            {weight_scale.data(), static_cast<std::size_t>(weight_scale.size())},
            weight_zero_point};
  }
};

/// What of the codes the format cannot hold with groups of `group` columns and scales of `format`; empty: nothing is lost.
[[nodiscard]] inline std::string why_not_pack_quantized(integer_codes const& codes, index_t group,
                                                        number_format format = number_format::fp16) {
  codes.check("why_not_pack_quantized");
  if (std::string why = detail::why_not_words(codes, group); !why.empty()) return why;
  if (!codes.offsets.empty()) return "real offsets have no place, integer zero points have";
  if (!codes.has_zero()) return "a zero point lies outside the codes' bits";
  return detail::why_not_numbers_of(format, codes.scales, "the scale");
}

/// The codes as the format has them: stored as code + 2^(bits - 1), zero points likewise. @throws config_error with
/// why_not_pack_quantized's sentence; as codes.check_codes
[[nodiscard]] inline pack_quantized_layer to_pack_quantized(integer_codes const& codes, index_t group,
                                                            number_format format = number_format::fp16,
                                                            context const& ctx = {}) {
  codes.check_codes("to_pack_quantized");
  detail::require_none("to_pack_quantized", why_not_pack_quantized(codes, group, format));
  integer_codes const even = in_even_groups(codes, group);
  int const middle = 1 << (codes.bits - 1);
  pack_quantized_layer out{codes.rows(), codes.cols(), codes.bits, format, {}, {}, even.scales.values()};
  out.weight_packed = detail::row_words(even.codes, codes.bits, middle, ctx);
  if (even.zeros.empty()) return out;
  index_t const groups = even.zeros.cols();
  out.weight_zero_point.resize(static_cast<std::size_t>(detail::words_of(codes.rows(), codes.bits) * groups));
  for (index_t i = 0; i < codes.rows(); ++i)
    for (index_t g = 0; g < groups; ++g)
      detail::set_word_field(out.weight_zero_point.data() + g, groups, i, codes.bits, even.zeros(i, g) + middle);
  return out;
}

/// The layer's weight is scale * (code - zero point), as the checkpoint says. @throws shape_error if an array has another size
/// than the others ask for; config_error on bits that are not written here, or scales that do not divide the channels.
[[nodiscard]] inline integer_codes from_pack_quantized(pack_quantized_arrays const& a, context const& ctx = {}) {
  if (a.bits != 2 && a.bits != 3 && a.bits != 4 && a.bits != 8)
    throw config_error(message("from_pack_quantized: ", a.bits, " bits, possible are 2, 3, 4 and 8"));
  detail::require_extent("from_pack_quantized", "d_in", a.d_in);
  detail::require_extent("from_pack_quantized", "d_out", a.d_out);
  index_t const groups = a.d_out > 0 ? std::ssize(a.weight_scale) / a.d_out : 0;
  if (groups < 1 || a.d_in % groups != 0 || a.d_in < groups)
    throw shape_error(
        message("from_pack_quantized: ", a.weight_scale.size(), " scales for ", a.d_out, " outputs of ", a.d_in, " channels"));
  detail::require_size("from_pack_quantized", "weight_scale", a.weight_scale.size(), a.d_out, groups);
  detail::require_size("from_pack_quantized", "weight_packed", a.weight_packed.size(), a.d_out,
                       detail::words_of(a.d_in, a.bits));
  if (!a.weight_zero_point.empty())
    detail::require_size("from_pack_quantized", "weight_zero_point", a.weight_zero_point.size(),
                         detail::words_of(a.d_out, a.bits), groups);
  integer_codes out(a.d_out, a.d_in, a.bits, per_group(a.d_in / groups), a.scale_format);
  int const middle = 1 << (a.bits - 1);
  std::copy(a.weight_scale.begin(), a.weight_scale.end(), out.scales.data());
  detail::codes_of_row_words(a.weight_packed, out.codes, a.bits, middle, ctx);
  if (a.weight_zero_point.empty()) return out;
  out.zeros = matrix<std::int8_t>(a.d_out, groups);
  for (index_t i = 0; i < a.d_out; ++i)
    for (index_t g = 0; g < groups; ++g)
      out.zeros(i, g) =
          static_cast<std::int8_t>(detail::word_field(a.weight_zero_point.data() + g, groups, i, a.bits) - middle);
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
