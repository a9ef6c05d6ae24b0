#pragma once
/// @file
/// Codes in groups of equal size, as the formats of other software want them: a group of the codes is cut into parts that all
/// have its scale, so that nothing is rounded. And what holds for all of these formats.

#include "slim/interop/packed_words.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <algorithm>
#include <numeric>

namespace slim {
inline namespace SLIM_ABI {

/// The widest groups of equal size that no boundary of the codes' own groups cuts: 64 for groups of 128 in 576 columns.
[[nodiscard]] inline index_t even_group(integer_codes const& codes) {
  return std::gcd(codes.block.cols_of(codes.cols()), codes.cols());
}

/// The same codes with a scale (zero point, offset) of their own for every `group` columns of a row. Scales of a second level
/// become numbers. @throws config_error unless `group` divides even_group(codes); as codes.check
[[nodiscard]] inline integer_codes in_even_groups(integer_codes const& codes, index_t group) {
  codes.check("in_even_groups");
  if (group < 1 || even_group(codes) % group != 0)
    throw config_error(message("in_even_groups: groups of ", group, " do not divide the ", even_group(codes),
                               " columns that share a scale in each of ", codes.cols()));
  number_format const format = codes.scales.has_second_level() ? number_format::fp32 : codes.scales.format();
  integer_codes out(codes.rows(), codes.cols(), codes.bits, per_group(group), format);
  out.codes = codes.codes;
  out.channel_factors = codes.channel_factors;
  bool const with_zeros = !codes.zeros.empty(), with_offsets = !codes.offsets.empty();
  if (with_zeros) out.zeros = matrix<std::int8_t>(out.scales.rows(), out.scales.cols());
  if (with_offsets) out.offsets = scale_table(out.scales.rows(), out.scales.cols(), {.format = number_format::fp32});
  for (index_t g = 0; g < out.scales.cols() && !codes.group_bits.empty(); ++g)
    out.group_bits.push_back(codes.group_bits[static_cast<std::size_t>(g * group / codes.block.cols_of(codes.cols()))]);
  for (index_t i = 0; i < out.scales.rows(); ++i)
    for (index_t g = 0; g < out.scales.cols(); ++g) {
      out.scales(i, g) = codes.scale_at(i, g * group);
      if (with_zeros) out.zeros(i, g) = static_cast<std::int8_t>(codes.zero_at(i, g * group));
      if (with_offsets) out.offsets(i, g) = codes.offset_at(i, g * group);
    }
  return out;
}

/// Codes whose zero points are all 0 or -1, the signs of their scales (integer_codes::signed_scales; packed formats keep the
/// zero points alone), with negative scales in their place: the same values, without zero points, as symmetric formats of other
/// software want them. Other codes come back as they are. @throws as codes.check
[[nodiscard]] inline integer_codes with_negative_scales(integer_codes codes) {
  codes.check("with_negative_scales");
  auto const is_sign = [](std::int8_t zero) { return zero == 0 || zero == -1; };
  if (codes.zeros.empty() || !codes.group_bits.empty() || codes.scales.has_second_level() ||
      !std::all_of(codes.zeros.data(), codes.zeros.data() + codes.zeros.size(), is_sign))
    return codes;
  for (index_t i = 0; i < codes.rows(); ++i)
    for (index_t j = 0; j < codes.cols(); ++j)
      if (codes.zero_at(i, j) != 0) codes.codes(i, j) = static_cast<std::int8_t>(-1 - codes.codes(i, j));
  for (index_t k = 0; k < codes.zeros.size(); ++k)
    if (codes.zeros.data()[k] != 0) codes.scales.data()[k] = -codes.scales.data()[k];
  codes.zeros = {};
  codes.signed_scales = false;
  return codes;
}

/// The way back: codes whose scales are all positive, as packed formats want them. Where a scale s is negative, the code is -1
/// - q and the zero point -1 - z, with -s: the same values. Codes with offsets, which would change, come back as they are.
/// @throws as codes.check
[[nodiscard]] inline integer_codes with_positive_scales(integer_codes codes) {
  codes.check("with_positive_scales");
  bool const negative =
      std::any_of(codes.scales.data(), codes.scales.data() + codes.scales.size(), [](float s) { return s < 0; });
  if (!negative || !codes.offsets.empty() || !codes.group_bits.empty() || codes.scales.has_second_level()) return codes;
  if (codes.zeros.empty()) codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
  for (index_t i = 0; i < codes.rows(); ++i)
    for (index_t j = 0; j < codes.cols(); ++j)
      if (codes.scale_at(i, j) < 0.0f) codes.codes(i, j) = static_cast<std::int8_t>(-1 - codes.codes(i, j));
  for (index_t k = 0; k < codes.zeros.size(); ++k) {
    if (!(codes.scales.data()[k] < 0.0f)) continue;
    codes.scales.data()[k] = -codes.scales.data()[k];
    codes.zeros.data()[k] = static_cast<std::int8_t>(-1 - codes.zeros.data()[k]);
  }
  return codes;
}

namespace detail {

/// Why codes are none of what GPTQ, compressed-tensors and MLX hold; empty if they are: 2, 3, 4 or 8 bits everywhere, groups
/// of `group` columns, no factors of channels.
[[nodiscard]] inline std::string why_not_words(integer_codes const& codes, index_t group) {
  if (codes.bits != 2 && codes.bits != 3 && codes.bits != 4 && codes.bits != 8)
    return message("codes of ", codes.bits, " bits, it has 2, 3, 4 and 8");
  if (!codes.group_bits.empty()) return "groups of columns have bits of their own, which have no place";
  if (std::any_of(codes.channel_factors.begin(), codes.channel_factors.end(), [](float f) { return f != 1.0f; }))
    return "factors of input channels have no place";
  if (group < 1 || even_group(codes) % group != 0)
    return message("groups of ", group, " columns do not divide the ", even_group(codes), " that share a scale in each of ",
                   codes.cols());
  return {};
}

/// Why a table's numbers are not all of a format; empty if they are.
[[nodiscard]] inline std::string why_not_numbers_of(number_format format, scale_table const& table, char const* what) {
  for (index_t i = 0; i < table.rows(); ++i)
    for (index_t g = 0; g < table.cols(); ++g)
      if (rounded_to(format, table(i, g)) != table(i, g))
        return message(what, " ", table(i, g), " of row ", i, " is not a number of ", name_of(format));
  return {};
}

/// @throws config_error with the sentence, if there is one.
inline void require_none(std::string_view who, std::string const& why) {
  if (!why.empty()) throw config_error(message(who, ": ", why));
}

/// Rows of codes as streams of words, `code + shift` each.
[[nodiscard]] inline std::vector<std::int32_t> row_words(matrix<std::int8_t> const& codes, int bits, int shift,
                                                         context const& ctx) {
  index_t const across = words_of(codes.cols(), bits);
  std::vector<std::int32_t> words(static_cast<std::size_t>(codes.rows() * across));
  constexpr index_t rows_per_task = 32;
  ctx.parallel_for(codes.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < codes.cols(); ++j) set_word_field(words.data() + i * across, 1, j, bits, codes(i, j) + shift);
  });
  return words;
}

/// The inverse of row_words.
inline void codes_of_row_words(std::span<std::int32_t const> words, matrix<std::int8_t>& codes, int bits, int shift,
                               context const& ctx) {
  index_t const across = words_of(codes.cols(), bits);
  constexpr index_t rows_per_task = 32;
  ctx.parallel_for(codes.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < codes.cols(); ++j)
        codes(i, j) = static_cast<std::int8_t>(word_field(words.data() + i * across, 1, j, bits) - shift);
  });
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
