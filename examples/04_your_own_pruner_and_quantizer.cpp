/// Your own pruner and quantizer, checked with the library's law suites and run in a chain with its adapter.
///
/// Nothing is derived from and nothing is registered: a type that has the members is a model of the concept. The pruner drops
/// whole blocks of eight neighbours; the quantizer rounds to {-s, 0, s} per row (ternary weights, arXiv 1605.04711).

#include <slim/slim.hpp>
#include <slim/testing/laws.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

using slim::index_t;

/// Of the blocks of 8 columns in a row the half with the largest energy is kept.
struct block_pruner {
  slim::mask select(slim::matrix_view<float const> w, slim::calibration const&, slim::context const& ctx = {}) const {
    slim::mask kept(w.rows(), w.cols());
    ctx.parallel_for(w.rows(), 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        std::vector<std::pair<double, index_t>> blocks; // minus energy and first column: ties go to the lower column
        for (index_t j = 0; j < w.cols(); ++j) {
          if (j % 8 == 0) blocks.emplace_back(0.0, j);
          blocks.back().first -= static_cast<double>(w(i, j)) * static_cast<double>(w(i, j));
        }
        std::sort(blocks.begin(), blocks.end());
        blocks.resize((blocks.size() + 1) / 2);
        for (auto const& [energy, first] : blocks)
          for (index_t j = first; j < std::min(first + 8, w.cols()); ++j) kept.keep(i, j);
      }
    });
    return kept;
  }
  std::string describe() const { return "keep half of the blocks of 8"; }
};

/// Codes: a sign per weight, a scale per row.
struct ternary_codes {
  slim::matrix<std::int8_t> signs;
  std::vector<float> scales;

  index_t rows() const { return signs.rows(); }
  index_t cols() const { return signs.cols(); }
  double stored_bits(slim::mask const* kept) const { // 2 bits for a kept weight, 32 for a scale
    return 2.0 * static_cast<double>(kept ? kept->count() : signs.size()) + 32.0 * static_cast<double>(scales.size());
  }
  void dequantize_into(slim::matrix_view<float> values, slim::context const& = {}) const {
    if (values.rows() != rows() || values.cols() != cols())
      throw slim::shape_error("ternary_codes: the destination has another shape");
    for (index_t i = 0; i < rows(); ++i)
      for (index_t j = 0; j < cols(); ++j) values(i, j) = scales[static_cast<std::size_t>(i)] * static_cast<float>(signs(i, j));
  }
};

/// Weights above 0.7 of the mean magnitude of their row become +-scale, the others 0; scale: the mean of those above.
struct ternary_quantizer {
  ternary_codes quantize(slim::matrix_view<float const> w, slim::calibration const&, slim::context const& = {}) const {
    ternary_codes codes{slim::matrix<std::int8_t>(w.rows(), w.cols()), std::vector<float>(static_cast<std::size_t>(w.rows()))};
    for (index_t i = 0; i < w.rows(); ++i) {
      double sum = 0, sum_above = 0, above = 0;
      for (index_t j = 0; j < w.cols(); ++j) sum += std::abs(static_cast<double>(w(i, j)));
      double const threshold = 0.7 * sum / static_cast<double>(w.cols());
      for (index_t j = 0; j < w.cols(); ++j) {
        double const size = std::abs(static_cast<double>(w(i, j)));
        if (!(size > threshold)) continue;
        codes.signs(i, j) = w(i, j) > 0.0f ? 1 : -1;
        sum_above += size;
        above += 1;
      }
      if (above > 0) codes.scales[static_cast<std::size_t>(i)] = static_cast<float>(sum_above / above);
    }
    return codes;
  }
  std::string describe() const { return "ternary per row"; }
};

static_assert(slim::pruner<block_pruner> && slim::quantizer<ternary_quantizer>);

int main() {
  // The laws run on some 25 hard matrices (empty, one column, all equal, huge, tiny, ...) with nine calibrations each.
  auto broken = slim::testing::check_pruner(block_pruner{});
  for (auto& violation : slim::testing::check_quantizer(ternary_quantizer{})) broken.push_back(std::move(violation));
  std::printf("%zu laws broken\n%s", broken.size(), slim::testing::describe(broken).c_str());

  auto const W = slim::testing::normal_matrix(64, 128, 1, 0.02f); // synthetic, as are the inputs
  auto const X = slim::testing::normal_matrix(256, 128, 2);
  auto const calib = slim::testing::observed(X, {.gram = true});
  auto const layer =
      slim::compress(W, calib, slim::chain(block_pruner{}, ternary_quantizer{}, slim::slim_lora({.rank = {.ratio = 0.25}})));
  for (auto const& step : layer.report.steps)
    std::printf("%-55s output error %.3f, sparsity %.2f, %.2f bits per weight\n", step.step.c_str(), step.output_error,
                step.sparsity, step.bits_per_weight);
  return broken.empty() && layer.report.last().output_error < layer.report.steps[1].output_error ? 0 : 1;
}
