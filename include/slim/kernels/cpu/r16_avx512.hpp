#pragma once
/// @file
/// R16 products with AVX-512 VNNI: a register holds one step of 16 rows, `vpdpbusd` adds the four products of a row into its
/// lane. See kernels/cpu/r16_kernels.hpp.

#include "slim/kernels/cpu/r16_walk.hpp"
#include "slim/simd/levels.hpp"

#if SLIM_SIMD_X86
namespace slim {
inline namespace SLIM_ABI {
namespace detail {

SLIM_SIMD_BEGIN_AVX512_VNNI
namespace avx512vnni {

#define SLIM_INLINE __attribute__((always_inline)) inline

inline constexpr index_t lanes = 16;
inline constexpr bool signed_bytes = false;

/// The forms without a mask read an undefined register, which g++ 12 warns about; the code is the same.
inline constexpr __mmask16 every_lane = 0xffff;

typedef __m512 floats;
SLIM_INLINE floats every(float x) { return _mm512_set1_ps(x); }
SLIM_INLINE floats fused(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
SLIM_INLINE floats load(float const* from) { return _mm512_loadu_ps(from); }
SLIM_INLINE void store(floats v, float* to) { _mm512_storeu_ps(to, v); }

SLIM_INLINE __m512i vector_at(std::uint8_t const* p) { return _mm512_loadu_si512(p); }
SLIM_INLINE __m512i bytes_of(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }

template <int Bits>
SLIM_INLINE __m512i shifted_right(__m512i v) {
  if constexpr (Bits > 0) return _mm512_srli_epi16(v, Bits);
  if constexpr (Bits < 0) return _mm512_slli_epi16(v, -Bits);
  return v;
}

/// Four neighbouring inputs of a vector, in every lane.
SLIM_INLINE __m512i four_inputs(std::int8_t const* x) {
  int four;
  __builtin_memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}

SLIM_INLINE __m512i eight_inputs(std::int8_t const* x) {
  long long eight;
  __builtin_memcpy(&eight, x, 8);
  return _mm512_set1_epi64(eight);
}

typedef __m512i book_register;

template <r16_kind Kind>
SLIM_INLINE book_register book_of(r16_walk const& a) {
  if constexpr (has_book(Kind))
    return _mm512_maskz_broadcast_i32x4(every_lane, _mm_loadu_si128(reinterpret_cast<__m128i const*>(a.book)));
  return _mm512_setzero_si512();
}

template <int T>
struct integers {
  __m512i lane[T];
  __m512i offset; ///< what the 128 in the inputs of 2:4 codes adds
};

template <r16_kind Kind, int T>
SLIM_INLINE void clear(integers<T>& sums) {
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums.lane[t] = _mm512_setzero_si512();
  sums.offset = _mm512_setzero_si512();
}

template <r16_kind Kind, int T>
SLIM_INLINE void begin_stage(integers<T>&) {}
template <r16_kind Kind, int T>
SLIM_INLINE void end_stage(integers<T>&) {}

template <r16_kind Kind, int T>
SLIM_INLINE floats sum_of(integers<T> const& sums, int t) {
  return _mm512_maskz_cvtepi32_ps(every_lane, is_sparse(Kind) ? _mm512_sub_epi32(sums.lane[t], sums.offset) : sums.lane[t]);
}

/// What the codes of a kernel are multiplied in: one in the upper half of its byte is 16 times itself, with its sign, and needs
/// no subtraction of 8.
template <r16_kind Kind>
inline constexpr float code_unit = Kind == r16_kind::sparse24 ? 1.0f / 16 : 1.0f;

/// Codes of columns 8 S .. 8 S + 7 of a 2:4 stage.
template <r16_kind Kind, int S>
SLIM_INLINE __m512i sparse_codes(std::uint8_t const* stage, book_register book) {
  __m512i const two_steps = vector_at(stage + 64 + S / 2 * 64);
  if constexpr (has_book(Kind)) {
    return _mm512_shuffle_epi8(book, _mm512_and_si512(shifted_right<4 * (S % 2)>(two_steps), bytes_of(15)));
  } else {
    constexpr int first_xor_second_and_third = 0x28; // the stored top bit is 1 where the sign is +
    return _mm512_ternarylogic_epi32(shifted_right<4 * (S % 2) - 4>(two_steps), bytes_of(0x80), bytes_of(0xf0),
                                     first_xor_second_and_third);
  }
}

/// Columns 8 S .. 8 S + 7 of a 2:4 stage. Inputs are stored + 128.
template <r16_kind Kind, int S, int T>
SLIM_INLINE void sparse_step(std::uint8_t const* stage, std::int8_t const* x, book_register book, integers<T>& sums) {
  __m512i const codes = sparse_codes<Kind, S>(stage, book);
  __m512i const second_group = _mm512_set1_epi32(0x04040000);
  __m512i const columns = // (bits & 3) | 4 for the second group of the step
      _mm512_ternarylogic_epi32(shifted_right<2 * S>(vector_at(stage)), bytes_of(3), second_group, 0xEA);
  sums.offset = _mm512_dpbusd_epi32(sums.offset, bytes_of(128), codes);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    __m512i const kept = _mm512_shuffle_epi8(eight_inputs(x + t * r16_stage_cols + 8 * S), columns);
    sums.lane[t] = _mm512_dpbusd_epi32(sums.lane[t], kept, codes);
  }
}

/// Codes of steps 6 and 7 of a dense stage of 3 bits, in bits 2 .. 0 and 5 .. 3; above them anything.
SLIM_INLINE __m512i last_steps(std::uint8_t const* stage) {
  constexpr int first_where_second_else_third = 0xe2;
  __m512i const high = _mm512_ternarylogic_epi32(shifted_right<4>(vector_at(stage + 64)), bytes_of(0x0c),
                                                 shifted_right<2>(vector_at(stage + 128)), first_where_second_else_third);
  return _mm512_ternarylogic_epi32(shifted_right<6>(vector_at(stage)), bytes_of(3), high, first_where_second_else_third);
}

/// Codes of columns 4 S .. 4 S + 3 of a dense stage.
template <r16_kind Kind, int S>
SLIM_INLINE __m512i dense_codes(std::uint8_t const* stage, book_register book) {
  if constexpr (Kind == r16_kind::dense8) return vector_at(stage + S * 64);
  if constexpr (Kind == r16_kind::dense4 || Kind == r16_kind::dense4_book) {
    __m512i const codes = _mm512_and_si512(shifted_right<4 * (S % 2)>(vector_at(stage + S / 2 * 64)), bytes_of(15));
    return has_book(Kind) ? _mm512_shuffle_epi8(book, codes) : codes;
  }
  if constexpr (Kind == r16_kind::dense3) {
    __m512i const two_steps = S < 6 ? vector_at(stage + S / 2 * 64) : last_steps(stage);
    return _mm512_and_si512(shifted_right<3 * (S % 2)>(two_steps), bytes_of(7));
  }
  return _mm512_and_si512(shifted_right<2 * (S % 4)>(vector_at(stage + S / 4 * 64)), bytes_of(3));
}

template <r16_kind Kind, int S, int T>
SLIM_INLINE void step(std::uint8_t const* stage, std::int8_t const* x, book_register book, integers<T>& sums) {
  if constexpr (is_sparse(Kind)) {
    sparse_step<Kind, S>(stage, x, book, sums);
  } else {
    __m512i const codes = dense_codes<Kind, S>(stage, book);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t)
      sums.lane[t] = _mm512_dpbusd_epi32(sums.lane[t], codes, four_inputs(x + t * r16_stage_cols + 4 * S));
  }
}

/// Levels + 128 of 16 rows: lane l of register v has those of row 4 l + v.
struct row_books {
  __m512i of[4];
};

SLIM_INLINE row_books row_books_of(std::uint8_t const* books) {
  return {{vector_at(books), vector_at(books + 64), vector_at(books + 128), vector_at(books + 192)}};
}

/// Columns 16 (S / 4) .. + 15 of rows 4 l + S % 4.
template <r16_kind Kind, int S, int T>
SLIM_INLINE void book_step(std::uint8_t const* stage, std::int8_t const* x, row_books const& books, integers<4 * T>& sums) {
  __m512i const codes = dense_codes<plain_kind(Kind), S>(stage, _mm512_setzero_si512());
  __m512i const levels = _mm512_shuffle_epi8(books.of[S % 4], codes);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    __m128i const inputs = _mm_loadu_si128(reinterpret_cast<__m128i const*>(x + t * r16_stage_cols + 16 * (S / 4)));
    __m512i& sum = sums.lane[4 * t + S % 4];
    sum = _mm512_dpbusd_epi32(sum, levels, _mm512_maskz_broadcast_i32x4(every_lane, inputs));
  }
}

/// Lane 4 l + v: the sum of the four of lane l of register v.
SLIM_INLINE floats sum_of_four(floats a, floats b, floats c, floats d) {
  constexpr __mmask8 all = 0xff;
  floats const ab = _mm512_maskz_unpacklo_ps(every_lane, a, b) + _mm512_maskz_unpackhi_ps(every_lane, a, b);
  floats const cd = _mm512_maskz_unpacklo_ps(every_lane, c, d) + _mm512_maskz_unpackhi_ps(every_lane, c, d);
  return _mm512_castpd_ps(_mm512_maskz_unpacklo_pd(all, _mm512_castps_pd(ab), _mm512_castps_pd(cd))) +
         _mm512_castpd_ps(_mm512_maskz_unpackhi_pd(all, _mm512_castps_pd(ab), _mm512_castps_pd(cd)));
}

typedef __m512i fields; ///< codes of scales and offsets, 16 rows

SLIM_INLINE fields fields_of(std::uint8_t const* set) {
  return _mm512_maskz_cvtepu16_epi32(every_lane, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(set)));
}

SLIM_INLINE floats from_fields(fields codes, int shift, int bits, float step, float base) {
  __m512i const moved = _mm512_maskz_srl_epi32(every_lane, codes, _mm_cvtsi32_si128(shift));
  __m512i const code = _mm512_and_si512(moved, _mm512_set1_epi32((1 << bits) - 1));
  return fused(_mm512_maskz_cvtepi32_ps(every_lane, code), every(step), every(base));
}

/// The same of 3 bits: one of eight values, all of which are made first. (The number of a lane has four bits, the table twice
/// eight.)
template <int Shift>
SLIM_INLINE floats from_three_bits(fields codes, float step, float base) {
  floats const eight = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
  return _mm512_maskz_permutexvar_ps(every_lane, _mm512_maskz_srli_epi32(every_lane, codes, Shift),
                                     fused(eight, every(step), every(base)));
}

template <int Count>
SLIM_INLINE void halves_to_floats(std::uint8_t const* halves, float* out) {
  if constexpr (Count == 8)
    _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(halves))));
  else
    _mm_storeu_ps(out, _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(halves))));
}

SLIM_INLINE floats scales_of(std::uint8_t const* header) {
  return _mm512_maskz_cvtph_ps(every_lane, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(header)));
}

SLIM_INLINE floats zeros_of(std::uint8_t const* header) {
  __m128i const zeros = _mm_loadu_si128(reinterpret_cast<__m128i const*>(header));
  return _mm512_maskz_cvtepi32_ps(every_lane, _mm512_maskz_cvtepu8_epi32(every_lane, zeros));
}

#include "slim/kernels/cpu/r16_product.inc"

#undef SLIM_INLINE

} // namespace avx512vnni
SLIM_SIMD_END

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
#endif
