// Compressed layers, packed, against their dense weights in double.
#include "slim/kernels/packed_linear.hpp"

#include "slim/adapters/quantized_adapter.hpp"
#include "slim/adapters/saliency_lora.hpp"
#include "slim/pipeline/compress.hpp"
#include "slim/pipeline/in_basis.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include "support/simd_levels.hpp"

#include <Eigen/Core>

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

/// Largest error of the packed layer's outputs, relative to the largest output of the dense weight.
double error_of(packed_linear const& packed, matrix<float> const& dense, input_precision inputs, index_t tokens) {
  matrix<float> const x = normal_matrix(tokens, dense.cols(), 3);
  matrix<float> y(tokens, dense.rows());
  forward_into(packed, x.view(), y.view(), {.inputs = inputs});
  double error = 0, size = 0;
  for (index_t t = 0; t < tokens; ++t)
    for (index_t i = 0; i < dense.rows(); ++i) {
      double sum = 0;
      for (index_t j = 0; j < dense.cols(); ++j) sum += static_cast<double>(x(t, j)) * static_cast<double>(dense(i, j));
      error = std::max(error, std::abs(static_cast<double>(y(t, i)) - sum));
      size = std::max(size, std::abs(sum));
    }
  return error / size;
}

/// Counts regions, and runs tasks backwards.
struct counting_executor {
  mutable int regions = 0;

  void for_each(index_t count, task_ref task) const {
    ++regions;
    for (index_t k = count; k-- > 0;) task(k);
  }
  void for_each_in_turn(std::span<task_loop const> loops) const {
    ++regions;
    for (task_loop const& loop : loops)
      for (index_t k = loop.count; k-- > 0;) loop.tasks(k, k + 1);
  }
};

template <class Layer>
void check_layer(Layer const& layer) {
  matrix<float> const dense = decompress(layer);
  packed_linear const packed = pack(layer);
  for (index_t const tokens : {1, 9}) {
    CHECK(error_of(packed, dense, input_precision::exact, tokens) < 1e-5);
    CHECK(error_of(packed, dense, input_precision::int16, tokens) < 5e-4);
    CHECK(error_of(packed, dense, input_precision::int8, tokens) < 2e-2);
  }
}

/// A residual with entries in one weight of `one_in`; row 1 has all columns, row 2 none.
sparse_residual random_residual(index_t rows, index_t cols, number_format format, std::uint64_t one_in, std::uint64_t seed) {
  sparse_residual r{.row_begin = {0}, .columns = {}, .values = {}, .format = format};
  for (index_t i = 0; i < rows; ++i) {
    for (index_t j = 0; j < cols; ++j)
      if (i == 1 || (i != 2 && random_bits(seed, static_cast<std::uint64_t>(i * cols + j)) % one_in == 0)) {
        r.columns.push_back(static_cast<std::int32_t>(j));
        r.values.push_back(
            rounded_to(format, static_cast<float>(random_normal(seed + 1, static_cast<std::uint64_t>(i * cols + j)))));
      }
    r.row_begin.push_back(r.count());
  }
  return r;
}

/// Codes whose groups of 32 columns have 2, 3 and 4 bits and zero points.
integer_codes mixed_codes(index_t rows, index_t cols) {
  integer_codes codes(rows, cols, 4, per_group(32), number_format::fp16);
  codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
  for (index_t g = 0; g < codes.scales.cols(); ++g) codes.group_bits.push_back(static_cast<std::uint8_t>(2 + (g + 1) % 3));
  for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] = 0.125f * static_cast<float>(1 + k % 5);
  codes.encode(normal_matrix(rows, cols, 31).view());
  return codes;
}

/// What a packed layer of codes computes is what the codes stand for.
packed_linear check_codes(any_codes const& codes, adapter const* low_rank = nullptr) {
  matrix<float> dense(codes.rows(), codes.cols());
  codes.dequantize_into(dense.view());
  if (low_rank) low_rank->add_to(dense.view());
  packed_linear packed = pack_linear(codes, nullptr, low_rank);
  for (index_t const tokens : {1, 9}) {
    CHECK(error_of(packed, dense, input_precision::exact, tokens) < 1e-5);
    CHECK(error_of(packed, dense, input_precision::int16, tokens) < 5e-4);
    CHECK(error_of(packed, dense, input_precision::int8, tokens) < 2e-2);
  }
  return packed;
}

} // namespace

TEST_CASE("outliers beside codes, groups of unequal bits and permuted channels run as what they stand for") {
  index_t const rows = 40, cols = 330;
  absmax_quantizer const three({.bits = 3, .block = per_group(32), .symmetric = false, .scale_format = number_format::fp16});
  integer_codes const codes = three.quantize(normal_matrix(rows, cols, 5).view(), calibration(cols));
  with_outliers<integer_codes> const apart{codes, random_residual(rows, cols, number_format::fp16, 50, 7)};
  packed_linear const packed = check_codes(any_codes(apart));
  CHECK(packed.residual);
  CHECK((packed.rows() == rows && packed.cols() == cols));
  CHECK(packed.byte_size() > pack_linear(codes, nullptr, nullptr).byte_size());
  packed_linear const mixed = check_codes(any_codes(mixed_codes(rows, cols)));
  CHECK(mixed.parts.size() == 3);
  CHECK(mixed.notes.empty());
  std::vector<index_t> order(static_cast<std::size_t>(cols));
  for (index_t j = 0; j < cols; ++j) order[static_cast<std::size_t>(j)] = j * 7 % cols;
  using weight = sparse_codes<none, with_outliers<integer_codes>>;
  codes_in_basis<channel_permutation, weight> const moved{
      channel_permutation(order), {{}, {mixed_codes(rows, cols), random_residual(rows, cols, number_format::bf16, 50, 7)}}};
  adapter const lora{.left = normal_matrix(cols, 5, 8),
                     .right = normal_matrix(5, rows, 9),
                     .format = number_format::fp32,
                     .left_codes = {},
                     .right_codes = {},
                     .left_mask = {},
                     .notes = {}};
  packed_linear const all = check_codes(any_codes(moved), &lora);
  CHECK((all.parts.size() == 3 && all.residual && all.left));
  codebook_codes books(rows, cols, 3, per_channel);
  for (index_t k = 0; k < books.books.size(); ++k) books.books.data()[k] = 0.3f * static_cast<float>(k % 8) - 1.0f;
  books.encode(normal_matrix(rows, cols, 5).view());
  packed_linear const noted = pack_linear(any_codes(books), nullptr, nullptr);
  REQUIRE(noted.notes.size() == 1);
  CHECK(noted.notes[0].find("the levels of rows are rounded to multiples of 1/127 of the largest: relative error 0.00") == 0);
}

TEST_CASE("layers in parts share their inputs with layers of the same parts, and give the bits of layers one by one") {
  index_t const rows = 40, cols = 330;
  packed_linear const first = pack_linear(any_codes(mixed_codes(rows, cols)), nullptr, nullptr);
  packed_linear second = first;
  second.residual = pack_residual(random_residual(rows, cols, number_format::fp16, 20, 3), rows, cols);
  absmax_quantizer const four({.bits = 4, .block = per_group(32), .scale_format = number_format::fp16});
  packed_linear const third =
      pack_linear(four.quantize(normal_matrix(rows, cols, 5).view(), calibration(cols)), nullptr, nullptr);
  for (index_t const tokens : {1, 9}) {
    matrix<float> const x = normal_matrix(tokens, cols, 4);
    std::vector<matrix<float>> together(3, matrix<float>(tokens, rows)), apart = together;
    layer_output const outputs[] = {{&first, together[0].view()}, {&second, together[1].view()}, {&third, together[2].view()}};
    forward_into(outputs, x.view());
    for (std::size_t k = 0; k < 3; ++k) forward_into(*outputs[k].layer, x.view(), apart[k].view());
    for (std::size_t k = 0; k < 3; ++k) CHECK(same_bits(together[k], apart[k]));
  }
}

TEST_CASE("a residual's product has the bits of sums with fused products, at every level, for any executor") {
  for (number_format const format : {number_format::fp16, number_format::bf16, number_format::fp32})
    for (auto const& [rows, cols] : std::vector<std::pair<index_t, index_t>>{{1, 5}, {33, 70}, {200, 300}}) {
      sparse_residual const r = random_residual(rows, cols, format, 11, 1);
      packed_residual const packed = pack_residual(r, rows, cols);
      matrix<float> const x = normal_matrix(3, cols, 2);
      matrix<float> expected = normal_matrix(3, rows, 3), y = expected;
      for (index_t t = 0; t < 3; ++t)
        for (index_t i = 0; i < rows; ++i) {
          float sum = 0;
          for (auto k = static_cast<std::size_t>(r.row_begin[static_cast<std::size_t>(i)]);
               k < static_cast<std::size_t>(r.row_begin[static_cast<std::size_t>(i + 1)]); ++k)
            sum = std::fma(r.values[k], x(t, r.columns[k]), sum);
          if (r.row_begin[static_cast<std::size_t>(i)] < r.row_begin[static_cast<std::size_t>(i + 1)]) expected(t, i) += sum;
        }
      for (simd_level const level : slim_test::simd_levels()) {
        matrix<float> found = y;
        for (index_t task = packed.tasks(); task-- > 0;) packed.add_tasks(task, task + 1, x.view(), found.view(), level);
        CHECK(same_bits(found, expected));
      }
    }
  packed_residual const none = pack_residual(random_residual(3, 0, number_format::fp16, 2, 1), 3, 0);
  CHECK((none.tasks() == 0 && none.byte_size() == 0));
  CHECK_THROWS_AS(pack_residual(random_residual(1, 1, number_format::fp16, 1, 1), 1, 65537), config_error);
}

TEST_CASE("a packed 2:4 layer with adapters in 4 bits or floats computes what its dense weight computes") {
  matrix<float> const w = normal_matrix(70, 200, 1);
  calibration const calib = observed(normal_matrix(300, 200, 2));
  auto const codes = slim_quantizer({.bits = 4, .block = per_group(128), .scale_format = number_format::fp16});
  auto const sparse = nm_pruner<2, 4>(wanda{});
  auto const lora = slim_lora({.rank = {.number = 20}});
  absmax_quantizer const rounding({.bits = 4, .block = per_column_group(128), .scale_format = number_format::fp16});
  auto const floats = compress(w, calib, chain(codes, sparse, lora));
  check_layer(floats);
  auto const four_bits = compress(w, calib, chain(codes, sparse, quantized_adapter(lora, rounding)));
  check_layer(four_bits);
  packed_linear const packed = pack(four_bits);
  CHECK(packed.rank() == 20);
  CHECK(packed.byte_size() < pack(floats).byte_size());
  for (number_format const format : {number_format::bf16, number_format::fp16}) {
    auto const halves = compress(w, calib, chain(codes, sparse, slim_lora({.rank = {.number = 20}, .format = format})));
    check_layer(halves);
    CHECK(pack(halves).byte_size() < pack(floats).byte_size());
  }
}

TEST_CASE("a layer without adapter or mask packs too, and a left factor pruned 2:4 runs as 2:4") {
  matrix<float> const w = normal_matrix(40, 64, 1);
  calibration const calib = observed(normal_matrix(300, 64, 2));
  absmax_quantizer const rounding({.bits = 4, .block = per_group(32), .scale_format = number_format::fp16});
  auto const plain = compress(w, calib, chain(rounding));
  packed_linear const packed = pack(plain);
  CHECK(packed.rank() == 0);
  CHECK(error_of(packed, decompress(plain), input_precision::exact, 3) < 1e-5);

  absmax_quantizer const columns({.bits = 4, .block = per_column_group(32), .scale_format = number_format::fp16});
  auto lora = compress(w, calib, chain(rounding, quantized_adapter(slim_lora({.rank = {.number = 8}}), columns)));
  mask kept(8, 64, {2, 4});
  for (index_t i = 0; i < 8; ++i)
    for (index_t j = 0; j < 64; ++j)
      if (j % 4 == i % 4 || j % 4 == (i + 1) % 4) kept.keep(i, j);
  for (index_t i = 0; i < 8; ++i)
    for (index_t j = 0; j < 64; ++j)
      if (!kept.kept(i, j)) {
        lora.adapter.left(j, i) = 0.0f;
        lora.adapter.left_codes->codes(j, i) = 0;
      }
  lora.adapter.left_mask = kept;
  CHECK(pack(lora).left->layout().kind == r16_kind::sparse24);
  CHECK(error_of(pack(lora), decompress(lora), input_precision::exact, 3) < 1e-5);
}

TEST_CASE("a layer and its adapter take one parallel region, and the order of the tasks does not show") {
  matrix<float> const w = normal_matrix(300, 200, 1);
  calibration const calib = observed(normal_matrix(300, 200, 2));
  absmax_quantizer const rounding({.bits = 4, .block = per_group(128), .scale_format = number_format::fp16});
  absmax_quantizer const columns({.bits = 4, .block = per_column_group(128), .scale_format = number_format::fp16});
  auto const layer = compress(w, calib, chain(rounding, quantized_adapter(slim_lora({.rank = {.number = 90}}), columns)));
  packed_linear const packed = pack(layer);
  serial_executor const serial;
  thread_team_executor const team{3};
  for (auto const inputs : {input_precision::int8, input_precision::exact})
    for (index_t const tokens : {1, 5}) {
      counting_executor const counting;
      matrix<float> const x = normal_matrix(tokens, 200, 3);
      matrix<float> expected(tokens, 300), y(tokens, 300);
      forward_into(packed, x.view(), expected.view(), {.inputs = inputs}, on(serial));
      for (context const& ctx : {on(counting), on(team), context{}}) {
        forward_into(packed, x.view(), y.view(), {.inputs = inputs}, ctx);
        REQUIRE(same_bits(y, expected));
      }
      CHECK(counting.regions == 1);
      forward_into(packed, x.view(), y.view(), {.inputs = inputs, .add = true});
      for (index_t k = 0; k < y.size(); ++k) REQUIRE(y.data()[k] == Approx(2 * expected.data()[k]).margin(1e-4));
    }
}

TEST_CASE("layers that read the same inputs give together what their matrices give one by one, in one parallel region") {
  index_t const cols = 200;
  auto const codes_of = [&](index_t rows, index_t width, std::uint64_t seed, int bits) {
    return absmax_quantizer({.bits = bits, .block = per_group(128), .scale_format = number_format::fp16})
        .quantize(normal_matrix(rows, width, seed).view(), calibration(width));
  };
  mask const kept = nm_pruner<2, 4>(magnitude{}).select(normal_matrix(90, cols, 1), calibration(cols));
  std::vector<packed_linear> layers;
  layers.push_back(
      {pack_r16(codes_of(90, cols, 1, 4), kept), pack_r16(codes_of(20, cols, 2, 4)), pack_r16(codes_of(90, 20, 3, 4))});
  layers.push_back({pack_r16(codes_of(16, cols, 4, 3)), {}, {}});
  layers.push_back({pack_r16(codes_of(0, cols, 5, 4)), {}, {}});
  layers.push_back({pack_r16(codes_of(33, cols, 6, 8)), pack_r16(normal_matrix(7, cols, 7).view(), number_format::fp16),
                    pack_r16(normal_matrix(33, 7, 8).view(), number_format::fp16)});
  thread_team_executor const team{3};
  for (auto const inputs : {input_precision::int8, input_precision::int16, input_precision::exact})
    for (index_t const tokens : {0, 1, 2, 5, 70})
      for (bool const add : {false, true}) {
        matrix<float> const x = normal_matrix(tokens, cols, 9);
        std::vector<matrix<float>> apart; // matrix by matrix
        for (packed_linear const& layer : layers) {
          apart.push_back(normal_matrix(tokens, layer.weight.rows(), 10));
          matrix_view<float> const y = apart.back().view();
          linear_into(layer.weight, x.view(), y, {.inputs = inputs, .add = add});
          if (!layer.left) continue;
          matrix<float> inner(tokens, layer.rank());
          linear_into(*layer.left, x.view(), inner.view(), {.inputs = inputs});
          linear_into(*layer.right, inner.view(), y, {.inputs = inputs, .add = true});
        }
        counting_executor const counting;
        for (context const& ctx : {on(counting), on(team), context{}}) {
          std::vector<matrix<float>> together;
          for (packed_linear const& layer : layers) together.push_back(normal_matrix(tokens, layer.weight.rows(), 10));
          std::vector<layer_output> outputs;
          for (std::size_t k = 0; k < layers.size(); ++k) outputs.push_back({&layers[k], together[k].view()});
          forward_into(outputs, x.view(), {.inputs = inputs, .add = add}, ctx);
          for (std::size_t k = 0; k < layers.size(); ++k) REQUIRE(same_bits(together[k], apart[k]));
        }
        if (tokens == 1 || tokens == 2) CHECK(counting.regions == 1);
      }
  forward_into(std::span<layer_output const>{}, normal_matrix(2, 3, 1).view());
  matrix<float> narrow(1, 15), wide(1, 90);
  layer_output const wrong[] = {{&layers[0], wide.view()}, {&layers[1], narrow.view()}};
  CHECK_THROWS_AS(forward_into(wrong, normal_matrix(1, cols, 1).view()), shape_error);
}

TEST_CASE("forward_into takes and fills matrices of any type and order") {
  matrix<float> const w = normal_matrix(20, 64, 1);
  auto const layer = compress(w, chain(absmax_quantizer({.bits = 4, .scale_format = number_format::fp16})));
  packed_linear const packed = pack(layer);
  matrix<float> const x = normal_matrix(3, 64, 2);
  matrix<float> expected(3, 20);
  forward_into(packed, x.view(), expected.view());
  Eigen::MatrixXd const columns =
      Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> const>(x.data(), 3, 64).cast<double>();
  Eigen::MatrixXd y = Eigen::MatrixXd::Constant(3, 20, 1.0);
  forward_into(packed, columns, y);
  for (index_t t = 0; t < 3; ++t)
    for (index_t j = 0; j < 20; ++j) REQUIRE(y(t, j) == static_cast<double>(expected(t, j)));
  forward_into(packed, columns, y, {.add = true});
  CHECK(y(2, 19) == Approx(2 * static_cast<double>(expected(2, 19))));
  Eigen::MatrixXd narrow(3, 19);
  CHECK_THROWS_AS(forward_into(packed, columns, narrow), shape_error);
}

TEST_CASE("codes have a transpose, blocks and zero points with them") {
  matrix<float> const w = normal_matrix(7, 50, 5);
  absmax_quantizer const rounding({.bits = 3, .block = per_group(16), .symmetric = false});
  integer_codes const codes = rounding.quantize(w.view(), calibration(50));
  integer_codes const turned = transposed(codes);
  for (index_t i = 0; i < 7; ++i)
    for (index_t j = 0; j < 50; ++j) REQUIRE(turned.value(j, i) == codes.value(i, j));
  integer_codes scaled = codes;
  scaled.channel_factors.assign(50, 2.0f);
  CHECK_THROWS_AS(transposed(scaled), config_error);
}

TEST_CASE("the inputs of a layer and its adapter are rounded once, and to the same codes as apart") {
  calibration const none(300);
  matrix<float> const w = normal_matrix(50, 300, 1), down = normal_matrix(20, 300, 2), up = normal_matrix(50, 20, 3);
  mask const kept = nm_pruner<2, 4>(magnitude{}).select(matrix_view<float const>(w.view()), none);
  auto const codes_of = [&](matrix<float> const& m, scale_block block) {
    return absmax_quantizer({.bits = 4, .block = block, .scale_format = number_format::fp16})
        .quantize(m.view(), calibration(m.cols()));
  };
  integer_codes scaled = codes_of(w, per_group(128)); // what channels are multiplied by is W's alone
  scaled.channel_factors.assign(300, 2.0f);
  r16_matrix const right = pack_r16(codes_of(up, per_group(128)));
  for (scale_block const of_left : {per_group(128), per_group(32), per_channel}) {
    r16_matrix const left = pack_r16(codes_of(down, of_left));
    for (integer_codes const& codes : {codes_of(w, per_group(128)), codes_of(w, per_channel), scaled})
      for (bool const sparse : {false, true})
        for (input_precision const inputs : {input_precision::int8, input_precision::int8_128, input_precision::int16})
          for (index_t const tokens : {1, 2, 7, 70}) {
            packed_linear const layer{sparse ? pack_r16(codes, kept) : pack_r16(codes), left, right};
            matrix<float> const x = normal_matrix(tokens, 300, 4);
            matrix<float> together(tokens, 50), apart(tokens, 50), inner(tokens, 20);
            forward_into(layer, x.view(), together.view(), {.inputs = inputs});
            linear_into(layer.weight, x.view(), apart.view(), {.inputs = inputs});
            linear_into(left, x.view(), inner.view(), {.inputs = inputs});
            linear_into(right, inner.view(), apart.view(), {.inputs = inputs, .add = true});
            REQUIRE(same_bits(together, apart));
          }
  }
}
