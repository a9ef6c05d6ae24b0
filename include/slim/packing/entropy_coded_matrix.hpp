#pragma once
/// @file
/// A packed matrix (packing/packed_format.hpp) without slack: its scales, zero points, codes and positions entropy coded, each
/// with frequencies of its own, so that codes of 3 bits take what their distribution says. Lossless: the packed bytes come
/// back. docs/formats/entropy_coded.md.

#include "slim/packing/entropy_coded.hpp"
#include "slim/packing/side_data.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// The first bytes; the packed matrix's header follows, then a u64 of coded bytes and the coded bytes of each part.
struct coded_matrix_header {
  std::array<char, 4> magic{'S', 'L', 'R', 'M'};
  std::uint32_t version = 1;
  std::uint64_t bytes = 0; ///< of the packed matrix
};
static_assert(sizeof(coded_matrix_header) == 16 && std::has_unique_object_representations_v<coded_matrix_header>);

/// Bytes of a packed matrix that mean one kind of thing. Fields that do not divide a byte are spread: each byte gets as many
/// whole fields as it has room for, and a row begins with a byte.
struct matrix_part {
  std::size_t bytes = 0;            ///< in the packed matrix
  record_planes planes = {0};       ///< of what is coded
  std::int64_t rows = 0, count = 0; ///< rows of so many fields; 0: bytes are coded as they are
  int bits = 8;

  [[nodiscard]] bool spread() const noexcept { return rows > 0 && 8 % bits != 0; }
  [[nodiscard]] std::size_t per_byte() const noexcept { return static_cast<std::size_t>(8 / bits); }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return static_cast<std::size_t>(field_bytes(count, bits)); }
  [[nodiscard]] std::size_t spread_row() const noexcept {
    return (static_cast<std::size_t>(count) + per_byte() - 1) / per_byte();
  }
  [[nodiscard]] std::size_t coded_from() const noexcept {
    return spread() ? static_cast<std::size_t>(rows) * spread_row() : bytes;
  }
};

/// The parts of a packed matrix of `total` bytes behind its header, in order. They are `total` bytes in all, whatever the
/// header says.
[[nodiscard]] inline std::vector<matrix_part> parts_of_matrix(packed_header const& h, std::uint64_t total) {
  std::vector<matrix_part> parts;
  std::uint64_t left = total;
  auto const add = [&](std::int64_t bytes, matrix_part part) {
    bool const whole = static_cast<std::uint64_t>(bytes) <= left;
    if (!whole) part = {}; // not as the header has it: bytes
    part.bytes = static_cast<std::size_t>(whole ? static_cast<std::uint64_t>(bytes) : left);
    left -= part.bytes;
    if (part.bytes > 0) parts.push_back(std::move(part));
  };
  auto const fields = [&](std::int64_t rows, std::int64_t count, int bits) {
    add(rows * field_bytes(count, bits), {.rows = rows, .count = count, .bits = bits});
  };
  std::int64_t const scales = scale_count(h), before = side_bytes(h);
  add(scales * (bit_width(h.format()) / 8),
      {.planes = h.format() == number_format::fp32 ? record_planes{0, 1, 2, 3} : record_planes{0, 1}});
  if (h.has(packed_has_zeros)) fields(1, scales, h.bits);
  add(before - static_cast<std::int64_t>(total - left), {});
  if (h.kind == packed_kind::dense_codes) fields(h.rows, h.cols, h.bits);
  if (h.kind == packed_kind::sparse24) fields(h.rows, (h.cols + 3) / 4 * 2, h.bits);
  add(static_cast<std::int64_t>(left), {});
  return parts;
}

/// Rows of fields, spread over bytes. @throws config_error if bits behind the end of a row are set
[[nodiscard]] inline std::vector<std::byte> spread_fields(matrix_part const& part, std::span<std::byte const> packed) {
  std::vector<std::byte> out(part.coded_from());
  for (std::size_t i = 0, at = 0; i < static_cast<std::size_t>(part.rows); ++i) {
    field_reader fields(packed.subspan(i * part.row_bytes(), part.row_bytes()));
    for (std::int64_t left = part.count; left > 0; ++at) {
      unsigned byte = 0;
      for (std::size_t k = 0; k < part.per_byte() && left > 0; ++k, --left)
        byte |= fields.get(part.bits) << (k * static_cast<std::size_t>(part.bits));
      out[at] = static_cast<std::byte>(byte);
    }
    if (!fields.end_row()) throw config_error(message("entropy_encode_matrix: row ", i, " has bits behind its end"));
  }
  return out;
}

/// The other way; false if a byte has bits that no field has.
[[nodiscard]] inline bool gather_fields(matrix_part const& part, std::span<std::byte const> spread, std::byte* packed) {
  int const bits = part.bits;
  auto const row = part.spread_row(), per_byte = part.per_byte();
  auto const used = static_cast<unsigned>(bits) * static_cast<unsigned>(per_byte);
  unsigned odd = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(part.rows); ++i, packed += part.row_bytes()) {
    std::byte const* from = spread.data() + i * row;
    field_writer fields(packed);
    std::int64_t left = part.count;
    std::byte* to = packed;
    if (bits == 3) // four bytes of two fields are three bytes
      for (; left >= 8; left -= 8, from += 4, to += 3) {
        std::uint32_t const all = static_cast<std::uint32_t>(from[0]) | static_cast<std::uint32_t>(from[1]) << 6 |
                                  static_cast<std::uint32_t>(from[2]) << 12 | static_cast<std::uint32_t>(from[3]) << 18;
        odd |= (static_cast<unsigned>(from[0]) | static_cast<unsigned>(from[1]) | static_cast<unsigned>(from[2]) |
                static_cast<unsigned>(from[3])) >>
               6;
        to[0] = static_cast<std::byte>(all & 0xffu);
        to[1] = static_cast<std::byte>(all >> 8 & 0xffu);
        to[2] = static_cast<std::byte>(all >> 16 & 0xffu);
      }
    fields = field_writer(to);
    for (; left > 0; ++from) {
      auto byte = static_cast<unsigned>(*from);
      odd |= byte >> used;
      for (std::size_t k = 0; k < per_byte && left > 0; ++k, --left, byte >>= bits)
        fields.put(byte & ((1u << bits) - 1u), bits);
      if (left == 0) odd |= byte;
    }
    fields.end_row();
  }
  return odd == 0;
}

} // namespace detail

/// Whether bytes begin as entropy_encode_matrix writes them.
[[nodiscard]] inline bool is_coded_matrix(std::span<std::byte const> bytes) {
  constexpr auto magic = detail::coded_matrix_header{}.magic;
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

/// A packed matrix, entropy coded. The same bytes for any executor. O(bytes). @throws config_error if `packed` is none
[[nodiscard]] inline std::vector<std::byte> entropy_encode_matrix(std::span<std::byte const> packed, context const& ctx = {}) {
  auto const header = read_packed_header(packed, {.weights = detail::most_weights});
  if (!header) throw config_error("entropy_encode_matrix: " + header.why());
  std::vector<std::byte> out;
  detail::append_bytes(out, detail::coded_matrix_header{.bytes = packed.size()});
  detail::append_bytes(out, *header);
  auto rest = packed.subspan(sizeof(packed_header));
  for (detail::matrix_part const& part : detail::parts_of_matrix(*header, rest.size())) {
    auto const bytes = rest.first(part.bytes);
    rest = rest.subspan(part.bytes);
    auto const coded =
        part.spread() ? entropy_encode(spread_fields(part, bytes), part.planes, ctx) : entropy_encode(bytes, part.planes, ctx);
    detail::append_bytes(out, static_cast<std::uint64_t>(coded.size()));
    out.insert(out.end(), coded.begin(), coded.end());
  }
  return out;
}

/// The header of the packed matrix that is coded in `coded`. The failure says what is wrong.
[[nodiscard]] inline result<packed_header> read_coded_header(std::span<std::byte const> coded,
                                                             unpack_limit limit = {.weights_per_byte = 1 << 16}) {
  detail::byte_reader reader(coded);
  auto const head = reader.read<detail::coded_matrix_header>();
  if (reader.failed() || !is_coded_matrix(coded) || head.version != 1)
    return failure{message("entropy-coded matrix: ", coded.size(), " bytes do not begin as version 1 does")};
  auto header = read_packed_header(coded.subspan(reader.position()), limit);
  if (!header) return failure{"entropy-coded matrix: " + header.why()};
  std::uint64_t const most =
      sizeof(packed_header) + static_cast<std::uint64_t>(detail::side_bytes(*header)) +
      8 * (static_cast<std::uint64_t>(header->rows) + 8) * (static_cast<std::uint64_t>(header->cols) + 8);
  if (head.bytes < sizeof(packed_header) || head.bytes > most)
    return failure{
        message("entropy-coded matrix: ", head.bytes, " bytes are promised for ", header->rows, " x ", header->cols)};
  return header;
}

/// What entropy_encode_matrix got. `limit` bounds what it makes room for by the number of coded bytes. The failure says what is
/// damaged.
[[nodiscard]] inline result<std::vector<std::byte>> entropy_decode_matrix(std::span<std::byte const> coded,
                                                                          unpack_limit limit = {.weights_per_byte = 1 << 16},
                                                                          context const& ctx = {}) {
  auto const header = read_coded_header(coded, limit);
  if (!header) return failure{header.why()};
  detail::byte_reader reader(coded);
  auto const head = reader.read<detail::coded_matrix_header>();
  auto const first = reader.take(sizeof(packed_header));
  std::vector<std::byte> out(first.begin(), first.end());
  auto const parts = detail::parts_of_matrix(*header, head.bytes - sizeof(packed_header));
  for (std::size_t k = 0; k < parts.size(); ++k) {
    auto const bytes = reader.take(reader.read<std::uint64_t>());
    auto const decoded = reader.failed() ? result<std::vector<std::byte>>(failure{"its end is missing"})
                                         : entropy_decode(bytes, parts[k].coded_from(), ctx);
    std::string const where = message("entropy-coded matrix: part ", k, " of ", parts.size());
    if (!decoded) return failure{where + ": " + decoded.why()};
    if (decoded->size() != parts[k].coded_from())
      return failure{message(where, ": ", decoded->size(), " bytes, ", parts[k].coded_from(), " are promised")};
    auto* const to = detail::append_room(out, static_cast<std::int64_t>(parts[k].bytes));
    if (!parts[k].spread())
      std::copy(decoded->begin(), decoded->end(), to);
    else if (!detail::gather_fields(parts[k], *decoded, to))
      return failure{where + ": a byte has more bits than its fields"};
  }
  if (reader.left() > 0) return failure{message("entropy-coded matrix: ", reader.left(), " bytes too many")};
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
