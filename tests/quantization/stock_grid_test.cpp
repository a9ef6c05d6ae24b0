// Grids of ggml's block types: the laws, and searches against trying everything in double.
#include "slim/quantization/grids/stock_grid.hpp"

#include "slim/interop/gguf_grids.hpp"
#include "slim/io/gguf/blocks.hpp"
#include "slim/io/gguf/encode_blocks.hpp"
#include "slim/joint/error_feedback.hpp"
#include "slim/quantization/grid_quantizer.hpp"
#include "slim/quantization/grids/codebook_grid.hpp"
#include "slim/testing/grid_laws.hpp"
#include "slim/testing/joint_laws.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

constexpr tensor_type even_types[] = {tensor_type::q4_0, tensor_type::q4_1, tensor_type::q5_0, tensor_type::q5_1,
                                      tensor_type::q8_0, tensor_type::q2_k, tensor_type::q3_k, tensor_type::q4_k,
                                      tensor_type::q5_k, tensor_type::q6_k};

/// Weights of columns, uneven.
std::vector<float> column_weights(index_t n) {
  std::vector<float> weights;
  for (index_t j = 0; j < n; ++j)
    weights.push_back(static_cast<float>(std::exp(1.5 * random_normal(3, static_cast<std::uint64_t>(j)))));
  return weights;
}

/// Weighted squared error of row i, columns first .. last - 1, each at the nearest of scale * q + offset, q from low to high.
double error_of(matrix<float> const& w, std::span<float const> weights, index_t i, index_t first, index_t last, double scale,
                double offset, int low, int high) {
  double sum = 0;
  for (index_t j = first; j < last; ++j) {
    double const x = static_cast<double>(w(i, j)) - offset;
    double const q =
        scale == 0.0 ? 0.0 : std::clamp(std::nearbyint(x / scale), static_cast<double>(low), static_cast<double>(high));
    sum += static_cast<double>(weights[static_cast<std::size_t>(j)]) * (x - q * scale) * (x - q * scale);
  }
  return sum;
}

/// Activations whose channels depend on their neighbours.
matrix<float> correlated_hessian(index_t n, std::uint64_t seed) {
  matrix<float> x = normal_matrix(3 * n + 5, n, seed);
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t j = 1; j < n; ++j) x(t, j) += 0.8f * x(t, j - 1);
  return hessian(observed(x, {.gram = true}), 0.01);
}

} // namespace

TEST_CASE("the grids of ggml's types keep their laws") {
  for (tensor_type const type : even_types) {
    INFO(name_of(type));
    CHECK(describe(check_grid(*stock_grid_of(type))) == "");
  }
  CHECK(describe(check_grid(stock_grid{.bits = 3, .block = per_channel, .scale_format = number_format::bf16})) == "");
  for (tensor_type const type : {tensor_type::iq4_nl, tensor_type::iq4_xs})
    CHECK(describe(check_grid(*codebook_grid_of(type))) == "");
  CHECK(describe(check_sweepable(quantized_set<stock_grid, dense_pattern>(*stock_grid_of(tensor_type::q4_0)))) == "");
  CHECK(describe(check_sweepable(quantized_set<stock_grid, dense_pattern>(*stock_grid_of(tensor_type::q4_k)))) == "");
  codebook_grid exact =
      *codebook_grid_of(tensor_type::iq4_nl); // no level is 0, so that fp16 scales cannot come near the smallest weights
  exact.scale_format = number_format::fp32;
  CHECK(describe(check_sweepable(quantized_set<codebook_grid, dense_pattern>(exact))) == "");
}

TEST_CASE("a scale of either sign on 8 weights is within a hundredth of the best of all, and the sign is chosen") {
  int const bits = GENERATE(2, 3, 4);
  index_t const rows = 48;
  matrix<float> const w = normal_matrix(rows, 8, 41);
  auto const weights = column_weights(8);
  stock_grid const grid{.bits = bits, .block = per_group(8), .scale_format = number_format::fp32};
  integer_codes codes = grid.empty(rows, 8);
  grid.fit_under(codes, w.view(), weights);
  int const low = codes.lowest(), high = codes.highest();
  double found = 0, best = 0, best_positive = 0;
  index_t negative = 0;
  for (index_t i = 0; i < rows; ++i) {
    int const zero = codes.zeros(i, 0);
    negative += zero == -1;
    found += error_of(w, weights, i, 0, 8, static_cast<double>(codes.scales(i, 0)), 0, low - zero, high - zero);
    double least = 1e30, least_positive = 1e30;
    for (int k = 1; k <= 6000; ++k) { // every scale up to twice the one that clips nothing
      double const scale = 3.0 * 2 / -low * k / 6000;
      double const plus = error_of(w, weights, i, 0, 8, scale, 0, low, high);
      least_positive = std::min(least_positive, plus);
      least = std::min({least, plus, error_of(w, weights, i, 0, 8, scale, 0, -high, -low)});
    }
    best += least;
    best_positive += least_positive;
  }
  CHECK(found <= 1.01 * best);
  CHECK(found < best_positive);
  CHECK(negative > rows / 4);
  CHECK(negative < 3 * rows / 4);
  CHECK(codes.stored_bits() == rows * (8 * bits + 32));
}

TEST_CASE("a scale and a minimum on 8 weights are within a few hundredths of the best of all") {
  bool const positive = GENERATE(false, true);
  index_t const rows = 24;
  matrix<float> w = normal_matrix(rows, 8, 43);
  for (index_t k = 0; k < w.size(); ++k) w.data()[k] += 0.7f;
  auto const weights = column_weights(8);
  stock_grid const grid{
      .bits = 2, .block = per_group(8), .minima = true, .positive_minima = positive, .scale_format = number_format::fp32};
  integer_codes codes = grid.empty(rows, 8);
  grid.fit_under(codes, w.view(), weights);
  double found = 0, best = 0;
  for (index_t i = 0; i < rows; ++i) {
    double const offset = static_cast<double>(codes.offsets(i, 0));
    CHECK((positive || offset <= 0));
    found += error_of(w, weights, i, 0, 8, static_cast<double>(codes.scales(i, 0)), offset, 0, 3);
    double least = 1e30;
    for (int a = 0; a <= 120; ++a)
      for (int b = 0; b <= 160; ++b)
        if (double const minimum = -3 + 6.0 * b / 160; positive || minimum <= 0)
          least = std::min(least, error_of(w, weights, i, 0, 8, 2.0 * a / 120, minimum, 0, 3));
    best += least;
  }
  CHECK(found <= 1.05 * best);
}

TEST_CASE("integers of a super-block of 8 weights are the best of all for its steps, by trying all of them") {
  bool const minima = GENERATE(false, true);
  index_t const rows = 40;
  matrix<float> const w = normal_matrix(rows, 8, 45);
  auto const weights = column_weights(8);
  stock_grid const grid{.bits = 2, .block = per_group(4), .minima = minima, .scale_bits = 2, .super_groups = 2};
  integer_codes codes = grid.empty(rows, 8);
  grid.fit_under(codes, w.view(), weights);
  double found = 0, best = 0;
  for (index_t i = 0; i < rows; ++i)
    for (index_t g = 0; g < 2; ++g) {
      double const step = static_cast<double>(codes.scales.steps()(i, 0));
      double const deep = minima ? static_cast<double>(codes.offsets.steps()(i, 0)) : 0.0;
      int const zero = codes.zero_at(i, 4 * g), low = codes.lowest() - zero, high = codes.highest() - zero;
      found += error_of(w, weights, i, 4 * g, 4 * g + 4, static_cast<double>(codes.scales(i, g)),
                        static_cast<double>(codes.offset_at(i, 4 * g)), low, high);
      double least = 1e30;
      for (int s = 0; s < 4; ++s)
        for (int m = 0; m < (minima ? 4 : 1); ++m)
          least = std::min(least, error_of(w, weights, i, 4 * g, 4 * g + 4, step * s, deep * m, low, high));
      best += least;
    }
  CHECK(found <= 1.02 * best);
  CHECK(found >= best * (1 - 1e-5));
}

TEST_CASE("signed integers of a super-block of a table are the best of all for its steps, by trying all of them") {
  index_t const rows = 40;
  matrix<float> const w = normal_matrix(rows, 8, 46);
  auto const weights = column_weights(8);
  codebook_grid const grid{
      .levels = {-3, -1, 0, 4}, .block = per_group(4), .signed_scales = true, .scale_bits = 3, .super_groups = 2};
  codebook_codes codes = grid.empty(rows, 8);
  grid.fit_under(codes, w.view(), weights);
  CHECK(codes.scales.stored().centered);
  double found = 0, best = 0, of_one_sign = 0;
  for (index_t i = 0; i < rows; ++i)
    for (index_t g = 0; g < 2; ++g) {
      double const step = static_cast<double>(codes.scales.steps()(i, 0));
      auto const error_at = [&](double scale) {
        double sum = 0;
        for (index_t j = 4 * g; j < 4 * g + 4; ++j) {
          double nearest = 1e30;
          for (float const level : grid.levels)
            nearest = std::min(nearest, std::pow(static_cast<double>(w(i, j)) - scale * static_cast<double>(level), 2.0));
          sum += static_cast<double>(weights[static_cast<std::size_t>(j)]) * nearest;
        }
        return sum;
      };
      CHECK(codes.scales(i, g) == codes.scales.steps()(i, 0) * static_cast<float>(codes.scales.codes()(i, g) - 4));
      found += error_at(static_cast<double>(codes.scales(i, g)));
      double least = 1e30, least_of_one_sign = 1e30;
      for (int s = -4; s < 4; ++s) {
        least = std::min(least, error_at(step * s));
        if (step * s >= 0) least_of_one_sign = std::min(least_of_one_sign, error_at(step * s));
      }
      best += least;
      of_one_sign += least_of_one_sign;
    }
  CHECK(found <= 1.02 * best);
  CHECK(found >= best * (1 - 1e-5));
  CHECK(found < 0.95 * of_one_sign);
  CHECK_THROWS_AS((codebook_grid{.scale_bits = 3, .super_groups = 2}.empty(1, 128)), config_error);
  CHECK_THROWS_AS(scale_table(1, 1, {.bits = 3, .shifted = true, .centered = true}), config_error);
}

TEST_CASE(
    "refit leaves no integer of a second level that could move alone, by trying all of them, and never raises the error") {
  auto const type = GENERATE(tensor_type::q3_k, tensor_type::q4_k);
  stock_grid const grid = *stock_grid_of(type);
  index_t const rows = 3, n = 256, wide = grid.block.cols;
  matrix<float> const v = normal_matrix(rows, n, 51), h = correlated_hessian(n, 52);
  sparse_codes<none, integer_codes> p{{}, grid.empty(rows, n)};
  grid.fit(p.codes, v.view());
  p.codes.encode(v.view());
  // One group alone: with the others fixed its integers must come to their best.
  auto const energy = [&](index_t i) {
    double sum = 0;
    for (index_t a = 0; a < n; ++a)
      for (index_t b = 0; b < n; ++b)
        sum += static_cast<double>(v(i, a) - p.codes.value(i, a)) * static_cast<double>(h(a, b)) *
               static_cast<double>(v(i, b) - p.codes.value(i, b));
    return sum;
  };
  double before = 0, after = 0;
  for (index_t i = 0; i < rows; ++i) before += energy(i);
  for (int round = 0; round < 6; ++round) {
    matrix<float> gradient = error_gradient(v.view(), p, h.view());
    grid.refit(p.codes, nullptr, gradient.view(), h.view());
  }
  for (index_t i = 0; i < rows; ++i) {
    double const own = energy(i);
    after += own;
    for (index_t g = 0; g < n / wide; g += 3) {
      int const code = p.codes.scales.codes()(i, g);
      for (int const other : {code - 1, code + 1}) {
        if (other < 0 || other >= 1 << grid.scale_bits) continue;
        p.codes.scales.set_code(i, g, other);
        CHECK(energy(i) >= own * (1 - 1e-4));
      }
      p.codes.scales.set_code(i, g, code);
    }
  }
  CHECK(after < 0.999 * before);
}

TEST_CASE("what a sweep leaves on the grid of a type is what ggml decodes, and costs the bits of its blocks") {
  index_t const rows = 5, n = 512;
  matrix<float> const w = normal_matrix(rows, n, 61, 0.05f), x = normal_matrix(700, n, 62);
  calibration const calib = observed(x, {.gram = true});
  auto const judge = [&](tensor_type type, auto const& grid) {
    INFO(name_of(type));
    using set = quantized_set<std::remove_cvref_t<decltype(grid)>, dense_pattern>;
    auto const made =
        error_feedback(set(grid), {.damping = 0.1, .act_order = true, .descents = 1}).compress(w.view(), calib).weight;
    auto const bytes = encode_blocks(type, made.codes);
    REQUIRE(bytes.why() == "");
    tensor_info const tensor{"t", type, std::string(name_of(type)), {rows, n}, *bytes};
    matrix<float> decoded(rows, n);
    REQUIRE(dequantize_rows_into(tensor, 0, decoded.view()).why().empty());
    matrix<float> const values = made.values();
    CHECK(std::equal(decoded.data(), decoded.data() + decoded.size(), values.data())); // both zeros are one
    double const book = codebook_grid_of(type) ? 16 * 16 : 0;                          // which the type need not store
    CHECK(made.codes.stored_bits() - book == 8 * static_cast<double>(bytes->size()));
  };
  for (tensor_type const type : even_types) judge(type, *stock_grid_of(type));
  for (tensor_type const type : {tensor_type::iq4_nl, tensor_type::iq4_xs}) judge(type, *codebook_grid_of(type));
}

TEST_CASE("rounding to nearest with searched scales weighs columns by their inputs") {
  index_t const n = 64;
  matrix<float> const w = normal_matrix(30, n, 71);
  matrix<float> x = normal_matrix(200, n, 72);
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t j = 0; j < n; j += 2) x(t, j) *= 20.0f;
  calibration const calib = observed(x, {});
  auto const error = [&](integer_codes const& codes) {
    double sum = 0;
    for (index_t i = 0; i < 30; ++i)
      for (index_t j = 0; j < n; ++j) {
        double const rest = static_cast<double>(w(i, j) - codes.value(i, j));
        sum += rest * rest * calib.mean_square()[static_cast<std::size_t>(j)];
      }
    return sum;
  };
  stock_grid const grid{.bits = 3, .block = per_group(16)};
  uniform_grid const zero_points{.bits = 3, .block = per_group(16), .symmetric = false, .rule = scale_rule::weighted_error};
  calibration const unseen(n);
  CHECK(error(grid_quantizer(grid).quantize(w.view(), calib)) < 0.9 * error(grid_quantizer(grid).quantize(w.view(), unseen)));
  CHECK(error(grid_quantizer(zero_points).quantize(w.view(), calib)) <
        0.9 * error(grid_quantizer(zero_points).quantize(w.view(), unseen)));
}

TEST_CASE("a stock grid refuses what no type has, and codes of another grid") {
  CHECK_THROWS_AS((stock_grid{.bits = 1}.empty(1, 32)), config_error);
  CHECK_THROWS_AS((stock_grid{.block = per_tensor}.empty(1, 32)), config_error);
  CHECK_THROWS_AS((stock_grid{.scale_bits = 6}.empty(1, 32)), config_error);
  CHECK_THROWS_AS((stock_grid{.positive_minima = true}.empty(1, 32)), config_error);
  stock_grid const grid;
  integer_codes codes = grid.empty(2, 64);
  codes.signed_scales = false;
  CHECK_THROWS_AS(grid.fit(codes, matrix<float>(2, 64).view()), config_error);
  codes = grid.empty(2, 64);
  codes.zeros(1, 1) = 1;
  CHECK_THROWS_AS(grid.fit(codes, matrix<float>(2, 64).view()), config_error);
  codes.zeros(1, 1) = 0;
  CHECK_THROWS_AS(grid.fit_under(codes, matrix<float>(2, 64).view(), std::vector<float>(3)), shape_error);
  CHECK_THROWS_AS(grid.fit(codes, matrix<float>(2, 32).view()), shape_error);
}

TEST_CASE("scales for all codes are GPTQ's: 2 max|w| / (2^b - 1), and the quantizer and the grid agree") {
  matrix<float> const w = normal_matrix(9, 70, 81);
  auto const block = GENERATE(per_group(32), per_channel, per_tensor);
  uniform_grid const grid{.bits = 4, .block = block, .rule = scale_rule::full_range, .scale_format = number_format::fp32};
  integer_codes codes = grid.empty(9, 70);
  grid.fit(codes, w.view());
  auto const rounded = absmax_quantizer({.bits = 4, .block = block, .full_range = true}).quantize(w.view(), calibration(70));
  index_t const wide = block.cols_of(70), tall = block.rows_of(9);
  for (index_t b = 0; b < codes.scales.rows(); ++b)
    for (index_t g = 0; g < codes.scales.cols(); ++g) {
      float largest = 0;
      for (index_t i = b * tall; i < std::min<index_t>(9, (b + 1) * tall); ++i)
        for (index_t j = g * wide; j < std::min<index_t>(70, (g + 1) * wide); ++j)
          largest = std::max(largest, std::abs(w(i, j)));
      CHECK(codes.scales(b, g) == Approx(2 * largest / 15).epsilon(1e-6));
      CHECK(rounded.scales(b, g) == Approx(2 * largest / 15).epsilon(1e-6));
    }
}
