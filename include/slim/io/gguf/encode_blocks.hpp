#pragma once
/// @file
/// Codes as the blocks of a ggml type, without rounding anything again: what ggml decodes from the bytes are the values of the
/// codes. Every block is decoded again and compared; where a type cannot hold the codes, a sentence says which part does not
/// fit. Source of the layouts: ggml `src/ggml-common.h`, `src/ggml-quants.c` (d99724f2).

#include "slim/core/context.hpp"
#include "slim/io/tensor.hpp"
#include "slim/pruning/mask.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <optional>

namespace slim {
inline namespace SLIM_ABI {

/// The type that llama-quantize takes instead where rows are no whole blocks of 256: the nearest one in blocks of 32, or F16
/// where not even those fit (llama.cpp 0c1e5709, `tensor_type_fallback`).
[[nodiscard]] constexpr tensor_type fallback_for_rows(tensor_type type, index_t cols) {
  if (cols % block_of(type).elements == 0) return type;
  tensor_type smaller = tensor_type::f16;
  if (type == tensor_type::iq4_xs) smaller = tensor_type::iq4_nl;
  if (type == tensor_type::q2_k || type == tensor_type::q3_k) smaller = tensor_type::q4_0;
  if (type == tensor_type::q4_k) smaller = tensor_type::q5_0;
  if (type == tensor_type::q5_k) smaller = tensor_type::q5_1;
  if (type == tensor_type::q6_k) smaller = tensor_type::q8_0;
  return cols % block_of(smaller).elements == 0 ? smaller : tensor_type::f16;
}

namespace detail {

/// A number as fp16, if that holds it exactly.
[[nodiscard]] inline std::optional<fp16> exact_half(float value) noexcept {
  fp16 const half(value);
  return static_cast<float>(half) == value ? std::optional(half) : std::nullopt;
}

/// Whether the scale of a group is negative in ggml's terms.
[[nodiscard]] inline bool is_mirrored(integer_codes const& codes, index_t i, index_t j) noexcept {
  return codes.signed_scales && codes.zero_at(i, j) != 0;
}

/// Levels of one run of columns that share a scale: w = scale * level + offset, level an integer.
struct level_run {
  float scale = 0, offset = 0;
  std::array<int, 32> levels = {};
};

/// The levels of `count` columns from (i, j) on, which share a scale. A weight that is not kept has the level whose value is 0
/// if there is one: decoding shows whether it is.
[[nodiscard]] inline level_run levels_at(integer_codes const& codes, mask const* kept, index_t i, index_t j, index_t count) {
  level_run run{codes.scale_at(i, j), codes.offset_at(i, j)};
  int const zero = codes.zero_at(i, j);
  int const nothing = run.scale > 0.0f ? static_cast<int>(std::nearbyint(-run.offset / run.scale)) : 0;
  for (index_t k = 0; k < count; ++k)
    run.levels[static_cast<std::size_t>(k)] = kept && !kept->kept(i, j + k) ? nothing : codes.codes(i, j + k) - zero;
  if (!is_mirrored(codes, i, j)) return run;
  run.scale = -run.scale;
  for (int& level : run.levels) level = -level;
  return run;
}

/// Whether `count` columns from j on share a scale: a boundary of groups does not lie inside.
[[nodiscard]] inline bool share_a_scale(integer_codes const& codes, index_t j, index_t count) noexcept {
  index_t const wide = codes.block.cols_of(codes.cols());
  return j / wide == (j + count - 1) / wide;
}

/// Nibbles as blocks of 32 have them: element k below element k + 16.
template <class Block, class Codes>
void set_nibbles(Block& block, Codes const& q) noexcept {
  for (std::size_t k = 0; k < 16; ++k) block.qs[k] = static_cast<std::uint8_t>((q[k] & 15) | ((q[k + 16] & 15) << 4));
}
template <class Block, class Codes>
void set_fifth_bits(Block& block, Codes const& q) noexcept {
  std::uint32_t high = 0;
  for (std::size_t k = 0; k < 32; ++k) high |= static_cast<std::uint32_t>((q[k] >> 4) & 1) << k;
  block.qh = std::bit_cast<std::array<std::uint8_t, 4>>(high);
}

/// The 12 bytes of eight 6-bit scales and minima: the inverse of range_of_group.
[[nodiscard]] inline std::array<std::uint8_t, 12> packed_ranges(std::array<std::uint8_t, 16> const& scale,
                                                                std::array<std::uint8_t, 16> const& minimum) noexcept {
  std::array<std::uint8_t, 12> out{};
  for (std::size_t g = 0; g < 4; ++g) {
    out[g] = static_cast<std::uint8_t>(scale[g] | ((scale[g + 4] >> 4) << 6));
    out[g + 4] = static_cast<std::uint8_t>(minimum[g] | ((minimum[g + 4] >> 4) << 6));
    out[g + 8] = static_cast<std::uint8_t>((scale[g + 4] & 15) | ((minimum[g + 4] & 15) << 4));
  }
  return out;
}

/// What fills one block, or says why it cannot. A type of 32 columns without a minimum: w = d (q - middle).
template <class Block>
[[nodiscard]] std::string fill_symmetric(Block& block, integer_codes const& codes, mask const* kept, index_t i, index_t j,
                                         int middle) {
  if (!share_a_scale(codes, j, 32)) return "groups of columns are no multiples of 32";
  level_run const run = levels_at(codes, kept, i, j, 32);
  auto const d = exact_half(run.scale);
  if (!d) return message("the scale ", run.scale, " is not a number of fp16");
  if (run.offset != 0.0f) return message("the offset ", run.offset, " has no place");
  std::array<int, 32> q{};
  for (std::size_t k = 0; k < 32; ++k) {
    q[k] = run.levels[k] + middle;
    if (q[k] < 0 || q[k] >= 2 * middle)
      return message("level ", run.levels[k], " is not in ", -middle, " to ", middle - 1, ": zero points have no place");
  }
  block.d = *d;
  if constexpr (requires { block.qh; }) set_fifth_bits(block, q);
  if constexpr (std::is_same_v<Block, ggml::block_q8_0>)
    for (std::size_t k = 0; k < 32; ++k) block.qs[k] = static_cast<std::int8_t>(run.levels[k]);
  else
    set_nibbles(block, q);
  return {};
}

/// A type of 32 columns with a minimum: w = d q + m, q from 0 to `highest`. Any level may be the lowest one whose value is a
/// number of fp16 and that leaves all levels of the block a code.
template <class Block>
[[nodiscard]] std::string fill_affine(Block& block, integer_codes const& codes, mask const* kept, index_t i, index_t j,
                                      int highest) {
  if (!share_a_scale(codes, j, 32)) return "groups of columns are no multiples of 32";
  level_run const run = levels_at(codes, kept, i, j, 32);
  auto const d = exact_half(run.scale);
  if (!d) return message("the scale ", run.scale, " is not a number of fp16");
  auto const [least, most] = std::minmax_element(run.levels.begin(), run.levels.end());
  int const wanted = codes.lowest_of(j / codes.block.cols_of(codes.cols())) - codes.zero_at(i, j); // as the codes have it
  if (*most - *least > highest) return message("levels from ", *least, " to ", *most, " are more than ", highest + 1);
  for (int step = 0; step <= 2 * highest + 2; ++step) {
    int const lowest = wanted + (step % 2 ? (step + 1) / 2 : -(step / 2)); // the wanted one, then the nearest
    if (lowest > *least || *most - lowest > highest) continue;
    auto const m = exact_half(run.scale * static_cast<float>(lowest) + run.offset);
    if (!m) continue;
    std::array<int, 32> q{};
    for (std::size_t k = 0; k < 32; ++k) q[k] = run.levels[k] - lowest;
    block.d = *d;
    block.m = *m;
    if constexpr (requires { block.qh; }) set_fifth_bits(block, q);
    set_nibbles(block, q);
    return {};
  }
  return message("no minimum of the scale ", run.scale, " times a level is a number of fp16");
}

/// The second level of a super-block: a step and small codes for `groups` groups.
struct super_block {
  fp16 d, dmin;
  std::array<std::uint8_t, 16> scale{}, minimum{};
  std::array<bool, 16> negative{}; ///< scales

  [[nodiscard]] int signed_scale(std::size_t g) const noexcept { return negative[g] ? -int{scale[g]} : int{scale[g]}; }
};

/// The second level of the columns from j on of row i: `groups` groups of `wide` columns, codes up to `top`. `lowest_level`,
/// for symmetric codes in a type with minima, is the level that becomes code 0: its minimum is that many scales.
[[nodiscard]] inline std::string read_super_block(super_block& out, integer_codes const& codes, index_t i, index_t j,
                                                  index_t wide, int groups, int top, bool with_minima) {
  auto const& second = codes.scales.stored();
  if (!codes.scales.has_second_level() || second.shifted || second.centered || second.format != number_format::fp16)
    return "scales have no second level with fp16 steps";
  if (codes.block.cols_of(codes.cols()) != wide || codes.block.rows_of(codes.rows()) != 1)
    return message("groups are not of ", wide, " columns of a row");
  if (second.block.rows_of(codes.scales.rows()) != 1 || second.block.cols_of(codes.scales.cols()) != groups)
    return message("the second level of scales does not belong to ", groups, " groups of a row");
  index_t const first = j / wide, b = first / groups;
  auto const read = [&](scale_table const& table, float sign, fp16& step, std::array<std::uint8_t, 16>& into) -> std::string {
    auto const d = exact_half(sign * table.steps()(i, b));
    if (!d) return message("the step ", table.steps()(i, b), " is not a number of fp16");
    step = *d;
    for (int g = 0; g < groups; ++g) {
      into[static_cast<std::size_t>(g)] = table.codes()(i, first + g);
      if (into[static_cast<std::size_t>(g)] > top)
        return message("a scale has the code ", int{table.codes()(i, first + g)}, ", possible are 0 to ", top);
    }
    return {};
  };
  if (std::string why = read(codes.scales, 1.0f, out.d, out.scale); !why.empty()) return why;
  for (int g = 0; g < groups; ++g) out.negative[static_cast<std::size_t>(g)] = is_mirrored(codes, i, j + g * wide);
  if (!with_minima) return codes.offsets.empty() ? std::string() : "offsets have no place";
  if (!codes.zeros.empty()) return "integer zero points have no place";
  if (codes.offsets.empty()) {
    auto const dmin = exact_half(codes.scales.steps()(i, b) * static_cast<float>(-codes.lowest()));
    if (!dmin) return "the step of the minima is not a number of fp16";
    out.dmin = *dmin;
    out.minimum = out.scale;
    return {};
  }
  auto const& minima = codes.offsets.stored();
  if (!codes.offsets.has_second_level() || minima.shifted || minima.centered || minima.format != number_format::fp16 ||
      minima.block != second.block)
    return "offsets have no second level as scales have it";
  return read(codes.offsets, -1.0f, out.dmin, out.minimum);
}

/// Levels of 256 columns as codes from 0 to `highest`; empty `why` if they fit.
[[nodiscard]] inline std::string read_codes(std::array<int, 256>& q, integer_codes const& codes, mask const* kept, index_t i,
                                            index_t j, index_t wide, int shift, int highest) {
  for (index_t k = 0; k < 256; k += wide) {
    level_run const run = levels_at(codes, kept, i, j + k, wide);
    for (index_t l = 0; l < wide; ++l) {
      int const code = run.levels[static_cast<std::size_t>(l)] + shift;
      if (code < 0 || code > highest) return message("level ", code - shift, " is not in ", -shift, " to ", highest - shift);
      q[static_cast<std::size_t>(k + l)] = code;
    }
  }
  return {};
}

/// Two bits of each code in 64 bytes, as q2_k and q3_k have them.
inline void set_low_pairs(std::array<std::uint8_t, 64>& qs, std::array<int, 256> const& q) noexcept {
  qs = {};
  for (std::size_t k = 0; k < 256; ++k) qs[k / 128 * 32 + k % 32] |= static_cast<std::uint8_t>((q[k] & 3) << (k / 32 % 4 * 2));
}

/// Level of the lowest code that weights have: with offsets they count from 0.
[[nodiscard]] inline int shift_of(integer_codes const& codes) noexcept { return codes.offsets.empty() ? -codes.lowest() : 0; }

[[nodiscard]] inline std::string fill(ggml::block_q4_0& b, integer_codes const& c, mask const* kept, index_t i, index_t j) {
  return fill_symmetric(b, c, kept, i, j, 8);
}
[[nodiscard]] inline std::string fill(ggml::block_q5_0& b, integer_codes const& c, mask const* kept, index_t i, index_t j) {
  return fill_symmetric(b, c, kept, i, j, 16);
}
[[nodiscard]] inline std::string fill(ggml::block_q8_0& b, integer_codes const& c, mask const* kept, index_t i, index_t j) {
  return fill_symmetric(b, c, kept, i, j, 128);
}
[[nodiscard]] inline std::string fill(ggml::block_q4_1& b, integer_codes const& c, mask const* kept, index_t i, index_t j) {
  return fill_affine(b, c, kept, i, j, 15);
}
[[nodiscard]] inline std::string fill(ggml::block_q5_1& b, integer_codes const& c, mask const* kept, index_t i, index_t j) {
  return fill_affine(b, c, kept, i, j, 31);
}

[[nodiscard]] inline std::string fill(ggml::block_q2_k& b, integer_codes const& c, mask const* kept, index_t i, index_t j) {
  super_block super;
  std::array<int, 256> q{};
  std::string why = read_super_block(super, c, i, j, 16, 16, 15, true);
  if (why.empty()) why = read_codes(q, c, kept, i, j, 16, shift_of(c), 3);
  for (std::size_t g = 0; g < 16; ++g) b.scales[g] = static_cast<std::uint8_t>(super.scale[g] | (super.minimum[g] << 4));
  set_low_pairs(b.qs, q);
  b.d = super.d;
  b.dmin = super.dmin;
  return why;
}

[[nodiscard]] inline std::string fill(ggml::block_q3_k& b, integer_codes const& c, mask const* kept, index_t i, index_t j) {
  super_block super;
  std::array<int, 256> q{};
  std::string why = read_super_block(super, c, i, j, 16, 16, 31, false);
  if (why.empty()) why = read_codes(q, c, kept, i, j, 16, 4, 7);
  b.hmask = {};
  for (std::size_t k = 0; k < 256; ++k) b.hmask[k % 32] |= static_cast<std::uint8_t>((q[k] >> 2) << (k / 32));
  set_low_pairs(b.qs, q);
  b.scales = {};
  for (std::size_t g = 0; g < 16; ++g) {
    int const scale = super.signed_scale(g) + 32;
    b.scales[g % 8] |= static_cast<std::uint8_t>((scale & 15) << (g / 8 * 4));
    b.scales[8 + g % 4] |= static_cast<std::uint8_t>((scale >> 4) << (g / 4 * 2));
  }
  b.d = super.d;
  return why;
}

/// q4_k and q5_k: groups 2 g and 2 g + 1 share 32 bytes, low and high nibbles.
template <class Block>
[[nodiscard]] std::string fill_k(Block& b, integer_codes const& c, mask const* kept, index_t i, index_t j, int highest) {
  super_block super;
  std::array<int, 256> q{};
  std::string why = read_super_block(super, c, i, j, 32, 8, 63, true);
  if (why.empty()) why = read_codes(q, c, kept, i, j, 32, shift_of(c), highest);
  b.d = super.d;
  b.dmin = super.dmin;
  b.scales = packed_ranges(super.scale, super.minimum);
  b.qs = {};
  for (std::size_t k = 0; k < 256; ++k)
    b.qs[k / 64 * 32 + k % 32] |= static_cast<std::uint8_t>((q[k] & 15) << (k / 32 % 2 * 4));
  if constexpr (requires { b.qh; }) {
    b.qh = {};
    for (std::size_t k = 0; k < 256; ++k) b.qh[k % 32] |= static_cast<std::uint8_t>((q[k] >> 4) << (k / 32));
  }
  return why;
}
[[nodiscard]] inline std::string fill(ggml::block_q4_k& b, integer_codes const& c, mask const* kept, index_t i, index_t j) {
  return fill_k(b, c, kept, i, j, 15);
}
[[nodiscard]] inline std::string fill(ggml::block_q5_k& b, integer_codes const& c, mask const* kept, index_t i, index_t j) {
  return fill_k(b, c, kept, i, j, 31);
}

[[nodiscard]] inline std::string fill(ggml::block_q6_k& b, integer_codes const& c, mask const* kept, index_t i, index_t j) {
  super_block super;
  std::array<int, 256> q{};
  std::string why = read_super_block(super, c, i, j, 16, 16, 127, false);
  if (why.empty()) why = read_codes(q, c, kept, i, j, 16, 32, 63);
  b.ql = {};
  b.qh = {};
  for (std::size_t k = 0; k < 256; ++k) {
    std::size_t const half = k / 128, quarter = k / 32 % 4;
    b.ql[half * 64 + quarter % 2 * 32 + k % 32] |= static_cast<std::uint8_t>((q[k] & 15) << (quarter / 2 * 4));
    b.qh[half * 32 + k % 32] |= static_cast<std::uint8_t>((q[k] >> 4) << (quarter * 2));
  }
  for (std::size_t g = 0; g < 16; ++g) b.scales[g] = static_cast<std::int8_t>(super.signed_scale(g));
  b.d = super.d;
  return why;
}

/// For each code of a book of 16 numbers, its position among the levels of IQ4; -1 where it is none of them.
[[nodiscard]] inline std::array<int, 16> positions_in_iq4(codebook_codes const& c, index_t i, index_t j) {
  std::array<int, 16> out{};
  float const* const book = c.book_at(i, j);
  for (std::size_t k = 0; k < 16; ++k) {
    auto const at = std::find_if(ggml::iq4_levels.begin(), ggml::iq4_levels.end(),
                                 [&](std::int8_t level) { return static_cast<float>(level) == book[k]; });
    out[k] = at == ggml::iq4_levels.end() ? -1 : static_cast<int>(at - ggml::iq4_levels.begin());
  }
  return out;
}

/// `count` codes of IQ4 from (i, j) on. A weight that is not kept gets code 8, the level nearest to 0: decoding shows whether
/// its scale is 0.
template <std::size_t Count>
[[nodiscard]] std::string iq4_codes(std::array<int, Count>& q, codebook_codes const& c, mask const* kept, index_t i,
                                    index_t j) {
  if (c.bits != 4 || c.dim != 1) return message("books are of ", c.levels(), " levels for ", c.dim, " columns");
  for (std::size_t k = 0; k < Count; ++k) {
    index_t const col = j + static_cast<index_t>(k);
    q[k] = kept && !kept->kept(i, col) ? 8 : positions_in_iq4(c, i, col)[c.codes(i, col)];
    if (q[k] < 0) return message("the level ", c.level_at(i, col), " is none of IQ4's");
  }
  return {};
}

[[nodiscard]] inline std::string fill(ggml::block_iq4_nl& b, codebook_codes const& c, mask const* kept, index_t i, index_t j) {
  std::array<int, 32> q{};
  std::string why = iq4_codes(q, c, kept, i, j);
  index_t const wide = c.block.cols_of(c.cols());
  if (j / wide != (j + 31) / wide) why = "groups of columns are no multiples of 32";
  auto const d = exact_half(c.scale_at(i, j));
  if (!d) return message("the scale ", c.scale_at(i, j), " is not a number of fp16");
  b.d = *d;
  set_nibbles(b, q);
  return why;
}

[[nodiscard]] inline std::string fill(ggml::block_iq4_xs& b, codebook_codes const& c, mask const* kept, index_t i, index_t j) {
  auto const& second = c.scales.stored();
  if (!c.scales.has_second_level() || second.shifted || second.format != number_format::fp16)
    return "scales have no second level with fp16 steps";
  if (c.block.cols_of(c.cols()) != 32 || c.block.rows_of(c.rows()) != 1 || second.block.rows_of(c.scales.rows()) != 1 ||
      second.block.cols_of(c.scales.cols()) != 8)
    return "scales are not those of 8 groups of 32 columns of a row";
  std::array<int, 256> q{};
  std::string why = iq4_codes(q, c, kept, i, j);
  auto const d = exact_half(c.scales.steps()(i, j / 256));
  if (!d) return message("the step ", c.scales.steps()(i, j / 256), " is not a number of fp16");
  b.d = *d;
  b.scales_h = 0;
  b.scales_l = {};
  for (std::size_t g = 0; g < 8; ++g) {
    int const scale = c.scales.codes()(i, j / 32 + static_cast<index_t>(g)) + 32 - second.zero_code();
    if (scale < 0 || scale > 63) return message("a scale has the code ", scale - 32, ", possible are -32 to 31");
    b.scales_l[g / 2] |= static_cast<std::uint8_t>((scale & 15) << (g % 2 * 4));
    b.scales_h = static_cast<std::uint16_t>(b.scales_h | ((scale >> 4) << (g * 2)));
    for (std::size_t k = 0; k < 16; ++k)
      b.qs[g * 16 + k] = static_cast<std::uint8_t>(q[g * 32 + k] | (q[g * 32 + k + 16] << 4));
  }
  return why;
}

/// All blocks of a matrix, each decoded again.
template <class Block, class Codes>
[[nodiscard]] result<std::vector<std::byte>> encode_all(Codes const& codes, mask const* kept, context const& ctx) {
  index_t const across = codes.cols() / Block::elements;
  std::vector<std::byte> bytes(static_cast<std::size_t>(codes.rows() * across) * sizeof(Block));
  std::vector<std::string> why(static_cast<std::size_t>(codes.rows()));
  ctx.parallel_for(codes.rows(), 16, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t b = 0; b < across && why[static_cast<std::size_t>(i)].empty(); ++b) {
        Block block{};
        index_t const j = b * Block::elements;
        std::string& wrong = why[static_cast<std::size_t>(i)];
        wrong = fill(block, codes, kept, i, j);
        if (!wrong.empty()) continue;
        float decoded[Block::elements];
        ggml::dequantize(block, decoded);
        for (index_t k = 0; k < Block::elements && wrong.empty(); ++k) {
          float const value = kept && !kept->kept(i, j + k) ? 0.0f : codes.value(i, j + k);
          if (!(decoded[k] == value)) wrong = message("column ", j + k, " would become ", decoded[k], " instead of ", value);
        }
        std::memcpy(bytes.data() + static_cast<std::size_t>(i * across + b) * sizeof(Block), &block, sizeof(Block));
      }
  });
  for (index_t i = 0; i < codes.rows(); ++i)
    if (auto const& wrong = why[static_cast<std::size_t>(i)]; !wrong.empty()) return failure{message("row ", i, ": ", wrong)};
  return bytes;
}

/// What holds for all types.
[[nodiscard]] inline std::string why_no_blocks(tensor_type type, index_t rows, index_t cols, mask const* kept,
                                               std::vector<float> const& factors) {
  if (kept && (kept->rows() != rows || kept->cols() != cols))
    return message("the mask is ", kept->rows(), " x ", kept->cols(), " for ", rows, " x ", cols, " codes");
  if (std::any_of(factors.begin(), factors.end(), [](float f) { return f != 1.0f; })) return "channel factors have no place";
  if (cols % block_of(type).elements != 0)
    return message("rows of ", cols, " are no whole blocks of ", block_of(type).elements);
  return {};
}

} // namespace detail

/// The rows of a matrix as blocks of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K. Weights outside `kept`
/// (null: none) are 0. What has to fit: scales in fp16 over whole blocks of 32 columns; for K-quants second-level scales in the
/// shape of `k_quant_grid`. Fails, naming row and reason, where the type cannot hold the codes exactly. @throws what
/// codes.check does
[[nodiscard]] inline result<std::vector<std::byte>> encode_blocks(tensor_type type, integer_codes const& codes,
                                                                  mask const* kept = nullptr, context const& ctx = {}) {
  codes.check("encode_blocks");
  auto const refuse = [&](std::string const& why) { return failure{message(name_of(type), ": ", why)}; };
  auto const named = [&](result<std::vector<std::byte>> made) { return made ? std::move(made) : refuse(made.why()); };
  if (std::string why = detail::why_no_blocks(type, codes.rows(), codes.cols(), kept, codes.channel_factors); !why.empty())
    return refuse(why);
  switch (type) {
  case tensor_type::q4_0: return named(detail::encode_all<ggml::block_q4_0>(codes, kept, ctx));
  case tensor_type::q4_1: return named(detail::encode_all<ggml::block_q4_1>(codes, kept, ctx));
  case tensor_type::q5_0: return named(detail::encode_all<ggml::block_q5_0>(codes, kept, ctx));
  case tensor_type::q5_1: return named(detail::encode_all<ggml::block_q5_1>(codes, kept, ctx));
  case tensor_type::q8_0: return named(detail::encode_all<ggml::block_q8_0>(codes, kept, ctx));
  case tensor_type::q2_k: return named(detail::encode_all<ggml::block_q2_k>(codes, kept, ctx));
  case tensor_type::q3_k: return named(detail::encode_all<ggml::block_q3_k>(codes, kept, ctx));
  case tensor_type::q4_k: return named(detail::encode_all<ggml::block_q4_k>(codes, kept, ctx));
  case tensor_type::q5_k: return named(detail::encode_all<ggml::block_q5_k>(codes, kept, ctx));
  case tensor_type::q6_k: return named(detail::encode_all<ggml::block_q6_k>(codes, kept, ctx));
  default: return refuse("is no type of evenly spaced levels");
  }
}

/// The rows of a matrix as blocks of IQ4_NL (an fp16 scale per 32 columns) or IQ4_XS (second-level scales, centered in 6 bits
/// or at most 5 bits, over 8 groups of 32 columns); the book holds `ggml::iq4_levels` in any order. As above.
[[nodiscard]] inline result<std::vector<std::byte>> encode_blocks(tensor_type type, codebook_codes const& codes,
                                                                  mask const* kept = nullptr, context const& ctx = {}) {
  codes.check("encode_blocks");
  auto const refuse = [&](std::string const& why) { return failure{message(name_of(type), ": ", why)}; };
  auto const named = [&](result<std::vector<std::byte>> made) { return made ? std::move(made) : refuse(made.why()); };
  if (std::string why = detail::why_no_blocks(type, codes.rows(), codes.cols(), kept, codes.channel_factors); !why.empty())
    return refuse(why);
  if (type == tensor_type::iq4_nl) return named(detail::encode_all<ggml::block_iq4_nl>(codes, kept, ctx));
  if (type == tensor_type::iq4_xs) return named(detail::encode_all<ggml::block_iq4_xs>(codes, kept, ctx));
  return refuse("is no type of a code book that is known here");
}

} // namespace SLIM_ABI
} // namespace slim
