#pragma once
/// @file
/// Turns weights into prefix moments for the scale search: sorted values for small blocks, histograms for a whole matrix.

#include "slim/core/context.hpp"
#include "slim/core/finite.hpp"
#include "slim/core/scalar.hpp"
#include "slim/quantization/rounding_kernels.hpp"
#include "slim/quantization/scale_search.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <span>

namespace slim {
inline namespace SLIM_ABI {

/// Sorted moments of few values; `weights` (of the squared error) empty means 1 each. NaN is left out. O(n log n).
[[nodiscard]] inline prefix_moments moments_of(std::vector<std::pair<float, double>>& values) {
  std::sort(values.begin(), values.end());
  prefix_moments moments;
  moments.reserve(static_cast<index_t>(values.size()));
  for (auto const& [value, weight] : values) {
    double const x = static_cast<double>(value);
    moments.push_back(weight, weight * x, weight * x * x);
  }
  return moments;
}

namespace detail {

/// Sums per bin. Every chunk of rows fills a table of its own, `fill(table, begin, end)`, which are added in order: the sums do
/// not depend on the number of threads.
template <class Sum, class F>
std::vector<double> tabulate_rows(index_t rows, index_t rows_per_chunk, index_t bins, context const& ctx, F const& fill) {
  std::vector<std::vector<Sum>> tables(static_cast<std::size_t>((rows + rows_per_chunk - 1) / rows_per_chunk));
  ctx.parallel_for(rows, rows_per_chunk, [&](index_t begin, index_t end) {
    std::vector<Sum> table(static_cast<std::size_t>(bins));
    fill(table.data(), begin, end);
    tables[static_cast<std::size_t>(begin / rows_per_chunk)] = std::move(table);
  });
  std::vector<double> sums(static_cast<std::size_t>(bins));
  for (auto const& table : tables)
    for (std::size_t b = 0; b < sums.size(); ++b) sums[b] += static_cast<double>(table[b]);
  return sums;
}

/// Position of a bf16 number in the order of the reals: -inf .. -0, +0 .. +inf.
constexpr index_t ordered_bf16(std::uint32_t upper_half) noexcept {
  return (upper_half & 0x8000u) ? static_cast<index_t>(0xffffu - upper_half) : static_cast<index_t>(0x8000u + upper_half);
}

/// The number at a position.
constexpr double bf16_at(index_t position) noexcept {
  auto const upper_half = position < 0x8000 ? 0xffff - position : position - 0x8000;
  return static_cast<double>(static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(upper_half))));
}

/// Grid of 2 `bins` + 1 bins, whose middles are the multiples of largest / bins.
inline bin_grid bins_up_to(float largest, index_t bins) noexcept {
  float const unit = largest < 0x1p-60f ? 0x1p126f : 1.0f;
  bool const usable = largest > 0.0f && detail::is_finite(largest);
  return {largest, unit, usable ? static_cast<float>(2 * bins) / (largest * unit) : 0.0f, static_cast<int>(bins)};
}

} // namespace detail

/// Largest |w| over rows x cols; NaN is passed over.
[[nodiscard]] inline float largest_magnitude(matrix_view<float const> w, context const& ctx = {}) {
  auto const& kernels = detail::rounding_kernels_of(ctx.simd);
  constexpr index_t rows_per_task = 64;
  std::vector<float> largest(static_cast<std::size_t>((w.rows() + rows_per_task - 1) / rows_per_task));
  if (w.cols() == 0) return 0.0f;
  ctx.parallel_for(w.rows(), rows_per_task, [&](index_t begin, index_t end) {
    float& mine = largest[static_cast<std::size_t>(begin / rows_per_task)];
    for (index_t i = begin; i < end; ++i) {
      float of_row = 0.0f;
      kernels.group_maxima(w.row(i), w.cols(), w.cols(), detail::magnitudes, &of_row);
      mine = std::max(mine, of_row);
    }
  });
  return largest.empty() ? 0.0f : *std::max_element(largest.begin(), largest.end());
}

/// True if every weight is a bf16 number: then a histogram over bit patterns loses nothing.
[[nodiscard]] inline bool is_bf16_exact(matrix_view<float const> w) noexcept {
  for (index_t i = 0; i < w.rows(); ++i) {
    std::uint32_t rest = 0;
    for (index_t j = 0; j < w.cols(); ++j) rest |= std::bit_cast<std::uint32_t>(w(i, j)) & 0xffffu;
    if (rest != 0) return false;
  }
  return true;
}

/// Moments of a whole matrix; `column_weights` weigh squared errors per input channel (empty: 1).
///
/// If all weights are bf16 numbers there is a bin for each of the 2 x 32768 bit patterns, and the moments are exact. Otherwise
/// a weight counts as the nearest multiple of largest / `bins` (at most 2^20 of them): 0 and the largest weight stay what they
/// are, and only weights in the (at most 2^bits) bins that a threshold cuts can be counted to the wrong neighbour code.
[[nodiscard]] inline prefix_moments histogram_moments(matrix_view<float const> w, float largest, index_t bins,
                                                      std::span<float const> column_weights, context const& ctx = {}) {
  auto const& kernels = detail::rounding_kernels_of(ctx.simd);
  bool const exact = is_bf16_exact(w);
  bins = std::min<index_t>(bins, index_t{1} << 20);
  index_t const total = exact ? 65536 : 2 * bins + 1; // and one more for NaN
  auto const grid = detail::bins_up_to(largest, bins);
  constexpr index_t panel = 1024;
  auto const each_panel = [&](index_t begin, index_t end, auto const& f) { // f(weights, first column, how many)
    for (index_t i = begin; i < end; ++i)
      for (index_t first = 0; first < w.cols(); first += panel) {
        index_t const width = std::min(panel, w.cols() - first);
        f(w.row(i) + first, first, width);
      }
  };
  auto const count_rows = [&](std::uint32_t* table, index_t begin, index_t end) {
    constexpr index_t most = 65535; // by 16 bits: half of the room in the first cache
    std::vector<std::uint16_t> counts(static_cast<std::size_t>(total + 1));
    index_t counted = 0;
    auto const empty = [&] {
      for (std::size_t b = 0; b < counts.size(); ++b) table[b] += counts[b];
      std::fill(counts.begin(), counts.end(), std::uint16_t{0});
      counted = 0;
    };
    each_panel(begin, end, [&](float const* from, index_t, index_t width) {
      if (counted + width > most) empty();
      counted += width;
      if (exact)
        kernels.count_bf16(from, width, largest, counts.data());
      else
        kernels.count_bins(from, width, grid, counts.data());
    });
    empty();
  };
  auto const add_rows = [&](auto* table, index_t begin, index_t end, auto const& weight_of) {
    std::array<int, panel> numbers;
    each_panel(begin, end, [&](float const* from, index_t first, index_t width) {
      if (exact)
        kernels.bf16_numbers(from, width, largest, numbers.data());
      else
        kernels.bin_numbers(from, width, grid, numbers.data());
      for (index_t j = 0; j < width; ++j) table[numbers[static_cast<std::size_t>(j)]] += weight_of(first + j);
    });
  };
  auto const fill_counts = [&](std::uint32_t* table, index_t begin, index_t end) {
    constexpr index_t few = 1 << 17; // of more, emptying 16-bit counts would take longer than counting
    if (total <= few)
      count_rows(table, begin, end);
    else
      add_rows(table, begin, end, [](index_t) { return 1u; });
  };
  auto const fill_weights = [&](double* table, index_t begin, index_t end) {
    add_rows(table, begin, end, [&](index_t j) { return static_cast<double>(column_weights[static_cast<std::size_t>(j)]); });
  };
  index_t const eighth = std::max<index_t>((w.rows() + 7) / 8, 1);
  index_t const countable = std::max<index_t>(index_t{0xffffffff} / std::max<index_t>(w.cols(), 1), 1); // by 32 bits
  auto const sums = column_weights.empty() ? detail::tabulate_rows<std::uint32_t>(w.rows(), std::min(eighth, countable),
                                                                                  total + 1, ctx, fill_counts)
                                           : detail::tabulate_rows<double>(w.rows(), eighth, total + 1, ctx, fill_weights);
  prefix_moments moments;
  moments.reserve(total);
  for (index_t b = 0; b < total; ++b) {
    double const weight = sums[static_cast<std::size_t>(b)];
    double const value =
        exact ? detail::bf16_at(b) : static_cast<double>(b - bins) * static_cast<double>(largest) / static_cast<double>(bins);
    moments.push_back(weight, weight * value, weight * value * value);
  }
  return moments;
}

} // namespace SLIM_ABI
} // namespace slim
