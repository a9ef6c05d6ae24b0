#pragma once
/// @file
/// `integer_codes`: a matrix as small integers with one scale (and perhaps a zero point or an offset) per block of weights, and
/// the rounding that makes them. Shared by every uniform grid.

#include "slim/core/finite.hpp"
#include "slim/core/scalar.hpp"
#include "slim/quantization/quantizer.hpp"
#include "slim/quantization/rounding_kernels.hpp"
#include "slim/quantization/scale_table.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace slim {
inline namespace SLIM_ABI {

namespace detail {

/// Code of w: round(w / scale) + zero, clamped. A scale of 0 and a NaN give the zero point. The meaning of round_row of
/// rounding_kernels.hpp.
inline std::int8_t encode(float w, float scale, int zero, int lowest, int highest) noexcept {
  float const ratio = w / scale;
  float const finite = ratio == ratio && scale > 0.0f ? ratio : 0.0f;
  float const clamped = std::min(std::max(finite, -1024.0f), 1024.0f);
  int const code = round_to_int(clamped) + zero;
  return static_cast<std::int8_t>(std::min(std::max(code, lowest), highest));
}

} // namespace detail

/// Codes of a uniform grid: signed integers of `bits` bits, -2^(bits-1) .. 2^(bits-1) - 1. The value of w_ij is
/// (scale * (code - zero) + offset) / factor_j with scale, zero point and offset of the block it lies in:
///  * symmetric: no zero points, no offsets (zero 0, offset 0);
///  * integer zero points: `zeros`;
///  * real offsets: `offsets`; the zero point is then the lowest code, so that levels count from 0 upwards (GGUF's Q4_1 and
///    K-quants with a minimum, SpQR's real zero).
/// With `signed_scales` zero points are 0 or -1 and say the sign of a scale: codes -1 - q with zero point -1 have the values of
/// codes q with the scale -s (ggml's Q4_0, Q3_K, Q6_K, where the side with one level more is chosen so).
/// `group_bits`, if not empty, gives the bits of each group of columns (a column of the scale table), at most `bits` each.
struct integer_codes {
  int bits = 4;
  std::vector<std::uint8_t> group_bits; ///< per group of columns, or empty: `bits` everywhere
  scale_block block = per_tensor;
  matrix<std::int8_t> codes;          ///< d_out x d_in
  scale_table scales;                 ///< one per block
  matrix<std::int8_t> zeros;          ///< as scales, or empty
  bool signed_scales = false;         ///< zero points are 0 or -1, the signs of the scales
  scale_table offsets;                ///< as scales, or empty; not together with zeros
  std::vector<float> channel_factors; ///< d_in, or empty

  /// 0 x 0.
  integer_codes() : integer_codes(0, 0, 4, per_tensor, number_format::fp32) {}
  /// All codes 0, all scales 0. @throws config_error unless 1 <= bits <= 8 and the block's extents are not negative.
  integer_codes(index_t rows, index_t cols, int bit_count, scale_block shared_by, scale_storage stored)
      : bits(checked(bit_count)), block(shared_by), codes(rows, cols) {
    if (block.rows < 0 || block.cols < 0)
      throw config_error(message("integer_codes: scale block of ", block.rows, " x ", block.cols));
    scales = scale_table(detail::blocks_of(rows, block.rows_of(rows)), detail::blocks_of(cols, block.cols_of(cols)), stored);
  }
  integer_codes(index_t rows, index_t cols, int bit_count, scale_block shared_by, number_format format)
      : integer_codes(rows, cols, bit_count, shared_by, scale_storage{.format = format}) {}

  [[nodiscard]] index_t rows() const noexcept { return codes.rows(); }
  [[nodiscard]] index_t cols() const noexcept { return codes.cols(); }
  [[nodiscard]] int lowest() const noexcept { return -(1 << (bits - 1)); }
  [[nodiscard]] int highest() const noexcept { return (1 << (bits - 1)) - 1; }
  [[nodiscard]] bool symmetric() const noexcept { return zeros.empty() && offsets.empty(); }

  /// Bits, and the range of the codes, of group g of the columns.
  [[nodiscard]] int bits_of(index_t g) const noexcept {
    return group_bits.empty() ? bits : group_bits[static_cast<std::size_t>(g)];
  }
  [[nodiscard]] int lowest_of(index_t g) const noexcept { return -(1 << (bits_of(g) - 1)); }
  [[nodiscard]] int highest_of(index_t g) const noexcept { return (1 << (bits_of(g) - 1)) - 1; }

  /// Codes in the bits of their group, scales and offsets as they are stored, zero points in the bits of their group (signs of
  /// scales are a bit of the number; one more where scales have a second level); each channel factor other than 1 as a 32-bit
  /// number and a 16-bit position. @throws as check; shape_error on another mask
  [[nodiscard]] double stored_bits(mask const* kept = nullptr) const {
    check("stored_bits");
    if (kept) kept->check("stored_bits", rows(), cols());
    double total = scales.stored_bits() + offsets.stored_bits();
    index_t const wide = block.cols_of(cols());
    if (group_bits.empty()) {
      auto const stored = static_cast<double>(kept ? kept->count() : codes.size());
      int const zero_bits = !signed_scales ? bits : scales.has_second_level() ? 1 : 0;
      total += stored * bits + static_cast<double>(zeros.size()) * zero_bits;
    } else {
      for (index_t g = 0; g < scales.cols(); ++g) {
        auto const stored = detail::kept_in_columns(kept, rows(), g * wide, std::min(cols(), (g + 1) * wide));
        total += static_cast<double>(stored + zeros.rows()) * bits_of(g);
      }
    }
    auto const moved = std::count_if(channel_factors.begin(), channel_factors.end(), [](float f) { return f != 1.0f; });
    return total + 48.0 * static_cast<double>(moved);
  }

  [[nodiscard]] float scale_at(index_t i, index_t j) const noexcept {
    return scales(i / block.rows_of(rows()), j / block.cols_of(cols()));
  }
  [[nodiscard]] int zero_at(index_t i, index_t j) const noexcept {
    if (!offsets.empty()) return lowest_of(j / block.cols_of(cols()));
    return zeros.empty() ? 0 : zeros(i / block.rows_of(rows()), j / block.cols_of(cols()));
  }
  [[nodiscard]] float offset_at(index_t i, index_t j) const noexcept {
    return offsets.empty() ? 0.0f : offsets(i / block.rows_of(rows()), j / block.cols_of(cols()));
  }
  [[nodiscard]] float factor_at(index_t j) const noexcept {
    return channel_factors.empty() ? 1.0f : channel_factors[static_cast<std::size_t>(j)];
  }

  /// The value of one code.
  [[nodiscard]] float value(index_t i, index_t j) const noexcept {
    float const scaled = scale_at(i, j) * static_cast<float>(codes(i, j) - zero_at(i, j));
    return (offsets.empty() ? scaled : scaled + offset_at(i, j)) / factor_at(j);
  }

  /// Whether a pruned weight can be stored as a code: real offsets have no 0, and a zero point may lie outside the codes' bits
  /// (GPTQ's 16 of 4 bits does).
  [[nodiscard]] bool has_zero() const noexcept {
    for (index_t b = 0; b < zeros.rows(); ++b)
      for (index_t g = 0; g < zeros.cols(); ++g)
        if (zeros(b, g) < lowest_of(g) || zeros(b, g) > highest_of(g)) return false;
    return offsets.empty();
  }

  /// Codes of weights that are not kept become the zero point: what they stand for is 0 without the mask, too (where there is
  /// such a code: see has_zero). @throws shape_error, config_error
  void prune(mask const& kept) {
    check("prune");
    kept.check("prune", rows(), cols());
    index_t const wide = block.cols_of(cols());
    for (index_t i = 0; i < rows(); ++i)
      for (index_t j = 0; j < cols(); ++j) {
        if (kept.kept(i, j)) continue;
        index_t const g = j / wide;
        int const zero = zero_at(i, j);
        codes(i, j) = static_cast<std::int8_t>(std::min(std::max(zero, lowest_of(g)), highest_of(g)));
      }
  }

  /// @throws shape_error, config_error unless all parts fit each other: what every function that takes codes calls first.
  /// `who` begins the message. O(scales + d_in); check_codes looks at the codes, too.
  void check(std::string_view who) const {
    if (bits < 1 || bits > 8) throw config_error(message(who, ": codes of ", bits, " bits, possible are 1 to 8"));
    if (block.rows < 0 || block.cols < 0)
      throw config_error(message(who, ": scale block of ", block.rows, " x ", block.cols, ", possible are extents from 0 on"));
    index_t const tall = detail::blocks_of(rows(), block.rows_of(rows())),
                  wide = detail::blocks_of(cols(), block.cols_of(cols()));
    auto const require = [&](bool fits, char const* what, index_t given_rows, index_t given_cols) {
      if (!fits)
        throw shape_error(
            message(who, ": ", given_rows, " x ", given_cols, " ", what, " where ", tall, " x ", wide, " are needed"));
    };
    require(scales.rows() == tall && scales.cols() == wide, "scales", scales.rows(), scales.cols());
    require(zeros.empty() || (zeros.rows() == tall && zeros.cols() == wide), "zero points", zeros.rows(), zeros.cols());
    require(offsets.empty() || (offsets.rows() == tall && offsets.cols() == wide), "offsets", offsets.rows(), offsets.cols());
    require(group_bits.empty() || std::ssize(group_bits) == wide, "bits of groups", 1, std::ssize(group_bits));
    if (!zeros.empty() && !offsets.empty()) throw config_error(message(who, ": codes have zero points and offsets"));
    if (signed_scales && (zeros.rows() != tall || zeros.cols() != wide || !group_bits.empty()))
      throw config_error(message(who, ": signs of scales need zero points, and groups of one width"));
    for (index_t k = 0; signed_scales && k < zeros.size(); ++k)
      if (int const zero = zeros.data()[k]; zero != 0 && zero != -1)
        throw config_error(message(who, ": zero point ", k, " is ", zero, ", the sign of a scale is 0 or -1"));
    for (int const b : group_bits)
      if (b < 1 || b > bits) throw config_error(message(who, ": a group of ", b, " bits, possible are 1 to ", bits));
    if (!channel_factors.empty() && std::ssize(channel_factors) != cols())
      throw shape_error(message(who, ": ", channel_factors.size(), " channel factors for ", cols(), " channels"));
    for (std::size_t j = 0; j < channel_factors.size(); ++j)
      if (!detail::is_finite(channel_factors[j]) || channel_factors[j] == 0.0f)
        throw config_error(message(who, ": channel factor ", j, " is ", channel_factors[j], ", needed is a number but 0"));
  }

  /// check, and @throws config_error naming the first code (of a kept weight, with a mask) that does not lie in its bits. One
  /// pass over the codes.
  void check_codes(std::string_view who, mask const* kept = nullptr) const {
    check(who);
    if (kept) kept->check(who, rows(), cols());
    for (index_t i = 0; i < rows(); ++i) check_row(who, i, kept);
  }

  /// The part of check_codes that looks at row i, for functions that walk over the rows in parallel. The rest has been checked.
  void check_row(std::string_view who, index_t i, mask const* kept = nullptr) const {
    index_t const wide = group_bits.empty() ? cols() : block.cols_of(cols());
    std::int8_t const* const row = codes.row(i);
    for (index_t first = 0; first < cols(); first += wide) {
      index_t const last = std::min(cols(), first + wide), g = first / wide;
      int const low = lowest_of(g), high = highest_of(g);
      std::uint8_t most = 0; // above the lowest, in the arithmetic of bytes, where what is below comes out as above
      for (index_t j = first; j < last; ++j) most = std::max(most, static_cast<std::uint8_t>(row[j] - low));
      for (index_t j = first; int{most} > high - low && j < last; ++j)
        if ((row[j] < low || row[j] > high) && (!kept || kept->kept(i, j)))
          throw config_error(message(who, ": code (", i, ", ", j, ") is ", int{row[j]}, " in ", bits_of(g),
                                     " bits, possible are ", low, " to ", high, "; codes that count from 0 are shifted by ",
                                     -low));
    }
  }

  /// @throws shape_error, config_error
  void dequantize_into(matrix_view<float> values, context const& ctx = {}) const {
    check("dequantize_into");
    detail::require_shape(rows(), cols(), values.rows(), values.cols(), "dequantize_into");
    constexpr index_t rows_per_task = 32;
    ctx.parallel_for(rows(), rows_per_task, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        check_row("dequantize_into", i);
        for_each_span([&](index_t first, index_t last) {
          float const scale = scale_at(i, first);
          int const zero = zero_at(i, first);
          if (!offsets.empty()) {
            for (index_t j = first; j < last; ++j) values(i, j) = value(i, j);
          } else if (channel_factors.empty()) {
            for (index_t j = first; j < last; ++j) values(i, j) = scale * static_cast<float>(codes(i, j) - zero);
          } else {
            for (index_t j = first; j < last; ++j) values(i, j) = scale * static_cast<float>(codes(i, j) - zero) / factor_at(j);
          }
        });
      }
    });
  }

  /// Encodes w with the scales, zero points and offsets that are already set. @throws shape_error
  void encode(matrix_view<float const> w, context const& ctx = {}) {
    check("encode");
    detail::require_shape(rows(), cols(), w.rows(), w.cols(), "encode");
    auto const& kernels = detail::rounding_kernels_of(ctx.simd);
    constexpr index_t rows_per_task = 32;
    ctx.parallel_for(rows(), rows_per_task, [&](index_t begin, index_t end) {
      std::vector<float> scaled(channel_factors.size());
      for (index_t i = begin; i < end; ++i) {
        for (std::size_t j = 0; j < scaled.size(); ++j) scaled[j] = w(i, static_cast<index_t>(j)) * channel_factors[j];
        float const* const row = scaled.empty() ? w.row(i) : scaled.data();
        if (group_bits.empty() && offsets.empty())
          encode_row(kernels, row, i, 0, cols());
        else
          encode_groups(row, i);
      }
    });
  }

  /// Columns first .. last - 1 of row i alone, of a row `w` that is already times the channel factors; a scale begins at
  /// `first`. For codes of one width without offsets.
  void encode_row(detail::rounding_kernels const& kernels, float const* w, index_t i, index_t first, index_t last) {
    index_t const b = i / block.rows_of(rows()), group = block.cols_of(cols()), g = first / group;
    detail::row_grid const grid{.scales = scales.row(b) + g,
                                .zeros = zeros.empty() ? nullptr : zeros.row(b) + g,
                                .group = group,
                                .lowest = lowest(),
                                .highest = highest()};
    kernels.round_row(w + first, last - first, grid, codes.row(i) + first);
  }

  friend bool operator==(integer_codes const&, integer_codes const&) = default;

private:
  static int checked(int bit_count) {
    if (bit_count < 1 || bit_count > 8) throw config_error(message("integer_codes: ", bit_count, " bits, possible are 1 to 8"));
    return bit_count;
  }

  /// Row i where groups have bits or offsets of their own.
  void encode_groups(float const* w, index_t i) {
    index_t const group = block.cols_of(cols());
    for_each_span([&](index_t first, index_t last) {
      float const scale = scale_at(i, first), offset = offset_at(i, first);
      int const zero = zero_at(i, first);
      for (index_t j = first; j < last; ++j)
        codes(i, j) = detail::encode(w[j] - offset, scale, zero, lowest_of(first / group), highest_of(first / group));
    });
  }

  /// f(first, last) for every run of columns that shares a scale.
  template <class F>
  void for_each_span(F const& f) const {
    index_t const width = block.cols_of(cols());
    for (index_t first = 0; first < cols(); first += width) f(first, std::min(cols(), first + width));
  }
};

static_assert(quantized_matrix<integer_codes>);

/// The codes in words: "4 bit codes 64 x 256, fp16 scales per group of 128, zero points".
[[nodiscard]] inline std::string to_string(integer_codes const& c) {
  return message(c.bits, " bit codes ", c.rows(), " x ", c.cols(), ", ", name_of(c.scales.format()), " scales ",
                 describe(c.block), c.scales.has_second_level() ? message(" in ", c.scales.stored().bits, " bits") : "",
                 c.group_bits.empty() ? "" : ", bits by group", c.zeros.empty() ? "" : ", zero points",
                 c.offsets.empty() ? "" : ", offsets", c.channel_factors.empty() ? "" : ", channel factors");
}

/// The codes of the transpose. @throws config_error if input channels have factors, groups of columns bits of their own, or
/// scales a second level.
[[nodiscard]] inline integer_codes transposed(integer_codes const& a) {
  a.check("transposed");
  if (!a.channel_factors.empty()) throw config_error("transposed: codes with factors of input channels have no transpose");
  if (!a.group_bits.empty()) throw config_error("transposed: codes with bits per group of columns have no transpose");
  integer_codes out(a.cols(), a.rows(), a.bits, {a.block.cols_of(a.cols()), a.block.rows_of(a.rows())}, a.scales.stored());
  out.codes = matrix<std::int8_t>(transposed(a.codes.view()));
  out.scales = a.scales.transposed_table();
  out.zeros = matrix<std::int8_t>(transposed(a.zeros.view()));
  out.offsets = a.offsets.transposed_table();
  return out;
}

/// A quantizer whose codes are integer_codes: what stores them (adapters, packed formats) must know their layout.
template <class Q>
concept integer_quantizer =
    quantizer<Q> && requires(Q const& q, matrix_view<float const> w, calibration const& calib, context const& ctx) {
      { q.quantize(w, calib, ctx) } -> std::same_as<integer_codes>;
    };

} // namespace SLIM_ABI
} // namespace slim
