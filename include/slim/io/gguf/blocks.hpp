#pragma once
/// @file
/// The block formats of ggml that language models are stored in, and what they mean. A block holds 32 or 256 neighbouring
/// weights of one row; all fields are little-endian. Source: ggml `src/ggml-common.h`, `src/ggml-quants.c` (d99724f2).
///
/// **Numerics** the products and sums below are those of ggml's reference code, in the same order, in float: values agree
/// bit for bit unless the compiler contracts `a * b + c` (it may where the build's flags allow FMA; one rounding less).

#include "slim/core/scalar.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace slim {
inline namespace SLIM_ABI {

static_assert(std::endian::native == std::endian::little, "slim: the file formats are little-endian, this machine is not");

namespace ggml {

/// w = (q - 8) d. Element j is the low nibble of qs[j], element j + 16 the high one; so in all formats of 32 with nibbles.
struct block_q4_0 {
  static constexpr int elements = 32;
  fp16 d;
  std::array<std::uint8_t, 16> qs;
};

/// w = q d + m.
struct block_q4_1 {
  static constexpr int elements = 32;
  fp16 d;
  fp16 m;
  std::array<std::uint8_t, 16> qs;
};

/// w = (q - 16) d; bit j of the 32-bit qh is the fifth bit of element j.
struct block_q5_0 {
  static constexpr int elements = 32;
  fp16 d;
  std::array<std::uint8_t, 4> qh;
  std::array<std::uint8_t, 16> qs;
};

/// w = q d + m; qh as in q5_0.
struct block_q5_1 {
  static constexpr int elements = 32;
  fp16 d;
  fp16 m;
  std::array<std::uint8_t, 4> qh;
  std::array<std::uint8_t, 16> qs;
};

/// w = q d.
struct block_q8_0 {
  static constexpr int elements = 32;
  fp16 d;
  std::array<std::int8_t, 32> qs;
};

/// Sixteen groups of 16 with 4-bit scale (low nibble) and minimum (high nibble) each: w = d scale q - dmin minimum.
struct block_q2_k {
  static constexpr int elements = 256;
  std::array<std::uint8_t, 16> scales;
  std::array<std::uint8_t, 64> qs;
  fp16 d;
  fp16 dmin;
};

/// Sixteen groups of 16 with a 6-bit scale each: w = d (scale - 32) (q - 4); bit k of hmask is the third bit of q.
struct block_q3_k {
  static constexpr int elements = 256;
  std::array<std::uint8_t, 32> hmask;
  std::array<std::uint8_t, 64> qs;
  std::array<std::uint8_t, 12> scales;
  fp16 d;
};

/// Eight groups of 32 with 6-bit scale and minimum each: w = d scale q - dmin minimum.
struct block_q4_k {
  static constexpr int elements = 256;
  fp16 d;
  fp16 dmin;
  std::array<std::uint8_t, 12> scales;
  std::array<std::uint8_t, 128> qs;
};

/// As q4_k, with a fifth bit: bit g of qh[l] belongs to element l of group g.
struct block_q5_k {
  static constexpr int elements = 256;
  fp16 d;
  fp16 dmin;
  std::array<std::uint8_t, 12> scales;
  std::array<std::uint8_t, 32> qh;
  std::array<std::uint8_t, 128> qs;
};

/// Sixteen groups of 16 with an 8-bit scale each: w = d scale (q - 32).
struct block_q6_k {
  static constexpr int elements = 256;
  std::array<std::uint8_t, 128> ql;
  std::array<std::uint8_t, 64> qh;
  std::array<std::int8_t, 16> scales;
  fp16 d;
};

/// w = d level(q), levels of iq4_levels.
struct block_iq4_nl {
  static constexpr int elements = 32;
  fp16 d;
  std::array<std::uint8_t, 16> qs;
};

/// Eight groups of 32 with a 6-bit scale each: w = d (scale - 32) level(q).
struct block_iq4_xs {
  static constexpr int elements = 256;
  fp16 d;
  std::uint16_t scales_h; ///< two high bits of each scale
  std::array<std::uint8_t, 4> scales_l;
  std::array<std::uint8_t, 128> qs;
};

/// The levels of IQ4_NL and IQ4_XS.
inline constexpr std::array<std::int8_t, 16> iq4_levels = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                           1,    13,   25,  38,  53,  69,  89,  113};

static_assert(sizeof(block_q2_k) == 84 && sizeof(block_q3_k) == 110 && sizeof(block_iq4_nl) == 18 &&
              sizeof(block_iq4_xs) == 136);
static_assert(sizeof(block_q4_0) == 18 && sizeof(block_q4_1) == 20 && sizeof(block_q5_0) == 22 && sizeof(block_q5_1) == 24 &&
              sizeof(block_q8_0) == 34 && sizeof(block_q4_k) == 144 && sizeof(block_q5_k) == 176 && sizeof(block_q6_k) == 210);

/// The value of binary16 bits, without branches, so that loops over it vectorise. Equal to fp16's conversion.
[[nodiscard]] inline float half_to_float(std::uint16_t bits) noexcept {
  std::uint32_t const magnitude = (bits & 0x7fffu) << 13;
  std::uint32_t const exponent = bits & 0x7c00u;
  float const subnormal = std::bit_cast<float>(magnitude + (113u << 23)) - std::bit_cast<float>(113u << 23); // exact
  std::uint32_t const shifted = magnitude + ((exponent == 0x7c00u ? 224u : 112u) << 23);
  std::uint32_t const value = exponent == 0 ? std::bit_cast<std::uint32_t>(subnormal) : shifted;
  return std::bit_cast<float>(value | (static_cast<std::uint32_t>(bits & 0x8000u) << 16));
}

/// Writes the 32 weights of a block.
inline void dequantize(block_q4_0 const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  for (std::size_t j = 0; j < 16; ++j) {
    out[j] = static_cast<float>((block.qs[j] & 15) - 8) * d;
    out[j + 16] = static_cast<float>((block.qs[j] >> 4) - 8) * d;
  }
}

inline void dequantize(block_q4_1 const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  float const m = half_to_float(block.m.bits);
  for (std::size_t j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(block.qs[j] & 15) * d + m;
    out[j + 16] = static_cast<float>(block.qs[j] >> 4) * d + m;
  }
}

namespace detail {

/// Splits the codes of a five-bit block of 32: low nibbles, high nibbles, and the fifth bits of qh.
template <class Block>
std::array<std::int32_t, 32> five_bit_codes(Block const& block) noexcept {
  std::uint32_t const high = std::bit_cast<std::uint32_t>(block.qh);
  std::array<std::int32_t, 32> codes;
  for (std::size_t j = 0; j < 16; ++j) {
    codes[j] = static_cast<std::int32_t>((block.qs[j] & 15u) | (((high >> j) & 1u) << 4));
    codes[j + 16] =
        static_cast<std::int32_t>((static_cast<std::uint32_t>(block.qs[j]) >> 4) | (((high >> (j + 16)) & 1u) << 4));
  }
  return codes;
}

/// Scale and minimum of group g in [0, 8) of a k-quant: 6 bits each, packed into 12 bytes.
struct group_range {
  std::uint8_t scale;
  std::uint8_t minimum;
};

inline group_range range_of_group(std::array<std::uint8_t, 12> const& packed, std::size_t g) noexcept {
  if (g < 4) return {static_cast<std::uint8_t>(packed[g] & 63), static_cast<std::uint8_t>(packed[g + 4] & 63)};
  return {static_cast<std::uint8_t>((packed[g + 4] & 15) | ((packed[g - 4] >> 6) << 4)),
          static_cast<std::uint8_t>((packed[g + 4] >> 4) | ((packed[g] >> 6) << 4))};
}

} // namespace detail

inline void dequantize(block_q5_0 const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  auto const codes = detail::five_bit_codes(block);
  for (std::size_t j = 0; j < 32; ++j) out[j] = static_cast<float>(codes[j] - 16) * d;
}

inline void dequantize(block_q5_1 const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  float const m = half_to_float(block.m.bits);
  auto const codes = detail::five_bit_codes(block);
  for (std::size_t j = 0; j < 32; ++j) out[j] = static_cast<float>(codes[j]) * d + m;
}

inline void dequantize(block_q8_0 const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  for (std::size_t j = 0; j < 32; ++j) out[j] = static_cast<float>(block.qs[j]) * d;
}

/// Writes the 256 weights of a block.
inline void dequantize(block_q4_k const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  float const dmin = half_to_float(block.dmin.bits);
  for (std::size_t g = 0; g < 8; ++g) { // groups 2i and 2i + 1 share 32 bytes: low and high nibbles
    detail::group_range const range = detail::range_of_group(block.scales, g);
    float const scale = d * static_cast<float>(range.scale);
    float const minimum = dmin * static_cast<float>(range.minimum);
    std::uint8_t const* const qs = block.qs.data() + (g / 2) * 32;
    int const shift = (g % 2) ? 4 : 0;
    for (std::size_t l = 0; l < 32; ++l) out[g * 32 + l] = scale * static_cast<float>((qs[l] >> shift) & 15) - minimum;
  }
}

inline void dequantize(block_q5_k const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  float const dmin = half_to_float(block.dmin.bits);
  for (std::size_t g = 0; g < 8; ++g) {
    detail::group_range const range = detail::range_of_group(block.scales, g);
    float const scale = d * static_cast<float>(range.scale);
    float const minimum = dmin * static_cast<float>(range.minimum);
    std::uint8_t const* const qs = block.qs.data() + (g / 2) * 32;
    int const shift = (g % 2) ? 4 : 0;
    for (std::size_t l = 0; l < 32; ++l) {
      int const code = ((qs[l] >> shift) & 15) + (((block.qh[l] >> g) & 1) << 4);
      out[g * 32 + l] = scale * static_cast<float>(code) - minimum;
    }
  }
}

inline void dequantize(block_q2_k const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  float const dmin = half_to_float(block.dmin.bits);
  for (std::size_t k = 0; k < 256; ++k) { // 128 weights share 32 bytes, two bits each
    std::uint8_t const range = block.scales[k / 16];
    int const code = (block.qs[k / 128 * 32 + k % 32] >> (k / 32 % 4 * 2)) & 3;
    out[k] = d * static_cast<float>(range & 15) * static_cast<float>(code) - dmin * static_cast<float>(range >> 4);
  }
}

namespace detail {

/// Scale of group g in [0, 16) of a block_q3_k, 0 to 63: four bits in the first eight bytes, two in the last four.
inline int scale_of_group(std::array<std::uint8_t, 12> const& packed, std::size_t g) noexcept {
  return ((packed[g % 8] >> (g / 8 * 4)) & 15) | (((packed[8 + g % 4] >> (g / 4 * 2)) & 3) << 4);
}

} // namespace detail

inline void dequantize(block_q3_k const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  for (std::size_t k = 0; k < 256; ++k) {
    int const low = (block.qs[k / 128 * 32 + k % 32] >> (k / 32 % 4 * 2)) & 3, high = (block.hmask[k % 32] >> (k / 32)) & 1;
    float const scale = d * static_cast<float>(detail::scale_of_group(block.scales, k / 16) - 32);
    out[k] = scale * static_cast<float>((low | (high << 2)) - 4);
  }
}

inline void dequantize(block_iq4_nl const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  for (std::size_t j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(iq4_levels[block.qs[j] & 15]);
    out[j + 16] = d * static_cast<float>(iq4_levels[block.qs[j] >> 4]);
  }
}

inline void dequantize(block_iq4_xs const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  for (std::size_t g = 0; g < 8; ++g) {
    int const scale = ((block.scales_l[g / 2] >> (g % 2 * 4)) & 15) | (((block.scales_h >> (g * 2)) & 3) << 4);
    float const step = d * static_cast<float>(scale - 32);
    for (std::size_t j = 0; j < 16; ++j) {
      std::uint8_t const pair = block.qs[g * 16 + j];
      out[g * 32 + j] = step * static_cast<float>(iq4_levels[pair & 15]);
      out[g * 32 + j + 16] = step * static_cast<float>(iq4_levels[pair >> 4]);
    }
  }
}

inline void dequantize(block_q6_k const& block, float* out) noexcept {
  float const d = half_to_float(block.d.bits);
  for (std::size_t half = 0; half < 2; ++half)
    for (std::size_t quarter = 0; quarter < 4; ++quarter) { // 32 elements: one 2-bit field of qh, one nibble of ql
      std::uint8_t const* const ql = block.ql.data() + half * 64 + (quarter % 2) * 32;
      std::uint8_t const* const qh = block.qh.data() + half * 32;
      std::int8_t const* const scales = block.scales.data() + half * 8 + quarter * 2;
      float* const y = out + half * 128 + quarter * 32;
      int const low_shift = quarter < 2 ? 0 : 4;
      int const high_shift = static_cast<int>(quarter) * 2;
      for (std::size_t l = 0; l < 32; ++l) {
        int const code = ((ql[l] >> low_shift) & 15) | (((qh[l] >> high_shift) & 3) << 4);
        // NOLINTNEXTLINE(bugprone-integer-division): an index
        y[l] = d * static_cast<float>(scales[l / 16]) * static_cast<float>(code - 32);
      }
    }
}

/// Writes `blocks * Block::elements` weights. The bytes need no alignment.
template <class Block>
void dequantize_blocks(std::byte const* bytes, std::ptrdiff_t blocks, float* out) noexcept {
  for (std::ptrdiff_t b = 0; b < blocks; ++b) {
    Block block;
    std::memcpy(&block, bytes + b * static_cast<std::ptrdiff_t>(sizeof(Block)), sizeof(Block));
    dequantize(block, out + b * Block::elements);
  }
}

} // namespace ggml
} // namespace SLIM_ABI
} // namespace slim
