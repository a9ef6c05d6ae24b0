// The sample of tokens that a calibration keeps on request.

#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include <catch2/catch.hpp>

#include <numeric>

using namespace slim;
using namespace slim::testing;

namespace {

matrix<float> rows_of(matrix<float> const& x, index_t begin, index_t end) {
  return matrix<float>(x.view().middle_rows(begin, end - begin));
}

/// The definition, by sorting: the `wanted` rows of X whose indices draw the lowest numbers, in order.
matrix<float> lowest_rows(matrix<float> const& x, index_t wanted, std::uint64_t seed, std::uint64_t first = 0) {
  std::vector<index_t> order(static_cast<std::size_t>(x.rows()));
  std::iota(order.begin(), order.end(), index_t{0});
  auto const number = [&](index_t t) { return random_bits(seed, first + static_cast<std::uint64_t>(t)); };
  std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) { return number(a) < number(b); });
  order.resize(std::min(order.size(), static_cast<std::size_t>(wanted)));
  std::sort(order.begin(), order.end());
  matrix<float> rows(static_cast<index_t>(order.size()), x.cols());
  for (index_t k = 0; k < rows.rows(); ++k)
    for (index_t j = 0; j < x.cols(); ++j) rows(k, j) = x(order[static_cast<std::size_t>(k)], j);
  return rows;
}

matrix<float> samples_of(calibration const& calib) { return matrix<float>(calib.samples()); }

} // namespace

TEST_CASE("the sample is the tokens of the lowest numbers, in their order") {
  index_t const channels = GENERATE(0, 1, 5), tokens = GENERATE(0, 1, 2, 29, 300), wanted = GENERATE(0, 1, 7, 29, 400);
  matrix<float> const x = normal_matrix(tokens, channels, 1);
  calibration const calib = observed(x, {.samples = wanted, .sample_seed = 3});
  CHECK(calib.samples().rows() == std::min(tokens, wanted));
  CHECK(calib.samples().cols() == channels);
  CHECK(same_bits(samples_of(calib), lowest_rows(x, wanted, 3)));
}

TEST_CASE("the sample does not depend on batches, executors and the layout of X") {
  matrix<float> const x = normal_matrix(211, 6, 2);
  calibration_config const config{.gram = true, .samples = 20};
  matrix<float> const whole = samples_of(observed(x, config));
  REQUIRE(same_bits(whole, lowest_rows(x, 20, 0)));
  for (index_t const batch : {1, 2, 19, 20, 21, 128, 210}) {
    INFO("batches of " << batch);
    calibration cut(6, config), other(6, config);
    for (index_t t = 0; t < 211; t += batch) {
      cut.observe(rows_of(x, t, std::min<index_t>(t + batch, 211)).view(), on(thread_team_executor{3}));
      cut.observe(matrix<float>(0, 6).view());
      other.observe(rows_of(x, t, std::min<index_t>(t + batch, 211)).view(), on(backwards_executor{}));
    }
    CHECK(same_bits(samples_of(cut), whole));
    CHECK(same_bits(samples_of(other), whole));
  }
  matrix<float> wide(211, 9);
  for (index_t t = 0; t < 211; ++t)
    for (index_t j = 0; j < 6; ++j) wide(t, j + 2) = x(t, j);
  calibration strided_rows(6, config);
  strided_rows.observe(matrix_view<float const>(wide.view().block(0, 2, 211, 6)));
  CHECK(same_bits(samples_of(strided_rows), whole));
}

TEST_CASE("every token has the same chance to be kept") {
  matrix<float> x(50, 1);
  for (index_t t = 0; t < 50; ++t) x(t, 0) = static_cast<float>(t);
  std::vector<int> kept(50);
  int neighbours = 0; // both 10 and 11
  constexpr int seeds = 4000;
  for (int seed = 0; seed < seeds; ++seed) {
    calibration const calib = observed(x, {.samples = 10, .sample_seed = static_cast<std::uint64_t>(seed)});
    bool ten = false;
    for (index_t k = 0; k < 10; ++k) {
      auto const t = static_cast<std::size_t>(calib.samples()(k, 0));
      ++kept[t];
      if (t == 10) ten = true;
      if (t == 11 && ten) ++neighbours;
    }
  }
  double chi_square = 0; // 49 degrees of freedom, variance of a cell reduced by choosing without repetition
  double const expected = seeds * 0.2;
  for (int const n : kept) chi_square += (n - expected) * (n - expected) / (expected * 0.8);
  CHECK(chi_square < 49 + 4 * std::sqrt(2.0 * 49));
  CHECK(neighbours == Approx(seeds * 10.0 / 50 * 9 / 49).epsilon(0.25));
}

TEST_CASE("shards that know where they begin keep the sample of the whole text when merged in order") {
  index_t const wanted = GENERATE(1, 8, 60, 500);
  matrix<float> const x = normal_matrix(200, 4, 5);
  calibration_config const config{.gram = true, .samples = wanted, .sample_seed = 9, .first_token = 1000};
  auto const shard = [&](index_t begin, index_t end) {
    calibration_config part = config;
    part.first_token += static_cast<std::uint64_t>(begin);
    return observed(rows_of(x, begin, end), part);
  };
  calibration const whole = observed(x, config);
  REQUIRE(same_bits(samples_of(whole), lowest_rows(x, wanted, 9, 1000)));
  calibration left = shard(0, 3);
  left.merge(shard(3, 3));
  left.merge(shard(3, 120));
  left.merge(shard(120, 200));
  CHECK(same_bits(samples_of(left), samples_of(whole)));
  calibration right = shard(120, 150), first = shard(0, 120); // another bracketing
  right.merge(shard(150, 200));
  first.merge(right);
  CHECK(same_bits(samples_of(first), samples_of(whole)));
  calibration resumed = shard(0, 70); // merged, then observed on
  resumed.merge(shard(70, 90));
  resumed.observe(rows_of(x, 90, 200).view());
  CHECK(same_bits(samples_of(resumed), samples_of(whole)));
}

TEST_CASE("merging streams of the same indices keeps all tokens of the lowest numbers, the first stream's first") {
  matrix<float> const x = normal_matrix(30, 2, 6), y = normal_matrix(30, 2, 7);
  calibration_config const config{.samples = 8};
  calibration a = observed(x, config);
  a.merge(observed(y, config));
  REQUIRE(a.samples().rows() == 8);
  matrix<float> const of_x = lowest_rows(x, 4, 0), of_y = lowest_rows(y, 4, 0);
  CHECK(same_bits(matrix<float>(a.samples().middle_rows(0, 4)), of_x));
  CHECK(same_bits(matrix<float>(a.samples().middle_rows(4, 4)), of_y));
  calibration self = observed(x, config);
  self.merge(self);
  CHECK(same_bits(matrix<float>(self.samples().middle_rows(4, 4)), of_x));
  CHECK(self.tokens() == 60);
}

TEST_CASE("a calibration that cannot be merged is left as it was") {
  matrix<float> const x = normal_matrix(9, 3, 8);
  calibration a = observed(x, {.samples = 4});
  a.hold_out(observed(x, {.samples = 2}));
  matrix<float> const before = samples_of(a);
  CHECK_THROWS_AS(a.merge(observed(x, {.samples = 5})), config_error);
  CHECK_THROWS_AS(a.merge(observed(x, {.samples = 4, .sample_seed = 1})), config_error);
  calibration b = observed(x, {.samples = 4});
  b.hold_out(observed(x)); // what is held out does not fit
  CHECK_THROWS_AS(a.merge(b), config_error);
  CHECK(a.tokens() == 9);
  CHECK(a.mean_square() == observed(x).mean_square());
  CHECK(same_bits(samples_of(a), before));
  CHECK_THROWS_AS(calibration(3, {.samples = -1}), config_error);
  CHECK_THROWS_AS(b.hold_out(a), config_error);
}

TEST_CASE("the sample goes along: other channels, some outputs, tokens held out, zeroed activations") {
  matrix<float> x = normal_matrix(40, 3, 9);
  matrix<float> const y = normal_matrix(40, 4, 10);
  calibration calib(3, {.outputs = 4, .samples = 6});
  calib.observe(x.view(), y.view());
  calib.hold_out(observed(x, {.samples = 2}));
  matrix<float> const kept = lowest_rows(x, 6, 0);
  calibration const moved = calib.remapped(std::vector<index_t>{2, 0}, std::vector<double>{-0.5, 3.0});
  REQUIRE(moved.samples().rows() == 6);
  for (index_t t = 0; t < 6; ++t) {
    CHECK(moved.samples()(t, 0) == -0.5f * kept(t, 2));
    CHECK(moved.samples()(t, 1) == static_cast<float>(3.0 * static_cast<double>(kept(t, 0))));
  }
  CHECK(same_bits(matrix<float>(moved.held_out()->samples().block(0, 1, 2, 1)),
                  mapped(matrix<float>(lowest_rows(x, 2, 0).view().block(0, 0, 2, 1)),
                         [](float v) { return static_cast<float>(3.0 * static_cast<double>(v)); })));
  CHECK(same_bits(samples_of(calib.for_outputs(1, 2)), kept));

  calibration merged = moved; // a remapped calibration can be merged and observed on
  merged.merge(moved);
  CHECK(merged.samples().rows() == 6);

  x(3, 1) = std::numeric_limits<float>::infinity();
  calibration zeroed(3, {.samples = 100});
  zeroed.observe(x, {.on_nonfinite = nonfinite::zero});
  CHECK(zeroed.samples()(3, 1) == 0.0f);
  CHECK_THROWS_AS(zeroed.observe(x), nonfinite_error);
  CHECK(zeroed.samples().rows() == 40);
}
