#pragma once
/// @file
/// Innermost loops of the matrix products, one set per instruction set. Each set offers
///  * `tile`: a small block of C, all of it in registers, from packed panels of A and B;
///  * `dots`: 2 x 4 inner products of contiguous vectors (products with few rows and a transposed right-hand side);
///  * `combine`: a linear combination of contiguous rows (few rows, plain right-hand side).
/// Accumulators are named variables, not arrays: g++ 12 writes an array of vectors to memory in every iteration.

#include "slim/simd/levels.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Inner loops of one instruction set. A packed panel holds floats, or in each float's place two neighbouring inner indices in
/// bf16; its depth is counted in such places.
struct gemm_kernels {
  index_t tile_rows; ///< width of a packed panel of A
  index_t tile_cols; ///< width of a packed panel of B

  /// c(i, j) = or += sum over k of a[k * tile_rows + i] * b[k * tile_cols + j], for the full tile.
  void (*tile)(index_t depth, float const* a, float const* b, float* c, index_t c_stride, bool add);

  /// out[4 * i + j] = a[i] . b[j] over `depth` neighbouring elements.
  void (*dots)(index_t depth, float const* const a[2], float const* const b[4], float out[8]);

  /// out[j] = sum over k of a[k * a_stride] * b[k * b_stride + j], j < width.
  void (*combine)(index_t depth, float const* a, index_t a_stride, float const* b, index_t b_stride, index_t width, float* out);

  /// Rounds to pairs in bf16: the rows 2 k and 2 k + 1 of `width` floats, `stride` apart, become the row k of a panel, the even
  /// one in the low half; a row that is missing is 0. Null: panels hold floats.
  void (*round_pairs)(index_t depth, index_t width, float const* rows, index_t stride, float* out) = nullptr;

  /// The same from `width` lanes of contiguous inner indices, `stride` apart. Needs a width of fours and a depth of eights.
  void (*round_lanes)(index_t depth, index_t width, float const* lanes, index_t stride, float* out) = nullptr;

  /// Places of a panel's lane for so many inner indices.
  [[nodiscard]] constexpr index_t places(index_t depth) const { return round_pairs ? (depth + 1) / 2 : depth; }
};

/// Columns [from, width) of `combine`, one at a time: the columns behind the last full vector.
inline void combine_columns(index_t depth, float const* a, index_t a_stride, float const* b, index_t b_stride, index_t from,
                            index_t width, float* out) {
  for (index_t j = from; j < width; ++j) {
    float sum = 0;
    for (index_t k = 0; k < depth; ++k) sum += a[k * a_stride] * b[k * b_stride + j];
    out[j] = sum;
  }
}

namespace scalar {

inline void gemm_tile(index_t depth, float const* a, float const* b, float* c, index_t c_stride, bool add) {
  float sum[4][8] = {};
  for (index_t k = 0; k < depth; ++k, a += 4, b += 8)
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 8; ++j) sum[i][j] += a[i] * b[j];
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 8; ++j) c[i * c_stride + j] = sum[i][j] + (add ? c[i * c_stride + j] : 0.0f);
}

inline void gemm_dots(index_t depth, float const* const a[2], float const* const b[4], float out[8]) {
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 4; ++j) {
      float lane[8] = {};
      index_t k = 0;
      for (; k + 8 <= depth; k += 8)
        for (int l = 0; l < 8; ++l) lane[l] += a[i][k + l] * b[j][k + l];
      float sum = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
      for (; k < depth; ++k) sum += a[i][k] * b[j][k];
      out[4 * i + j] = sum;
    }
}

inline void gemm_combine(index_t depth, float const* a, index_t a_stride, float const* b, index_t b_stride, index_t width,
                         float* out) {
  index_t j = 0;
  for (; j + 8 <= width; j += 8) {
    float lane[8] = {};
    for (index_t k = 0; k < depth; ++k)
      for (int l = 0; l < 8; ++l) lane[l] += a[k * a_stride] * b[k * b_stride + j + l];
    for (int l = 0; l < 8; ++l) out[j + l] = lane[l];
  }
  combine_columns(depth, a, a_stride, b, b_stride, j, width, out);
}

inline constexpr gemm_kernels kernels{4, 8, gemm_tile, gemm_dots, gemm_combine};

} // namespace scalar

#if SLIM_SIMD_X86
#define SLIM_ROWS_6(f) f(0) f(1) f(2) f(3) f(4) f(5)
#define SLIM_ROWS_12(f) SLIM_ROWS_6(f) f(6) f(7) f(8) f(9) f(10) f(11)
#define SLIM_LANES_8(f) f(0, 0) f(0, 1) f(0, 2) f(0, 3) f(1, 0) f(1, 1) f(1, 2) f(1, 3)

SLIM_SIMD_BEGIN_AVX2
namespace avx2 {

/// 6 x 16: twelve accumulators, two columns of B, one broadcast element of A.
inline void gemm_tile(index_t depth, float const* a, float const* b, float* c, index_t c_stride, bool add) {
#define SLIM_ZERO(i) __m256 left##i = _mm256_setzero_ps(), right##i = _mm256_setzero_ps();
#define SLIM_MULTIPLY(i)                                                                                                       \
  x = _mm256_broadcast_ss(a + i);                                                                                              \
  left##i = _mm256_fmadd_ps(x, b_left, left##i);                                                                               \
  right##i = _mm256_fmadd_ps(x, b_right, right##i);
#define SLIM_ADD(i)                                                                                                            \
  left##i = _mm256_add_ps(left##i, _mm256_loadu_ps(c + i * c_stride));                                                         \
  right##i = _mm256_add_ps(right##i, _mm256_loadu_ps(c + i * c_stride + 8));
#define SLIM_STORE(i)                                                                                                          \
  _mm256_storeu_ps(c + i * c_stride, left##i);                                                                                 \
  _mm256_storeu_ps(c + i * c_stride + 8, right##i);
  SLIM_ROWS_6(SLIM_ZERO)
  for (index_t k = 0; k < depth; ++k, a += 6, b += 16) {
    __m256 const b_left = _mm256_loadu_ps(b), b_right = _mm256_loadu_ps(b + 8);
    __m256 x;
    SLIM_ROWS_6(SLIM_MULTIPLY)
  }
  if (add) {
    SLIM_ROWS_6(SLIM_ADD)
  }
  SLIM_ROWS_6(SLIM_STORE)
#undef SLIM_ZERO
#undef SLIM_MULTIPLY
#undef SLIM_ADD
#undef SLIM_STORE
}

inline float sum_of_lanes(__m256 v) {
  __m128 const four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  __m128 const two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline void gemm_dots(index_t depth, float const* const a[2], float const* const b[4], float out[8]) {
#define SLIM_ZERO(i, j) __m256 sum##i##j = _mm256_setzero_ps();
#define SLIM_MULTIPLY(i, j) sum##i##j = _mm256_fmadd_ps(a##i, b##j, sum##i##j);
#define SLIM_REDUCE(i, j) out[4 * i + j] = sum_of_lanes(sum##i##j);
  SLIM_LANES_8(SLIM_ZERO)
  index_t k = 0;
  for (; k + 8 <= depth; k += 8) {
    __m256 const a0 = _mm256_loadu_ps(a[0] + k), a1 = _mm256_loadu_ps(a[1] + k);
    __m256 const b0 = _mm256_loadu_ps(b[0] + k), b1 = _mm256_loadu_ps(b[1] + k);
    __m256 const b2 = _mm256_loadu_ps(b[2] + k), b3 = _mm256_loadu_ps(b[3] + k);
    SLIM_LANES_8(SLIM_MULTIPLY)
  }
  SLIM_LANES_8(SLIM_REDUCE)
  for (; k < depth; ++k)
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 4; ++j) out[4 * i + j] += a[i][k] * b[j][k];
#undef SLIM_ZERO
#undef SLIM_MULTIPLY
#undef SLIM_REDUCE
}

inline void gemm_combine(index_t depth, float const* a, index_t a_stride, float const* b, index_t b_stride, index_t width,
                         float* out) {
  index_t j = 0;
  for (; j + 32 <= width; j += 32) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    for (index_t k = 0; k < depth; ++k) {
      __m256 const x = _mm256_broadcast_ss(a + k * a_stride);
      float const* const row = b + k * b_stride + j;
      s0 = _mm256_fmadd_ps(x, _mm256_loadu_ps(row), s0);
      s1 = _mm256_fmadd_ps(x, _mm256_loadu_ps(row + 8), s1);
      s2 = _mm256_fmadd_ps(x, _mm256_loadu_ps(row + 16), s2);
      s3 = _mm256_fmadd_ps(x, _mm256_loadu_ps(row + 24), s3);
    }
    _mm256_storeu_ps(out + j, s0);
    _mm256_storeu_ps(out + j + 8, s1);
    _mm256_storeu_ps(out + j + 16, s2);
    _mm256_storeu_ps(out + j + 24, s3);
  }
  for (; j + 8 <= width; j += 8) {
    __m256 sum = _mm256_setzero_ps();
    for (index_t k = 0; k < depth; ++k)
      sum = _mm256_fmadd_ps(_mm256_broadcast_ss(a + k * a_stride), _mm256_loadu_ps(b + k * b_stride + j), sum);
    _mm256_storeu_ps(out + j, sum);
  }
  combine_columns(depth, a, a_stride, b, b_stride, j, width, out);
}

inline constexpr gemm_kernels kernels{6, 16, gemm_tile, gemm_dots, gemm_combine};

} // namespace avx2
SLIM_SIMD_END

SLIM_SIMD_BEGIN_AVX512
namespace avx512 {

/// 12 x 32: 24 accumulators, two columns of B, one broadcast element of A.
inline void gemm_tile(index_t depth, float const* a, float const* b, float* c, index_t c_stride, bool add) {
#define SLIM_ZERO(i) __m512 left##i = _mm512_setzero_ps(), right##i = _mm512_setzero_ps();
#define SLIM_MULTIPLY(i)                                                                                                       \
  x = _mm512_set1_ps(a[i]);                                                                                                    \
  left##i = _mm512_fmadd_ps(x, b_left, left##i);                                                                               \
  right##i = _mm512_fmadd_ps(x, b_right, right##i);
#define SLIM_ADD(i)                                                                                                            \
  left##i = _mm512_add_ps(left##i, _mm512_loadu_ps(c + i * c_stride));                                                         \
  right##i = _mm512_add_ps(right##i, _mm512_loadu_ps(c + i * c_stride + 16));
#define SLIM_STORE(i)                                                                                                          \
  _mm512_storeu_ps(c + i * c_stride, left##i);                                                                                 \
  _mm512_storeu_ps(c + i * c_stride + 16, right##i);
  SLIM_ROWS_12(SLIM_ZERO)
  for (index_t k = 0; k < depth; ++k, a += 12, b += 32) {
    __m512 const b_left = _mm512_loadu_ps(b), b_right = _mm512_loadu_ps(b + 16);
    __m512 x;
    SLIM_ROWS_12(SLIM_MULTIPLY)
  }
  if (add) {
    SLIM_ROWS_12(SLIM_ADD)
  }
  SLIM_ROWS_12(SLIM_STORE)
#undef SLIM_ZERO
#undef SLIM_MULTIPLY
#undef SLIM_ADD
#undef SLIM_STORE
}

/// Adds through memory, because _mm512_reduce_add_ps causes a false -Wuninitialized in g++ 12.
inline float sum_of_lanes(__m512 v) {
  float lane[16];
  _mm512_storeu_ps(lane, v);
  float sum = 0;
  for (int l = 0; l < 4; ++l) sum += (lane[l] + lane[l + 8]) + (lane[l + 4] + lane[l + 12]);
  return sum;
}

inline void gemm_dots(index_t depth, float const* const a[2], float const* const b[4], float out[8]) {
#define SLIM_ZERO(i, j) __m512 sum##i##j = _mm512_setzero_ps();
#define SLIM_MULTIPLY(i, j) sum##i##j = _mm512_fmadd_ps(a##i, b##j, sum##i##j);
#define SLIM_REDUCE(i, j) out[4 * i + j] = sum_of_lanes(sum##i##j);
  SLIM_LANES_8(SLIM_ZERO)
  for (index_t k = 0; k < depth; k += 16) {
    index_t const left = depth - k;
    __mmask16 const m = left >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << left) - 1u);
    __m512 const a0 = _mm512_maskz_loadu_ps(m, a[0] + k), a1 = _mm512_maskz_loadu_ps(m, a[1] + k);
    __m512 const b0 = _mm512_maskz_loadu_ps(m, b[0] + k), b1 = _mm512_maskz_loadu_ps(m, b[1] + k);
    __m512 const b2 = _mm512_maskz_loadu_ps(m, b[2] + k), b3 = _mm512_maskz_loadu_ps(m, b[3] + k);
    SLIM_LANES_8(SLIM_MULTIPLY)
  }
  SLIM_LANES_8(SLIM_REDUCE)
#undef SLIM_ZERO
#undef SLIM_MULTIPLY
#undef SLIM_REDUCE
}

inline void gemm_combine(index_t depth, float const* a, index_t a_stride, float const* b, index_t b_stride, index_t width,
                         float* out) {
  index_t j = 0;
  for (; j + 64 <= width; j += 64) {
    __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    for (index_t k = 0; k < depth; ++k) {
      __m512 const x = _mm512_set1_ps(a[k * a_stride]);
      float const* const row = b + k * b_stride + j;
      s0 = _mm512_fmadd_ps(x, _mm512_loadu_ps(row), s0);
      s1 = _mm512_fmadd_ps(x, _mm512_loadu_ps(row + 16), s1);
      s2 = _mm512_fmadd_ps(x, _mm512_loadu_ps(row + 32), s2);
      s3 = _mm512_fmadd_ps(x, _mm512_loadu_ps(row + 48), s3);
    }
    _mm512_storeu_ps(out + j, s0);
    _mm512_storeu_ps(out + j + 16, s1);
    _mm512_storeu_ps(out + j + 32, s2);
    _mm512_storeu_ps(out + j + 48, s3);
  }
  for (; j < width; j += 16) {
    index_t const left = width - j;
    __mmask16 const m = left >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << left) - 1u);
    __m512 sum = _mm512_setzero_ps();
    for (index_t k = 0; k < depth; ++k)
      sum = _mm512_fmadd_ps(_mm512_set1_ps(a[k * a_stride]), _mm512_maskz_loadu_ps(m, b + k * b_stride + j), sum);
    _mm512_mask_storeu_ps(out + j, m, sum);
  }
}

inline constexpr gemm_kernels kernels{12, 32, gemm_tile, gemm_dots, gemm_combine};

} // namespace avx512
SLIM_SIMD_END

SLIM_SIMD_BEGIN_AVX512_BF16
namespace avx512 {

/// As gemm_tile, on pairs in bf16: VDPBF16PS adds both products of a pair to a float.
inline void gemm_tile_bf16(index_t depth, float const* a, float const* b, float* c, index_t c_stride, bool add) {
#define SLIM_ZERO(i) __m512 left##i = _mm512_setzero_ps(), right##i = _mm512_setzero_ps();
#define SLIM_MULTIPLY(i)                                                                                                       \
  x = reinterpret_cast<__m512bh>(_mm512_castps_si512(_mm512_set1_ps(a[i])));                                                   \
  left##i = _mm512_dpbf16_ps(left##i, x, b_left);                                                                              \
  right##i = _mm512_dpbf16_ps(right##i, x, b_right);
#define SLIM_ADD(i)                                                                                                            \
  left##i = _mm512_add_ps(left##i, _mm512_loadu_ps(c + i * c_stride));                                                         \
  right##i = _mm512_add_ps(right##i, _mm512_loadu_ps(c + i * c_stride + 16));
#define SLIM_STORE(i)                                                                                                          \
  _mm512_storeu_ps(c + i * c_stride, left##i);                                                                                 \
  _mm512_storeu_ps(c + i * c_stride + 16, right##i);
  SLIM_ROWS_12(SLIM_ZERO)
  for (index_t k = 0; k < depth; ++k, a += 12, b += 32) {
    __m512bh const b_left = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b)),
                   b_right = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + 16));
    __m512bh x;
    SLIM_ROWS_12(SLIM_MULTIPLY)
  }
  if (add) {
    SLIM_ROWS_12(SLIM_ADD)
  }
  SLIM_ROWS_12(SLIM_STORE)
#undef SLIM_ZERO
#undef SLIM_MULTIPLY
#undef SLIM_ADD
#undef SLIM_STORE
}

inline void round_pairs(index_t depth, index_t width, float const* rows, index_t stride, float* out) {
  for (index_t k = 0; k < depth; k += 2, rows += 2 * stride, out += width)
    for (index_t j = 0; j < width; j += 16) {
      __mmask16 const m = width - j >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << (width - j)) - 1u);
      __m512 const even = _mm512_maskz_loadu_ps(m, rows + j);
      __m512 const odd = k + 1 < depth ? _mm512_maskz_loadu_ps(m, rows + stride + j) : _mm512_setzero_ps();
      // The forms with a mask, because the plain ones cause a false -Wmaybe-uninitialized in g++ 12.
      __m512i const low = _mm512_maskz_cvtepu16_epi32(m, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(even)));
      __m512i const wide = _mm512_maskz_cvtepu16_epi32(m, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(odd)));
      __m512i const high = _mm512_maskz_slli_epi32(m, wide, 16);
      _mm512_mask_storeu_epi32(out + j, m, _mm512_or_si512(low, high));
    }
}

/// Four lanes at a time: eight floats of each become four pairs, and a transpose of 4 x 4 pairs puts them side by side.
inline void round_lanes(index_t depth, index_t width, float const* lanes, index_t stride, float* out) {
  auto const pairs = [](float const* eight) {
    return _mm_castsi128_ps(
        reinterpret_cast<__m128i>(_mm256_maskz_cvtneps_pbh(static_cast<__mmask8>(0xff), _mm256_loadu_ps(eight))));
  };
  for (index_t j = 0; j < width; j += 4, lanes += 4 * stride)
    for (index_t k = 0; k < depth; k += 8) {
      __m128 r0 = pairs(lanes + k), r1 = pairs(lanes + stride + k);
      __m128 r2 = pairs(lanes + 2 * stride + k), r3 = pairs(lanes + 3 * stride + k);
      _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
      float* const corner = out + k / 2 * width + j;
      _mm_storeu_ps(corner, r0);
      _mm_storeu_ps(corner + width, r1);
      _mm_storeu_ps(corner + 2 * width, r2);
      _mm_storeu_ps(corner + 3 * width, r3);
    }
}

inline constexpr gemm_kernels bf16_kernels{12, 32, gemm_tile_bf16, gemm_dots, gemm_combine, round_pairs, round_lanes};

} // namespace avx512
SLIM_SIMD_END

#undef SLIM_ROWS_6
#undef SLIM_ROWS_12
#undef SLIM_LANES_8
#endif

/// Whether this machine multiplies pairs in bf16.
[[nodiscard]] inline bool has_bf16_products() {
#if SLIM_SIMD_X86
  static bool const has = best_simd_level() == simd_level::avx512 && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

/// The inner loops of a level. @throws config_error if the machine lacks it.
[[nodiscard]] inline gemm_kernels const& kernels_of(simd_level wanted) {
#if SLIM_SIMD_X86
  return of_level(wanted, scalar::kernels, avx2::kernels, avx512::kernels);
#else
  return of_level(wanted, scalar::kernels);
#endif
}

/// Those of a context: with operands in bf16 where it asks for them, and the machine has such products at its level.
[[nodiscard]] inline gemm_kernels const& kernels_of(context const& ctx) {
#if SLIM_SIMD_X86
  if (ctx.products == product_inputs::bf16 && has_bf16_products() && resolve(ctx.simd) == simd_level::avx512)
    return avx512::bf16_kernels;
#endif
  return kernels_of(ctx.simd);
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
