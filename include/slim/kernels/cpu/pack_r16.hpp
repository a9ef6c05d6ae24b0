#pragma once
/// @file
/// Codes, masks and numbers into the R16 layout (kernels/cpu/r16.hpp).

#include "slim/core/finite.hpp"
#include "slim/kernels/cpu/packing_kernels.hpp"
#include "slim/kernels/cpu/r16_kernels.hpp"
#include "slim/packing/side_data.hpp"

#include <array>
#include <bit>

namespace slim {
inline namespace SLIM_ABI {

/// The 16 values of 4-bit codes that are positions in a table.
using r16_levels = std::array<float, 16>;

/// Tables that codes are positions in: one of 16 levels for the matrix, or one for every row.
struct r16_books {
  bool per_row = false;
  r16_levels levels = {};                                                            ///< of the matrix
  detail::r16_kernels const& (*kernels)(simd_level) = &detail::r16_kernels_of_books; ///< of such matrices
};

/// Shape, code width and options of a matrix that is about to be packed.
struct r16_source {
  index_t rows = 0, cols = 0;
  int bits = 4;
  scale_block block = per_tensor;
  bool zero_points = false;
  bool sparse = false;      ///< 2:4
  bool wide_scales = false; ///< scales of groups are no fp16 numbers
  std::optional<r16_books> books = {};
  int scale_bits = 0, offset_bits = 0; ///< of scales and offsets that are codes of a second level over 16 rows of a group

  /// @throws config_error if R16 cannot hold it.
  [[nodiscard]] r16_layout layout() const {
    if (sparse && (bits > 4 || zero_points))
      throw config_error(message("pack_r16: 2:4 with ", bits, " bits", zero_points ? " and zero points" : "",
                                 ", possible are at most 4 bits without zero points"));
    bool const row_books = books && books->per_row, book = books && !row_books;
    if (book && (bits != 4 || zero_points)) throw config_error("pack_r16: a code book belongs to 4 bits without zero points");
    r16_layout out{.rows = rows, .cols = cols, .zero_points = zero_points, .wide_scales = wide_scales};
    out.kind = sparse      ? (book ? r16_kind::sparse24_book : r16_kind::sparse24)
               : book      ? r16_kind::dense4_book
               : bits == 2 ? r16_kind::dense2
               : bits == 3 ? r16_kind::dense3
               : bits == 4 ? r16_kind::dense4
                           : r16_kind::dense8;
    if (row_books) {
      if (bits > 4) throw config_error(message("pack_r16: books of 2^", bits, " levels per row, possible are at most 16"));
      out.kind = bits == 4 ? r16_kind::dense4_books : r16_kind::dense3_books;
      return out;
    }
    index_t const group = block.cols_of(cols);
    if (scale_bits > 0) return with_second_level(out, group);
    if (cols <= group)
      out.zero_points = out.wide_scales = false;
    else if (group % r16_stage_cols == 0)
      out.scale_cols = group;
    else
      throw config_error(message("pack_r16: groups of ", group, " columns, possible are multiples of ", r16_stage_cols));
    return out;
  }

private:
  [[nodiscard]] r16_layout with_second_level(r16_layout out, index_t group) const {
    if (bits > 4 || scale_bits + offset_bits > 16)
      throw config_error(message("pack_r16: codes of ", bits, " bits with scales of ", scale_bits, " and offsets of ",
                                 offset_bits, ", possible are at most 4, and 16 for both"));
    out.scale_bits = scale_bits;
    out.offset_bits = offset_bits;
    out.scale_cols = (group + r16_stage_cols - 1) / r16_stage_cols * r16_stage_cols;
    if (group % r16_stage_cols == 0 || cols <= group) return out;
    if (group != 16 || scale_bits != 3 || offset_bits != 3)
      throw config_error(message("pack_r16: groups of ", group, " columns with scales of ", scale_bits, " and offsets of ",
                                 offset_bits, " bits, possible are multiples of ", r16_stage_cols,
                                 ", and 16 with 3 bits for both"));
    out.kind = out.kind == r16_kind::dense2   ? r16_kind::dense2_tiles
               : out.kind == r16_kind::dense3 ? r16_kind::dense3_tiles
                                              : r16_kind::dense4_tiles;
    return out;
  }
};

/// Builds an r16_matrix, a row block at a time; use `pack_r16`.
class r16_packer {
public:
  explicit r16_packer(r16_source const& source, simd_level level = simd_level::automatic)
      : kernels_(detail::packing_kernels_of(level)) {
    packed_.layout_ = source.layout();
    if (source.books) packed_.kernels_of_books_ = source.books->kernels;
    if (source.books && !source.books->per_row) set_levels(source.books->levels);
    packed_.bytes_ = aligned_bytes(layout().byte_size());
    if (layout().scale_cols > 0) return;
    auto const padded = static_cast<std::size_t>(layout().row_blocks() * r16_rows);
    packed_.row_scales_.assign(padded, 0.0f);
    if (source.zero_points) packed_.row_zeros_.assign(padded, 0.0f);
  }

  void set_channel_factors(std::vector<float> const& factors) {
    for (float const factor : factors) packed_.input_factors_.push_back(1 / factor);
  }

  /// A row block, from the rows of `codes` (and the mask, if sparse) that begin at `from`. Row blocks may be put by several
  /// threads. @throws config_error on groups that keep more than two, and scales that are no fp16 numbers without wide_scales.
  void put(index_t row_block, integer_codes const& codes, mask const* kept, index_t from) {
    begin(row_block);
    std::int8_t const* code_rows[r16_rows] = {};
    std::uint8_t const* kept_rows[r16_rows] = {};
    for (index_t r = 0; r < rows_of(row_block); ++r) {
      code_rows[r] = codes.codes.row(from + r);
      if (kept) kept_rows[r] = kept->row(from + r);
      if (layout().scale_bits > 0) {
        put_second_level(row_block * r16_rows + r, codes);
        continue;
      }
      index_t const b = (from + r) / codes.block.rows_of(codes.rows());
      put_scales(row_block * r16_rows + r, 0, codes.scales.cols(), codes.scales.row(b),
                 codes.zeros.empty() ? nullptr : codes.zeros.row(b));
    }
    put_codes(row_block, code_rows, kept ? kept_rows : nullptr);
  }

  /// Before scales and codes of a row block are put: scale 0 for all its rows.
  void begin(index_t row_block) {
    for (index_t set = 0; set < layout().sets(); set += layout().chunk_sets()) {
      index_t const sets = std::min(layout().chunk_sets(), layout().sets() - set);
      std::fill_n(bytes_of(row_block) + layout().set_offset(set), layout().header_bytes(sets), std::uint8_t{0});
    }
  }

  /// Scales (and zero points) of `count` groups of row i, from number `first` on. @throws config_error; nonfinite_error
  void put_scales(index_t i, index_t first, index_t count, float const* scales, std::int8_t const* zeros) {
    if (layout().cols == 0) return;
    if (layout().scale_cols == 0) {
      require_finite(scales[0], i, 0);
      packed_.row_scales_[static_cast<std::size_t>(i)] = scales[0] * packed_.level_unit_;
      if (!packed_.row_zeros_.empty()) packed_.row_zeros_[static_cast<std::size_t>(i)] = static_cast<float>(stored(zeros[0]));
      return;
    }
    index_t const r = i % r16_rows;
    std::uint8_t* const row_block = bytes_of(i / r16_rows);
    if (layout().wide_scales) {
      for (index_t g = 0; g < count; ++g) {
        std::uint8_t* const set = row_block + layout().set_offset(first + g);
        require_finite(scales[g], i, first + g);
        std::memcpy(set + 4 * r, scales + g, 4);
        if (layout().zero_points) set[4 * r16_rows + r] = static_cast<std::uint8_t>(stored(zeros[g]));
      }
      return;
    }
    constexpr index_t some = 64;
    std::array<std::uint16_t, some> halves;
    for (index_t g = 0; g < count; g += some) {
      index_t const here = std::min(some, count - g);
      if (!kernels_.halves_of(scales + g, here, halves.data()))
        for (index_t k = 0; k < here; ++k) halves[static_cast<std::size_t>(k)] = half_of(scales[g + k], i, first + g + k);
      for (index_t k = 0; k < here; ++k) {
        std::uint8_t* const set = row_block + layout().set_offset(first + g + k);
        set[2 * r] = static_cast<std::uint8_t>(halves[static_cast<std::size_t>(k)] & 255);
        set[2 * r + 1] = static_cast<std::uint8_t>(halves[static_cast<std::size_t>(k)] >> 8);
        if (layout().zero_points) set[2 * r16_rows + r] = static_cast<std::uint8_t>(stored(zeros[g + k]));
      }
    }
  }

  /// Codes of scales and offsets of row i, and the numbers of its row block. @throws config_error naming one that is not fp16
  void put_second_level(index_t i, integer_codes const& codes) {
    std::uint8_t* const row_block = bytes_of(i / r16_rows);
    index_t const tiles = has_tiles(layout().kind) ? 2 : 1;
    for (index_t g = 0; g < codes.scales.cols(); ++g) {
      std::uint8_t* const set = row_block + layout().set_offset(g / tiles);
      auto const in_set = static_cast<int>(g % tiles);
      auto fields = static_cast<unsigned>(codes.scales.codes()(i, g) | codes.offsets.codes()(i, g) << layout().scale_bits);
      fields <<= in_set * (layout().scale_bits + layout().offset_bits);
      std::uint8_t* const at = set + 2 * (i % r16_rows);
      at[0] = static_cast<std::uint8_t>(at[0] | (fields & 255u));
      at[1] = static_cast<std::uint8_t>(at[1] | fields >> 8);
      float const* const numbers[] = {&codes.scales.steps()(i / r16_rows, g), base_of(codes.scales, i, g),
                                      &codes.offsets.steps()(i / r16_rows, g), base_of(codes.offsets, i, g)};
      for (int k = 0; k < 4; ++k) {
        std::uint16_t const half = half_of(numbers[k] ? *numbers[k] : 0.0f, i, g);
        std::memcpy(set + 2 * r16_rows + 8 * in_set + 2 * k, &half, 2);
      }
    }
  }

  /// Codes of a row block with levels per row, and the rows' levels as whole multiples of 1/127 of their largest.
  void put_books(index_t row_block, codebook_codes const& codes) {
    int const middle = 1 << (code_bits(layout().kind) - 1);
    matrix<std::int8_t> rows(r16_rows, (layout().cols + r16_stage_cols - 1) / r16_stage_cols * r16_stage_cols);
    std::fill_n(rows.data(), rows.size(), static_cast<std::int8_t>(-middle));
    std::uint8_t* const books = bytes_of(row_block);
    std::fill_n(books, r16_book_bytes, std::uint8_t{128});
    for (index_t r = 0; r < rows_of(row_block); ++r) {
      index_t const i = row_block * r16_rows + r;
      float const unit = row_unit(codes, i);
      packed_.row_scales_[static_cast<std::size_t>(i)] = unit;
      for (index_t k = 0; k < codes.levels(); ++k)
        books[64 * (r % 4) + 16 * (r / 4) + k] = static_cast<std::uint8_t>(level_in_units(codes.books(i, k), unit) + 128);
      for (index_t j = 0; j < layout().cols; ++j) rows(r, j) = static_cast<std::int8_t>(int{codes.codes(i, j)} - middle);
    }
    for (index_t first = 0; first < rows.cols(); first += r16_stage_cols) {
      std::int8_t turned[r16_rows][r16_stage_cols]; // as the bytes of dense codes lie
      for (index_t r = 0; r < r16_rows; ++r)
        for (index_t c = 0; c < r16_stage_cols; ++c)
          turned[4 * (r / 4) + c % 16 / 4][4 * (4 * (c / 16) + r % 4) + c % 4] = rows(r, first + c);
      std::int8_t const* from[r16_rows];
      for (index_t r = 0; r < r16_rows; ++r) from[r] = turned[r];
      kernels_.pack_dense(code_bits(layout().kind), from, 1, books + layout().stage_offset(first / r16_stage_cols));
    }
  }

  /// What the levels of row i are multiples of. @throws nonfinite_error
  [[nodiscard]] static float row_unit(codebook_codes const& codes, index_t i) {
    float largest = 0;
    for (index_t k = 0; k < codes.levels(); ++k) {
      if (!detail::is_finite(codes.books(i, k)))
        throw nonfinite_error(message("pack_r16: level ", k, " of row ", i, " is ", codes.books(i, k)));
      largest = std::max(largest, std::abs(codes.books(i, k)));
    }
    return largest / 127.0f;
  }
  [[nodiscard]] static int level_in_units(float level, float unit) {
    return unit > 0.0f ? static_cast<int>(std::nearbyint(std::min(std::max(level / unit, -127.0f), 127.0f))) : 0;
  }

  /// The codes of a row block of a dense matrix, row r in row r.
  void put_dense(index_t row_block, matrix<std::int8_t> const& codes) {
    std::int8_t const* rows[r16_rows];
    for (index_t r = 0; r < r16_rows; ++r) rows[r] = codes.row(r);
    put_codes(row_block, rows, nullptr);
  }

  /// A row block of a sparse matrix from what is kept alone: two codes for every four columns, the last perhaps fewer, and for
  /// each a byte `column << 4 | 8`.
  void put_gathered(index_t row_block, matrix<std::int8_t> const& codes, matrix<std::uint8_t> const& places) {
    for (index_t first = 0; first < layout().cols; first += tile_cols) {
      index_t const cols = std::min(tile_cols, layout().cols - first), count = (cols + 3) / 4 * 2;
      put_pairs(row_block, first, cols, [&](index_t r, std::uint8_t* pairs) {
        kernels_.join_gathered(codes.row(r) + first / 2, places.row(r) + first / 2, count, pairs);
        for (index_t k = count; k % (r16_stage_cols / 2) != 0; ++k) pairs[k] = k % 2 == 0 ? 0x08 : 0x18;
      });
    }
  }

  [[nodiscard]] r16_matrix take() { return std::move(packed_); }
  [[nodiscard]] r16_layout const& layout() const noexcept { return packed_.layout_; }

private:
  static constexpr index_t tile_cols = 512; ///< columns of a row that are packed at a time: the stages stay in the cache

  /// Columns first .. first + cols - 1 of what the pointers show.
  struct tile {
    index_t row_block, first, cols;
    std::int8_t const* const* codes;
    std::uint8_t const* const* kept;
  };

  /// Codes of a row block (and what is kept, unless null), a pointer per row.
  void put_codes(index_t row_block, std::int8_t const* const* codes, std::uint8_t const* const* kept) {
    for (index_t first = 0; first < layout().cols; first += tile_cols) {
      tile const part{row_block, first, std::min(tile_cols, layout().cols - first), codes, kept};
      if (kept)
        put_sparse_tile(part);
      else
        put_dense_tile(part);
    }
  }

  /// Calls `put(k, count, out)` for the stages first + k .. first + k + count - 1 that lie one behind the other at `out`, until
  /// `stages` are done.
  template <class Put>
  void for_each_run(index_t row_block, index_t first, index_t stages, Put const& put) {
    for (index_t k = 0, count = 0; k < stages; k += count) {
      count = std::min(stages - k, layout().chunk_stages() - (first + k) % layout().chunk_stages());
      put(k, count, bytes_of(row_block) + layout().stage_offset(first + k));
    }
  }

  [[nodiscard]] index_t rows_of(index_t row_block) const noexcept {
    return std::min(r16_rows, layout().rows - row_block * r16_rows);
  }

  [[nodiscard]] std::uint8_t* bytes_of(index_t row_block) noexcept {
    return packed_.bytes_.data() + row_block * layout().row_block_bytes();
  }

  [[nodiscard]] int stored(int code) const noexcept { return code + (1 << (code_bits(layout().kind) - 1)); }

  [[nodiscard]] static float const* base_of(scale_table const& table, index_t i, index_t g) {
    return table.offsets().empty() ? nullptr : &table.offsets()(i / r16_rows, g);
  }

  static void require_finite(float scale, index_t i, index_t g) {
    if (!detail::is_finite(scale))
      throw nonfinite_error(message("pack_r16: the scale of row ", i, ", group ", g, " is ", scale));
  }

  [[nodiscard]] static std::uint16_t half_of(float scale, index_t i, index_t g) {
    require_finite(scale, i, g);
    fp16 const half(scale);
    if (!(static_cast<float>(half) == scale))
      throw config_error(message("pack_r16: the scale ", scale, " of row ", i, ", group ", g,
                                 " is no fp16 number; quantize with scale_format fp16"));
    return half.bits;
  }

  /// The book as whole multiples of a unit.
  void set_levels(r16_levels const& book) {
    float largest = 0;
    for (float const value : book) largest = std::max(largest, std::abs(value));
    for (int most = 1; most <= 127; ++most) {
      std::vector<std::int8_t> levels;
      bool whole = detail::is_finite(largest) && largest > 0;
      for (float const value : book) {
        float const level = value / largest * static_cast<float>(most), nearest = std::nearbyint(level);
        whole = whole && std::abs(level - nearest) < 1e-5f * static_cast<float>(most);
        if (whole) levels.push_back(static_cast<std::int8_t>(nearest));
      }
      if (!whole) continue;
      packed_.levels_ = std::move(levels);
      packed_.level_unit_ = largest / static_cast<float>(most);
      return;
    }
    throw config_error("pack_r16: the code book's values are no multiples of 1/127 of its largest or of a greater part of it; "
                       "round it with slim::rounded_levels, before weights are rounded to it");
  }

  /// What pads rows and columns is a code whose stored bits are 0.
  void put_dense_tile(tile const& part) {
    int const bits = code_bits(layout().kind);
    std::int8_t padding[tile_cols];
    std::fill_n(padding, tile_cols, static_cast<std::int8_t>(-(1 << (bits - 1))));
    std::int8_t const* row[r16_rows];
    for (index_t r = 0; r < r16_rows; ++r) row[r] = r < rows_of(part.row_block) ? part.codes[r] + part.first : padding;
    index_t const whole = part.cols / r16_stage_cols, first_stage = part.first / r16_stage_cols;
    for_each_run(part.row_block, first_stage, whole, [&](index_t k, index_t count, std::uint8_t* out) {
      std::int8_t const* from[r16_rows];
      for (index_t r = 0; r < r16_rows; ++r) from[r] = row[r] + k * r16_stage_cols;
      kernels_.pack_dense(bits, from, count, out);
    });
    if (part.cols % r16_stage_cols == 0) return;
    std::int8_t last[r16_rows][r16_stage_cols];
    for (index_t r = 0; r < r16_rows; ++r) {
      std::copy_n(padding, r16_stage_cols, last[r]);
      std::copy(row[r] + whole * r16_stage_cols, row[r] + part.cols, last[r]);
      row[r] = last[r];
    }
    kernels_.pack_dense(bits, row, 1, bytes_of(part.row_block) + layout().stage_offset(first_stage + whole));
  }

  void put_sparse_tile(tile const& part) {
    index_t const first_row = part.row_block * r16_rows;
    put_pairs(part.row_block, part.first, part.cols, [&](index_t r, std::uint8_t* pairs) {
      std::uint8_t const* const kept = part.kept[r] + part.first;
      if (!join_pairs(part.codes[r] + part.first, kept, part.cols, pairs))
        throw_crowded(first_row + r, part.first, part.cols, kept);
      if (!packed_.levels_.empty() && packed_.levels_[8] != 0) fill_behind_the_end(first_row + r, part.first, kept, pairs);
    });
  }

  /// Columns first .. first + cols - 1, at most tile_cols; `join(r, pairs)` gives the pairs of row r.
  template <class Join>
  void put_pairs(index_t row_block, index_t first, index_t cols, Join const& join) {
    constexpr index_t at_a_time = 8;
    std::uint8_t pairs[at_a_time][tile_cols / 2];
    index_t const rows = rows_of(row_block), stages = (cols + r16_stage_cols - 1) / r16_stage_cols;
    for (index_t r = 0; r < r16_rows; r += at_a_time) {
      for (index_t k = 0; k < at_a_time; ++k)
        if (r + k < rows)
          join(r + k, pairs[k]);
        else
          std::fill_n(pairs[k], tile_cols / 2, std::uint8_t{0});
      for_each_run(row_block, first / r16_stage_cols, stages, [&](index_t k, index_t count, std::uint8_t* out) {
        std::uint8_t const* from[at_a_time];
        for (index_t row = 0; row < at_a_time; ++row) from[row] = pairs[row] + k * (r16_stage_cols / 2);
        kernels_.pack_pairs(from, count, out + 4 * r);
      });
    }
  }

  [[nodiscard]] bool join_pairs(std::int8_t const* codes, std::uint8_t const* kept, index_t cols, std::uint8_t* pairs) const {
    index_t const whole = cols / detail::pair_cols * detail::pair_cols;
    bool const fits = kernels_.join_pairs(codes, kept, whole, pairs);
    if (whole == cols) return fits;
    std::int8_t last_codes[detail::pair_cols] = {};
    std::uint8_t last_kept[detail::pair_cols] = {};
    std::copy(codes + whole, codes + cols, last_codes);
    std::copy(kept + whole, kept + cols, last_kept);
    return kernels_.join_pairs(last_codes, last_kept, detail::pair_cols, pairs + whole / 2) && fits;
  }

  /// Where no code is 0, only columns that meet no input can make up for those that are missing: pairs of a tile whose fillers
  /// code 0 cannot be.
  void fill_behind_the_end(index_t i, index_t first, std::uint8_t const* kept, std::uint8_t* pairs) const {
    index_t const cols = std::min(tile_cols, layout().cols - first);
    for (index_t group = 0; group < (cols + r16_stage_cols - 1) / r16_stage_cols * r16_stage_cols; group += 4) {
      auto const count = group < cols ? std::count(kept + group, kept + std::min(group + 4, cols), std::uint8_t{1}) : 0;
      if (count == 2) continue;
      if (first + group + 2 + count < layout().cols)
        throw config_error(message("pack_r16: row ", i, " keeps ", count, " of columns ", first + group, " to ",
                                   first + group + 3, ", and the code book has no 0 to fill up with"));
      std::uint8_t* const pair = pairs + group / 2; // code, 16 times the column
      if (count == 0) pair[0] = 2 << 4 | 8;
      if (count == 1 && !kept[group]) pair[0] = pair[1]; // its filler stood before it
      pair[1] = 3 << 4 | 8;
    }
  }

  [[noreturn]] static void throw_crowded(index_t i, index_t first, index_t cols, std::uint8_t const* kept) {
    index_t group = 0;
    while (std::count(kept + group, kept + std::min(group + 4, cols), std::uint8_t{1}) <= 2) group += 4;
    throw config_error(
        message("pack_r16: row ", i, " keeps more than two of columns ", first + group, " to ", first + group + 3));
  }

  detail::packing_kernels const& kernels_;
  r16_matrix packed_;
};

namespace detail {

/// @throws config_error on what R16 has no place for.
inline void check_r16(integer_codes const& codes, mask const* kept) {
  codes.check("pack_r16");
  if (kept) kept->check("pack_r16", codes.rows(), codes.cols());
  if (!codes.group_bits.empty()) throw config_error("pack_r16: codes with bits per group are packed in parts (in_parts)");
  if (codes.offsets.empty() && codes.bits >= 2) return;
  scale_storage const &s = codes.scales.stored(), &o = codes.offsets.stored();
  constexpr scale_block sixteen{.rows = r16_rows, .cols = 1};
  if (codes.offsets.empty() || s.bits == 0 || o.bits == 0 || s.block != sixteen || o.block != sixteen ||
      codes.block.rows != 1 || kept)
    throw config_error(
        "pack_r16: codes of 1 bit and real offsets have no place in R16 but where scales and offsets are codes over 16 rows of one "
        "group, and nothing is pruned");
}

/// Whether scales of groups need the room of fp32.
[[nodiscard]] inline bool needs_wide_scales(scale_table const& scales) {
  return std::any_of(scales.data(), scales.data() + scales.size(), [](float scale) {
    auto const bits = std::bit_cast<std::uint32_t>(scale), exponent = bits >> 23 & 255u;
    if ((bits & 0x1fffu) == 0 && exponent - 113u < 30u) return false; // ten bits behind the point: most of them, quickly
    return rounded_to(number_format::fp16, scale) != scale;
  });
}

/// Codes of 1 bit as codes of 2: both count from the lowest.
[[nodiscard]] inline integer_codes in_two_bits(integer_codes codes) {
  codes.bits = 2;
  for (index_t k = 0; k < codes.codes.size(); ++k) --codes.codes.data()[k];
  return codes;
}

inline r16_matrix pack_all(integer_codes const& codes, mask const* kept, std::optional<r16_books> const& books,
                           context const& ctx) {
  check_r16(codes, kept);
  if (codes.bits == 1) {
    codes.check_codes("pack_r16");
    return pack_all(in_two_bits(codes), kept, books, ctx);
  }
  bool const second = !codes.offsets.empty();
  r16_packer packer({.rows = codes.rows(),
                     .cols = codes.cols(),
                     .bits = codes.bits,
                     .block = codes.block,
                     .zero_points = !codes.zeros.empty(),
                     .sparse = kept != nullptr,
                     .wide_scales = !second && needs_wide_scales(codes.scales),
                     .books = books,
                     .scale_bits = second ? codes.scales.stored().bits : 0,
                     .offset_bits = second ? codes.offsets.stored().bits : 0},
                    ctx.simd);
  packer.set_channel_factors(codes.channel_factors);
  ctx.parallel_for(packer.layout().row_blocks(), 4, [&](index_t begin, index_t end) {
    for (index_t row_block = begin; row_block < end; ++row_block) {
      index_t const first = row_block * r16_rows;
      for (index_t i = first; i < std::min(codes.rows(), first + r16_rows); ++i) codes.check_row("pack_r16", i, kept);
      packer.put(row_block, codes, kept, first);
    }
  });
  return packer.take();
}

/// The same of codes in a table of 16 levels.
inline r16_matrix pack_all(codebook_codes const& codes, mask const* kept, context const& ctx) {
  codes.check("pack_r16");
  if (codes.book_block == per_channel && codes.dim == 1) {
    if (kept || !codes.scales.empty())
      throw config_error("pack_r16: codes with books per row are neither pruned nor scaled in R16");
    r16_packer packer({.rows = codes.rows(), .cols = codes.cols(), .bits = codes.bits, .books = r16_books{.per_row = true}},
                      ctx.simd);
    packer.set_channel_factors(codes.channel_factors);
    ctx.parallel_for(packer.layout().row_blocks(), 4, [&](index_t begin, index_t end) {
      for (index_t row_block = begin; row_block < end; ++row_block) packer.put_books(row_block, codes);
    });
    return packer.take();
  }
  auto const parts = signed_parts("pack_r16", codes);
  return pack_all(parts.codes, kept, parts.book ? std::optional(r16_books{.levels = *parts.book}) : std::nullopt, ctx);
}

} // namespace detail

/// Levels as whole multiples of 1/127 of the largest: what kernels multiply are 8-bit levels.
[[nodiscard]] inline std::vector<float> rounded_levels(std::vector<float> levels) {
  float largest = 0;
  for (float const value : levels) largest = std::max(largest, std::abs(value));
  if (largest > 0 && detail::is_finite(largest))
    for (float& value : levels) value = std::nearbyint(value / largest * 127.0f) * (largest / 127.0f);
  return levels;
}

/// How far the values of codes with books per row are from what kernels multiply, levels that are whole multiples of 1/127 of
/// their row's largest: Frobenius norm, relative. O(d_out d_in). @throws shape_error, config_error, nonfinite_error
[[nodiscard]] inline double row_level_error(codebook_codes const& codes) {
  codes.check("row_level_error");
  if (codes.book_block != per_channel || codes.dim != 1)
    throw config_error(message("row_level_error: books ", describe(codes.book_block), ", needed is one per channel"));
  double error = 0, size = 0;
  for (index_t i = 0; i < codes.rows() && codes.cols() > 0; ++i) {
    std::vector<double> count(static_cast<std::size_t>(codes.levels()));
    for (index_t j = 0; j < codes.cols(); ++j) ++count[codes.codes(i, j)];
    float const unit = r16_packer::row_unit(codes, i);
    for (index_t k = 0; k < codes.levels(); ++k) {
      double const level = codes.books(i, k);
      double const off =
          level - static_cast<double>(unit * static_cast<float>(r16_packer::level_in_units(codes.books(i, k), unit)));
      error += count[static_cast<std::size_t>(k)] * off * off;
      size += count[static_cast<std::size_t>(k)] * level * level;
    }
  }
  return size > 0 ? std::sqrt(error / size) : 0.0;
}

/// Codes of a dense matrix (d_out x d_in; 2 to 8 bits, 5 to 7 take the room of 8). Scales are stored as they are: those of
/// groups in fp16 if it holds them all, else in fp32. Codes of at most 4 bits with real offsets, whose scales and offsets are
/// codes of a second level over 16 rows of one group (of a multiple of 32 columns; or of 16, with 3 bits for both), stay so.
/// @throws config_error on groups of scales that are no multiple of 32
/// columns, codes that do not lie in their bits; nonfinite_error on a scale; shape_error, config_error as integer_codes::check.
[[nodiscard]] inline r16_matrix pack_r16(integer_codes const& codes, context const& ctx = {}) {
  return detail::pack_all(codes, nullptr, {}, ctx);
}

/// Codes of a sparse matrix that keeps at most two of every four columns (whatever pattern its mask promises), at most 4 bits,
/// without zero points. A kept weight may have code 0. @throws as above; config_error naming a group that keeps more than two.
[[nodiscard]] inline r16_matrix pack_r16(integer_codes const& codes, mask const& kept, context const& ctx = {}) {
  return detail::pack_all(codes, &kept, {}, ctx);
}

/// Codes of 4 bits in one table of 16 levels, dense or 2:4; of at most 4 bits in tables per row, dense, whose levels are
/// rounded (row_level_error). @throws as above; config_error if the levels are no rounded_levels, or a 2:4 group keeps fewer
/// than two and no level is 0.
[[nodiscard]] inline r16_matrix pack_r16(codebook_codes const& codes, context const& ctx = {}) {
  return detail::pack_all(codes, nullptr, ctx);
}
[[nodiscard]] inline r16_matrix pack_r16(codebook_codes const& codes, mask const& kept, context const& ctx = {}) {
  return detail::pack_all(codes, &kept, ctx);
}

/// A matrix of numbers, rounded to a format: an adapter's factor that is not quantized.
[[nodiscard]] inline r16_matrix pack_r16(matrix_view<float const> values, number_format format, context const& ctx = {}) {
  r16_matrix packed;
  packed.layout_ = {.kind = format == number_format::fp32   ? r16_kind::fp32
                            : format == number_format::bf16 ? r16_kind::bf16
                                                            : r16_kind::fp16,
                    .rows = values.rows(),
                    .cols = values.cols()};
  r16_layout const& layout = packed.layout_;
  if (layout.byte_size() == 0) return packed;
  packed.bytes_ = aligned_bytes(layout.byte_size());
  index_t const size = code_bits(layout.kind) / 8;
  ctx.parallel_for(layout.row_blocks(), 4, [&](index_t begin, index_t end) {
    std::fill(packed.bytes_.data() + begin * layout.row_block_bytes(), packed.bytes_.data() + end * layout.row_block_bytes(),
              std::uint8_t{0}); // rows that are not there
    for (index_t i = begin * r16_rows; i < std::min(end * r16_rows, layout.rows); ++i) {
      std::uint8_t* const row = packed.bytes_.data() + i / r16_rows * layout.row_block_bytes() + i % r16_rows * size;
      for (index_t j = 0; j < layout.cols; ++j) {
        std::uint8_t* const at = row + j * r16_rows * size;
        if (size == 4) {
          std::memcpy(at, &values(i, j), 4);
        } else {
          std::uint16_t const bits = format == number_format::bf16 ? bf16(values(i, j)).bits : fp16(values(i, j)).bits;
          at[0] = static_cast<std::uint8_t>(bits & 255);
          at[1] = static_cast<std::uint8_t>(bits >> 8);
        }
      }
    }
  });
  return packed;
}

} // namespace SLIM_ABI
} // namespace slim
