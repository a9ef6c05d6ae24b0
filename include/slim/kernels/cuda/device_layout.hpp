#pragma once
/// @file
/// The header of a layer in the device format, and where its parts lie (docs/formats/device.md). Reaches core/ only: it is read
/// on both sides of the door between .cpp and .cu files.

#include "slim/core/result.hpp"
#include "slim/kernels/cuda/atoms.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace slim {
inline namespace SLIM_ABI {

/// A matrix of a device header.
struct device_part {
  device_kind kind = device_kind::dense4;
  std::uint8_t zeros = 0;   ///< 1: every scale has a zero point beside it
  std::uint16_t unused = 0; ///
  std::uint32_t group = 0;  ///< columns that share a scale: 32, 64, or a multiple of 128; 0: a scale per row, or none

  friend bool operator==(device_part const&, device_part const&) = default;
};

/// The first 64 bytes of a layer in the device format; numbers are little-endian. Without an adapter `rank` is 0 and both its
/// parts are as above.
struct device_header {
  std::array<char, 4> magic{'S', 'L', 'D', 'V'};
  std::uint16_t version = 1;
  std::uint16_t unused = 0;
  std::uint32_t rows = 0; ///< d_out
  std::uint32_t cols = 0; ///< d_in
  std::uint32_t rank = 0; ///< of the adapter
  std::uint32_t unused_too = 0;
  device_part left = {};   ///< L^T, rank x d_in
  device_part weight = {}; ///< W, d_out x d_in
  device_part right = {};  ///< R^T, d_out x rank
  std::uint64_t bytes = 0; ///< of the whole, this header included
  std::uint64_t unused_end = 0;

  friend bool operator==(device_header const&, device_header const&) = default;
};

static_assert(sizeof(device_part) == 8 && sizeof(device_header) == 64 && std::is_trivially_copyable_v<device_header>);
static_assert(offsetof(device_header, rows) == 8 && offsetof(device_header, left) == 24 &&
              offsetof(device_header, weight) == 32 && offsetof(device_header, right) == 40 &&
              offsetof(device_header, bytes) == 48);

/// Where the parts of one matrix lie, in bytes from its beginning: chunks, then scales and zero points of rows. A strip is 64
/// rows, 4 atoms one below the other (the last strip perhaps fewer); its chunks, an atom of each, follow each other along the
/// columns, and strips follow each other.
struct device_layout {
  device_kind kind = device_kind::dense4;
  bool zeros = false;
  int group = 0;
  std::int64_t rows = 0, cols = 0;

  [[nodiscard]] SLIM_HOST_DEVICE constexpr std::int64_t atoms() const {
    return (rows + device_atom_rows - 1) / device_atom_rows;
  }
  [[nodiscard]] SLIM_HOST_DEVICE constexpr std::int64_t strips() const {
    return (atoms() + device_strip_atoms - 1) / device_strip_atoms;
  }
  /// Atoms side by side; a matrix without columns has one of padding.
  [[nodiscard]] SLIM_HOST_DEVICE constexpr std::int64_t depth() const {
    return cols == 0 ? 1 : (cols + device_atom_cols - 1) / device_atom_cols;
  }
  /// Sets of scales of an atom; a group of more than 128 columns has its set in each of its atoms.
  [[nodiscard]] SLIM_HOST_DEVICE constexpr int sets() const {
    return group == 0 ? 0 : group >= device_atom_cols ? 1 : device_atom_cols / group;
  }
  [[nodiscard]] SLIM_HOST_DEVICE constexpr bool row_scales() const { return has_codes(kind) && group == 0; }
  [[nodiscard]] SLIM_HOST_DEVICE constexpr int atom_bytes() const {
    return word_bytes(kind) + sets() * (device_scale_bytes + (zeros ? device_zero_bytes : 0));
  }
  /// Where set s of an atom begins: all scales stand before all zero points.
  [[nodiscard]] SLIM_HOST_DEVICE constexpr int scales_offset(int set) const {
    return word_bytes(kind) + device_scale_bytes * set;
  }
  [[nodiscard]] SLIM_HOST_DEVICE constexpr int zeros_offset(int set) const {
    return word_bytes(kind) + device_scale_bytes * sets() + device_zero_bytes * set;
  }
  /// Atoms of a strip.
  [[nodiscard]] SLIM_HOST_DEVICE constexpr std::int64_t atoms_of(std::int64_t strip) const {
    std::int64_t const left = atoms() - device_strip_atoms * strip;
    return left < device_strip_atoms ? left : device_strip_atoms;
  }
  /// Where the chunk of a strip at column block k begins.
  [[nodiscard]] SLIM_HOST_DEVICE constexpr std::int64_t chunk_offset(std::int64_t strip, std::int64_t k) const {
    return (strip * device_strip_atoms * depth() + k * atoms_of(strip)) * atom_bytes();
  }
  [[nodiscard]] SLIM_HOST_DEVICE constexpr std::int64_t atom_offset(std::int64_t atom, std::int64_t k) const {
    return chunk_offset(atom / device_strip_atoms, k) + atom % device_strip_atoms * atom_bytes();
  }
  /// 4 bytes a row, fp32; rows that pad have scale 0.
  [[nodiscard]] SLIM_HOST_DEVICE constexpr std::int64_t row_scales_offset() const { return atoms() * depth() * atom_bytes(); }
  /// A byte a row.
  [[nodiscard]] SLIM_HOST_DEVICE constexpr std::int64_t row_zeros_offset() const {
    return row_scales_offset() + (row_scales() ? 4 * device_atom_rows * atoms() : 0);
  }
  [[nodiscard]] SLIM_HOST_DEVICE constexpr std::int64_t byte_size() const {
    return row_zeros_offset() + (row_scales() && zeros ? device_atom_rows * atoms() : 0);
  }
};

/// The three matrices of a header and where they begin. L^T and R^T are empty without an adapter.
struct device_layer_layout {
  device_layout left, weight, right;

  explicit constexpr device_layer_layout(device_header const& h)
      : left(layout_of(h.left, h.rank, h.rank == 0 ? 0 : h.cols)), weight(layout_of(h.weight, h.rows, h.cols)),
        right(layout_of(h.right, h.rank == 0 ? 0 : h.rows, h.rank)) {}

  [[nodiscard]] constexpr std::int64_t left_offset() const { return static_cast<std::int64_t>(sizeof(device_header)); }
  [[nodiscard]] constexpr std::int64_t weight_offset() const { return left_offset() + left.byte_size(); }
  [[nodiscard]] constexpr std::int64_t right_offset() const { return weight_offset() + weight.byte_size(); }
  [[nodiscard]] constexpr std::int64_t byte_size() const { return right_offset() + right.byte_size(); }

private:
  [[nodiscard]] static constexpr device_layout layout_of(device_part const& part, std::int64_t rows, std::int64_t cols) {
    return {part.kind, part.zeros != 0, static_cast<int>(part.group), rows, cols};
  }
};

namespace detail {

/// So that sizes in bytes fit 64 bits.
inline constexpr std::uint32_t most_device_extent = 0x7fffffffu;
inline constexpr std::int64_t most_device_weights = std::int64_t{1} << 50;

/// Why a part cannot be that of a header; empty if it can.
[[nodiscard]] inline std::string why_not(device_part const& part, std::int64_t rows, std::int64_t cols) {
  if (part.kind < device_kind::sparse24 || part.kind > device_kind::bf16)
    return message("kind ", static_cast<int>(part.kind), ", known are 1 to 6");
  if (part.zeros > 1 || part.unused != 0) return "a flag is set that this reader does not know";
  if (part.zeros != 0 && (!has_codes(part.kind) || part.kind == device_kind::sparse24 || rows == 0 || cols == 0))
    return "zero points belong to dense codes";
  if (part.group != 0 && (!has_codes(part.kind) || part.group >= cols ||
                          (part.group != 32 && part.group != 64 && part.group % device_atom_cols != 0)))
    return message("groups of ", part.group, " of ", cols, " columns, possible are 32, 64 and multiples of 128 below them");
  if (rows * cols > most_device_weights) return message("shape ", rows, " x ", cols);
  return {};
}

/// Why a header cannot be that of a layer; empty if it can.
[[nodiscard]] inline std::string why_not(device_header const& h) {
  if (h.magic != device_header{}.magic) return "the first four bytes are not SLDV";
  if (h.version != device_header{}.version) return message("format version ", h.version, ", this reader knows 1");
  if (h.unused != 0 || h.unused_too != 0 || h.unused_end != 0) return "a field is set that this reader does not know";
  if (h.rows > most_device_extent || h.cols > most_device_extent || h.rank > most_device_extent)
    return message("shape ", h.rows, " x ", h.cols, ", rank ", h.rank);
  if (std::string why = why_not(h.weight, h.rows, h.cols); !why.empty()) return "weight: " + why;
  if (h.rank == 0)
    return h.left == device_part{} && h.right == device_part{} ? std::string()
                                                               : "factors of an adapter of rank 0 are described";
  if (std::string why = why_not(h.left, h.rank, h.cols); !why.empty()) return "left factor: " + why;
  if (std::string why = why_not(h.right, h.rows, h.rank); !why.empty()) return "right factor: " + why;
  if (h.right.kind == device_kind::sparse24) return "right factor: kind 1, a right factor is dense";
  int halves = 0, bfloats = 0;
  for (device_part const& part : {h.left, h.weight, h.right}) {
    halves += part.kind == device_kind::fp16 ? 1 : 0;
    bfloats += part.kind == device_kind::bf16 ? 1 : 0;
  }
  if (halves > 0 && bfloats > 0) return "numbers in fp16 and in bf16, a layer has one of them";
  return {};
}

} // namespace detail

/// The header of a layer's bytes, checked, and the size compared with it. The failure says what is wrong.
[[nodiscard]] inline result<device_header> read_device_header(std::span<std::byte const> bytes) {
  if (bytes.size() < sizeof(device_header))
    return failure{message("device layer: ", bytes.size(), " bytes, the header alone has 64")};
  device_header h;
  std::memcpy(&h, bytes.data(), sizeof h);
  if (std::string const why = detail::why_not(h); !why.empty()) return failure{message("device layer: header: ", why)};
  auto const needed = static_cast<std::uint64_t>(device_layer_layout(h).byte_size());
  if (h.bytes != needed || bytes.size() != needed)
    return failure{message("device layer: ", bytes.size(), " bytes, the header says ", h.bytes, ", ", h.rows, " x ", h.cols,
                           " of rank ", h.rank, " has ", needed)};
  return h;
}

} // namespace SLIM_ABI
} // namespace slim
