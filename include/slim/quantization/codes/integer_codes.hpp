#pragma once
/// @file
/// `integer_codes`: a matrix as small integers with one scale (and perhaps a zero point) per block of weights, and the
/// rounding that makes them. Shared by every uniform quantizer.

#include "slim/core/scalar.hpp"
#include "slim/quantization/quantizer.hpp"
#include "slim/quantization/rounding_kernels.hpp"

#include <cmath>
#include <cstdint>

namespace slim {
inline namespace SLIM_ABI {

/// Which weights share a scale: blocks of `rows x cols`, ragged at the ends; 0 means the whole extent.
struct scale_block {
  index_t rows = 1;
  index_t cols = 0;

  [[nodiscard]] constexpr index_t rows_of(index_t extent) const noexcept { return covered(rows, extent); }
  [[nodiscard]] constexpr index_t cols_of(index_t extent) const noexcept { return covered(cols, extent); }

  friend constexpr bool operator==(scale_block const&, scale_block const&) = default;

private:
  /// At least 1, and no more than there is, so that block positions never overflow.
  [[nodiscard]] static constexpr index_t covered(index_t size, index_t extent) noexcept {
    return std::max<index_t>(size == 0 ? extent : std::min(size, extent), 1);
  }
};

/// One scale for the matrix.
inline constexpr scale_block per_tensor{.rows = 0, .cols = 0};
/// One scale per output channel (row of W).
inline constexpr scale_block per_channel{.rows = 1, .cols = 0};
/// One scale per `size` consecutive input channels of a row.
[[nodiscard]] constexpr scale_block per_group(index_t size) { return {.rows = 1, .cols = size}; }
/// One scale per `size` consecutive rows of a column: SLiM's code with column_wise_grouping off, and how adapters are grouped
/// along the dimension that is summed over.
[[nodiscard]] constexpr scale_block per_column_group(index_t size) { return {.rows = size, .cols = 1}; }

[[nodiscard]] inline std::string describe(scale_block block) {
  if (block == per_tensor) return "per tensor";
  if (block == per_channel) return "per channel";
  if (block.rows == 1) return message("per group of ", block.cols);
  if (block.cols == 1) return message("per column group of ", block.rows);
  return message("per block of ", block.rows, " x ", block.cols);
}

namespace detail {

/// Nearest integer, ties to even, for |x| < 2^30. Plain arithmetic, so that it vectorises without flags and does not depend
/// on the rounding mode.
inline int round_to_int(float x) noexcept {
  int const whole = static_cast<int>(x);
  float const rest = x - static_cast<float>(whole); // exact
  bool const odd = (whole & 1) != 0;
  return whole + ((rest > 0.5f || (rest == 0.5f && odd)) ? 1 : 0) - ((rest < -0.5f || (rest == -0.5f && odd)) ? 1 : 0);
}

/// Code of w: round(w / scale) + zero, clamped. A scale of 0 and a NaN give the zero point. The meaning of round_row of
/// rounding_kernels.hpp.
inline std::int8_t encode(float w, float scale, int zero, int lowest, int highest) noexcept {
  float const ratio = w / scale;
  float const finite = ratio == ratio && scale > 0.0f ? ratio : 0.0f;
  float const clamped = std::min(std::max(finite, -1024.0f), 1024.0f);
  int const code = round_to_int(clamped) + zero;
  return static_cast<std::int8_t>(std::min(std::max(code, lowest), highest));
}

/// A non-negative scale as it is stored. Rounding must neither overflow to infinity nor turn a scale into 0.
inline float stored_scale(number_format format, float scale) noexcept {
  if (!(scale > 0.0f) || format == number_format::fp32 || !std::isfinite(scale)) return scale;
  float const stored = rounded_to(format, scale);
  if (std::isinf(stored)) return format == number_format::fp16 ? 65504.0f : static_cast<float>(bf16::from_bits(0x7f7f));
  if (stored == 0.0f) return format == number_format::fp16 ? 0x1p-24f : static_cast<float>(bf16::from_bits(1));
  return stored;
}

} // namespace detail

/// Signed codes of `bits` bits, -2^(bits-1) .. 2^(bits-1) - 1. The value of w_ij is scale * (code - zero) / factor_j, with the
/// scale and zero point of the block it lies in (zero 0 if `zeros` is empty) and the factor of its input channel (1 if
/// `channel_factors` is empty).
struct integer_codes {
  int bits = 4;
  scale_block block = per_tensor;
  number_format scale_format = number_format::fp32;
  matrix<std::int8_t> codes;          ///< d_out x d_in
  matrix<float> scales;               ///< one per block, already rounded to scale_format
  matrix<std::int8_t> zeros;          ///< as scales, or empty: symmetric
  std::vector<float> channel_factors; ///< d_in, or empty

  /// All codes 0, all scales 0. @throws config_error unless 2 <= bits <= 8 and the block's extents are not negative.
  integer_codes(index_t rows, index_t cols, int bit_count, scale_block shared_by, number_format format)
      : bits(checked(bit_count)), block(shared_by), scale_format(format), codes(rows, cols) {
    if (block.rows < 0 || block.cols < 0)
      throw config_error(message("integer_codes: scale block of ", block.rows, " x ", block.cols));
    scales = matrix<float>(blocks(rows, block.rows_of(rows)), blocks(cols, block.cols_of(cols)));
  }

  [[nodiscard]] index_t rows() const noexcept { return codes.rows(); }
  [[nodiscard]] index_t cols() const noexcept { return codes.cols(); }
  [[nodiscard]] int code_bits() const noexcept { return bits; }
  [[nodiscard]] int lowest() const noexcept { return -(1 << (bits - 1)); }
  [[nodiscard]] int highest() const noexcept { return (1 << (bits - 1)) - 1; }

  /// Scales in their format, zero points in `bits` bits; each channel factor other than 1 as 16 bits and a 16-bit position.
  [[nodiscard]] double side_bits() const noexcept {
    auto const moved =
        static_cast<double>(std::count_if(channel_factors.begin(), channel_factors.end(), [](float f) { return f != 1.0f; }));
    return static_cast<double>(scales.size()) * bit_width(scale_format) + static_cast<double>(zeros.size()) * bits +
           32.0 * moved;
  }

  [[nodiscard]] float scale_at(index_t i, index_t j) const noexcept {
    return scales(i / block.rows_of(rows()), j / block.cols_of(cols()));
  }
  [[nodiscard]] int zero_at(index_t i, index_t j) const noexcept {
    return zeros.empty() ? 0 : zeros(i / block.rows_of(rows()), j / block.cols_of(cols()));
  }
  [[nodiscard]] float factor_at(index_t j) const noexcept {
    return channel_factors.empty() ? 1.0f : channel_factors[static_cast<std::size_t>(j)];
  }

  /// The value of one code.
  [[nodiscard]] float value(index_t i, index_t j) const noexcept {
    return scale_at(i, j) * static_cast<float>(codes(i, j) - zero_at(i, j)) / factor_at(j);
  }

  /// @throws shape_error
  void dequantize_into(matrix_view<float> values, context const& ctx = {}) const {
    if (values.rows() != rows() || values.cols() != cols())
      throw shape_error(message("dequantize_into: codes are ", rows(), " x ", cols(), ", the destination ", values.rows(),
                                " x ", values.cols()));
    constexpr index_t rows_per_task = 32;
    ctx.parallel_for(rows(), rows_per_task, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for_each_span(i, [&](index_t first, index_t last) {
          float const scale = scale_at(i, first);
          int const zero = zero_at(i, first);
          for (index_t j = first; j < last; ++j) values(i, j) = scale * static_cast<float>(codes(i, j) - zero) / factor_at(j);
        });
    });
  }

  /// Encodes w with the scales and zero points that are already set. @throws shape_error
  void encode(matrix_view<float const> w, context const& ctx = {}) {
    if (w.rows() != rows() || w.cols() != cols())
      throw shape_error(message("encode: codes are ", rows(), " x ", cols(), ", the matrix ", w.rows(), " x ", w.cols()));
    auto const& kernels = detail::rounding_kernels_of(ctx.simd);
    constexpr index_t rows_per_task = 32;
    ctx.parallel_for(rows(), rows_per_task, [&](index_t begin, index_t end) {
      std::vector<float> scaled(channel_factors.size());
      for (index_t i = begin; i < end; ++i) {
        for (std::size_t j = 0; j < scaled.size(); ++j) scaled[j] = w(i, static_cast<index_t>(j)) * channel_factors[j];
        encode_row(kernels, scaled.empty() ? w.row(i) : scaled.data(), i, 0, cols());
      }
    });
  }

  /// Columns first .. last - 1 of row i alone, of a row `w` that is already times the channel factors; a scale begins at
  /// `first`.
  void encode_row(detail::rounding_kernels const& kernels, float const* w, index_t i, index_t first, index_t last) {
    index_t const b = i / block.rows_of(rows()), group = block.cols_of(cols()), g = first / group;
    detail::row_grid const grid{.scales = scales.row(b) + g,
                                .zeros = zeros.empty() ? nullptr : zeros.row(b) + g,
                                .group = group,
                                .lowest = lowest(),
                                .highest = highest()};
    kernels.round_row(w + first, last - first, grid, codes.row(i) + first);
  }

private:
  static int checked(int bit_count) {
    if (bit_count < 2 || bit_count > 8) throw config_error(message("integer_codes: ", bit_count, " bits, possible are 2 to 8"));
    return bit_count;
  }

  static index_t blocks(index_t extent, index_t size) { return (extent + size - 1) / size; }

  /// f(first, last) for every run of columns of row i that shares a scale.
  template <class F>
  void for_each_span(index_t, F const& f) const {
    index_t const width = block.cols_of(cols());
    for (index_t first = 0; first < cols(); first += width) f(first, std::min(cols(), first + width));
  }
};

static_assert(quantized_matrix<integer_codes>);

/// The codes of the transpose. @throws config_error if input channels have factors.
[[nodiscard]] inline integer_codes transposed(integer_codes const& a) {
  if (!a.channel_factors.empty()) throw config_error("transposed: codes with factors of input channels have no transpose");
  integer_codes out(a.cols(), a.rows(), a.bits, {a.block.cols_of(a.cols()), a.block.rows_of(a.rows())}, a.scale_format);
  out.codes = matrix<std::int8_t>(transposed(a.codes.view()));
  out.scales = matrix<float>(transposed(a.scales.view()));
  out.zeros = matrix<std::int8_t>(transposed(a.zeros.view()));
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
