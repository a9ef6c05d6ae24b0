#pragma once
/// @file
/// `dense_codes`: every code, 2 to 8 bits each. docs/formats/dense_codes.md.

#include "slim/packing/side_data.hpp"

#include <algorithm>

namespace slim {
inline namespace SLIM_ABI {

/// All weights of all rows. There is no mask: a pruned weight is written as the zero point, and `unpack` says that every weight
/// is kept. So `unpack(pack(codes, kept))` is `(codes, kept)` for masks that keep everything; for others the values are the
/// same.
class dense_codes {
public:
  static constexpr packed_kind kind = packed_kind::dense_codes;

  /// Bytes of a row.
  [[nodiscard]] static constexpr std::int64_t row_bytes(index_t cols, int bits) noexcept {
    return detail::field_bytes(cols, bits);
  }

  /// @throws config_error if a weight is pruned and the code book gives code 0 a value; shape_error, config_error,
  /// nonfinite_error for parts that do not fit each other.
  [[nodiscard]] static std::vector<std::byte> pack(integer_codes const& codes, mask const& kept, context const& ctx = {}) {
    return pack_parts(codes, kept, {}, ctx);
  }
  [[nodiscard]] static std::vector<std::byte> pack(codebook_codes const& codes, mask const& kept, context const& ctx = {}) {
    auto const parts = detail::signed_parts("dense_codes", codes);
    return pack_parts(parts.codes, kept, parts.book, ctx);
  }

  /// Nothing is pruned.
  [[nodiscard]] static std::vector<std::byte> pack(integer_codes const& codes, context const& ctx = {}) {
    detail::check_packable(kind, codes, mask(codes.rows(), codes.cols()), {});
    return packed(codes, {}, ctx, [&](index_t i, index_t j) -> int { return codes.codes(i, j); });
  }

  /// The failure names the byte or the row and what is wrong.
  [[nodiscard]] static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                                      context const& ctx = {}) {
    auto const header = detail::open_packed(kind, bytes, limit, body_bytes);
    if (!header) return failure{header.why()};
    if (header->entries != header->rows * header->cols || header->m != 0 ||
        bytes.size() != static_cast<std::uint64_t>(total_bytes(*header)))
      return failure{message("dense_codes: ", bytes.size(), " bytes, ", header->entries, " codes, pattern ", header->n, ":",
                             header->m, "; ", header->rows, " x ", header->cols, " has ", total_bytes(*header), ", ",
                             header->rows * header->cols, " and 0:0")};
    detail::byte_reader reader(bytes, sizeof(packed_header));
    result<detail::packed_parts> read = detail::read_side_data(*header, reader, ctx);
    if (!read) return failure{read.why()};
    std::int64_t const size = row_bytes(header->cols, header->bits);
    auto const rows = reader.take(header->rows * size);
    detail::packed_parts& into = *read;
    std::string const why = detail::first_complaint(
        header->rows, header->cols, ctx, [&](index_t i) { return read_row(i, into, detail::row_part(rows, i, size)); });
    if (!why.empty()) return failure{message("dense_codes: row ", why)};
    return detail::unpacked(std::move(*read));
  }

  /// Size of what `pack` returns.
  [[nodiscard]] static std::int64_t byte_size(integer_codes const& codes, mask const& kept) {
    return byte_size_of(codes, kept, {});
  }
  [[nodiscard]] static std::int64_t byte_size(codebook_codes const& codes, mask const& kept) {
    auto const parts = detail::signed_parts("dense_codes", codes);
    return byte_size_of(parts.codes, kept, parts.book);
  }

private:
  static std::vector<std::byte> pack_parts(integer_codes const& codes, mask const& kept,
                                           std::optional<detail::code_book> const& book, context const& ctx) {
    detail::check_packable(kind, codes, kept, book);
    bool const has_zero = !book || (*book)[8] == 0.0f;
    return packed(codes, book, ctx, [&](index_t i, index_t j) -> int {
      if (kept.kept(i, j)) return codes.codes(i, j);
      if (!has_zero)
        throw config_error(message("dense_codes: weight (", i, ", ", j, ") is pruned, and the code book has no 0"));
      return codes.zero_at(i, j);
    });
  }

  [[nodiscard]] static std::int64_t byte_size_of(integer_codes const& codes, mask const& kept,
                                                 std::optional<detail::code_book> const& book) {
    detail::check_shapes(kind, codes, kept);
    return total_bytes(detail::header_of(kind, codes, {}, book, 0));
  }

  [[nodiscard]] static constexpr std::int64_t body_bytes(packed_header const& h) noexcept {
    return h.rows * row_bytes(h.cols, h.bits);
  }
  [[nodiscard]] static constexpr std::int64_t total_bytes(packed_header const& h) noexcept {
    return static_cast<std::int64_t>(sizeof(packed_header)) + detail::side_bytes(h) + body_bytes(h);
  }

  static std::string read_row(index_t i, detail::packed_parts& read, std::span<std::byte const> bytes) {
    detail::field_reader fields(bytes);
    fields.get_codes(read.codes.bits, read.codes.cols(), read.codes.codes.row(i));
    std::fill_n(read.kept.row(i), read.kept.cols(), std::uint8_t{1});
    return fields.end_row() ? "" : message(i, ": bits behind its end are set");
  }

  template <class Code>
  static std::vector<std::byte> packed(integer_codes const& codes, std::optional<detail::code_book> const& book,
                                       context const& ctx, Code const& code) {
    packed_header const header = detail::header_of(kind, codes, {}, book, codes.codes.size());
    std::vector<std::byte> out;
    out.reserve(static_cast<std::size_t>(total_bytes(header)));
    detail::append_bytes(out, header);
    detail::append_side_data(out, codes, book);
    std::byte* const rows = detail::append_room(out, body_bytes(header));
    ctx.parallel_for(codes.rows(), detail::packed_rows_per_task(codes.cols()), [&](index_t begin, index_t end) {
      int const bits = codes.bits;
      detail::field_writer fields(rows + begin * row_bytes(codes.cols(), bits));
      for (index_t i = begin; i < end; ++i) {
        for (index_t j = 0; j < codes.cols(); ++j) detail::put_code(fields, kind, bits, i, j, code(i, j));
        fields.end_row();
      }
    });
    return out;
  }
};

static_assert(packed_format<dense_codes>);
static_assert(dense_codes::row_bytes(5, 3) == 2);

} // namespace SLIM_ABI
} // namespace slim
