#include "slim/transforms/nm_permutation.hpp"

#include "slim/pruning/nm_pruner.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/ria.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

matrix<float> magnitudes(index_t rows, index_t cols, std::uint64_t seed) {
  return mapped(normal_matrix(rows, cols, seed), [](float x) { return std::abs(x); });
}

/// Kept by the pruner itself: sum of |w| where its mask keeps.
double kept_by_pruner(matrix<float> const& w) {
  mask const kept = nm_pruner<2, 4>(magnitude()).select(w.view(), calibration(w.cols()));
  double sum = 0;
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j)
      if (kept.kept(i, j)) sum += static_cast<double>(std::abs(w(i, j)));
  return sum;
}

/// The best order of at most 8 or so columns, by trying all.
double best_of_all_orders(matrix<float> const& scores, sparsity_pattern pattern) {
  std::vector<index_t> order = channel_permutation::identity(scores.cols()).order();
  double best = 0;
  do best = std::max(best, retained_score(channel_permutation(order).apply(scores.view()).view(), pattern));
  while (std::next_permutation(order.begin(), order.end()));
  return best;
}

} // namespace

TEST_CASE("the retained score is what the pruner keeps") {
  for (named_matrix const& w : hard_matrices(30)) {
    INFO(w.name);
    matrix<float> const scores = mapped(w.values, [](float x) { return std::abs(x); });
    CHECK(retained_score(scores.view(), {2, 4}) == Approx(kept_by_pruner(w.values)).epsilon(1e-12));
  }
}

TEST_CASE("a permutation keeps what it says, at least what was kept before, and is the same on every executor") {
  for (sparsity_pattern const pattern : {sparsity_pattern{2, 4}, {1, 2}, {4, 8}, {3, 5}, {4, 4}})
    for (named_matrix const& w : hard_matrices(40)) {
      INFO(w.name << " " << pattern.n << ":" << pattern.m);
      matrix<float> const scores = mapped(w.values, [](float x) { return std::abs(x); });
      nm_permutation_config const config{.pattern = pattern, .groups_per_assignment = 16};
      nm_permutation const found = permutation_for_nm(scores.view(), config, on(serial_executor{}));
      CHECK(found.score_before == retained_score(scores.view(), pattern));
      CHECK(found.score_after == retained_score(found.permutation.apply(scores.view()).view(), pattern));
      CHECK(found.score_after >= found.score_before);
      CHECK(found.permutation == permutation_for_nm(scores.view(), config, on(thread_team_executor{})).permutation);
      CHECK(found.permutation == permutation_for_nm(scores.view(), config, on(backwards_executor{})).permutation);
    }
}

TEST_CASE("two channels that fight in every group are told apart: the best order is found where it is plain") {
  // Channels 0 to 7 matter, 8 to 15 do not; as they stand, groups of important channels lose half of them.
  matrix<float> scores(20, 16);
  for (index_t i = 0; i < 20; ++i)
    for (index_t j = 0; j < 16; ++j)
      scores(i, j) =
          (j < 8 ? 10.0f : 0.1f) + 0.01f * static_cast<float>(random_uniform(1, static_cast<std::uint64_t>(16 * i + j)));
  nm_permutation const found = permutation_for_nm(scores.view());
  CHECK(found.score_before < 20 * 42.0);
  CHECK(found.score_after >= 20 * 80.0);
}

TEST_CASE("on small matrices the permutation comes near the best of all orders") {
  double found = 0, best = 0, before = 0;
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    matrix<float> const scores = magnitudes(6, 8, seed + 50);
    nm_permutation const p = permutation_for_nm(scores.view());
    double const limit = best_of_all_orders(scores, {2, 4});
    CHECK(p.score_after <= limit * (1 + 1e-12));
    found += p.score_after;
    before += p.score_before;
    best += limit;
  }
  CHECK(found - before >= 0.6 * (best - before)); // a local search
}

TEST_CASE("assignments improve on sorting and dealing, and further rounds never lose") {
  matrix<float> const scores = magnitudes(40, 96, 3);
  double last = permutation_for_nm(scores.view(), {.rounds = 0}).score_after;
  double const dealt = last;
  for (int rounds = 1; rounds <= 5; ++rounds) {
    double const score = permutation_for_nm(scores.view(), {.rounds = rounds}).score_after;
    CHECK(score >= last);
    last = score;
  }
  CHECK(last > dealt * 1.002);
}

TEST_CASE("channels stay inside their blocks, and tied blocks share one order") {
  matrix<float> const scores = magnitudes(9, 48, 4);
  auto const order = permutation_for_nm(scores.view(), {.block = 8, .tied = 3}).permutation.order();
  for (index_t j = 0; j < 48; ++j) {
    CHECK(order[static_cast<std::size_t>(j)] / 8 == j / 8);
    index_t const head = j / 8, first = head / 3 * 3;
    CHECK(order[static_cast<std::size_t>(j)] - head * 8 == order[static_cast<std::size_t>(first * 8 + j % 8)] - first * 8);
  }
  // Free blocks keep at least as much as tied ones have room for.
  double const tied = permutation_for_nm(scores.view(), {.block = 8, .tied = 3}).score_after;
  double const free = permutation_for_nm(scores.view(), {.block = 8}).score_after;
  double const anywhere = permutation_for_nm(scores.view()).score_after;
  CHECK(tied < free);
  CHECK(free < anywhere);
}

TEST_CASE("NaN, infinite and negative scores count as nothing") {
  matrix<float> scores = magnitudes(3, 12, 5);
  scores(0, 0) = std::numeric_limits<float>::quiet_NaN();
  scores(1, 5) = std::numeric_limits<float>::infinity();
  scores(2, 7) = -3.0f;
  matrix<float> cleaned = scores;
  cleaned(0, 0) = cleaned(1, 5) = cleaned(2, 7) = 0.0f;
  CHECK(permutation_for_nm(scores.view()).permutation == permutation_for_nm(cleaned.view()).permutation);
  CHECK(std::isfinite(retained_score(scores.view(), {2, 4})));
}

TEST_CASE("a common power of two of the scores does not matter, up to the ends of the floats") {
  matrix<float> const scores = magnitudes(80, 24, 9);
  auto const order = permutation_for_nm(scores.view()).permutation;
  for (float const factor : {0x1p125f, 0x1p-120f})
    CHECK(permutation_for_nm(mapped(scores, [&](float x) { return x * factor; }).view()).permutation == order);
}

TEST_CASE("by saliency is by its scores") {
  matrix<float> const w = normal_matrix(10, 24, 6), x = normal_matrix(40, 24, 7);
  calibration const calib = observed(x);
  auto const score = ria().prepare(w.view(), calib);
  matrix<float> scores(10, 24);
  for (index_t i = 0; i < 10; ++i)
    for (index_t j = 0; j < 24; ++j) scores(i, j) = score(i, j);
  CHECK(permutation_for_nm(w.view(), calib, ria()).permutation == permutation_for_nm(scores.view()).permutation);
}

TEST_CASE("bad patterns and blocks are refused") {
  matrix<float> const scores = magnitudes(2, 24, 8);
  CHECK_THROWS_AS(permutation_for_nm(scores.view(), {.pattern = {0, 4}}), config_error);
  CHECK_THROWS_AS(permutation_for_nm(scores.view(), {.pattern = {5, 4}}), config_error);
  CHECK_THROWS_AS(permutation_for_nm(scores.view(), {.pattern = {2, 65}}), config_error);
  CHECK_THROWS_AS(permutation_for_nm(scores.view(), {.block = 6}), config_error);
  CHECK_THROWS_AS(permutation_for_nm(scores.view(), {.block = 16}), config_error);
  CHECK_THROWS_AS(permutation_for_nm(scores.view(), {.tied = 2}), config_error);
  CHECK_THROWS_AS(permutation_for_nm(scores.view(), {.rounds = -1}), config_error);
  CHECK_THROWS_AS(permutation_for_nm(scores.view(), {.groups_per_assignment = 1}), config_error);
  CHECK_THROWS_AS(retained_score(scores.view(), {}), config_error);
}
