#pragma once
/// @file
/// Turns weights into prefix moments for the scale search: sorted values for small blocks, histograms for a whole matrix.

#include "slim/core/context.hpp"
#include "slim/quantization/scale_search.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <span>

namespace slim::inline SLIM_ABI {

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

/// Moments of bins, one table per fixed chunk of rows: the sums do not depend on the number of threads.
class moment_table {
public:
  explicit moment_table(index_t bins) : sums_(static_cast<std::size_t>(bins)) {}

  void add(index_t bin, double weight, double value) noexcept {
    auto& s = sums_[static_cast<std::size_t>(bin)];
    s.weight += weight;
    s.first += weight * value;
    s.second += weight * value * value;
  }
  void merge(moment_table const& other) noexcept {
    for (std::size_t b = 0; b < sums_.size(); ++b) {
      sums_[b].weight += other.sums_[b].weight;
      sums_[b].first += other.sums_[b].first;
      sums_[b].second += other.sums_[b].second;
    }
  }
  [[nodiscard]] prefix_moments::sums const& operator[](index_t bin) const noexcept {
    return sums_[static_cast<std::size_t>(bin)];
  }

private:
  std::vector<prefix_moments::sums> sums_;
};

/// f(table, i) for every row, chunk by chunk, merged in order.
template <class F>
moment_table tabulate_rows(index_t rows, index_t bins, context const& ctx, F const& f) {
  constexpr index_t chunks = 8;
  index_t const rows_per_chunk = std::max<index_t>((rows + chunks - 1) / chunks, 1);
  std::vector<moment_table> tables(static_cast<std::size_t>(chunks), moment_table(bins));
  ctx.parallel_for(rows, rows_per_chunk, [&](index_t begin, index_t end) {
    auto& table = tables[static_cast<std::size_t>(begin / rows_per_chunk)];
    for (index_t i = begin; i < end; ++i) f(table, i);
  });
  for (std::size_t k = 1; k < tables.size(); ++k) tables[0].merge(tables[k]);
  return std::move(tables[0]);
}

/// Position of a bf16 number in the order of the reals: -inf .. -0, +0 .. +inf.
constexpr index_t ordered_bf16(std::uint32_t upper_half) noexcept {
  return (upper_half & 0x8000u) ? static_cast<index_t>(0xffffu - upper_half) : static_cast<index_t>(0x8000u + upper_half);
}

} // namespace detail

/// Largest |w| over rows x cols; NaN is passed over.
[[nodiscard]] inline float largest_magnitude(matrix_view<float const> w) noexcept {
  float largest = 0.0f;
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j) largest = std::max(largest, std::abs(w(i, j)));
  return largest;
}

/// True if every weight is a bf16 number: then a histogram over bit patterns loses nothing.
[[nodiscard]] inline bool is_bf16_exact(matrix_view<float const> w) noexcept {
  std::uint32_t rest = 0;
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j) rest |= std::bit_cast<std::uint32_t>(w(i, j)) & 0xffffu;
  return rest == 0;
}

/// Moments of a whole matrix; `column_weights` weigh squared errors per input channel (empty: 1).
///
/// If all weights are bf16 numbers there is a bin for each of the 2 x 32768 bit patterns, and the moments are exact. Otherwise
/// `bins` equal bins on either side of 0; a bin is represented by the mean of its weights, and only weights in the (at most
/// 2^bits) bins that a threshold cuts can be counted to the wrong neighbour code.
[[nodiscard]] inline prefix_moments histogram_moments(matrix_view<float const> w, float largest, index_t bins,
                                                      std::span<float const> column_weights, context const& ctx = {}) {
  auto const weight_of = [&](index_t j) {
    return column_weights.empty() ? 1.0 : static_cast<double>(column_weights[static_cast<std::size_t>(j)]);
  };
  bool const exact = is_bf16_exact(w);
  index_t const total = exact ? 65536 : 2 * bins;
  double const bins_per_unit =
      largest > 0.0f ? static_cast<double>(bins) / static_cast<double>(largest) : 0.0; // overflows a float
  auto const table = detail::tabulate_rows(w.rows(), total, ctx, [&](detail::moment_table& into, index_t i) {
    for (index_t j = 0; j < w.cols(); ++j) {
      float const x = w(i, j);
      if (!(std::abs(x) <= largest)) continue; // NaN
      index_t bin = 0;
      if (exact)
        bin = detail::ordered_bf16(std::bit_cast<std::uint32_t>(x) >> 16);
      else
        bin = std::clamp<index_t>(static_cast<index_t>(static_cast<double>(x) * bins_per_unit + static_cast<double>(bins)), 0,
                                  total - 1);
      into.add(bin, weight_of(j), static_cast<double>(x));
    }
  });
  prefix_moments moments;
  moments.reserve(total);
  for (index_t b = 0; b < total; ++b) moments.push_back(table[b].weight, table[b].first, table[b].second);
  return moments;
}

} // namespace slim::inline SLIM_ABI
