// Books per row by weighted k-means, and weights stored apart: against dynamic programming over all cuts, and by hand.
// Companded levels, books of vectors and ternary codes: against their definitions in double, all supports, and uniform levels.

#include "slim/pruning/iqr_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/codebook_quantizer.hpp"
#include "slim/quantization/codes/any_codes.hpp"
#include "slim/quantization/companding_quantizer.hpp"
#include "slim/quantization/outlier_quantizer.hpp"
#include "slim/quantization/ternary_quantizer.hpp"
#include "slim/quantization/vector_codebook_quantizer.hpp"
#include "slim/saliency/external_saliency.hpp"
#include "slim/saliency/input_energy.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/testing/pruner_laws.hpp"
#include "slim/testing/quantizer_laws.hpp"
#include "slim/testing/saliency_laws.hpp"

#include <catch2/catch.hpp>

#include <limits>
#include <numeric>

using namespace slim;
using namespace slim::testing;
using Catch::Contains;

namespace {

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

double loss_with(std::vector<float> const& levels, std::span<float const> x, std::span<float const> importance) {
  double total = 0;
  for (std::size_t k = 0; k < x.size(); ++k) {
    double least = std::numeric_limits<double>::infinity();
    for (float const level : levels)
      least = std::min(least, std::pow(static_cast<double>(x[k]) - static_cast<double>(level), 2.0));
    total += static_cast<double>(importance[k]) * least;
  }
  return total;
}

/// The least loss of any `levels` levels: every cut of the sorted numbers tried, costs of clusters summed one by one.
double least_loss(std::vector<float> x, std::vector<float> importance, int levels) {
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x[a] < x[b]; });
  auto const cost = [&](std::size_t first, std::size_t last) {
    long double mass = 0, sum = 0, total = 0;
    for (std::size_t k = first; k < last; ++k) {
      mass += static_cast<long double>(importance[order[k]]);
      sum += static_cast<long double>(importance[order[k]]) * static_cast<long double>(x[order[k]]);
    }
    for (std::size_t k = first; k < last && mass > 0; ++k) {
      long double const off = static_cast<long double>(x[order[k]]) - sum / mass;
      total += static_cast<long double>(importance[order[k]]) * off * off;
    }
    return static_cast<double>(total);
  };
  std::size_t const n = x.size();
  std::vector<double> least(n + 1, std::numeric_limits<double>::infinity());
  least[0] = 0;
  for (int level = 0; level < levels; ++level) {
    std::vector<double> next = least;
    for (std::size_t last = 1; last <= n; ++last)
      for (std::size_t first = 0; first < last; ++first) next[last] = std::min(next[last], least[first] + cost(first, last));
    least = next;
  }
  return least[n];
}

std::vector<float> row_of(matrix<float> const& m, index_t i) { return {m.row(i), m.row(i) + m.cols()}; }

double weighted_error(matrix<float> const& w, matrix<float> const& v, matrix<float> const& importance) {
  double total = 0;
  for (index_t k = 0; k < w.size(); ++k)
    total += static_cast<double>(importance.data()[k]) * std::pow(static_cast<double>(w.data()[k] - v.data()[k]), 2.0);
  return total;
}

template <class Codes>
matrix<float> decoded(Codes const& codes) {
  matrix<float> out(codes.rows(), codes.cols());
  codes.dequantize_into(out.view());
  return out;
}

/// Its codes have no laws of their own.
struct ternary_as_any {
  any_codes quantize(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    return ternary_quantizer({.scale_format = number_format::fp16}).quantize(w, calib, ctx);
  }
  std::string describe() const { return "ternary"; }
};

/// Mean squares of a log-normal spread, as of gradients.
matrix<float> fisher_like(index_t rows, index_t cols, std::uint64_t seed) {
  return mapped(normal_matrix(rows, cols, seed), [](float x) { return std::exp(2.0f * x); });
}

} // namespace

TEST_CASE("weighted k-means finds the least loss of all clusters") {
  matrix<float> const numbers = normal_matrix(12, 41, 1), masses = fisher_like(12, 41, 2);
  for (index_t i = 0; i < numbers.rows(); ++i)
    for (int const levels : {1, 2, 3, 8}) {
      std::vector<float> x = row_of(numbers, i), importance = row_of(masses, i);
      if (i % 4 == 1) // ties
        for (float& number : x) number = std::round(4 * number);
      if (i % 4 == 2) // heavy tails, one sign
        for (float& number : x) number = 1.0f + std::abs(number * number * number);
      if (i % 4 == 3) // weights without importance
        for (std::size_t k = 0; k < x.size(); k += 3) importance[k] = 0.0f;
      auto const found = weighted_kmeans(x, importance, levels);
      CHECK(std::ssize(found) <= levels);
      CHECK(std::is_sorted(found.begin(), found.end()));
      double const least = least_loss(x, importance, levels);
      CHECK(loss_with(found, x, importance) == Approx(least).epsilon(1e-5).margin(1e-9));
    }
}

TEST_CASE("one huge weight takes a level of its own and spoils no other") {
  matrix<float> const numbers = normal_matrix(1, 60, 3);
  for (float const huge : {1e6f, -1e12f, 1e30f}) {
    std::vector<float> x = row_of(numbers, 0), importance(60, 1.0f), rest;
    x[17] = huge;
    for (std::size_t k = 0; k < x.size(); ++k)
      if (k != 17) rest.push_back(x[k]);
    auto const found = weighted_kmeans(x, importance, 8);
    CHECK((found.front() == huge || found.back() == huge));
    CHECK(loss_with(found, rest, std::vector<float>(59, 1.0f)) ==
          Approx(least_loss(rest, std::vector<float>(59, 1.0f), 7)).epsilon(1e-5));
  }
}

TEST_CASE("with as many levels as distinct weights nothing is lost") {
  matrix<float> w(3, 40);
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 40; ++j) w(i, j) = static_cast<float>((j * 7 + i) % 8) - 3.3f;
  auto const fp32_books = codebook_quantizer({.bits = 3, .book_format = number_format::fp32});
  CHECK(decoded(fp32_books.quantize(w.view(), calibration(40))) == w);
  for (index_t k = 0; k < w.size(); ++k) w.data()[k] = 0.25f; // constant
  CHECK(decoded(codebook_quantizer({.bits = 1}).quantize(w.view(), calibration(40))) == w);
  // a weight of no importance keeps its value where a level is left for it
  matrix<float> few(1, 3), importance(1, 3);
  few(0, 0) = -1.0f, few(0, 1) = 2.0f, few(0, 2) = 0.5f;
  importance(0, 0) = importance(0, 1) = 1.0f;
  CHECK(decoded(codebook_quantizer(external_saliency(importance), {.bits = 2}).quantize(few.view(), calibration(3))) == few);
}

TEST_CASE("books of a row do not depend on the order of its columns") {
  matrix<float> const w = normal_matrix(4, 50, 5), f = fisher_like(4, 50, 6);
  matrix<float> turned(4, 50), turned_f(4, 50);
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 50; ++j) {
      turned(i, j) = w(i, (j * 7 + 3) % 50);
      turned_f(i, j) = f(i, (j * 7 + 3) % 50);
    }
  auto const a = codebook_quantizer(external_saliency(f)).quantize(w.view(), calibration(50));
  auto const b = codebook_quantizer(external_saliency(turned_f)).quantize(turned.view(), calibration(50));
  for (index_t k = 0; k < a.books.size(); ++k) CHECK(a.books.data()[k] == Approx(b.books.data()[k]).epsilon(1e-3));
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 50; ++j) CHECK(b.codes(i, j) == a.codes(i, (j * 7 + 3) % 50));
  CHECK(a.stored_bits() == 4 * 50 * 3 + 4 * 8 * 16);
}

TEST_CASE("importance matters: weighted k-means, then unweighted, then rounding to nearest") {
  matrix<float> const w = normal_matrix(24, 256, 7, 0.05f), f = fisher_like(24, 256, 8);
  calibration const unseen(256);
  double const weighted = weighted_error(w, decoded(codebook_quantizer(external_saliency(f)).quantize(w.view(), unseen)), f);
  double const plain = weighted_error(w, decoded(codebook_quantizer().quantize(w.view(), unseen)), f);
  double const nearest =
      weighted_error(w, decoded(absmax_quantizer({.bits = 3, .block = per_channel}).quantize(w.view(), unseen)), f);
  CHECK(weighted < 0.9 * plain);
  CHECK(plain < 0.7 * nearest);
}

TEST_CASE("codebook quantizers keep the laws") {
  CHECK(describe(check_quantizer(codebook_quantizer())) == "");
  CHECK(describe(check_quantizer(codebook_quantizer(input_energy{}, {.bits = 1}))) == "");
  CHECK(describe(check_quantizer(codebook_quantizer(input_energy{}, {.bits = 5, .book_format = number_format::fp32}))) == "");
  CHECK(describe(check_saliency(input_energy{})) == "");
  CHECK_THROWS_WITH(codebook_quantizer({.bits = 9}), Contains("9 bits"));
}

TEST_CASE("importance that is none is refused with its position") {
  matrix<float> f(2, 3);
  CHECK_NOTHROW(external_saliency(f)); // zeros are fine
  f(1, 2) = -1.0f;
  CHECK_THROWS_WITH(external_saliency(f), Contains("-1 at row 1, column 2"));
  f(1, 2) = nan_value;
  CHECK_THROWS_WITH(external_saliency(f), Contains("row 1, column 2"));
  f(1, 2) = 0.0f;
  CHECK_THROWS_WITH(codebook_quantizer(external_saliency(f)).quantize(matrix<float>(2, 4).view(), calibration(4)),
                    Contains("scores are 2 x 3, W is 2 x 4"));
  // all importance 0: as if all were equal
  matrix<float> const w = normal_matrix(2, 30, 9), zero(2, 30);
  CHECK(codebook_quantizer(external_saliency(zero)).quantize(w.view(), calibration(30)) ==
        codebook_quantizer().quantize(w.view(), calibration(30)));
}

TEST_CASE("iqr_pruner keeps what lies beyond the quartiles") {
  matrix<float> w(1, 8); // sorted: -9 -2 -1 0 1 2 3 20; q1 = -1.25, q3 = 2.25 (NumPy), range 3.5
  float const numbers[] = {3, -9, 0, 20, 1, -2, 2, -1};
  std::copy_n(numbers, 8, w.row(0));
  auto const kept_by = [&](double reach) {
    std::vector<float> out;
    mask const kept = iqr_pruner({.reach = reach}).select(w.view(), calibration(8));
    for (index_t j = 0; j < 8; ++j)
      if (kept.kept(0, j)) out.push_back(w(0, j));
    return out;
  };
  CHECK(kept_by(1.5) == std::vector<float>{-9, 20});    // max(|-1.25 - 5.25|, |2.25 + 5.25|) = 7.5
  CHECK(kept_by(2.0) == std::vector<float>{20});        // 9.25
  CHECK(kept_by(0.0) == std::vector<float>{3, -9, 20}); // 2.25
  CHECK(iqr_pruner().select(matrix<float>(3, 3).view(), calibration(3)).count() == 0);
  CHECK(iqr_pruner().select(mapped(matrix<float>(3, 3), [](float) { return -2.0f; }).view(), calibration(3)).count() == 0);
  CHECK(describe(check_pruner(iqr_pruner())) == "");
  CHECK_THROWS_WITH(iqr_pruner({.reach = -1.0}), Contains("reach -1"));
}

TEST_CASE("dense and sparse decode to the weights where they are apart, and to the rest's levels elsewhere") {
  matrix<float> w = normal_matrix(6, 64, 11, 0.02f);
  w(2, 5) = 3.0f;
  w(4, 60) = -2.0f;
  w(4, 61) = -2.0f; // a tie: the lower index
  matrix<float> const f = fisher_like(6, 64, 12);
  auto const by_size = unstructured_pruner(magnitude{}, {.sparsity = 1.0 - 2.0 / 384, .scope = prune_scope::matrix});
  auto const by_fisher = unstructured_pruner(external_saliency(f), {.sparsity = 1.0 - 3.0 / 384, .scope = prune_scope::matrix});
  calibration const unseen(64);
  auto const codes = outlier_quantizer(codebook_quantizer(external_saliency(f)), by_fisher, by_size).quantize(w.view(), unseen);
  mask const a = by_size.select(w.view(), unseen), b = by_fisher.select(w.view(), unseen);
  CHECK(a.kept(4, 60));
  CHECK_FALSE(a.kept(4, 61));
  CHECK(codes.outliers.count() == 5);
  matrix<float> const values = decoded(codes), dense = decoded(codes.base);
  matrix<float> rest_f = f, rest_w = w;
  for (index_t i = 0; i < 6; ++i)
    for (index_t j = 0; j < 64; ++j) {
      bool const apart = a.kept(i, j) || b.kept(i, j);
      if (apart) {
        rest_f(i, j) = rest_w(i, j) = 0.0f;
        CHECK(std::abs(values(i, j) - w(i, j)) <= 0x1p-11f * std::abs(w(i, j) - dense(i, j)));
      } else {
        CHECK(values(i, j) == dense(i, j));
      }
    }
  CHECK(codes.base == codebook_quantizer(external_saliency(rest_f)).quantize(rest_w.view(), unseen));
  CHECK(codes.stored_bits() == codes.base.stored_bits() + 7 * 32 + 5 * 32);
}

TEST_CASE("weights apart do not stretch the range of a quantizer that knows nothing of them; all may be apart, or none") {
  matrix<float> w = normal_matrix(3, 32, 13);
  w(1, 4) = 100.0f;
  calibration const unseen(32);
  absmax_quantizer const rounding({.bits = 4, .block = per_channel});
  auto const apart = outlier_quantizer(rounding, iqr_pruner({.reach = 4.0})).quantize(w.view(), unseen);
  CHECK(apart.outliers.count() == 1);
  CHECK(apart.base.scales(1, 0) < 1.0f);
  auto const share = [](double kept) {
    return unstructured_pruner(magnitude{}, {.sparsity = 1.0 - kept, .scope = prune_scope::matrix});
  };
  auto const all = outlier_quantizer(codebook_quantizer(), share(1.0)).quantize(w.view(), unseen);
  CHECK(all.outliers.count() == 96);
  matrix<float> const values = decoded(all);
  for (index_t k = 0; k < w.size(); ++k) CHECK(values.data()[k] == Approx(w.data()[k]).epsilon(0x1p-11));
  auto const none_apart = outlier_quantizer(codebook_quantizer(), share(0.0)).quantize(w.view(), unseen);
  CHECK(none_apart.base == codebook_quantizer().quantize(w.view(), unseen));
  CHECK(none_apart.stored_bits() == none_apart.base.stored_bits());
  CHECK(describe(check_quantizer(outlier_quantizer(codebook_quantizer(input_energy{}), iqr_pruner(), share(0.02)))) == "");
}

TEST_CASE("companders are piecewise linear, increasing, and their own inverse") {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    matrix<float> const draw = normal_matrix(1, 16, seed, seed < 3 ? 1.0f : 4.0f);
    std::vector<float> const theta = row_of(draw, 0);
    compander const f(theta);
    double sum = 0, before = 0, last = -1;
    for (float const t : theta) sum += std::exp(static_cast<double>(t));
    for (std::size_t k = 0; k < 16; ++k) { // where intervals end f is the share of the thetas so far
      CHECK(f.compress(static_cast<double>(k), 16) / 16 == Approx(before).margin(1e-12));
      before += std::exp(static_cast<double>(theta[k])) / sum;
      double const middle = f.compress(static_cast<double>(k) + 0.25, 16), end = f.compress(static_cast<double>(k) + 1, 16),
                   begin = f.compress(static_cast<double>(k), 16);
      CHECK(middle == Approx(begin + 0.25 * (end - begin)).epsilon(1e-9)); // a line between
    }
    for (int k = 0; k <= 1000; ++k) {
      double const u = 7 * k / 1000.0, y = f.compress(u, 7);
      CHECK(f.expand(y, 7) == Approx(u).margin(1e-9));
      CHECK(y > last);
      last = y;
    }
    CHECK(f.compress(0, 7) == 0.0);
    CHECK(f.compress(7, 7) == Approx(7));
    CHECK(f.expand(7, 7) == 7.0);
  }
  std::vector<float> wide(16);
  wide[3] = 1e30f; // the others keep a slope
  CHECK(compander(wide).slope(0) > 0);
  CHECK(compander(wide).expand(3, 7) == Approx(7 * 3.43 / 16).epsilon(0.01));
  CHECK_THROWS_WITH(compander(std::vector<float>(3)), Contains("3 intervals"));
  CHECK_THROWS_WITH(compander(std::vector<float>{0, nan_value}), Contains("theta of nan"));
}

TEST_CASE("with theta 0 companded codes are uniform codes, bit for bit") {
  matrix<float> const w = mapped(normal_matrix(9, 70, 3), [](float x) { return x * x * x; });
  for (int const bits : {2, 3, 4, 8})
    for (scale_block const block : {per_tensor, per_channel, per_group(16), scale_block{.rows = 2, .cols = 32}}) {
      auto const uniform = absmax_quantizer({.bits = bits, .block = block}).quantize(w.view(), calibration(70));
      auto const companded = companded_codes(w.view(), bits, block, uniform.scales, compander(std::vector<float>(16)));
      CHECK(decoded(companded) == decoded(uniform));
      for (index_t k = 0; k < w.size(); ++k)
        if (int{companded.codes.data()[k]} != uniform.codes.data()[k] + (1 << (bits - 1))) FAIL("another code");
    }
  scale_table const wrong(2, 1);
  CHECK_THROWS_WITH(companded_codes(w.view(), 3, per_channel, wrong, compander(std::vector<float>(1))),
                    Contains("2 x 1 scales"));
}

TEST_CASE("companded levels are never worse than uniform ones, better for heavy tails, and odd") {
  calibration const unseen(96);
  matrix<float> const even = mapped(matrix<float>(8, 96), [](float) { return 1.0f; });
  for (std::uint64_t seed = 0; seed < 4; ++seed)
    for (int const bits : {2, 3, 4}) {
      matrix<float> const w = mapped(normal_matrix(8, 96, seed, 0.3f), [](float x) { return x * (1 + 2 * std::abs(x)); });
      companding_quantizer const q({.bits = bits});
      auto const codes = q.quantize(w.view(), unseen);
      double const companded = weighted_error(w, decoded(codes), even);
      auto const fit = q.fit(w.view());
      CHECK(decoded(companded_codes(w.view(), bits, per_channel, fit.scales, compander(fit.theta))) == decoded(codes));
      double uniform = 0; // the best of 20 clips of each row, in double
      for (index_t i = 0; i < 8; ++i) {
        double largest = 0, least = 1e9;
        for (index_t j = 0; j < 96; ++j) largest = std::max(largest, std::abs(static_cast<double>(w(i, j))));
        double const levels = (1 << (bits - 1)) - 1;
        for (int c = 0; c < 20; ++c) {
          double const scale = largest / levels * (1 - 0.03 * c);
          double error = 0;
          for (index_t j = 0; j < 96; ++j) {
            double const x = static_cast<double>(w(i, j));
            error += std::pow(x - scale * std::min(std::max(std::nearbyint(x / scale), -levels), levels), 2);
          }
          least = std::min(least, error);
        }
        uniform += least;
      }
      INFO(bits << " bits, seed " << seed);
      CHECK(companded <= uniform * (1 + 1e-5));
      if (bits > 2) CHECK(companded < 0.97 * uniform);
      if (bits == 2) CHECK(fit.theta == std::vector<float>(16)); // no level to move
      // No better than the best levels of each row, one more of them.
      CHECK(companded >= weighted_error(w, decoded(codebook_quantizer({.bits = bits}).quantize(w.view(), unseen)), even));
      matrix<float> const turned = mapped(w, [](float x) { return -x; });
      CHECK(decoded(q.quantize(turned.view(), unseen)) == mapped(decoded(codes), [](float x) { return 0.0f - x; }));
    }
  CHECK_THROWS_WITH(companding_quantizer({.bits = 1}), Contains("1 bits"));
  CHECK_THROWS_WITH(companding_quantizer({.intervals = 5}), Contains("5 intervals"));
}

TEST_CASE("books of vectors: nearest levels, means, an error that never rises, and nothing lost with enough levels") {
  matrix<float> const w = normal_matrix(40, 50, 4); // vectors of 8, the last of a row of 2
  calibration const unseen(50);
  matrix<float> const even = mapped(w, [](float) { return 1.0f; });
  double before = 1e9;
  for (int const iterations : {1, 2, 3, 5, 8, 200}) {
    vector_codebook_quantizer const q({.bits = 4, .iterations = iterations, .book_format = number_format::fp32});
    auto const codes = q.quantize(w.view(), unseen);
    double const error = weighted_error(w, decoded(codes), even);
    CHECK(error <= before * (1 + 1e-6));
    before = error;
    matrix<double> sum(16, 8), count(16, 8);
    for (index_t i = 0; i < 40; ++i)
      for (index_t v = 0; v < 7; ++v) {
        double least = 1e9, have = 0;
        for (index_t k = 0; k < 16; ++k) {
          double off = 0;
          for (index_t j = 8 * v; j < std::min<index_t>(50, 8 * v + 8); ++j)
            off += std::pow(static_cast<double>(w(i, j)) - static_cast<double>(codes.books(0, 8 * k + j % 8)), 2);
          least = std::min(least, off);
          if (k == codes.codes(i, v)) have = off;
        }
        if (have > least * (1 + 1e-5) + 1e-6) FAIL("a level is nearer");
        for (index_t j = 8 * v; j < std::min<index_t>(50, 8 * v + 8); ++j) {
          sum(codes.codes(i, v), j % 8) += static_cast<double>(w(i, j));
          count(codes.codes(i, v), j % 8) += 1;
        }
      }
    for (index_t k = 0; iterations == 200 && k < sum.size(); ++k) {
      CHECK((count.data()[k] > 0 || k % 8 >= 2)); // a level may have short vectors only
      if (count.data()[k] > 0)
        CHECK(static_cast<double>(codes.books.data()[k]) == Approx(sum.data()[k] / count.data()[k]).margin(1e-5));
    }
  }
  matrix<float> few(30, 12); // seven vectors of 4
  for (index_t i = 0; i < 30; ++i)
    for (index_t j = 0; j < 12; ++j) few(i, j) = static_cast<float>((i * 3 + j / 4) % 7 * 100 + j % 4) * 0.37f;
  vector_codebook_quantizer const enough({.columns = 4, .bits = 3, .iterations = 50, .book_format = number_format::fp32});
  CHECK(decoded(enough.quantize(few.view(), calibration(12))) == few);
  auto const codes = vector_codebook_quantizer().quantize(w.view(), unseen);
  CHECK(codes.stored_bits() == 40 * 7 * 8 + 256 * 8 * 16);
  CHECK(vector_codebook_quantizer({.seed = 1}).quantize(w.view(), unseen) != codes);
  CHECK_THROWS_WITH(vector_codebook_quantizer({.columns = 0}), Contains("0 columns"));
  codebook_codes other(40, 50, 4, per_tensor, 2);
  CHECK_THROWS_WITH(vector_codebook_quantizer().encode(other, w.view()),
                    Contains("of 2 columns") && Contains("256 levels of 8"));
}

TEST_CASE("ternary codes are the nearest of all supports in every group, scale with it and are odd") {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    matrix<float> w = normal_matrix(2, 23, seed);                                // groups of 12 and 11
    if (seed % 2 == 1) w = mapped(w, [](float x) { return std::round(2 * x); }); // ties and zeros
    ternary_quantizer const q({.group = 12});
    auto const codes = q.quantize(w.view(), calibration(23));
    matrix<float> const values = decoded(codes);
    for (index_t i = 0; i < 2; ++i)
      for (index_t first = 0; first < 23; first += 12) {
        unsigned const n = first == 0 ? 12 : 11;
        double error = 0, best = 1e9;
        for (unsigned j = 0; j < n; ++j)
          error += std::pow(static_cast<double>(w(i, first + j)) - static_cast<double>(values(i, first + j)), 2);
        for (unsigned support = 0; support < 1u << n; ++support) {
          double sum = 0, squares = 0;
          int count = 0;
          for (unsigned j = 0; j < n; ++j) {
            double const x = std::abs(static_cast<double>(w(i, first + j)));
            squares += x * x;
            if ((support >> j & 1) == 0) continue;
            sum += x;
            ++count;
          }
          best = std::min(best, squares - (count > 0 ? sum * sum / count : 0));
        }
        CHECK(error == Approx(best).epsilon(1e-5).margin(1e-6));
      }
    matrix<float> const four = mapped(w, [](float x) { return -4 * x; });
    CHECK(decoded(q.quantize(four.view(), calibration(23))) == mapped(values, [](float x) { return 0.0f - 4 * x; }));
  }
  matrix<float> const w = normal_matrix(3, 20, 5);
  auto const all = ternary_support(w.view(), 0), half = ternary_support(w.view(), 0.5), best = ternary_support(w.view(), 1);
  auto const codes = ternary_quantizer().quantize(w.view(), calibration(20));
  CHECK(all.count() == 60);
  for (index_t i = 0; i < 3; ++i) {
    index_t kept = 0, halfway = 0;
    for (index_t j = 0; j < 20; ++j) {
      CHECK(best.kept(i, j) == (codes.codes(i, j) != 0));
      CHECK(half.kept(i, j) >= best.kept(i, j));
      kept += best.kept(i, j) ? 1 : 0;
      halfway += half.kept(i, j) ? 1 : 0;
    }
    CHECK(halfway == 20 - std::lround(0.5 * static_cast<double>(20 - kept)));
  }
  CHECK_THROWS_WITH(ternary_support(w.view(), 1.5), Contains("share of 1.5"));
  CHECK_THROWS_WITH(ternary_quantizer({.group = -1}), Contains("-1 columns"));
}

TEST_CASE("companded, vector and ternary quantizers keep the laws") {
  CHECK(describe(check_quantizer(companding_quantizer())) == "");
  CHECK(describe(check_quantizer(
            companding_quantizer({.bits = 3, .block = per_group(16), .scale_format = number_format::fp16}))) == "");
  CHECK(describe(check_quantizer(vector_codebook_quantizer({.bits = 4, .iterations = 4}))) == "");
  CHECK(describe(check_quantizer(vector_codebook_quantizer({.columns = 3, .bits = 2, .book_format = number_format::fp32}))) ==
        "");
  // As any codes: code -2 is not used, though it may be the nearest.
  CHECK(describe(check_quantizer(ternary_as_any{})) == "");
}
