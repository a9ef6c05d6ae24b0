#pragma once
/// @file
/// `row_books`: codes with a book of levels per row, SqueezeLLM's dense part (arXiv 2306.07629). docs/formats/row_books.md.

#include "slim/packing/plain_numbers.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// The books of all rows, 2^bits numbers each, then the codes, rows on bytes. `unpack(pack(codes))` is `codes`.
class row_books {
public:
  static constexpr packed_kind kind = packed_kind::row_books;

  /// Codes of one column, 1 to 8 bits, with a book per row and no scales or factors. @throws shape_error, config_error,
  /// nonfinite_error for others, and for levels that the book's format does not hold.
  [[nodiscard]] static std::vector<std::byte> pack(codebook_codes const& codes, context const& ctx = {}) {
    codes.check("row_books");
    if (codes.dim != 1 || codes.book_block != per_channel || !codes.scales.empty() || !codes.channel_factors.empty())
      throw config_error(message("row_books: books ", describe(codes.book_block), " for ", codes.dim, " columns",
                                 codes.scales.empty() ? "" : " with scales",
                                 codes.channel_factors.empty() ? "" : " and factors",
                                 "; possible is a book per channel for one column, without scales and factors"));
    std::vector<std::byte> out;
    packed_header const header =
        detail::second_header(kind, codes.rows(), codes.cols(), codes.bits, codes.book_format, codes.codes.size());
    out.reserve(sizeof header + static_cast<std::size_t>(body_bytes(header)));
    detail::append_bytes(out, header);
    detail::append_numbers(out, kind, "level", codes.books.data(), codes.books.size(), codes.book_format);
    detail::append_rows(out, codes.rows(), codes.cols(), codes.bits, ctx,
                        [&](index_t i, index_t j) { return unsigned{codes.codes(i, j)}; });
    return out;
  }

  /// The failure names the byte or the row and what is wrong.
  [[nodiscard]] static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                                      context const& ctx = {}) {
    auto const h = detail::open_second(kind, bytes, limit, body_bytes);
    if (!h) return failure{h.why()};
    if (h->entries != h->rows * h->cols || h->block_rows != 0 || h->block_cols != 0)
      return failure{message("row_books: ", h->entries, " codes, blocks of ", h->block_rows, " x ", h->block_cols, "; ",
                             h->rows, " x ", h->cols, " has ", h->rows * h->cols, " and 0 x 0")};
    codebook_codes codes(h->rows, h->cols, h->bits, per_channel);
    codes.book_format = h->format();
    detail::byte_reader reader(bytes, sizeof(packed_header));
    std::string why = detail::read_numbers(reader, "level", codes.books.data(), codes.books.size(), h->format());
    if (why.empty())
      why =
          detail::read_rows(reader.take(reader.left()), h->rows, h->cols, h->bits, ctx,
                            [&](index_t i, index_t j, unsigned code) { codes.codes(i, j) = static_cast<std::uint8_t>(code); });
    if (!why.empty()) return failure{message("row_books: ", why)};
    return unpacked_matrix{detail::all_kept(h->rows, h->cols), any_codes(std::move(codes))};
  }

private:
  [[nodiscard]] static std::int64_t body_bytes(packed_header const& h) noexcept {
    std::int64_t const books = h.cols > 0 ? h.rows : 0;
    return (books << h.bits) * (bit_width(h.format()) / 8) + h.rows * detail::field_bytes(h.cols, h.bits);
  }
};

} // namespace SLIM_ABI
} // namespace slim
