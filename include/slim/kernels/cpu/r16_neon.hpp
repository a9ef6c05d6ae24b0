#pragma once
/// @file
/// R16 products with NEON and its dot product extension (ARMv8.2): four rows per register, `sdot` adds the four products of a
/// row into its lane. See kernels/cpu/r16_kernels.hpp.

#include "slim/kernels/cpu/arm_dot.hpp"
#include "slim/kernels/cpu/r16_row_block.hpp"

#if SLIM_SIMD_ARM
namespace slim::inline SLIM_ABI {
namespace detail {

SLIM_SIMD_BEGIN_NEON_DOT
namespace neon {

#define SLIM_INLINE __attribute__((always_inline)) inline

template <int Bits>
SLIM_INLINE uint8x16_t shifted_right(uint8x16_t v) {
  if constexpr (Bits > 0) return vshrq_n_u8(v, Bits);
  if constexpr (Bits < 0) return vshlq_n_u8(v, -Bits);
  return v;
}

template <int T>
struct stage_sums {
  int32x4_t lane[T];
};

/// Columns 8 S .. 8 S + 7 of 4 rows of a 2:4 stage.
template <int S, int T>
SLIM_INLINE void sparse_step(std::uint8_t const* stage, std::int8_t const* x, stage_sums<T>& sums) {
  uint8x16_t const nibbles = vandq_u8(shifted_right<4 * (S % 2)>(vld1q_u8(stage + S / 2 * 64)), vdupq_n_u8(15));
  int8x16_t const codes = vsubq_s8(vreinterpretq_s8_u8(nibbles), vdupq_n_s8(8));
  uint8x16_t const second_group = vreinterpretq_u8_u32(vdupq_n_u32(0x04040000));
  uint8x16_t const columns = vorrq_u8(vandq_u8(shifted_right<2 * S>(vld1q_u8(stage + 128)), vdupq_n_u8(3)), second_group);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    std::int8_t const* const from = x + t * r16_stage_cols + 8 * S;
    int8x16_t const eight = vcombine_s8(vld1_s8(from), vld1_s8(from));
    sums.lane[t] = vdotq_s32(sums.lane[t], vqtbl1q_s8(eight, columns), codes);
  }
}

/// Codes of columns 4 S .. 4 S + 3 of 4 rows of a dense stage; those of 8 bits - 128.
template <r16_kind Kind, int S>
SLIM_INLINE int8x16_t dense_codes(std::uint8_t const* stage) {
  if constexpr (Kind == r16_kind::dense8) return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(stage + S * 64), vdupq_n_u8(128)));
  if constexpr (Kind == r16_kind::dense4)
    return vreinterpretq_s8_u8(vandq_u8(shifted_right<4 * (S % 2)>(vld1q_u8(stage + S / 2 * 64)), vdupq_n_u8(15)));
  uint8x16_t const low = vandq_u8(shifted_right<2 * (S % 4)>(vld1q_u8(stage + S / 4 * 64)), vdupq_n_u8(3));
  if constexpr (Kind == r16_kind::dense2) return vreinterpretq_s8_u8(low);
  return vreinterpretq_s8_u8(vorrq_u8(low, vandq_u8(shifted_right<S - 2>(vld1q_u8(stage + 128)), vdupq_n_u8(4))));
}

template <r16_kind Kind, int S, int T>
SLIM_INLINE void dense_step(std::uint8_t const* stage, std::int8_t const* x, stage_sums<T>& sums) {
  int8x16_t const codes = dense_codes<Kind, S>(stage);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    std::int32_t four;
    __builtin_memcpy(&four, x + t * r16_stage_cols + 4 * S, 4);
    sums.lane[t] = vdotq_s32(sums.lane[t], vreinterpretq_s8_s32(vdupq_n_s32(four)), codes);
  }
}

template <r16_kind Kind, int T>
SLIM_INLINE void stage_products(std::uint8_t const* stage, std::int8_t const* x, stage_sums<T>& sums) {
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums.lane[t] = vdupq_n_s32(0);
  if constexpr (Kind == r16_kind::sparse24) {
    sparse_step<0>(stage, x, sums);
    sparse_step<1>(stage, x, sums);
    sparse_step<2>(stage, x, sums);
    sparse_step<3>(stage, x, sums);
  } else {
    dense_step<Kind, 0>(stage, x, sums);
    dense_step<Kind, 1>(stage, x, sums);
    dense_step<Kind, 2>(stage, x, sums);
    dense_step<Kind, 3>(stage, x, sums);
    dense_step<Kind, 4>(stage, x, sums);
    dense_step<Kind, 5>(stage, x, sums);
    dense_step<Kind, 6>(stage, x, sums);
    dense_step<Kind, 7>(stage, x, sums);
  }
}

SLIM_INLINE float32x4_t header_scales(std::uint8_t const* header) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(header))); }

template <r16_kind Kind>
SLIM_INLINE float32x4_t header_zeros(r16_row_block const& a, std::uint8_t const* header) {
  if (!a.zero_points) return vdupq_n_f32(static_cast<float>(1 << (code_bits(Kind) - 1)));
  float const zeros[4] = {static_cast<float>(header[0]), static_cast<float>(header[1]), static_cast<float>(header[2]),
                          static_cast<float>(header[3])};
  return vld1q_f32(zeros);
}

/// One set of scales of four rows: `out` collects.
template <r16_kind Kind, int T>
SLIM_INLINE void quarter_of_set(r16_row_block const& a, std::uint8_t const* stage, std::uint8_t const* header, index_t quarter,
                                index_t stages, std::int8_t const* x, float const* scales, float const* sums, float* out) {
  float32x4_t part[T];
  float inputs[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    part[t] = vdupq_n_f32(0.0f);
    inputs[t] = 0.0f;
  }
  for (index_t s = 0; s < stages; ++s, stage += stage_bytes(Kind), x += T * r16_stage_cols, scales += T, sums += T) {
    stage_sums<T> products;
    stage_products<Kind>(stage + 16 * quarter, x, products);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      part[t] = vfmaq_n_f32(part[t], vcvtq_f32_s32(products.lane[t]), scales[t]);
      inputs[t] += sums[t];
    }
  }
  float32x4_t scale = vdupq_n_f32(1.0f), zero = vdupq_n_f32(0.0f);
  if (a.set_stages > 0) {
    scale = header_scales(header + 8 * quarter);
    if constexpr (Kind != r16_kind::sparse24) zero = header_zeros<Kind>(a, header + 2 * r16_rows + 4 * quarter);
  }
  if constexpr (Kind == r16_kind::dense8) zero = vsubq_f32(zero, vdupq_n_f32(128.0f)); // codes were taken - 128
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    if constexpr (Kind != r16_kind::sparse24) part[t] = vfmsq_n_f32(part[t], zero, inputs[t]);
    float* const y = out + t * r16_rows + 4 * quarter;
    vst1q_f32(y, vfmaq_f32(vld1q_f32(y), scale, part[t]));
  }
}

template <r16_kind Kind, int T>
inline void r16_product(r16_row_block const& a, std::int8_t const* x, float const* scales, float const* sums, float* out) {
  for (int k = 0; k < T * r16_rows; ++k) out[k] = 0.0f;
  index_t const per_set = a.set_stages > 0 ? a.set_stages : a.stage_count;
  std::uint8_t const* header = a.header;
  for (index_t first = 0; first < a.stage_count; first += per_set, header += a.set_bytes) {
    index_t const stages = a.stage_count - first < per_set ? a.stage_count - first : per_set;
    for (index_t quarter = 0; quarter < 4; ++quarter)
      quarter_of_set<Kind, T>(a, a.stages + first * stage_bytes(Kind), header, quarter, stages, x + first * T * r16_stage_cols,
                              scales + first * T, sums + first * T, out);
  }
}

#undef SLIM_INLINE

} // namespace neon
SLIM_SIMD_END

} // namespace detail
} // namespace slim::inline SLIM_ABI
#endif
