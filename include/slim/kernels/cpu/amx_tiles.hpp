#pragma once
/// @file
/// Intel's AMX tiles, as little of them as the R16 products need. Eight registers, each a small matrix of bytes; one
/// instruction adds the product of two to a third. See Intel's Architectures Software Developer's Manual, volume 1, chapter 18.
///
/// The instructions are written out: g++ 12 declares that `_tile_loadconfig` reads 8 of its 64 bytes and that `_tile_loadd`
/// reads nothing, so that it may drop or move the stores before them. Here every one is a barrier to memory.

#include "slim/kernels/cpu/r16.hpp"
#include "slim/simd/levels.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// What LDTILECFG reads.
struct amx_config {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(amx_config) == 64);

#if SLIM_SIMD_X86
/// The registers of this thread. Between `configure` and `release` nobody else may use them on it.
struct amx_tiles {
  void configure(amx_config const& how) { __asm__ volatile("{ldtilecfg\t(%0)|ldtilecfg\t[%0]}" : : "r"(&how) : "memory"); }
  void release() { __asm__ volatile("tilerelease" : : : "memory"); }

  template <int Tile>
  void zero() {
    __asm__ volatile("tilezero\t%%tmm%c0" : : "i"(Tile) : "memory");
  }
  /// Rows that lie `stride` bytes apart.
  template <int Tile>
  void load(void const* from, index_t stride) {
    __asm__ volatile("{tileloadd\t(%0,%1,1), %%tmm%c2|tileloadd\t%%tmm%c2, [%0+%1*1]}"
                     :
                     : "r"(from), "r"(stride), "i"(Tile)
                     : "memory");
  }
  template <int Tile>
  void store(void* to, index_t stride) {
    __asm__ volatile("{tilestored\t%%tmm%c2, (%0,%1,1)|tilestored\t[%0+%1*1], %%tmm%c2}"
                     :
                     : "r"(to), "r"(stride), "i"(Tile)
                     : "memory");
  }
  /// C[m][n] += sum over k and i < 4 of A[m][4 k + i] B[k][4 n + i], C of 32-bit integers, A of signed bytes, B of signed ones
  /// or of unsigned ones.
  template <int C, int A, int B>
  void multiply(bool signed_b) {
    if (signed_b)
      __asm__ volatile("{tdpbssd\t%%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbssd\t%%tmm%c0, %%tmm%c1, %%tmm%c2}"
                       :
                       : "i"(C), "i"(A), "i"(B)
                       : "memory");
    else
      __asm__ volatile("{tdpbsud\t%%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbsud\t%%tmm%c0, %%tmm%c1, %%tmm%c2}"
                       :
                       : "i"(C), "i"(A), "i"(B)
                       : "memory");
  }
};
#endif

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
