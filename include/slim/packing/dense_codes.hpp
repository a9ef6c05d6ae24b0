#pragma once
/// @file
/// `dense_codes`: every code, 2 to 8 bits each. docs/formats/dense_codes.md.

#include "slim/packing/side_data.hpp"

namespace slim::inline SLIM_ABI {

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
  [[nodiscard]] static std::vector<std::byte> pack(integer_codes const& codes, mask const& kept,
                                                   std::optional<code_book> const& book = {}) {
    detail::check_packable(kind, codes, kept, book);
    bool const has_zero = !book || (*book)[8] == 0.0f;
    return packed(codes, book, [&](index_t i, index_t j) -> int {
      if (kept.kept(i, j)) return codes.codes(i, j);
      if (!has_zero)
        throw config_error(message("dense_codes: weight (", i, ", ", j, ") is pruned, and the code book has no 0"));
      return codes.zero_at(i, j);
    });
  }

  /// Nothing is pruned.
  [[nodiscard]] static std::vector<std::byte> pack(integer_codes const& codes, std::optional<code_book> const& book = {}) {
    detail::check_packable(kind, codes, mask(codes.rows(), codes.cols()), book);
    return packed(codes, book, [&](index_t i, index_t j) -> int { return codes.codes(i, j); });
  }

  /// The failure names the byte or the row and what is wrong.
  [[nodiscard]] static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {}) {
    auto const header = detail::open_packed(kind, bytes, limit, body_bytes);
    if (!header) return failure{header.why()};
    if (header->entries != header->rows * header->cols || header->m != 0 ||
        bytes.size() != static_cast<std::uint64_t>(total_bytes(*header)))
      return failure{message("dense_codes: ", bytes.size(), " bytes, ", header->entries, " codes, pattern ", header->n, ":",
                             header->m, "; ", header->rows, " x ", header->cols, " has ", total_bytes(*header), ", ",
                             header->rows * header->cols, " and 0:0")};
    detail::byte_reader reader(bytes, sizeof(packed_header));
    result<unpacked_matrix> read = detail::read_side_data(*header, reader);
    if (!read) return read;
    if (std::string const why = read_rows(*read, reader.take(body_bytes(*header))); !why.empty())
      return failure{message("dense_codes: ", why)};
    return read;
  }

  /// Size of what `pack` returns.
  [[nodiscard]] static std::int64_t byte_size(integer_codes const& codes, mask const&,
                                              std::optional<code_book> const& book = {}) {
    return total_bytes(detail::header_of(kind, codes, {}, book, 0));
  }

private:
  [[nodiscard]] static constexpr std::int64_t body_bytes(packed_header const& h) noexcept {
    return h.rows * row_bytes(h.cols, h.bits);
  }
  [[nodiscard]] static constexpr std::int64_t total_bytes(packed_header const& h) noexcept {
    return static_cast<std::int64_t>(sizeof(packed_header)) + detail::side_bytes(h) + body_bytes(h);
  }

  static std::string read_rows(unpacked_matrix& read, std::span<std::byte const> bytes) {
    detail::field_reader fields(bytes);
    int const bits = read.codes.bits;
    for (index_t i = 0; i < read.codes.rows(); ++i) {
      std::int8_t* const row = read.codes.codes.row(i);
      for (index_t j = 0, cols = read.codes.cols(); j < cols; ++j) row[j] = detail::code_of(fields.get(bits), bits);
      if (!fields.end_row()) return message("row ", i, ": bits behind its end are set");
      for (index_t j = 0, cols = read.codes.cols(); j < cols; ++j) read.kept.keep(i, j);
    }
    return {};
  }

  template <class Code>
  static std::vector<std::byte> packed(integer_codes const& codes, std::optional<code_book> const& book, Code const& code) {
    packed_header const header = detail::header_of(kind, codes, {}, book, codes.codes.size());
    std::vector<std::byte> out;
    out.reserve(static_cast<std::size_t>(total_bytes(header)));
    detail::append_bytes(out, header);
    detail::append_side_data(out, codes, book);
    detail::field_writer fields = detail::append_fields(out, body_bytes(header));
    int const bits = codes.bits;
    for (index_t i = 0; i < codes.rows(); ++i) {
      for (index_t j = 0; j < codes.cols(); ++j) detail::put_code(fields, kind, bits, i, j, code(i, j));
      fields.end_row();
    }
    return out;
  }
};

static_assert(packed_format<dense_codes>);
static_assert(dense_codes::row_bytes(5, 3) == 2);

} // namespace slim::inline SLIM_ABI
