#pragma once
/// @file
/// "R16", the byte layout that the CPU kernels run on: 16 rows stand side by side, so that a vector register holds one step of
/// 16 rows and no sum ever crosses lanes. One layout for every instruction set; what is saved is packing/.
///
///     row block  chunk chunk ...
///     chunk      [sets of the next scales and zero points, as many as fill whole cache lines] the stages that they belong to
///     set        16 scales, fp16 or, where fp16 does not hold them all, fp32  [16 zero points of a byte]
///     stage      16 rows x 32 columns, some vectors of 64 bytes; byte 4 r + k belongs to row r
///
/// Every byte is read in the order it lies in, so that the machine sees one stream and fetches ahead by itself.
///
///     sparse24   step s = columns 8 s .. 8 s + 7, k = 2 group + slot: the slot-th kept weight of a group of four
///                M (bits 2 s, 2 s + 1: column)  V0 (nibble 0: step 0, nibble 1: step 1)  V1 (steps 2, 3)     192 bytes
///     dense4     step s = columns 4 s .. 4 s + 3, column 4 s + k:  V0 .. V3, a nibble per step               256 bytes
///     dense2     the same with two bits per step:  P0 (steps 0 .. 3)  P1 (steps 4 .. 7)                      128 bytes
///     dense3     W0 .. W2, three bits per step, steps 2 v and 2 v + 1;  their top two bits, together: steps 6, 7     192 bytes
///     dense8     V0 .. V7, a byte per step                                                                   512 bytes
///     fp16 bf16  columns 0 .. 31, 16 numbers each: factors of adapters that are not quantized               1024 bytes
///     fp32       the same                                                                                   2048 bytes
///
/// Codes are stored without sign: code + 2^(bits - 1). `sparse24_book` and `dense4_book` have the bytes of sparse24 and dense4,
/// and 16 levels that the codes stand for. Rows are padded to 16 with scale 0, columns to 32.
///
/// `dense3_books` and `dense4_books` have levels per row in front of the stages of their row block, 4 vectors: byte 16 l + c of
/// vector v is level c of row 4 l + v, + 128. A step holds 16 columns of four rows then, so that levels are looked up in the
/// lanes they lie in: column 16 h + k of row 4 l + v is byte 16 l + k of step 4 h + v. `dense2_tiles`, `dense3_tiles` and
/// `dense4_tiles` have the stages of dense codes, and sets of two tiles of 16 x 16 whose scales and offsets are codes.

#include "slim/core/aligned_bytes.hpp"
#include "slim/packing/packed_format.hpp"
#include "slim/pruning/mask.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <cstring>

namespace slim {
inline namespace SLIM_ABI {

/// What an R16 matrix holds.
enum class r16_kind : std::uint8_t {
  sparse24,
  sparse24_book,
  dense2,
  dense3,
  dense4,
  dense4_book,
  dense8,
  dense3_books,
  dense4_books,
  dense2_tiles,
  dense3_tiles,
  dense4_tiles,
  fp16,
  bf16,
  fp32
};

[[nodiscard]] constexpr char const* name_of(r16_kind kind) {
  constexpr char const* names[] = {"2:4 int4",
                                   "2:4 of 16 levels",
                                   "dense int2",
                                   "dense int3",
                                   "dense int4",
                                   "dense of 16 levels",
                                   "dense int8",
                                   "8 levels per row",
                                   "16 levels per row",
                                   "int2 in tiles",
                                   "int3 in tiles",
                                   "int4 in tiles",
                                   "fp16",
                                   "bf16",
                                   "fp32"};
  return names[static_cast<int>(kind)];
}

inline constexpr index_t r16_rows = 16;        ///< of a row block
inline constexpr index_t r16_stage_cols = 32;  ///< columns that share a scale of the inputs
inline constexpr index_t r16_block_cols = 128; ///< columns that are decoded at a time

/// Bytes of a stage: 16 rows of 32 columns.
[[nodiscard]] constexpr index_t stage_bytes(r16_kind kind) {
  constexpr index_t bytes[] = {192, 192, 128, 192, 256, 256, 512, 192, 256, 128, 192, 256, 1024, 1024, 2048};
  return bytes[static_cast<int>(kind)];
}

/// Bits of a stored code or number.
[[nodiscard]] constexpr int code_bits(r16_kind kind) {
  constexpr int bits[] = {4, 4, 2, 3, 4, 4, 8, 3, 4, 2, 3, 4, 16, 16, 32};
  return bits[static_cast<int>(kind)];
}

/// Whether the codes are 2:4 sparse.
[[nodiscard]] constexpr bool is_sparse(r16_kind kind) { return kind <= r16_kind::sparse24_book; }
/// Whether the matrix holds codes; else it holds numbers.
[[nodiscard]] constexpr bool has_codes(r16_kind kind) { return kind <= r16_kind::dense4_tiles; }
/// Whether codes are positions in a table of 16 levels.
[[nodiscard]] constexpr bool has_book(r16_kind kind) {
  return kind == r16_kind::sparse24_book || kind == r16_kind::dense4_book;
}

/// Whether codes are positions in a table of their row.
[[nodiscard]] constexpr bool has_row_books(r16_kind kind) {
  return kind == r16_kind::dense3_books || kind == r16_kind::dense4_books;
}
/// Whether groups have 16 columns, whose scales and offsets are codes of 3 bits.
[[nodiscard]] constexpr bool has_tiles(r16_kind kind) {
  return kind >= r16_kind::dense2_tiles && kind <= r16_kind::dense4_tiles;
}
/// The kind whose stages have the same bits.
[[nodiscard]] constexpr r16_kind plain_kind(r16_kind kind) {
  if (!has_row_books(kind) && !has_tiles(kind)) return kind;
  return code_bits(kind) == 2 ? r16_kind::dense2 : code_bits(kind) == 3 ? r16_kind::dense3 : r16_kind::dense4;
}
inline constexpr index_t r16_book_bytes = 256; ///< of the levels of 16 rows

/// What integer kernels multiply stands for code - this: levels of a dense book are read + 128.
[[nodiscard]] constexpr int plain_zero(r16_kind kind) {
  if (is_sparse(kind) || has_tiles(kind)) return 0;
  return kind == r16_kind::dense4_book || has_row_books(kind) ? 128 : 1 << (code_bits(kind) - 1);
}

static_assert(stage_bytes(r16_kind::sparse24) * 8 == 3 * r16_rows * r16_stage_cols, "2:4 int4 is 3 bits per weight");
static_assert(stage_bytes(r16_kind::dense3) == stage_bytes(r16_kind::sparse24), "dense int3 has the bytes of 2:4 int4");

/// Where things are in the bytes of a matrix.
struct r16_layout {
  r16_kind kind = r16_kind::dense4;
  index_t rows = 0, cols = 0; ///< without padding
  index_t scale_cols = 0;     ///< columns that share a scale, a multiple of 32; 0 if a row has one scale, kept apart
  bool zero_points = false;   ///< a byte per row behind each set of scales
  bool wide_scales = false;   ///< scales of groups are fp32 instead of fp16
  /// Of scales and offsets that are codes, else 0. A set is then 16 x u16, the offset's code above the scale's (of two tiles:
  /// those of the second above those of the first), and for each tile 4 x fp16: step and base of scales, and of offsets.
  int scale_bits = 0, offset_bits = 0;

  [[nodiscard]] constexpr index_t row_blocks() const noexcept { return (rows + r16_rows - 1) / r16_rows; }
  [[nodiscard]] constexpr index_t stages() const noexcept { return (cols + r16_stage_cols - 1) / r16_stage_cols; }
  [[nodiscard]] constexpr index_t sets() const noexcept { return scale_cols == 0 ? 0 : (cols + scale_cols - 1) / scale_cols; }
  /// Of a scale in a set.
  [[nodiscard]] constexpr index_t scale_bytes() const noexcept { return wide_scales ? 4 : 2; }
  [[nodiscard]] constexpr index_t set_bytes() const noexcept {
    if (scale_bits > 0) return has_tiles(kind) ? 48 : 40;
    return scale_cols == 0 ? 0 : (scale_bytes() + (zero_points ? 1 : 0)) * r16_rows;
  }
  /// Sets of a chunk, a power of two: their bytes end with a cache line. The last chunk may have fewer.
  [[nodiscard]] constexpr index_t chunk_sets() const noexcept {
    if (scale_bits > 0) return has_tiles(kind) ? 4 : 8;
    return zero_points ? 4 : 2;
  }
  /// In front of the first chunk.
  [[nodiscard]] constexpr index_t book_bytes() const noexcept { return has_row_books(kind) ? r16_book_bytes : 0; }
  /// In front of the stages of a chunk of so many sets.
  [[nodiscard]] constexpr index_t header_bytes(index_t of_sets) const noexcept {
    return (of_sets * set_bytes() + 63) / 64 * 64;
  }
  [[nodiscard]] constexpr index_t chunk_stages() const noexcept {
    return scale_cols == 0 ? stages() : chunk_sets() * (scale_cols / r16_stage_cols);
  }
  [[nodiscard]] constexpr index_t row_block_bytes() const noexcept {
    return book_bytes() + header_bytes(sets()) + stages() * stage_bytes(kind);
  }
  /// Of a set in its row block.
  [[nodiscard]] constexpr index_t set_offset(index_t set) const noexcept {
    index_t const first = set & ~(chunk_sets() - 1); // of its chunk
    return set * set_bytes() + first * (scale_cols / r16_stage_cols) * stage_bytes(kind);
  }
  /// Of a stage in its row block.
  [[nodiscard]] constexpr index_t stage_offset(index_t stage) const noexcept {
    index_t const sets_before = scale_cols == 0 ? 0 : (stage / chunk_stages() + 1) * chunk_sets();
    return book_bytes() + header_bytes(std::min(sets_before, sets())) + stage * stage_bytes(kind);
  }
  [[nodiscard]] constexpr index_t byte_size() const noexcept { return row_blocks() * row_block_bytes(); }

  friend constexpr bool operator==(r16_layout const&, r16_layout const&) = default;
};

static_assert(r16_layout{r16_kind::sparse24, 16, 256, 128, false}.byte_size() * 8 == 16 * 256 * 25 / 8,
              "3.125 bits per weight with groups of 128");
static_assert(r16_layout{r16_kind::dense3, 16, 512, 128, true}.header_bytes(4) == 4 * 48, "four sets leave no gap");
static_assert(r16_layout{r16_kind::dense3_tiles, 16, 512, 32, false, false, 3, 3}.byte_size() * 8 == 16 * 512 * 15 / 4,
              "SpQR's tiles: 3.75 bits per weight");

namespace detail {

struct r16_kernels; // kernels/cpu/r16_kernels.hpp
class packed_product;

} // namespace detail

/// A matrix of codes in the R16 layout. Made by `pack_r16` (kernels/cpu/pack_r16.hpp).
class r16_matrix {
public:
  r16_matrix() = default;

  [[nodiscard]] r16_layout const& layout() const noexcept { return layout_; }
  [[nodiscard]] index_t rows() const noexcept { return layout_.rows; }
  [[nodiscard]] index_t cols() const noexcept { return layout_.cols; }
  [[nodiscard]] std::uint8_t const* data() const noexcept { return bytes_.data(); }
  /// Scale and zero point of every row (padded to 16) where a row has only one; else empty.
  [[nodiscard]] std::vector<float> const& row_scales() const noexcept { return row_scales_; }
  [[nodiscard]] std::vector<float> const& row_zeros() const noexcept { return row_zeros_; }
  /// 1 / factor of every input channel, or empty: what inputs are multiplied by.
  [[nodiscard]] std::vector<float> const& input_factors() const noexcept { return input_factors_; }
  /// All bytes that a product reads.
  [[nodiscard]] index_t byte_size() const noexcept {
    auto const floats = row_scales_.size() + row_zeros_.size() + input_factors_.size();
    return layout_.byte_size() + static_cast<index_t>(floats * sizeof(float) + levels_.size());
  }

  /// Levels of a code book by stored code, in units of `level_unit`; else empty.
  [[nodiscard]] std::vector<std::int8_t> const& levels() const noexcept { return levels_; }
  /// What the scales of groups are multiplied by; that of rows is in their scale.
  [[nodiscard]] float level_unit() const noexcept { return level_unit_; }

  /// Scale of weight (i, j); 1 for numbers.
  [[nodiscard]] float scale(index_t i, index_t j) const noexcept {
    if (!has_codes(layout_.kind)) return 1.0f;
    if (layout_.scale_cols == 0) return row_scales_[static_cast<std::size_t>(i)];
    if (layout_.scale_bits > 0) return second_level(i, j, 0, 0, layout_.scale_bits);
    std::uint8_t const* const at = scales_at(i, j) + layout_.scale_bytes() * (i % r16_rows);
    if (layout_.wide_scales) {
      float scale;
      std::memcpy(&scale, at, sizeof scale);
      return scale * level_unit_;
    }
    return static_cast<float>(fp16::from_bits(static_cast<std::uint16_t>(at[0] | at[1] << 8))) * level_unit_;
  }

  /// Stored code that stands for 0 in the group of weight (i, j); 0 for levels and numbers.
  [[nodiscard]] int zero(index_t i, index_t j) const noexcept {
    if (has_book(layout_.kind) || has_row_books(layout_.kind) || layout_.scale_bits > 0 || !has_codes(layout_.kind)) return 0;
    if (!row_zeros_.empty()) return static_cast<int>(row_zeros_[static_cast<std::size_t>(i)]);
    if (!layout_.zero_points) return 1 << (code_bits(layout_.kind) - 1);
    return scales_at(i, j)[layout_.scale_bytes() * r16_rows + i % r16_rows];
  }

  /// What is added to scale times code; 0 but where scales and offsets are codes.
  [[nodiscard]] float offset(index_t i, index_t j) const noexcept {
    return layout_.scale_bits == 0 ? 0.0f : second_level(i, j, 1, layout_.scale_bits, layout_.offset_bits);
  }

  /// Level of a stored code in the book of row i, in units of its scale.
  [[nodiscard]] int row_level(index_t i, int code) const noexcept {
    std::uint8_t const* const books = data() + i / r16_rows * layout_.row_block_bytes();
    return books[64 * (i % 4) + 16 * (i % r16_rows / 4) + code] - 128;
  }

  /// Values of columns 128 col_block and on of a row block, [column][row], pruned and padding weights 0; the bytes are read as
  /// the file comment says, one by one.
  void decode_block(index_t row_block, index_t col_block, float values[r16_block_cols][r16_rows]) const noexcept;

private:
  friend class r16_packer;
  friend class detail::packed_product;
  friend r16_matrix pack_r16(matrix_view<float const>, number_format, context const&);

  /// Scale (0) or offset (1) of weight (i, j) from its code of `bits` bits, which lies `shift` bits up.
  [[nodiscard, gnu::noinline]] float second_level(index_t i, index_t j, int which, int shift, int bits) const noexcept {
    std::uint8_t const* const set = scales_at(i, j);
    auto const tile = static_cast<int>(has_tiles(layout_.kind) ? j % r16_stage_cols / 16 : 0);
    auto const number = [&](int k) {
      std::uint8_t const* const at = set + 2 * r16_rows + 8 * tile + 2 * k;
      return static_cast<float>(fp16::from_bits(static_cast<std::uint16_t>(at[0] | at[1] << 8)));
    };
    unsigned const fields = unsigned{set[2 * (i % r16_rows)]} | unsigned{set[2 * (i % r16_rows) + 1]} << 8;
    unsigned const code = fields >> (tile * (layout_.scale_bits + layout_.offset_bits) + shift) & ((1u << bits) - 1u);
    return number(2 * which) * static_cast<float>(code) + number(2 * which + 1);
  }

  [[nodiscard]] std::uint8_t const* scales_at(index_t i, index_t j) const noexcept {
    return data() + i / r16_rows * layout_.row_block_bytes() + layout_.set_offset(j / layout_.scale_cols);
  }

  r16_layout layout_;
  aligned_bytes bytes_;
  std::vector<float> row_scales_, row_zeros_, input_factors_;
  std::vector<std::int8_t> levels_;
  float level_unit_ = 1.0f;
  /// Where its kernels are, if its codes are positions in tables: whoever packs such codes names them, so that programs without
  /// such codes do not compile them. Null for other matrices.
  detail::r16_kernels const& (*kernels_of_books_)(simd_level) = nullptr;
};

namespace detail {

/// Stored code of column `col` (0 .. 31) of row `row` of a dense stage.
[[nodiscard]] constexpr int dense_code(r16_kind kind, std::uint8_t const* stage, index_t row, index_t col) noexcept {
  bool const lanes = has_row_books(kind);
  index_t const step = lanes ? 4 * (col / 16) + row % 4 : col / 4;
  index_t const byte = lanes ? 16 * (row / 4) + col % 16 : 4 * row + col % 4;
  switch (plain_kind(kind)) {
  case r16_kind::dense2: return stage[step / 4 * 64 + byte] >> (2 * (step % 4)) & 3;
  case r16_kind::dense3: {
    if (step < 6) return stage[step / 2 * 64 + byte] >> (3 * (step % 2)) & 7;
    int const last = stage[byte] >> 6 | stage[64 + byte] >> 6 << 2 | stage[128 + byte] >> 6 << 4;
    return last >> (3 * (step % 2)) & 7;
  }
  case r16_kind::dense4:
  case r16_kind::dense4_book: return stage[step / 2 * 64 + byte] >> (4 * (step % 2)) & 15;
  default: return stage[step * 64 + byte];
  }
}

/// The number at column `col` (0 .. 31) of row `row` of a stage without codes.
[[nodiscard]] inline float stage_number(r16_kind kind, std::uint8_t const* stage, index_t row, index_t col) noexcept {
  index_t const at = col * r16_rows + row;
  if (kind == r16_kind::fp32) {
    float value;
    std::memcpy(&value, stage + 4 * at, sizeof(value));
    return value;
  }
  auto const bits = static_cast<std::uint16_t>(stage[2 * at] | stage[2 * at + 1] << 8);
  return kind == r16_kind::fp16 ? static_cast<float>(slim::fp16::from_bits(bits))
                                : static_cast<float>(slim::bf16::from_bits(bits));
}

/// The two kept weights of group `group` (0 .. 7) of row `row` of a 2:4 stage.
struct sparse_pair {
  int code[2], column[2];
};

[[nodiscard]] constexpr sparse_pair sparse_codes(std::uint8_t const* stage, index_t row, index_t group) noexcept {
  index_t const step = group / 2;
  sparse_pair pair{};
  for (index_t slot = 0; slot < 2; ++slot) {
    index_t const byte = 4 * row + 2 * (group % 2) + slot;
    pair.column[slot] = stage[byte] >> (2 * step) & 3;
    pair.code[slot] = stage[64 + step / 2 * 64 + byte] >> (4 * (step % 2)) & 15;
  }
  return pair;
}

} // namespace detail

inline void r16_matrix::decode_block(index_t row_block, index_t col_block,
                                     float values[r16_block_cols][r16_rows]) const noexcept {
  std::uint8_t const* const begin = data() + row_block * layout_.row_block_bytes();
  index_t const rows = std::min(r16_rows, layout_.rows - row_block * r16_rows);
  index_t const cols = std::min(r16_block_cols, layout_.cols - col_block * r16_block_cols);
  for (index_t j = 0; j < r16_block_cols; ++j) std::fill_n(values[j], r16_rows, 0.0f);
  auto const value = [&](index_t r, index_t c, int code) {
    index_t const i = row_block * r16_rows + r, j = col_block * r16_block_cols + c;
    float const factor = input_factors_.empty() ? 1.0f : input_factors_[static_cast<std::size_t>(j)];
    int const level = has_book(layout_.kind)        ? levels_[static_cast<std::size_t>(code)]
                      : has_row_books(layout_.kind) ? row_level(i, code)
                                                    : code;
    float const scaled = scale(i, j) * static_cast<float>(level - zero(i, j));
    return (layout_.scale_bits == 0 ? scaled : scaled + offset(i, j)) * factor;
  };
  for (index_t r = 0; r < rows; ++r)
    for (index_t first = 0; first < cols; first += r16_stage_cols) {
      std::uint8_t const* const at = begin + layout_.stage_offset((col_block * r16_block_cols + first) / r16_stage_cols);
      if (!has_codes(layout_.kind)) {
        for (index_t c = first; c < std::min(cols, first + r16_stage_cols); ++c)
          values[c][r] = detail::stage_number(layout_.kind, at, r, c - first);
      } else if (is_sparse(layout_.kind)) {
        for (index_t group = 0; group < r16_stage_cols / 4; ++group) {
          auto const pair = detail::sparse_codes(at, r, group);
          for (int slot = 0; slot < 2; ++slot)
            if (index_t const c = first + 4 * group + pair.column[slot]; c < cols) values[c][r] = value(r, c, pair.code[slot]);
        }
      } else {
        for (index_t c = first; c < std::min(cols, first + r16_stage_cols); ++c)
          values[c][r] = value(r, c, detail::dense_code(layout_.kind, at, r, c - first));
      }
    }
}

} // namespace SLIM_ABI
} // namespace slim
