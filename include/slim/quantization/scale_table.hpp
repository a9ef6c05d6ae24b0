#pragma once
/// @file
/// `scale_table`: the scales (or real offsets) of a quantized matrix, and how they are stored: as numbers of a format, or as
/// small codes of a second level with steps of its own (SpQR, arXiv 2306.03078: 3 bits over 16 x 16 scales; GGUF's K-quants: 6
/// bits over the 8 groups of a super-block).

#include "slim/core/finite.hpp"
#include "slim/core/matrix.hpp"
#include "slim/core/scalar.hpp"
#include "slim/quantization/scale_block.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace slim {
inline namespace SLIM_ABI {

/// How the entries of a scale_table are stored.
struct scale_storage {
  number_format format = number_format::fp32;   ///< of the entries; with a second level: of its steps and offsets
  int bits = 0;                                 ///< 0: entries are numbers; 1 to 8: they are codes of a second level
  scale_block block = {.rows = 16, .cols = 16}; ///< entries of the table that share a step of the second level
  bool shifted = false;                         ///< entry = step * code + offset (SpQR); false: step * code (K-quants)
  bool centered = false; ///< entry = step * (code - 2^(bits - 1)), of either sign (IQ4_XS); not together with an offset

  /// The code that stands for 0 where entries have no offset.
  [[nodiscard]] constexpr int zero_code() const noexcept { return centered ? 1 << (bits - 1) : 0; }

  friend bool operator==(scale_storage const&, scale_storage const&) = default;
};

/// The storage in words, for reports.
[[nodiscard]] inline std::string describe(scale_storage const& stored) {
  std::string const numbers = stored.format == number_format::fp32 ? "" : message(name_of(stored.format), " ");
  if (stored.bits == 0) return numbers + "scales";
  return message(stored.bits, stored.centered ? " bit signed scales over " : " bit scales over ", stored.block.rows, " x ",
                 stored.block.cols, ", ", numbers, "steps");
}

namespace detail {

/// A non-negative scale as it is stored. Rounding must neither overflow to infinity nor turn a scale into 0.
inline float stored_scale(number_format format, float scale) noexcept {
  if (!(scale > 0.0f) || format == number_format::fp32 || !detail::is_finite(scale)) return scale;
  float const stored = rounded_to(format, scale);
  if (!detail::is_finite(stored)) return largest_number(format);
  if (stored == 0.0f) return format == number_format::fp16 ? 0x1p-24f : static_cast<float>(bf16::from_bits(1));
  return stored;
}

/// The same for a scale that weights are divided by: not so small that 1 / scale overflows.
inline float stored_divisor(number_format format, float scale) noexcept {
  return scale > 0.0f ? stored_scale(format, std::max(scale, 0x1p-126f)) : scale;
}

/// The nearest number of so many significant bits, 1 to 24; ties to the even one.
inline float rounded_to_digits(float value, int digits) noexcept {
  auto bits = std::bit_cast<std::uint32_t>(value);
  int const cut = 24 - digits;
  if (cut == 0 || !is_finite(value)) return value;
  std::uint32_t const last = std::uint32_t{1} << cut;
  bits += last / 2 - 1 + (bits >> cut & 1u);
  return std::bit_cast<float>(bits & ~(last - 1));
}

/// The same for a number of any sign.
inline float stored_number(number_format format, float value) noexcept {
  return value < 0.0f ? -stored_scale(format, -value) : stored_scale(format, value);
}

} // namespace detail

/// A table of numbers with one entry per block of weights. The decoded values are always there, so that reading a scale costs
/// the same however it is stored; a second level keeps its codes, steps and offsets beside them.
///
/// Entries of a table without a second level may be written directly (they should be numbers of the format). With a second
/// level, write values and call `store`, which replaces them by what the codes stand for.
class scale_table {
public:
  scale_table() = default;

  /// All entries 0. @throws config_error unless 0 <= bits <= 8 and the block's extents are not negative, or if entries of a
  /// second level are both shifted and centered.
  scale_table(index_t rows, index_t cols, scale_storage stored = {}) : values_(rows, cols), stored_(stored) {
    if (stored.bits < 0 || stored.bits > 8 || stored.block.rows < 0 || stored.block.cols < 0)
      throw config_error(message("scale_table: ", stored.bits, " bits over ", stored.block.rows, " x ", stored.block.cols,
                                 ", possible are 0 to 8 bits over blocks that are not negative"));
    if (stored.centered && (stored.shifted || stored.bits == 0))
      throw config_error("scale_table: only codes of a second level without offsets are centered");
    if (stored.bits == 0) return;
    codes_ = matrix<std::uint8_t>(rows, cols);
    std::fill_n(codes_.data(), codes_.size(), static_cast<std::uint8_t>(stored.zero_code()));
    steps_ =
        matrix<float>(detail::blocks_of(rows, stored.block.rows_of(rows)), detail::blocks_of(cols, stored.block.cols_of(cols)));
    if (stored.shifted) offsets_ = matrix<float>(steps_.rows(), steps_.cols());
  }

  [[nodiscard]] index_t rows() const noexcept { return values_.rows(); }
  [[nodiscard]] index_t cols() const noexcept { return values_.cols(); }
  [[nodiscard]] index_t size() const noexcept { return values_.size(); }
  [[nodiscard]] bool empty() const noexcept { return values_.empty(); }
  [[nodiscard]] float* data() noexcept { return values_.data(); }
  [[nodiscard]] float const* data() const noexcept { return values_.data(); }
  [[nodiscard]] float* row(index_t i) noexcept { return values_.row(i); }
  [[nodiscard]] float const* row(index_t i) const noexcept { return values_.row(i); }
  [[nodiscard]] float& operator()(index_t i, index_t j) noexcept { return values_(i, j); }
  [[nodiscard]] float operator()(index_t i, index_t j) const noexcept { return values_(i, j); }
  [[nodiscard]] matrix<float> const& values() const noexcept { return values_; }

  [[nodiscard]] scale_storage const& stored() const noexcept { return stored_; }
  [[nodiscard]] number_format format() const noexcept { return stored_.format; }
  [[nodiscard]] bool has_second_level() const noexcept { return stored_.bits > 0; }

  /// Of the second level; empty without one. `codes` has an entry per scale, `steps` (and `offsets`, if shifted) one per block.
  [[nodiscard]] matrix<std::uint8_t> const& codes() const noexcept { return codes_; }
  [[nodiscard]] matrix<float> const& steps() const noexcept { return steps_; }
  [[nodiscard]] matrix<float> const& offsets() const noexcept { return offsets_; }

  /// Bits of all that is stored.
  [[nodiscard]] double stored_bits() const noexcept {
    if (!has_second_level()) return static_cast<double>(size()) * bit_width(stored_.format);
    return static_cast<double>(size()) * stored_.bits +
           static_cast<double>(steps_.size() + offsets_.size()) * bit_width(stored_.format);
  }

  /// Entries of rows [first_row, last_row) and columns [first_col, last_col) become what is stored: numbers of the format, or
  /// codes of a second level whose steps are fitted to the blocks that the range touches. Those blocks should lie in the range
  /// as a whole. With `positive`, an entry above 0 does not become 0.
  void store(index_t first_row, index_t last_row, index_t first_col, index_t last_col, bool positive) {
    if (!has_second_level()) {
      for (index_t i = first_row; i < last_row; ++i)
        for (index_t j = first_col; j < last_col; ++j) values_(i, j) = detail::stored_number(stored_.format, values_(i, j));
      return;
    }
    index_t const tall = stored_.block.rows_of(rows()), wide = stored_.block.cols_of(cols());
    for (index_t b = first_row / tall; b * tall < last_row; ++b)
      for (index_t g = first_col / wide; g * wide < last_col; ++g)
        store_block(b, g, std::min(rows(), (b + 1) * tall), std::min(cols(), (g + 1) * wide), positive);
  }
  /// All entries.
  void store(bool positive) { store(0, rows(), 0, cols(), positive); }

  /// Another step of the second level for block (b, g), with the codes as they are.
  void set_step(index_t b, index_t g, float step) {
    steps_(b, g) = step;
    decode_block(b, g);
  }

  /// Another code of the second level for entry (i, j), 0 to 2^bits - 1.
  void set_code(index_t i, index_t j, int code) {
    codes_(i, j) = static_cast<std::uint8_t>(code);
    index_t const b = i / stored_.block.rows_of(rows()), g = j / stored_.block.cols_of(cols());
    values_(i, j) = steps_(b, g) * static_cast<float>(code - stored_.zero_code()) + (stored_.shifted ? offsets_(b, g) : 0.0f);
  }

  /// A second level from its parts, as a file has them. @throws shape_error unless codes fit the table, steps and offsets its
  /// blocks; config_error on a table without a second level, or a code that does not fit in its bits.
  void set_second_level(matrix<std::uint8_t> codes, matrix<float> steps, matrix<float> offsets) {
    if (!has_second_level()) throw config_error("scale_table: there is no second level to set");
    if (codes.rows() != rows() || codes.cols() != cols() || steps.rows() != steps_.rows() || steps.cols() != steps_.cols() ||
        offsets.rows() != offsets_.rows() || offsets.cols() != offsets_.cols())
      throw shape_error(message("scale_table: second level of ", codes.rows(), " x ", codes.cols(), " codes, ", steps.rows(),
                                " x ", steps.cols(), " steps, ", offsets.rows(), " x ", offsets.cols(), " offsets for ", rows(),
                                " x ", cols(), " scales"));
    for (index_t k = 0; k < codes.size(); ++k)
      if (codes.data()[k] >> stored_.bits != 0)
        throw config_error(message("scale_table: code ", int{codes.data()[k]}, " in ", stored_.bits, " bits"));
    codes_ = std::move(codes);
    steps_ = std::move(steps);
    offsets_ = std::move(offsets);
    for (index_t b = 0; b < steps_.rows(); ++b)
      for (index_t g = 0; g < steps_.cols(); ++g) decode_block(b, g);
  }

  /// The table of the transposed matrix. @throws config_error with a second level
  [[nodiscard]] scale_table transposed_table() const {
    if (has_second_level()) throw config_error("scale_table: codes with a second level of scales have no transpose");
    scale_table out(cols(), rows(), stored_);
    out.values_ = matrix<float>(transposed(values_.view()));
    return out;
  }

  friend bool operator==(scale_table const&, scale_table const&) = default;

private:
  void store_block(index_t b, index_t g, index_t last_row, index_t last_col, bool positive) {
    index_t const first_row = b * stored_.block.rows_of(rows()), first_col = g * stored_.block.cols_of(cols());
    float low = values_(first_row, first_col), high = low;
    for (index_t i = first_row; i < last_row; ++i)
      for (index_t j = first_col; j < last_col; ++j) {
        low = std::min(low, values_(i, j));
        high = std::max(high, values_(i, j));
      }
    int const zero = stored_.zero_code();
    auto const top = static_cast<float>((1 << stored_.bits) - 1 - zero), bottom = static_cast<float>(-zero);
    float const base = stored_.shifted ? detail::stored_number(stored_.format, low) : 0.0f;
    // Without a shift or a center all entries have the sign of the one that is farthest from 0; others become 0.
    float const farthest = stored_.shifted ? high - base : (-low > high ? low : high);
    float const share = farthest / top, least = std::copysign(std::numeric_limits<float>::denorm_min(), farthest);
    float const step = detail::stored_number(stored_.format, share == 0.0f && farthest != 0.0f ? least : share);
    steps_(b, g) = step;
    if (stored_.shifted) offsets_(b, g) = base;
    for (index_t i = first_row; i < last_row; ++i)
      for (index_t j = first_col; j < last_col; ++j) {
        float const level = step != 0.0f ? std::min(std::max((values_(i, j) - base) / step, bottom), top) : 0.0f;
        int code = static_cast<int>(std::nearbyint(level));
        if (positive && code == 0 && base == 0.0f && values_(i, j) > 0.0f) code = step > 0.0f || zero == 0 ? 1 : -1;
        codes_(i, j) = static_cast<std::uint8_t>(code + zero);
      }
    decode_block(b, g);
  }

  void decode_block(index_t b, index_t g) {
    index_t const tall = stored_.block.rows_of(rows()), wide = stored_.block.cols_of(cols());
    float const base = stored_.shifted ? offsets_(b, g) : 0.0f;
    for (index_t i = b * tall; i < std::min(rows(), (b + 1) * tall); ++i)
      for (index_t j = g * wide; j < std::min(cols(), (g + 1) * wide); ++j)
        values_(i, j) = steps_(b, g) * static_cast<float>(int{codes_(i, j)} - stored_.zero_code()) + base;
  }

  matrix<float> values_;
  scale_storage stored_;
  matrix<std::uint8_t> codes_;
  matrix<float> steps_, offsets_;
};

} // namespace SLIM_ABI
} // namespace slim
