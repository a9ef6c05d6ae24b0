// The kernels' own source, run on the host (host_warp.hpp), against the definition of the product. Integers small enough that
// every sum is exact in any order: outputs are equal bit for bit. The same products run on a GPU in bench/cuda.

#include "emulated_layers.hpp"

#include <catch2/catch.hpp>

// forward_test.cpp has the same kernels from here.
#define SLIM_EMULATED(N)                                                                                                       \
  template slim_test::emulated slim_test::run_launch<N, 1>(slim::cuda::kernel_plan const&, slim_test::emulation const&);       \
  template slim_test::emulated slim_test::run_launch<N, 2>(slim::cuda::kernel_plan const&, slim_test::emulation const&);       \
  template slim_test::emulated slim_test::run_launch<N, 4>(slim::cuda::kernel_plan const&, slim_test::emulation const&);       \
  template slim_test::emulated slim_test::run_launch<N, 8>(slim::cuda::kernel_plan const&, slim_test::emulation const&);       \
  template slim_test::emulated slim_test::run_dequantize<N>(slim::cuda::dequantize_plan const&, slim_test::emulation const&);
SLIM_EMULATED(slim::number_format::fp16)
SLIM_EMULATED(slim::number_format::bf16)

namespace {

using namespace slim_test;
using slim::index_t;
using slim::number_format;

/// Outputs (and numbers between the rows of Y) that differ from the definition.
template <number_format N>
int wrong_outputs(product_case const& p) {
  std::vector<slim::device_bytes> bytes;
  std::vector<half_rows> y;
  for (std::size_t k = 0; k < p.layers.size(); ++k) {
    bytes.push_back(p.layer(k).packed(N));
    y.push_back(p.before<N>(k));
  }
  emulated const run = emulate<N>(bytes, in_halves<N>(p.x(), p.x_stride()), y, p.add, p.ctas, p.how);
  CHECK(run.complaint == "");
  CHECK(run.bank_conflicts == 0);
  int wrong = 0;
  for (std::size_t k = 0; k < p.layers.size(); ++k) {
    half_rows const want = p.expected<N>(k);
    for (std::size_t i = 0; i < want.bits.size(); ++i) wrong += y[k].bits[i] == want.bits[i] ? 0 : 1;
  }
  return wrong;
}

/// An atom that holds every code at every place, with other zero points in every row: fragments are code - zero, in the place
/// that the tensor core takes them from.
template <number_format N, slim::device_kind K>
int wrong_fragments() {
  constexpr int bits = slim::stored_bits(K), codes = 1 << bits;
  int wrong = 0;
  for (int shift = 0; shift < codes; ++shift) {
    std::vector<std::byte> atom(slim::word_bytes(K) + 16);
    auto const code = [&](int row, int col) { return (row + col + shift) % codes; };
    auto const zero = [&](int row) { return (row + shift) % (codes + 1); };
    for (int row = 0; row < 16; ++row) {
      for (int col = 0; col < 128; ++col)
        slim::detail::set_dense<K>(slim::detail::places_of_dense<K>(), atom.data(), row, col,
                                   static_cast<unsigned>(code(row, col)));
      atom[static_cast<std::size_t>(slim::word_bytes(K) + row)] = static_cast<std::byte>(zero(row));
    }
    host_cta cta(static_cast<int>(atom.size()), {});
    for (int at = 0; at < static_cast<int>(atom.size()); at += 16) cta.shared.write(at, atom.data() + at, 16);
    host_warp w(cta, 0);
    slim::cuda::code_fragments<N, K, host_warp> fragments;
    fragments.load(w, 0);
    for (int r = 0; r < 2; ++r) fragments.zeros.set(w, r, w.row_byte(slim::word_bytes(K), r));
    for (int p = 0; p < 32; ++p) {
      word const pair = fragments.pair(w, p);
      for (std::size_t lane = 0; lane < 32; ++lane)
        for (int half = 0; half < 2; ++half) {
          int const row = static_cast<int>(lane) / 4 + 8 * (p % 2),
                    col = 16 * (p / 4) + 2 * (static_cast<int>(lane) % 4) + half + 8 * (p % 4 / 2);
          wrong += value_of<N>(half_of(pair.v[lane], half)) == static_cast<float>(code(row, col) - zero(row)) ? 0 : 1;
        }
    }
  }
  return wrong;
}

} // namespace

TEST_CASE("products on the emulated GPU are those of the definition, bit for bit") {
  for (product_case const& p : hard_products()) {
    INFO(name_of(p) << ", " << p.ctas << " CTAs, bulk " << p.how.bulk << ", early " << p.how.early);
    if (p.numbers == number_format::fp16)
      REQUIRE(wrong_outputs<number_format::fp16>(p) == 0);
    else
      REQUIRE(wrong_outputs<number_format::bf16>(p) == 0);
  }
}

TEST_CASE("layers written out as dense matrices give the products of W + R^T L^T, bit for bit") {
  auto const wrong = []<number_format N>(product_case const& p, std::size_t k) {
    half_rows const want = p.expected_by_dense<N>(k);
    half_rows found = p.before<N>(k);
    emulated const run = emulate_dense<N>(p.layer(k).packed(N), in_halves<N>(p.x(), p.x_stride()), found, p.add, p.how);
    CHECK(run.complaint == "");
    CHECK(run.bank_conflicts == 0);
    int count = 0;
    for (std::size_t i = 0; i < want.bits.size(); ++i) count += found.bits[i] == want.bits[i] ? 0 : 1;
    return count;
  };
  std::vector<product_case> products = hard_products();
  for (number_format const numbers : {number_format::fp16, number_format::bf16}) { // scales that no number is exact with
    layer_case const groups{
        .rows = 40, .cols = 300, .rank = 20, .bits = 3, .block = slim::per_group(64), .zeros = true, .arbitrary = true};
    layer_case const rows{.rows = 20, .cols = 140, .rank = 3, .bits = 4, .sparse = true, .arbitrary = true};
    products.push_back({.layers = {groups}, .numbers = numbers, .tokens = 3, .how = {.bulk = false}});
    products.push_back({.layers = {rows}, .numbers = numbers, .tokens = 3, .how = {.bulk = false}});
  }
  for (product_case const& p : products) {
    if (p.layers.size() > 1 && p.ctas != 1) continue; // the same layers again
    for (std::size_t k = 0; k < p.layers.size(); ++k) {
      INFO(name_of(p) << ", layer " << k);
      if (p.numbers == number_format::fp16)
        REQUIRE(wrong.operator()<number_format::fp16>(p, k) == 0);
      else
        REQUIRE(wrong.operator()<number_format::bf16>(p, k) == 0);
    }
  }
}

TEST_CASE("dense products take what fits an int and overlaps nowhere") {
  slim::device_header const h{.rows = 64, .cols = 100};
  CHECK(slim::cuda::fits_dense_product(h, 1000, 100, 64));
  CHECK_FALSE(slim::cuda::fits_dense_product(h, 1000, 99, 64));
  CHECK_FALSE(slim::cuda::fits_dense_product(h, 1000, 100, -64));
  CHECK_FALSE(slim::cuda::fits_dense_product(h, 1000, index_t{1} << 31, 64));
  CHECK_FALSE(slim::cuda::fits_dense_product(h, index_t{1} << 31, 100, 64));
  CHECK_FALSE(slim::cuda::fits_dense_product({.rows = 0, .cols = 100}, 1000, 100, 64));
}

TEST_CASE("products of arbitrary numbers stay within the bound of their roundings") {
  // Of every output: codes and X are exact, K products are added in float, scales are float, X L and Y are rounded to 11 bits.
  layer_case const c{
      .rows = 40, .cols = 300, .rank = 20, .bits = 3, .block = slim::per_group(64), .zeros = true, .arbitrary = true};
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    made_layer const layer = make_layer(c, seed);
    slim::matrix<float> x(9, c.cols);
    draws next{seed};
    for (index_t k = 0; k < x.size(); ++k)
      x.data()[k] = slim::rounded_to(number_format::fp16, static_cast<float>(next(2001)) / 1000.0f - 1.0f);
    std::vector<half_rows> y;
    y.emplace_back(9, c.rows, c.rows);
    emulated const run = emulate<number_format::fp16>({layer.packed(number_format::fp16)},
                                                      in_halves<number_format::fp16>(x, 304), y, false, 3, {.bulk = true});
    CHECK(run.complaint == "");
    slim::matrix<double> const want = product_by_definition<number_format::fp16>(layer, x);
    // The same sums of absolute values bound what roundings can move.
    slim::matrix<float> w(c.rows, c.cols), size(9, c.cols);
    std::get<slim::integer_codes>(layer.codes).dequantize_into(w.view());
    for (index_t t = 0; t < 9; ++t)
      for (index_t i = 0; i < c.rows; ++i) {
        double total = 0, through = 0;
        for (index_t j = 0; j < c.cols; ++j) total += std::abs(static_cast<double>(w(i, j)) * static_cast<double>(x(t, j)));
        for (index_t r = 0; r < c.rank; ++r) {
          double inner = 0;
          for (index_t j = 0; j < c.cols; ++j)
            inner += std::abs(static_cast<double>(layer.adapter->left(j, r)) * static_cast<double>(x(t, j)));
          through += inner * std::abs(static_cast<double>(layer.adapter->right(r, i)));
        }
        // X L may round to the other neighbour where its float sum falls across a tie: one unit of 2^-10.
        double const bound = std::abs(want(t, i)) * 0x1p-11 + (total + through) * 320.0 * 0x1p-23 + through * 0x1p-10;
        double const got = static_cast<double>(value_of<number_format::fp16>(y[0](t, i)));
        REQUIRE(std::abs(got - want(t, i)) <= bound);
      }
  }
}

TEMPLATE_TEST_CASE_SIG("every code becomes its number, of every width and zero point", "", ((number_format N), N),
                       number_format::fp16, number_format::bf16) {
  CHECK(wrong_fragments<N, slim::device_kind::dense2>() == 0);
  CHECK(wrong_fragments<N, slim::device_kind::dense3>() == 0);
  CHECK(wrong_fragments<N, slim::device_kind::dense4>() == 0);
}

TEST_CASE("the operations that a GPU's are compared with all run") {
  std::vector<std::uint32_t> found(32 * trial_words);
  std::vector<std::uint8_t> const bytes = trial_input<number_format::fp16>(1);
  run_trial<number_format::fp16>(bytes, found);
  CHECK(std::count(found.begin(), found.end(), 0xdeadbeefu) == 0);
}
