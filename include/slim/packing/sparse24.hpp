#pragma once
/// @file
/// `sparse24`: 2:4 sparse codes. Two codes and two 2-bit positions for every four columns: 3.0 bits per weight with 4-bit
/// codes, 3.125 with an fp16 scale per 128. docs/formats/sparse24.md.

#include "slim/packing/promised_pattern.hpp"
#include "slim/packing/side_data.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// At most two of every four consecutive columns of a row, stored as exactly two entries in ascending order of columns. A row
/// whose length is not a multiple of 4 ends with a group that is completed by columns behind the end, which hold nothing.
///
/// **Fillers** Where fewer than two columns of a group are kept, free columns make up for it, each with the zero point as its
/// code: first those behind the end of the row, then the lowest inside it. A filler inside the row is not to be told from
/// a kept code that is the zero point, and `unpack` says it is kept. So `unpack(pack(codes, kept))` is `(codes, kept)` for
/// every mask that keeps two of each whole group, and in a ragged one of t columns at least t - 2 (all that a 2:4 pruner makes
/// are such); for others the values are the same and the mask has the fillers in addition. A promised pattern is stored if it
/// holds with the fillers.
class sparse24 {
public:
  static constexpr packed_kind kind = packed_kind::sparse24;

  /// Bytes of a row's codes, and of its positions.
  [[nodiscard]] static constexpr std::int64_t row_code_bytes(index_t cols, int bits) noexcept {
    return detail::field_bytes(2 * groups(cols), bits);
  }
  [[nodiscard]] static constexpr std::int64_t row_position_bytes(index_t cols) noexcept {
    return detail::field_bytes(groups(cols), 4);
  }

  /// @throws config_error naming the first group that keeps more than two columns; if the code book gives code 0 a value and
  /// a filler is needed; shape_error, config_error, nonfinite_error for parts that do not fit each other.
  [[nodiscard]] static std::vector<std::byte> pack(integer_codes const& codes, mask const& kept, context const& ctx = {}) {
    return pack_parts(codes, kept, {}, ctx);
  }
  [[nodiscard]] static std::vector<std::byte> pack(codebook_codes const& codes, mask const& kept, context const& ctx = {}) {
    auto const parts = detail::signed_parts("sparse24", codes);
    return pack_parts(parts.codes, kept, parts.book, ctx);
  }

  /// The failure names the byte or the row and what is wrong.
  [[nodiscard]] static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                                      context const& ctx = {}) {
    auto const header = detail::open_packed(kind, bytes, limit, body_bytes);
    if (!header) return failure{header.why()};
    if (header->entries != entries(header->rows, header->cols) ||
        bytes.size() != static_cast<std::uint64_t>(total_bytes(*header)))
      return failure{message("sparse24: ", bytes.size(), " bytes and ", header->entries, " codes; ", header->rows, " x ",
                             header->cols, " has ", total_bytes(*header), " and ", entries(header->rows, header->cols))};
    detail::byte_reader reader(bytes, sizeof(packed_header));
    result<detail::packed_parts> read = detail::read_side_data(*header, reader, ctx);
    if (!read) return failure{read.why()};
    std::int64_t const row_codes = row_code_bytes(header->cols, header->bits);
    std::int64_t const row_positions = row_position_bytes(header->cols);
    auto const codes = reader.take(header->rows * row_codes);
    auto const positions = reader.take(header->rows * row_positions);
    detail::packed_parts& into = *read;
    std::string const why = detail::first_complaint(header->rows, header->cols, ctx, [&](index_t i) {
      return read_row(i, into, detail::row_part(codes, i, row_codes), detail::row_part(positions, i, row_positions));
    });
    if (!why.empty()) return failure{message("sparse24: row ", why)};
    return detail::unpacked(std::move(*read));
  }

  /// Size of what `pack` returns.
  [[nodiscard]] static std::int64_t byte_size(integer_codes const& codes, mask const& kept) {
    return byte_size_of(codes, kept, {});
  }
  [[nodiscard]] static std::int64_t byte_size(codebook_codes const& codes, mask const& kept) {
    auto const parts = detail::signed_parts("sparse24", codes);
    return byte_size_of(parts.codes, kept, parts.book);
  }

private:
  static std::vector<std::byte> pack_parts(integer_codes const& codes, mask const& kept,
                                           std::optional<detail::code_book> const& book, context const& ctx) {
    detail::check_packable(kind, codes, kept, book);
    mask const filled = with_fillers(kept, book, ctx);
    packed_header const header =
        detail::header_of(kind, codes, detail::true_pattern(filled, ctx), book, entries(codes.rows(), codes.cols()));
    std::vector<std::byte> out;
    out.reserve(static_cast<std::size_t>(total_bytes(header)));
    detail::append_bytes(out, header);
    detail::append_side_data(out, codes, book);
    std::byte* const code_bytes = detail::append_room(out, codes.rows() * row_code_bytes(codes.cols(), codes.bits));
    std::byte* const position_bytes = detail::append_room(out, codes.rows() * row_position_bytes(codes.cols()));
    ctx.parallel_for(codes.rows(), detail::packed_rows_per_task(codes.cols()), [&](index_t begin, index_t end) {
      detail::field_writer code_fields(code_bytes + begin * row_code_bytes(codes.cols(), codes.bits));
      detail::field_writer position_fields(position_bytes + begin * row_position_bytes(codes.cols()));
      for (index_t i = begin; i < end; ++i) write_row(i, codes, kept, filled, code_fields, position_fields);
    });
    return out;
  }

  [[nodiscard]] static std::int64_t byte_size_of(integer_codes const& codes, mask const& kept,
                                                 std::optional<detail::code_book> const& book) {
    detail::check_shapes(kind, codes, kept);
    return total_bytes(detail::header_of(kind, codes, {}, book, 0));
  }

  /// Positions 0 to 3 of a group's two entries, low < high.
  struct pair {
    int low;
    int high;
  };

  [[nodiscard]] static constexpr index_t groups(index_t cols) noexcept { return cols / 4 + (cols % 4 != 0 ? 1 : 0); }
  [[nodiscard]] static constexpr std::int64_t entries(index_t rows, index_t cols) noexcept { return rows * 2 * groups(cols); }
  [[nodiscard]] static constexpr std::int64_t body_bytes(packed_header const& h) noexcept {
    return h.rows * (row_code_bytes(h.cols, h.bits) + row_position_bytes(h.cols));
  }
  [[nodiscard]] static constexpr std::int64_t total_bytes(packed_header const& h) noexcept {
    return static_cast<std::int64_t>(sizeof(packed_header)) + detail::side_bytes(h) + body_bytes(h);
  }

  /// Behind the end of the row the zero point is that of the last column.
  [[nodiscard]] static int zero_at(integer_codes const& codes, index_t i, index_t j) noexcept {
    return codes.zero_at(i, std::min(j, codes.cols() - 1));
  }

  /// The mask with the fillers that lie inside rows.
  static mask with_fillers(mask const& kept, std::optional<detail::code_book> const& book, context const& ctx) {
    mask filled = kept;
    bool const can_fill = !book || (*book)[8] == 0.0f;
    ctx.parallel_for(kept.rows(), detail::packed_rows_per_task(kept.cols()), [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t first = 0; first < kept.cols(); first += 4) fill_group(filled, i, first, can_fill);
    });
    return filled;
  }

  static void fill_group(mask& filled, index_t i, index_t first, bool can_fill) {
    index_t const end = std::min(filled.cols(), first + 4);
    index_t count = 0;
    for (index_t j = first; j < end; ++j) count += filled.kept(i, j) ? 1 : 0;
    index_t missing = 2 - count - std::min<index_t>(2 - count, first + 4 - end); // those behind the end come first
    if (count > 2 || (missing > 0 && !can_fill))
      throw config_error(message("sparse24: row ", i, " keeps ", count, " of columns ", first, " to ", end - 1,
                                 count > 2 ? "" : ", and the code book has no 0 to fill up with"));
    for (index_t j = first; missing > 0; ++j)
      if (!filled.kept(i, j)) {
        filled.keep(i, j);
        --missing;
      }
  }

  /// Where a group's entries are: the kept columns, then as many behind the end as are needed to make two.
  static pair positions(mask const& filled, index_t i, index_t first) noexcept {
    int at[2] = {};
    int count = 0;
    for (int p = 0; p < 4 && count < 2; ++p)
      if (first + p >= filled.cols() || filled.kept(i, first + p)) at[count++] = p;
    return {at[0], at[1]};
  }

  static void write_row(index_t i, integer_codes const& codes, mask const& kept, mask const& filled,
                        detail::field_writer& code_fields, detail::field_writer& position_fields) {
    int const bits = codes.bits;
    for (index_t first = 0; first < codes.cols(); first += 4) {
      pair const at = positions(filled, i, first);
      for (index_t const j : {first + at.low, first + at.high}) {
        bool const real = j < codes.cols() && kept.kept(i, j);
        detail::put_code(code_fields, kind, bits, i, j, real ? codes.codes(i, j) : zero_at(codes, i, j));
      }
      position_fields.put(static_cast<unsigned>(at.low | at.high << 2), 4);
    }
    code_fields.end_row();
    position_fields.end_row();
  }

  static std::string read_row(index_t i, detail::packed_parts& read, std::span<std::byte const> codes,
                              std::span<std::byte const> positions) {
    constexpr index_t chunk = 64; // groups whose codes are read together
    std::int8_t entries[2 * chunk];
    detail::field_reader code_fields(codes);
    detail::field_reader position_fields(positions);
    index_t const count = groups(read.codes.cols());
    for (index_t g = 0; g < count; ++g) {
      if (g % chunk == 0) code_fields.get_codes(read.codes.bits, 2 * std::min(chunk, count - g), entries);
      if (!read_group(read, i, 4 * g, entries + 2 * (g % chunk), position_fields.get(4)))
        return message(i, ", columns from ", 4 * g, ": positions do not ascend, or a filler is not where it has to be");
    }
    bool const clean = code_fields.end_row();
    if (!position_fields.end_row() || !clean) return message(i, ": bits behind its end are set");
    if (!detail::row_keeps(read.kept, read.kept.pattern(), i))
      return message(i, ": the pattern that is promised does not hold");
    return {};
  }

  static bool read_group(detail::packed_parts& read, index_t i, index_t first, std::int8_t const* entries,
                         unsigned field) noexcept {
    pair const at{static_cast<int>(field & 3u), static_cast<int>(field >> 2)};
    index_t behind = read.codes.cols(); // the column that the next filler behind the end has to have
    for (int const position : {at.low, at.high}) {
      index_t const j = first + position;
      std::int8_t const code = *entries++;
      if (j < read.codes.cols()) {
        read.codes.codes(i, j) = code;
        read.kept.keep(i, j);
      } else if (j != behind++ || code != zero_at(read.codes, i, j)) {
        return false;
      }
    }
    return at.low < at.high;
  }
};

static_assert(packed_format<sparse24>);
static_assert(sparse24::row_code_bytes(4, 4) == 1 && sparse24::row_position_bytes(8) == 1);

} // namespace SLIM_ABI
} // namespace slim
