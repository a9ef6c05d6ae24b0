#pragma once
/// @file
/// What stands between the header and the codes in every format: scales, zero points, channel factors, code book.

#include "slim/core/finite.hpp"
#include "slim/packing/packed_format.hpp"
#include "slim/packing/row_tasks.hpp"

#include <algorithm>
#include <array>
#include <optional>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Values of the 16 codes of 4 bits, lowest code (-8) first: the value of a code is scale * book[code + 8] / factor.
using code_book = std::array<float, 16>;

/// How formats hold a matrix: signed codes, and the levels they stand for if those are no multiples of the scale.
struct packed_parts {
  integer_codes codes;
  mask kept;
  std::optional<code_book> book = {};
};

/// codebook_codes as signed codes, without a mask; level k has code k - 8. @throws config_error if a format cannot hold them.
[[nodiscard]] inline packed_parts signed_parts(std::string_view who, codebook_codes const& from) {
  from.check(who);
  if (from.bits != 4 || from.dim != 1 || from.books.rows() > 1 || from.scales.has_second_level())
    throw config_error(message(who, ": codes of ", from.bits, " bits for ", from.dim, " columns with ", from.books.rows(),
                               " books; possible are 4 bits for one column, one book, and scales that are numbers"));
  integer_codes codes(from.rows(), from.cols(), 4, from.block, scale_storage{.format = from.scales.format()});
  for (index_t k = 0; k < codes.codes.size(); ++k) codes.codes.data()[k] = static_cast<std::int8_t>(from.codes.data()[k] - 8);
  if (from.scales.empty())
    std::fill_n(codes.scales.data(), codes.scales.size(), 1.0f);
  else
    codes.scales = from.scales;
  codes.channel_factors = from.channel_factors;
  code_book book{};
  if (from.books.rows() == 1) std::copy_n(from.books.row(0), book.size(), book.begin());
  return {std::move(codes), mask(0, 0), book};
}

/// What `unpack` returns, from its parts.
[[nodiscard]] inline unpacked_matrix unpacked(packed_parts parts) {
  if (!parts.book) return {std::move(parts.kept), any_codes(std::move(parts.codes))};
  integer_codes const& from = parts.codes;
  codebook_codes codes(from.rows(), from.cols(), std::vector<float>(parts.book->begin(), parts.book->end()), from.block,
                       from.scales.stored());
  codes.book_format = number_format::fp32;
  for (index_t k = 0; k < from.codes.size(); ++k) codes.codes.data()[k] = static_cast<std::uint8_t>(from.codes.data()[k] + 8);
  codes.scales = from.scales;
  codes.channel_factors = from.channel_factors;
  return {std::move(parts.kept), any_codes(std::move(codes))};
}

/// Bytes of scales, zero points, channel factors and code book.
[[nodiscard]] constexpr std::int64_t side_bytes(packed_header const& h) noexcept {
  return scale_count(h) * (bit_width(h.format()) / 8) + (h.has(packed_has_zeros) ? field_bytes(scale_count(h), h.bits) : 0) +
         std::int64_t{h.factors} * (column_bytes(h.cols) + 4) +
         (h.has(packed_has_code_book) ? static_cast<std::int64_t>(sizeof(code_book)) : 0);
}

/// The stored bits of a scale; bits that lie in the upper half do not exist in 16-bit formats.
[[nodiscard]] constexpr std::uint32_t bits_of(number_format format, float value) noexcept {
  switch (format) {
  case number_format::fp16: return fp16(value).bits;
  case number_format::bf16: return bf16(value).bits;
  case number_format::fp32: break;
  }
  return std::bit_cast<std::uint32_t>(value);
}
[[nodiscard]] constexpr float from_bits(number_format format, std::uint32_t bits) noexcept {
  switch (format) {
  case number_format::fp16: return fp16::from_bits(static_cast<std::uint16_t>(bits));
  case number_format::bf16: return bf16::from_bits(static_cast<std::uint16_t>(bits));
  case number_format::fp32: break;
  }
  return std::bit_cast<float>(bits);
}

// What numbers may be is told by their bits, as in core/finite.hpp.

/// 0 or positive, finite, and not -0, so that a scale has one spelling.
[[nodiscard]] constexpr bool can_be_scale(float value) noexcept { return std::bit_cast<std::uint32_t>(value) < 0x7f800000u; }
/// Positive and finite.
[[nodiscard]] constexpr bool can_be_factor(float value) noexcept {
  return std::bit_cast<std::uint32_t>(value) - 1u < 0x7f7fffffu;
}

// ---- writing

/// @throws shape_error, config_error unless all parts of the matrix fit each other, and the format has room for them.
inline void check_shapes(packed_kind kind, integer_codes const& codes, mask const& kept) {
  if (codes.rows() > largest_extent || codes.cols() > largest_extent || codes.codes.size() > most_weights)
    throw shape_error(message(name_of(kind), ": ", codes.rows(), " x ", codes.cols(), " is too large"));
  codes.check(name_of(kind));
  kept.check(name_of(kind), codes.rows(), codes.cols());
  if (codes.bits < 2) throw config_error(message(name_of(kind), ": codes of 1 bit, possible are 2 to 8"));
  if (!codes.group_bits.empty() || !codes.offsets.empty() || codes.scales.has_second_level())
    throw config_error(
        message(name_of(kind), ": bits per group, offsets and scales of a second level have no place in this format"));
}

/// @throws nonfinite_error, config_error naming the first number that no decoder would accept.
inline void check_numbers(packed_kind kind, integer_codes const& codes, std::optional<code_book> const& book) {
  for (index_t k = 0; k < codes.scales.size(); ++k) {
    float const scale = codes.scales.data()[k];
    if (!is_finite(scale)) throw nonfinite_error(message(name_of(kind), ": scale ", k, " is ", scale));
    if (!can_be_scale(scale) || rounded_to(codes.scales.format(), scale) != scale)
      throw config_error(message(name_of(kind), ": scale ", k, " is ", scale, ", which is not a non-negative ",
                                 name_of(codes.scales.format()), " number"));
  }
  for (index_t k = 0; k < codes.zeros.size(); ++k)
    if (int const zero = codes.zeros.data()[k]; zero < codes.lowest() || zero > codes.highest())
      throw config_error(message(name_of(kind), ": zero point ", k, " is ", zero, " in ", codes.bits, " bits"));
  for (std::size_t j = 0; j < codes.channel_factors.size(); ++j)
    if (!can_be_factor(codes.channel_factors[j]))
      throw config_error(message(name_of(kind), ": channel factor ", j, " is ", codes.channel_factors[j], ", not positive"));
  if (!book) return;
  if (codes.bits != 4 || !codes.zeros.empty())
    throw config_error(message(name_of(kind), ": a code book belongs to 4 bits without zero points"));
  for (float const value : *book)
    if (!is_finite(value)) throw nonfinite_error(message(name_of(kind), ": code book holds ", value));
}

/// @throws shape_error, config_error, nonfinite_error if no decoder would accept the matrix.
inline void check_packable(packed_kind kind, integer_codes const& codes, mask const& kept,
                           std::optional<code_book> const& book) {
  check_shapes(kind, codes, kept);
  check_numbers(kind, codes, book);
}

/// The header of a matrix that has been checked.
[[nodiscard]] inline packed_header header_of(packed_kind kind, integer_codes const& codes, sparsity_pattern pattern,
                                             std::optional<code_book> const& book, std::int64_t entries) {
  packed_header h;
  h.kind = kind;
  h.bits = static_cast<std::uint8_t>(codes.bits);
  h.scale_format = static_cast<std::uint8_t>(codes.scales.format());
  h.flags = static_cast<std::uint8_t>((codes.zeros.empty() ? 0 : packed_has_zeros) |
                                      (codes.channel_factors.empty() ? 0 : packed_has_channel_factors) |
                                      (book ? packed_has_code_book : 0));
  h.n = static_cast<std::uint32_t>(pattern.n);
  h.m = static_cast<std::uint32_t>(pattern.m);
  h.factors = static_cast<std::uint32_t>(
      std::count_if(codes.channel_factors.begin(), codes.channel_factors.end(), [](float f) { return f != 1.0f; }));
  h.rows = codes.rows();
  h.cols = codes.cols();
  h.block_rows = codes.block.rows;
  h.block_cols = codes.block.cols;
  h.entries = entries;
  return h;
}

inline void append_column(std::vector<std::byte>& out, index_t column, index_t cols) {
  if (column_bytes(cols) == 2)
    append_bytes(out, static_cast<std::uint16_t>(column));
  else
    append_bytes(out, static_cast<std::uint32_t>(column));
}

inline void append_side_data(std::vector<std::byte>& out, integer_codes const& codes, std::optional<code_book> const& book) {
  for (index_t k = 0; k < codes.scales.size(); ++k) {
    std::uint32_t const bits = bits_of(codes.scales.format(), codes.scales.data()[k]);
    if (bit_width(codes.scales.format()) == 16)
      append_bytes(out, static_cast<std::uint16_t>(bits));
    else
      append_bytes(out, bits);
  }
  field_writer zeros(append_room(out, field_bytes(codes.zeros.size(), codes.bits)));
  for (index_t k = 0; k < codes.zeros.size(); ++k) zeros.put(field_of(codes.zeros.data()[k], codes.bits), codes.bits);
  zeros.end_row();
  for (index_t j = 0; j < std::ssize(codes.channel_factors); ++j)
    if (float const factor = codes.factor_at(j); factor != 1.0f) {
      append_column(out, j, codes.cols());
      append_bytes(out, factor);
    }
  if (book)
    for (float const value : *book) append_bytes(out, value);
}

[[noreturn]] inline void refuse_code(packed_kind kind, int bits, index_t i, index_t j, int code) {
  throw config_error(message(name_of(kind), ": code (", i, ", ", j, ") is ", code, " in ", bits, " bits"));
}

/// Writes the code of weight (i, j). @throws config_error if it does not lie in its bits.
inline void put_code(field_writer& fields, packed_kind kind, int bits, index_t i, index_t j, int code) {
  unsigned const field = field_of(code, bits);
  if (field >> bits != 0) refuse_code(kind, bits, i, j, code);
  fields.put(field, bits);
}

// ---- reading

[[nodiscard]] inline index_t read_column(byte_reader& reader, index_t cols) noexcept {
  return column_bytes(cols) == 2 ? index_t{reader.read<std::uint16_t>()} : index_t{reader.read<std::uint32_t>()};
}

[[nodiscard]] inline std::string read_scales(byte_reader& reader, integer_codes& codes) {
  for (index_t k = 0; k < codes.scales.size(); ++k) {
    std::size_t const at = reader.position();
    std::uint32_t const bits =
        bit_width(codes.scales.format()) == 16 ? std::uint32_t{reader.read<std::uint16_t>()} : reader.read<std::uint32_t>();
    float const scale = from_bits(codes.scales.format(), bits);
    if (!can_be_scale(scale)) return message("byte ", at, ": scale ", k, " is ", scale);
    codes.scales.data()[k] = scale;
  }
  return {};
}

[[nodiscard]] inline std::string read_zeros(byte_reader& reader, integer_codes& codes) {
  codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
  field_reader fields(reader.take(field_bytes(codes.zeros.size(), codes.bits)));
  for (index_t k = 0; k < codes.zeros.size(); ++k) codes.zeros.data()[k] = code_of(fields.get(codes.bits), codes.bits);
  return fields.end_row() ? "" : message("byte ", reader.position() - 1, ": bits behind the last zero point are set");
}

[[nodiscard]] inline std::string read_factors(byte_reader& reader, integer_codes& codes, std::uint32_t count) {
  codes.channel_factors.assign(static_cast<std::size_t>(codes.cols()), 1.0f);
  index_t next = 0;
  for (std::uint32_t k = 0; k < count; ++k) {
    std::size_t const at = reader.position();
    index_t const column = read_column(reader, codes.cols());
    auto const factor = reader.read<float>();
    if (column < next || column >= codes.cols()) return message("byte ", at, ": channel factor of column ", column);
    if (!can_be_factor(factor) || factor == 1.0f) return message("byte ", at, ": channel factor is ", factor);
    codes.channel_factors[static_cast<std::size_t>(column)] = factor;
    next = column + 1;
  }
  return {};
}

/// The book of a matrix without weights is all 0: nothing else would be written.
[[nodiscard]] inline std::string read_code_book(byte_reader& reader, code_book& book, bool has_weights) {
  std::size_t const at = reader.position();
  book = reader.read<code_book>();
  for (float const value : book)
    if (!is_finite(value) || (!has_weights && std::bit_cast<std::uint32_t>(value) != 0))
      return message("byte ", at, ": the code book holds ", value);
  return {};
}

/// The zero point wherever a code will not be written.
inline void fill_with_zero_points(integer_codes& codes, context const& ctx) {
  if (codes.zeros.empty()) return;
  ctx.parallel_for(codes.rows(), packed_rows_per_task(codes.cols()), [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < codes.cols(); ++j) codes.codes(i, j) = static_cast<std::int8_t>(codes.zero_at(i, j));
  });
}

/// What an unpacked matrix is before its codes are read: the right shape, nothing kept, every code the zero point. The header
/// is checked and the bytes are there: see open_packed.
[[nodiscard]] inline result<packed_parts> read_side_data(packed_header const& h, byte_reader& reader, context const& ctx) {
  packed_parts read{.codes = integer_codes(h.rows, h.cols, h.bits, h.block(), h.format()),
                    .kept = mask(h.rows, h.cols, h.pattern())};
  std::string why = read_scales(reader, read.codes);
  if (why.empty() && h.has(packed_has_zeros)) why = read_zeros(reader, read.codes);
  if (why.empty() && h.has(packed_has_channel_factors)) why = read_factors(reader, read.codes, h.factors);
  if (why.empty() && h.has(packed_has_code_book)) why = read_code_book(reader, read.book.emplace(), h.rows > 0 && h.cols > 0);
  if (!why.empty()) return failure{message(name_of(h.kind), ": ", why)};
  fill_with_zero_points(read.codes, ctx);
  return read;
}

/// The checked header of bytes that should be of one kind and have at least `body_bytes(header)` bytes behind the side data.
/// After it, memory in proportion to the header's shape may be asked for.
template <class BodyBytes>
[[nodiscard]] result<packed_header> open_packed(packed_kind kind, std::span<std::byte const> bytes, unpack_limit limit,
                                                BodyBytes const& body_bytes) {
  result<packed_header> header = read_packed_header(bytes, limit);
  if (!header) return header;
  if (header->kind != kind) return failure{message(name_of(kind), ": these bytes are ", name_of(header->kind))};
  std::int64_t const needed = static_cast<std::int64_t>(sizeof(packed_header)) + side_bytes(*header) + body_bytes(*header);
  if (static_cast<std::uint64_t>(needed) > bytes.size())
    return failure{message(name_of(kind), ": ", bytes.size(), " bytes, a matrix of ", header->rows, " x ", header->cols,
                           " with ", header->entries, " codes needs ", needed)};
  return header;
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
