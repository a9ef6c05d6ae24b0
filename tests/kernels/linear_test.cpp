// Products with packed matrices against sums in double over the codes themselves.
#include "slim/kernels/linear.hpp"

#include "slim/kernels/cpu/pack_r16.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_codes.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/reference_linear.hpp"
#include "slim/testing/same_bits.hpp"
#include "support/emulated_tiles.hpp"

#include <catch2/catch.hpp>

#include <cstdlib>

using namespace slim;
using namespace slim::testing;

namespace {

struct packed_case {
  matrix<float> w; ///< what the codes stand for
  r16_matrix packed;
};

packed_case dense_case(index_t rows, index_t cols, int bits, scale_block block, bool symmetric, std::uint64_t seed,
                       number_format format = number_format::fp16) {
  matrix<float> w = normal_matrix(rows, cols, seed);
  absmax_quantizer const rounding({.bits = bits, .block = block, .symmetric = symmetric, .scale_format = format});
  integer_codes const codes = rounding.quantize(w.view(), calibration(cols));
  codes.dequantize_into(w.view());
  return {std::move(w), pack_r16(codes)};
}

packed_case sparse_case(index_t rows, index_t cols, scale_block block, std::uint64_t seed,
                        number_format format = number_format::fp16) {
  matrix<float> w = normal_matrix(rows, cols, seed);
  mask const kept = nm_pruner<2, 4>(magnitude{}).select(matrix_view<float const>(w.view()), calibration(cols));
  absmax_quantizer const rounding({.bits = 4, .block = block, .scale_format = format});
  integer_codes const codes = rounding.quantize(w.view(), calibration(cols));
  codes.dequantize_into(w.view());
  kept.apply_to(w.view());
  return {std::move(w), pack_r16(codes, kept)};
}

/// X W^T in double.
matrix<double> product(matrix<float> const& w, matrix<float> const& x) {
  matrix<double> y(x.rows(), w.rows());
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) y(t, i) += static_cast<double>(x(t, j)) * static_cast<double>(w(i, j));
  return y;
}

/// The inputs as the kernels round them: `group` channels share a scale.
matrix<float> rounded_inputs(matrix<float> x, int planes, index_t group = 32) {
  matrix<float> out(x.rows(), x.cols());
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t first = 0; first < x.cols(); first += group) {
      for (int plane = 0; plane < planes; ++plane) {
        float largest = 0;
        for (index_t j = first; j < std::min(x.cols(), first + group); ++j) largest = std::max(largest, std::abs(x(t, j)));
        if (largest == 0) continue;
        for (index_t j = first; j < std::min(x.cols(), first + group); ++j) {
          float const part = largest / 127 * std::nearbyint(x(t, j) * (1 / (largest / 127)));
          out(t, j) += part;
          x(t, j) -= part;
        }
      }
    }
  return out;
}

double size_of(matrix<double> const& y) {
  double largest = 0;
  for (index_t k = 0; k < y.size(); ++k) largest = std::max(largest, std::abs(y.data()[k]));
  return largest;
}

double distance(matrix<float> const& a, matrix<double> const& b) {
  double largest = 0;
  for (index_t k = 0; k < b.size(); ++k) largest = std::max(largest, std::abs(static_cast<double>(a.data()[k]) - b.data()[k]));
  return largest;
}

std::vector<simd_level> levels() {
  std::vector<simd_level> all = {simd_level::scalar, simd_level::automatic};
  for (simd_level const level : {simd_level::avx2, simd_level::avx512})
    if (best_simd_level() >= level) all.push_back(level);
  return all;
}

void check_product(packed_case const& c, index_t tokens) {
  matrix<float> const x = normal_matrix(tokens, c.w.cols(), 77);
  matrix<double> reference(tokens, c.w.rows());
  reference_linear_into(c.packed, x.view(), reference.view());
  matrix<double> const exact = product(c.w, x);
  double const size = 1e-6 + size_of(exact);
  for (index_t k = 0; k < exact.size(); ++k) REQUIRE(reference.data()[k] == Approx(exact.data()[k]).margin(1e-12 * size));
  for (simd_level const level : levels()) {
    context ctx;
    ctx.simd = level;
    matrix<float> y(tokens, c.w.rows());
    linear_into(c.packed, x.view(), y.view(), {.inputs = input_precision::exact}, ctx);
    REQUIRE(distance(y, exact) <= 3e-6 * size);
    linear_into(c.packed, x.view(), y.view(), {.inputs = input_precision::int8}, ctx);
    REQUIRE(distance(y, product(c.w, rounded_inputs(x, 1))) <= 1e-5 * size);
    linear_into(c.packed, x.view(), y.view(), {.inputs = input_precision::int8_128}, ctx);
    bool const wide = c.packed.layout().scale_cols % 128 == 0 && !has_row_books(c.packed.layout().kind);
    index_t const group = wide ? 128 : 32;
    REQUIRE(distance(y, product(c.w, rounded_inputs(x, 1, group))) <= 1e-5 * size);
    linear_into(c.packed, x.view(), y.view(), {.inputs = input_precision::int16}, ctx);
    REQUIRE(distance(y, exact) <= 2e-4 * size);
    REQUIRE(distance(y, product(c.w, rounded_inputs(x, 2))) <= 5e-5 * size);
  }
}

/// Codes of all 16 kinds with the values of a book, and what they stand for.
packed_case book_case(index_t rows, index_t cols, scale_block block, std::vector<float> const& book, bool sparse) {
  absmax_quantizer const rounding({.bits = 4, .block = block, .scale_format = number_format::fp16});
  matrix<float> w = normal_matrix(rows, cols, 15);
  integer_codes codes = rounding.quantize(w.view(), calibration(cols));
  mask const kept = nm_pruner<2, 4>(magnitude{}).select(matrix_view<float const>(w.view()), calibration(cols));
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      codes.codes(i, j) = static_cast<std::int8_t>((i * 31 + j * 7 + i * j) % 16 - 8);
      float const value = codes.scale_at(i, j) * book[static_cast<std::size_t>(codes.codes(i, j) + 8)];
      w(i, j) = sparse && !kept.kept(i, j) ? 0.0f : value;
    }
  codebook_codes const in_book = in_table(codes, book);
  return {std::move(w), sparse ? pack_r16(in_book, kept) : pack_r16(in_book)};
}

/// The values of ggml's IQ4_NL; no 0 among them.
std::vector<float> const uneven = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// A book of levels per row, whole multiples of a unit of the row, so that nothing is rounded.
codebook_codes row_book_codes(index_t rows, index_t cols, int bits, std::uint64_t seed) {
  codebook_codes codes(rows, cols, bits, per_channel);
  codes.book_format = number_format::fp32;
  for (index_t i = 0; i < rows; ++i) {
    float const unit = 0.001f * static_cast<float>(1 + i % 7);
    for (index_t k = 0; k < codes.levels(); ++k)
      codes.books(i, k) =
          unit * static_cast<float>(static_cast<int>(random_bits(seed, static_cast<std::uint64_t>(i * 16 + k)) % 255) - 127);
    codes.books(i, i % codes.levels()) = 127 * unit;
    for (index_t j = 0; j < cols; ++j)
      codes.codes(i, j) = static_cast<std::uint8_t>(random_bits(seed + 1, static_cast<std::uint64_t>(i * cols + j)) %
                                                    static_cast<std::uint64_t>(codes.levels()));
  }
  return codes;
}

/// Codes whose scales and offsets are codes over 16 rows of a group.
integer_codes second_level_codes(index_t rows, index_t cols, int bits, index_t group, int scale_bits, int offset_bits,
                                 std::uint64_t seed) {
  scale_storage stored{.format = number_format::fp16, .bits = scale_bits, .block = {.rows = 16, .cols = 1}, .shifted = true};
  integer_codes codes(rows, cols, bits, per_group(group), stored);
  stored.bits = offset_bits;
  codes.offsets = scale_table(codes.scales.rows(), codes.scales.cols(), stored);
  std::uint64_t counter = 0;
  for (index_t k = 0; k < codes.scales.size(); ++k) {
    codes.scales.data()[k] = 0.01f + 0.0001f * static_cast<float>(random_bits(seed, counter++) % 1000);
    codes.offsets.data()[k] = -0.0001f * static_cast<float>(random_bits(seed, counter++) % 4000);
  }
  codes.scales.store(true);
  codes.offsets.store(false);
  for (index_t k = 0; k < codes.codes.size(); ++k)
    codes.codes.data()[k] =
        static_cast<std::int8_t>(static_cast<int>(random_bits(seed, counter++) % (1u << bits)) + codes.lowest());
  return codes;
}

template <class Codes>
packed_case case_of(Codes const& codes) {
  matrix<float> w(codes.rows(), codes.cols());
  codes.dequantize_into(w.view());
  return {std::move(w), pack_r16(codes)};
}

} // namespace

TEST_CASE("codes with a book per row: products at every level, and the bytes of the codes") {
  for (int const bits : {1, 2, 3, 4})
    for (auto const& [rows, cols] : std::vector<std::pair<index_t, index_t>>{{16, 32}, {3, 40}, {50, 300}, {70, 512}})
      for (index_t const tokens : {1, 3, 6}) {
        INFO(bits << " bits, " << rows << " x " << cols << ", " << tokens << " tokens");
        check_product(case_of(row_book_codes(rows, cols, bits, 7)), tokens);
      }
  r16_matrix const packed = pack_r16(row_book_codes(64, 4096, 3, 1));
  CHECK(packed.byte_size() * 8 == 64 * 4096 * 3 + 4 * 2048 + 64 * 32);
}

TEST_CASE("levels of rows are rounded to multiples of 1/127 of the largest, by as much as row_level_error says") {
  codebook_codes codes = row_book_codes(20, 64, 3, 3);
  CHECK(row_level_error(codes) < 1e-6);
  for (index_t k = 0; k < codes.books.size(); ++k) codes.books.data()[k] *= 1.0f + 0.01f * static_cast<float>(k % 5);
  matrix<float> w(20, 64), values(r16_block_cols, r16_rows);
  codes.dequantize_into(w.view());
  r16_matrix const packed = pack_r16(codes);
  double error = 0, size = 0;
  for (index_t rb = 0; rb < 2; ++rb) {
    packed.decode_block(rb, 0, reinterpret_cast<float(*)[r16_rows]>(values.data()));
    for (index_t r = 0; r < std::min<index_t>(16, 20 - 16 * rb); ++r)
      for (index_t j = 0; j < 64; ++j) {
        double const exact = w(16 * rb + r, j), off = exact - static_cast<double>(values(j, r));
        error += off * off;
        size += exact * exact;
      }
  }
  CHECK(error > 0);
  CHECK(row_level_error(codes) == Approx(std::sqrt(error / size)).epsilon(1e-4));
  codes.books(3, 2) = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(pack_r16(codes), nonfinite_error);
  CHECK_THROWS_AS(pack_r16(codebook_codes(4, 8, 5, per_channel)), config_error);
}

TEST_CASE("scales and offsets that are codes of a second level: products at every level") {
  for (int const bits : {1, 2, 3, 4})
    for (auto const& [rows, cols] : std::vector<std::pair<index_t, index_t>>{{16, 32}, {3, 40}, {50, 304}, {70, 520}})
      for (index_t const tokens : {1, 3, 6}) {
        INFO(bits << " bits, " << rows << " x " << cols << ", " << tokens << " tokens");
        check_product(case_of(second_level_codes(rows, cols, bits, 16, 3, 3, 5)), tokens); // SpQR's tiles
        check_product(case_of(second_level_codes(rows, cols, bits, 64, 6, 4, 6)), tokens);
        check_product(case_of(second_level_codes(rows, cols, bits, 32, 8, 8, 7)), tokens);
      }
  CHECK(pack_r16(second_level_codes(16, 512, 3, 16, 3, 3, 1)).byte_size() * 8 == 16 * 512 * 15 / 4);
  CHECK_THROWS_AS(pack_r16(second_level_codes(16, 64, 3, 16, 4, 3, 1)), config_error);
  CHECK_THROWS_AS(pack_r16(second_level_codes(16, 96, 3, 48, 3, 3, 1)), config_error);
  CHECK_THROWS_AS(pack_r16(second_level_codes(16, 64, 5, 32, 3, 3, 1)), config_error);
}

TEST_CASE("scales of groups that fp16 does not hold are fp32 in the layout, and in products at every level") {
  for (auto const& [rows, cols] : std::vector<std::pair<index_t, index_t>>{{16, 128}, {3, 40}, {17, 132}, {40, 700}})
    for (index_t const tokens : {1, 2, 7})
      for (index_t const group : {32, 96, 128}) {
        if (group >= cols) continue;
        for (int const bits : {2, 3, 4, 8})
          for (bool const symmetric : {true, false}) {
            packed_case const c = dense_case(rows, cols, bits, per_group(group), symmetric, 5, number_format::fp32);
            REQUIRE(c.packed.layout().wide_scales);
            check_product(c, tokens);
          }
        check_product(sparse_case(rows, cols, per_group(group), 6, number_format::fp32), tokens);
      }
}

TEST_CASE("products of codes of a book are those of its values, at every level, for any shape, group and batch") {
  auto const [rows, cols] = GENERATE(table<index_t, index_t>({{16, 128}, {3, 8}, {17, 132}, {40, 300}, {64, 256}}));
  scale_block const blocks[] = {per_tensor, per_group(32), per_group(128)};
  scale_block const block = blocks[GENERATE(range(0, 3))];
  index_t const tokens = GENERATE(1, 2, 7);
  bool const sparse = GENERATE(false, true);
  std::vector<float> halves(16);
  for (std::size_t k = 0; k < 16; ++k) halves[k] = 0.25f * (static_cast<float>(k) - 7.5f); // no 0 either
  check_product(book_case(rows, cols, block, uneven, sparse), tokens);
  check_product(book_case(rows, cols, block, halves, sparse), tokens);
}

TEST_CASE("a code book becomes 8-bit levels without loss, or is refused") {
  integer_codes codes(1, 4, 4, per_tensor, number_format::fp32);
  codes.scales(0, 0) = 1.0f;
  std::vector<float> book(16);
  for (std::size_t k = 0; k < 16; ++k) book[k] = 0.37f * std::sqrt(static_cast<float>(k));
  CHECK_THROWS_AS(pack_r16(in_table(codes, book)), config_error);
  std::vector<float> const rounded = rounded_levels(book);
  for (std::size_t k = 0; k < 16; ++k) CHECK(std::abs(rounded[k] - book[k]) <= book[15] / 254 * 1.001f);
  CHECK(pack_r16(in_table(codes, rounded)).levels()[15] == 127);
  CHECK(pack_r16(in_table(codes, uneven)).levels()[0] == -127);
  std::vector<float> const ones(16, -2.0f);
  CHECK(pack_r16(in_table(codes, ones)).levels()[3] == -1);
  CHECK(pack_r16(in_table(codes, ones)).level_unit() == 2.0f);
  CHECK_THROWS_AS(pack_r16(in_table(codes, std::vector<float>(16))), config_error); // nothing but 0
  book[3] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(pack_r16(in_table(codes, book)), config_error);
  mask one(1, 4, {2, 4});
  one.keep(0, 2);
  CHECK_THROWS_AS(pack_r16(in_table(codes, uneven), one), config_error); // nothing to fill up with
  codebook_codes const three(1, 4, std::vector<float>(8, 1.0f), per_tensor, {});
  CHECK_THROWS_AS(pack_r16(three), config_error); // 3 bits
}

TEST_CASE("products of numbers are those of the numbers as their format holds them") {
  auto const [rows, cols] = GENERATE(table<index_t, index_t>({{16, 128}, {1, 1}, {17, 130}, {0, 5}, {5, 0}}));
  number_format const formats[] = {number_format::fp32, number_format::bf16, number_format::fp16};
  number_format const format = formats[GENERATE(range(0, 3))];
  matrix<float> w = normal_matrix(rows, cols, 21);
  if (rows > 1 && cols > 4) {
    w(0, 0) = 3e-6f; // subnormal as fp16
    w(1, 1) = -0.0f;
    w(1, 2) = 65504.0f;
  }
  r16_matrix const packed = pack_r16(matrix_view<float const>(w.view()), format);
  for (index_t k = 0; k < w.size(); ++k) w.data()[k] = rounded_to(format, w.data()[k]);
  matrix<float> const x = normal_matrix(9, cols, 22);
  matrix<double> const exact = product(w, x);
  matrix<double> reference(9, rows);
  reference_linear_into(packed, x.view(), reference.view());
  for (index_t k = 0; k < exact.size(); ++k) REQUIRE(reference.data()[k] == Approx(exact.data()[k]));
  for (simd_level const level : levels())
    for (auto const inputs : {input_precision::int8, input_precision::exact}) { // floats, whatever is asked for
      context ctx;
      ctx.simd = level;
      matrix<float> y(9, rows);
      linear_into(packed, x.view(), y.view(), {.inputs = inputs}, ctx);
      REQUIRE(distance(y, exact) <= 3e-6 * (1 + size_of(exact)));
    }
}

TEST_CASE("fp16 numbers are widened as the format says, infinity and NaN with them") {
  matrix<float> w(16, 1), x(1, 1), y(1, 16);
  float const infinity = std::numeric_limits<float>::infinity();
  float const values[] = {infinity, -infinity, 0x1p-24f, -0x1p-15f, 0x1p-14f, 65504.0f, -1.5f};
  for (index_t i = 0; i < 7; ++i) w(i, 0) = values[i];
  w(7, 0) = std::numeric_limits<float>::quiet_NaN();
  x(0, 0) = 1.0f;
  for (simd_level const level : levels())
    for (auto const format : {number_format::fp16, number_format::bf16}) {
      context ctx;
      ctx.simd = level;
      linear_into(pack_r16(matrix_view<float const>(w.view()), format), x.view(), y.view(), {}, ctx);
      for (index_t i = 0; i < 7; ++i) REQUIRE(y(0, i) == rounded_to(format, values[i]));
      REQUIRE(std::isnan(y(0, 7)));
    }
}

TEST_CASE("products of dense codes are those of the values, at every level, for any shape, group and batch") {
  auto const [rows, cols] = GENERATE(table<index_t, index_t>(
      {{16, 128}, {1, 1}, {3, 5}, {17, 129}, {40, 300}, {15, 127}, {33, 32}, {16, 64}, {5, 257}, {64, 256}, {18, 576}}));
  int const bits = GENERATE(2, 3, 4, 5, 8);
  scale_block const blocks[] = {per_tensor,    per_channel,    per_group(32), per_group(64),
                                per_group(96), per_group(128), per_group(256)};
  scale_block const block = blocks[GENERATE(range(0, 7))];
  bool const symmetric = GENERATE(true, false);
  index_t const tokens = GENERATE(1, 2, 11);
  check_product(dense_case(rows, cols, bits, block, symmetric, 5), tokens);
}

TEST_CASE("products of 2:4 codes are those of the values, at every level, for any shape, group and batch") {
  auto const [rows, cols] = GENERATE(table<index_t, index_t>(
      {{16, 128}, {1, 1}, {3, 5}, {17, 129}, {40, 300}, {15, 127}, {33, 34}, {16, 64}, {5, 257}, {64, 256}, {18, 576}}));
  scale_block const blocks[] = {per_tensor,    per_channel,    per_group(32), per_group(64),
                                per_group(96), per_group(128), per_group(256)};
  scale_block const block = blocks[GENERATE(range(0, 7))];
  index_t const tokens = GENERATE(1, 3, 4, 8, 70);
  check_product(sparse_case(rows, cols, block, 6), tokens);
}

TEST_CASE("empty products are empty or zero") {
  for (index_t const rows : {0, 3})
    for (index_t const cols : {0, 130})
      for (index_t const tokens : {0, 2}) {
        packed_case const c = dense_case(rows, cols, 4, per_group(128), true, 1);
        for (auto const inputs : {input_precision::int8, input_precision::int16, input_precision::exact}) {
          matrix<float> const x = normal_matrix(tokens, cols, 2);
          matrix<float> y = normal_matrix(tokens, rows, 3);
          linear_into(c.packed, x.view(), y.view(), {.inputs = inputs});
          CHECK(distance(y, product(c.w, x)) <= 0.05 * (1 + size_of(product(c.w, x))));
        }
      }
}

TEST_CASE("a kept weight may have code 0, and groups may keep fewer than two") {
  integer_codes codes(1, 12, 4, per_tensor, number_format::fp32);
  codes.scales(0, 0) = 1.0f;
  mask kept(1, 12, {2, 4});
  for (index_t const j : {0, 3, 6}) kept.keep(0, j);
  codes.codes(0, 0) = 0; // kept
  codes.codes(0, 1) = 5; // pruned: must not show
  codes.codes(0, 3) = -8;
  codes.codes(0, 6) = 7; // alone in its group; columns 8 .. 11 keep nothing
  r16_matrix const packed = pack_r16(codes, kept);
  matrix<float> x(1, 12), y(1, 1);
  for (index_t j = 0; j < 12; ++j) x(0, j) = static_cast<float>(j + 1);
  linear_into(packed, x.view(), y.view(), {.inputs = input_precision::exact});
  CHECK(y(0, 0) == -8.0f * 4 + 7.0f * 7);
  kept.keep(0, 1);
  CHECK_THROWS_AS(pack_r16(codes, kept), config_error); // three of four
}

TEST_CASE("Y += adds, factors of input channels divide, and a wider Y keeps its other columns") {
  packed_case const c = sparse_case(20, 140, per_group(128), 3);
  matrix<float> const x = normal_matrix(5, 140, 4);
  matrix<float> once(5, 20), wide(5, 30);
  for (index_t k = 0; k < wide.size(); ++k) wide.data()[k] = 2.0f;
  linear_into(c.packed, x.view(), once.view());
  linear_into(c.packed, x.view(), wide.view().block(0, 5, 5, 20), {.add = true});
  for (index_t t = 0; t < 5; ++t)
    for (index_t j = 0; j < 30; ++j) REQUIRE(wide(t, j) == (j < 5 || j >= 25 ? 2.0f : 2.0f + once(t, j - 5)));

  integer_codes codes(4, 8, 4, per_tensor, number_format::fp32);
  codes.scales(0, 0) = 0.5f;
  codes.channel_factors = {1, 2, 1, 4, 1, 1, 1, 1};
  for (index_t k = 0; k < 32; ++k) codes.codes.data()[k] = static_cast<std::int8_t>(k % 15 - 7);
  matrix<float> values(4, 8), y(5, 4);
  codes.dequantize_into(values.view());
  matrix<float> const x8 = normal_matrix(5, 8, 9);
  linear_into(pack_r16(codes), x8.view(), y.view(), {.inputs = input_precision::exact});
  CHECK(distance(y, product(values, x8)) <= 1e-5);
  linear_into(pack_r16(codes), x8.view(), y.view(), {.inputs = input_precision::int16});
  CHECK(distance(y, product(values, x8)) <= 1e-3);
}

TEST_CASE("a token's result does not depend on the batch, the executor or the other tokens") {
  packed_case const c = dense_case(70, 300, 3, per_group(128), false, 8);
  matrix<float> const x = normal_matrix(67, 300, 10);
  for (auto const inputs : {input_precision::int8, input_precision::int8_128, input_precision::int16, input_precision::exact}) {
    matrix<float> all(67, 70), some(67, 70), one(1, 70);
    linear_into(c.packed, x.view(), all.view(), {.inputs = inputs});
    thread_team_executor const team{3};
    serial_executor const serial;
    for (context const& ctx : {on(team), on(serial)}) {
      linear_into(c.packed, x.view(), some.view(), {.inputs = inputs}, ctx);
      REQUIRE(same_bits(all, some));
    }
    for (index_t const t : {0, 13, 66}) {
      linear_into(c.packed, x.view().middle_rows(t, 1), one.view(), {.inputs = inputs});
      for (index_t i = 0; i < 70; ++i) REQUIRE(one(0, i) == all(t, i));
    }
  }
}

TEST_CASE("how row blocks are shared out does not show: all in one call of a kernel, one by one and backwards, or by a team") {
  index_t const rows = GENERATE(16 * 129, 16 * 130 + 7); // an odd number of row blocks; a ragged one
  packed_case const cases[] = {dense_case(rows, 100, 3, per_group(32), false, 5), sparse_case(rows, 100, per_channel, 6),
                               sparse_case(rows, 100, per_group(64), 7)};
  for (packed_case const& c : cases)
    for (index_t const tokens : {1, 2, 5})
      for (auto const inputs : {input_precision::int8, input_precision::int16}) {
        matrix<float> const x = normal_matrix(tokens, 100, 8);
        matrix<float> const before = normal_matrix(tokens, rows, 9);
        serial_executor const serial;
        backwards_executor const backwards;
        thread_team_executor const team{3};
        matrix<float> whole(before);
        linear_into(c.packed, x.view(), whole.view(), {.inputs = inputs, .add = true}, on(serial));
        matrix<float> fresh(tokens, rows);
        linear_into(c.packed, x.view(), fresh.view(), {.inputs = inputs}, on(serial));
        for (index_t k = 0; k < whole.size(); ++k) REQUIRE(whole.data()[k] == before.data()[k] + fresh.data()[k]);
        REQUIRE(distance(fresh, product(c.w, rounded_inputs(x, inputs == input_precision::int16 ? 2 : 1))) <= 1e-3);
        for (context const& ctx : {on(backwards), on(team), context{}}) {
          matrix<float> parts(before);
          linear_into(c.packed, x.view(), parts.view(), {.inputs = inputs, .add = true}, ctx);
          REQUIRE(same_bits(whole, parts));
        }
      }
}

#if SLIM_SIMD_X86
namespace {

/// Y = X W^T, or Y +=, with kernels that need not be those of a level.
matrix<float> product_by(slim::detail::r16_kernels const& kernels, r16_matrix const& w, matrix<float> const& x, bool add,
                         input_precision inputs) {
  matrix<float> y = add ? normal_matrix(x.rows(), w.rows(), 3) : matrix<float>(x.rows(), w.rows());
  slim::detail::integer_product product(w, inputs, kernels);
  for (index_t first = 0; first < x.rows(); first += product.most_tokens) {
    index_t const count = std::min(product.most_tokens, x.rows() - first);
    product.prepare(x.view().middle_rows(first, count), {});
    product.multiply(0, product.parts(), y.view().middle_rows(first, count), add);
  }
  return y;
}

/// Every kind of stage, scales of every form, ragged rows and columns.
std::vector<packed_case> cases_of_all_kinds() {
  std::vector<packed_case> cases;
  for (int const bits : {2, 3, 4, 8}) {
    cases.push_back(dense_case(48, 300, bits, per_group(128), true, 20));
    cases.push_back(dense_case(37, 160, bits, per_group(32), false, 21));
    cases.push_back(dense_case(20, 100, bits, per_channel, false, 22));
  }
  cases.push_back(dense_case(17, 132, 4, per_group(64), false, 23, number_format::fp32));
  cases.push_back(sparse_case(48, 300, per_group(128), 24));
  cases.push_back(sparse_case(37, 94, per_channel, 25));
  cases.push_back(sparse_case(17, 132, per_group(64), 26, number_format::fp32));
  for (bool const sparse : {false, true}) cases.push_back(book_case(33, 200, per_group(64), uneven, sparse));
  return cases;
}

} // namespace

TEST_CASE("tiles find the bits of the VNNI kernels, for every kind, scale, precision and number of tokens, in an emulator") {
  if (!__builtin_cpu_supports("avx512vnni")) return; // codes are spread with AVX-512
  using slim::detail::r16_kernels;
  static constexpr r16_kernels tiles = slim::detail::tile_kernels<slim_test::emulated_tiles>();
  // Of plain codes, and of positions in tables.
  r16_kernels const vnni[] = {slim::detail::vnni_kernels<false>(nullptr), slim::detail::vnni_kernels<true>(nullptr)};
  r16_kernels const both[] = {slim::detail::vnni_kernels<false>(&tiles), slim::detail::vnni_kernels<true>(&tiles)};
  index_t const batches[] = {4, 8, 9, 16, 30, 64, 65, 70};
  std::size_t n = 0;
  for (packed_case const& c : cases_of_all_kinds())
    for (auto const inputs : {input_precision::int8, input_precision::int8_128, input_precision::int16})
      for (int k = 0; k < 3; ++k, ++n) { // three of the eight batches for each, others for the next matrix
        matrix<float> const x = normal_matrix(batches[n % 8], c.w.cols(), n);
        CAPTURE(name_of(c.packed.layout().kind), c.packed.layout().scale_cols, static_cast<int>(inputs), x.rows());
        int const family = has_book(c.packed.layout().kind) ? 1 : 0;
        REQUIRE(same_bits(product_by(vnni[family], c.packed, x, n % 2 == 1, inputs),
                          product_by(both[family], c.packed, x, n % 2 == 1, inputs)));
      }
}

TEST_CASE("tiles are refused where there are none; where there are, SLIM_TEST_AMX=1 compares their bits with VNNI's") {
  if (!slim::detail::may_use_amx()) {
    CHECK_THROWS_WITH(resolve(simd_level::amx), Catch::Contains("no AMX tiles"));
    return;
  }
  CHECK(resolve(simd_level::amx) == simd_level::avx512);
  if (!std::getenv("SLIM_TEST_AMX")) return;
  context with_tiles, without;
  with_tiles.simd = simd_level::amx;
  without.simd = simd_level::avx512;
  for (packed_case const& c : cases_of_all_kinds())
    for (auto const inputs : {input_precision::int8, input_precision::int8_128, input_precision::int16})
      for (index_t const tokens : {1, 8, 9, 16, 30, 64, 70}) {
        matrix<float> const x = normal_matrix(tokens, c.w.cols(), 1);
        matrix<float> y(tokens, c.w.rows()), z(tokens, c.w.rows());
        linear_into(c.packed, x.view(), y.view(), {.inputs = inputs}, with_tiles);
        linear_into(c.packed, x.view(), z.view(), {.inputs = inputs}, without);
        CAPTURE(name_of(c.packed.layout().kind), static_cast<int>(inputs), tokens);
        REQUIRE(same_bits(y, z));
      }
}
#endif

TEST_CASE("NaN and infinity of a token reach its outputs and no others") {
  packed_case const c = sparse_case(18, 64, per_channel, 11);
  matrix<float> x = normal_matrix(3, 64, 12);
  x(1, 7) = std::numeric_limits<float>::quiet_NaN();
  x(2, 9) = std::numeric_limits<float>::infinity();
  for (auto const inputs : {input_precision::int8, input_precision::int8_128, input_precision::int16}) {
    matrix<float> y(3, 18);
    linear_into(c.packed, x.view(), y.view(), {.inputs = inputs});
    for (index_t i = 0; i < 18; ++i) {
      CHECK(std::isfinite(y(0, i)));
      CHECK_FALSE(std::isfinite(y(1, i)));
      CHECK_FALSE(std::isfinite(y(2, i)));
    }
  }
}

TEST_CASE("inputs that are 0 or subnormal give 0, or next to it, at every level") {
  packed_case const sparse = sparse_case(18, 64, per_channel, 13), dense = dense_case(18, 64, 4, per_group(32), false, 14);
  for (simd_level const level : levels())
    for (auto const inputs : {input_precision::int8, input_precision::int16})
      for (packed_case const* c : {&sparse, &dense}) {
        context ctx;
        ctx.simd = level;
        matrix<float> x(2, 64), y(2, 18);
        for (index_t j = 0; j < 64; j += 2) x(1, j) = 1e-40f; // the others are 0
        linear_into(c->packed, x.view(), y.view(), {.inputs = inputs}, ctx);
        for (index_t i = 0; i < 18; ++i) {
          REQUIRE(y(0, i) == 0.0f);
          REQUIRE(std::abs(y(1, i)) < 1e-35f);
        }
      }
  for (simd_level const level : levels()) { // the codes themselves: none is made up
    float now[32] = {};
    std::int8_t codes[32];
    float scale = 0, sum = 0;
    now[3] = 1e-40f;
    slim::detail::r16_kernels_of_codes(level).round_inputs(now, 1, codes, 32, &scale, &sum, now);
    for (std::int8_t const code : codes) REQUIRE(code == 0);
    REQUIRE(sum == 0.0f);
  }
}

TEST_CASE("what the layout cannot hold is refused with its values") {
  CHECK_THROWS_AS(pack_r16(integer_codes(4, 100, 4, per_group(48), number_format::fp16)), config_error);
  integer_codes fine(4, 256, 4, per_group(128), number_format::fp32);
  fine.scales(2, 1) = 0.1f; // no fp16 number: stored as it is
  CHECK(pack_r16(fine).scale(2, 200) == 0.1f);
  fine.scales(2, 1) = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(pack_r16(fine), nonfinite_error);
  integer_codes unshifted(4, 32, 4, per_channel, number_format::fp32);
  unshifted.codes(3, 31) = 8;
  CHECK_THROWS_WITH(pack_r16(unshifted), Catch::Contains("code (3, 31) is 8 in 4 bits, possible are -8 to 7"));
  integer_codes wide(4, 8, 5, per_channel, number_format::fp32), zeros(4, 8, 4, per_channel, number_format::fp32);
  zeros.zeros = matrix<std::int8_t>(4, 1);
  CHECK_THROWS_AS(pack_r16(wide, mask(4, 8, {2, 4})), config_error);
  CHECK_THROWS_AS(pack_r16(zeros, mask(4, 8, {2, 4})), config_error);
  CHECK_THROWS_AS(pack_r16(zeros, mask(4, 8, {1, 4})), config_error);
  CHECK_THROWS_AS(pack_r16(fine, mask(4, 8, {2, 4})), shape_error);
  matrix<float> x(2, 8), y(2, 3);
  CHECK_THROWS_AS(linear_into(pack_r16(wide), x.view(), y.view()), shape_error);
}

TEST_CASE("2:4 int4 and dense int3 take 3.125 bits per weight with groups of 128, dense int4 4.125") {
  CHECK(sparse_case(64, 512, per_group(128), 1).packed.byte_size() * 8 == 64 * 512 * 25 / 8);
  CHECK(dense_case(64, 512, 3, per_group(128), true, 1).packed.byte_size() * 8 == 64 * 512 * 25 / 8);
  CHECK(dense_case(64, 512, 4, per_group(128), true, 1).packed.byte_size() * 8 == 64 * 512 * 33 / 8);
}
