#pragma once
/// @file
/// Numbers of a storage format as bytes, for the formats of version 2: any finite number has one spelling.

#include "slim/core/finite.hpp"
#include "slim/packing/side_data.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Appends numbers in 2 or 4 bytes each. @throws nonfinite_error, config_error naming the first that the format does not hold.
inline void append_numbers(std::vector<std::byte>& out, packed_kind kind, char const* what, float const* values, index_t count,
                           number_format format) {
  for (index_t k = 0; k < count; ++k) {
    if (!is_finite(values[k])) throw nonfinite_error(message(name_of(kind), ": ", what, " ", k, " is ", values[k]));
    if (rounded_to(format, values[k]) != values[k])
      throw config_error(
          message(name_of(kind), ": ", what, " ", k, " is ", values[k], ", which is no ", name_of(format), " number"));
    std::uint32_t const bits = bits_of(format, values[k]);
    if (bit_width(format) == 16)
      append_bytes(out, static_cast<std::uint16_t>(bits));
    else
      append_bytes(out, bits);
  }
}

/// Reads as many. A sentence if one is not finite.
[[nodiscard]] inline std::string read_numbers(byte_reader& reader, char const* what, float* values, index_t count,
                                              number_format format) {
  for (index_t k = 0; k < count; ++k) {
    std::size_t const at = reader.position();
    std::uint32_t const bits =
        bit_width(format) == 16 ? std::uint32_t{reader.read<std::uint16_t>()} : reader.read<std::uint32_t>();
    values[k] = from_bits(format, bits);
    if (!is_finite(values[k])) return message("byte ", at, ": ", what, " ", k, " is ", values[k]);
  }
  return {};
}

/// Rows of codes from 0 on, in fields of some bits; rows start on bytes. `code(i, j)` gives them.
template <class Code>
void append_rows(std::vector<std::byte>& out, index_t rows, index_t cols, int bits, context const& ctx, Code const& code) {
  std::int64_t const size = field_bytes(cols, bits);
  std::byte* const first = append_room(out, rows * size);
  ctx.parallel_for(rows, packed_rows_per_task(cols), [&](index_t begin, index_t end) {
    field_writer fields(first + begin * size);
    for (index_t i = begin; i < end; ++i) {
      for (index_t j = 0; j < cols; ++j) fields.put(code(i, j), bits);
      fields.end_row();
    }
  });
}

/// Reads them: `put(i, j, code)`. A sentence if bits behind a row are set.
template <class Put>
[[nodiscard]] std::string read_rows(std::span<std::byte const> bytes, index_t rows, index_t cols, int bits, context const& ctx,
                                    Put const& put) {
  return first_complaint(rows, cols, ctx, [&](index_t i) {
    field_reader fields(row_part(bytes, i, field_bytes(cols, bits)));
    for (index_t j = 0; j < cols; ++j) put(i, j, fields.get(bits));
    return fields.end_row() ? std::string() : message("row ", i, ": bits behind its end are set");
  });
}

/// The header of a format of version 2. @throws shape_error if it has no room for the matrix.
[[nodiscard]] inline packed_header second_header(packed_kind kind, index_t rows, index_t cols, int bits, number_format format,
                                                 std::int64_t entries) {
  if (rows > largest_extent || cols > largest_extent || std::max<index_t>(rows, 1) * std::max<index_t>(cols, 1) > most_weights)
    throw shape_error(message(name_of(kind), ": ", rows, " x ", cols, " is too large"));
  packed_header h;
  h.version = version_of(kind);
  h.kind = kind;
  h.bits = static_cast<std::uint8_t>(bits);
  h.scale_format = static_cast<std::uint8_t>(format);
  h.rows = rows;
  h.cols = cols;
  h.entries = entries;
  return h;
}

/// The header of bytes that should be of a kind of version 2 and have exactly `behind(header)` bytes behind it. Then memory in
/// proportion to the shape may be asked for.
template <class Behind>
[[nodiscard]] result<packed_header> open_second(packed_kind kind, std::span<std::byte const> bytes, unpack_limit limit,
                                                Behind const& behind) {
  result<packed_header> header = read_packed_header(bytes, limit);
  if (!header) return header;
  if (header->kind != kind) return failure{message(name_of(kind), ": these bytes are ", name_of(header->kind))};
  std::int64_t const needed = static_cast<std::int64_t>(sizeof(packed_header)) + behind(*header);
  if (static_cast<std::uint64_t>(needed) != bytes.size())
    return failure{message(name_of(kind), ": ", bytes.size(), " bytes, a matrix of ", header->rows, " x ", header->cols,
                           " with ", header->entries, " entries has ", needed)};
  return header;
}

/// A mask that keeps everything.
[[nodiscard]] inline mask all_kept(index_t rows, index_t cols) {
  mask kept(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) kept.keep(i, j);
  return kept;
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
