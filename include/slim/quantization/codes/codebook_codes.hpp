#pragma once
/// @file
/// `codebook_codes`: a matrix as positions in code books, tables of levels that need not be evenly spaced: NF4 (arXiv
/// 2305.14314), levels found by k-means (SqueezeLLM), ternary levels, and books of short vectors (product quantization).

#include "slim/core/finite.hpp"
#include "slim/quantization/quantizer.hpp"
#include "slim/quantization/scale_table.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Codes of `bits` bits, each the position of a level in the book of the block it lies in. A level is a number, or a vector
/// that stands for `dim` neighbouring columns. The value of w_ij is scale * level / factor_j; without scales the level itself.
struct codebook_codes {
  int bits = 4;
  index_t dim = 1;                                 ///< columns that a code stands for
  index_t columns = 0;                             ///< d_in
  matrix<std::uint8_t> codes;                      ///< d_out x ceil(d_in / dim), positions from 0 to 2^bits - 1
  scale_block book_block = per_tensor;             ///< weights that share a book
  matrix<float> books;                             ///< a row per book, blocks row by row: 2^bits levels of dim numbers each
  number_format book_format = number_format::fp16; ///< how many bits a number of a book costs
  scale_block block = per_tensor;                  ///< weights that share a scale
  scale_table scales;                              ///< one per block, or empty
  std::vector<float> channel_factors;              ///< d_in, or empty

  /// 0 x 0.
  codebook_codes() : codebook_codes(0, 0, 4) {}
  /// All codes 0, all books 0, no scales. @throws config_error unless 1 <= bits <= 8, dim >= 1 and a book's columns are whole
  /// codes.
  codebook_codes(index_t rows, index_t cols, int bit_count, scale_block shared_by = per_tensor, index_t columns_per_code = 1)
      : bits(bit_count), dim(columns_per_code), columns(cols), book_block(shared_by) {
    if (bits < 1 || bits > 8 || dim < 1 || book_block.rows < 0 || book_block.cols < 0 || book_block.cols % dim != 0)
      throw config_error(message("codebook_codes: ", bits, " bits for ", dim, " columns, books ", describe(book_block),
                                 "; possible are 1 to 8 bits and books of whole codes"));
    codes = matrix<std::uint8_t>(rows, detail::blocks_of(cols, dim));
    books = matrix<float>(books_down() * books_across(), levels() * dim);
  }

  /// Codes with one book of numbers for the matrix, 2^bits of them, and scales per block. The book is stored in fp16 if that
  /// holds it exactly, else in fp32. @throws config_error
  codebook_codes(index_t rows, index_t cols, std::vector<float> const& book, scale_block scales_by, scale_storage stored)
      : codebook_codes(rows, cols, bits_for(book.size())) {
    if (!books.empty()) std::copy(book.begin(), book.end(), books.data());
    for (float const level : book)
      if (rounded_to(number_format::fp16, level) != level) book_format = number_format::fp32;
    block = scales_by;
    if (block.rows < 0 || block.cols < 0)
      throw config_error(message("codebook_codes: scale block of ", block.rows, " x ", block.cols));
    scales = scale_table(detail::blocks_of(rows, block.rows_of(rows)), detail::blocks_of(cols, block.cols_of(cols)), stored);
  }

  [[nodiscard]] index_t rows() const noexcept { return codes.rows(); }
  [[nodiscard]] index_t cols() const noexcept { return columns; }
  [[nodiscard]] index_t levels() const noexcept { return index_t{1} << bits; }
  [[nodiscard]] index_t books_down() const noexcept { return detail::blocks_of(rows(), book_block.rows_of(rows())); }
  [[nodiscard]] index_t books_across() const noexcept { return detail::blocks_of(cols(), book_block.cols_of(cols())); }

  /// The book of weight (i, j): 2^bits levels of dim numbers.
  [[nodiscard]] float const* book_at(index_t i, index_t j) const noexcept {
    return books.row(i / book_block.rows_of(rows()) * books_across() + j / book_block.cols_of(cols()));
  }
  [[nodiscard]] float level_at(index_t i, index_t j) const noexcept {
    return book_at(i, j)[index_t{codes(i, j / dim)} * dim + j % dim];
  }
  [[nodiscard]] float scale_at(index_t i, index_t j) const noexcept {
    return scales.empty() ? 1.0f : scales(i / block.rows_of(rows()), j / block.cols_of(cols()));
  }
  [[nodiscard]] float factor_at(index_t j) const noexcept {
    return channel_factors.empty() ? 1.0f : channel_factors[static_cast<std::size_t>(j)];
  }
  /// The value of one weight.
  [[nodiscard]] float value(index_t i, index_t j) const noexcept { return scale_at(i, j) * level_at(i, j) / factor_at(j); }

  /// Codes of which a weight is kept (all, without a mask), books and scales as they are stored; each channel factor other than
  /// 1 as a 32-bit number and a 16-bit position. @throws as check; shape_error on another mask
  [[nodiscard]] double stored_bits(mask const* kept = nullptr) const {
    check("stored_bits");
    if (kept) kept->check("stored_bits", rows(), cols());
    index_t stored = codes.size();
    if (kept && dim == 1) stored = kept->count();
    if (kept && dim > 1) {
      stored = 0;
      for (index_t i = 0; i < rows(); ++i)
        for (index_t c = 0; c < codes.cols(); ++c) {
          bool any = false;
          for (index_t j = c * dim; j < std::min(cols(), (c + 1) * dim); ++j) any = any || kept->kept(i, j);
          stored += any ? 1 : 0;
        }
    }
    auto const moved = std::count_if(channel_factors.begin(), channel_factors.end(), [](float f) { return f != 1.0f; });
    return static_cast<double>(stored) * bits + static_cast<double>(books.size()) * bit_width(book_format) +
           scales.stored_bits() + 48.0 * static_cast<double>(moved);
  }

  /// The position of a level 0 in the book of weight (i, j), or -1.
  [[nodiscard]] int zero_at(index_t i, index_t j) const noexcept {
    float const* const book = book_at(i, j);
    for (index_t k = 0; k < levels() && dim == 1; ++k)
      if (book[k] == 0.0f) return static_cast<int>(k);
    return -1;
  }
  /// Whether a pruned weight can be stored as a code: every book has a level 0.
  [[nodiscard]] bool has_zero() const noexcept {
    for (index_t b = 0; b < books.rows(); ++b)
      if (std::find(books.row(b), books.row(b) + books.cols(), 0.0f) == books.row(b) + books.cols()) return false;
    return dim == 1;
  }

  /// Codes of weights that are not kept become the level 0 of their book, where it has one. @throws shape_error, config_error
  void prune(mask const& kept) {
    check("prune");
    kept.check("prune", rows(), cols());
    for (index_t i = 0; i < rows(); ++i)
      for (index_t j = 0; j < cols() && dim == 1; ++j)
        if (!kept.kept(i, j))
          if (int const zero = zero_at(i, j); zero >= 0) codes(i, j) = static_cast<std::uint8_t>(zero);
  }

  /// @throws shape_error, config_error unless all parts fit each other.
  void check(std::string_view who) const {
    if (bits < 1 || bits > 8 || dim < 1 || dim > 65536 || columns < 0)
      throw config_error(message(who, ": codes of ", bits, " bits for ", dim, " of ", columns,
                                 " columns, possible are 1 to 8 bits for 1 to 65536 columns"));
    if (block.rows < 0 || block.cols < 0 || book_block.rows < 0 || book_block.cols < 0 || book_block.cols % dim != 0)
      throw config_error(message(who, ": scale block of ", block.rows, " x ", block.cols, ", books for ", book_block.rows,
                                 " x ", book_block.cols, "; possible are extents from 0 on, and books of whole codes"));
    if (codes.cols() != detail::blocks_of(columns, dim))
      throw shape_error(message(who, ": ", codes.cols(), " codes of ", dim, " columns for ", columns, " columns"));
    if (books.rows() != books_down() * books_across() || (books.rows() > 0 && books.cols() != levels() * dim))
      throw shape_error(message(who, ": ", books.rows(), " books of ", books.cols(), " numbers where ",
                                books_down() * books_across(), " of ", levels() * dim, " are needed"));
    index_t const tall = detail::blocks_of(rows(), block.rows_of(rows())),
                  wide = detail::blocks_of(cols(), block.cols_of(cols()));
    if (!scales.empty() && (scales.rows() != tall || scales.cols() != wide))
      throw shape_error(
          message(who, ": ", scales.rows(), " x ", scales.cols(), " scales where ", tall, " x ", wide, " are needed"));
    if (!channel_factors.empty() && std::ssize(channel_factors) != cols())
      throw shape_error(message(who, ": ", channel_factors.size(), " channel factors for ", cols(), " channels"));
    for (std::size_t j = 0; j < channel_factors.size(); ++j)
      if (!detail::is_finite(channel_factors[j]) || channel_factors[j] == 0.0f)
        throw config_error(message(who, ": channel factor ", j, " is ", channel_factors[j], ", needed is a number but 0"));
    for (index_t k = 0; k < codes.size() && bits < 8; ++k)
      if (codes.data()[k] >> bits != 0)
        throw config_error(message(who, ": code ", int{codes.data()[k]}, " in ", bits, " bits"));
  }

  /// @throws shape_error, config_error
  void dequantize_into(matrix_view<float> values, context const& ctx = {}) const {
    check("dequantize_into");
    detail::require_shape(rows(), cols(), values.rows(), values.cols(), "dequantize_into");
    ctx.parallel_for(rows(), 32, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < cols(); ++j) values(i, j) = value(i, j);
    });
  }

  /// Encodes w with the books and scales that are already set: the nearest level, ties to the lower position. Codes of one
  /// column. @throws shape_error, config_error
  void encode(matrix_view<float const> w, context const& ctx = {}) {
    check("encode");
    detail::require_shape(rows(), cols(), w.rows(), w.cols(), "encode");
    if (dim != 1) throw config_error(message("encode: codes of ", dim, " columns need a search of their own"));
    ctx.parallel_for(rows(), 32, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < cols(); ++j) {
          float const* const book = book_at(i, j);
          float const scale = scale_at(i, j), x = w(i, j) * factor_at(j);
          index_t best = 0;
          float least = std::abs(x - scale * book[0]);
          for (index_t k = 1; k < levels(); ++k)
            if (float const error = std::abs(x - scale * book[k]); error < least) {
              least = error;
              best = k;
            }
          codes(i, j) = static_cast<std::uint8_t>(best);
        }
    });
  }

  friend bool operator==(codebook_codes const&, codebook_codes const&) = default;

private:
  static int bits_for(std::size_t levels) {
    for (int b = 1; b <= 8; ++b)
      if (levels == std::size_t{1} << b) return b;
    throw config_error(message("codebook_codes: a book of ", levels, " levels, possible are 2, 4, 8, ... 256"));
  }
};

static_assert(quantized_matrix<codebook_codes>);

/// The codes in words: "4 bit positions 64 x 256 in a book of 16 levels, fp16 scales per group of 64".
[[nodiscard]] inline std::string to_string(codebook_codes const& c) {
  return message(c.bits, " bit positions ", c.rows(), " x ", c.cols(), " in ",
                 c.books.rows() == 1 ? std::string("a book") : message(c.books.rows(), " books"), " of ", c.levels(), " levels",
                 c.dim == 1 ? "" : message(" of ", c.dim, " columns"),
                 c.scales.empty() ? "" : message(", ", name_of(c.scales.format()), " scales ", describe(c.block)),
                 c.channel_factors.empty() ? "" : ", channel factors");
}

/// The 16 levels of NF4 (QLoRA, arXiv 2305.14314, appendix E), as bitsandbytes has them.
[[nodiscard]] inline std::vector<float> nf4_levels() {
  return {-1.0f,
          -0.6961928009986877f,
          -0.5250730514526367f,
          -0.39491748809814453f,
          -0.28444138169288635f,
          -0.18477343022823334f,
          -0.09105003625154495f,
          0.0f,
          0.07958029955625534f,
          0.16093020141124725f,
          0.24611230194568634f,
          0.33791524171829224f,
          0.44070982933044434f,
          0.5626170039176941f,
          0.7229568362236023f,
          1.0f};
}

} // namespace SLIM_ABI
} // namespace slim
