#include "slim/pruning/masked_least_squares.hpp"

#include "slim/calibration/output_error.hpp"
#include "slim/pruning/external_mask.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/same_bits.hpp"

#include "pruning/least_squares_oracle.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;
using namespace slim_test;

namespace {

matrix<float> masked(matrix<float> w, mask const& kept) {
  kept.apply_to(w.view());
  return w;
}

} // namespace

TEST_CASE("weights on a mask are as good as the dense solution row by row in double") {
  auto const [rows, cols] = GENERATE(table<index_t, index_t>({{1, 1}, {7, 12}, {20, 50}, {33, 130}}));
  double const damping = GENERATE(0.001, 0.01, 0.1);
  matrix<float> const w = normal_matrix(rows, cols, 1, 0.02f);
  calibration const calib = observed(correlated_activations(4 * cols, cols, 2), {.gram = true});
  matrix<double> const c = damped_gram(calib, damping);
  for (mask const& kept :
       {nm_pruner<2, 4>(wanda()).select(w.view(), calib),
        unstructured_pruner<wanda>(wanda(), {.sparsity = 0.6, .scope = prune_scope::matrix}).select(w.view(), calib)}) {
    masked_weights const found = masked_least_squares(w.view(), kept, calib, {.damping = damping});
    double const best = total_error(w, least_squares(w, kept, c), c), before = total_error(w, masked(w, kept), c);
    CHECK(found.rows_not_done == 0);
    CHECK(total_error(w, found.weights, c) <= best + 1e-6 * before);
    CHECK(found.error_before == Approx(before).epsilon(1e-4));
    CHECK(found.error_after == Approx(total_error(w, found.weights, c)).epsilon(1e-3).margin(1e-5 * before));
  }
}

TEST_CASE("weights on a mask are 0 where pruned, and no row is worse than with its weights left alone, damping or not") {
  for (named_matrix const& w : hard_matrices(20))
    for (named_calibration const& known : hard_calibrations(w.values.cols())) {
      if (!known.calib.has_gram()) continue;
      INFO(w.name << "; " << known.name);
      mask const kept = nm_pruner<2, 4>(wanda()).select(w.values.view(), known.calib);
      masked_weights const found = masked_least_squares(w.values.view(), kept, known.calib);
      CHECK(all_finite(found.weights));
      CHECK(same_bits(masked(found.weights, kept), found.weights));
      CHECK(found.error_after <= found.error_before);
      matrix<double> const plain(known.calib.gram()), damped = damped_gram(known.calib, 0.01);
      matrix<float> const before = masked(w.values, kept);
      for (index_t i = 0; i < w.values.rows(); ++i) {
        double energy = 0; // without cancellation: what rounding of weights is relative to
        for (index_t j = 0; j < plain.rows(); ++j)
          energy += std::abs(static_cast<double>(w.values(i, j))) * std::sqrt(damped(j, j));
        double const slack = 1e-6 * energy * energy + 1e-80;
        CHECK(row_error(w.values, found.weights, plain, i) <= row_error(w.values, before, plain, i) + slack);
        CHECK(row_error(w.values, found.weights, damped, i) <= row_error(w.values, before, damped, i) + slack);
      }
    }
}

TEST_CASE("where everything is kept nothing moves; where nothing is kept nothing is left") {
  matrix<float> const w = normal_matrix(5, 9, 3);
  calibration const calib = observed(correlated_activations(40, 9, 4), {.gram = true});
  mask all(5, 9);
  for (index_t i = 0; i < 5; ++i)
    for (index_t j = 0; j < 9; ++j) all.keep(i, j);
  CHECK(same_bits(masked_least_squares(w.view(), all, calib).weights, w));
  CHECK(masked_least_squares(w.view(), mask(5, 9), calib).weights == matrix<float>(5, 9));
  CHECK(masked_least_squares(w.view(), all, calib).iterations == 0);
}

TEST_CASE("without correlation the weights stay: every channel pays for itself") {
  matrix<float> x(8, 8), w = normal_matrix(4, 8, 5);
  for (index_t j = 0; j < 8; ++j) x(j, j) = static_cast<float>(j + 1);
  calibration const calib = observed(x, {.gram = true});
  mask const kept = nm_pruner<2, 4>(wanda()).select(w.view(), calib);
  CHECK(same_bits(masked_least_squares(w.view(), kept, calib).weights, masked(w, kept)));
}

TEST_CASE("of two equal channels the kept one takes over the weight of the other") {
  matrix<float> x = normal_matrix(30, 2, 6), w(1, 2);
  for (index_t t = 0; t < 30; ++t) x(t, 1) = x(t, 0);
  w(0, 0) = 3.0f;
  w(0, 1) = 2.0f;
  mask kept(1, 2);
  kept.keep(0, 0);
  CHECK(masked_least_squares(w.view(), kept, observed(x, {.gram = true}), {.damping = 0.0}).weights(0, 0) == Approx(5.0f));
}

TEST_CASE("dead channels keep their weights, and change nobody else's") {
  matrix<float> x = correlated_activations(60, 12, 7), w = normal_matrix(3, 12, 8);
  for (index_t t = 0; t < 60; ++t) x(t, 5) = 0.0f;
  calibration const calib = observed(x, {.gram = true});
  mask kept(3, 12);
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 12; ++j) kept.keep(i, j, (i + j) % 2 == 1);
  masked_weights const found = masked_least_squares(w.view(), kept, calib, {.damping = 0.0});
  CHECK(found.weights(0, 5) == w(0, 5));
  matrix<float> louder = w;
  for (index_t i = 0; i < 3; ++i) louder(i, 5) = 1000.0f * static_cast<float>(i + 1);
  masked_weights const again = masked_least_squares(louder.view(), kept, calib, {.damping = 0.0});
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 12; ++j)
      if (j != 5) CHECK(again.weights(i, j) == Approx(found.weights(i, j)).epsilon(1e-4).margin(1e-4));
}

TEST_CASE("the iteration limit strikes where it is set, is reported, and more iterations are never worse") {
  matrix<float> const w = normal_matrix(16, 64, 9);
  calibration const calib = observed(correlated_activations(200, 64, 10), {.gram = true});
  mask const kept = nm_pruner<2, 4>(wanda()).select(w.view(), calib);
  double last = std::numeric_limits<double>::infinity();
  for (int const limit : {0, 1, 2, 5, 10}) {
    masked_weights const found = masked_least_squares(w.view(), kept, calib, {.damping = 0.001, .max_iterations = limit});
    CHECK(found.iterations == limit);
    CHECK(found.rows_not_done == 16);
    CHECK(found.error_after <= last);
    last = found.error_after;
  }
  CHECK(masked_least_squares(w.view(), kept, calib, {.damping = 0.001, .max_iterations = 1000}).rows_not_done == 0);
}

TEST_CASE("masked least squares has the same bits on every executor and reads no more than its views") {
  matrix<float> const wide = normal_matrix(40, 90, 11);
  auto const w = wide.view().block(2, 5, 37, 70);
  calibration const calib = observed(correlated_activations(300, 70, 12), {.gram = true});
  mask const kept = nm_pruner<2, 4>(wanda()).select(w, calib);
  auto const on_executor = [&](auto const& where) { return masked_least_squares(w, kept, calib, {}, on(where)).weights; };
  matrix<float> const found = on_executor(serial_executor{});
  CHECK(same_bits(found, on_executor(thread_team_executor{})));
  CHECK(same_bits(found, on_executor(backwards_executor{})));
  CHECK(same_bits(found, masked_least_squares(matrix<float>(w).view(), kept, calib).weights));
}

TEST_CASE("a row with a NaN stays as it is under its mask, and the other rows are solved as without it") {
  matrix<float> w = normal_matrix(4, 12, 15);
  calibration const calib = observed(correlated_activations(60, 12, 16), {.gram = true});
  mask const kept = nm_pruner<2, 4>(wanda()).select(w.view(), calib);
  matrix<float> const sound = masked_least_squares(w.view(), kept, calib).weights;
  w(2, 5) = std::numeric_limits<float>::quiet_NaN();
  masked_weights const found = masked_least_squares(w.view(), kept, calib);
  matrix<float> const left = masked(w, kept);
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 12; ++j) CHECK(same_bits(found.weights(i, j), i == 2 ? left(i, j) : sound(i, j)));
  CHECK(found.rows_unchanged == 1);
}

TEST_CASE("masked least squares refuses what does not fit") {
  matrix<double> broken(4, 4);
  broken(2, 2) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(masked_least_squares(matrix<float>(1, 4).view(), mask(1, 4), broken.view()), nonfinite_error);
  matrix<float> const w = normal_matrix(2, 4, 13);
  calibration const calib = observed(normal_matrix(9, 4, 14), {.gram = true});
  CHECK_THROWS_AS(masked_least_squares(w.view(), mask(2, 5), calib), shape_error);
  CHECK_THROWS_AS(masked_least_squares(w.view(), mask(3, 4), calib), shape_error);
  CHECK_THROWS_AS(masked_least_squares(w.view(), mask(2, 4), observed(normal_matrix(3, 5, 1), {.gram = true})), shape_error);
  CHECK_THROWS_AS(masked_least_squares(w.view(), mask(2, 4), observed(normal_matrix(9, 4, 14))), config_error);
  CHECK_THROWS_AS(masked_least_squares(w.view(), mask(2, 4), calibration(4, {.gram = true})), config_error);
  CHECK_THROWS_AS(masked_least_squares(w.view(), mask(2, 4), calib, {.damping = -1.0}), config_error);
  CHECK_THROWS_AS(masked_least_squares(w.view(), mask(2, 4), matrix<double>(4, 5).view()), shape_error);
}
