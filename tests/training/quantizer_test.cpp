// Trainable quantizers: their laws, their forward pass against quantizers in one shot, their gradients against differences of
// the surrogate in double (rounding replaced by adding a constant), ternary projections against all supports, noise.

#include "slim/quantization/absmax.hpp"
#include "slim/testing/archetypes.hpp"
#include "slim/testing/trainable_quantizer_laws.hpp"
#include "slim/training/noise.hpp"
#include "slim/training/straight_through.hpp"

#include <catch2/catch.hpp>

#include <functional>

using namespace slim;
using namespace slim::testing;
using Catch::Matchers::Contains;

namespace {

/// Loss sum_k c_k Q_k by numbers x, by central differences of a surrogate in double.
double difference(std::function<double(std::vector<double> const&)> const& loss, std::vector<double> x, std::size_t k) {
  double const h = 1e-6, at = x[k];
  x[k] = at + h;
  double const above = loss(x);
  x[k] = at - h;
  return (above - loss(x)) / (2 * h);
}

/// Gradients of `q` at (w, parameters) against differences of surrogate(w, parameters, i, j), both as one list of numbers.
template <class Q, class Surrogate>
void require_gradients(Q const& q, matrix<float> const& w, std::vector<float> const& parameters, Surrogate const& surrogate) {
  matrix<float> const dq = normal_matrix(w.rows(), w.cols(), 3);
  auto const g = q.backward(w.view(), parameters, dq.view());
  std::vector<double> x(w.data(), w.data() + w.size());
  x.insert(x.end(), parameters.begin(), parameters.end());
  auto const loss = [&](std::vector<double> const& at) {
    double sum = 0;
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) sum += static_cast<double>(dq(i, j)) * surrogate(at, i, j);
    return sum;
  };
  for (std::size_t k = 0; k < x.size(); ++k) {
    auto const size = static_cast<std::size_t>(w.size());
    double const have = static_cast<double>(k < size ? g.weight.data()[k] : g.parameters[k - size]);
    INFO("number " << k << " of " << x.size());
    CHECK(std::abs(have - difference(loss, x, k)) < 1e-4 * (1 + std::abs(have)));
  }
}

/// Doubles its gradient only where nothing is behind it, and forgets parameters.
struct quantizer_with_a_flaw {
  int flaw = 0;
  std::vector<float> first(matrix_view<float const>, context const& = {}) const { return {1.0f}; }
  integer_codes codes(matrix_view<float const> w, std::span<float const>, context const& = {}) const {
    return integer_codes(w.rows(), w.cols(), 4, per_tensor, number_format::fp32);
  }
  quantizer_gradient backward(matrix_view<float const> w, std::span<float const>, matrix_view<float const> dq,
                              context const& = {}) const {
    quantizer_gradient g{matrix<float>(dq), {0.0f}};
    for (index_t k = 0; flaw == 0 && k < w.size(); ++k) g.weight.data()[k] += 1.0f;
    if (flaw == 1) g.parameters.clear();
    return g;
  }
  std::string describe() const { return "flawed"; }
};

} // namespace

TEST_CASE("trainable quantizers keep the laws, and flaws are found") {
  CHECK(describe(check_trainable_quantizer(learned_step())) == "");
  CHECK(describe(check_trainable_quantizer(learned_step({.bits = 3, .block = per_group(16)}))) == "");
  CHECK(describe(check_trainable_quantizer(learned_step({.trains = false}))) == "");
  CHECK(describe(check_trainable_quantizer(free_bounds())) == "");
  CHECK(describe(check_trainable_quantizer(trainable_ternary())) == "");
  CHECK(describe(check_trainable_quantizer(trainable_quantizer_archetype(0))) == "");
  CHECK_THAT(describe(check_trainable_quantizer(quantizer_with_a_flaw{0})), Contains("no gradient behind"));
  CHECK_THAT(describe(check_trainable_quantizer(quantizer_with_a_flaw{0})), Contains("linear"));
  CHECK_THAT(describe(check_trainable_quantizer(quantizer_with_a_flaw{1})), Contains("as many as numbers"));
}

TEST_CASE("a learned step that was not trained is the quantizer in one shot, bit for bit") {
  matrix<float> const w = normal_matrix(5, 40, 1);
  for (scale_block const block : {per_tensor, per_channel, per_group(16)}) {
    learned_step const q({.bits = 3, .block = block});
    auto const codes = q.codes(w.view(), q.first(w.view()));
    auto const once =
        absmax_quantizer({.bits = 3, .block = block, .scale_format = number_format::fp32}).quantize(w.view(), calibration(40));
    CHECK(codes.codes == once.codes);
    CHECK(codes.scales == once.scales);
    CHECK(learned_step({.bits = 3, .block = block, .trains = false}).codes(w.view(), {}).codes == once.codes);
  }
}

TEST_CASE("gradients of a learned step are those of its surrogate") {
  matrix<float> const w = normal_matrix(3, 8, 2);
  learned_step const q({.bits = 3, .block = per_group(4)});
  std::vector<float> const scales = {0.31f, 0.2f, 0.4f, 0.17f, 0.9f, 0.33f}; // some weights are clipped
  auto const frozen = [&](index_t i, index_t j) {                            // what rounding adds at the start
    double const level = static_cast<double>(w(i, j)) / static_cast<double>(scales[static_cast<std::size_t>(i * 2 + j / 4)]);
    return std::nearbyint(level) - level;
  };
  int clipped = 0;
  require_gradients(q, w, scales, [&](std::vector<double> const& x, index_t i, index_t j) {
    double const s = x[static_cast<std::size_t>(24 + i * 2 + j / 4)], level = x[static_cast<std::size_t>(i * 8 + j)] / s;
    clipped += level < -4 || level > 3 ? 1 : 0;
    return s * (level < -4 ? -4 : level > 3 ? 3 : level + frozen(i, j));
  });
  CHECK(clipped > 0);
}

TEST_CASE("free bounds: levels, ends and gradients") {
  matrix<float> const w = normal_matrix(3, 8, 2);
  free_bounds const q(2);
  std::vector<float> const bounds = {-0.8f, 1.1f};
  auto const values = quantized(q, w.view(), bounds);
  for (index_t k = 0; k < w.size(); ++k) {
    double const v = std::min(std::max(static_cast<double>(w.data()[k]), -0.8), 1.1);
    double const level = std::nearbyint((v + 0.8) / 1.9 * 3);
    CHECK(static_cast<double>(values.data()[k]) == Approx(-0.8 + level * 1.9 / 3));
  }
  require_gradients(q, w, bounds, [&](std::vector<double> const& x, index_t i, index_t j) {
    double const low = x[24], high = x[25], v = x[static_cast<std::size_t>(i * 8 + j)];
    if (v <= low) return low;
    if (v >= high) return high;
    double const start = (static_cast<double>(w(i, j)) - static_cast<double>(bounds[0])) /
                         (static_cast<double>(bounds[1]) - static_cast<double>(bounds[0]));
    double const frozen = std::nearbyint(3 * start) / 3 - start;
    return low + ((v - low) / (high - low) + frozen) * (high - low);
  });
  CHECK_THROWS_WITH(q.codes(w.view(), std::vector<float>{1, 1}), Contains("have crossed"));
  CHECK_THROWS_WITH(q.codes(w.view(), std::vector<float>{1}), Contains("1 parameters, 2 are needed"));
  auto const all_equal = mapped(w, [](float) { return 3.0f; });
  CHECK(quantized(q, all_equal.view(), q.first(all_equal.view()))(1, 1) == 3.0f);
}

TEST_CASE("ternary projections are the nearest of all supports, scale with the row, and have the surrogate's gradients") {
  trainable_ternary const q;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    matrix<float> const w = normal_matrix(1, 9, seed);
    auto const alpha = q.first(w.view());
    auto const values = quantized(q, w.view(), alpha);
    double error = 0, best = 1e9;
    for (index_t j = 0; j < 9; ++j) error += std::pow(static_cast<double>(w(0, j) - values(0, j)), 2);
    for (unsigned support = 0; support < 512; ++support) {
      double sum = 0, squares = 0;
      int count = 0;
      for (unsigned j = 0; j < 9; ++j) {
        double const x = std::abs(static_cast<double>(w(0, j)));
        squares += x * x;
        if ((support >> j & 1) != 0) {
          sum += x;
          ++count;
        }
      }
      best = std::min(best, squares - (count > 0 ? sum * sum / count : 0));
    }
    CHECK(error == Approx(best).epsilon(1e-5));
    double mean = 0; // TWN's threshold is no better
    for (index_t j = 0; j < 9; ++j) mean += std::abs(static_cast<double>(w(0, j))) / 9;
    double kept = 0, squares = 0, count = 0;
    for (index_t j = 0; j < 9; ++j) {
      double const x = std::abs(static_cast<double>(w(0, j)));
      squares += x * x;
      if (x > 0.7 * mean) {
        kept += x;
        ++count;
      }
    }
    CHECK(error <= squares - kept * kept / count + 1e-6);
    matrix<float> const scaled = mapped(w, [](float x) { return 4 * x; });
    CHECK(q.codes(scaled.view(), q.first(scaled.view())).codes == q.codes(w.view(), alpha).codes);
    CHECK(q.first(scaled.view())[0] == 4 * alpha[0]);
  }
  matrix<float> const w = normal_matrix(2, 6, 5);
  auto const alpha = q.first(w.view());
  auto const codes = q.codes(w.view(), alpha);
  require_gradients(q, w, alpha, [&](std::vector<double> const& x, index_t i, index_t j) {
    auto const sign = static_cast<double>(codes.codes(i, j));
    auto const at = static_cast<std::size_t>(i * 6 + j), row = static_cast<std::size_t>(i);
    return sign == 0 ? 0.0 : x[12 + row] * sign + (x[at] - static_cast<double>(w(i, j)));
  });
  CHECK(q.first(matrix<float>(2, 3).view()) == std::vector<float>{0, 0});
}

TEST_CASE("noise quantizes the share it is told, whole blocks, and never writes the weights") {
  matrix<float> const w = normal_matrix(200, 80, 1), dq = normal_matrix(200, 80, 2);
  learned_step const q;
  auto const scales = q.first(w.view());
  auto const full = quantized(q, w.view(), scales);
  CHECK(noise(q, {.rate = 0}).forward(w.view(), scales, 5) == w);
  CHECK(noise(q, {.rate = 1}).forward(w.view(), scales, 5) == full);
  CHECK(noise(q, {.rate = 0}).backward(w.view(), scales, dq.view(), 5).weight == dq);
  CHECK(noise(q, {.rate = 1}).backward(w.view(), scales, dq.view(), 5).parameters ==
        q.backward(w.view(), scales, dq.view()).parameters);
  noise const some(q, {.rate = 0.3, .columns = 8, .seed = 4});
  matrix<float> const out = some.forward(w.view(), scales, 5);
  auto const g = some.backward(w.view(), scales, dq.view(), 5);
  int drawn = 0;
  for (index_t i = 0; i < 200; ++i)
    for (index_t j = 0; j < 80; ++j) {
      bool const here = some.draws(5, i, j, 80);
      CHECK(here == some.draws(5, i, j - j % 8, 80));
      drawn += here ? 1 : 0;
      if (out(i, j) != (here ? full : w)(i, j)) FAIL("a weight is neither the one nor the other");
      if (!here && g.weight(i, j) != dq(i, j)) FAIL("a block that was not drawn has another gradient");
    }
  CHECK(std::abs(drawn / 16000.0 - 0.3) < 0.03); // three standard deviations of 2000 draws
  CHECK(some.forward(w.view(), scales, 6) != out);
  CHECK(some.forward(w.view(), scales, 5) == out);
  CHECK_THROWS_WITH(noise(q, {.rate = 1.5}), Contains("rate 1.5"));
}
