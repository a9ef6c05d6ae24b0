// What the tensor-core instructions compute, for a warp whose registers are given lane by lane (PTX ISA 9.7.14, fragments of
// mma.m16n8k16 and mma.sp.m16n8k32 with 16-bit numbers).
#pragma once

#include "slim/core/scalar.hpp"

#include <array>
#include <cstdint>
#include <stdexcept>

namespace slim_test {

/// 32 lanes of a register.
template <class T>
struct lane_values {
  std::array<T, 32> v{};
};
using word = lane_values<std::uint32_t>;
using real = lane_values<float>;

/// A 16-bit number of a format, from its bits and to them.
template <slim::number_format N>
float value_of(std::uint32_t bits) {
  auto const half = static_cast<std::uint16_t>(bits);
  return N == slim::number_format::fp16 ? static_cast<float>(slim::fp16::from_bits(half))
                                        : static_cast<float>(slim::bf16::from_bits(half));
}
template <slim::number_format N>
std::uint16_t bits_of(float value) {
  return N == slim::number_format::fp16 ? slim::fp16(value).bits : slim::bf16(value).bits;
}
inline std::uint32_t half_of(std::uint32_t pair, int k) { return pair >> (16 * k) & 0xffffu; }

/// A (16 x K) times B (K x 8), added to C: row lane / 4 (+ 8), columns 2 (lane % 4) (+ 1).
template <int K>
void add_product(real (&c)[4], float const (&a)[16][K], float const (&b)[K][8]) {
  for (std::size_t lane = 0; lane < 32; ++lane)
    for (std::size_t k = 0; k < 4; ++k) {
      float sum = c[k].v[lane];
      for (std::size_t i = 0; i < K; ++i) sum += a[lane / 4 + 8 * (k / 2)][i] * b[i][2 * (lane % 4) + k % 2];
      c[k].v[lane] = sum;
    }
}

template <slim::number_format N>
void mma_m16n8k16(real (&c)[4], word const (&a)[4], word const& b0, word const& b1) {
  float left[16][16], right[16][8];
  for (std::size_t lane = 0; lane < 32; ++lane) {
    std::size_t const g = lane / 4, t = lane % 4;
    for (std::size_t k = 0; k < 2; ++k) {
      for (std::size_t r = 0; r < 4; ++r)
        left[g + 8 * (r % 2)][2 * t + k + 8 * (r / 2)] = value_of<N>(half_of(a[r].v[lane], static_cast<int>(k)));
      right[2 * t + k][g] = value_of<N>(half_of(b0.v[lane], static_cast<int>(k)));
      right[2 * t + k + 8][g] = value_of<N>(half_of(b1.v[lane], static_cast<int>(k)));
    }
  }
  add_product(c, left, right);
}

/// Positions that do not ascend are undefined on the GPU, and an error here.
template <slim::number_format N, int Selector>
void mma_sp_m16n8k32(real (&c)[4], word const (&a)[4], word const (&b)[4], word const& metadata) {
  float left[16][32] = {}, right[32][8];
  for (std::size_t lane = 0; lane < 32; ++lane) {
    std::size_t const g = lane / 4, t = lane % 4;
    for (std::size_t r = 0; r < 4; ++r) {
      std::size_t const row = g + 8 * (r % 2), group = t + 4 * (r / 2), owner = 4 * g + 2 * Selector + r / 2;
      std::uint32_t const nibble = metadata.v[owner] >> (16 * (r % 2) + 4 * (group % 4)) & 15u;
      std::uint32_t const low = nibble & 3u, high = nibble >> 2;
      if (low >= high) throw std::logic_error("mma.sp: metadata out of order");
      left[row][4 * group + low] = value_of<N>(half_of(a[r].v[lane], 0));
      left[row][4 * group + high] = value_of<N>(half_of(a[r].v[lane], 1));
      for (std::size_t k = 0; k < 2; ++k) right[8 * r + 2 * t + k][g] = value_of<N>(half_of(b[r].v[lane], static_cast<int>(k)));
    }
  }
  add_product(c, left, right);
}

} // namespace slim_test
