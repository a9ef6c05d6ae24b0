// Calibrations as bytes: what is read is what was written, bit for bit; and the layout is the one that the header describes.

#include "slim/calibration/calibration_bytes.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include "calibration/small_calibrations.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

void check_same(calibration const& a, calibration const& b) {
  CHECK(a.channels() == b.channels());
  CHECK(a.tokens() == b.tokens());
  CHECK(a.config() == b.config());
  CHECK(a.zeroed_activations() == b.zeroed_activations());
  CHECK(a.mean_square() == b.mean_square());
  for (statistic const what : {statistic::mean, statistic::mean_abs, statistic::max_abs, statistic::sample_peak_mean_abs})
    CHECK(a.knows(what) == b.knows(what));
  if (a.knows(statistic::mean)) CHECK(a.mean() == b.mean());
  if (a.knows(statistic::mean_abs)) CHECK(a.mean_abs() == b.mean_abs());
  if (a.knows(statistic::max_abs)) CHECK(same_bits(a.max_abs(), b.max_abs()));
  if (a.knows(statistic::sample_peak_mean_abs)) CHECK(a.sample_peak_mean_abs() == b.sample_peak_mean_abs());
  if (a.has_gram()) CHECK(matrix<double>(a.gram()) == matrix<double>(b.gram()));
  CHECK(matrix<double>(a.cross()) == matrix<double>(b.cross()));
  CHECK(same_bits(matrix<float>(a.samples()), matrix<float>(b.samples())));
  REQUIRE((a.held_out() == nullptr) == (b.held_out() == nullptr));
  if (a.held_out()) check_same(*a.held_out(), *b.held_out());
}

template <class T>
T number_at(std::vector<std::byte> const& bytes, std::size_t at) {
  T value;
  REQUIRE(at + sizeof(T) <= bytes.size());
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

} // namespace

TEST_CASE("a calibration that is saved and loaded is the same, bit for bit") {
  for (auto const& [name, calib] : slim_test::small_calibrations()) {
    INFO(name);
    std::vector<std::byte> const bytes = save(calib);
    auto const read = load_calibration(bytes);
    REQUIRE(read.why() == "");
    check_same(calib, *read);
    CHECK(save(*read) == bytes);
  }
}

TEST_CASE("a loaded calibration goes on as the saved one would: observing, merging, remapping") {
  matrix<float> const x = normal_matrix(60, 5, 1), later = normal_matrix(30, 5, 2);
  calibration here = observed(x, {.gram = true, .samples = 9});
  calibration there = *load_calibration(save(here));
  here.observe(later.view());
  there.observe(later.view());
  CHECK(save(here) == save(there));
  calibration const other = observed(later, {.gram = true, .samples = 9, .first_token = 90});
  here.merge(other);
  there.merge(*load_calibration(save(other)));
  CHECK(save(here) == save(there));
  std::vector<index_t> const from{3, 1};
  CHECK(save(here.remapped(from)) == save(there.remapped(from)));
}

TEST_CASE("calibrations of four machines, merged in their order from bytes, keep the sample of the whole text") {
  matrix<float> const x = normal_matrix(200, 6, 3);
  calibration_config config{.gram = true, .samples = 25, .sample_seed = 4};
  std::vector<std::vector<std::byte>> sent;
  for (index_t first = 0; first < 200; first += 50) {
    config.first_token = static_cast<std::uint64_t>(first);
    sent.push_back(save(observed(matrix<float>(x.view().middle_rows(first, 50)), config)));
  }
  calibration all = *load_calibration(sent[0]);
  for (std::size_t k = 1; k < 4; ++k) all.merge(*load_calibration(sent[k]));
  config.first_token = 0;
  calibration const whole = observed(x, config);
  CHECK(same_bits(matrix<float>(all.samples()), matrix<float>(whole.samples())));
  CHECK(all.max_abs() == whole.max_abs());
  CHECK(all.tokens() == 200);
}

TEST_CASE("shares of a calibration by several machines are the whole one, byte for byte, when their bytes are or-ed") {
  for (index_t const channels : {1, 5, 97, 250}) {
    matrix<float> const x = normal_matrix(700, channels, 3), y = normal_matrix(700, 33, 4);
    std::vector<float> weights(700, 1.0f);
    for (std::size_t t = 0; t < weights.size(); t += 3) weights[t] = 0.5f;
    auto const seen = [&](work_share share) {
      calibration calib(channels, {.gram = true, .outputs = 33, .samples = 25, .share = share});
      calib.observe(x.view().middle_rows(0, 600), y.view().middle_rows(0, 600));
      calib.observe(x.view().middle_rows(600, 100), y.view().middle_rows(600, 100), std::span(weights).first(100));
      calibration held_out(channels, {.gram = true, .share = share});
      held_out.observe(x.view().middle_rows(50, 300));
      calib.hold_out(std::move(held_out));
      return calib;
    };
    std::vector<std::byte> const whole = save(seen({}));
    for (index_t const machines : {2, 3, 8}) {
      std::vector<std::byte> all = save(seen({0, machines}));
      CHECK((channels == 1 || all != whole));
      for (index_t k = 1; k < machines; ++k) {
        std::vector<std::byte> const more = save(seen({k, machines}));
        REQUIRE(more.size() == all.size());
        for (std::size_t n = 0; n < all.size(); ++n) all[n] |= more[n];
      }
      CHECK(all == whole);
      CHECK(load_calibration(all)->config().share.whole());
    }
  }
  CHECK_THROWS_AS(calibration(3, {.gram = true, .share = {1, 2}}).gram(), config_error);
  CHECK_THROWS_AS(calibration(3, {.share = {2, 2}}), config_error);
  CHECK_THROWS_AS(calibration(3, {.share = {0, 2}}).merge(calibration(3, {.share = {1, 2}})), config_error);
}

TEST_CASE("bytes lie where the description says") {
  matrix<float> x(3, 2);
  x(0, 0) = 1, x(1, 0) = -2, x(2, 0) = 2, x(0, 1) = 0.5f;
  matrix<float> const y = matrix<float>(x.view().block(0, 0, 3, 1));
  calibration calib(2, {.gram = true, .outputs = 1, .samples = 5, .sample_seed = 6, .first_token = 7});
  calib.observe(x.view(), y.view());
  std::vector<std::byte> const bytes = save(calib);
  CHECK(std::memcmp(bytes.data(), "SLIMCALB", 8) == 0);
  CHECK(number_at<std::uint32_t>(bytes, 8) == 1);
  CHECK(number_at<std::uint32_t>(bytes, 12) == 0);
  CHECK(number_at<std::uint32_t>(bytes, 16) == 31);
  std::int64_t const sizes[] = {2, 1, 3, 0, 5, 6, 7};
  for (std::size_t k = 0; k < 7; ++k) CHECK(number_at<std::int64_t>(bytes, 24 + 8 * k) == sizes[k]);
  double const moments[] = {9.0, 0.25, 1.0, 0.5, 5.0, 0.5}; // squares, sums, magnitudes
  for (std::size_t k = 0; k < 6; ++k) CHECK(number_at<double>(bytes, 80 + 8 * k) == moments[k]);
  CHECK(number_at<float>(bytes, 128) == 2.0f);
  CHECK(number_at<float>(bytes, 132) == 0.5f);
  CHECK(number_at<double>(bytes, 136) == 5.0 / 3);
  CHECK(number_at<double>(bytes, 144) == 0.5 / 3);
  double const products[] = {9.0, 0.5, 0.25, 9.0, 0.5}; // triangle of X^T X, X^T Y
  for (std::size_t k = 0; k < 5; ++k) CHECK(number_at<double>(bytes, 152 + 8 * k) == products[k]);
  for (std::size_t k = 0; k < 3; ++k) {
    CHECK(number_at<std::uint64_t>(bytes, 192 + 16 * k) == random_bits(6, 7 + k));
    CHECK(number_at<std::int64_t>(bytes, 200 + 16 * k) == static_cast<std::int64_t>(k));
  }
  for (std::size_t k = 0; k < 6; ++k) CHECK(number_at<float>(bytes, 240 + 4 * k) == x.data()[k]);
  CHECK(bytes.size() == 264);
}

TEST_CASE("statistics that are not finite are not saved") {
  matrix<float> x = normal_matrix(4, 3, 5);
  x(1, 2) = std::numeric_limits<float>::quiet_NaN();
  calibration calib(3);
  calib.observe(x.view(), {.on_nonfinite = nonfinite::propagate});
  CHECK_THROWS_AS(save(calib), nonfinite_error);
  CHECK_THROWS_WITH(save(calib), Catch::Contains("sum of squares"));
}
