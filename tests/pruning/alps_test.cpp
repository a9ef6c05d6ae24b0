#include "slim/pruning/alps.hpp"

#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/pruner_laws.hpp"

#include "pruning/least_squares_oracle.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;
using namespace slim_test;

namespace {

/// The laws are asked of every calibration; without a Gram matrix ALPS refuses, and something else answers.
template <pruner P>
struct where_gram {
  alps<P> inner;
  mask select(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    return calib.has_gram() ? inner.select(w, calib, ctx) : mask(w.rows(), w.cols());
  }
  std::string describe() const { return inner.describe(); }
};

using two_of_four = decltype(nm_pruner<2, 4>(magnitude()));
using unstructured = unstructured_pruner<magnitude>;

alps<two_of_four> alps_24(alps_config config = {}) { return alps<two_of_four>(nm_pruner<2, 4>(magnitude()), config); }

/// The least error of any 2:4 row of 8 columns: every mask, each solved exactly.
double best_of_all_masks(matrix<float> const& w, matrix<double> const& c) {
  int const pairs[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
  double best = std::numeric_limits<double>::infinity();
  for (auto const& first : pairs)
    for (auto const& second : pairs) {
      mask kept(1, 8, {2, 4});
      for (int const k : first) kept.keep(0, k);
      for (int const k : second) kept.keep(0, 4 + k);
      best = std::min(best, total_error(w, least_squares(w, kept, c), c));
    }
  return best;
}

} // namespace

TEST_CASE("alps keeps the laws of a pruner, N:M and unstructured") {
  CHECK(describe(check_pruner(where_gram<two_of_four>{alps_24()})) == "");
  unstructured const rows(magnitude(), {.sparsity = 0.5}), whole(magnitude(), {.sparsity = 0.7, .scope = prune_scope::matrix});
  CHECK(describe(check_pruner(where_gram<unstructured>{alps<unstructured>(rows)})) == "");
  CHECK(describe(check_pruner(where_gram<unstructured>{alps<unstructured>(whole)})) == "");
}

TEST_CASE("alps' weights lie on its mask, are finite, and are never worse than its first mask solved exactly") {
  for (named_matrix const& w : hard_matrices(60))
    for (named_calibration const& known : hard_calibrations(w.values.cols())) {
      if (!known.calib.has_gram()) continue;
      INFO(w.name << "; " << known.name);
      alps_result const found = alps_24().solve(w.values.view(), known.calib);
      CHECK(all_finite(found.solved.weights));
      matrix<float> again = found.solved.weights;
      found.kept.apply_to(again.view());
      CHECK(same_bits(again, found.solved.weights));
      CHECK(found.kept == alps_24().select(w.values.view(), known.calib));
      matrix<double> const c = damped_gram(known.calib, 0.01);
      for (index_t i = 0; i < w.values.rows(); ++i) { // the masked W itself bounds it as well
        double energy = 0;
        for (index_t j = 0; j < c.rows(); ++j) energy += std::abs(static_cast<double>(w.values(i, j))) * std::sqrt(c(j, j));
        CHECK(row_error(w.values, found.solved.weights, c, i) <= energy * energy * (1 + 1e-6) + 1e-80);
      }
    }
}

TEST_CASE("alps' weights are the least squares on its mask") {
  matrix<float> const w = normal_matrix(24, 40, 1, 0.02f);
  calibration const calib = observed(correlated_activations(200, 40, 2), {.gram = true});
  alps_result const found = alps_24().solve(w.view(), calib);
  matrix<double> const c = damped_gram(calib, 0.01);
  double const best = total_error(w, least_squares(w, found.kept, c), c);
  CHECK(total_error(w, found.solved.weights, c) == Approx(best).epsilon(1e-4));
  CHECK(found.solved.error_after == Approx(best).epsilon(1e-3));
  CHECK(found.iterations > 0);
  CHECK(found.iterations <= 300);
}

TEST_CASE("on one row of 8, alps comes nearer to the best of all masks than wanda's mask solved exactly") {
  double ours = 0, wanda_solved = 0, best = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    matrix<float> const w = normal_matrix(1, 8, seed);
    calibration const calib = observed(correlated_activations(50, 8, seed + 100), {.gram = true});
    matrix<double> const c = damped_gram(calib, 0.01);
    double const limit = best_of_all_masks(w, c);
    double const found = alps_24().solve(w.view(), calib).solved.error_after;
    CHECK(found >= limit * (1 - 1e-4));
    double const scale = 1 / limit; // every row counts the same
    ours += found * scale;
    best += 1.0;
    wanda_solved += scale * masked_least_squares(w.view(), nm_pruner<2, 4>(wanda()).select(w.view(), calib), calib).error_after;
  }
  CHECK(ours - best < 0.75 * (wanda_solved - best));
}

TEST_CASE("alps beats wanda's mask solved exactly, N:M and unstructured") {
  matrix<float> const w = normal_matrix(48, 64, 3, 0.02f);
  calibration const calib = observed(correlated_activations(400, 64, 4), {.gram = true});
  double const nm = masked_least_squares(w.view(), nm_pruner<2, 4>(wanda()).select(w.view(), calib), calib).error_after;
  CHECK(alps_24().solve(w.view(), calib).solved.error_after < 0.9 * nm);
  unstructured_config const half{.sparsity = 0.5, .scope = prune_scope::matrix};
  double const free =
      masked_least_squares(w.view(), unstructured_pruner<wanda>(wanda(), half).select(w.view(), calib), calib).error_after;
  alps_result const found = alps<unstructured>(unstructured(magnitude(), half)).solve(w.view(), calib);
  CHECK(found.solved.error_after < 0.9 * free);
  CHECK(found.kept.count() == 48 * 64 / 2);
}

TEST_CASE("without correlation alps keeps what wanda keeps, and its weights") {
  matrix<float> x(16, 16), w = normal_matrix(6, 16, 5);
  for (index_t j = 0; j < 16; ++j) x(j, j) = static_cast<float>(1 + j % 5);
  calibration const calib = observed(x, {.gram = true});
  alps_result const found = alps_24({.solve = {.damping = 0.0}}).solve(w.view(), calib);
  CHECK(found.kept == nm_pruner<2, 4>(wanda()).select(w.view(), calib));
  for (index_t i = 0; i < 6; ++i)
    for (index_t j = 0; j < 16; ++j)
      CHECK(found.solved.weights(i, j) == Approx(found.kept.kept(i, j) ? w(i, j) : 0.0f).epsilon(1e-4));
}

TEST_CASE("the scale of weights and of activations does not matter to alps") {
  matrix<float> const w = normal_matrix(12, 20, 6), x = correlated_activations(100, 20, 7);
  auto const bigger = [](float x_) { return x_ * 0x1p40f; };
  auto const select = [](matrix<float> const& a, matrix<float> const& b) {
    return alps_24().select(a.view(), observed(b, {.gram = true}));
  };
  CHECK(select(w, x) == select(mapped(w, bigger), x));
  CHECK(select(w, x) == select(w, mapped(x, bigger)));
}

TEST_CASE("a penalty that freezes the support at once is lowered") {
  matrix<float> const w = normal_matrix(24, 40, 8, 0.02f);
  calibration const calib = observed(correlated_activations(200, 40, 9), {.gram = true});
  alps_result const frozen = alps_24({.rho = 1e5}).solve(w.view(), calib);
  CHECK(frozen.restarts > 0);
  alps_result const usual = alps_24().solve(w.view(), calib);
  CHECK(usual.solved.error_after < frozen.solved.error_after);
  CHECK(alps_24({.max_iterations = 0}).solve(w.view(), calib).iterations == 0);
}

TEST_CASE("alps refuses bad configurations and calibrations without a Gram matrix") {
  matrix<float> const w = normal_matrix(2, 4, 10);
  CHECK_THROWS_AS(alps_24({.rho = 0.0}), config_error);
  CHECK_THROWS_AS(alps_24({.max_iterations = -1}), config_error);
  CHECK_THROWS_AS(alps_24({.update_every = 0}), config_error);
  CHECK_THROWS_AS(alps_24({.slow_growth = 0.9}), config_error);
  CHECK_THROWS_AS(alps_24({.solve = {.damping = -0.1}}).select(w.view(), observed(normal_matrix(5, 4, 1), {.gram = true})),
                  config_error);
  CHECK_THROWS_AS(alps_24().select(w.view(), observed(normal_matrix(5, 4, 1))), config_error);
  CHECK_THROWS_AS(alps_24().select(w.view(), calibration(4, {.gram = true})), config_error);
  CHECK_THROWS_AS(alps_24().select(w.view(), observed(normal_matrix(5, 3, 1), {.gram = true})), shape_error);
  CHECK(alps_24().describe() == "alps, prune 2:4 by magnitude");
}
