#pragma once
/// @file
/// AMX tiles in plain C++, written from the pseudo code of Intel's Instruction Set Reference (LDTILECFG, TILELOADD, TDPBSSD,
/// TDPBSUD, TILESTORED), with the faults that a machine would raise as exceptions.

#include "slim/kernels/cpu/amx_tiles.hpp"

#include <cstring>
#include <stdexcept>

namespace slim_test {

class emulated_tiles {
public:
  void configure(slim::detail::amx_config const& how) {
    unsigned char bytes[64];
    std::memcpy(bytes, &how, sizeof bytes);
    require(bytes[0] == 1, "palette");
    for (int k = 1; k < 16; ++k) require(bytes[k] == 0, "reserved bytes");
    for (int k = 0; k < 16; ++k) {
      int const row_bytes = bytes[16 + 2 * k] | bytes[17 + 2 * k] << 8, rows = bytes[48 + k];
      require(k < 8 ? row_bytes <= 64 && rows <= 16 && (row_bytes == 0) == (rows == 0) : row_bytes == 0 && rows == 0, "shape");
      if (k < 8) tiles_[k] = {rows, row_bytes, {}};
    }
    configured_ = true;
  }
  void release() { configured_ = false; }

  template <int Tile>
  void zero() {
    std::memset(used(Tile).bytes, 0, sizeof(tile::bytes));
  }
  template <int Tile>
  void load(void const* from, slim::index_t stride) {
    tile& t = used(Tile);
    std::memset(t.bytes, 0, sizeof t.bytes);
    for (int r = 0; r < t.rows; ++r)
      std::memcpy(t.bytes[r], static_cast<char const*>(from) + r * stride, static_cast<std::size_t>(t.row_bytes));
  }
  template <int Tile>
  void store(void* to, slim::index_t stride) {
    tile const& t = used(Tile);
    for (int r = 0; r < t.rows; ++r)
      std::memcpy(static_cast<char*>(to) + r * stride, t.bytes[r], static_cast<std::size_t>(t.row_bytes));
  }
  template <int C, int A, int B>
  void multiply(bool signed_b) {
    static_assert(C != A && C != B && A != B);
    tile &c = used(C), &a = used(A), &b = used(B);
    require(a.row_bytes % 4 == 0 && b.row_bytes % 4 == 0, "whole lanes");
    require(c.rows == a.rows && a.row_bytes / 4 == b.rows && c.row_bytes == b.row_bytes, "shapes of a product");
    for (int m = 0; m < c.rows; ++m)
      for (int k = 0; k < a.row_bytes / 4; ++k)
        for (int n = 0; n < c.row_bytes / 4; ++n) {
          std::int32_t sum;
          std::memcpy(&sum, c.bytes[m] + 4 * n, 4);
          for (int i = 0; i < 4; ++i) {
            unsigned char const right = b.bytes[k][4 * n + i];
            sum += static_cast<signed char>(a.bytes[m][4 * k + i]) * (signed_b ? static_cast<signed char>(right) : right);
          }
          std::memcpy(c.bytes[m] + 4 * n, &sum, 4);
        }
  }

private:
  struct tile {
    int rows = 0, row_bytes = 0;
    unsigned char bytes[16][64] = {};
  };

  static void require(bool holds, char const* what) {
    if (!holds) throw std::logic_error(std::string("AMX emulator: ") + what);
  }
  tile& used(int number) {
    require(configured_ && tiles_[number].rows > 0, "a tile that is not configured");
    return tiles_[number];
  }

  bool configured_ = false;
  tile tiles_[8];
};

} // namespace slim_test
