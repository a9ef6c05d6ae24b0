#include "slim/pruning/external_mask.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/pruner_laws.hpp"

#include <catch2/catch.hpp>

#include <numeric>

using namespace slim;
using namespace slim::testing;

namespace {

/// The oracle: sort the competitors by score, lower position first among equals, keep the first `wanted`.
template <class Score>
void keep_best(mask& kept, Score const& score, std::vector<std::pair<index_t, index_t>> const& team, index_t wanted) {
  std::vector<std::size_t> order(team.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  auto const value = [&](std::size_t k) {
    double const s = score(team[k].first, team[k].second);
    return std::isnan(s) ? -std::numeric_limits<double>::infinity() : s;
  };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return value(a) > value(b); });
  for (index_t k = 0; k < wanted; ++k)
    kept.keep(team[order[static_cast<std::size_t>(k)]].first, team[order[static_cast<std::size_t>(k)]].second);
}

template <class Score>
mask oracle_nm(matrix<float> const& w, Score const& score, index_t n, index_t m) {
  mask kept(w.rows(), w.cols(), {n, m});
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t first = 0; first < w.cols(); first += m) {
      std::vector<std::pair<index_t, index_t>> team;
      for (index_t j = first; j < std::min(first + m, w.cols()); ++j) team.emplace_back(i, j);
      auto const width = static_cast<double>(team.size());
      keep_best(kept, score, team,
                static_cast<index_t>(std::ceil(width * static_cast<double>(n) / static_cast<double>(m) - 1e-9)));
    }
  return kept;
}

template <class Score>
mask oracle_unstructured(matrix<float> const& w, Score const& score, double sparsity, bool by_row) {
  mask kept(w.rows(), w.cols());
  std::vector<std::pair<index_t, index_t>> team;
  for (index_t i = 0; i < w.rows(); ++i) {
    for (index_t j = 0; j < w.cols(); ++j) team.emplace_back(i, j);
    if (!by_row && i + 1 < w.rows()) continue;
    auto const total = static_cast<index_t>(team.size());
    keep_best(kept, score, team, total - static_cast<index_t>(std::floor(sparsity * static_cast<double>(total))));
    team.clear();
  }
  return kept;
}

auto magnitude_of(matrix<float> const& w) {
  return [&w](index_t i, index_t j) { return std::abs(static_cast<double>(w(i, j))); };
}

template <int N, int M>
void check_nm_against_oracle() {
  for (named_matrix const& w : hard_matrices(50)) {
    INFO(w.name << ", " << N << ":" << M);
    mask const kept = nm_pruner<N, M>(magnitude()).select(w.values.view(), calibration(w.values.cols()));
    CHECK(kept == oracle_nm(w.values, magnitude_of(w.values), N, M));
  }
}

} // namespace

TEST_CASE("N:M keeps what sorting every group keeps, ties and ragged tails included") {
  check_nm_against_oracle<1, 2>();
  check_nm_against_oracle<2, 4>();
  check_nm_against_oracle<4, 8>();
  check_nm_against_oracle<1, 4>();
  check_nm_against_oracle<3, 7>();
  check_nm_against_oracle<5, 5>();
  check_nm_against_oracle<1, 64>();
  check_nm_against_oracle<33, 64>();
}

TEST_CASE("2:4 keeps exactly half of every row whose length is divisible by 4") {
  matrix<float> const w = normal_matrix(7, 64, 3);
  mask const kept = nm_pruner<2, 4>(magnitude()).select(w.view(), calibration(64));
  CHECK(kept.count() == 7 * 32);
  CHECK(kept.sparsity() == 0.5);
  CHECK(kept.index_bits() == 7 * 32 * 2);
  CHECK(kept.pattern() == sparsity_pattern{2, 4});
}

TEST_CASE("2:4 by wanda keeps what sorting by |w| ||x|| keeps") {
  matrix<float> const w = normal_matrix(9, 22, 4), x = normal_matrix(40, 22, 5);
  std::vector<double> square(22);
  for (index_t t = 0; t < 40; ++t)
    for (index_t j = 0; j < 22; ++j)
      square[static_cast<std::size_t>(j)] += static_cast<double>(x(t, j)) * static_cast<double>(x(t, j));
  auto const score = [&](index_t i, index_t j) {
    return std::abs(static_cast<double>(w(i, j))) * std::sqrt(square[static_cast<std::size_t>(j)]);
  };
  CHECK(nm_pruner<2, 4>(wanda()).select(w.view(), observed(x)) == oracle_nm(w, score, 2, 4));
  CHECK(unstructured_pruner(wanda{}, {.sparsity = 0.6}).select(w.view(), observed(x)) ==
        oracle_unstructured(w, score, 0.6, true));
}

TEST_CASE("weights of dead channels are pruned first") {
  matrix<float> w = mapped(matrix<float>(2, 8), [](float) { return 1.0f; }), x = normal_matrix(10, 8, 6);
  for (index_t t = 0; t < 10; ++t) x(t, 0) = x(t, 1) = x(t, 5) = 0.0f;
  w(0, 0) = 1e6f;
  mask const kept = nm_pruner<2, 4>(wanda()).select(w.view(), observed(x));
  CHECK_FALSE(kept.kept(0, 0));
  CHECK_FALSE(kept.kept(0, 1));
  CHECK_FALSE(kept.kept(1, 5));
}

TEST_CASE("NaN scores lose to every other score, -infinity aside") {
  matrix<float> w = normal_matrix(1, 8, 7);
  w(0, 1) = w(0, 2) = w(0, 6) = std::numeric_limits<float>::quiet_NaN();
  mask const kept = nm_pruner<2, 4>(magnitude()).select(w.view(), calibration(8));
  CHECK((kept.kept(0, 0) && kept.kept(0, 3) && !kept.kept(0, 6)));
  mask const all = unstructured_pruner(magnitude{}, {.sparsity = 0.25}).select(w.view(), calibration(8));
  CHECK(all.count() == 6);
  CHECK((all.kept(0, 0) && all.kept(0, 3) && all.kept(0, 4) && all.kept(0, 5) && all.kept(0, 7)));
}

TEST_CASE("unstructured pruning keeps what sorting keeps, per row and per matrix, with exact counts") {
  double const sparsity = GENERATE(0.0, 0.1, 0.5, 0.75, 0.999, 1.0);
  for (named_matrix const& w : hard_matrices(60)) {
    INFO(w.name << " at " << sparsity);
    calibration const none(w.values.cols());
    mask const by_row = unstructured_pruner(magnitude{}, {.sparsity = sparsity}).select(w.values.view(), none);
    mask const whole =
        unstructured_pruner(magnitude{}, {.sparsity = sparsity, .scope = prune_scope::matrix}).select(w.values.view(), none);
    CHECK(by_row == oracle_unstructured(w.values, magnitude_of(w.values), sparsity, true));
    CHECK(whole == oracle_unstructured(w.values, magnitude_of(w.values), sparsity, false));
    CHECK(by_row.count() ==
          w.values.rows() * (w.values.cols() - static_cast<index_t>(sparsity * static_cast<double>(w.values.cols()))));
    CHECK(whole.count() == w.values.size() - static_cast<index_t>(sparsity * static_cast<double>(w.values.size())));
    double const columns = 16.0 * static_cast<double>(whole.count()) + 32.0 * static_cast<double>(w.values.rows() + 1);
    CHECK(whole.index_bits() == std::min(static_cast<double>(w.values.size()), columns));
  }
}

TEST_CASE("pruners keep the laws") {
  CHECK(describe(check_pruner(nm_pruner<2, 4>(wanda()))) == "");
  CHECK(describe(check_pruner(nm_pruner<3, 7>(magnitude()))) == "");
  CHECK(describe(check_pruner(unstructured_pruner(wanda{}, {.sparsity = 0.5}))) == "");
  CHECK(describe(check_pruner(unstructured_pruner(magnitude{}, {.sparsity = 0.3, .scope = prune_scope::matrix}))) == "");
}

TEST_CASE("a sparsity outside [0, 1] is refused with its value") {
  double const sparsity = GENERATE(-0.1, 1.1, std::numeric_limits<double>::quiet_NaN());
  CHECK_THROWS_AS((unstructured_pruner(magnitude{}, {.sparsity = sparsity})), config_error);
}

TEST_CASE("an external mask is taken as it is, whatever its type") {
  matrix<double> m(2, 4);
  m(0, 1) = 1e-300; // not zero, though no float
  m(1, 2) = -1;
  external_mask const p(m);
  matrix<float> const w = normal_matrix(2, 4, 8);
  mask const kept = p.select(w.view(), calibration(4));
  CHECK(kept.count() == 2);
  CHECK(kept.kept(0, 1));
  CHECK(kept.kept(1, 2));
  CHECK_FALSE(kept.pattern().structured());
  CHECK_THROWS_AS(p.select(normal_matrix(4, 2, 1).view(), calibration(2)), shape_error);
  CHECK(describe(check_pruner(p, {{"as the mask", w}})) == "");
}

TEST_CASE("an external mask that breaks its promised pattern is refused, naming row and columns") {
  matrix<int> m(2, 6);
  m(0, 0) = m(0, 2) = m(0, 5) = m(1, 1) = m(1, 2) = m(1, 4) = 1;
  external_mask const fits(m, {2, 4}); // the ragged group of 2 keeps 1
  CHECK(fits.select(matrix<float>(2, 6).view(), calibration(6)).pattern() == sparsity_pattern{2, 4});
  m(1, 3) = 1;
  CHECK_THROWS_AS(external_mask(m, {2, 4}), config_error);
  CHECK_THROWS_WITH(external_mask(m, {2, 4}), Catch::Contains("row 1") && Catch::Contains("columns 0 to 3"));
}

TEST_CASE("applying a mask sets pruned weights to exactly +0 and leaves the others") {
  matrix<float> w = normal_matrix(3, 5, 9);
  w(0, 0) = std::numeric_limits<float>::infinity();
  matrix<float> const before = w;
  mask kept(3, 5);
  kept.keep(1, 1);
  kept.keep(2, 4);
  kept.apply_to(w);
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 5; ++j) CHECK(same_bits(w(i, j), kept.kept(i, j) ? before(i, j) : 0.0f));
  CHECK(kept.sparsity() == Approx(13.0 / 15));
  matrix<float> other(5, 3);
  CHECK_THROWS_AS(kept.apply_to(other), shape_error);
  CHECK(mask(0, 5).sparsity() == 0.0);
}

TEST_CASE("index bits are those of the cheapest format: a bit per weight, whatever the pattern, or a column per kept weight") {
  matrix<float> const w = normal_matrix(2, 40, 10);
  calibration const none(40);
  CHECK(nm_pruner<1, 2>(magnitude()).select(w.view(), none).index_bits() == 80);
  CHECK(nm_pruner<2, 4>(magnitude()).select(w.view(), none).index_bits() == 80);
  CHECK(nm_pruner<3, 5>(magnitude()).select(w.view(), none).index_bits() == 80);
  CHECK(nm_pruner<2, 8>(magnitude()).select(w.view(), none).index_bits() == 80);
  CHECK(nm_pruner<32, 64>(magnitude()).select(w.view(), none).index_bits() == 80);
  mask few(4, 1000, {1, 1000});
  for (index_t i = 0; i < 4; ++i) few.keep(i, 7);
  CHECK(few.index_bits() == 4 * 16 + 5 * 32); // csr_codes
  mask huge(1, 2, {1, std::numeric_limits<index_t>::max()});
  CHECK(huge.index_bits() == 2.0);
}
