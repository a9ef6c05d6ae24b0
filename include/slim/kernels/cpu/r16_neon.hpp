#pragma once
/// @file
/// R16 products with NEON and its dot product extension (ARMv8.2): four rows per register, `sdot` adds the four products of a
/// row into its lane. See kernels/cpu/r16_kernels.hpp.

#include "slim/kernels/cpu/arm_dot.hpp"
#include "slim/kernels/cpu/r16_walk.hpp"

#if SLIM_SIMD_ARM
namespace slim {
inline namespace SLIM_ABI {
namespace detail {

SLIM_SIMD_BEGIN_NEON_DOT
namespace neon {

#define SLIM_INLINE __attribute__((always_inline)) inline

inline constexpr index_t lanes = 4;
inline constexpr bool signed_bytes = true;

template <r16_kind Kind>
inline constexpr float code_unit = 1.0f;

typedef float32x4_t floats;
SLIM_INLINE floats every(float x) { return vdupq_n_f32(x); }
SLIM_INLINE floats fused(floats a, floats b, floats c) { return vfmaq_f32(c, a, b); }
SLIM_INLINE floats load(float const* from) { return vld1q_f32(from); }
SLIM_INLINE void store(floats v, float* to) { vst1q_f32(to, v); }

template <int Bits>
SLIM_INLINE uint8x16_t shifted_right(uint8x16_t v) {
  if constexpr (Bits > 0) return vshrq_n_u8(v, Bits);
  if constexpr (Bits < 0) return vshlq_n_u8(v, -Bits);
  return v;
}

typedef int8x16_t book_register;

template <r16_kind Kind>
SLIM_INLINE book_register book_of(r16_walk const& a) {
  if constexpr (has_book(Kind)) return vreinterpretq_s8_u8(vld1q_u8(a.book));
  return vdupq_n_s8(0);
}

template <int T>
struct integers {
  int32x4_t lane[T];
};

template <r16_kind Kind, int T>
SLIM_INLINE void clear(integers<T>& sums) {
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums.lane[t] = vdupq_n_s32(0);
}

template <r16_kind Kind, int T>
SLIM_INLINE void begin_stage(integers<T>&) {}
template <r16_kind Kind, int T>
SLIM_INLINE void end_stage(integers<T>&) {}

template <r16_kind Kind, int T>
SLIM_INLINE floats sum_of(integers<T> const& sums, int t) {
  return vcvtq_f32_s32(sums.lane[t]);
}

/// Columns 8 S .. 8 S + 7 of 4 rows of a 2:4 stage.
template <r16_kind Kind, int S, int T>
SLIM_INLINE void sparse_step(std::uint8_t const* stage, std::int8_t const* x, book_register book, integers<T>& sums) {
  uint8x16_t const nibbles = vandq_u8(shifted_right<4 * (S % 2)>(vld1q_u8(stage + 64 + S / 2 * 64)), vdupq_n_u8(15));
  int8x16_t const codes = has_book(Kind) ? vqtbl1q_s8(book, nibbles) : vsubq_s8(vreinterpretq_s8_u8(nibbles), vdupq_n_s8(8));
  uint8x16_t const second_group = vreinterpretq_u8_u32(vdupq_n_u32(0x04040000));
  uint8x16_t const columns = vorrq_u8(vandq_u8(shifted_right<2 * S>(vld1q_u8(stage)), vdupq_n_u8(3)), second_group);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    std::int8_t const* const from = x + t * r16_stage_cols + 8 * S;
    int8x16_t const eight = vcombine_s8(vld1_s8(from), vld1_s8(from));
    sums.lane[t] = vdotq_s32(sums.lane[t], vqtbl1q_s8(eight, columns), codes);
  }
}

/// Codes of steps 6 and 7 of a dense stage of 3 bits, in bits 2 .. 0 and 5 .. 3.
SLIM_INLINE uint8x16_t last_steps(std::uint8_t const* stage) {
  uint8x16_t const low = shifted_right<6>(vld1q_u8(stage)), middle = shifted_right<6>(vld1q_u8(stage + 64));
  uint8x16_t const high = shifted_right<6>(vld1q_u8(stage + 128));
  return vorrq_u8(low, vorrq_u8(vshlq_n_u8(middle, 2), vshlq_n_u8(high, 4)));
}

/// Codes of columns 4 S .. 4 S + 3 of 4 rows of a dense stage; those of a byte - 128.
template <r16_kind Kind, int S>
SLIM_INLINE int8x16_t dense_codes(std::uint8_t const* stage, book_register book) {
  if constexpr (Kind == r16_kind::dense8) return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(stage + S * 64), vdupq_n_u8(128)));
  if constexpr (Kind == r16_kind::dense4 || Kind == r16_kind::dense4_book) {
    uint8x16_t const codes = vandq_u8(shifted_right<4 * (S % 2)>(vld1q_u8(stage + S / 2 * 64)), vdupq_n_u8(15));
    return has_book(Kind) ? veorq_s8(vqtbl1q_s8(book, codes), vdupq_n_s8(-128)) : vreinterpretq_s8_u8(codes);
  }
  if constexpr (Kind == r16_kind::dense3) {
    uint8x16_t const two_steps = S < 6 ? vld1q_u8(stage + S / 2 * 64) : last_steps(stage);
    return vreinterpretq_s8_u8(vandq_u8(shifted_right<3 * (S % 2)>(two_steps), vdupq_n_u8(7)));
  }
  return vreinterpretq_s8_u8(vandq_u8(shifted_right<2 * (S % 4)>(vld1q_u8(stage + S / 4 * 64)), vdupq_n_u8(3)));
}

template <r16_kind Kind, int S, int T>
SLIM_INLINE void step(std::uint8_t const* stage, std::int8_t const* x, book_register book, integers<T>& sums) {
  if constexpr (is_sparse(Kind)) {
    sparse_step<Kind, S>(stage, x, book, sums);
  } else {
    int8x16_t const codes = dense_codes<Kind, S>(stage, book);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      std::int32_t four;
      __builtin_memcpy(&four, x + t * r16_stage_cols + 4 * S, 4);
      sums.lane[t] = vdotq_s32(sums.lane[t], vreinterpretq_s8_s32(vdupq_n_s32(four)), codes);
    }
  }
}

/// Levels of 4 rows: register v has those of row v.
struct row_books {
  int8x16_t of[4];
};

SLIM_INLINE row_books row_books_of(std::uint8_t const* books) {
  row_books found;
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) found.of[v] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(books + 64 * v), vdupq_n_u8(128)));
  return found;
}

/// Columns 16 (S / 4) .. + 15 of row S % 4.
template <r16_kind Kind, int S, int T>
SLIM_INLINE void book_step(std::uint8_t const* stage, std::int8_t const* x, row_books const& books, integers<4 * T>& sums) {
  int8x16_t const codes = dense_codes<plain_kind(Kind), S>(stage, books.of[0]);
  int8x16_t const levels = vqtbl1q_s8(books.of[S % 4], vreinterpretq_u8_s8(codes));
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    sums.lane[4 * t + S % 4] = vdotq_s32(sums.lane[4 * t + S % 4], vld1q_s8(x + t * r16_stage_cols + 16 * (S / 4)), levels);
}

/// Lane v: the sum of register v.
SLIM_INLINE floats sum_of_four(floats a, floats b, floats c, floats d) {
  return vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
}

typedef uint32x4_t fields; ///< codes of scales and offsets, 4 rows

SLIM_INLINE fields fields_of(std::uint8_t const* set) { return vmovl_u16(vreinterpret_u16_u8(vld1_u8(set))); }

SLIM_INLINE floats from_fields(fields codes, int shift, int bits, float step, float base) {
  uint32x4_t const code = vandq_u32(vshlq_u32(codes, vdupq_n_s32(-shift)), vdupq_n_u32((1u << bits) - 1u));
  return fused(vcvtq_f32_u32(code), every(step), every(base));
}

template <int Shift>
SLIM_INLINE floats from_three_bits(fields codes, float step, float base) {
  return from_fields(codes, Shift, 3, step, base);
}

template <int Count>
SLIM_INLINE void halves_to_floats(std::uint8_t const* halves, float* out) {
#pragma GCC unroll 2
  for (int k = 0; k < Count; k += 4) vst1q_f32(out + k, vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(halves + 2 * k))));
}

SLIM_INLINE floats scales_of(std::uint8_t const* header) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(header))); }

SLIM_INLINE floats zeros_of(std::uint8_t const* header) {
  float const zeros[4] = {static_cast<float>(header[0]), static_cast<float>(header[1]), static_cast<float>(header[2]),
                          static_cast<float>(header[3])};
  return vld1q_f32(zeros);
}

#include "slim/kernels/cpu/r16_product.inc"

#undef SLIM_INLINE

} // namespace neon
SLIM_SIMD_END

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
#endif
