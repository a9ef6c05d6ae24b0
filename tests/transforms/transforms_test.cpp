#include "slim/testing/transform_laws.hpp"
#include "slim/transforms/channel_permutation.hpp"
#include "slim/transforms/channel_scaling.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

/// Some order of so many channels, neither the identity nor its own inverse where there are enough.
channel_permutation shuffled(index_t channels, std::uint64_t seed = 9) {
  std::vector<index_t> order = channel_permutation::identity(channels).order();
  for (index_t j = channels - 1; j > 0; --j) {
    auto const other =
        static_cast<std::size_t>(random_bits(seed, static_cast<std::uint64_t>(j)) % static_cast<std::uint64_t>(j + 1));
    std::swap(order[static_cast<std::size_t>(j)], order[other]);
  }
  return channel_permutation(std::move(order));
}

channel_scaling scaled(index_t channels) {
  std::vector<float> factors;
  for (index_t j = 0; j < channels; ++j)
    factors.push_back(static_cast<float>(0.1 + 5 * random_uniform(4, static_cast<std::uint64_t>(j))));
  return channel_scaling(std::move(factors));
}

} // namespace

TEST_CASE("transforms keep the laws") {
  CHECK(describe(check_transform([](index_t n) { return channel_permutation::identity(n); })) == "");
  CHECK(describe(check_transform([](index_t n) { return shuffled(n); })) == "");
  CHECK(describe(check_transform([](index_t n) { return scaled(n); })) == "");
}

namespace {

/// Forgets to move the calibration.
struct half_a_transform {
  channel_permutation inner;
  matrix<float> apply(matrix_view<float const> w) const { return inner.apply(w); }
  matrix<float> invert(matrix_view<float const> w) const { return inner.invert(w); }
  calibration apply_to(calibration const& calib) const { return calib; }
  std::string describe() const { return "half"; }
};

/// Takes the permutation for its own inverse.
struct wrong_inverse {
  channel_permutation inner;
  matrix<float> apply(matrix_view<float const> w) const { return inner.apply(w); }
  matrix<float> invert(matrix_view<float const> w) const { return inner.apply(w); }
  calibration apply_to(calibration const& calib) const { return inner.apply_to(calib); }
  std::string describe() const { return "wrong inverse"; }
};

/// A reflection W - 2 (W v) v^T / (v^T v): mixes all channels, and no calibration can follow it.
struct reflection {
  index_t channels;
  matrix<float> apply(matrix_view<float const> w) const {
    auto const v = [](index_t j) { return random_normal(6, static_cast<std::uint64_t>(j)); };
    double length = 0;
    for (index_t j = 0; j < channels; ++j) length += v(j) * v(j);
    matrix<float> out(w);
    for (index_t i = 0; i < w.rows(); ++i) {
      double along = 0;
      for (index_t j = 0; j < channels; ++j) along += static_cast<double>(w(i, j)) * v(j);
      for (index_t j = 0; j < channels; ++j)
        out(i, j) = static_cast<float>(static_cast<double>(w(i, j)) - 2 * along / length * v(j));
    }
    return out;
  }
  matrix<float> invert(matrix_view<float const> w) const { return apply(w); }
  std::string describe() const { return "reflection"; }
};

/// Adds the first row to the others, which is no other basis for the channels.
struct mixes_rows {
  matrix<float> shifted(matrix_view<float const> w, float sign) const {
    matrix<float> out(w);
    for (index_t i = 1; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) out(i, j) += sign * w(0, j);
    return out;
  }
  matrix<float> apply(matrix_view<float const> w) const { return shifted(w, 1.0f); }
  matrix<float> invert(matrix_view<float const> w) const { return shifted(w, -1.0f); }
  std::string describe() const { return "mixes rows"; }
};

static_assert(transform<reflection> && !calibration_transform<reflection>);

} // namespace

TEST_CASE("a rotation is a transform, but no calibration follows it") {
  CHECK(describe(check_transform([](index_t n) { return reflection{n}; }, hard_matrices(), 64.0)) == "");
}

TEST_CASE("a scaling is undone to 2 ulp of each weight") {
  matrix<float> const w = normal_matrix(9, 40, 7);
  channel_scaling const s = scaled(40);
  matrix<float> const back = s.invert(s.apply(w.view()).view());
  for (index_t k = 0; k < w.size(); ++k) CHECK(std::abs(back.data()[k] - w.data()[k]) <= 0x1p-22f * std::abs(w.data()[k]));
}

TEST_CASE("the laws of a transform catch what breaks them") {
  auto const mixed = check_transform([](index_t) { return mixes_rows{}; },
                                     {{"ones", mapped(matrix<float>(3, 4), [](float) { return 1.0f; })}});
  REQUIRE_FALSE(mixed.empty());
  CHECK(mixed.front().law == "every row is transformed by itself");
  auto const broken = check_transform([](index_t n) { return half_a_transform{shuffled(n)}; });
  REQUIRE_FALSE(broken.empty());
  CHECK(broken.front().law == "outputs stay");
  auto const inverse = check_transform([](index_t n) { return wrong_inverse{shuffled(n)}; });
  REQUIRE_FALSE(inverse.empty());
  CHECK(inverse.front().law == "invert undoes apply");
}

TEST_CASE("a permutation is undone bit by bit, NaN, infinity and minus zero included") {
  matrix<float> w = normal_matrix(5, 7, 1);
  w(0, 0) = std::numeric_limits<float>::quiet_NaN();
  w(1, 3) = -0.0f;
  w(2, 6) = std::numeric_limits<float>::infinity();
  channel_permutation const p = shuffled(7);
  REQUIRE(p != channel_permutation::identity(7));
  CHECK(same_bits(p.invert(p.apply(w.view()).view()), w));
  CHECK(same_bits(p.apply(p.invert(w.view()).view()), w));
  for (index_t j = 0; j < 7; ++j) {
    CHECK(same_bits(p.apply(w.view())(3, j), w(3, p.order()[static_cast<std::size_t>(j)])));
    CHECK(p.inverse()[static_cast<std::size_t>(p.order()[static_cast<std::size_t>(j)])] == j);
  }
}

TEST_CASE("a permuted layer behind a permuted producer computes what the layers did") {
  matrix<float> const up = normal_matrix(12, 5, 2), down = normal_matrix(3, 12, 3), x = normal_matrix(4, 5, 4);
  channel_permutation const p = shuffled(12);
  auto const through = [&](matrix<float> const& first, matrix<float> const& second, index_t t, index_t i) {
    double y = 0;
    for (index_t k = 0; k < 12; ++k) {
      double h = 0;
      for (index_t j = 0; j < 5; ++j) h += static_cast<double>(first(k, j)) * static_cast<double>(x(t, j));
      y += std::max(h, 0.0) * static_cast<double>(second(i, k)); // any function of single channels may stand between
    }
    return y;
  };
  matrix<float> const moved_up = p.apply_to_producer(up.view()), moved_down = p.apply(down.view());
  for (index_t t = 0; t < 4; ++t)
    for (index_t i = 0; i < 3; ++i) CHECK(through(moved_up, moved_down, t, i) == Approx(through(up, down, t, i)).margin(1e-12));
}

TEST_CASE("a permuted calibration is that of the permuted activations") {
  matrix<float> const x = normal_matrix(20, 9, 5);
  channel_permutation const p = shuffled(9);
  calibration const expected = observed(p.apply(x.view())), found = p.apply_to(observed(x));
  CHECK(found.mean_square() == expected.mean_square());
  CHECK(found.max_abs() == expected.max_abs());
  calibration const kept = p.apply_to(observed(x, {.samples = 6}));
  CHECK(same_bits(matrix<float>(kept.samples()), matrix<float>(observed(p.apply(x.view()), {.samples = 6}).samples())));
}

TEST_CASE("what is no permutation, or of another layer, is refused") {
  CHECK_THROWS_AS(channel_permutation({0, 2}), config_error);
  CHECK_THROWS_AS(channel_permutation({0, -1}), config_error);
  CHECK_THROWS_WITH(channel_permutation({1, 0, 1}), Catch::Contains("channel 1 at position 2") && Catch::Contains("twice"));
  channel_permutation const p = shuffled(4);
  matrix<float> const w(2, 3);
  CHECK_THROWS_AS(p.apply(w.view()), shape_error);
  CHECK_THROWS_AS(p.invert(w.view()), shape_error);
  CHECK_THROWS_AS(p.apply_to_producer(w.view()), shape_error);
  CHECK_THROWS_AS(p.apply_to(calibration(3)), shape_error);
  CHECK(channel_permutation({}).apply(matrix<float>(2, 0).view()).rows() == 2);
}

TEST_CASE("powers of two scale exactly; a factor without a normal inverse is refused") {
  matrix<float> const w = normal_matrix(4, 3, 6);
  channel_scaling const s({0.5f, 4.0f, 1.0f});
  CHECK(same_bits(s.invert(s.apply(w.view()).view()), w));
  CHECK(s.apply(w.view())(2, 1) == 4 * w(2, 1));
  CHECK(s.apply_to(observed(w)).max_abs()[0] == 2 * observed(w).max_abs()[0]);
  for (float const bad :
       {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e-40f, 3e38f})
    CHECK_THROWS_AS(channel_scaling({1.0f, bad}), config_error);
  CHECK_THROWS_AS(s.apply(matrix<float>(1, 2).view()), shape_error);
  CHECK_THROWS_AS(s.apply_to(calibration(2)), shape_error);
}
