#pragma once
/// @file
/// `packed_header`: the first 64 bytes of every packed matrix, and the checks that let a decoder trust it.

#include "slim/core/result.hpp"
#include "slim/packing/bit_fields.hpp"
#include "slim/pruning/mask.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <array>
#include <cstddef>
#include <string_view>
#include <type_traits>

namespace slim {
inline namespace SLIM_ABI {

/// Formats of a packed matrix, with the numbers they have in the header.
enum class packed_kind : std::uint8_t {
  dense_codes = 1,
  sparse24 = 2,
  nm_bitmask = 3,
  csr_codes = 4,
  residuals = 5,
  row_books = 6,
  second_level = 7,
  column_parts = 8,
};

[[nodiscard]] constexpr std::string_view name_of(packed_kind kind) {
  switch (kind) {
  case packed_kind::dense_codes: return "dense_codes";
  case packed_kind::sparse24: return "sparse24";
  case packed_kind::nm_bitmask: return "nm_bitmask";
  case packed_kind::csr_codes: return "csr_codes";
  case packed_kind::residuals: return "residuals";
  case packed_kind::row_books: return "row_books";
  case packed_kind::second_level: return "second_level";
  case packed_kind::column_parts: return "column_parts";
  }
  return "packed matrix";
}

/// The version of the format that a kind came with, and whose number its header has.
[[nodiscard]] constexpr std::uint16_t version_of(packed_kind kind) { return kind <= packed_kind::csr_codes ? 1 : 2; }

/// What optional parts follow the header.
enum packed_flags : std::uint8_t {
  packed_has_zeros = 1,
  packed_has_channel_factors = 2,
  packed_has_code_book = 4,
  packed_all_flags = 7,
};

/// The first bytes of every packed matrix; numbers are little-endian. Formats: docs/formats/.
struct packed_header {
  std::array<char, 4> magic{'S', 'L', 'P', 'K'};
  std::uint16_t version = 1;
  packed_kind kind = packed_kind::dense_codes;
  std::uint8_t bits = 4;         ///< of a code, 2 to 8; from version 2 on 1 to 8, 0 where the parts say it
  std::uint8_t scale_format = 0; ///< 0 fp32, 1 bf16, 2 fp16
  std::uint8_t flags = 0;        ///< packed_flags
  std::uint16_t unused = 0;
  std::uint32_t n = 0;         ///< promised pattern n:m; 0:0 none
  std::uint32_t m = 0;         ///
  std::uint32_t factors = 0;   ///< channel factors other than 1
  std::int64_t rows = 0;       ///< d_out
  std::int64_t cols = 0;       ///< d_in
  std::int64_t block_rows = 0; ///< scale_block: 0 is the whole extent
  std::int64_t block_cols = 0; ///
  std::int64_t entries = 0;    ///< codes that are stored

  [[nodiscard]] constexpr bool has(packed_flags flag) const noexcept { return (flags & flag) != 0; }
  [[nodiscard]] constexpr number_format format() const noexcept { return static_cast<number_format>(scale_format); }
  [[nodiscard]] constexpr scale_block block() const noexcept { return {.rows = block_rows, .cols = block_cols}; }
  [[nodiscard]] constexpr sparsity_pattern pattern() const noexcept {
    return {.n = static_cast<index_t>(n), .m = static_cast<index_t>(m)};
  }

  friend bool operator==(packed_header const&, packed_header const&) = default;
};

static_assert(sizeof(packed_header) == 64 && std::is_trivially_copyable_v<packed_header>);
static_assert(std::has_unique_object_representations_v<packed_header>, "packed_header: no padding");
static_assert(offsetof(packed_header, version) == 4 && offsetof(packed_header, kind) == 6 &&
              offsetof(packed_header, bits) == 7);
static_assert(offsetof(packed_header, scale_format) == 8 && offsetof(packed_header, flags) == 9);
static_assert(offsetof(packed_header, n) == 12 && offsetof(packed_header, m) == 16 && offsetof(packed_header, factors) == 20);
static_assert(offsetof(packed_header, rows) == 24 && offsetof(packed_header, cols) == 32);
static_assert(offsetof(packed_header, block_rows) == 40 && offsetof(packed_header, block_cols) == 48);
static_assert(offsetof(packed_header, entries) == 56);
static_assert(static_cast<int>(number_format::fp32) == 0 && static_cast<int>(number_format::bf16) == 1 &&
                  static_cast<int>(number_format::fp16) == 2,
              "packed_header: scale_format is the number of number_format");

/// How many weights (rows * cols) a decoder makes room for. Weights that take no bytes, those CSR leaves out, are the only
/// ones that come near: without a limit a file of 100 bytes could ask for terabytes.
struct unpack_limit {
  std::int64_t weights = std::int64_t{1} << 24; ///< whatever the size of the file
  std::int64_t weights_per_byte = 4096;         ///< and for every byte of it
};

namespace detail {

inline constexpr std::int64_t largest_extent = (std::int64_t{1} << 31) - 1;
/// So that bits of weights can be counted in 64 bits.
inline constexpr std::int64_t most_weights = std::int64_t{1} << 50;

[[nodiscard]] constexpr std::int64_t weights_allowed(unpack_limit limit, std::size_t file_bytes) noexcept {
  std::int64_t const bytes = static_cast<std::int64_t>(std::min<std::uint64_t>(file_bytes, most_weights));
  std::int64_t const each = std::max<std::int64_t>(limit.weights_per_byte, 0);
  std::int64_t const by_size = each != 0 && bytes > most_weights / each ? most_weights : bytes * each;
  return std::min(most_weights, std::max(by_size, limit.weights));
}

/// Bytes of a column's number: 2 in a matrix of up to 65536 columns, else 4.
[[nodiscard]] constexpr int column_bytes(std::int64_t cols) noexcept { return cols <= 65536 ? 2 : 4; }

[[nodiscard]] constexpr std::int64_t block_count(std::int64_t extent, std::int64_t size) noexcept {
  return extent / size + (extent % size != 0 ? 1 : 0);
}

/// Scales of a matrix: ceil(rows / block rows) * ceil(cols / block cols). Not above rows * cols.
[[nodiscard]] constexpr std::int64_t scale_count(packed_header const& header) noexcept {
  return block_count(header.rows, header.block().rows_of(header.rows)) *
         block_count(header.cols, header.block().cols_of(header.cols));
}

/// Why a header cannot be that of a matrix; empty if it can. Everything but `entries`, which is the format's own.
[[nodiscard]] inline std::string why_not(packed_header const& h, std::int64_t weights_allowed) {
  if (h.magic != packed_header{}.magic) return "the first four bytes are not SLPK";
  if (h.version < 1 || h.version > 2) return message("format version ", h.version, ", this reader knows 1 and 2");
  if (h.kind < packed_kind::dense_codes || h.kind > packed_kind::column_parts || h.version != version_of(h.kind))
    return message("kind ", static_cast<int>(h.kind), ", known are ", h.version == 1 ? "1 to 4" : "5 to 8 in version 2");
  bool const has_parts = h.kind == packed_kind::residuals || h.kind == packed_kind::column_parts;
  int const least = has_parts ? 0 : h.version == 1 ? 2 : 1, most = has_parts ? 0 : 8;
  if (h.bits < least || h.bits > most) return message("codes of ", int{h.bits}, " bits, possible are ", least, " to ", most);
  if (h.version > 1 && (h.flags != 0 || h.m != 0 || h.factors != 0)) return "a flag, a pattern or factors where none can be";
  if (h.scale_format > 2) return message("scale format ", int{h.scale_format}, ", known are 0 to 2");
  if ((h.flags & ~packed_all_flags) != 0 || h.unused != 0) return "a flag is set that this reader does not know";
  if (h.m > largest_extent || h.n > h.m) return message("pattern ", h.n, ":", h.m);
  if (h.rows < 0 || h.cols < 0 || h.rows > largest_extent || h.cols > largest_extent)
    return message("shape ", h.rows, " x ", h.cols);
  if (std::max<std::int64_t>(h.rows, 1) * std::max<std::int64_t>(h.cols, 1) > weights_allowed)
    return message("shape ", h.rows, " x ", h.cols, ", more weights than the ", weights_allowed,
                   " allowed for a file of this size");
  if (h.block_rows < 0 || h.block_cols < 0) return message("scale block of ", h.block_rows, " x ", h.block_cols);
  if (h.has(packed_has_zeros) && scale_count(h) == 0) return "zero points without scales";
  if (h.has(packed_has_channel_factors) && h.cols == 0) return "channel factors without channels";
  if (h.factors > (h.has(packed_has_channel_factors) ? h.cols : 0)) return message(h.factors, " channel factors");
  if (h.has(packed_has_code_book) && (h.bits != 4 || h.has(packed_has_zeros)))
    return "a code book belongs to 4 bits without zero points";
  if (h.entries < 0 || h.entries > most_weights) return message(h.entries, " codes");
  return {};
}

} // namespace detail

/// The checked header of packed bytes, for whoever wants to know what they are. Of `entries` only the order of magnitude is
/// checked: the format's `unpack` compares it with the rest.
[[nodiscard]] inline result<packed_header> read_packed_header(std::span<std::byte const> bytes, unpack_limit limit = {}) {
  detail::byte_reader reader(bytes);
  auto const header = reader.read<packed_header>();
  if (reader.failed()) return failure{message("packed matrix: ", bytes.size(), " bytes, the header alone has 64")};
  if (std::string const why = detail::why_not(header, detail::weights_allowed(limit, bytes.size())); !why.empty())
    return failure{message("packed matrix: header: ", why)};
  return header;
}

} // namespace SLIM_ABI
} // namespace slim
