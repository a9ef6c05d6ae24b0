// The kernels' own source, run on the host (host_warp.hpp), against the definition of the product. Integers small enough that
// every sum is exact in any order: outputs are equal bit for bit.

#include "emulated_layers.hpp"

#include <catch2/catch.hpp>

namespace {

using namespace slim_test;
using slim::index_t;
using slim::number_format;

/// Outputs that differ from the definition, of layers that read one X in one product.
template <number_format N>
int wrong_outputs(std::vector<layer_case> const& cases, index_t tokens, int ctas, emulation const& how, std::uint64_t seed,
                  bool add = false, index_t odd = 0) {
  std::vector<made_layer> layers;
  std::vector<slim::device_bytes> bytes;
  std::vector<half_rows> y;
  slim::matrix<float> const x = small_integers(tokens, cases.front().cols, 2, seed + 5);
  for (std::size_t k = 0; k < cases.size(); ++k) {
    layers.push_back(make_layer(cases[k], seed + 100 * k));
    bytes.push_back(layers.back().packed(N));
    y.emplace_back(tokens, cases[k].rows, cases[k].rows + 3);
    if (add) y.back() = in_halves<N>(small_integers(tokens, cases[k].rows, 8, seed + 9), cases[k].rows + 3);
  }
  std::vector<half_rows> const before = y;
  index_t const stride = odd != 0 ? x.cols() + odd : (x.cols() + 7) / 8 * 8;
  emulated const run = emulate<N>(bytes, in_halves<N>(x, stride), y, add, ctas, how);
  CHECK(run.complaint == "");
  CHECK(run.bank_conflicts == 0);
  int wrong = 0;
  for (std::size_t k = 0; k < cases.size(); ++k) {
    slim::matrix<double> const want = product_by_definition<N>(layers[k], x);
    half_rows old = before[k];
    for (index_t t = 0; t < tokens; ++t)
      for (index_t i = 0; i < want.cols(); ++i) {
        double const sum = want(t, i) + (add ? static_cast<double>(value_of<N>(old(t, i))) : 0.0);
        wrong += y[k](t, i) == bits_of<N>(static_cast<float>(sum)) ? 0 : 1;
      }
    for (index_t t = 0; t < tokens; ++t)
      for (index_t i = want.cols(); i < y[k].stride; ++i)
        wrong += y[k](t, i) == 0x7fff ? 0 : 1; // nothing is written behind rows
  }
  return wrong;
}

std::string name_of(layer_case const& c) {
  return slim::message(c.rows, " x ", c.cols, ", ", c.bits, " bits", c.sparse ? " 2:4" : "", ", ", slim::describe(c.block),
                       c.zeros ? ", zero points" : "", ", rank ", c.rank);
}

slim::scale_block const blocks[] = {slim::per_channel,   slim::per_group(32),  slim::per_tensor,
                                    slim::per_group(64), slim::per_group(128), slim::per_group(256)};

} // namespace

TEST_CASE("products on the emulated GPU are those of the definition, bit for bit") {
  index_t const rows[] = {16, 80, 1, 129, 64}, cols[] = {128, 136, 384, 5, 300}, ranks[] = {0, 64, 1, 130},
                tokens[] = {1, 7, 8, 9, 16, 17, 33};
  int const ctas[] = {1, 3, 7};
  int const widths[] = {2, 3, 4, 16};
  std::uint64_t seed = 1;
  for (int width : widths)
    for (bool const sparse : {false, true})
      for (slim::scale_block const block : blocks)
        for (bool const zeros : {false, true}) {
          if (width == 16 && (sparse || zeros || block != slim::per_channel)) continue;
          if (sparse && (zeros || width == 2)) continue;
          for (int round = 0; round < 2; ++round, ++seed) {
            layer_case const c{.rows = rows[seed % 5],
                               .cols = block.cols == 256 ? 384 : cols[seed / 2 % 5],
                               .rank = ranks[seed % 4],
                               .bits = width,
                               .sparse = sparse,
                               .block = block,
                               .zeros = zeros,
                               .left_bits = seed % 3 == 0 ? 16 : 4,
                               .right_bits = seed % 5 == 0 ? 16 : 4,
                               .left_sparse = seed % 7 == 0 && seed % 3 != 0};
            emulation const how{.bulk = seed % 2 == 0, .early = seed % 5 == 1};
            INFO(name_of(c) << ", " << tokens[seed % 7] << " tokens, " << ctas[seed % 3] << " CTAs, seed " << seed);
            if (round == 0)
              REQUIRE(wrong_outputs<number_format::fp16>({c}, tokens[seed % 7], ctas[seed % 3], how, seed) == 0);
            else
              REQUIRE(wrong_outputs<number_format::bf16>({c}, tokens[seed % 7], ctas[seed % 3], how, seed) == 0);
          }
        }
}

TEST_CASE("several layers that read one X run in one launch, added to what Y holds, from rows that are not aligned") {
  layer_case const q{.rows = 144, .cols = 300, .rank = 64, .bits = 3, .block = slim::per_group(128), .zeros = true};
  layer_case const k{.rows = 16, .cols = 300, .rank = 0, .bits = 4, .sparse = true, .block = slim::per_channel};
  layer_case const v{.rows = 40, .cols = 300, .rank = 130, .bits = 2, .block = slim::per_group(32), .left_bits = 16};
  layer_case const none{.rows = 0, .cols = 300, .rank = 0, .bits = 4};
  for (int const ctas : {1, 3, 7})
    for (bool const bulk : {false, true}) {
      INFO(ctas << " CTAs");
      CHECK(wrong_outputs<number_format::fp16>({q, k, none, v}, 9, ctas, {.bulk = bulk}, 3) == 0);
      CHECK(wrong_outputs<number_format::fp16>({q, k, v}, 9, ctas, {.bulk = bulk}, 4, true) == 0);
      CHECK(wrong_outputs<number_format::bf16>({v, q}, 3, ctas, {.bulk = bulk}, 5, true, 1) == 0);
    }
}
