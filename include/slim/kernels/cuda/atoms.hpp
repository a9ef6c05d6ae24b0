#pragma once
/// @file
/// Atoms: where the bits of 16 outputs x 128 inputs lie in the device format (docs/formats/device.md). An atom is a set of
/// tensor-core fragments: the bytes that a lane loads are its operand A of `mma.m16n8k16`, or of `mma.sp.m16n8k32`, in the
/// order of PTX ISA 9.7.14 ("Matrix fragments for mma.m16n8k16", "for sparse mma.m16n8k32").

#include "slim/config.hpp"

#include <cstdint>

namespace slim {
inline namespace SLIM_ABI {

/// What the words of an atom hold, with the numbers that the format has for it.
enum class device_kind : std::uint8_t {
  sparse24 = 1, ///< 4-bit codes of two of every four columns, and where they stand
  dense2 = 2,   ///< codes of 2 bits
  dense3 = 3,   ///< codes of 3 bits
  dense4 = 4,   ///< codes of 4 bits
  fp16 = 5,     ///< numbers
  bf16 = 6,     ///< numbers
};

inline constexpr int device_atom_rows = 16;   ///< outputs of an atom
inline constexpr int device_atom_cols = 128;  ///< inputs of an atom
inline constexpr int device_strip_atoms = 4;  ///< atoms of a chunk, one below the other: 64 outputs
inline constexpr int device_scale_bytes = 32; ///< a set of scales of an atom: 16 x fp16
inline constexpr int device_zero_bytes = 16;  ///< a set of zero points of an atom: 16 x u8

/// Whether words hold codes, which have scales.
[[nodiscard]] SLIM_HOST_DEVICE constexpr bool has_codes(device_kind kind) { return kind < device_kind::fp16; }

/// Bits of a stored code, or number.
[[nodiscard]] SLIM_HOST_DEVICE constexpr int stored_bits(device_kind kind) {
  return kind == device_kind::dense2 ? 2 : kind == device_kind::dense3 ? 3 : has_codes(kind) ? 4 : 16;
}

/// 32-bit words that a lane has of an atom.
[[nodiscard]] SLIM_HOST_DEVICE constexpr int words_per_lane(device_kind kind) {
  return kind == device_kind::sparse24 ? 6 : 2 * stored_bits(kind);
}

/// Bytes of an atom without scales and zero points.
[[nodiscard]] SLIM_HOST_DEVICE constexpr int word_bytes(device_kind kind) { return 128 * words_per_lane(kind); }

/// Where word `word` of lane `lane` begins in an atom: vectors of four words, lane by lane; what is left (2:4 and 3 bits) as
/// vectors of two.
[[nodiscard]] SLIM_HOST_DEVICE constexpr int word_offset(device_kind kind, int lane, int word) {
  int const left = words_per_lane(kind) % 4;
  bool const last = word / 4 * 4 + left == words_per_lane(kind) && left != 0;
  return 512 * (word / 4) + (last ? 4 * left : 16) * lane + 4 * (word % 4);
}

/// A place in an atom: bit `bit` of the 32-bit word at byte `offset`.
struct device_place {
  int offset, bit;
};

/// Where bit b of the code (or number) of row `row`, column `col` lies. Not of sparse24. Bits of a code are neighbours, but for
/// every sixteenth code of 3 bits: three words keep 15 pairs of codes and, in their highest bits, the bits of a sixteenth.
[[nodiscard]] SLIM_HOST_DEVICE constexpr device_place dense_place(device_kind kind, int row, int col, int b) {
  int const step = col / 16, in = col % 16; // of mma.m16n8k16
  int const lane = 4 * (row % 8) + in % 8 / 2, half = in % 2, reg = row / 8 + 2 * (in / 8);
  int const bits = stored_bits(kind);
  if (kind == device_kind::dense3) {
    int const first = step / 4 * 3, pair = 4 * (step % 4) + reg;
    if (pair == 15) return {word_offset(kind, lane, first + b), 16 * half + 15};
    return {word_offset(kind, lane, first + pair / 5), 16 * half + 3 * (pair % 5) + b};
  }
  int const pair = 4 * step + reg, pairs = 16 / bits; // of a word
  return {word_offset(kind, lane, pair / pairs), 16 * half + bits * (pair % pairs) + b};
}

/// Where the code of entry `slot` (0, 1) of columns 4 group .. 4 group + 3 lies in an atom of sparse24: its lowest bit of four.
[[nodiscard]] SLIM_HOST_DEVICE constexpr device_place sparse_code_place(int row, int group, int slot) {
  int const step = group / 8, in = group % 8; // of mma.sp.m16n8k32: 8 groups
  int const lane = 4 * (row % 8) + in % 4, reg = row / 8 + 2 * (in / 4);
  return {word_offset(device_kind::sparse24, lane, step), 16 * slot + 4 * reg};
}

/// Where the positions of a group lie: the lowest of four bits, `low + 4 high`. A word of metadata serves two steps: selector 0
/// takes lanes 4g and 4g + 1, selector 1 lanes 4g + 2 and 4g + 3.
[[nodiscard]] SLIM_HOST_DEVICE constexpr device_place sparse_position_place(int row, int group) {
  int const step = group / 8, in = group % 8;
  int const lane = 4 * (row % 8) + 2 * (step % 2) + in / 4;
  return {word_offset(device_kind::sparse24, lane, 4 + step / 2), 16 * (row / 8) + 4 * (in % 4)};
}

} // namespace SLIM_ABI
} // namespace slim
