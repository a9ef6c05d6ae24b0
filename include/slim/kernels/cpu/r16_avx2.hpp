#pragma once
/// @file
/// R16 products with AVX2: half a step (8 rows) per register, `vpmaddubsw` multiplies and adds pairs in 16 bits. See
/// kernels/cpu/r16_kernels.hpp.

#include "slim/kernels/cpu/r16_row_block.hpp"
#include "slim/linalg/simd.hpp"

#if SLIM_SIMD_X86
namespace slim::inline SLIM_ABI {
namespace detail {

// A lane of 16 bits takes two products per step and holds a whole stage of 2:4 (4 steps) or dense codes (8 steps).
static_assert(4 * 2 * 255 * 8 < 32768, "2:4: inputs 0 .. 255, codes -8 .. 7");
static_assert(8 * 2 * 127 * 15 < 32768, "dense: inputs -127 .. 127, codes 0 .. 15");
static_assert(2 * 127 * 128 < 32768, "dense int8: one step");

SLIM_SIMD_BEGIN_AVX2
namespace avx2 {

#define SLIM_INLINE __attribute__((always_inline)) inline

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

template <int T>
struct stage_sums {
  __m256i lane[T];
};

/// Columns 8 S .. 8 S + 7 of 8 rows of a 2:4 stage, sums in 16 bits; `offset` collects what the 128 in the inputs adds.
template <int S, int T>
SLIM_INLINE void sparse_step(std::uint8_t const* stage, std::int8_t const* x, stage_sums<T>& sums, __m256i& offset) {
  __m256i const nibbles = _mm256_and_si256(shifted_right<4 * (S % 2)>(vector_at(stage + S / 2 * 64)), bytes_of(15));
  __m256i const codes = _mm256_sub_epi8(nibbles, bytes_of(8));
  __m256i const columns = _mm256_or_si256(_mm256_and_si256(shifted_right<2 * S>(vector_at(stage + 128)), bytes_of(3)),
                                          _mm256_set1_epi32(0x04040000));
  offset = _mm256_add_epi16(offset, _mm256_maddubs_epi16(bytes_of(128), codes));
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    __m256i const kept = _mm256_shuffle_epi8(eight_inputs(x + t * r16_stage_cols + 8 * S), columns);
    sums.lane[t] = _mm256_add_epi16(sums.lane[t], _mm256_maddubs_epi16(kept, codes));
  }
}

template <r16_kind Kind, int S>
SLIM_INLINE __m256i dense_codes(std::uint8_t const* stage) {
  if constexpr (Kind == r16_kind::dense4)
    return _mm256_and_si256(shifted_right<4 * (S % 2)>(vector_at(stage + S / 2 * 64)), bytes_of(15));
  __m256i const low = _mm256_and_si256(shifted_right<2 * (S % 4)>(vector_at(stage + S / 4 * 64)), bytes_of(3));
  if constexpr (Kind == r16_kind::dense2) return low;
  return _mm256_or_si256(low, _mm256_and_si256(shifted_right<S - 2>(vector_at(stage + 128)), bytes_of(4)));
}

template <r16_kind Kind, int S, int T>
SLIM_INLINE void dense_step(std::uint8_t const* stage, std::int8_t const* x, stage_sums<T>& sums) {
  if constexpr (Kind == r16_kind::dense8) { // codes - 128 with the signs of both in the inputs; sums in 32 bits
    __m256i const codes = _mm256_xor_si256(vector_at(stage + S * 64), bytes_of(128)), size = _mm256_abs_epi8(codes);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      __m256i const pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(four_inputs(x + t * r16_stage_cols + 4 * S), codes));
      sums.lane[t] = _mm256_add_epi32(sums.lane[t], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
  } else {
    __m256i const codes = dense_codes<Kind, S>(stage);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t)
      sums.lane[t] = _mm256_add_epi16(sums.lane[t], _mm256_maddubs_epi16(codes, four_inputs(x + t * r16_stage_cols + 4 * S)));
  }
}

/// Sums of a stage, in 32 bits.
template <r16_kind Kind, int T>
SLIM_INLINE void stage_products(std::uint8_t const* stage, std::int8_t const* x, stage_sums<T>& sums) {
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums.lane[t] = _mm256_setzero_si256();
  __m256i offset = _mm256_setzero_si256();
  if constexpr (Kind == r16_kind::sparse24) {
    sparse_step<0>(stage, x, sums, offset);
    sparse_step<1>(stage, x, sums, offset);
    sparse_step<2>(stage, x, sums, offset);
    sparse_step<3>(stage, x, sums, offset);
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
  if constexpr (Kind == r16_kind::dense8) return;
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums.lane[t] = _mm256_madd_epi16(_mm256_sub_epi16(sums.lane[t], offset), _mm256_set1_epi16(1));
}

SLIM_INLINE __m256 header_scales(std::uint8_t const* header) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(header)));
}

template <r16_kind Kind>
SLIM_INLINE __m256 header_zeros(r16_row_block const& a, std::uint8_t const* header) {
  if (!a.zero_points) return _mm256_set1_ps(static_cast<float>(1 << (code_bits(Kind) - 1)));
  __m128i const zeros = _mm_loadl_epi64(reinterpret_cast<__m128i const*>(header));
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(zeros));
}

inline constexpr index_t prefetch_distance = 12288; // see r16_avx512.hpp

template <r16_kind Kind>
SLIM_INLINE void prefetch_stage(std::uint8_t const* stage) {
  for (index_t line = 0; line < stage_bytes(Kind); line += 64)
    _mm_prefetch(reinterpret_cast<char const*>(stage) + prefetch_distance + line, _MM_HINT_T1);
}

/// 32 inputs as int8; see kernels/cpu/r16_kernels.hpp.
inline void round_inputs(float* x, std::int8_t* out, float* scale, float* sum) {
  __m256 const sizes = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)), none = _mm256_setzero_ps();
  __m256 size = none, finite = none; // NaN where an input is not finite
  for (int k = 0; k < 32; k += 8) {
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
  __m256i codes[4], total = _mm256_setzero_si256();
  for (int k = 0; k < 4; ++k) {
    __m256 const v = _mm256_loadu_ps(x + 8 * k);
    __m256 const bounded = _mm256_max_ps(_mm256_mul_ps(v, steps), _mm256_set1_ps(-127.0f));
    codes[k] = _mm256_cvtps_epi32(_mm256_min_ps(bounded, _mm256_set1_ps(127.0f)));
    total = _mm256_add_epi32(total, codes[k]);
    _mm256_storeu_ps(x + 8 * k, _mm256_fnmadd_ps(step, _mm256_cvtepi32_ps(codes[k]), v));
  }
  __m256i const bytes = _mm256_packs_epi16(_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3]));
  __m256i const order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(bytes, order));
  __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  quarter = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4e));
  quarter = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0xb1));
  *sum = *scale * static_cast<float>(_mm_cvtsi128_si32(quarter));
}

/// One set of scales of one half of the rows: `out` collects.
template <r16_kind Kind, int T>
SLIM_INLINE void half_of_set(r16_row_block const& a, std::uint8_t const* stage, std::uint8_t const* header, index_t half,
                             index_t stages, std::int8_t const* x, float const* scales, float const* sums, float* out) {
  __m256 part[T];
  float inputs[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    part[t] = _mm256_setzero_ps();
    inputs[t] = 0.0f;
  }
  for (index_t s = 0; s < stages; ++s, stage += stage_bytes(Kind), x += T * r16_stage_cols, scales += T, sums += T) {
    if (half == 0) prefetch_stage<Kind>(stage);
    stage_sums<T> products;
    stage_products<Kind>(stage + 32 * half, x, products);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      part[t] = _mm256_fmadd_ps(_mm256_set1_ps(scales[t]), _mm256_cvtepi32_ps(products.lane[t]), part[t]);
      inputs[t] += sums[t];
    }
  }
  __m256 scale = _mm256_set1_ps(1.0f), zero = _mm256_setzero_ps();
  if (a.set_stages > 0) {
    scale = header_scales(header + 16 * half);
    if constexpr (Kind != r16_kind::sparse24) zero = header_zeros<Kind>(a, header + 2 * r16_rows + 8 * half);
  }
  if constexpr (Kind == r16_kind::dense8) zero = _mm256_sub_ps(zero, _mm256_set1_ps(128.0f)); // codes were taken - 128
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    if constexpr (Kind != r16_kind::sparse24) part[t] = _mm256_fnmadd_ps(zero, _mm256_set1_ps(inputs[t]), part[t]);
    float* const y = out + t * r16_rows + 8 * half;
    _mm256_storeu_ps(y, _mm256_fmadd_ps(scale, part[t], _mm256_loadu_ps(y)));
  }
}

template <r16_kind Kind, int T>
inline void r16_product(r16_row_block const& a, std::int8_t const* x, float const* scales, float const* sums, float* out) {
  for (int k = 0; k < T * r16_rows; ++k) out[k] = 0.0f;
  index_t const per_set = a.set_stages > 0 ? a.set_stages : a.stage_count;
  std::uint8_t const* header = a.header;
  for (index_t first = 0; first < a.stage_count; first += per_set, header += a.set_bytes) {
    index_t const stages = a.stage_count - first < per_set ? a.stage_count - first : per_set;
    for (index_t half = 0; half < 2; ++half)
      half_of_set<Kind, T>(a, a.stages + first * stage_bytes(Kind), header, half, stages, x + first * T * r16_stage_cols,
                           scales + first * T, sums + first * T, out);
  }
}

#undef SLIM_INLINE

} // namespace avx2
SLIM_SIMD_END

} // namespace detail
} // namespace slim::inline SLIM_ABI
#endif
