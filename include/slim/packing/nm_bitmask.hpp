#pragma once
/// @file
/// `nm_bitmask`: any mask, N:M or without structure. A bit per weight says what is kept, and the kept codes follow.
/// docs/formats/nm_bitmask.md.

#include "slim/packing/promised_pattern.hpp"
#include "slim/packing/side_data.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// One bit per weight, then the kept codes of each row in order of columns. `unpack(pack(codes, kept))` is `(codes, kept)` for
/// every mask, with the promised pattern if it is true.
class nm_bitmask {
public:
  static constexpr packed_kind kind = packed_kind::nm_bitmask;

  /// @throws shape_error, config_error, nonfinite_error for parts that do not fit each other.
  [[nodiscard]] static std::vector<std::byte> pack(integer_codes const& codes, mask const& kept, context const& ctx = {}) {
    return pack_parts(codes, kept, {}, ctx);
  }
  [[nodiscard]] static std::vector<std::byte> pack(codebook_codes const& codes, mask const& kept, context const& ctx = {}) {
    auto const parts = detail::signed_parts("nm_bitmask", codes);
    return pack_parts(parts.codes, kept, parts.book, ctx);
  }

  /// The failure names the byte or the row and what is wrong.
  [[nodiscard]] static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                                      context const& ctx = {}) {
    auto const header = detail::open_packed(kind, bytes, limit, least_body_bytes);
    if (!header) return failure{header.why()};
    detail::byte_reader reader(bytes, sizeof(packed_header));
    result<detail::packed_parts> read = detail::read_side_data(*header, reader, ctx);
    if (!read) return failure{read.why()};
    std::string why = read_mask(*header, *read, reader, ctx);
    if (why.empty()) why = read_codes(*header, *read, reader, ctx);
    if (!why.empty()) return failure{message("nm_bitmask: ", why)};
    return detail::unpacked(std::move(*read));
  }

  /// Size of what `pack` returns.
  [[nodiscard]] static std::int64_t byte_size(integer_codes const& codes, mask const& kept) {
    return byte_size_of(codes, kept, {});
  }
  [[nodiscard]] static std::int64_t byte_size(codebook_codes const& codes, mask const& kept) {
    auto const parts = detail::signed_parts("nm_bitmask", codes);
    return byte_size_of(parts.codes, kept, parts.book);
  }

private:
  static std::vector<std::byte> pack_parts(integer_codes const& codes, mask const& kept,
                                           std::optional<detail::code_book> const& book, context const& ctx) {
    detail::check_packable(kind, codes, kept, book);
    std::vector<std::int64_t> const offsets = code_offsets(kept, codes.bits, ctx);
    packed_header const header = detail::header_of(kind, codes, detail::true_pattern(kept, ctx), book, kept.count());
    std::vector<std::byte> out;
    out.reserve(static_cast<std::size_t>(total_bytes(header, offsets.back())));
    detail::append_bytes(out, header);
    detail::append_side_data(out, codes, book);
    std::byte* const mask_rows = detail::append_room(out, mask_bytes(header));
    std::byte* const code_rows = detail::append_room(out, offsets.back());
    ctx.parallel_for(codes.rows(), detail::packed_rows_per_task(codes.cols()), [&](index_t begin, index_t end) {
      detail::field_writer mask_fields(mask_rows + begin * detail::field_bytes(codes.cols(), 1));
      detail::field_writer code_fields(code_rows + offsets[static_cast<std::size_t>(begin)]);
      for (index_t i = begin; i < end; ++i) write_row(i, codes, kept, mask_fields, code_fields);
    });
    return out;
  }

  [[nodiscard]] static std::int64_t byte_size_of(integer_codes const& codes, mask const& kept,
                                                 std::optional<detail::code_book> const& book) {
    detail::check_shapes(kind, codes, kept);
    return total_bytes(detail::header_of(kind, codes, {}, book, 0), code_offsets(kept, codes.bits, {}).back());
  }

  [[nodiscard]] static constexpr std::int64_t mask_bytes(packed_header const& h) noexcept {
    return h.rows * detail::field_bytes(h.cols, 1);
  }
  /// More may be needed: the codes of each row end on a byte.
  [[nodiscard]] static constexpr std::int64_t least_body_bytes(packed_header const& h) noexcept {
    return mask_bytes(h) + detail::field_bytes(h.entries, h.bits);
  }
  [[nodiscard]] static constexpr std::int64_t total_bytes(packed_header const& h, std::int64_t code_bytes) noexcept {
    return static_cast<std::int64_t>(sizeof(packed_header)) + detail::side_bytes(h) + mask_bytes(h) + code_bytes;
  }

  /// Where the codes of each row begin, in bytes behind those of the first; at last, where they end.
  [[nodiscard]] static std::vector<std::int64_t> code_offsets(mask const& kept, int bits, context const& ctx) {
    std::vector<std::int64_t> offsets(static_cast<std::size_t>(kept.rows()) + 1);
    ctx.parallel_for(kept.rows(), detail::packed_rows_per_task(kept.cols()), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        index_t count = 0;
        for (index_t j = 0; j < kept.cols(); ++j) count += kept.kept(i, j) ? 1 : 0;
        offsets[static_cast<std::size_t>(i) + 1] = detail::field_bytes(count, bits);
      }
    });
    for (std::size_t i = 1; i < offsets.size(); ++i) offsets[i] += offsets[i - 1];
    return offsets;
  }

  static void write_row(index_t i, integer_codes const& codes, mask const& kept, detail::field_writer& mask_fields,
                        detail::field_writer& code_fields) {
    int const bits = codes.bits;
    for (index_t j = 0; j < codes.cols(); ++j) {
      bool const keep = kept.kept(i, j);
      mask_fields.put(keep ? 1u : 0u, 1);
      if (keep) detail::put_code(code_fields, kind, bits, i, j, codes.codes(i, j));
    }
    mask_fields.end_row();
    code_fields.end_row();
  }

  static std::string read_mask(packed_header const& h, detail::packed_parts& read, detail::byte_reader& reader,
                               context const& ctx) {
    std::int64_t const row_bytes = detail::field_bytes(h.cols, 1);
    auto const rows = reader.take(mask_bytes(h));
    return detail::first_complaint(h.rows, h.cols, ctx, [&](index_t i) -> std::string {
      detail::field_reader bits(detail::row_part(rows, i, row_bytes));
      for (index_t j = 0; j < h.cols; ++j) read.kept.keep(i, j, bits.get(1) != 0);
      if (!bits.end_row()) return message("row ", i, " of the mask: bits behind its end are set");
      if (!detail::row_keeps(read.kept, h.pattern(), i))
        return message("row ", i, ": the pattern that is promised does not hold");
      return {};
    });
  }

  static std::string read_codes(packed_header const& h, detail::packed_parts& read, detail::byte_reader& reader,
                                context const& ctx) {
    std::int64_t const count = read.kept.count();
    std::vector<std::int64_t> const offsets = code_offsets(read.kept, h.bits, ctx);
    if (count != h.entries || static_cast<std::uint64_t>(offsets.back()) != reader.left())
      return message("the mask keeps ", count, " codes in ", offsets.back(), " bytes; the header says ", h.entries,
                     ", and there are ", reader.left(), " bytes");
    auto const bytes = reader.take(offsets.back());
    return detail::first_complaint(h.rows, h.cols, ctx, [&](index_t i) -> std::string {
      auto const row = static_cast<std::size_t>(offsets[static_cast<std::size_t>(i)]);
      detail::field_reader fields(bytes.subspan(row));
      std::int8_t* const codes = read.codes.codes.row(i);
      for (index_t j = 0; j < h.cols; ++j)
        if (read.kept.kept(i, j)) codes[j] = detail::code_of(fields.get(h.bits), h.bits);
      return fields.end_row() ? "" : message("row ", i, " of the codes: bits behind its end are set");
    });
  }
};

static_assert(packed_format<nm_bitmask>);

} // namespace SLIM_ABI
} // namespace slim
