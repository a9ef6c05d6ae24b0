#pragma once
/// @file
/// Layers that GPTQ's software saved (AutoGPTQ, GPTQModel: `qweight`, `qzeros`, `scales`, `g_idx`) as integer_codes,
/// and back.

#include "slim/core/scalar.hpp"
#include "slim/interop/even_groups.hpp"
#include "slim/interop/packed_words.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <numeric>

namespace slim {
inline namespace SLIM_ABI {

/// The tensors of a layer as a checkpoint has them, row-major. Nothing is owned.
struct gptq_arrays {
  index_t d_out = 0, d_in = 0;
  int bits = 4;                             ///< 2, 3, 4 or 8
  std::span<std::int32_t const> qweight;    ///< (d_in * bits / 32) x d_out: codes of an output, along d_in, lowest bits first
  std::span<std::int32_t const> qzeros;     ///< groups x (d_out * bits / 32), along d_out
  std::span<fp16 const> scales;             ///< groups x d_out
  std::span<std::int32_t const> g_idx = {}; ///< d_in: the group of each channel; empty: groups of d_in / groups, in order
  bool zeros_are_one_less = true; ///< checkpoint_format "gptq"; false: "gptq_v2", which stores zero points as they are
};

/// What they stand for: column k of the codes is input channel order[k] (act-order), or channel k without an order. In a chain
/// or beside it that is `channel_permutation(order)`: X takes its columns in that order, `invert` brings W back.
struct gptq_codes {
  integer_codes codes;        ///< d_out x d_in; symmetric where every zero point is the middle
  std::vector<index_t> order; ///< of input channels; empty: as they are
};

/// The layer's weight is scale * (code - zero point), as the checkpoint says. @throws shape_error if an array has another size
/// than the others ask for; config_error on bits that GPTQ does not pack, a group that does not exist, or groups of `g_idx`
/// that are of different sizes.
[[nodiscard]] inline gptq_codes from_gptq(gptq_arrays const& a) {
  if (a.bits != 2 && a.bits != 3 && a.bits != 4 && a.bits != 8)
    throw config_error(message("from_gptq: ", a.bits, " bits, possible are 2, 3, 4 and 8"));
  detail::require_words("from_gptq", "d_in", a.d_in, a.bits);
  detail::require_words("from_gptq", "d_out", a.d_out, a.bits);
  index_t const groups = a.d_out > 0 ? std::ssize(a.scales) / a.d_out : 0;
  detail::require_size("from_gptq", "qweight", a.qweight.size(), a.d_in * a.bits / 32, a.d_out);
  detail::require_size("from_gptq", "scales", a.scales.size(), groups, a.d_out);
  detail::require_size("from_gptq", "qzeros", a.qzeros.size(), groups, a.d_out * a.bits / 32);
  if (groups < 1) throw shape_error(message("from_gptq: ", a.scales.size(), " scales for ", a.d_out, " outputs"));
  index_t const group = detail::blocks_of(a.d_in, groups);
  gptq_codes out{integer_codes(a.d_out, a.d_in, a.bits, per_group(group), number_format::fp16), {}};
  if (out.codes.scales.cols() != groups)
    throw shape_error(message("from_gptq: ", groups, " groups of scales do not divide ", a.d_in, " channels"));
  if (!a.g_idx.empty()) {
    detail::require_size("from_gptq", "g_idx", a.g_idx.size(), 1, a.d_in);
    std::vector<index_t> order(static_cast<std::size_t>(a.d_in));
    std::iota(order.begin(), order.end(), index_t{0});
    auto const group_of = [&](index_t j) { return a.g_idx[static_cast<std::size_t>(j)]; };
    for (index_t j = 0; j < a.d_in; ++j)
      if (group_of(j) < 0 || group_of(j) >= groups)
        throw config_error(message("from_gptq: g_idx puts channel ", j, " into group ", group_of(j), " of ", groups));
    std::stable_sort(order.begin(), order.end(), [&](index_t x, index_t y) { return group_of(x) < group_of(y); });
    for (index_t k = 0; k < a.d_in; ++k)
      if (group_of(order[static_cast<std::size_t>(k)]) != k / group)
        throw config_error(message("from_gptq: the groups of g_idx are not of ", group, " channels each"));
    if (!std::is_sorted(order.begin(), order.end())) out.order = std::move(order);
  }
  int const middle = 1 << (a.bits - 1);
  out.codes.zeros = matrix<std::int8_t>(a.d_out, groups);
  bool symmetric = true;
  for (index_t i = 0; i < a.d_out; ++i)
    for (index_t g = 0; g < groups; ++g) {
      out.codes.scales(i, g) = static_cast<float>(a.scales[static_cast<std::size_t>(g * a.d_out + i)]);
      int const stored = detail::word_field(a.qzeros.data() + g * (a.d_out * a.bits / 32), 1, i, a.bits);
      int const zero = stored + (a.zeros_are_one_less ? 1 : 0) - middle;
      if (zero > 127)
        throw config_error(message("from_gptq: the zero point of output ", i, ", group ", g, " is ", zero + middle));
      out.codes.zeros(i, g) = static_cast<std::int8_t>(zero);
      symmetric = symmetric && zero == 0;
    }
  if (symmetric) out.codes.zeros = {};
  for (index_t i = 0; i < a.d_out; ++i)
    for (index_t k = 0; k < a.d_in; ++k) {
      index_t const channel = out.order.empty() ? k : out.order[static_cast<std::size_t>(k)];
      out.codes.codes(i, k) =
          static_cast<std::int8_t>(detail::word_field(a.qweight.data() + i, a.d_out, channel, a.bits) - middle);
    }
  return out;
}

/// The tensors of a layer, owned; channels in order.
struct gptq_layer {
  index_t d_out = 0, d_in = 0;
  int bits = 4;
  std::vector<std::int32_t> qweight, qzeros, g_idx;
  std::vector<fp16> scales;
  bool zeros_are_one_less = true;

  [[nodiscard]] gptq_arrays arrays() const { return {d_out, d_in, bits, qweight, qzeros, scales, g_idx, zeros_are_one_less}; }
};

/// What of the codes the format cannot hold with groups of `group` columns; empty: nothing is lost. Version 1 of the format
/// (`zeros_are_one_less`) has no place for a zero point at the lowest code, version 2 none for one above the highest.
[[nodiscard]] inline std::string why_not_gptq(integer_codes const& codes, index_t group, bool zeros_are_one_less) {
  codes.check("why_not_gptq");
  if (std::string why = detail::why_not_words(codes, group); !why.empty()) return why;
  if (!codes.offsets.empty()) return "real offsets have no place, integer zero points have";
  for (index_t const extent : {codes.cols(), codes.rows()})
    if (extent * codes.bits % 32 != 0)
      return message("a layer of ", codes.rows(), " x ", codes.cols(), ": codes of ", codes.bits, " bits fill no whole words");
  int const shift = (1 << (codes.bits - 1)) - (zeros_are_one_less ? 1 : 0), most = (1 << codes.bits) - 1;
  for (index_t k = 0; k < codes.zeros.size(); ++k)
    if (int const stored = codes.zeros.data()[k] + shift; stored < 0 || stored > most)
      return message("zero point ", stored + (zeros_are_one_less ? 1 : 0), " has no place in version ",
                     zeros_are_one_less ? "1 (it stores one less), but in version 2" : "2, but in version 1");
  return detail::why_not_numbers_of(number_format::fp16, codes.scales, "the scale");
}

/// The codes as the format has them. @throws config_error with why_not_gptq's sentence; as codes.check_codes
[[nodiscard]] inline gptq_layer to_gptq(integer_codes const& codes, index_t group, bool zeros_are_one_less,
                                        context const& ctx = {}) {
  codes.check_codes("to_gptq");
  detail::require_none("to_gptq", why_not_gptq(codes, group, zeros_are_one_less));
  integer_codes const even = in_even_groups(codes, group);
  int const bits = codes.bits, middle = 1 << (bits - 1);
  index_t const d_out = codes.rows(), d_in = codes.cols(), groups = even.scales.cols(), zero_words = d_out * bits / 32;
  gptq_layer out{d_out, d_in, bits, {}, {}, {}, {}, zeros_are_one_less};
  out.qweight.resize(static_cast<std::size_t>(d_in * bits / 32 * d_out));
  out.qzeros.resize(static_cast<std::size_t>(groups * zero_words));
  out.scales.reserve(static_cast<std::size_t>(groups * d_out));
  constexpr index_t outputs_per_task = 32;
  ctx.parallel_for(d_out, outputs_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < d_in; ++j)
        detail::set_word_field(out.qweight.data() + i, d_out, j, bits, even.codes(i, j) + middle);
  });
  for (index_t g = 0; g < groups; ++g)
    for (index_t i = 0; i < d_out; ++i) {
      int const zero = even.zero_at(i, g * group) + middle - (zeros_are_one_less ? 1 : 0);
      detail::set_word_field(out.qzeros.data() + g * zero_words, 1, i, bits, zero);
      out.scales.emplace_back(even.scales(i, g));
    }
  for (index_t j = 0; j < d_in; ++j) out.g_idx.push_back(static_cast<std::int32_t>(j / group));
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
