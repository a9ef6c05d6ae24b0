#pragma once
/// @file
/// The decoding loops of packing/rans.hpp, one per instruction set, chosen at run time.

#include "slim/simd/levels.hpp"

#include <cstdint>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Symbols that are coded side by side, each lane with a state of its own.
inline constexpr index_t rans_lanes = 32;

/// Decodes up to `rounds` rounds of 32 symbols and ends early where fewer than 32 words are left, all that a round can take.
/// Returns the rounds done; states, words and output have moved on by those. `table`: rans_model::table().
using rans_rounds = index_t (*)(std::uint32_t const* table, std::uint32_t* states, std::uint16_t const*& words,
                                std::uint16_t const* last, std::uint8_t* out, index_t rounds);

struct rans_kernels {
  rans_rounds decode; ///< null: the caller's own loop
};

#if SLIM_SIMD_X86 && !SLIM_DECLARES_ONLY

SLIM_SIMD_BEGIN_AVX2
namespace avx2 {

/// For every set of lanes that take a word: which of the next eight words each lane gets.
struct word_places {
  int of[256][8];
};
inline constexpr word_places places_of_words = [] {
  word_places places{};
  for (int taken = 0; taken < 256; ++taken)
    for (int lane = 0, next = 0; lane < 8; ++lane)
      if ((taken >> lane & 1) != 0) places.of[taken][lane] = next++;
  return places;
}();

inline index_t decode_rans(std::uint32_t const* table, std::uint32_t* states, std::uint16_t const*& words,
                           std::uint16_t const* last, std::uint8_t* out, index_t rounds) {
  __m256i x[4];
  for (int v = 0; v < 4; ++v) x[v] = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(states + 8 * v));
  __m256i const slot_bits = _mm256_set1_epi32(4095), symbol_bits = _mm256_set1_epi32(255);
  __m256i const one = _mm256_set1_epi32(1), zero = _mm256_setzero_si256();
  __m256i const in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); // what packing left in halves
  std::uint16_t const* next = words;
  index_t round = 0;
  for (; round < rounds && last - next >= rans_lanes; ++round) {
    __m256i symbols[4];
    for (int v = 0; v < 4; ++v) {
      __m256i const entry = _mm256_i32gather_epi32(reinterpret_cast<int const*>(table), _mm256_and_si256(x[v], slot_bits), 4);
      symbols[v] = _mm256_and_si256(entry, symbol_bits);
      __m256i const share = _mm256_add_epi32(_mm256_srli_epi32(entry, 20), one);
      __m256i const offset = _mm256_and_si256(_mm256_srli_epi32(entry, 8), slot_bits);
      __m256i const moved = _mm256_add_epi32(_mm256_mullo_epi32(share, _mm256_srli_epi32(x[v], 12)), offset);
      __m256i const small = _mm256_cmpeq_epi32(_mm256_srli_epi32(moved, 16), zero);
      int const taken = _mm256_movemask_ps(_mm256_castsi256_ps(small));
      __m256i const fresh =
          _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<__m128i const*>(next))),
                                      _mm256_loadu_si256(reinterpret_cast<__m256i const*>(places_of_words.of[taken])));
      x[v] = _mm256_blendv_epi8(moved, _mm256_or_si256(_mm256_slli_epi32(moved, 16), fresh), small);
      next += __builtin_popcount(static_cast<unsigned>(taken));
    }
    __m256i const bytes =
        _mm256_packus_epi16(_mm256_packus_epi32(symbols[0], symbols[1]), _mm256_packus_epi32(symbols[2], symbols[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + rans_lanes * round), _mm256_permutevar8x32_epi32(bytes, in_order));
  }
  for (int v = 0; v < 4; ++v) _mm256_storeu_si256(reinterpret_cast<__m256i*>(states + 8 * v), x[v]);
  words = next;
  return round;
}

} // namespace avx2
SLIM_SIMD_END

SLIM_SIMD_BEGIN_AVX512
namespace avx512 {

// Shifts and products are written as operators, and the others with a mask of all lanes: the intrinsics without one make
// g++ 12 warn of uninitialized registers.
typedef std::uint32_t words16 __attribute__((vector_size(64)));

inline index_t decode_rans(std::uint32_t const* table, std::uint32_t* states, std::uint16_t const*& words,
                           std::uint16_t const* last, std::uint8_t* out, index_t rounds) {
  constexpr __mmask16 all = 0xffff;
  words16 x[2];
  __builtin_memcpy(x, states, sizeof x);
  std::uint16_t const* next = words;
  index_t round = 0;
  for (; round < rounds && last - next >= rans_lanes; ++round)
    for (int v = 0; v < 2; ++v) {
      auto const gathered =
          _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), all, reinterpret_cast<__m512i>(x[v] & 4095u), table, 4);
      auto const entry = reinterpret_cast<words16>(gathered);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + rans_lanes * round + 16 * v),
                       _mm512_maskz_cvtepi32_epi8(all, gathered));
      words16 const moved = ((entry >> 20) + 1u) * (x[v] >> 12) + (entry >> 8 & 4095u);
      __mmask16 const small =
          _mm512_cmplt_epu32_mask(reinterpret_cast<__m512i>(moved), reinterpret_cast<__m512i>(words16{} + (1u << 16)));
      auto const fresh = _mm512_maskz_expand_epi32(
          small, _mm512_maskz_cvtepu16_epi32(all, _mm256_loadu_si256(reinterpret_cast<__m256i const*>(next))));
      x[v] = reinterpret_cast<words16>(
          _mm512_mask_or_epi32(reinterpret_cast<__m512i>(moved), small, reinterpret_cast<__m512i>(moved << 16), fresh));
      next += __builtin_popcount(static_cast<unsigned>(small));
    }
  __builtin_memcpy(states, x, sizeof x);
  words = next;
  return round;
}

} // namespace avx512
SLIM_SIMD_END

#endif

#if SLIM_DECLARES_ONLY
[[nodiscard]] rans_kernels const& rans_kernels_of(simd_level wanted);
#else
/// The loop of a level. @throws config_error if the machine lacks it.
[[nodiscard]] SLIM_DOOR rans_kernels const& rans_kernels_of(simd_level wanted) {
  static constexpr rans_kernels plain{nullptr};
#if SLIM_SIMD_X86
  static constexpr rans_kernels with_avx2{avx2::decode_rans}, with_avx512{avx512::decode_rans};
  return of_level(wanted, plain, with_avx2, with_avx512);
#else
  return of_level(wanted, plain);
#endif
}
#endif

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
