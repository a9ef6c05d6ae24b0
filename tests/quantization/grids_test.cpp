// Grids and their codes: the laws, and brute force for every rule of storage.
#include "slim/quantization/grids/codebook_grid.hpp"
#include "slim/quantization/grids/super_block_grid.hpp"

#include "slim/joint/error_feedback.hpp"
#include "slim/quantization/codes/any_codes.hpp"
#include "slim/quantization/codes/with_outliers.hpp"
#include "slim/testing/grid_laws.hpp"
#include "slim/testing/joint_laws.hpp"

#include <Eigen/LU>

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

using square = Eigen::MatrixXd;

std::vector<float> even_levels(int count) {
  std::vector<float> levels;
  for (int k = 0; k < count; ++k)
    levels.push_back(-1.0f + 2.0f * static_cast<float>(k * k) / static_cast<float>(count * count));
  return levels;
}

std::vector<super_block_grid> super_block_grids() {
  super_block_grid tall = k_quant_grid(4), sixteen{.bits = 8, .group = 5}, numbers = k_quant_grid(3);
  numbers.scales.bits = numbers.offsets.bits = 0;
  tall.scales.block = tall.offsets.block = {.rows = 16, .cols = 3};
  sixteen.scales =
      sixteen.offsets = {.format = number_format::fp32, .bits = 8, .block = {.rows = 0, .cols = 0}, .shifted = true};
  return {k_quant_grid(4), k_quant_grid(5), k_quant_grid(2), spqr_grid(3), spqr_grid(1), tall, sixteen, spqr_tiles(3), numbers};
}

std::vector<codebook_grid> codebook_grids() {
  return {codebook_grid{},
          {.levels = {-1.0f, 0.0f, 0.5f, 1.0f}, .block = per_channel, .rule = scale_rule::least_error},
          {.levels = {-1.0f, 1.0f}, .block = per_group(7), .scale_format = number_format::bf16},
          {.levels = even_levels(256), .block = per_group(16), .scale_format = number_format::fp32}};
}

/// Activations whose channels depend on their neighbours.
matrix<float> correlated_hessian(index_t n, std::uint64_t seed, double damping = 0.01) {
  matrix<float> x = normal_matrix(3 * n + 5, n, seed);
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t j = 1; j < n; ++j) x(t, j) += 0.8f * x(t, j - 1);
  return hessian(observed(x, {.gram = true}), damping);
}

template <quantized_matrix C>
matrix<float> values_of(C const& codes) {
  matrix<float> out(codes.rows(), codes.cols());
  codes.dequantize_into(out.view());
  return out;
}

} // namespace

TEST_CASE("uniform grids keep their laws") {
  CHECK(describe(check_grid(uniform_grid{})) == "");
  CHECK(describe(check_grid(uniform_grid{.bits = 2, .block = per_channel, .rule = scale_rule::absmax})) == "");
  CHECK(describe(check_grid(uniform_grid{.bits = 3, .block = per_group(16), .symmetric = false})) == "");
  CHECK(describe(check_grid(uniform_grid{.bits = 1, .block = per_group(7), .symmetric = false})) == "");
  CHECK(describe(check_grid(uniform_grid{.bits = 4, .block = {.rows = 4, .cols = 8}, .symmetric = false})) == "");
  CHECK(describe(check_grid(uniform_grid{.bits = 8, .block = per_group(32), .scale_format = number_format::bf16})) == "");
  CHECK(describe(check_grid(uniform_grid{.block = per_group(16), .symmetric = false, .scale_digits = 7})) == "");
}

TEST_CASE("scales of few significant bits are the nearest such numbers, and times a small zero point exact in fp16") {
  for (int digits = 1; digits <= 24; ++digits)
    for (std::uint64_t k = 0; k < 200; ++k) {
      auto const value = static_cast<float>(std::exp(4 * random_normal(5, k)) * (k % 2 == 0 ? 1 : -1));
      double const unit = std::ldexp(1.0, std::ilogb(value) + 1 - digits);
      CHECK(static_cast<double>(slim::detail::rounded_to_digits(value, digits)) ==
            std::nearbyint(static_cast<double>(value) / unit) * unit); // ties go to the even one in both
    }
  uniform_grid const grid{.block = per_group(16), .symmetric = false, .scale_format = number_format::bf16, .scale_digits = 7};
  matrix<float> const v = normal_matrix(40, 64, 6);
  integer_codes codes = grid.empty(40, 64);
  grid.fit(codes, v.view());
  for (index_t i = 0; i < 40; ++i)
    for (index_t g = 0; g < 4; ++g) {
      float const bias = codes.scales(i, g) * static_cast<float>(codes.zeros(i, g) - codes.lowest());
      CHECK(rounded_to(number_format::fp16, bias) == bias);
    }
  CHECK_THROWS_AS(uniform_grid{.scale_digits = 25}.empty(1, 1), config_error);
}

TEST_CASE("uniform grids with bits by group keep their laws") {
  bool const symmetric = GENERATE(true, false);
  for (named_matrix const& m : hard_matrices()) {
    if (m.values.empty()) continue;
    std::vector<std::uint8_t> bits;
    for (index_t g = 0; g * 8 < m.values.cols(); ++g)
      bits.push_back(static_cast<std::uint8_t>(symmetric ? 4 - g % 3 : 4 - g % 4));
    uniform_grid const grid{.bits = 4, .block = per_group(8), .symmetric = symmetric, .group_bits = bits};
    CHECK(describe(check_grid(grid, {m})) == "");
  }
}

TEST_CASE("super-block grids keep their laws") {
  for (super_block_grid const& grid : super_block_grids()) {
    INFO(grid.describe());
    CHECK(describe(check_grid(grid)) == "");
  }
}

TEST_CASE("grids of tables keep their laws") {
  for (codebook_grid const& grid : codebook_grids()) {
    INFO(grid.describe());
    CHECK(describe(check_grid(grid)) == "");
  }
}

TEST_CASE("sets of super-block and table grids keep their laws") {
  CHECK(describe(check_sweepable(quantized_set<super_block_grid, dense_pattern>(k_quant_grid(4)))) == "");
  CHECK(describe(check_sweepable(quantized_set<super_block_grid, nm<2, 4>>(k_quant_grid(3)))) == "");
  CHECK(describe(check_sweepable(quantized_set<super_block_grid, nm<2, 4>>(spqr_grid(3)))) == "");
  CHECK(describe(check_sweepable(quantized_set<super_block_grid, unstructured_pattern>(spqr_grid(2)))) == "");
  CHECK(describe(check_sweepable(quantized_set<codebook_grid, dense_pattern>())) == "");
  CHECK(describe(check_sweepable(quantized_set<codebook_grid, nm<2, 4>>({.block = per_group(16)}))) == "");
  CHECK(describe(check_sweepable(quantized_set<codebook_grid, unstructured_pattern>(
            {.levels = {-1.0f, 0.0f, 0.5f, 1.0f}, .block = per_channel, .rule = scale_rule::least_error}))) == "");
}

// ---------------------------------------------------------------------------------------------------------- scale_table

namespace {

/// All that a second level can say in the block of an entry.
std::vector<double> representable(scale_table const& t, index_t i, index_t j) {
  index_t const b = i / t.stored().block.rows_of(t.rows()), g = j / t.stored().block.cols_of(t.cols());
  std::vector<double> all;
  for (int code = 0; code < 1 << t.stored().bits; ++code)
    all.push_back(static_cast<double>(t.steps()(b, g)) * code +
                  (t.stored().shifted ? static_cast<double>(t.offsets()(b, g)) : 0.0));
  return all;
}

bool is_fp16(matrix<float> const& m) {
  return std::all_of(m.data(), m.data() + m.size(), [](float x) { return x == static_cast<float>(fp16(x)); });
}

} // namespace

TEST_CASE("a second level stores the nearest number that its step has, fp16 steps, ragged blocks included") {
  int const bits = GENERATE(1, 3, 6, 8);
  bool const shifted = GENERATE(false, true), negative = GENERATE(false, true);
  scale_block const block = GENERATE(scale_block{.rows = 16, .cols = 16}, scale_block{.rows = 1, .cols = 8},
                                     scale_block{.rows = 4, .cols = 3}, per_tensor);
  scale_table t(21, 19, {.format = number_format::fp16, .bits = bits, .block = block, .shifted = shifted});
  matrix<float> wanted = normal_matrix(21, 19, 7, 0.01f);
  for (index_t k = 0; k < wanted.size(); ++k) {
    float const size = std::abs(wanted.data()[k]) + (k % 5 == 0 ? 0.0f : 1e-3f);
    t.data()[k] = wanted.data()[k] = k % 23 == 0 ? 0.0f : negative ? -size : size;
  }
  t.store(!negative);
  index_t const tall = block.rows_of(21), wide = block.cols_of(19);
  CHECK(t.steps().rows() == (21 + tall - 1) / tall);
  CHECK(t.steps().cols() == (19 + wide - 1) / wide);
  CHECK(is_fp16(t.steps()));
  CHECK(is_fp16(t.offsets()));
  CHECK(t.offsets().empty() == !shifted);
  for (index_t i = 0; i < 21; ++i)
    for (index_t j = 0; j < 19; ++j) {
      auto const all = representable(t, i, j);
      double const x = static_cast<double>(wanted(i, j)), stored = static_cast<double>(t(i, j));
      double least = 1e30, own = 1e30, step = std::abs(static_cast<double>(t.steps()(i / tall, j / wide)));
      for (double const v : all) {
        if (negative || x == 0.0 || v > 0.0) least = std::min(least, std::abs(x - v));
        own = std::min(own, std::abs(stored - v));
      }
      REQUIRE(own <= 1e-6 * std::abs(stored));
      REQUIRE(std::abs(x - stored) <= least + 1e-5 * step);
      if (x > 0.0) REQUIRE(stored > 0.0);
      REQUIRE(t.codes()(i, j) < 1 << bits);
    }
  // The outermost entries are reached to the rounding of the step (and the offset).
  float const* const last = std::max_element(wanted.data(), wanted.data() + wanted.size(),
                                             [](float a, float b) { return std::abs(a) < std::abs(b); });
  CHECK(t.data()[last - wanted.data()] == Approx(*last).epsilon(2e-3));
  scale_table again(21, 19, t.stored());
  again.set_second_level(t.codes(), t.steps(), t.offsets());
  CHECK(again == t);
  double const blocks = static_cast<double>(t.steps().size());
  CHECK(t.stored_bits() == 21 * 19 * bits + 16 * blocks * (shifted ? 2 : 1));
  t.set_step(0, 0, 2 * t.steps()(0, 0));
  CHECK(t(0, 0) == t.steps()(0, 0) * static_cast<float>(t.codes()(0, 0)) + (shifted ? t.offsets()(0, 0) : 0.0f));
}

TEST_CASE("a second level keeps awkward scales finite, positive ones positive") {
  bool const shifted = GENERATE(false, true);
  number_format const format = GENERATE(number_format::fp16, number_format::bf16, number_format::fp32);
  float const size = GENERATE(1e-45f, 1e-40f, 1e-30f, 1e-6f, 1.0f, 1e6f, 1e30f);
  scale_table t(5, 6, {.format = format, .bits = 3, .block = {.rows = 2, .cols = 4}, .shifted = shifted});
  for (index_t k = 0; k < t.size(); ++k) t.data()[k] = k % 4 == 1 ? 0.0f : size * static_cast<float>(1 + k);
  t.store(true);
  for (index_t k = 0; k < t.size(); ++k) {
    REQUIRE(std::isfinite(t.data()[k]));
    REQUIRE((t.data()[k] > 0.0f || k % 4 == 1));
  }
}

TEST_CASE("a part of a table is stored without touching other blocks") {
  scale_storage const stored{.format = number_format::fp16, .bits = 4, .block = {.rows = 2, .cols = 3}};
  scale_table whole(6, 8, stored), parts(6, 8, stored);
  matrix<float> const v = mapped(normal_matrix(6, 8, 3), [](float x) { return std::abs(x); });
  std::copy_n(v.data(), v.size(), whole.data());
  std::copy_n(v.data(), v.size(), parts.data());
  whole.store(true);
  for (index_t i = 0; i < 6; i += 2)
    for (index_t j = 0; j < 8; j += 3) {
      auto const before = parts;
      parts.store(i, i + 2, j, std::min<index_t>(8, j + 3), true);
      for (index_t a = 0; a < 6; ++a)
        for (index_t b = 0; b < 8; ++b)
          if (a / 2 * 2 != i || b / 3 * 3 != j) REQUIRE(parts(a, b) == before(a, b));
    }
  CHECK(parts == whole);
}

TEST_CASE("a table without a second level stores numbers of its format, which neither vanish nor overflow") {
  scale_table t(1, 5, {.format = number_format::fp16});
  float const given[] = {1e-12f, 0.1f, 1e9f, 0.0f, -1e9f};
  std::copy_n(given, 5, t.data());
  t.store(true);
  CHECK(t(0, 0) == 0x1p-24f);
  CHECK(t(0, 1) == static_cast<float>(fp16(0.1f)));
  CHECK(t(0, 2) == 65504.0f);
  CHECK(t(0, 3) == 0.0f);
  CHECK(t(0, 4) == -65504.0f);
  CHECK(t.stored_bits() == 80.0);
  scale_table const turned = t.transposed_table();
  CHECK(turned.rows() == 5);
  CHECK(turned(2, 0) == 65504.0f);
}

TEST_CASE("a scale table refuses what cannot be, and may be empty") {
  CHECK_THROWS_AS(scale_table(2, 2, {.bits = 9}), config_error);
  CHECK_THROWS_AS(scale_table(2, 2, {.bits = -1}), config_error);
  CHECK_THROWS_AS(scale_table(2, 2, {.bits = 4, .block = {.rows = -1}}), config_error);
  scale_table plain(2, 5), second(2, 5, {.bits = 2, .block = {.rows = 1, .cols = 4}, .shifted = true});
  matrix<std::uint8_t> codes(2, 5), narrow(2, 4), large(2, 5);
  matrix<float> const steps(2, 2), few(1, 2);
  large(1, 4) = 4;
  CHECK_THROWS_AS(plain.set_second_level(codes, steps, steps), config_error);
  CHECK_THROWS_AS(second.set_second_level(narrow, steps, steps), shape_error);
  CHECK_THROWS_AS(second.set_second_level(codes, few, steps), shape_error);
  CHECK_THROWS_AS(second.set_second_level(codes, steps, few), shape_error);
  CHECK_THROWS_AS(second.set_second_level(codes, steps, {}), shape_error);
  CHECK_THROWS_AS(second.set_second_level(large, steps, steps), config_error);
  CHECK_NOTHROW(second.set_second_level(codes, steps, steps));
  CHECK_THROWS_AS(second.transposed_table(), config_error);
  for (auto const& [rows, cols] : {std::pair<index_t, index_t>{0, 7}, {7, 0}, {0, 0}})
    for (scale_block const block : {per_tensor, scale_block{.rows = 16, .cols = 16}}) {
      scale_table none(rows, cols, {.bits = 3, .block = block});
      none.store(true);
      CHECK(none.stored_bits() == 0.0);
      CHECK(none.empty());
    }
}

// ------------------------------------------------------------------------------------------------------------ codebook_codes

namespace {

codebook_codes random_vectors(index_t rows, index_t cols, int bits, scale_block books_by, index_t dim) {
  codebook_codes codes(rows, cols, bits, books_by, dim);
  for (index_t k = 0; k < codes.codes.size(); ++k)
    codes.codes.data()[k] = static_cast<std::uint8_t>(random_bits(5, static_cast<std::uint64_t>(k)) % (1u << bits));
  codes.books = normal_matrix(codes.books.rows(), codes.books.cols(), 6);
  return codes;
}

} // namespace

TEST_CASE("codes of a book stand for the vectors of the book their block has, times its scale, over the factor") {
  index_t const dim = GENERATE(1, 2, 4), rows = 7, cols = 26; // 26: the last vector of 4 is ragged
  scale_block const books_by = GENERATE(scale_block(per_tensor), per_channel, per_group(8), scale_block{.rows = 3, .cols = 12});
  bool const scaled = GENERATE(false, true);
  codebook_codes codes = random_vectors(rows, cols, 3, books_by, dim);
  if (scaled) {
    codes.block = per_group(5);
    codes.scales = scale_table(7, 6, {.format = number_format::fp16});
    for (index_t k = 0; k < 42; ++k) codes.scales.data()[k] = 0.5f + static_cast<float>(k);
    for (index_t j = 0; j < cols; ++j) codes.channel_factors.push_back(j % 3 == 0 ? 2.0f : 1.0f);
  }
  matrix<float> const values = values_of(codes);
  index_t const tall = books_by.rows == 0 ? rows : books_by.rows, wide = books_by.cols == 0 ? cols : books_by.cols;
  index_t const across = (cols + wide - 1) / wide;
  REQUIRE(codes.books.rows() == (rows + tall - 1) / tall * across);
  REQUIRE(codes.books.cols() == 8 * dim);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      float const level = codes.books(i / tall * across + j / wide, codes.codes(i, j / dim) * dim + j % dim);
      float const factor = scaled && j % 3 == 0 ? 2.0f : 1.0f;
      REQUIRE(values(i, j) == (scaled ? codes.scales(i, j / 5) * level / factor : level));
    }
  mask kept(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = i % 4; j < cols; j += 5) kept.keep(i, j);
  index_t stored = 0;
  for (index_t i = 0; i < rows; ++i)
    for (index_t c = 0; c * dim < cols; ++c) {
      bool any = false;
      for (index_t j = c * dim; j < std::min(cols, (c + 1) * dim); ++j) any = any || kept.kept(i, j);
      stored += any;
    }
  double const side = static_cast<double>(codes.books.size()) * 16 + (scaled ? 42 * 16 + 9 * 48 : 0);
  CHECK(codes.stored_bits() == 3.0 * static_cast<double>(codes.codes.size()) + side);
  CHECK(codes.stored_bits(&kept) == 3.0 * static_cast<double>(stored) + side);
  if (dim > 1) CHECK_THROWS_AS(codes.encode(values.view()), config_error);
}

TEST_CASE("a book encodes to the nearest level, ties to the lower position") {
  scale_block const books_by = GENERATE(scale_block(per_tensor), per_channel, scale_block{.rows = 4, .cols = 16});
  codebook_codes codes = random_vectors(9, 31, 4, books_by, 1);
  codes.block = per_group(10);
  codes.scales = scale_table(9, 4);
  for (index_t k = 0; k < 36; ++k) codes.scales.data()[k] = 0.1f * static_cast<float>(k); // one is 0
  matrix<float> const w = normal_matrix(9, 31, 8, 2.0f);
  codes.encode(w.view());
  for (index_t i = 0; i < 9; ++i)
    for (index_t j = 0; j < 31; ++j) {
      double const x = static_cast<double>(w(i, j)), scale = static_cast<double>(codes.scale_at(i, j));
      double least = 1e30;
      for (index_t k = 0; k < 16; ++k)
        least = std::min(least, std::abs(x - scale * static_cast<double>(codes.book_at(i, j)[k])));
      REQUIRE(std::abs(x - static_cast<double>(codes.value(i, j))) <= least + 1e-6);
    }
  codebook_codes tied(1, 4, {-1.0f, 0.0f, 1.0f, 1.0f}, per_channel, {});
  tied.scales(0, 0) = 2.0f;
  matrix<float> half(1, 4);
  half(0, 0) = -1.0f; // between -2 and 0
  half(0, 1) = 1.0f;  // between 0 and 2
  half(0, 2) = 5.0f;  // two equal levels
  tied.encode(half.view());
  CHECK(tied.codes(0, 0) == 0);
  CHECK(tied.codes(0, 1) == 1);
  CHECK(tied.codes(0, 2) == 2);
  CHECK(tied.codes(0, 3) == 1);
}

TEST_CASE("codes of a book refuse parts that do not fit each other") {
  auto const breaks = [](auto const& change) {
    codebook_codes codes(6, 10, {-1.0f, 0.0f, 0.5f, 1.0f}, per_group(4), {});
    codes.check("test");
    change(codes);
    codes.check("test");
  };
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.bits = 0; }), config_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.bits = 9; }), config_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.bits = 3; }), shape_error); // the book is too short
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.dim = 0; }), config_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.dim = 2; }), shape_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.columns = 11; }), shape_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.book_block = per_channel; }), shape_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.book_block.rows = -1; }), config_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.books = {}; }), shape_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.block = per_group(3); }), shape_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.block.cols = -1; }), config_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.scales = scale_table(6, 4); }), shape_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.channel_factors = {1.0f}; }), shape_error);
  CHECK_THROWS_AS(breaks([](codebook_codes& c) { c.codes(5, 9) = 4; }), config_error);
  CHECK_THROWS_AS(codebook_codes(2, 8, 4, per_group(3), 2), config_error); // a vector in two books
  CHECK_THROWS_AS(codebook_codes(2, 8, 4, per_tensor, 0), config_error);
  CHECK_THROWS_AS(codebook_codes(2, 8, 9), config_error);
  CHECK_THROWS_AS(codebook_codes(2, 8, {0.0f, 1.0f, 2.0f}, per_tensor, {}), config_error);
  CHECK_THROWS_AS(codebook_codes(2, 8, {0.0f, 1.0f}, {.rows = -1}, {}), config_error);
  codebook_codes codes(2, 8, {0.0f, 1.0f}, per_tensor, {});
  matrix<float> other(2, 7);
  CHECK_THROWS_AS(codes.encode(other.view()), shape_error);
  CHECK_THROWS_AS(codes.dequantize_into(other.view()), shape_error);
}

TEST_CASE("a grid refuses levels, blocks and bits that cannot be") {
  CHECK_THROWS_AS((codebook_grid{.levels = {0.0f, 0.0f}}.empty(4, 4)), config_error);
  CHECK_THROWS_AS((codebook_grid{.levels = {1.0f, 0.0f}}.empty(4, 4)), config_error);
  CHECK_THROWS_AS((codebook_grid{.levels = {-1.0f, 0.0f, 1.0f}}.empty(4, 4)), config_error);
  CHECK_THROWS_AS((codebook_grid{.levels = {0.0f, std::numeric_limits<float>::infinity()}}.empty(4, 4)), config_error);
  CHECK_THROWS_AS((codebook_grid{.block = per_tensor}.empty(4, 4)), config_error);
  CHECK_THROWS_AS(k_quant_grid(9).empty(4, 4), config_error);
  CHECK_THROWS_AS(k_quant_grid(0).empty(4, 4), config_error);
  super_block_grid grid;
  grid.group = 0;
  CHECK_THROWS_AS(grid.empty(4, 4), config_error);
  grid = {};
  grid.offsets.block.cols = 4;
  CHECK_THROWS_AS(grid.empty(4, 4), config_error);
  grid.scales.bits = 0; // numbers: no blocks that could differ
  CHECK_NOTHROW(grid.empty(4, 4));
  grid.group_bits = {4, 5};
  CHECK_THROWS_AS(grid.empty(4, 64), config_error);
  CHECK_THROWS_AS((uniform_grid{.bits = 1, .block = per_group(4)}.empty(4, 8)), config_error);
  CHECK_THROWS_AS((uniform_grid{.bits = 4, .block = per_group(4), .group_bits = {4, 1}}.empty(4, 8)), config_error);
  CHECK_NOTHROW((uniform_grid{.bits = 4, .block = per_group(4), .symmetric = false, .group_bits = {4, 1}}.empty(4, 8)));
}

// ------------------------------------------------------------------------------------------------------------- integer_codes

namespace {

struct integer_case {
  scale_block block;
  bool zeros, offsets, by_group, factors;
};

/// Arbitrary scales, zero points or offsets, and codes in their bits.
integer_codes random_integers(index_t rows, index_t cols, integer_case const& c) {
  integer_codes codes(rows, cols, 4, c.block, number_format::fp16);
  std::uint64_t counter = 0;
  auto const next = [&](int count) { return static_cast<int>(random_bits(9, counter++) % static_cast<unsigned>(count)); };
  if (c.by_group)
    for (index_t g = 0; g < codes.scales.cols(); ++g) codes.group_bits.push_back(static_cast<std::uint8_t>(1 + g % 4));
  for (index_t k = 0; k < codes.scales.size(); ++k)
    codes.scales.data()[k] = static_cast<float>(fp16(0.01f * static_cast<float>(1 + next(50))));
  if (c.zeros) codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
  if (c.offsets) codes.offsets = scale_table(codes.scales.rows(), codes.scales.cols(), {.format = number_format::bf16});
  for (index_t b = 0; b < codes.scales.rows(); ++b)
    for (index_t g = 0; g < codes.scales.cols(); ++g) {
      if (c.zeros) codes.zeros(b, g) = static_cast<std::int8_t>(codes.lowest_of(g) + next(1 << codes.bits_of(g)));
      if (c.offsets) codes.offsets(b, g) = -0.125f * static_cast<float>(next(9));
    }
  if (c.factors)
    for (index_t j = 0; j < cols; ++j) codes.channel_factors.push_back(j % 4 == 1 ? 3.0f : 1.0f);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      index_t const g = j / codes.block.cols_of(cols);
      codes.codes(i, j) = static_cast<std::int8_t>(codes.lowest_of(g) + next(1 << codes.bits_of(g)));
    }
  return codes;
}

/// Every value that weight (i, j) may take.
std::vector<double> values_at(integer_codes const& codes, index_t i, index_t j) {
  index_t const b = codes.block.rows == 0 ? 0 : i / codes.block.rows, g = codes.block.cols == 0 ? 0 : j / codes.block.cols;
  int const bits = codes.group_bits.empty() ? codes.bits : codes.group_bits[static_cast<std::size_t>(g)];
  int const lowest = -(1 << (bits - 1));
  std::vector<double> all;
  for (int code = lowest; code < lowest + (1 << bits); ++code) {
    int const zero = !codes.offsets.empty() ? lowest : codes.zeros.empty() ? 0 : codes.zeros(b, g);
    double const offset = codes.offsets.empty() ? 0.0 : static_cast<double>(codes.offsets(b, g));
    all.push_back(
        (static_cast<double>(codes.scales(b, g)) * (code - zero) + offset) /
        (codes.channel_factors.empty() ? 1.0 : static_cast<double>(codes.channel_factors[static_cast<std::size_t>(j)])));
  }
  return all;
}

} // namespace

TEST_CASE("integer codes decode by definition, encode to the nearest value, and cost what they store") {
  scale_block const block = GENERATE(scale_block(per_tensor), per_channel, per_group(7), scale_block{.rows = 3, .cols = 8});
  auto const c = GENERATE_COPY(integer_case{block, false, false, false, false}, integer_case{block, true, false, false, true},
                               integer_case{block, false, true, false, false}, integer_case{block, false, true, true, true},
                               integer_case{block, true, false, true, false}, integer_case{block, false, false, true, false});
  index_t const rows = 8, cols = 25;
  integer_codes codes = random_integers(rows, cols, c);
  matrix<float> const values = values_of(codes);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      int const bits = codes.bits_of(block.cols == 0 ? 0 : j / block.cols);
      auto const all = values_at(codes, i, j);
      double const expected = all[static_cast<std::size_t>(codes.codes(i, j) + (1 << (bits - 1)))];
      REQUIRE(static_cast<double>(values(i, j)) == Approx(expected).epsilon(1e-6).margin(1e-7));
      REQUIRE(same_bits(values(i, j), codes.value(i, j)));
    }
  double stored = 0, half = 0;
  mask kept(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      kept.keep(i, j, (i * 3 + j) % 5 < 2);
      int const bits = codes.bits_of(block.cols == 0 ? 0 : j / block.cols);
      stored += bits;
      half += kept.kept(i, j) ? bits : 0;
    }
  double side = 16.0 * static_cast<double>(codes.scales.size() + codes.offsets.size()) + (c.factors ? 6 * 48 : 0);
  for (index_t g = 0; g < codes.scales.cols() && c.zeros; ++g)
    side += static_cast<double>(codes.zeros.rows()) * codes.bits_of(g);
  CHECK(codes.stored_bits() == stored + side);
  CHECK(codes.stored_bits(&kept) == half + side);

  integer_codes const before = codes;
  codes.encode(values.view());
  CHECK(same_bits(values_of(codes), values)); // a value is its own nearest
  matrix<float> const w = normal_matrix(rows, cols, 10, 0.7f);
  codes.encode(w.view());
  CHECK(codes.scales == before.scales);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      double least = 1e30;
      for (double const v : values_at(codes, i, j)) least = std::min(least, std::abs(v - static_cast<double>(w(i, j))));
      REQUIRE(std::abs(static_cast<double>(codes.value(i, j)) - static_cast<double>(w(i, j))) <= least + 1e-6);
    }
}

TEST_CASE("integer codes refuse parts that do not fit each other") {
  auto const breaks = [](auto const& change) {
    integer_codes codes(6, 10, 4, per_group(4), number_format::fp16);
    codes.check("test");
    change(codes);
    codes.check("test");
  };
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.bits = 0; }), config_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.bits = 9; }), config_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.block = per_group(3); }), shape_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.block.rows = -1; }), config_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.scales = scale_table(6, 2); }), shape_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.scales = {}; }), shape_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.zeros = matrix<std::int8_t>(5, 3); }), shape_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.offsets = scale_table(6, 4); }), shape_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.group_bits = {4, 4}; }), shape_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.group_bits = {4, 5, 4}; }), config_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.group_bits = {4, 0, 4}; }), config_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) { c.channel_factors = {1.0f}; }), shape_error);
  CHECK_THROWS_AS(breaks([](integer_codes& c) {
                    c.zeros = matrix<std::int8_t>(6, 3);
                    c.offsets = scale_table(6, 3);
                  }),
                  config_error);
  CHECK_NOTHROW(breaks([](integer_codes& c) {
    c.group_bits = {1, 4, 2};
    c.offsets = scale_table(6, 3);
  }));
  CHECK_THROWS_AS(integer_codes(2, 2, 0, per_tensor, number_format::fp16), config_error);
  CHECK_THROWS_AS(integer_codes(2, 2, 4, {.rows = 1, .cols = -2}, number_format::fp16), config_error);
}

TEST_CASE("the transpose of codes decodes to the transpose, and is refused where there is none") {
  scale_block const block = GENERATE(scale_block(per_tensor), per_channel, per_group(7), per_column_group(3));
  auto const c = GENERATE_COPY(integer_case{block, true, false, false, false}, integer_case{block, false, true, false, false});
  integer_codes codes = random_integers(8, 25, c);
  integer_codes const turned = transposed(codes);
  matrix<float> const values = values_of(codes), other = values_of(turned);
  REQUIRE(other.rows() == 25);
  for (index_t i = 0; i < 8; ++i)
    for (index_t j = 0; j < 25; ++j) REQUIRE(same_bits(values(i, j), other(j, i)));
  CHECK(same_bits(values_of(transposed(turned)), values));
  CHECK(turned.stored_bits() == codes.stored_bits());
  codes.group_bits.assign(static_cast<std::size_t>(codes.scales.cols()), 4);
  CHECK_THROWS_AS(transposed(codes), config_error);
  CHECK_THROWS_AS(transposed(random_integers(8, 25, {block, false, false, false, true})), config_error);
  CHECK_THROWS_AS(transposed(k_quant_grid(4).empty(8, 64)), config_error);
}

// -------------------------------------------------------------------------------------- plain_values, any_codes, sparse_codes

TEST_CASE("plain values are themselves, at the price of their format") {
  plain_values const plain{normal_matrix(5, 6, 1)};
  plain_values const wide{plain.values, number_format::fp32};
  CHECK(same_bits(values_of(plain), plain.values));
  mask kept(5, 6);
  kept.keep(1, 2);
  kept.keep(4, 5);
  CHECK(plain.stored_bits() == 30 * 16);
  CHECK(plain.stored_bits(&kept) == 32);
  CHECK(wide.stored_bits() == 30 * 32);
  CHECK(bits_per_weight(wide) == 32.0);
  CHECK(bits_per_weight(plain_values{}) == 0.0);
  matrix<float> other(6, 5);
  CHECK_THROWS_AS(plain.dequantize_into(other.view()), shape_error);
}

TEST_CASE("any codes are what they hold, shared by copies") {
  integer_codes const codes = random_integers(8, 25, {per_group(7), false, true, true, false});
  any_codes const any = codes, copy = any, plain = plain_values{normal_matrix(2, 3, 1)};
  mask kept(8, 25);
  kept.keep(3, 3);
  CHECK(copy.rows() == 8);
  CHECK(copy.cols() == 25);
  CHECK(copy.stored_bits() == codes.stored_bits());
  CHECK(copy.stored_bits(&kept) == codes.stored_bits(&kept));
  CHECK(same_bits(values_of(copy), values_of(codes)));
  REQUIRE(copy.get_if<integer_codes>() != nullptr);
  CHECK(*copy.get_if<integer_codes>() == codes);
  CHECK(copy.get_if<integer_codes>() == any.get_if<integer_codes>());
  CHECK(copy.get_if<plain_values>() == nullptr);
  CHECK(plain.get_if<plain_values>() != nullptr);
  matrix<float> other(2, 2);
  CHECK_THROWS_AS(plain.dequantize_into(other.view()), shape_error);
}

TEST_CASE("sparse codes are 0 where nothing is kept, and cost codes and mask") {
  integer_codes const codes = random_integers(8, 24, {per_group(8), false, true, false, false});
  mask kept(8, 24, {2, 4});
  for (index_t i = 0; i < 8; ++i)
    for (index_t j = 0; j < 24; ++j) kept.keep(i, j, (i + j) % 4 < 2);
  sparse_codes<mask, integer_codes> const masked{kept, codes};
  sparse_codes<none, integer_codes> const dense{{}, codes};
  sparse_codes<std::optional<mask>, integer_codes> const with{kept, codes}, without{{}, codes};
  matrix<float> const all = values_of(codes);
  matrix<float> some = all;
  for (index_t i = 0; i < 8; ++i)
    for (index_t j = 0; j < 24; ++j)
      if ((i + j) % 4 >= 2) some(i, j) = 0.0f;
  CHECK(same_bits(masked.values(), some));
  CHECK(same_bits(with.values(), some));
  CHECK(same_bits(dense.values(), all));
  CHECK(same_bits(without.values(), all));
  CHECK(dense.mask_or_null() == nullptr);
  CHECK(without.mask_or_null() == nullptr);
  CHECK(*masked.mask_or_null() == kept);
  CHECK(masked.stored_bits() == 96 * 4 + 8 * 3 * 32 + 96 * 2);
  CHECK(with.stored_bits() == masked.stored_bits());
  CHECK(dense.stored_bits() == 192 * 4 + 8 * 3 * 32);
  sparse_codes<mask, integer_codes> const wrong{mask(8, 23), codes};
  CHECK_THROWS_AS(wrong.values(), shape_error);
}

// ------------------------------------------------------------------------------------------------------------- with_outliers

TEST_CASE("codes with outliers are decoded + residual to its rounding, and cost rows, columns and numbers") {
  number_format const format = GENERATE(number_format::fp16, number_format::bf16, number_format::fp32);
  index_t const rows = 9, cols = 40;
  matrix<float> w = normal_matrix(rows, cols, 11, 0.02f);
  mask where(rows, cols);
  index_t count = 0;
  for (index_t k = 0; k < w.size(); k += 17) {
    w.data()[k] *= 30.0f;
    where.keep(k / cols, k % cols);
    ++count;
  }
  codebook_grid const grid;
  codebook_codes codes = grid.empty(rows, cols);
  grid.fit(codes, w.view());
  codes.encode(w.view());
  matrix<float> const decoded = values_of(codes);
  auto const kept = keep_outliers(codes, w.view(), where, format);
  kept.check("test");
  matrix<float> const values = values_of(kept);
  double const precision = format == number_format::fp16 ? 0x1p-11 : format == number_format::bf16 ? 0x1p-8 : 0x1p-23;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      double const rest = static_cast<double>(w(i, j)) - static_cast<double>(decoded(i, j));
      if (where.kept(i, j))
        REQUIRE(std::abs(static_cast<double>(values(i, j)) - static_cast<double>(w(i, j))) <=
                precision * std::abs(rest) + 0x1p-23 * std::abs(static_cast<double>(w(i, j))) + 0x1p-24);
      else
        REQUIRE(same_bits(values(i, j), decoded(i, j)));
    }
  mask some(rows, cols);
  some.keep(0, 1);
  double const residual = 32.0 * 10 + static_cast<double>(count) * (16 + bit_width(format));
  CHECK(kept.stored_bits() == codes.stored_bits() + residual);
  CHECK(kept.stored_bits(&some) == codes.stored_bits(&some) + residual);
  CHECK(kept.outliers.stored_bits(65537) == 32.0 * 10 + static_cast<double>(count) * (32 + bit_width(format)));
  auto const nothing = keep_outliers(codes, w.view(), mask(rows, cols), format);
  CHECK(same_bits(values_of(nothing), decoded));
  any_codes const any = kept;
  CHECK(same_bits(values_of(any), values));
}

TEST_CASE("an outlier beyond the largest number of its format stays finite") {
  matrix<float> w(1, 4);
  w(0, 1) = 1e9f;
  w(0, 2) = -1e9f;
  mask where(1, 4);
  where.keep(0, 1);
  where.keep(0, 2);
  auto const kept = keep_outliers(integer_codes(1, 4, 4, per_channel, number_format::fp16), w.view(), where);
  matrix<float> const values = values_of(kept);
  CHECK(values(0, 1) == 65504.0f);
  CHECK(values(0, 2) == -65504.0f);
}

TEST_CASE("codes with outliers refuse a residual that does not fit") {
  matrix<float> const w = normal_matrix(3, 8, 1);
  mask where(3, 8);
  where.keep(0, 7);
  where.keep(2, 1);
  where.keep(2, 2);
  auto const breaks = [&](auto const& change) {
    auto made = keep_outliers(integer_codes(3, 8, 4, per_channel, number_format::fp16), w.view(), where);
    made.check("test");
    change(made);
    (void)values_of(made);
  };
  using made = with_outliers<integer_codes>;
  CHECK_THROWS_AS(breaks([](made& m) { m.outliers.row_begin.pop_back(); }), shape_error);
  CHECK_THROWS_AS(breaks([](made& m) { m.outliers.row_begin.clear(); }), shape_error);
  CHECK_THROWS_AS(breaks([](made& m) { m.outliers.row_begin.back() = 2; }), shape_error);
  CHECK_THROWS_AS(breaks([](made& m) { m.outliers.row_begin.front() = 1; }), shape_error);
  CHECK_THROWS_AS(breaks([](made& m) { m.outliers.row_begin[1] = 5; }), config_error);
  CHECK_THROWS_AS(breaks([](made& m) { m.outliers.row_begin[1] = -1; }), config_error);
  CHECK_THROWS_AS(breaks([](made& m) { m.outliers.columns.pop_back(); }), shape_error);
  CHECK_THROWS_AS(breaks([](made& m) { m.outliers.values.push_back(0.0f); }), shape_error);
  CHECK_THROWS_AS(breaks([](made& m) { m.outliers.columns[0] = 8; }), config_error);
  CHECK_THROWS_AS(breaks([](made& m) { m.outliers.columns[1] = -1; }), config_error);
  CHECK_THROWS_AS(breaks([](made& m) { m.base.scales = {}; }), shape_error);
  integer_codes const codes(3, 8, 4, per_channel, number_format::fp16);
  CHECK_THROWS_AS(keep_outliers(codes, w.view(), mask(3, 7)), shape_error);
  CHECK_THROWS_AS(keep_outliers(codes, normal_matrix(2, 8, 1).view(), where), shape_error);
}

// ---------------------------------------------------------------------------------------------------------------- feed_back

namespace {

/// Error feedback column by column with an explicit inverse, in double. `spares(error^2 / pivot)`: the weight is not rounded.
struct reference_sweep {
  square weights;
  std::vector<std::vector<bool>> spared;
  square margin; ///< how close a rounding was to a tie, in shares of the gap; or a spared weight to the threshold

  template <class Values>
  reference_sweep(square w, square const& h, Values const& values_of_weight, double threshold)
      : weights(std::move(w)),
        spared(static_cast<std::size_t>(weights.rows()), std::vector<bool>(static_cast<std::size_t>(weights.cols()), false)),
        margin(square::Ones(weights.rows(), weights.cols())) {
    square inverse = h.inverse();
    for (index_t j = 0; j < weights.cols(); ++j) {
      for (index_t i = 0; i < weights.rows(); ++i) {
        double const x = weights(i, j);
        std::vector<double> const all = values_of_weight(i, j);
        double nearest = all[0], second = all[0];
        for (double const v : all)
          if (std::abs(x - v) < std::abs(x - nearest)) nearest = v;
        double gap = 1e30;
        for (double const v : all)
          if (v != nearest && std::abs(x - v) < gap) {
            gap = std::abs(x - v);
            second = v;
          }
        if (second != nearest) margin(i, j) = (gap - std::abs(x - nearest)) / std::abs(second - nearest);
        double const loss = (x - nearest) * (x - nearest) / inverse(j, j);
        bool const spare = loss > threshold;
        margin(i, j) = std::min(margin(i, j), std::abs(loss / threshold - 1));
        spared[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] = spare;
        double const q = spare ? x : nearest;
        for (index_t k = j + 1; k < weights.cols(); ++k) weights(i, k) -= (x - q) / inverse(j, j) * inverse(j, k);
        weights(i, j) = q;
      }
      inverse -= inverse.col(j) * inverse.row(j) / inverse(j, j);
    }
  }
};

square to_eigen(matrix_view<float const> a) {
  square out(a.rows(), a.cols());
  for (index_t i = 0; i < a.rows(); ++i)
    for (index_t j = 0; j < a.cols(); ++j) out(i, j) = static_cast<double>(a(i, j));
  return out;
}

template <grid Grid>
void judge_outliers(Grid const& grid, float threshold) {
  index_t const rows = 35, cols = 200;
  matrix<float> const h = correlated_hessian(cols, 21);
  matrix<float> const w = mapped(normal_matrix(rows, cols, 22, 0.1f), [](float x) { return x + 20 * x * x * x; });
  auto codes = grid.empty(rows, cols);
  grid.fit(codes, w.view());
  auto const values = [&](index_t i, index_t j) { return slim::testing::detail::admissible(grid, codes, i, j); };
  reference_sweep const expected(to_eigen(w.view()), to_eigen(h.view()), values, static_cast<double>(threshold));
  mask outliers(rows, cols);
  matrix<float> found = w;
  feed_back(found.view(), factor_for_feedback(h.view()).upper.view(), grid, codes, nullptr,
            {.outlier_threshold = threshold, .outliers = &outliers});
  index_t parted = 0;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      bool const same = std::abs(static_cast<double>(found(i, j)) - expected.weights(i, j)) <= 1e-4 &&
                        outliers.kept(i, j) == expected.spared[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)];
      if (same) continue;
      REQUIRE(expected.margin(i, j) < 4e-3);
      ++parted;
      break;
    }
  CHECK(5 * parted <= rows);
  CHECK(outliers.count() > rows * cols / 200);
  CHECK(outliers.count() < rows * cols / 5);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j)
      if (!outliers.kept(i, j)) REQUIRE(found(i, j) == codes.value(i, j));
  auto const kept = keep_outliers(codes, found.view(), outliers, number_format::fp32);
  matrix<float> const composed = values_of(kept); // what the sweep left, weight for weight
  for (index_t k = 0; k < found.size(); ++k) REQUIRE(composed.data()[k] == Approx(found.data()[k]).epsilon(1e-6).margin(1e-7));
  CHECK(kept.outliers.count() == outliers.count());

  // With nothing spared the sweep is the plain one.
  matrix<float> plain = w, spared = w;
  auto one = codes, two = codes;
  auto const u = factor_for_feedback(h.view()).upper;
  mask no_outliers(rows, cols);
  feed_back(plain.view(), u.view(), grid, one, nullptr);
  feed_back(spared.view(), u.view(), grid, two, nullptr, {.outlier_threshold = 1e6f, .outliers = &no_outliers});
  CHECK(no_outliers.count() == 0);
  CHECK(same_bits(plain, spared));
}

} // namespace

TEST_CASE("weights that cost more than the threshold stay as they are, as the unblocked float64 version has it") {
  judge_outliers(k_quant_grid(4), 2e-4f);
  judge_outliers(spqr_grid(3), 1e-3f);
  judge_outliers(codebook_grid{}, 3e-4f);
  judge_outliers(uniform_grid{.bits = 3, .block = per_group(16), .symmetric = false}, 1e-3f);
}

TEST_CASE("columns may be visited in any order on any grid, as the unblocked float64 version has it") {
  index_t const rows = 33, cols = 300;
  matrix<float> const h = correlated_hessian(cols, 41), w = normal_matrix(rows, cols, 42, 0.1f);
  auto const order = slim::detail::activation_order(h.view(), 1);
  matrix<float> const permuted_h = slim::detail::permuted(h.view(), order);
  square permuted_w(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) permuted_w(i, j) = static_cast<double>(w(i, order[static_cast<std::size_t>(j)]));
  auto const judge = [&](auto const& grid) {
    auto codes = grid.empty(rows, cols);
    grid.fit(codes, w.view());
    auto const values = [&](index_t i, index_t j) {
      return slim::testing::detail::admissible(grid, codes, i, order[static_cast<std::size_t>(j)]);
    };
    reference_sweep const expected(permuted_w, to_eigen(permuted_h.view()), values, 1e30);
    matrix<float> found = w;
    feed_back(found.view(), factor_for_feedback(permuted_h.view()).upper.view(), grid, codes, nullptr, {.order = order});
    index_t parted = 0;
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j) {
        index_t const col = order[static_cast<std::size_t>(j)];
        REQUIRE(found(i, col) == Approx(codes.value(i, col)).epsilon(1e-6).margin(1e-9));
        if (std::abs(static_cast<double>(found(i, col)) - expected.weights(i, j)) <= 1e-5) continue;
        REQUIRE(expected.margin(i, j) < 4e-3);
        ++parted;
        break;
      }
    CHECK(5 * parted <= rows);
  };
  judge(k_quant_grid(4));
  judge(spqr_grid(3));
  judge(codebook_grid{});
}

TEST_CASE("a sweep that fits scales on the way leaves what its codes stand for, however wide a super-block is") {
  index_t const rows = GENERATE(1, 5, 16, 20, 100), cols = GENERATE(40, 128, 200, 256, 300, 512, 600);
  bool const sparse = GENERATE(false, true);
  matrix<float> const h = correlated_hessian(cols, 31), w = normal_matrix(rows, cols, 32, 0.02f);
  auto const u = factor_for_feedback(h.view()).upper;
  auto const judge = [&](auto const& grid) {
    auto codes = grid.empty(rows, cols);
    grid.fit(codes, w.view());
    matrix<float> found = w;
    mask kept(rows, cols, {2, 4});
    feedback_options options{.refit_groups = true};
    if (sparse) options.choose = {2, 4};
    feed_back(found.view(), u.view(), grid, codes, sparse ? &kept : nullptr, options);
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j)
        REQUIRE(found(i, j) == Approx(sparse && !kept.kept(i, j) ? 0.0f : codes.value(i, j)).epsilon(1e-6).margin(1e-9));
  };
  judge(k_quant_grid(4));
  judge(spqr_grid(3)); // blocks of 16 rows, of which there may be fewer
  judge(codebook_grid{});
}

TEST_CASE("super-blocks that a sweep cannot fit on the way are refused") {
  index_t const rows = 20;
  auto const fits_on_the_way = [&](super_block_grid const& grid, index_t cols) {
    matrix<float> unit(cols, cols), w = normal_matrix(rows, cols, 1);
    for (index_t j = 0; j < cols; ++j) unit(j, j) = 1.0f;
    integer_codes codes = grid.empty(rows, cols);
    grid.fit(codes, w.view());
    feed_back(w.view(), unit.view(), grid, codes, nullptr, {.refit_groups = true});
  };
  super_block_grid whole_rows, all_rows, three_rows;
  whole_rows.scales.block = whole_rows.offsets.block = {.rows = 1, .cols = 0};
  all_rows.scales.block = all_rows.offsets.block = {.rows = 0, .cols = 8};
  three_rows.scales.block = three_rows.offsets.block = {.rows = 3, .cols = 8};
  CHECK_NOTHROW(fits_on_the_way(whole_rows, 500));
  CHECK_THROWS_AS(fits_on_the_way(whole_rows, 600), config_error);
  CHECK_THROWS_AS(fits_on_the_way(all_rows, 256), config_error);
  CHECK_THROWS_AS(fits_on_the_way(three_rows, 256), config_error);
}

TEST_CASE("huge weights keep their range where the squares of errors overflow") {
  matrix<float> const w = normal_matrix(3, 32, 5, 1e25f);
  codebook_grid const table{.rule = scale_rule::least_error, .scale_format = number_format::fp32};
  super_block_grid super;
  super.scales.format = super.offsets.format = number_format::fp32;
  auto const judge = [&](auto const& grid) {
    auto codes = grid.empty(3, 32);
    grid.fit(codes, w.view());
    codes.encode(w.view());
    matrix<float> const values = values_of(codes);
    double error = 0, whole = 0;
    for (index_t k = 0; k < w.size(); ++k) {
      error += std::abs(static_cast<double>(w.data()[k]) - static_cast<double>(values.data()[k]));
      whole += std::abs(static_cast<double>(w.data()[k]));
    }
    CHECK(error < 0.15 * whole);
  };
  judge(table);
  judge(super);
}

TEST_CASE("offsets and scales that are fitted to a group are the best of their candidates, by trying all in double") {
  int const bits = GENERATE(2, 4);
  matrix<float> const w = normal_matrix(19, 70, 81);
  super_block_grid grid{.bits = bits, .group = 32}; // a second level so fine that it hardly rounds: one group per block
  grid.scales = grid.offsets = {.format = number_format::fp32, .bits = 8, .block = {.rows = 1, .cols = 1}};
  integer_codes codes = grid.empty(19, 70);
  grid.fit(codes, w.view());
  codebook_grid const table{.levels = even_levels(1 << bits),
                            .block = per_group(32),
                            .rule = scale_rule::least_error,
                            .scale_format = number_format::fp32};
  codebook_codes levels = table.empty(19, 70);
  table.fit(levels, w.view());
  for (index_t i = 0; i < 19; ++i)
    for (index_t g = 0; g < 3; ++g) {
      index_t const first = 32 * g, last = std::min<index_t>(70, first + 32);
      double low = 0, high = 0;
      for (index_t j = first; j < last; ++j) {
        low = std::min(low, static_cast<double>(w(i, j)));
        high = std::max(high, static_cast<double>(w(i, j)));
      }
      auto const error = [&](auto const& value_of_level, int count) {
        double sum = 0;
        for (index_t j = first; j < last; ++j) {
          double least = 1e30;
          for (int k = 0; k < count; ++k) least = std::min(least, std::abs(static_cast<double>(w(i, j)) - value_of_level(k)));
          sum += least * least;
        }
        return sum;
      };
      int const count = 1 << bits;
      double best = 1e30, best_table = 1e30;
      for (float const f : scale_fractions(scale_rule::least_error, false))
        best = std::min(best,
                        error([&](int k) { return static_cast<double>(f) * (low + (high - low) * k / (count - 1)); }, count));
      auto const level = [&](int k) { return static_cast<double>(table.levels[static_cast<std::size_t>(k)]); };
      double const reach = std::max(high / level(count - 1), low / level(0));
      for (float const f : scale_fractions(scale_rule::least_error, true))
        best_table = std::min(best_table, error([&](int k) { return static_cast<double>(f) * reach * level(k); }, count));
      double const scale = static_cast<double>(codes.scales(i, g)), offset = static_cast<double>(codes.offsets(i, g));
      CHECK(error([&](int k) { return scale * k + offset; }, count) == Approx(best).epsilon(1e-3));
      double const table_scale = static_cast<double>(levels.scales(i, g));
      CHECK(error([&](int k) { return table_scale * level(k); }, count) == Approx(best_table).epsilon(1e-5));
    }
}

TEST_CASE("descent on single groups of 2:4 finds what trying everything finds on every grid, when columns hardly interact") {
  index_t const rows = 40;
  matrix<float> h(4, 4);
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 4; ++j) h(i, j) = i == j ? 1.0f + 0.5f * static_cast<float>(i) : 0.02f;
  matrix<float> const v = normal_matrix(rows, 4, 61);
  auto const judge = [&](auto const& grid) {
    auto codes = grid.empty(rows, 4);
    grid.fit(codes, v.view());
    codes.encode(v.view());
    mask kept(rows, 4, {2, 4});
    matrix<float> gradient(rows, 4), rest = v;
    for (index_t i = 0; i < rows; ++i) {
      for (index_t const j : {0, 3}) {
        kept.keep(i, j);
        rest(i, j) -= codes.value(i, j);
      }
    }
    gemm_into(rest.view(), h.view(), gradient.view());
    descend_codes(gradient.view(), h.view(), grid, codes, &kept);
    auto const energy = [&](index_t i, double const* s) {
      double sum = 0;
      for (index_t a = 0; a < 4; ++a)
        for (index_t b = 0; b < 4; ++b)
          sum += (static_cast<double>(v(i, a)) - s[a]) * static_cast<double>(h(a, b)) * (static_cast<double>(v(i, b)) - s[b]);
      return sum;
    };
    for (index_t i = 0; i < rows; ++i) {
      double best = 1e30;
      for (index_t a = 0; a < 4; ++a)
        for (index_t b = a + 1; b < 4; ++b)
          for (double const va : slim::testing::detail::admissible(grid, codes, i, a))
            for (double const vb : slim::testing::detail::admissible(grid, codes, i, b)) {
              double s[4] = {};
              s[a] = va;
              s[b] = vb;
              best = std::min(best, energy(i, s));
            }
      double found[4] = {};
      index_t count = 0;
      for (index_t j = 0; j < 4; ++j)
        if (kept.kept(i, j)) {
          found[j] = static_cast<double>(codes.value(i, j));
          ++count;
        }
      CHECK(energy(i, found) <= best * (1 + 1e-5) + 1e-9);
      CHECK(count == 2);
    }
  };
  judge(codebook_grid{});
  judge(codebook_grid{.levels = {-1.0f, -0.25f, 0.3f, 1.0f}, .rule = scale_rule::least_error});
  judge(super_block_grid{.bits = 3, .group = 4});
  judge(uniform_grid{.bits = 3, .block = per_channel, .symmetric = false});
}
