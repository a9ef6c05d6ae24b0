#pragma once
/// @file
/// `csr_codes`: compressed sparse rows, for masks that keep so few weights that their columns cost less than a bit for every
/// weight. docs/formats/csr_codes.md.

#include "slim/packing/promised_pattern.hpp"
#include "slim/packing/side_data.hpp"

#include <limits>

namespace slim {
inline namespace SLIM_ABI {

/// Where each row begins among the kept codes, the column of each, and the codes in one run, so that the offset of a row is
/// also where its codes are. `unpack(pack(codes, kept))` is `(codes, kept)` for every mask, with the promised pattern if it is
/// true, up to the limit of weights.
class csr_codes {
public:
  static constexpr packed_kind kind = packed_kind::csr_codes;

  /// Bytes of an offset: the last one is the number of entries.
  [[nodiscard]] static constexpr int offset_bytes(std::int64_t entries) noexcept {
    return entries <= std::numeric_limits<std::uint32_t>::max() ? 4 : 8;
  }

  /// @throws shape_error, config_error, nonfinite_error for parts that do not fit each other.
  [[nodiscard]] static std::vector<std::byte> pack(integer_codes const& codes, mask const& kept, context const& ctx = {}) {
    return pack_parts(codes, kept, {}, ctx);
  }
  [[nodiscard]] static std::vector<std::byte> pack(codebook_codes const& codes, mask const& kept, context const& ctx = {}) {
    auto const parts = detail::signed_parts("csr_codes", codes);
    return pack_parts(parts.codes, kept, parts.book, ctx);
  }

  /// The failure names the byte or the row and what is wrong.
  [[nodiscard]] static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                                      context const& ctx = {}) {
    auto const header = detail::open_packed(kind, bytes, limit, body_bytes);
    if (!header) return failure{header.why()};
    if (bytes.size() != static_cast<std::uint64_t>(total_bytes(*header)))
      return failure{message("csr_codes: ", bytes.size(), " bytes; ", header->rows, " x ", header->cols, " with ",
                             header->entries, " codes has ", total_bytes(*header))};
    detail::byte_reader reader(bytes, sizeof(packed_header));
    result<detail::packed_parts> read = detail::read_side_data(*header, reader, ctx);
    if (!read) return failure{read.why()};
    if (std::string const why = read_body(*header, *read, reader); !why.empty()) return failure{message("csr_codes: ", why)};
    return detail::unpacked(std::move(*read));
  }

  /// Size of what `pack` returns.
  [[nodiscard]] static std::int64_t byte_size(integer_codes const& codes, mask const& kept) {
    return byte_size_of(codes, kept, {});
  }
  [[nodiscard]] static std::int64_t byte_size(codebook_codes const& codes, mask const& kept) {
    auto const parts = detail::signed_parts("csr_codes", codes);
    return byte_size_of(parts.codes, kept, parts.book);
  }

private:
  static std::vector<std::byte> pack_parts(integer_codes const& codes, mask const& kept,
                                           std::optional<detail::code_book> const& book, context const& ctx) {
    detail::check_packable(kind, codes, kept, book);
    packed_header const header = detail::header_of(kind, codes, detail::true_pattern(kept, ctx), book, kept.count());
    std::vector<std::byte> out;
    out.reserve(static_cast<std::size_t>(total_bytes(header)));
    detail::append_bytes(out, header);
    detail::append_side_data(out, codes, book);
    append_offsets(out, kept, offset_bytes(header.entries));
    for_each_kept(kept, [&](index_t, index_t j) { detail::append_column(out, j, codes.cols()); });
    int const bits = codes.bits;
    detail::field_writer fields(detail::append_room(out, detail::field_bytes(header.entries, bits)));
    for_each_kept(kept, [&](index_t i, index_t j) { detail::put_code(fields, kind, bits, i, j, codes.codes(i, j)); });
    fields.end_row();
    return out;
  }

  [[nodiscard]] static std::int64_t byte_size_of(integer_codes const& codes, mask const& kept,
                                                 std::optional<detail::code_book> const& book) {
    detail::check_shapes(kind, codes, kept);
    return total_bytes(detail::header_of(kind, codes, {}, book, kept.count()));
  }

  [[nodiscard]] static constexpr std::int64_t body_bytes(packed_header const& h) noexcept {
    return (h.rows + 1) * offset_bytes(h.entries) + h.entries * detail::column_bytes(h.cols) +
           detail::field_bytes(h.entries, h.bits);
  }
  [[nodiscard]] static constexpr std::int64_t total_bytes(packed_header const& h) noexcept {
    return static_cast<std::int64_t>(sizeof(packed_header)) + detail::side_bytes(h) + body_bytes(h);
  }

  /// f(i, j) for every kept weight, row by row.
  template <class F>
  static void for_each_kept(mask const& kept, F const& f) {
    for (index_t i = 0; i < kept.rows(); ++i)
      for (index_t j = 0; j < kept.cols(); ++j)
        if (kept.kept(i, j)) f(i, j);
  }

  static void append_offset(std::vector<std::byte>& out, std::int64_t offset, int bytes) {
    if (bytes == 4)
      detail::append_bytes(out, static_cast<std::uint32_t>(offset));
    else
      detail::append_bytes(out, static_cast<std::uint64_t>(offset));
  }
  [[nodiscard]] static std::uint64_t read_offset(detail::byte_reader& reader, int bytes) noexcept {
    return bytes == 4 ? std::uint64_t{reader.read<std::uint32_t>()} : reader.read<std::uint64_t>();
  }

  static void append_offsets(std::vector<std::byte>& out, mask const& kept, int bytes) {
    std::int64_t offset = 0;
    append_offset(out, offset, bytes);
    for (index_t i = 0; i < kept.rows(); ++i) {
      for (index_t j = 0; j < kept.cols(); ++j) offset += kept.kept(i, j) ? 1 : 0;
      append_offset(out, offset, bytes);
    }
  }

  static std::string read_body(packed_header const& h, detail::packed_parts& read, detail::byte_reader& reader) {
    int const width = offset_bytes(h.entries);
    detail::byte_reader offsets(reader.take((h.rows + 1) * width));
    detail::byte_reader columns(reader.take(h.entries * detail::column_bytes(h.cols)));
    detail::field_reader fields(reader.take(detail::field_bytes(h.entries, h.bits)));
    std::uint64_t begin = read_offset(offsets, width);
    if (begin != 0) return message("the first row begins at code ", begin);
    for (index_t i = 0; i < h.rows; ++i) {
      std::uint64_t const end = read_offset(offsets, width);
      if (end < begin || end > static_cast<std::uint64_t>(h.entries))
        return message("row ", i, " is codes ", begin, " to ", end, " of ", h.entries);
      index_t next = 0; // columns ascend
      for (std::uint64_t k = begin; k < end; ++k) {
        index_t const j = detail::read_column(columns, h.cols);
        if (j < next || j >= h.cols) return message("row ", i, ", code ", k, ": column ", j, " after ", next - 1);
        read.codes.codes(i, j) = detail::code_of(fields.get(h.bits), h.bits);
        read.kept.keep(i, j);
        next = j + 1;
      }
      if (!detail::row_keeps(read.kept, h.pattern(), i))
        return message("row ", i, ": the pattern that is promised does not hold");
      begin = end;
    }
    if (begin != static_cast<std::uint64_t>(h.entries)) return message("the rows end at code ", begin, " of ", h.entries);
    if (!fields.end_row()) return "bits behind the last code are set";
    return {};
  }
};

static_assert(packed_format<csr_codes>);
static_assert(csr_codes::offset_bytes(0xffffffff) == 4 && csr_codes::offset_bytes(0x100000000) == 8);

} // namespace SLIM_ABI
} // namespace slim
