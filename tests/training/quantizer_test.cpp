// Trainable quantizers: their laws, their forward pass against quantizers in one shot, their gradients against differences of
// the surrogate in double (rounding replaced by adding a constant), ternary projections against all supports, noise.

#include "slim/quantization/absmax.hpp"
#include "slim/testing/archetypes.hpp"
#include "slim/testing/trainable_quantizer_laws.hpp"
#include "slim/training/centroids.hpp"
#include "slim/training/noise.hpp"
#include "slim/training/straight_through.hpp"
#include "slim/training/trainable_companding.hpp"

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
  CHECK(describe(check_trainable_quantizer(trainable_companding())) == "");
  CHECK(describe(check_trainable_quantizer(trainable_companding({.bits = 2, .block = per_group(16), .intervals = 4}))) == "");
  CHECK(describe(check_trainable_quantizer(trainable_codebook({.columns = 4, .bits = 3}))) == "");
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

TEST_CASE("ternary codes on a given mask keep its weights, with the surrogate's gradients") {
  matrix<float> const w = normal_matrix(2, 6, 5);
  mask kept(2, 6);
  for (index_t j = 1; j < 6; j += 2) kept.keep(0, j);
  kept.keep(1, 4);
  trainable_ternary const q(kept);
  auto const alpha = q.first(w.view());
  CHECK(static_cast<double>(alpha[0]) == Approx((std::abs(w(0, 1)) + std::abs(w(0, 3)) + std::abs(w(0, 5))) / 3));
  CHECK(alpha[1] == std::abs(w(1, 4)));
  auto const values = quantized(q, w.view(), alpha);
  for (index_t i = 0; i < 2; ++i)
    for (index_t j = 0; j < 6; ++j)
      CHECK(values(i, j) == (kept.kept(i, j) ? std::copysign(alpha[static_cast<std::size_t>(i)], w(i, j)) : 0.0f));
  require_gradients(q, w, alpha, [&](std::vector<double> const& x, index_t i, index_t j) {
    if (!kept.kept(i, j)) return 0.0;
    auto const at = static_cast<std::size_t>(i * 6 + j), row = static_cast<std::size_t>(i);
    return x[12 + row] * (w(i, j) < 0 ? -1 : 1) + (x[at] - static_cast<double>(w(i, j)));
  });
  auto const once = ternary_quantizer().quantize(w.view(), calibration(6));
  trainable_ternary const free;
  CHECK(free.codes(w.view(), free.first(w.view())).codes == once.codes);
  CHECK(free.codes(w.view(), free.first(w.view())).scales == once.scales);
  CHECK_THROWS_WITH(trainable_ternary(mask(2, 5)).first(w.view()), Contains("2 x 5 mask"));
}

TEST_CASE("a compander that was not trained is uniform, and the forward pass is that of the quantizer in one shot") {
  matrix<float> const w = normal_matrix(5, 40, 1);
  for (scale_block const block : {per_tensor, per_channel, per_group(16)}) {
    trainable_companding const q({.bits = 3, .block = block});
    learned_step const uniform({.bits = 3, .block = block});
    CHECK(quantized(q, w.view(), q.first(w.view())) == quantized(uniform, w.view(), uniform.first(w.view())));
    companding_quantizer const once({.bits = 3, .block = block});
    auto const fit = once.fit(w.view());
    std::vector<float> parameters = fit.theta;
    parameters.insert(parameters.end(), fit.scales.data(), fit.scales.data() + fit.scales.size());
    CHECK(q.codes(w.view(), parameters) == once.quantize(w.view(), calibration(40)));
  }
  trainable_companding const q;
  CHECK_THROWS_WITH(q.codes(w.view(), std::vector<float>(3)), Contains("3 parameters, 21 are needed"));
  auto parameters = q.first(w.view());
  parameters[2] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH(q.codes(w.view(), parameters), Contains("theta of inf"));
  parameters = std::vector<float>(21, 0.0f); // scales of 0
  for (float const x : q.backward(w.view(), parameters, w.view()).parameters) CHECK(x == 0.0f);
}

TEST_CASE("gradients of companders and their scales are those of the surrogate") {
  matrix<float> const w = normal_matrix(3, 8, 2);
  trainable_companding const q({.bits = 3, .block = per_group(4), .intervals = 8});
  std::vector<float> parameters = {0.5f, -0.3f, 0.9f, 0.1f, -0.8f, 0.4f, -0.2f, 0.7f};
  for (float const scale : {0.31f, 0.2f, 0.4f, 0.17f, 0.9f, 0.33f}) parameters.push_back(scale); // some weights are clipped
  // Interval of v in d_0 .. d_8 or beta_0 .. beta_8, lines beyond the ends; f of LCQ and its inverse.
  auto const shape = [](std::vector<double> const& theta) {
    std::vector<double> share, offset{0};
    double sum = 0;
    for (double const t : theta) sum += std::exp(t);
    for (double const t : theta) {
      share.push_back(std::exp(t) / sum);
      offset.push_back(offset.back() + share.back());
    }
    return std::pair(share, offset);
  };
  auto const compress = [&](std::vector<double> const& theta, double v) {
    auto const [share, offset] = shape(theta);
    std::size_t k = 0;
    while (k < 7 && v >= static_cast<double>(k + 1) / 8) ++k;
    return 8 * share[k] * (v - static_cast<double>(k) / 8) + offset[k];
  };
  auto const expand = [&](std::vector<double> const& theta, double y) {
    auto const [share, offset] = shape(theta);
    std::size_t k = 0;
    while (k < 7 && y >= offset[k + 1]) ++k;
    return (y - offset[k]) / (8 * share[k]) + static_cast<double>(k) / 8;
  };
  std::vector<double> const theta_at(parameters.begin(), parameters.begin() + 8);
  int clipped = 0;
  require_gradients(q, w, parameters, [&](std::vector<double> const& x, index_t i, index_t j) {
    auto const block = static_cast<std::size_t>(i * 2 + j / 4);
    std::vector<double> const theta(x.begin() + 24, x.begin() + 32);
    double const weight = x[static_cast<std::size_t>(i * 8 + j)], scale = x[32 + block], sign = weight < 0 ? -1 : 1;
    double const v = std::abs(weight) / scale / 3;
    if (v >= 1) {
      ++clipped;
      return sign * scale * 3;
    }
    double const start = std::abs(static_cast<double>(w(i, j))) / static_cast<double>(parameters[8 + block]) / 3;
    double const frozen = std::nearbyint(3 * compress(theta_at, start)) / 3 - compress(theta_at, start);
    return sign * scale * 3 * expand(theta, compress(theta, v) + frozen);
  });
  CHECK(clipped > 0);
}

TEST_CASE("gradients of a book are means over the vectors that use a level") {
  matrix<float> const w = normal_matrix(9, 10, 2), dq = normal_matrix(9, 10, 3);
  trainable_codebook const q({.columns = 4, .bits = 3, .book_format = number_format::fp32});
  auto const book = q.first(w.view());
  auto const codes = q.codes(w.view(), book);
  CHECK(codes == vector_codebook_quantizer({.columns = 4, .bits = 3, .book_format = number_format::fp32})
                     .quantize(w.view(), calibration(10)));
  auto const g = q.backward(w.view(), book, dq.view());
  CHECK(g.weight == dq);
  for (index_t k = 0; k < 8; ++k)
    for (index_t t = 0; t < 4; ++t) {
      auto const loss = [&](float change) { // codes as they are: linear in the book
        codebook_codes moved = codes;
        moved.books(0, 4 * k + t) += change;
        double sum = 0;
        for (index_t i = 0; i < 9; ++i)
          for (index_t j = 0; j < 10; ++j) sum += static_cast<double>(dq(i, j)) * static_cast<double>(moved.value(i, j));
        return sum;
      };
      double users = 0;
      for (index_t i = 0; i < 9; ++i)
        for (index_t v = 0; 4 * v + t < 10; ++v) users += codes.codes(i, v) == k ? 1 : 0;
      double const have = static_cast<double>(g.parameters[static_cast<std::size_t>(4 * k + t)]);
      CHECK(have * users == Approx((loss(0.5f) - loss(-0.5f))).epsilon(1e-4).margin(1e-5));
    }
  noise const some(q, {.rate = 0.4, .columns = 4});
  matrix<float> const out = some.forward(w.view(), book, 7), full = quantized(q, w.view(), book);
  for (index_t i = 0; i < 9; ++i)
    for (index_t v = 0; v < 3; ++v) {
      bool const whole = out(i, 4 * v) == full(i, 4 * v);
      for (index_t j = 4 * v; j < std::min<index_t>(10, 4 * v + 4); ++j) CHECK(out(i, j) == (whole ? full : w)(i, j));
    }
  codebook_codes scaled(9, 10, nf4_levels(), per_channel, {});
  CHECK_THROWS_WITH(centroid_gradient(scaled, dq), Contains("without scales"));
  CHECK_THROWS_WITH(centroid_gradient(codes, matrix<float>(9, 9)), Contains("9 x 9"));
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
