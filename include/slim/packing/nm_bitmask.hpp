#pragma once
/// @file
/// `nm_bitmask`: any mask, N:M or without structure. A bit per weight says what is kept, and the kept codes follow.
/// docs/formats/nm_bitmask.md.

#include "slim/packing/promised_pattern.hpp"
#include "slim/packing/side_data.hpp"

namespace slim::inline SLIM_ABI {

/// One bit per weight, then the kept codes of each row in order of columns. `unpack(pack(codes, kept))` is `(codes, kept)` for
/// every mask, with the promised pattern if it is true.
class nm_bitmask {
public:
  static constexpr packed_kind kind = packed_kind::nm_bitmask;

  /// @throws shape_error, config_error, nonfinite_error for parts that do not fit each other.
  [[nodiscard]] static std::vector<std::byte> pack(integer_codes const& codes, mask const& kept,
                                                   std::optional<code_book> const& book = {}) {
    detail::check_packable(kind, codes, kept, book);
    std::vector<std::byte> out;
    out.reserve(static_cast<std::size_t>(byte_size(codes, kept, book)));
    detail::append_bytes(out, detail::header_of(kind, codes, detail::true_pattern(kept), book, kept.count()));
    detail::append_side_data(out, codes, book);
    int const bits = codes.bits;
    detail::field_writer fields = detail::append_fields(out, byte_size(codes, kept, book) - std::ssize(out));
    for (index_t i = 0; i < codes.rows(); ++i) {
      for (index_t j = 0; j < codes.cols(); ++j) fields.put(kept.kept(i, j) ? 1u : 0u, 1);
      fields.end_row();
    }
    for (index_t i = 0; i < codes.rows(); ++i) {
      for (index_t j = 0; j < codes.cols(); ++j)
        if (kept.kept(i, j)) detail::put_code(fields, kind, bits, i, j, codes.codes(i, j));
      fields.end_row();
    }
    return out;
  }

  /// The failure names the byte or the row and what is wrong.
  [[nodiscard]] static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {}) {
    auto const header = detail::open_packed(kind, bytes, limit, least_body_bytes);
    if (!header) return failure{header.why()};
    detail::byte_reader reader(bytes, sizeof(packed_header));
    result<unpacked_matrix> read = detail::read_side_data(*header, reader);
    if (!read) return read;
    std::string why = read_mask(read->kept, reader.take(mask_bytes(*header)));
    if (why.empty()) why = read_codes(*header, *read, reader);
    if (!why.empty()) return failure{message("nm_bitmask: ", why)};
    return read;
  }

  /// Size of what `pack` returns.
  [[nodiscard]] static std::int64_t byte_size(integer_codes const& codes, mask const& kept,
                                              std::optional<code_book> const& book = {}) {
    packed_header const header = detail::header_of(kind, codes, {}, book, 0);
    return static_cast<std::int64_t>(sizeof(packed_header)) + detail::side_bytes(header) + mask_bytes(header) +
           code_bytes(kept, codes.bits);
  }

private:
  [[nodiscard]] static constexpr std::int64_t mask_bytes(packed_header const& h) noexcept {
    return h.rows * detail::field_bytes(h.cols, 1);
  }
  /// More may be needed: the codes of each row end on a byte.
  [[nodiscard]] static constexpr std::int64_t least_body_bytes(packed_header const& h) noexcept {
    return mask_bytes(h) + detail::field_bytes(h.entries, h.bits);
  }

  [[nodiscard]] static std::int64_t code_bytes(mask const& kept, int bits) noexcept {
    std::int64_t total = 0;
    for (index_t i = 0; i < kept.rows(); ++i) {
      index_t count = 0;
      for (index_t j = 0; j < kept.cols(); ++j) count += kept.kept(i, j) ? 1 : 0;
      total += detail::field_bytes(count, bits);
    }
    return total;
  }

  static std::string read_mask(mask& kept, std::span<std::byte const> bytes) {
    detail::field_reader bits(bytes);
    for (index_t i = 0; i < kept.rows(); ++i) {
      for (index_t j = 0; j < kept.cols(); ++j) kept.keep(i, j, bits.get(1) != 0);
      if (!bits.end_row()) return message("row ", i, " of the mask: bits behind its end are set");
    }
    if (!detail::keeps(kept, kept.pattern())) return "the pattern that is promised does not hold";
    return {};
  }

  static std::string read_codes(packed_header const& header, unpacked_matrix& read, detail::byte_reader& reader) {
    std::int64_t const count = read.kept.count();
    std::int64_t const size = code_bytes(read.kept, header.bits);
    if (count != header.entries || static_cast<std::uint64_t>(size) != reader.left())
      return message("the mask keeps ", count, " codes in ", size, " bytes; the header says ", header.entries,
                     ", and there are ", reader.left(), " bytes");
    detail::field_reader fields(reader.take(size));
    int const bits = header.bits;
    for (index_t i = 0; i < header.rows; ++i) {
      std::int8_t* const row = read.codes.codes.row(i);
      for (index_t j = 0; j < header.cols; ++j)
        if (read.kept.kept(i, j)) row[j] = detail::code_of(fields.get(bits), bits);
      if (!fields.end_row()) return message("row ", i, " of the codes: bits behind its end are set");
    }
    return {};
  }
};

static_assert(packed_format<nm_bitmask>);

} // namespace slim::inline SLIM_ABI
