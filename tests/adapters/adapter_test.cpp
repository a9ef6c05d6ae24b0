#include "slim/adapters/quantized_adapter.hpp"
#include "slim/adapters/saliency_lora.hpp"
#include "slim/adapters/sparse_adapter.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/testing/low_rank_solver_laws.hpp"

#include <Eigen/SVD>

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

matrix_view<float const> view(matrix<float> const& m) { return m.view(); }

/// The least ||(E - A) diag(w)||_F^2 of any A of the rank: Eckart and Young, by Jacobi in double.
double optimal_rest(matrix<float> const& e, std::vector<float> const& weights, index_t rank) {
  Eigen::MatrixXd weighted(e.rows(), e.cols());
  for (index_t i = 0; i < e.rows(); ++i)
    for (index_t j = 0; j < e.cols(); ++j)
      weighted(i, j) = static_cast<double>(e(i, j)) * static_cast<double>(weights[static_cast<std::size_t>(j)]);
  Eigen::VectorXd const values = Eigen::JacobiSVD<Eigen::MatrixXd>(weighted).singularValues();
  return values.tail(std::max<index_t>(values.size() - rank, 0)).squaredNorm();
}

/// Activations whose channels differ by orders of magnitude; some dead.
calibration uneven_calibration(index_t channels, std::uint64_t seed, index_t dead = 0) {
  matrix<float> x = normal_matrix(40, channels, seed);
  for (index_t t = 0; t < 40; ++t)
    for (index_t j = 0; j < channels; ++j)
      x(t, j) =
          j < dead ? 0.0f : x(t, j) * static_cast<float>(std::exp(1.5 * random_normal(seed, static_cast<std::uint64_t>(j))));
  return observed(x);
}

matrix<float> dequantized(integer_codes const& codes) {
  matrix<float> values(codes.rows(), codes.cols());
  codes.dequantize_into(values.view());
  return values;
}

} // namespace

TEST_CASE("the exact solver leaves the weighted error of the best adapter of its rank") {
  struct shape {
    index_t rows, cols;
  };
  shape const s = GENERATE(shape{20, 31}, shape{31, 20}, shape{16, 16}, shape{1, 9}, shape{9, 1});
  index_t const rank = GENERATE(1, 4, 100);
  matrix<float> const e = normal_matrix(s.rows, s.cols, 1);
  calibration const calib = uneven_calibration(s.cols, 2);
  auto const check = [&](auto const& solver) {
    adapter const found = solver.solve(view(e), calib);
    CHECK(found.rank() == std::min({rank, s.rows, s.cols}));
    std::vector<float> const weights = solver.channel_weights(calib);
    double const rest = weighted_rest(e, found, weights), best = optimal_rest(e, weights, rank);
    double const whole = weighted_rest(e, empty_adapter(s.cols, s.rows), weights);
    CHECK(rest <= best * (1 + 1e-4) + 1e-11 * whole); // factors in float
    CHECK(rest >= best * (1 - 1e-6) - 1e-11 * whole);
  };
  lora_config const config{.rank = {.number = rank}, .method = svd_method::exact};
  check(naive_lora(config));
  check(slim_lora(config));
  check(l2qer_lora(config));
  check(saliency_lora<rms_saliency>(config));
}

TEST_CASE("the truncated solver leaves a residual within 1.003 of the best") {
  index_t const rank = GENERATE(3, 12);
  matrix<float> const e = normal_matrix(90, 130, 3); // flat spectrum: the hard case
  calibration const calib = uneven_calibration(130, 4, 5);
  for (std::uint64_t const seed : {0u, 1u, 2u}) {
    context ctx;
    ctx.seed = seed;
    auto const solver = slim_lora({.rank = {.number = rank}});
    double const rest = weighted_rest(e, solver.solve(view(e), calib, ctx), solver.channel_weights(calib));
    CHECK(std::sqrt(rest / optimal_rest(e, solver.channel_weights(calib), rank)) <= 1.003);
  }
}

TEST_CASE("an error of the rank asked for is repaired") {
  matrix<float> const a = normal_matrix(25, 3, 5), b = normal_matrix(3, 40, 6);
  matrix<float> e(25, 40);
  for (index_t i = 0; i < 25; ++i)
    for (index_t j = 0; j < 40; ++j)
      for (index_t k = 0; k < 3; ++k) e(i, j) += a(i, k) * b(k, j);
  svd_method const method = GENERATE(svd_method::exact, svd_method::truncated);
  adapter const found = naive_lora({.rank = {.number = 3}, .method = method}).solve(view(e), calibration(40));
  matrix<float> rest = e;
  adapter negative = found;
  for (index_t k = 0; k < negative.right.size(); ++k) negative.right.data()[k] *= -1;
  negative.add_to(rest.view());
  for (index_t k = 0; k < rest.size(); ++k) CHECK(std::abs(rest.data()[k]) < 2e-5f);
}

TEST_CASE("SLiM's adapter beats the naive one in SLiM's norm and loses in the plain one") {
  matrix<float> const e = normal_matrix(30, 44, 7);
  calibration const calib = uneven_calibration(44, 8);
  lora_config const config{.rank = {.number = 5}, .method = svd_method::exact};
  adapter const naive = naive_lora(config).solve(view(e), calib), ours = slim_lora(config).solve(view(e), calib);
  std::vector<float> const weights = slim_saliency().channel_weights(calib), ones(44, 1.0f);
  CHECK(weighted_rest(e, ours, weights) < 0.9 * weighted_rest(e, naive, weights));
  CHECK(weighted_rest(e, naive, ones) < weighted_rest(e, ours, ones));
}

TEST_CASE("dead channels neither break nor dominate the adapter") {
  matrix<float> const e = normal_matrix(20, 36, 9);
  calibration const calib = uneven_calibration(36, 10, 12);
  auto const solver = slim_lora({.rank = {.number = 4}, .method = svd_method::exact});
  adapter const found = solver.solve(view(e), calib);
  CHECK(all_finite(found.left));
  CHECK(weighted_rest(e, found, solver.channel_weights(calib)) ==
        Approx(optimal_rest(e, solver.channel_weights(calib), 4)).epsilon(1e-4));
}

TEST_CASE("the rank comes from ratio, number or multiple, and never exceeds the smaller extent") {
  CHECK(adapter_rank{}.of(4096, 4096) == 409);
  CHECK(adapter_rank{}.of(576, 1536) == 57);
  CHECK(adapter_rank{}.of(3, 5) == 1); // at least 1
  CHECK(adapter_rank{}.of(0, 5) == 0);
  CHECK(adapter_rank{.ratio = 0.0}.of(100, 100) == 0);
  CHECK(adapter_rank{.ratio = 1.0}.of(100, 60) == 60);
  CHECK(adapter_rank{.number = 0}.of(100, 100) == 0);
  CHECK(adapter_rank{.number = 12}.of(100, 100) == 12);
  CHECK(adapter_rank{.number = 500}.of(100, 80) == 80);
  CHECK(adapter_rank{.multiple = 128}.of(4096, 4096) == 512); // as SLiM's code pads
  CHECK(adapter_rank{.multiple = 128}.of(576, 576) == 128);
  CHECK(adapter_rank{.multiple = 128}.of(64, 64) == 64);
  CHECK(adapter_rank{.number = 128, .multiple = 128}.of(999, 999) == 128);
  CHECK(adapter_rank{.number = 0, .multiple = 128}.of(999, 999) == 0);
  constexpr index_t most = std::numeric_limits<index_t>::max();
  CHECK(adapter_rank{.number = most, .multiple = most}.of(10, 20) == 10);
  CHECK_THROWS_AS(adapter_rank{.ratio = -0.1}.of(4, 4), config_error);
  CHECK_THROWS_AS(adapter_rank{.ratio = 2.0}.of(4, 4), config_error); // a share; for a rank there is `number`
  CHECK_THROWS_AS(adapter_rank{.ratio = std::numeric_limits<double>::infinity()}.of(4, 4), config_error);
  CHECK_THROWS_AS(adapter_rank{.ratio = std::numeric_limits<double>::quiet_NaN()}.of(4, 4), config_error);
  CHECK_THROWS_AS(adapter_rank{.multiple = 0}.of(4, 4), config_error);
  CHECK_THROWS_AS(slim_lora({.rank = {.multiple = 0}}), config_error); // at construction
}

TEST_CASE("rank 0 is an empty adapter of the layer's shape that changes nothing") {
  matrix<float> const e = normal_matrix(5, 7, 11);
  adapter const none = naive_lora({.rank = {.number = 0}}).solve(view(e), calibration(7));
  CHECK(none.rank() == 0);
  CHECK(none.left.rows() == 7);
  CHECK(none.right.cols() == 5);
  CHECK(none.bits() == 0.0);
  matrix<float> w = e;
  none.add_to(w.view());
  CHECK(w == e);
}

TEST_CASE("bf16 factors are bf16 numbers that cost 16 bits and little error") {
  matrix<float> const e = normal_matrix(30, 40, 12);
  calibration const calib = uneven_calibration(40, 13);
  auto const solver = slim_lora({.rank = {.number = 6}, .format = number_format::bf16});
  adapter const found = solver.solve(view(e), calib);
  for (index_t k = 0; k < found.left.size(); ++k) CHECK(static_cast<float>(bf16(found.left.data()[k])) == found.left.data()[k]);
  CHECK(found.bits() == 6 * (30 + 40) * 16);
  double const best = optimal_rest(e, solver.channel_weights(calib), 6);
  CHECK(weighted_rest(e, found, solver.channel_weights(calib)) <= best * 1.002);
}

TEST_CASE("4-bit factors are absmax of the solver's factors, in groups along the summed dimension with a ragged tail") {
  matrix<float> const e = normal_matrix(21, 300, 14);
  calibration const calib = uneven_calibration(300, 15);
  auto const solver = slim_lora({.rank = {.number = 5}});
  adapter const plain = solver.solve(view(e), calib);
  adapter const found =
      quantized_adapter(solver,
                        absmax_quantizer({.bits = 4, .block = per_column_group(128), .scale_format = number_format::fp16}))
          .solve(view(e), calib);
  auto const check = [](matrix<float> const& exact, matrix<float> const& rounded, integer_codes const& codes) {
    index_t const groups = (exact.rows() + 127) / 128;
    CHECK(codes.stored_bits() ==
          static_cast<double>(exact.size()) * codes.bits + static_cast<double>(groups * exact.cols()) * 16);
    CHECK(same_bits(dequantized(codes), rounded));
    for (index_t k = 0; k < exact.cols(); ++k)
      for (index_t g = 0; g < groups; ++g) {
        float largest = 0;
        for (index_t j = 128 * g; j < std::min(exact.rows(), 128 * (g + 1)); ++j)
          largest = std::max(largest, std::abs(exact(j, k)));
        float const scale = static_cast<float>(fp16(largest / 7.0f));
        for (index_t j = 128 * g; j < std::min(exact.rows(), 128 * (g + 1)); ++j) {
          double const code = std::clamp(std::nearbyint(static_cast<double>(exact(j, k) / scale)), -8.0, 7.0);
          REQUIRE(rounded(j, k) == static_cast<float>(code) * scale);
        }
      }
  };
  check(plain.left, found.left, *found.left_codes); // 128 + 128 + 44
  check(plain.right, found.right, *found.right_codes);
  CHECK(found.bits() == 5 * 321 * 4 + (3 * 5 + 21) * 16);
}

TEST_CASE("a sparse adapter keeps exactly the two largest of every four entries of L along d_in") {
  matrix<float> const e = normal_matrix(14, 43, 16);
  calibration const calib = uneven_calibration(43, 17);
  auto const solver = slim_lora({.rank = {.number = 3}, .method = svd_method::exact});
  adapter const plain = solver.solve(view(e), calib);
  adapter const thin = sparse_adapter(solver, nm_pruner<2, 4>(magnitude())).solve(view(e), calib);
  REQUIRE(thin.left_mask);
  for (index_t k = 0; k < 3; ++k)
    for (index_t first = 0; first < 43; first += 4) {
      std::vector<float> magnitudes;
      int kept = 0;
      for (index_t j = first; j < std::min<index_t>(43, first + 4); ++j) {
        magnitudes.push_back(std::abs(plain.left(j, k)));
        kept += thin.left(j, k) != 0.0f ? 1 : 0;
      }
      std::sort(magnitudes.rbegin(), magnitudes.rend());
      CHECK(kept == 2); // the ragged 3 keep ceil(3 / 2)
      for (index_t j = first; j < std::min<index_t>(43, first + 4); ++j)
        CHECK(thin.left(j, k) == (std::abs(plain.left(j, k)) >= magnitudes[1] ? plain.left(j, k) : 0.0f));
    }
  CHECK(thin.bits() == 3 * (22 * 32 + 43 + 14 * 32)); // a bit says which of 43 are kept
}

TEST_CASE("the refitted right factor is the least-squares optimum: no change of it lowers the error") {
  matrix<float> const e = normal_matrix(9, 32, 18);
  calibration const calib = uneven_calibration(32, 19, 4);
  sparse_adapter const solver(slim_lora({.rank = {.number = 4}}), nm_pruner<2, 4>(magnitude()));
  adapter const found = solver.solve(view(e), calib);
  std::vector<float> const weights = solver.channel_weights(calib);
  double const best = weighted_rest(e, found, weights);
  for (index_t k = 0; k < found.right.size(); ++k)
    for (float const nudge : {-1e-2f, 1e-2f}) {
      adapter moved = found;
      moved.right.data()[k] += nudge * 0.3f;
      CHECK(weighted_rest(e, moved, weights) >= best * (1 - 1e-9));
    }
  // And it beats the unfitted factor of the same pruned L.
  adapter unfitted = found;
  unfitted.right = slim_lora({.rank = {.number = 4}}).solve(view(e), calib).right;
  CHECK(best < weighted_rest(e, unfitted, weights));
}

TEST_CASE("pruning the factors of a quantized adapter leaves no stale codes behind") {
  matrix<float> const e = normal_matrix(10, 24, 20);
  quantized_adapter const rounded(naive_lora({.rank = {.number = 4}}), absmax_quantizer());
  adapter const found = sparse_adapter(rounded, nm_pruner<2, 4>(magnitude())).solve(view(e), calibration(24));
  CHECK_FALSE(found.left_codes);
  CHECK_FALSE(found.right_codes);
  CHECK(found.bits() == 4 * (12 * (32 + 2) + 10 * 32));
}

TEST_CASE("an adapter that rounding has made harmful is dropped, with a note") {
  matrix<float> const e = mapped(normal_matrix(6, 8, 21), [](float x) { return x * 1e-30f; });
  // fp16 has nothing near 1e-30: left becomes 0, and a scale that snaps upwards would do harm.
  auto const solver = naive_lora({.rank = {.number = 2}, .format = number_format::fp16});
  adapter const found = solver.solve(view(e), calibration(8));
  CHECK(weighted_rest(e, found, std::vector<float>(8, 1.0f)) <=
        weighted_rest(e, empty_adapter(8, 6), std::vector<float>(8, 1.0f)));
  adapter const harmful = [&] {
    adapter a = empty_adapter(8, 6);
    a.left = mapped(normal_matrix(8, 1, 1), [](float) { return 1.0f; });
    a.right = mapped(normal_matrix(1, 6, 1), [](float) { return 1.0f; });
    return a;
  }();
  adapter const kept = unless_worse_than_none(harmful, e.view(), {}, [](matrix_view<float const> rest) {
    return weighted_squared_norm(rest, std::vector<float>(8, 1.0f));
  });
  CHECK(kept.rank() == 0);
  REQUIRE(kept.notes.size() == 1);
  CHECK_THAT(kept.notes[0], Catch::Contains("dropped"));
}

TEST_CASE("adapters refuse a calibration of another layer and one that saw nothing") {
  matrix<float> const e = normal_matrix(4, 6, 22);
  CHECK_THROWS_AS(slim_lora().solve(view(e), observed(normal_matrix(3, 5, 1))), shape_error);
  CHECK_THROWS_AS(naive_lora().solve(view(e), calibration(7)), shape_error);
  CHECK_THROWS_AS(slim_lora().solve(view(e), calibration(6)), config_error);
}

TEST_CASE("adapters say how they are made") {
  CHECK_THAT(slim_lora().describe(), Catch::Contains("mean_abs") && Catch::Contains("0.1"));
  CHECK_THAT(naive_lora({.rank = {.number = 8}, .method = svd_method::exact}).describe(),
             Catch::Contains("unit") && Catch::Contains("rank 8") && Catch::Contains("exact"));
  CHECK_THAT(quantized_adapter(slim_lora(), absmax_quantizer()).describe(), Catch::Contains("factors absmax 4 bit"));
}
