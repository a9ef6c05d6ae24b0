#pragma once
/// @file
/// R16 products with AVX-512 VNNI: a register holds one step of 16 rows, `vpdpbusd` adds the four products of a row into its
/// lane. See kernels/cpu/r16_kernels.hpp.

#include "slim/kernels/cpu/r16_row_block.hpp"
#include "slim/linalg/simd.hpp"

#if SLIM_SIMD_X86
namespace slim::inline SLIM_ABI {
namespace detail {

SLIM_SIMD_BEGIN_AVX512_VNNI
namespace avx512vnni {

#define SLIM_INLINE __attribute__((always_inline)) inline

/// The forms without a mask read an undefined register, which g++ 12 warns about; the code is the same.
inline constexpr __mmask16 every_lane = 0xffff;

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

/// Integer sums of a stage for T vectors.
template <int T>
struct stage_sums {
  __m512i lane[T];
};

/// Columns 8 S .. 8 S + 7 of a 2:4 stage. Inputs are stored + 128; `offset` collects what that adds.
template <int S, int T>
SLIM_INLINE void sparse_step(std::uint8_t const* stage, std::int8_t const* x, stage_sums<T>& sums, __m512i& offset) {
  __m512i const nibbles = _mm512_and_si512(shifted_right<4 * (S % 2)>(vector_at(stage + S / 2 * 64)), bytes_of(15));
  __m512i const codes = _mm512_sub_epi8(nibbles, bytes_of(8));
  __m512i const second_group = _mm512_set1_epi32(0x04040000);
  __m512i const columns = // (bits & 3) | 4 for the second group of the step
      _mm512_ternarylogic_epi32(shifted_right<2 * S>(vector_at(stage + 128)), bytes_of(3), second_group, 0xEA);
  offset = _mm512_dpbusd_epi32(offset, bytes_of(128), codes);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    __m512i const kept = _mm512_shuffle_epi8(eight_inputs(x + t * r16_stage_cols + 8 * S), columns);
    sums.lane[t] = _mm512_dpbusd_epi32(sums.lane[t], kept, codes);
  }
}

/// Codes of columns 4 S .. 4 S + 3 of a dense stage.
template <r16_kind Kind, int S>
SLIM_INLINE __m512i dense_codes(std::uint8_t const* stage) {
  if constexpr (Kind == r16_kind::dense4)
    return _mm512_and_si512(shifted_right<4 * (S % 2)>(vector_at(stage + S / 2 * 64)), bytes_of(15));
  if constexpr (Kind == r16_kind::dense8) return vector_at(stage + S * 64);
  __m512i const low = _mm512_and_si512(shifted_right<2 * (S % 4)>(vector_at(stage + S / 4 * 64)), bytes_of(3));
  if constexpr (Kind == r16_kind::dense2) return low;
  return _mm512_ternarylogic_epi32(shifted_right<S - 2>(vector_at(stage + 128)), bytes_of(4), low, 0xEA); // (bit & 4) | low
}

template <r16_kind Kind, int S, int T>
SLIM_INLINE void dense_step(std::uint8_t const* stage, std::int8_t const* x, stage_sums<T>& sums) {
  __m512i const codes = dense_codes<Kind, S>(stage);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    sums.lane[t] = _mm512_dpbusd_epi32(sums.lane[t], codes, four_inputs(x + t * r16_stage_cols + 4 * S));
}

/// Sum of code * x over the 32 columns of a stage.
template <r16_kind Kind, int T>
SLIM_INLINE void stage_products(std::uint8_t const* stage, std::int8_t const* x, stage_sums<T>& sums) {
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums.lane[t] = _mm512_setzero_si512();
  if constexpr (Kind == r16_kind::sparse24) {
    __m512i offset = _mm512_setzero_si512();
    sparse_step<0>(stage, x, sums, offset);
    sparse_step<1>(stage, x, sums, offset);
    sparse_step<2>(stage, x, sums, offset);
    sparse_step<3>(stage, x, sums, offset);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums.lane[t] = _mm512_sub_epi32(sums.lane[t], offset);
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

SLIM_INLINE __m512 header_scales(std::uint8_t const* header) {
  return _mm512_maskz_cvtph_ps(every_lane, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(header)));
}

/// Zero points of dense codes.
template <r16_kind Kind>
SLIM_INLINE __m512 header_zeros(r16_row_block const& a, std::uint8_t const* header) {
  if (!a.zero_points) return _mm512_set1_ps(static_cast<float>(1 << (code_bits(Kind) - 1)));
  __m128i const zeros = _mm_loadu_si128(reinterpret_cast<__m128i const*>(header + 2 * r16_rows));
  return _mm512_maskz_cvtepi32_ps(every_lane, _mm512_maskz_cvtepu8_epi32(every_lane, zeros));
}

/// How far ahead weights are asked for, and into the second cache only: the first one has room for too few requests to
/// hide the way to memory. Measured on Zen 4: 21.7 GB/s, against 16 with requests to the first cache and 11 with none.
inline constexpr index_t prefetch_distance = 12288;

template <r16_kind Kind>
SLIM_INLINE void prefetch_stage(std::uint8_t const* stage) {
  for (index_t line = 0; line < stage_bytes(Kind); line += 64)
    _mm_prefetch(reinterpret_cast<char const*>(stage) + prefetch_distance + line, _MM_HINT_T1);
}

template <r16_kind Kind, int T>
inline void r16_product(r16_row_block const& a, std::int8_t const* x, float const* scales, float const* sums, float* out) {
  __m512 total[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) total[t] = _mm512_setzero_ps();
  index_t const per_set = a.set_stages > 0 ? a.set_stages : a.stage_count;
  std::uint8_t const *stage = a.stages, *header = a.header;
  for (index_t left = a.stage_count; left > 0; left -= per_set, header += a.set_bytes) {
    index_t const stages = left < per_set ? left : per_set;
    __m512 part[T];
    float inputs[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      part[t] = _mm512_setzero_ps();
      inputs[t] = 0.0f;
    }
    for (index_t s = 0; s < stages; ++s, stage += stage_bytes(Kind), x += T * r16_stage_cols, scales += T, sums += T) {
      if constexpr (T <= 2) prefetch_stage<Kind>(stage);
      stage_sums<T> products;
      stage_products<Kind>(stage, x, products);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        part[t] = _mm512_fmadd_ps(_mm512_set1_ps(scales[t]), _mm512_maskz_cvtepi32_ps(every_lane, products.lane[t]), part[t]);
        inputs[t] += sums[t];
      }
    }
    if (a.set_stages == 0) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) total[t] = _mm512_add_ps(total[t], part[t]);
      continue;
    }
    __m512 const scale = header_scales(header);
    __m512 const zero = Kind == r16_kind::sparse24 ? _mm512_setzero_ps() : header_zeros<Kind>(a, header);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      if constexpr (Kind != r16_kind::sparse24) part[t] = _mm512_fnmadd_ps(zero, _mm512_set1_ps(inputs[t]), part[t]);
      total[t] = _mm512_fmadd_ps(scale, part[t], total[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) _mm512_storeu_ps(out + t * r16_rows, total[t]);
}

#undef SLIM_INLINE

} // namespace avx512vnni
SLIM_SIMD_END

} // namespace detail
} // namespace slim::inline SLIM_ABI
#endif
