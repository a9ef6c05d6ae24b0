// AdamW and descent with momentum against NumPy in float64; their states as bytes; schedules; norms.

#include "slim/core/random.hpp"
#include "slim/training.hpp"

#include <catch2/catch.hpp>

#include <array>

using namespace slim;
using Catch::Matchers::Contains;

namespace {

using four = std::array<float, 4>;

/// What the NumPy version was given: gradients of step t = 1 .. 100 at numbers w.
four gradient_of(four const& w, int t) {
  four g;
  for (int k = 0; k < 4; ++k)
    g[static_cast<std::size_t>(k)] =
        static_cast<float>(0.3 * ((t * 7 + k * 3) % 11 - 5) + 0.2 * static_cast<double>(w[static_cast<std::size_t>(k)]));
  return g;
}

constexpr four first_values = {0.5f, -1.25f, 2.0f, 0.0f};

void require_near(four const& have, std::array<double, 4> const& want) {
  for (std::size_t k = 0; k < 4; ++k) CHECK(std::abs(static_cast<double>(have[k]) - want[k]) < 1e-6);
}

} // namespace

TEST_CASE("AdamW is NumPy's over 100 steps of a falling rate, with and without decay") {
  // w -= rate * (decay * w + (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)), rate = 0.01 * (1 - (t - 1) / 100)
  bool const decays = GENERATE(false, true);
  adamw optimizer({.weight_decay = decays ? 0.5 : 0.0});
  auto const number = optimizer.add(4);
  four w = first_values;
  for (int t = 1; t <= 100; ++t) optimizer.step(number, w, gradient_of(w, t), 0.01 * (1 - (t - 1) / 100.0));
  if (decays)
    require_near(w, {0.324302387802563, -0.9004387410468189, 1.415226267996532, 0.016576106336967582});
  else
    require_near(w, {0.4196915277243036, -1.162495331694814, 1.8285822354205126, 0.020771104216962537});
}

TEST_CASE("descent with momentum is NumPy's, in both forms") {
  // b = 0.9 * b + g; w -= 0.01 * (0.1 * w + (g + 0.9 * b if nesterov else b))
  bool const nesterov = GENERATE(false, true);
  sgd optimizer({.momentum = 0.9, .nesterov = nesterov, .weight_decay = 0.1});
  auto const number = optimizer.add(4);
  four w = first_values;
  for (int t = 1; t <= 100; ++t) optimizer.step(number, w, gradient_of(w, t), 0.01);
  if (nesterov)
    require_near(w, {0.04263379196484479, -0.12258023676569794, 0.2033117329330719, -0.007946082120783475});
  else
    require_near(w, {0.03527945548831518, -0.11359263793426862, 0.19368057523648194, -2.6951539880358186e-05});
}

TEMPLATE_TEST_CASE("a run that is stopped and goes on from its state has the same bits", "", adamw, sgd) {
  TestType whole, first, second;
  for (TestType* o : {&whole, &first, &second}) (void)(o->add(4) + o->add(0));
  four w = first_values, parted = first_values;
  for (int t = 1; t <= 40; ++t) whole.step(0, w, gradient_of(w, t), 0.01);
  for (int t = 1; t <= 17; ++t) first.step(0, parted, gradient_of(parted, t), 0.01);
  REQUIRE(second.restore(first.state()) == "");
  for (int t = 18; t <= 40; ++t) second.step(0, parted, gradient_of(parted, t), 0.01);
  CHECK(w == parted);
  CHECK(second.state() == whole.state());
}

TEMPLATE_TEST_CASE("a rate of 0 changes nothing, and bad steps are refused", "", adamw, sgd) {
  TestType optimizer;
  auto const number = optimizer.add(4);
  four w = first_values;
  optimizer.step(number, w, four{1, 2, 3, 4}, 0.0);
  CHECK(w == first_values);
  CHECK_THROWS_WITH(optimizer.step(number, w, four{}, -1.0), Contains("learning rate -1"));
  CHECK_THROWS_WITH(optimizer.step(number, w, four{}, std::nan("")), Contains("learning rate"));
  CHECK_THROWS_WITH(optimizer.step(number, w, std::array<float, 3>{}, 1.0), Contains("4 numbers and 3 gradients"));
  CHECK_THROWS_WITH(optimizer.step(1, w, four{}, 1.0), Contains("tensor 1 of 1"));
}

TEST_CASE("states that are cut, changed or of other tensors are refused or read, and change nothing when refused") {
  adamw optimizer;
  (void)optimizer.add(3);
  (void)optimizer.add(2);
  std::array<float, 3> w = {1, 2, 3};
  optimizer.step(0, w, std::array<float, 3>{3, -1, 2}, 0.1);
  auto const bytes = optimizer.state();
  for (std::size_t size = 0; size < bytes.size(); ++size) CHECK(optimizer.restore(std::span(bytes).first(size)) != "");
  std::uint64_t draw = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at)
    for (int k = 0; k < 16; ++k) {
      auto broken = bytes;
      broken[at] = static_cast<std::byte>(random_bits(1, ++draw));
      adamw other;
      (void)other.add(3);
      (void)other.add(2);
      auto const before = other.state();
      if (other.restore(broken) == "")
        CHECK(other.state() == broken);
      else
        CHECK(other.state() == before);
    }
  auto longer = bytes;
  longer.push_back(std::byte{0});
  CHECK_THAT(optimizer.restore(longer), Contains("1 bytes follow"));
  adamw fewer;
  (void)fewer.add(3);
  CHECK_THAT(fewer.restore(bytes), Contains("2 tensors, not 1"));
  sgd other;
  CHECK_THAT(other.restore(bytes), Contains("no state of this optimizer"));
  CHECK(optimizer.state() == bytes);
}

TEST_CASE("schedules rise along a line, and fall as they are told") {
  schedule const cosine({.peak = 2, .last = 1, .warm_up = 4, .steps = 15, .shape = decay_shape::cosine});
  CHECK(cosine.at(0) == Approx(0.5));
  CHECK(cosine.at(3) == Approx(2));
  CHECK(cosine.at(4) == Approx(2));
  CHECK(cosine.at(9) == Approx(1.5)); // half way
  CHECK(cosine.at(14) == Approx(1));
  CHECK(cosine.at(99) == Approx(1));
  schedule const linear({.peak = 2, .last = 0, .warm_up = 0, .steps = 11, .shape = decay_shape::linear});
  CHECK(linear.at(0) == Approx(2));
  CHECK(linear.at(4) == Approx(1.2));
  CHECK(linear.at(10) == Approx(0));
  CHECK(schedule({.peak = 3, .steps = 9, .shape = decay_shape::constant}).at(8) == Approx(3));
  CHECK(schedule({.peak = 3, .steps = 1}).at(0) == Approx(3));
  CHECK_THROWS_WITH(schedule({.warm_up = 3, .steps = 2}), Contains("warm-up of 3 steps of 2"));
  CHECK_THROWS_WITH(schedule({.peak = -1}), Contains("learning rates -1"));
  CHECK_THROWS_WITH(schedule({.peak = std::nan("")}), Contains("learning rates"));
}

TEST_CASE("gradients that are too long are shortened together, others stay") {
  std::array<float, 2> a = {3, 0};
  std::array<float, 1> b = {4};
  std::array<std::span<float>, 2> const both = {std::span<float>(a), std::span<float>(b)};
  CHECK(clip_norm(both, 5.0) == Approx(5));
  CHECK(a[0] == 3.0f);
  CHECK(clip_norm(both, 1.0) == Approx(5));
  CHECK(static_cast<double>(a[0]) == Approx(0.6));
  CHECK(static_cast<double>(b[0]) == Approx(0.8));
  b[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(clip_norm(both, 0.1)));
  CHECK(static_cast<double>(a[0]) == Approx(0.6));
  CHECK_THROWS_WITH(clip_norm(both, 0.0), Contains("longest norm 0"));
}
