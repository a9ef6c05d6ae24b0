#pragma once
/// @file
/// R16 products with AVX2: half a step (8 rows) per register, `vpmaddubsw` multiplies and adds pairs in 16 bits. See
/// kernels/cpu/r16_kernels.hpp.

#include "slim/kernels/cpu/r16_walk.hpp"
#include "slim/simd/levels.hpp"

#if SLIM_SIMD_X86
namespace slim {
inline namespace SLIM_ABI {
namespace detail {

// A lane of 16 bits takes two products per step and holds a whole stage of 2:4 (4 steps) or dense codes (8 steps).
static_assert(4 * 2 * 255 * 8 < 32768, "2:4: inputs 0 .. 255, codes -8 .. 7");
static_assert(8 * 2 * 127 * 15 < 32768, "dense: inputs -127 .. 127, codes 0 .. 15");
static_assert(2 * 127 * 128 < 32768, "dense int8 and levels of a code book: one step");

SLIM_SIMD_BEGIN_AVX2
namespace avx2 {

#define SLIM_INLINE __attribute__((always_inline)) inline

inline constexpr index_t lanes = 8;
inline constexpr bool signed_bytes = true;

template <r16_kind Kind>
inline constexpr float code_unit = 1.0f;

typedef __m256 floats;
SLIM_INLINE floats every(float x) { return _mm256_set1_ps(x); }
SLIM_INLINE floats fused(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
SLIM_INLINE floats load(float const* from) { return _mm256_loadu_ps(from); }
SLIM_INLINE void store(floats v, float* to) { _mm256_storeu_ps(to, v); }

SLIM_INLINE __m256i vector_at(std::uint8_t const* p) { return _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p)); }
SLIM_INLINE __m256i bytes_of(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }

template <int Bits>
SLIM_INLINE __m256i shifted_right(__m256i v) {
  if constexpr (Bits > 0) return _mm256_srli_epi16(v, Bits);
  if constexpr (Bits < 0) return _mm256_slli_epi16(v, -Bits);
  return v;
}

SLIM_INLINE __m256i four_inputs(std::int8_t const* x) {
  int four;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

SLIM_INLINE __m256i eight_inputs(std::int8_t const* x) {
  long long eight;
  __builtin_memcpy(&eight, x, 8);
  return _mm256_set1_epi64x(eight);
}

typedef __m256i book_register;

template <r16_kind Kind>
SLIM_INLINE book_register book_of(r16_walk const& a) {
  if constexpr (has_book(Kind)) return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<__m128i const*>(a.book)));
  return _mm256_setzero_si256();
}

/// Codes of at most 4 bits are summed in 16 bits over a stage, levels of a byte in 32 bits from the first product on.
template <r16_kind Kind>
inline constexpr bool narrow_sums = Kind != r16_kind::dense8 && !has_book(Kind);

template <int T>
struct integers {
  __m256i lane[T], narrow[T]; ///< 8 sums of 32 bits; 16 of the stage
  __m256i offset;             ///< what the 128 in the inputs of 2:4 codes adds to `narrow`
};

template <r16_kind Kind, int T>
SLIM_INLINE void clear(integers<T>& sums) {
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums.lane[t] = _mm256_setzero_si256();
}

template <r16_kind Kind, int T>
SLIM_INLINE void begin_stage(integers<T>& sums) {
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums.narrow[t] = _mm256_setzero_si256();
  sums.offset = _mm256_setzero_si256();
}

template <r16_kind Kind, int T>
SLIM_INLINE void end_stage(integers<T>& sums) {
  if constexpr (!narrow_sums<Kind>) return;
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    __m256i const pairs = is_sparse(Kind) ? _mm256_sub_epi16(sums.narrow[t], sums.offset) : sums.narrow[t];
    sums.lane[t] = _mm256_add_epi32(sums.lane[t], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
}

template <r16_kind Kind, int T>
SLIM_INLINE floats sum_of(integers<T> const& sums, int t) {
  return _mm256_cvtepi32_ps(sums.lane[t]);
}

/// Adds products of signed codes: the signs of both go to the inputs.
SLIM_INLINE void add_signed(__m256i& sum, __m256i codes, __m256i inputs) {
  __m256i const pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(inputs, codes));
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/// Columns 8 S .. 8 S + 7 of 8 rows of a 2:4 stage.
template <r16_kind Kind, int S, int T>
SLIM_INLINE void sparse_step(std::uint8_t const* stage, std::int8_t const* x, book_register book, integers<T>& sums) {
  __m256i const nibbles = _mm256_and_si256(shifted_right<4 * (S % 2)>(vector_at(stage + 64 + S / 2 * 64)), bytes_of(15));
  __m256i const codes = has_book(Kind) ? _mm256_shuffle_epi8(book, nibbles) : _mm256_sub_epi8(nibbles, bytes_of(8));
  __m256i const columns =
      _mm256_or_si256(_mm256_and_si256(shifted_right<2 * S>(vector_at(stage)), bytes_of(3)), _mm256_set1_epi32(0x04040000));
  if constexpr (narrow_sums<Kind>) sums.offset = _mm256_add_epi16(sums.offset, _mm256_maddubs_epi16(bytes_of(128), codes));
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    __m256i const kept = _mm256_shuffle_epi8(eight_inputs(x + t * r16_stage_cols + 8 * S), columns);
    if constexpr (narrow_sums<Kind>)
      sums.narrow[t] = _mm256_add_epi16(sums.narrow[t], _mm256_maddubs_epi16(kept, codes));
    else
      add_signed(sums.lane[t], codes, kept);
  }
}

/// Codes of steps 6 and 7 of a dense stage of 3 bits, in bits 2 .. 0 and 5 .. 3.
SLIM_INLINE __m256i last_steps(std::uint8_t const* stage) {
  __m256i const low = _mm256_and_si256(shifted_right<6>(vector_at(stage)), bytes_of(3));
  __m256i const middle = _mm256_and_si256(shifted_right<4>(vector_at(stage + 64)), bytes_of(0x0c));
  __m256i const high = _mm256_and_si256(shifted_right<2>(vector_at(stage + 128)), bytes_of(0x30));
  return _mm256_or_si256(low, _mm256_or_si256(middle, high));
}

/// Codes of columns 4 S .. 4 S + 3 of 8 rows of a dense stage; those of a byte - 128.
template <r16_kind Kind, int S>
SLIM_INLINE __m256i dense_codes(std::uint8_t const* stage, book_register book) {
  if constexpr (Kind == r16_kind::dense8) return _mm256_xor_si256(vector_at(stage + S * 64), bytes_of(128));
  if constexpr (Kind == r16_kind::dense4 || Kind == r16_kind::dense4_book) {
    __m256i const codes = _mm256_and_si256(shifted_right<4 * (S % 2)>(vector_at(stage + S / 2 * 64)), bytes_of(15));
    return has_book(Kind) ? _mm256_xor_si256(_mm256_shuffle_epi8(book, codes), bytes_of(128)) : codes;
  }
  if constexpr (Kind == r16_kind::dense3) {
    __m256i const two_steps = S < 6 ? vector_at(stage + S / 2 * 64) : last_steps(stage);
    return _mm256_and_si256(shifted_right<3 * (S % 2)>(two_steps), bytes_of(7));
  }
  return _mm256_and_si256(shifted_right<2 * (S % 4)>(vector_at(stage + S / 4 * 64)), bytes_of(3));
}

template <r16_kind Kind, int S, int T>
SLIM_INLINE void step(std::uint8_t const* stage, std::int8_t const* x, book_register book, integers<T>& sums) {
  if constexpr (is_sparse(Kind)) {
    sparse_step<Kind, S>(stage, x, book, sums);
  } else {
    __m256i const codes = dense_codes<Kind, S>(stage, book);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      __m256i const inputs = four_inputs(x + t * r16_stage_cols + 4 * S);
      if constexpr (narrow_sums<Kind>)
        sums.narrow[t] = _mm256_add_epi16(sums.narrow[t], _mm256_maddubs_epi16(codes, inputs));
      else
        add_signed(sums.lane[t], codes, inputs);
    }
  }
}

/// Levels of 8 rows: lane l of register v has those of row 4 l + v.
struct row_books {
  __m256i of[4];
};

SLIM_INLINE row_books row_books_of(std::uint8_t const* books) {
  __m256i const middle = bytes_of(128);
  return {{_mm256_xor_si256(vector_at(books), middle), _mm256_xor_si256(vector_at(books + 64), middle),
           _mm256_xor_si256(vector_at(books + 128), middle), _mm256_xor_si256(vector_at(books + 192), middle)}};
}

/// Columns 16 (S / 4) .. + 15 of rows 4 l + S % 4.
template <r16_kind Kind, int S, int T>
SLIM_INLINE void book_step(std::uint8_t const* stage, std::int8_t const* x, row_books const& books, integers<4 * T>& sums) {
  __m256i const codes = dense_codes<plain_kind(Kind), S>(stage, _mm256_setzero_si256());
  __m256i const levels = _mm256_shuffle_epi8(books.of[S % 4], codes);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    __m128i const inputs = _mm_loadu_si128(reinterpret_cast<__m128i const*>(x + t * r16_stage_cols + 16 * (S / 4)));
    add_signed(sums.lane[4 * t + S % 4], levels, _mm256_broadcastsi128_si256(inputs));
  }
}

/// Lane 4 l + v: the sum of the four of lane l of register v.
SLIM_INLINE floats sum_of_four(floats a, floats b, floats c, floats d) {
  floats const ab = _mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b);
  floats const cd = _mm256_unpacklo_ps(c, d) + _mm256_unpackhi_ps(c, d);
  return _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd))) +
         _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd)));
}

typedef __m256i fields; ///< codes of scales and offsets, 8 rows

SLIM_INLINE fields fields_of(std::uint8_t const* set) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(set)));
}

SLIM_INLINE floats from_fields(fields codes, int shift, int bits, float step, float base) {
  __m256i const moved = _mm256_srl_epi32(codes, _mm_cvtsi32_si128(shift));
  return fused(_mm256_cvtepi32_ps(_mm256_and_si256(moved, _mm256_set1_epi32((1 << bits) - 1))), every(step), every(base));
}

/// The same of 3 bits: one of eight values, all of which are made first. (The number of a lane has three bits.)
template <int Shift>
SLIM_INLINE floats from_three_bits(fields codes, float step, float base) {
  floats const eight = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_permutevar8x32_ps(fused(eight, every(step), every(base)), _mm256_srli_epi32(codes, Shift));
}

template <int Count>
SLIM_INLINE void halves_to_floats(std::uint8_t const* halves, float* out) {
  if constexpr (Count == 8)
    _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(halves))));
  else
    _mm_storeu_ps(out, _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(halves))));
}

SLIM_INLINE floats scales_of(std::uint8_t const* header) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(header)));
}

SLIM_INLINE floats zeros_of(std::uint8_t const* header) {
  __m128i const zeros = _mm_loadl_epi64(reinterpret_cast<__m128i const*>(header));
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(zeros));
}

/// Inputs as int8; see kernels/cpu/r16_kernels.hpp.
inline void round_inputs(float const* x, index_t stages, std::int8_t* out, index_t out_stride, float* scale, float* sum,
                         float* rest) {
  __m256 const sizes = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)), none = _mm256_setzero_ps();
  __m256 size = none, finite = none; // NaN where an input is not finite
  for (index_t k = 0; k < r16_stage_cols * stages; k += 8) {
    __m256 const v = _mm256_loadu_ps(x + k);
    size = _mm256_max_ps(size, _mm256_and_ps(v, sizes));
    finite = _mm256_fmadd_ps(v, none, finite);
  }
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(size), _mm256_extractf128_ps(size, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  float largest = _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
  if (_mm256_movemask_ps(_mm256_cmp_ps(finite, finite, _CMP_UNORD_Q))) largest = __builtin_nanf("");
  *scale = largest / 127;
  __m256 const steps = _mm256_set1_ps(*scale >= smallest_input_scale ? 1 / *scale : 0.0f), step = _mm256_set1_ps(*scale);
  __m256i const order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i total = _mm256_setzero_si256();
  for (index_t s = 0; s < stages; ++s, x += r16_stage_cols, out += out_stride) {
    __m256i codes[4];
    for (int k = 0; k < 4; ++k) {
      __m256 const v = _mm256_loadu_ps(x + 8 * k);
      __m256 const bounded = _mm256_max_ps(_mm256_mul_ps(v, steps), _mm256_set1_ps(-127.0f));
      codes[k] = _mm256_cvtps_epi32(_mm256_min_ps(bounded, _mm256_set1_ps(127.0f)));
      total = _mm256_add_epi32(total, codes[k]);
      if (rest) _mm256_storeu_ps(rest + s * r16_stage_cols + 8 * k, _mm256_fnmadd_ps(step, _mm256_cvtepi32_ps(codes[k]), v));
    }
    __m256i const bytes = _mm256_packs_epi16(_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(bytes, order));
  }
  __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  quarter = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4e));
  quarter = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0xb1));
  *sum = *scale * static_cast<float>(_mm_cvtsi128_si32(quarter));
}

#include "slim/kernels/cpu/r16_product.inc"

#undef SLIM_INLINE

} // namespace avx2
SLIM_SIMD_END

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
#endif
