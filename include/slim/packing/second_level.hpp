#pragma once
/// @file
/// `second_level`: codes whose scales and offsets are small codes themselves, SpQR's tiles (arXiv 2306.03078).
/// docs/formats/second_level.md.

#include "slim/packing/plain_numbers.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Second-level codes of the scales and their numbers, the same of the offsets, then the codes, rows on bytes.
/// `unpack(pack(codes))` is `codes`.
class second_level {
public:
  static constexpr packed_kind kind = packed_kind::second_level;

  /// Codes of 1 to 8 bits of one width with real offsets; scales and offsets of a second level with blocks and number format
  /// alike. @throws shape_error, config_error, nonfinite_error for others.
  [[nodiscard]] static std::vector<std::byte> pack(integer_codes const& codes, context const& ctx = {}) {
    codes.check_codes("second_level");
    scale_storage const &s = codes.scales.stored(), &o = codes.offsets.stored();
    if (!s.bits || !o.bits || s.block != o.block || s.format != o.format || s.centered || o.centered ||
        !codes.group_bits.empty() || !codes.channel_factors.empty())
      throw config_error(
          message("second_level: scales of ", s.bits, " bits and offsets of ", o.bits,
                  codes.group_bits.empty() ? "" : ", bits per group", codes.channel_factors.empty() ? "" : ", factors",
                  "; possible are scales and offsets of a second level over the same blocks in one format, codes of "
                  "one width, no factors"));
    packed_header header = detail::second_header(kind, codes.rows(), codes.cols(), codes.bits, s.format, codes.codes.size());
    header.block_rows = codes.block.rows;
    header.block_cols = codes.block.cols;
    tables const second{.scale_bits = static_cast<std::uint8_t>(s.bits),
                        .offset_bits = static_cast<std::uint8_t>(o.bits),
                        .shifted = static_cast<std::uint8_t>((s.shifted ? 1 : 0) | (o.shifted ? 2 : 0)),
                        .block_rows = s.block.rows,
                        .block_cols = s.block.cols};
    std::vector<std::byte> out;
    detail::append_bytes(out, header);
    detail::append_bytes(out, second);
    append_table(out, codes.scales, "scale");
    append_table(out, codes.offsets, "offset");
    detail::append_rows(out, codes.rows(), codes.cols(), codes.bits, ctx,
                        [&](index_t i, index_t j) { return detail::field_of(codes.codes(i, j), codes.bits); });
    return out;
  }

  /// The failure names the byte or the row and what is wrong.
  [[nodiscard]] static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                                      context const& ctx = {}) {
    auto const h = read_packed_header(bytes, limit);
    if (!h) return failure{h.why()};
    detail::byte_reader reader(bytes, sizeof(packed_header));
    auto const second = reader.read<tables>();
    if (std::string const why = why_not(*h, second, bytes.size()); !why.empty()) return failure{message("second_level: ", why)};
    scale_storage stored{.format = h->format(),
                         .bits = second.scale_bits,
                         .block = {second.block_rows, second.block_cols},
                         .shifted = (second.shifted & 1) != 0};
    integer_codes codes(h->rows, h->cols, h->bits, h->block(), stored);
    stored.bits = second.offset_bits;
    stored.shifted = (second.shifted & 2) != 0;
    codes.offsets = scale_table(codes.scales.rows(), codes.scales.cols(), stored);
    std::string why = read_table(reader, codes.scales, "scale");
    if (why.empty()) why = read_table(reader, codes.offsets, "offset");
    if (why.empty())
      why = detail::read_rows(reader.take(reader.left()), h->rows, h->cols, h->bits, ctx,
                              [&](index_t i, index_t j, unsigned code) { codes.codes(i, j) = detail::code_of(code, h->bits); });
    if (!why.empty()) return failure{message("second_level: ", why)};
    return unpacked_matrix{detail::all_kept(h->rows, h->cols), any_codes(std::move(codes))};
  }

private:
  /// Behind the header: how scales and offsets are stored.
  struct tables {
    std::uint8_t scale_bits = 0, offset_bits = 0, shifted = 0, unused[5] = {};
    std::int64_t block_rows = 0, block_cols = 0;
  };
  static_assert(sizeof(tables) == 24 && std::has_unique_object_representations_v<tables>);

  static void append_table(std::vector<std::byte>& out, scale_table const& t, char const* what) {
    detail::field_writer fields(detail::append_room(out, detail::field_bytes(t.size(), t.stored().bits)));
    for (index_t k = 0; k < t.size(); ++k) fields.put(t.codes().data()[k], t.stored().bits);
    fields.end_row();
    detail::append_numbers(out, kind, message("step of ", what).c_str(), t.steps().data(), t.steps().size(), t.format());
    detail::append_numbers(out, kind, message("base of ", what).c_str(), t.offsets().data(), t.offsets().size(), t.format());
  }

  static std::string read_table(detail::byte_reader& reader, scale_table& t, char const* what) {
    matrix<std::uint8_t> codes(t.rows(), t.cols());
    matrix<float> steps(t.steps().rows(), t.steps().cols()), bases(t.offsets().rows(), t.offsets().cols());
    detail::field_reader fields(reader.take(detail::field_bytes(codes.size(), t.stored().bits)));
    for (index_t k = 0; k < codes.size(); ++k) codes.data()[k] = static_cast<std::uint8_t>(fields.get(t.stored().bits));
    if (!fields.end_row()) return message("byte ", reader.position() - 1, ": bits behind the last code of ", what, "s are set");
    std::string why = detail::read_numbers(reader, message("step of ", what).c_str(), steps.data(), steps.size(), t.format());
    if (why.empty())
      why = detail::read_numbers(reader, message("base of ", what).c_str(), bases.data(), bases.size(), t.format());
    if (why.empty()) t.set_second_level(std::move(codes), std::move(steps), std::move(bases));
    return why;
  }

  static std::string why_not(packed_header const& h, tables const& second, std::size_t size) {
    if (h.kind != kind) return message("these bytes are ", name_of(h.kind));
    if (second.scale_bits < 1 || second.scale_bits > 8 || second.offset_bits < 1 || second.offset_bits > 8 ||
        second.shifted > 3 || std::any_of(second.unused, second.unused + 5, [](int b) { return b != 0; }))
      return message("second level of ", int{second.scale_bits}, " and ", int{second.offset_bits}, " bits, flags ",
                     int{second.shifted});
    if (second.block_rows < 0 || second.block_cols < 0 || second.block_rows > detail::largest_extent ||
        second.block_cols > detail::largest_extent)
      return message("second level over ", second.block_rows, " x ", second.block_cols);
    if (h.entries != h.rows * h.cols) return message(h.entries, " codes, ", h.rows, " x ", h.cols, " has ", h.rows * h.cols);
    std::int64_t const down = detail::block_count(h.rows, h.block().rows_of(h.rows)),
                       across = detail::block_count(h.cols, h.block().cols_of(h.cols));
    scale_block const block{second.block_rows, second.block_cols};
    std::int64_t const steps =
        detail::block_count(down, block.rows_of(down)) * detail::block_count(across, block.cols_of(across));
    std::int64_t const numbers = steps * (2 + (second.shifted & 1) + second.shifted / 2) * (bit_width(h.format()) / 8);
    std::int64_t const needed = static_cast<std::int64_t>(sizeof(packed_header) + sizeof(tables)) + numbers +
                                detail::field_bytes(down * across, second.scale_bits) +
                                detail::field_bytes(down * across, second.offset_bits) +
                                h.rows * detail::field_bytes(h.cols, h.bits);
    if (static_cast<std::uint64_t>(needed) != size)
      return message(size, " bytes, a matrix of ", h.rows, " x ", h.cols, " with this second level has ", needed);
    return {};
  }
};

} // namespace SLIM_ABI
} // namespace slim
