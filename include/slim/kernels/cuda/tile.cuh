#pragma once
/// @file
/// The product of one atom with a tile of inputs, written once over a warp type W. On the device W's values are a lane's
/// registers (warp.cuh); in the tests of this library they are vectors of 32 lanes (tests/cuda/host_warp.hpp).
///
/// Codes become numbers without a conversion instruction: bits under the exponent of 2^m, m the bits of a mantissa, are the
/// number 2^m + code (Kim et al., "Who Says Elephants Can't Run", arXiv 2211.10017; MARLIN, arXiv 2408.11743). Fields that
/// stand higher in their half-word are divided by a power of two in the same instruction that subtracts the zero point.

#include "slim/core/scalar.hpp"
#include "slim/kernels/cuda/atoms.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace cuda {

using u32 = std::uint32_t;

/// Bits of the numbers of a format that dequantization needs, twice in a word.
template <number_format N>
struct number_pair {
  static constexpr int mantissa = N == number_format::fp16 ? 10 : 7;
  static constexpr u32 sign = 0x80008000u;

  [[nodiscard]] SLIM_HOST_DEVICE static constexpr u32 twice(u32 half) { return half | half << 16; }
  /// 2^exponent.
  [[nodiscard]] SLIM_HOST_DEVICE static constexpr u32 power(int exponent) {
    return twice(static_cast<u32>(exponent + (N == number_format::fp16 ? 15 : 127)) << mantissa);
  }
  /// 2^mantissa - 2^lower, for lower < mantissa.
  [[nodiscard]] SLIM_HOST_DEVICE static constexpr u32 difference(int lower) {
    return power(mantissa - 1) + twice((1u << mantissa) - (2u << lower));
  }
  /// Fields of `bits` bits that can be read without a shift: with all their bits in the mantissa.
  [[nodiscard]] SLIM_HOST_DEVICE static constexpr int fields(int bits) { return mantissa / bits; }
};

template <class W>
using lanes = typename W::word;

/// Sums of 16 outputs x 8 tokens for each tile: operand C of an mma.
template <int TILES, class W>
struct tile_sums {
  typename W::real v[TILES][4] = {};
};

/// total += scale * part, with a scale for rows g and one for rows g + 8; part becomes 0.
template <int TILES, class W>
SLIM_DEVICE void fold(W& w, typename W::real const (&scale)[2], tile_sums<TILES, W>& part, tile_sums<TILES, W>& total) {
  SLIM_UNROLL
  for (int i = 0; i < 4 * TILES; ++i) {
    total.v[i / 4][i % 4] = w.add_scaled(total.v[i / 4][i % 4], scale[i % 4 / 2], part.v[i / 4][i % 4]);
    part.v[i / 4][i % 4] = {};
  }
}

/// What is added to a field to subtract 2^mantissa (divided as the field is) and the zero point, for rows g and g + 8 of a
/// lane.
template <number_format N, int BITS, class W>
struct zero_constants {
  static constexpr int fields = number_pair<N>::fields(BITS);
  lanes<W> row[2][fields];

  /// From stored zero points, twice in a word.
  SLIM_DEVICE void set(W& w, int r, lanes<W> const& zero) {
    row[r][0] = w.and_or(zero, 0x00ff00ffu, number_pair<N>::power(number_pair<N>::mantissa) | number_pair<N>::sign);
    SLIM_UNROLL
    for (int f = 1; f < fields; ++f)
      row[r][f] = w.template add2<N>(row[r][0], w.all(number_pair<N>::difference(number_pair<N>::mantissa - BITS * f)));
  }
};

/// Field f of both half-words of q as a pair of numbers, code - zero.
template <number_format N, int BITS, class W>
SLIM_DEVICE lanes<W> field(W& w, lanes<W> const& q, int f, zero_constants<N, BITS, W> const& zeros, int row) {
  using pair = number_pair<N>;
  constexpr int fields = pair::fields(BITS);
  int const at = f % fields;
  lanes<W> const shifted = f < fields ? q : w.shift_right(q, f / fields * fields * BITS);
  lanes<W> const number = w.and_or(shifted, pair::twice(((1u << BITS) - 1u) << (BITS * at)), pair::power(pair::mantissa));
  if (at == 0) return w.template add2<N>(number, zeros.row[row][0]);
  return w.template fma2<N>(number, pair::power(-BITS * at), zeros.row[row][at]);
}

/// The fragments of an atom of codes: pair p (register p % 4 of step p / 4) as numbers.
template <number_format N, device_kind K, class W>
struct code_fragments {
  static constexpr int bits = stored_bits(K);
  lanes<W> q[words_per_lane(K)];
  zero_constants<N, bits, W> zeros;

  SLIM_DEVICE void load(W& w, int atom) {
    lanes<W> four[4];
    w.load4(atom, four);
    SLIM_UNROLL
    for (int k = 0; k < 4; ++k) q[k] = four[k];
    if constexpr (words_per_lane(K) == 8) {
      w.load4(atom + 512, four);
      SLIM_UNROLL
      for (int k = 0; k < 4; ++k) q[4 + k] = four[k];
    } else if constexpr (words_per_lane(K) == 6) {
      lanes<W> two[2];
      w.load2(atom + 512, two);
      SLIM_UNROLL
      for (int k = 0; k < 2; ++k) q[4 + k] = two[k];
    }
  }

  SLIM_DEVICE lanes<W> pair(W& w, int p) const {
    if constexpr (K == device_kind::dense3) {
      int const first = p / 16 * 3, of = p % 16;
      if (of < 15) return field<N, 3>(w, q[first + of / 5], of % 5, zeros, of % 2);
      lanes<W> top = w.and_or(w.shift_right(q[first], 15), 0x00010001u, number_pair<N>::power(number_pair<N>::mantissa));
      top = w.and_or(w.shift_right(q[first + 1], 14), 0x00020002u, top);
      top = w.and_or(w.shift_right(q[first + 2], 13), 0x00040004u, top);
      return w.template add2<N>(top, zeros.row[1][0]);
    } else {
      return field<N, bits>(w, q[p / (16 / bits)], p % (16 / bits), zeros, p % 2);
    }
  }
};

/// Inputs in shared memory: a row of 256 bytes per token, in units of 16 bytes whose order depends on the token, so that eight
/// rows of one unit lie in different banks.
[[nodiscard]] SLIM_HOST_DEVICE constexpr int input_offset(int token, int unit) {
  return 256 * token + 16 * (unit ^ (token % 8));
}

/// Columns 32 q .. 32 q + 31 of an atom times TILES tiles of inputs at `x`, added to the sums.
template <number_format N, device_kind K, int TILES, class W>
SLIM_DEVICE void multiply_quarter(W& w, code_fragments<N, K, W> const& atom, int q, int x, tile_sums<TILES, W>& sums) {
  if constexpr (K == device_kind::sparse24) {
    lanes<W> a[4];
    SLIM_UNROLL
    for (int r = 0; r < 4; ++r) a[r] = atom.pair(w, 4 * q + r);
    SLIM_UNROLL
    for (int n = 0; n < TILES; ++n) {
      lanes<W> b[4];
      w.load_inputs(x, 8 * n, 4 * q, b);
      if (q % 2 == 0)
        w.template mma_sp<N, 0>(sums.v[n], a, b, atom.q[4 + q / 2]);
      else
        w.template mma_sp<N, 1>(sums.v[n], a, b, atom.q[4 + q / 2]);
    }
  } else {
    lanes<W> a[2][4];
    SLIM_UNROLL
    for (int r = 0; r < 8; ++r) a[r / 4][r % 4] = atom.pair(w, 8 * q + r);
    SLIM_UNROLL
    for (int n = 0; n < TILES; ++n) {
      lanes<W> b[4];
      w.load_inputs(x, 8 * n, 4 * q, b);
      w.template mma<N>(sums.v[n], a[0], b[0], b[1]);
      w.template mma<N>(sums.v[n], a[1], b[2], b[3]);
    }
  }
}

/// Scales and zero points of the atom that a warp multiplies.
struct atom_scales {
  int sets = 0;                            ///< 0: no scales of groups
  bool zeros = false;                      ///< zero points beside the scales, of groups or of rows
  std::uint8_t const* row_zeros = nullptr; ///< of the atom's 16 rows, in global memory, if it has no sets
};

/// An atom of codes at `at`, times the inputs at `x`. `part` are sums in units of the code, `total` scaled ones: at the end of
/// each set of scales the first go into the second. Without sets they stay in `part`.
template <number_format N, device_kind K, int TILES, class W>
SLIM_DEVICE void multiply_codes(W& w, atom_scales const& scales, int at, int x, tile_sums<TILES, W>& part,
                                tile_sums<TILES, W>& total) {
  code_fragments<N, K, W> atom;
  atom.load(w, at);
  int const first_scale = at + word_bytes(K), first_zero = first_scale + device_scale_bytes * scales.sets;
  if (!scales.zeros) {
    SLIM_UNROLL
    for (int r = 0; r < 2; ++r) atom.zeros.set(w, r, w.all(number_pair<N>::twice(1u << (code_fragments<N, K, W>::bits - 1))));
  } else if (scales.sets == 0) {
    SLIM_UNROLL
    for (int r = 0; r < 2; ++r) atom.zeros.set(w, r, w.row_byte(scales.row_zeros, r));
  }
  SLIM_UNROLL
  for (int q = 0; q < 4; ++q) {
    bool const begins = scales.sets == 4 || (scales.sets == 2 && q % 2 == 0) || (scales.sets == 1 && q == 0);
    bool const ends = scales.sets == 4 || (scales.sets == 2 && q % 2 == 1) || (scales.sets == 1 && q == 3);
    int const set = scales.sets == 4 ? q : scales.sets == 2 ? q / 2 : 0;
    if (scales.zeros && begins) {
      atom.zeros.set(w, 0, w.row_byte(first_zero + device_zero_bytes * set, 0));
      atom.zeros.set(w, 1, w.row_byte(first_zero + device_zero_bytes * set, 1));
    }
    multiply_quarter<N, K, TILES>(w, atom, q, x, part);
    if (!ends) continue;
    typename W::real const scale[2] = {w.row_half(first_scale + device_scale_bytes * set, 0),
                                       w.row_half(first_scale + device_scale_bytes * set, 1)};
    fold<TILES>(w, scale, part, total);
  }
}

/// An atom of numbers in format N.
template <number_format N, int TILES, class W>
SLIM_DEVICE void multiply_numbers(W& w, int at, int x, tile_sums<TILES, W>& part) {
  SLIM_UNROLL
  for (int q = 0; q < 4; ++q) {
    lanes<W> a[2][4];
    w.load4(at + 1024 * q, a[0]);
    w.load4(at + 1024 * q + 512, a[1]);
    SLIM_UNROLL
    for (int n = 0; n < TILES; ++n) {
      lanes<W> b[4];
      w.load_inputs(x, 8 * n, 4 * q, b);
      w.template mma<N>(part.v[n], a[0], b[0], b[1]);
      w.template mma<N>(part.v[n], a[1], b[2], b[3]);
    }
  }
}

} // namespace cuda
} // namespace SLIM_ABI
} // namespace slim
