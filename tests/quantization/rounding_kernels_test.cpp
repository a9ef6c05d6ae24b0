// The loops over rows at every instruction set against plain arithmetic, one weight at a time.
#include "slim/quantization/rounding_kernels.hpp"

#include "slim/quantization/absmax.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"
#include "support/simd_levels.hpp"

#include <catch2/catch.hpp>

#include <bit>
#include <functional>

using namespace slim;
using namespace slim::testing;
using slim_test::at;
using slim_test::simd_levels;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// Normal numbers with everything between them that rounding can trip over.
std::vector<float> hard_row(index_t cols, std::uint64_t seed) {
  float const odd[] = {not_a_number, -not_a_number, infinity, -infinity, 0.0f, -0.0f, 1e-42f,
                       -1e-42f,      3e38f,         -3e38f,   0.5f,      1.5f, -2.5f, 3.5f};
  std::vector<float> row;
  for (index_t j = 0; j < cols; ++j) {
    auto const draw = random_bits(seed, static_cast<std::uint64_t>(j));
    auto const x = static_cast<float>(random_normal(seed + 1, static_cast<std::uint64_t>(j)));
    row.push_back(draw % 5 == 0 ? odd[draw / 5 % 14] : draw % 5 == 1 ? std::round(2 * x) / 2 : x);
  }
  return row;
}

/// Rows of a matrix, as many as there are seeds.
matrix<float> hard_rows(index_t rows, index_t cols, std::uint64_t seed) {
  matrix<float> w(rows, cols);
  for (index_t i = 0; i < rows; ++i) {
    auto const row = hard_row(cols, seed + static_cast<std::uint64_t>(7 * i));
    std::copy(row.begin(), row.end(), w.row(i));
  }
  return w;
}

index_t const widths[] = {0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 127, 130, 1029};

} // namespace

TEST_CASE("maxima of groups are those of comparing one by one, NaN aside, at every level") {
  for (simd_level const level : simd_levels())
    for (index_t const cols : widths)
      for (index_t const group : {1, 2, 5, 16, 32, 48, 100, 2000})
        for (auto const& [what, of] : std::vector<std::pair<slim::detail::of_weights, std::function<float(float)>>>{
                 {slim::detail::magnitudes, [](float x) { return std::abs(x); }},
                 {slim::detail::themselves, [](float x) { return x; }},
                 {slim::detail::negatives, [](float x) { return -x; }}}) {
          auto const row = hard_row(cols, 3);
          auto const groups = static_cast<std::size_t>((cols + group - 1) / group);
          std::vector<float> maxima(groups + 1, -9.0f);
          slim::detail::rounding_kernels_of(level).group_maxima(row.data(), cols, group, what, maxima.data());
          CHECK(maxima.back() == -9.0f); // nothing behind the end
          for (std::size_t g = 0; g < groups; ++g) {
            float largest = 0;
            for (index_t j = static_cast<index_t>(g) * group; j < std::min(cols, (static_cast<index_t>(g) + 1) * group); ++j)
              if (float const x = of(row[static_cast<std::size_t>(j)]); x > largest) largest = x;
            INFO(cols << " columns, groups of " << group << ", level " << static_cast<int>(level));
            CHECK(same_bits(maxima[g], largest));
          }
        }
}

TEST_CASE("scales of symmetric grids are rounded to their format as numbers of it are, at every level") {
  std::vector<float> maxima = {0.0f, infinity, not_a_number, 65504.0f * 7, 65519.9f * 7, 65520.0f * 7, 1e38f, 1e-45f};
  for (std::uint32_t exponent = 0; exponent < 255; ++exponent)
    for (std::uint64_t k = 0; k < 40; ++k) {
      auto const draw = static_cast<std::uint32_t>(random_bits(exponent, k));
      std::uint32_t const near_half = k % 2 == 0 ? draw & 0x7fffffu : (draw & 0x7f8000u) + 0x0fffu + draw % 3;
      maxima.push_back(std::bit_cast<float>(exponent << 23 | near_half));
    }
  for (std::uint32_t half = 0; half < 0x7c00; ++half) { // the middle between neighbours, and next to it
    double const low = static_cast<double>(static_cast<float>(fp16::from_bits(static_cast<std::uint16_t>(half))));
    double const high = static_cast<double>(static_cast<float>(fp16::from_bits(static_cast<std::uint16_t>(half + 1))));
    auto const middle = static_cast<float>(std::isinf(high) ? 65520.0 : (low + high) / 2);
    for (float const x : {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, infinity)}) maxima.push_back(x);
  }
  for (simd_level const level : simd_levels())
    for (int const highest : {1, 7})
      for (number_format const format : {number_format::fp32, number_format::fp16, number_format::bf16}) {
        std::vector<float> scales = maxima;
        slim::detail::rounding_kernels_of(level).symmetric_scales(scales.data(), static_cast<index_t>(scales.size()),
                                                                  static_cast<float>(highest), format);
        index_t wrong = 0;
        for (std::size_t k = 0; k < scales.size(); ++k)
          wrong += !same_bits(scales[k], slim::detail::stored_scale(format, maxima[k] / static_cast<float>(highest)));
        INFO("level " << static_cast<int>(level) << ", " << name_of(format) << ", " << highest);
        CHECK(wrong == 0);
      }
}

TEST_CASE("codes of a row are those of encoding one by one, at every level") {
  float const scale_of[] = {0.5f, 1.0f, 0.037f, 0.0f, -1.0f, infinity, not_a_number, 1e-44f, 1e30f, 0.25f};
  for (simd_level const level : simd_levels())
    for (index_t const cols : widths)
      for (index_t const group : {1, 2, 5, 16, 32, 100, 2000})
        for (int const bits : {2, 3, 4, 8})
          for (bool const with_zeros : {false, true}) {
            auto const row = hard_row(cols, 4);
            int const lowest = -(1 << (bits - 1)), highest = -lowest - 1;
            std::vector<float> scales;
            std::vector<signed char> zeros;
            for (index_t g = 0; g * group < cols; ++g) {
              scales.push_back(scale_of[g % 10]);
              zeros.push_back(static_cast<signed char>(lowest + g % (1 << bits)));
            }
            std::vector<signed char> codes(static_cast<std::size_t>(cols) + 1, 99);
            slim::detail::rounding_kernels_of(level).round_row(
                row.data(), cols, {scales.data(), with_zeros ? zeros.data() : nullptr, group, lowest, highest}, codes.data());
            index_t wrong = 0;
            for (index_t j = 0; j < cols; ++j) {
              auto const g = static_cast<std::size_t>(j / group), k = static_cast<std::size_t>(j);
              wrong += codes[k] != slim::detail::encode(row[k], scales[g], with_zeros ? zeros[g] : 0, lowest, highest);
            }
            INFO(cols << " columns, groups of " << group << ", " << bits << " bits, level " << static_cast<int>(level));
            CHECK(wrong == 0);
            CHECK(codes.back() == 99); // nothing behind the end
          }
}

TEST_CASE("next to the middle between two codes the division decides, and elsewhere the inverse gives its code") {
  constexpr index_t cols = 128;
  for (simd_level const level : simd_levels())
    for (int const bits : {2, 4, 8})
      for (std::uint64_t seed = 0; seed < 400; ++seed) {
        auto const scale = static_cast<float>(std::exp(random_normal(seed, 0))) * 0.01f;
        bool const near_middles = seed % 2 == 0;
        std::vector<float> row;
        for (index_t j = 0; j < cols; ++j) {
          auto const draw = random_bits(seed, static_cast<std::uint64_t>(j));
          float x = scale * static_cast<float>(random_normal(seed + 1000, static_cast<std::uint64_t>(j))) *
                    static_cast<float>(1 << (bits - 2));
          if (near_middles && draw % 8 == 0) {
            x = scale * (std::floor(x / scale) + 0.5f);
            for (std::uint64_t k = 0; k < draw / 8 % 4; ++k) x = std::nextafter(x, draw / 32 % 2 == 0 ? infinity : -infinity);
          }
          row.push_back(x);
        }
        int const lowest = -(1 << (bits - 1)), highest = -lowest - 1;
        std::vector<signed char> codes(cols);
        slim::detail::rounding_kernels_of(level).round_row(row.data(), cols, {&scale, nullptr, cols, lowest, highest},
                                                           codes.data());
        for (std::size_t k = 0; k < row.size(); ++k) {
          INFO("level " << static_cast<int>(level) << ", " << bits << " bits, seed " << seed << ", " << row[k] << " / "
                        << scale);
          REQUIRE(int{codes[k]} == int{slim::detail::encode(row[k], scale, 0, lowest, highest)});
        }
      }
}

TEST_CASE("weights fall into the nearest bin, at every level the same") {
  for (float const largest : {2.0f, 1e-44f, 1e-40f, 3e-20f, 3e38f, 0.3f})
    for (index_t const bins : {1, 7, 4096, 20000, 1 << 20}) {
      INFO("largest " << largest << ", " << bins << " bins");
      std::vector<float> row = {largest,      -largest, 0.0f,      -0.0f,
                                not_a_number, infinity, -infinity, std::nextafter(largest, infinity)};
      for (std::uint64_t k = 0; k < 300; ++k)
        row.push_back(static_cast<float>((2 * random_uniform(5, k) - 1) * static_cast<double>(largest)));
      auto const cols = static_cast<index_t>(row.size());
      auto const grid = slim::detail::bins_up_to(largest, bins);
      std::vector<int> first(row.size()), numbers(row.size());
      slim::detail::rounding_kernels_of(simd_level::scalar).bin_numbers(row.data(), cols, grid, first.data());
      for (simd_level const level : simd_levels()) {
        slim::detail::rounding_kernels_of(level).bin_numbers(row.data(), cols, grid, numbers.data());
        CHECK(numbers == first);
        std::vector<std::uint16_t> counts(static_cast<std::size_t>(2 * bins + 2)), expected = counts;
        slim::detail::rounding_kernels_of(level).count_bins(row.data(), cols, grid, counts.data());
        for (int const number : first) ++expected[static_cast<std::size_t>(number)];
        CHECK(counts == expected);
      }
      CHECK(first[0] == 2 * bins);
      CHECK(first[1] == 0);
      CHECK((first[2] == bins && first[3] == bins));
      for (std::size_t k = 4; k < 8; ++k) CHECK(first[k] == 2 * bins + 1);
      for (std::size_t k = 8; k < row.size(); ++k) {
        double const place = static_cast<double>(row[k]) / static_cast<double>(largest) * static_cast<double>(bins);
        CHECK(std::abs(static_cast<double>(first[k] - bins) - place) <= 0.5 + 4e-7 * static_cast<double>(bins));
      }
    }
}

TEST_CASE("bf16 numbers are counted at their place among the reals, NaN and what is too large apart, at every level") {
  std::vector<float> row;
  for (std::uint32_t h = 0; h < 65536; ++h) row.push_back(static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(h))));
  float const largest = row[0x7f00];
  std::vector<int> numbers(row.size());
  for (simd_level const level : simd_levels()) {
    slim::detail::rounding_kernels_of(level).bf16_numbers(row.data(), 65536, largest, numbers.data());
    index_t wrong = 0;
    for (std::uint32_t h = 0; h < 65536; ++h)
      wrong += numbers[h] != (std::abs(row[h]) <= largest ? slim::detail::ordered_bf16(h) : 65536);
    CHECK(wrong == 0);
    std::vector<std::uint16_t> counts(65537), expected = counts;
    slim::detail::rounding_kernels_of(level).count_bf16(row.data(), 65536, largest, counts.data());
    for (int const number : numbers) ++expected[static_cast<std::size_t>(number)];
    CHECK(counts == expected);
    for (std::uint32_t h = 0; h < 65536; ++h)
      wrong += std::abs(row[h]) <= largest && slim::detail::bf16_at(numbers[h]) != static_cast<double>(row[h]);
    CHECK(wrong == 0);
  }
}

TEST_CASE("absmax is its definition, weight by weight, for any block, at every level") {
  scale_block const blocks[] = {per_tensor,    per_channel,    per_group(1),        per_group(5),
                                per_group(16), per_group(128), per_column_group(4), scale_block{3, 7}};
  for (auto const& [rows, cols] :
       std::vector<std::pair<index_t, index_t>>{{0, 3}, {3, 0}, {1, 1}, {5, 37}, {9, 300}, {2, 2100}})
    for (scale_block const block : blocks)
      for (bool const symmetric : {true, false}) {
        matrix<float> const w = mapped(hard_rows(rows, cols, 11), [](float x) { return std::isinf(x) ? 2.0f : x; });
        absmax_config const how{.bits = 4, .block = block, .symmetric = symmetric, .scale_format = number_format::fp16};
        integer_codes const codes = absmax_quantizer(how).quantize(w.view(), calibration(cols), at(simd_level::scalar));
        INFO(rows << " x " << cols << ", " << slim::describe(block) << (symmetric ? "" : ", with zero point"));
        for (simd_level const level : simd_levels())
          CHECK(same_bits(absmax_quantizer(how).quantize(w.view(), calibration(cols), at(level)), codes));
        matrix<float> low(codes.scales.rows(), codes.scales.cols()), high = low;
        index_t const tall = block.rows_of(rows), wide = block.cols_of(cols);
        for (index_t i = 0; i < rows; ++i)
          for (index_t j = 0; j < cols; ++j) {
            float &l = low(i / tall, j / wide), &h = high(i / tall, j / wide);
            if (w(i, j) < l) l = w(i, j);
            if (w(i, j) > h) h = w(i, j);
          }
        index_t wrong = 0;
        for (index_t i = 0; i < rows; ++i)
          for (index_t j = 0; j < cols; ++j) {
            float const l = low(i / tall, j / wide), h = high(i / tall, j / wide);
            float const scale =
                slim::detail::stored_scale(number_format::fp16, symmetric ? std::max(-l, h) / 7.0f : h / 15.0f - l / 15.0f);
            int const zero = symmetric || !(scale > 0) ? 0 : slim::detail::encode(-l, scale, -8, -8, 7);
            wrong += codes.scale_at(i, j) != scale || codes.zero_at(i, j) != zero ||
                     codes.codes(i, j) != slim::detail::encode(w(i, j), scale, zero, -8, 7);
          }
        CHECK(wrong == 0);
      }
}

TEST_CASE("channel factors are multiplied in before weights are encoded, at every level") {
  matrix<float> const w = normal_matrix(5, 77, 21);
  integer_codes codes(5, 77, 4, per_group(16), number_format::fp32);
  for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] = 0.2f;
  for (int j = 0; j < 77; ++j) codes.channel_factors.push_back(j % 3 == 0 ? 2.0f : 1.0f);
  for (simd_level const level : simd_levels()) {
    codes.encode(w.view(), at(level));
    for (index_t i = 0; i < 5; ++i)
      for (index_t j = 0; j < 77; ++j)
        REQUIRE(codes.codes(i, j) == slim::detail::encode(w(i, j) * codes.factor_at(j), 0.2f, 0, -8, 7));
  }
}

TEST_CASE("the largest magnitude is found wherever it is, NaN aside, at every level") {
  for (simd_level const level : simd_levels())
    for (auto const& [rows, cols] : std::vector<std::pair<index_t, index_t>>{{0, 5}, {5, 0}, {1, 1}, {200, 3}, {3, 130}}) {
      CHECK(same_bits(largest_magnitude(matrix<float>(rows, cols).view(), at(level)), 0.0f));
      for (index_t k = 0; k < rows * cols; ++k) {
        matrix<float> w = normal_matrix(rows, cols, 31, 0.1f);
        w.data()[(k + 1) % w.size()] = not_a_number;
        w.data()[k] = k % 2 ? -7.5f : 7.5f;
        REQUIRE(largest_magnitude(w.view(), at(level)) == 7.5f);
      }
    }
}

TEST_CASE("a histogram keeps 0 and the largest weight as they are, counts every number once, and is the same everywhere") {
  matrix<float> w = mapped(normal_matrix(67, 130, 41), [](float x) { return std::abs(x) < 0.6f ? 0.0f : x; });
  w(3, 5) = w(60, 129) = not_a_number;
  float const largest = largest_magnitude(w.view());
  std::vector<float> weights;
  for (index_t j = 0; j < 130; ++j) weights.push_back(static_cast<float>(j % 7) * 0.3f);
  index_t zeros = 0;
  for (index_t k = 0; k < w.size(); ++k) zeros += w.data()[k] == 0.0f;
  prefix_moments const counts = histogram_moments(w.view(), largest, 500, {});
  CHECK(counts.between(0, counts.size()).weight == static_cast<double>(w.size() - 2));
  CHECK(std::max(-counts.value(0), counts.value(counts.size() - 1)) == static_cast<double>(largest));
  index_t const zero = counts.lower_bound(0.0);
  CHECK(counts.value(zero) == 0.0);
  CHECK(counts.between(zero, zero + 1).weight == static_cast<double>(zeros));
  prefix_moments const heavy = histogram_moments(w.view(), largest, 500, weights);
  double total = 0;
  for (index_t i = 0; i < 67; ++i)
    for (index_t j = 0; j < 130; ++j)
      if (w(i, j) == w(i, j)) total += static_cast<double>(weights[static_cast<std::size_t>(j)]);
  CHECK(heavy.between(0, heavy.size()).weight == Approx(total).epsilon(1e-12));

  auto const same = [](prefix_moments const& a, prefix_moments const& b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end() + 1, b.begin(), [](auto const& p, auto const& q) {
             return p.value == q.value && p.before.weight == q.before.weight && p.before.first == q.before.first &&
                    p.before.second == q.before.second;
           });
  };
  thread_team_executor const team;
  backwards_executor const backwards;
  for (simd_level const level : simd_levels())
    for (context const& ctx : {at(level), on(team, at(level)), on(backwards, at(level))}) {
      CHECK(same(histogram_moments(w.view(), largest, 500, {}, ctx), counts));
      CHECK(same(histogram_moments(w.view(), largest, 500, weights, ctx), heavy));
    }
}

TEST_CASE("a histogram counts more weights of one value than 16 bits hold, with few bins and with many") {
  for (float const largest : {1.0f, 1.0f + 0x1p-20f}) // all are bf16 numbers, or not
    for (index_t const bins : {1, 500, 60000, 70000, 300000}) {
      matrix<float> w(1, 200003);
      w(0, 77) = largest;
      prefix_moments const counts = histogram_moments(w.view(), largest, bins, {});
      INFO("largest " << largest << ", " << bins << " bins");
      index_t const zero = counts.lower_bound(0.0);
      double at_zero = 0;
      for (index_t b = zero; b < counts.size() && counts.value(b) == 0.0; ++b) at_zero += counts.between(b, b + 1).weight;
      CHECK(at_zero == 200002.0);
      CHECK(counts.between(0, counts.size()).weight == 200003.0);
    }
}
