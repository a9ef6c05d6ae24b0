#include "slim/adapters/quantized_adapter.hpp"
#include "slim/adapters/saliency_lora.hpp"
#include "slim/pipeline/any.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/low_rank_solver_laws.hpp"
#include "slim/testing/same_bits.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;
using Catch::Matchers::Contains;

namespace {

auto default_recipe() {
  return chain(slim_quantizer({.bits = 4}), nm_pruner<2, 4>(wanda()), slim_lora({.rank = {.ratio = 0.1}}));
}

double frobenius(matrix<float> const& a) {
  double sum = 0;
  for (index_t k = 0; k < a.size(); ++k) sum += static_cast<double>(a.data()[k]) * static_cast<double>(a.data()[k]);
  return std::sqrt(sum);
}

matrix<float> difference(matrix<float> a, matrix<float> const& b) {
  for (index_t k = 0; k < a.size(); ++k) a.data()[k] -= b.data()[k];
  return a;
}

/// ||X E^T||_F by multiplying out in double.
double output_norm(matrix<float> const& e, matrix<float> const& x) {
  double energy = 0;
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t i = 0; i < e.rows(); ++i) {
      double y = 0;
      for (index_t j = 0; j < e.cols(); ++j) y += static_cast<double>(x(t, j)) * static_cast<double>(e(i, j));
      energy += y * y;
    }
  return std::sqrt(energy);
}

/// The same under uncorrelated channels.
double channel_norm(matrix<float> const& e, matrix<float> const& x) {
  double energy = 0;
  for (index_t t = 0; t < x.rows(); ++t)
    for (index_t i = 0; i < e.rows(); ++i)
      for (index_t j = 0; j < e.cols(); ++j) energy += std::pow(static_cast<double>(x(t, j)) * static_cast<double>(e(i, j)), 2);
  return std::sqrt(energy);
}

matrix<float> dequantized(integer_codes const& codes) {
  matrix<float> values(codes.rows(), codes.cols());
  codes.dequantize_into(values.view());
  return values;
}

template <class Layer>
bool same_layer(Layer const& a, Layer const& b) {
  bool same = a.weight.mask == b.weight.mask && same_bits(a.weight.codes, b.weight.codes) && same_bits(a.adapter, b.adapter) &&
              a.report.steps.size() == b.report.steps.size();
  for (std::size_t k = 0; same && k < a.report.steps.size(); ++k) {
    auto const &x = a.report.steps[k], &y = b.report.steps[k];
    same = x.relative_error == y.relative_error && x.output_error == y.output_error && x.bits_per_weight == y.bits_per_weight &&
           x.notes == y.notes;
  }
  return same;
}

} // namespace

TEST_CASE("steps run in the order of the arguments: both orders are what they literally are") {
  matrix<float> const w = normal_matrix(12, 30, 1), x = normal_matrix(40, 30, 2);
  calibration const calib = observed(x);
  absmax_quantizer const quantize({.bits = 2, .block = per_tensor});
  auto const prune = nm_pruner<2, 4>(wanda());

  matrix<float> quantized = dequantized(quantize.quantize(w.view(), calib));
  prune.select(quantized.view(), calib).apply_to(quantized.view());
  auto const first = compress(w, calib, chain(quantize, prune));
  CHECK(same_bits(first.weight.values(), quantized));

  matrix<float> pruned = w;
  prune.select(w.view(), calib).apply_to(pruned.view());
  matrix<float> const then = dequantized(quantize.quantize(pruned.view(), calib));
  auto const second = compress(w, calib, chain(prune, quantize));
  CHECK(same_bits(second.weight.values(), then));

  CHECK_FALSE(same_bits(first.weight.values(), second.weight.values())); // otherwise the test says nothing
  CHECK_THAT(first.report.steps[0].step, Contains("absmax"));
  CHECK_THAT(second.report.steps[0].step, Contains("prune"));
}

TEST_CASE("between all steps, W_c is mask times the values of the codes") {
  for (named_matrix const& w : hard_matrices(5)) {
    INFO(w.name);
    calibration const calib = observed(normal_matrix(20, w.values.cols(), 3));
    auto const layer = compress(w.values, calib, default_recipe());
    matrix<float> expected = dequantized(layer.weight.codes);
    layer.weight.mask.apply_to(expected.view());
    CHECK(layer.weight.values() == expected);
    CHECK(all_finite(decompress(layer)));
  }
}

TEST_CASE("the adapter repairs original minus current, whatever came before") {
  matrix<float> const w = normal_matrix(24, 50, 6), x = normal_matrix(60, 50, 7);
  calibration const calib = observed(x);
  auto const layer = compress(w, calib, default_recipe());
  matrix<float> const error = difference(w, layer.weight.values());
  adapter const direct = slim_lora({.rank = {.ratio = 0.1}}).solve(matrix_view<float const>(error.view()), calib);
  CHECK(same_bits(layer.adapter, direct));
  CHECK(layer.adapter.rank() == 2);
}

TEST_CASE("decompress is W_c + (L R)^T, as Y = X W_c^T + (X L) R") {
  matrix<float> const w = normal_matrix(24, 50, 8), x = normal_matrix(60, 50, 9);
  auto const layer = compress(w, observed(x), default_recipe());
  matrix<float> const dense = decompress(layer), kept = layer.weight.values();
  for (index_t t = 0; t < 3; ++t)
    for (index_t i = 0; i < 24; ++i) {
      double direct = 0, factored = 0;
      for (index_t j = 0; j < 50; ++j) {
        direct += static_cast<double>(x(t, j)) * static_cast<double>(dense(i, j));
        factored += static_cast<double>(x(t, j)) * static_cast<double>(kept(i, j));
      }
      for (index_t k = 0; k < layer.adapter.rank(); ++k) {
        double inner = 0;
        for (index_t j = 0; j < 50; ++j) inner += static_cast<double>(x(t, j)) * static_cast<double>(layer.adapter.left(j, k));
        factored += inner * static_cast<double>(layer.adapter.right(k, i));
      }
      CHECK(direct == Approx(factored).epsilon(1e-5).margin(1e-5));
    }
}

TEST_CASE("reports hold relative error and output error as computed by hand, after every step") {
  bool const gram = GENERATE(false, true);
  matrix<float> const w = normal_matrix(18, 33, 10);
  matrix<float> x = normal_matrix(70, 33, 11);
  for (index_t t = 0; t < 70; ++t)
    for (index_t j = 1; j < 33; ++j) x(t, j) = 0.6f * x(t, j - 1) + 0.8f * x(t, j); // correlated: Gram and diagonal differ
  calibration const calib = observed(x, {.gram = gram});
  auto const layer = compress(w, calib, default_recipe());
  REQUIRE(layer.report.steps.size() == 3);
  CHECK(layer.report.exact_output_error == gram);
  CHECK(layer.report.rows == 18);
  CHECK(layer.report.cols == 33);
  auto const norm = [&](matrix<float> const& e) { return gram ? output_norm(e, x) : channel_norm(e, x); };
  auto const quantized = std::get<0>(default_recipe().steps).quantize(w.view(), calib); // the layer's codes are pruned
  matrix<float> const states[] = {dequantized(quantized), layer.weight.values(), decompress(layer)};
  for (std::size_t k = 0; k < 3; ++k) {
    matrix<float> const error = difference(w, states[k]);
    CHECK(layer.report.steps[k].relative_error == Approx(frobenius(error) / frobenius(w)).epsilon(1e-5));
    CHECK(layer.report.steps[k].output_error == Approx(norm(error) / norm(w)).epsilon(1e-4)); // Gram in float
    CHECK(layer.report.steps[k].seconds >= 0);
  }
  CHECK(layer.report.steps[0].sparsity == 0.0);
  CHECK(layer.report.steps[1].sparsity == layer.weight.mask.sparsity());
  CHECK(layer.report.steps[2].output_error < layer.report.steps[1].output_error);
  CHECK(layer.report.last().rank == 1);
}

TEST_CASE("an error that could not be measured is no number, not the best one") {
  matrix<float> const w = normal_matrix(6, 8, 12);
  auto const layer = compress(w, chain(nm_pruner<2, 4>(magnitude()), absmax_quantizer()));
  CHECK(std::isnan(layer.report.last().output_error)); // no tokens were seen
  CHECK(std::isnan(layer.report.last().held_out_error));
  CHECK(layer.report.last().relative_error > 0.0);
  CHECK_THROWS_AS(compress(w, default_recipe()), config_error);
  CHECK(compress(w, chain()).report.last().output_error == 0.0); // nothing was changed
  calibration const calib = observed(normal_matrix(20, 8, 13));
  CHECK(std::isnan(compress(w, calib, chain(absmax_quantizer())).report.last().held_out_error)); // no tokens were held out
  matrix<float> broken = w;
  broken(3, 6) = GENERATE(std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity());
  context propagate;
  propagate.on_nonfinite = nonfinite::propagate;
  auto const vouched = compress(broken, calib, chain(absmax_quantizer(), nm_pruner<2, 4>(wanda())), propagate);
  CHECK(std::isnan(vouched.report.last().relative_error));
  CHECK(std::isnan(vouched.report.last().output_error));
}

TEST_CASE("the ledger of bits: 2:4 with 4-bit codes is 3 bits, scales and adapters on top") {
  matrix<float> const w = normal_matrix(64, 256, 13);
  calibration const calib = observed(normal_matrix(32, 256, 14));
  double const size = 64 * 256;
  auto const bits = [&](auto const& recipe) { return compress(w, calib, recipe).report.last().bits_per_weight; };
  auto const prune = nm_pruner<2, 4>(wanda());
  CHECK(bits(chain()) == 16.0);
  CHECK(bits(chain(prune)) == 8.0 + 1.0);
  CHECK(bits(chain(unstructured_pruner(wanda{}, {.sparsity = 0.75}))) == 4.0 + 1.0);
  CHECK(bits(chain(slim_quantizer({.scale_format = number_format::fp16}))) == 4.0 + 16 / size);
  CHECK(bits(chain(slim_quantizer({.scale_format = number_format::fp16}), prune)) == 3.0 + 16 / size);
  CHECK(bits(chain(absmax_quantizer({.block = per_group(128), .scale_format = number_format::fp16}), prune)) ==
        3.0 + 16.0 / 128);
  CHECK(bits(chain(absmax_quantizer({.bits = 3, .block = per_channel}))) == 3.0 + 32.0 / 256);
  double const numbers = 8 * (64 + 256); // of an adapter of rank 8
  lora_config const rank8{.rank = {.number = 8}, .format = number_format::bf16};
  CHECK(bits(chain(slim_quantizer(), prune, slim_lora(rank8))) == Approx(3.0 + 32 / size + numbers * 16 / size).epsilon(1e-12));
  quantized_adapter const small(slim_lora(rank8),
                                absmax_quantizer({.block = per_column_group(128), .scale_format = number_format::fp16}));
  double const scales = 8 * 2 + 64; // 256 / 128 groups in each of 8 columns of L, one per column of R
  CHECK(bits(chain(slim_quantizer(), prune, small)) ==
        Approx(3.0 + 32 / size + numbers * 4 / size + scales * 16 / size).epsilon(1e-12));
}

TEST_CASE("an empty chain gives the layer back") {
  matrix<float> const w = normal_matrix(3, 4, 15);
  auto const layer = compress(w, chain());
  CHECK(layer.weight.values() == w);
  CHECK(decompress(layer) == w);
  CHECK(layer.report.steps.empty());
  CHECK(layer.report.last().relative_error == 0.0);
}

TEST_CASE("a step of one's own sees and changes the state") {
  matrix<float> const w = normal_matrix(4, 8, 16);
  auto const halve = [](auto state, calibration const&, context const&) {
    for (index_t k = 0; k < state.current.size(); ++k) state.current.data()[k] *= 0.5f;
    return state;
  };
  auto const layer = compress(w, chain(nm_pruner<2, 4>(magnitude()), halve));
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 8; ++j)
      CHECK(layer.weight.codes.values(i, j) == (layer.weight.mask.kept(i, j) ? 0.5f * w(i, j) : 0.0f));
  CHECK(layer.report.steps[1].step == "own step");
  CHECK(layer.report.steps[1].relative_error > layer.report.steps[0].relative_error);
}

TEST_CASE("a step of one's own that moves the weights away from the codes is refused, not dropped") {
  matrix<float> const w = normal_matrix(4, 8, 16);
  auto const halve = [](auto state, calibration const&, context const&) {
    for (index_t k = 0; k < state.current.size(); ++k) state.current.data()[k] *= 0.5f;
    return state;
  };
  CHECK_THROWS_WITH(compress(w, chain(absmax_quantizer(), halve)), Contains("but not their codes"));
}

TEST_CASE("any_chain is the static chain, bit for bit") {
  matrix<float> const w = normal_matrix(20, 60, 17);
  calibration const calib = observed(normal_matrix(50, 60, 18), {.gram = true});
  auto const layer = compress(w, calib, default_recipe());
  auto const check = [&](any_layer const& any) {
    CHECK(same_bits(any.weight.values(), layer.weight.values()));
    REQUIRE((any.weight.mask && any.adapter));
    CHECK(*any.weight.mask == layer.weight.mask);
    CHECK(same_bits(*any.adapter, layer.adapter));
    CHECK(same_bits(decompress(any), decompress(layer)));
    for (std::size_t k = 0; k < 3; ++k) {
      CHECK(any.report.steps[k].step == layer.report.steps[k].step);
      CHECK(any.report.steps[k].output_error == layer.report.steps[k].output_error);
      CHECK(any.report.steps[k].bits_per_weight == layer.report.steps[k].bits_per_weight);
    }
  };
  any_layer const plain = any_chain(default_recipe()).compress(w, calib);
  check(plain);
  REQUIRE(plain.weight.codes.get_if<integer_codes>() != nullptr);
  CHECK(same_bits(*plain.weight.codes.get_if<integer_codes>(), layer.weight.codes));
  CHECK(plain.weight.codes.get_if<any_codes>() == nullptr);
  any_quantizer const quantize = slim_quantizer({.bits = 4});
  any_pruner const prune = nm_pruner<2, 4>(wanda());
  any_low_rank_solver const repair = slim_lora({.rank = {.ratio = 0.1}});
  check(any_chain(chain(quantize, prune, repair)).compress(w, calib));
  any_layer const pruned = any_chain(chain(prune)).compress(w, calib);
  CHECK((pruned.weight.mask && pruned.weight.codes.get_if<plain_values>() && !pruned.adapter));
}

TEST_CASE("compress is bit-identical for serial, OpenMP with 1, 2 and 4 threads, a user's threads, and backwards") {
  matrix<float> const w = normal_matrix(150, 210, 19), x = normal_matrix(300, 210, 20);
  auto const run = [&](auto const& where) {
    context const ctx = on(where);
    calibration calib(210, {.gram = true});
    calib.observe(x.view(), ctx);
    quantized_adapter const small(slim_lora({.rank = {.ratio = 0.1}}), absmax_quantizer({.block = per_column_group(128)}));
    return compress(
        w, calib, chain(slim_quantizer({.block = per_group(64), .outlier_share = 0.05}), nm_pruner<2, 4>(wanda()), small), ctx);
  };
  auto const one = run(serial_executor{});
  CHECK(one.adapter.rank() == 15);
  CHECK(same_layer(one, run(backwards_executor{})));
  CHECK(same_layer(one, run(thread_team_executor{2})));
  CHECK(same_layer(one, run(thread_team_executor{5})));
#if defined(_OPENMP)
  for (int const threads : {1, 2, 4}) CHECK(same_layer(one, run(openmp_executor{threads})));
#endif
}

TEST_CASE("compress per tensor and by the matrix is bit-identical on several threads too") {
  matrix<float> const w = normal_matrix(260, 300, 21);
  calibration const calib = observed(normal_matrix(64, 300, 22));
  auto const recipe = chain(unstructured_pruner(wanda{}, {.scope = prune_scope::matrix}),
                            slim_quantizer({.output_weighted = true}), naive_lora({.rank = {.number = 9}}));
  auto const one = compress(w, calib, recipe, on(serial_executor{}));
  CHECK(same_layer(one, compress(w, calib, recipe, on(thread_team_executor{4}))));
  CHECK(same_layer(one, compress(w, calib, recipe, on(backwards_executor{}))));
}

TEST_CASE("weights that are not finite are refused by row and column, taken as 0 with a note, or let through") {
  matrix<float> w = normal_matrix(5, 8, 23);
  w(3, 6) = GENERATE(std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity());
  calibration const calib = observed(normal_matrix(9, 8, 24));
  CHECK_THROWS_AS(compress(w, calib, default_recipe()), nonfinite_error);
  CHECK_THROWS_WITH(compress(w, calib, default_recipe()), Contains("row 3") && Contains("column 6"));
  context zero;
  zero.on_nonfinite = nonfinite::zero;
  auto const layer = compress(w, calib, default_recipe(), zero);
  REQUIRE(layer.report.notes.size() == 1);
  CHECK_THAT(layer.report.notes[0], Contains("1 weights were not finite"));
  matrix<float> cleaned = w;
  cleaned(3, 6) = 0.0f;
  CHECK(same_bits(decompress(layer), decompress(compress(cleaned, calib, default_recipe()))));
  context propagate;
  propagate.on_nonfinite = nonfinite::propagate;
  CHECK_NOTHROW(compress(w, calib, chain(absmax_quantizer(), nm_pruner<2, 4>(wanda())), propagate));
}

TEST_CASE("notes tell of dead channels and zeroed activations") {
  matrix<float> const w = normal_matrix(5, 8, 25);
  matrix<float> x = normal_matrix(9, 8, 26);
  for (index_t t = 0; t < 9; ++t) x(t, 2) = x(t, 5) = 0.0f;
  x(4, 0) = std::numeric_limits<float>::infinity();
  context zero;
  zero.on_nonfinite = nonfinite::zero;
  calibration calib(8);
  calib.observe(x, zero);
  auto const layer = compress(w, calib, default_recipe());
  REQUIRE(layer.report.notes.size() == 2);
  CHECK_THAT(layer.report.notes[0], Contains("2 input channels were 0"));
  CHECK_THAT(layer.report.notes[1], Contains("1 activations were not finite"));
  CHECK(all_finite(decompress(layer)));
}

TEST_CASE("a calibration of another layer is refused with both sizes") {
  CHECK_THROWS_AS(compress(matrix<float>(3, 4), observed(matrix<float>(2, 5)), default_recipe()), shape_error);
  CHECK_THROWS_WITH(compress(matrix<float>(3, 4), observed(matrix<float>(2, 5)), default_recipe()),
                    Contains("4") && Contains("5"));
}

TEST_CASE("in SLiM's norm, the error of the SLiM adapter is at most that of the naive one, which is at most that of none") {
  for (std::uint64_t seed = 30; seed < 36; ++seed) {
    matrix<float> const w = normal_matrix(40, 64, seed);
    matrix<float> x = normal_matrix(50, 64, seed + 100);
    for (index_t t = 0; t < 50; ++t)
      for (index_t j = 0; j < 64; ++j)
        x(t, j) *= static_cast<float>(std::exp(2 * random_normal(seed, static_cast<std::uint64_t>(j))));
    calibration const calib = observed(x);
    auto const base = compress(w, calib, chain(slim_quantizer({.bits = 4}), nm_pruner<2, 4>(wanda())));
    matrix<float> const error = difference(w, base.weight.values());
    std::vector<float> const weights = slim_saliency().channel_weights(calib);
    lora_config const config{.rank = {.number = 6}, .method = svd_method::exact};
    double const none = weighted_rest(error, empty_adapter(64, 40), weights);
    double const naive = weighted_rest(error, naive_lora(config).solve(matrix_view<float const>(error.view()), calib), weights);
    double const ours = weighted_rest(error, slim_lora(config).solve(matrix_view<float const>(error.view()), calib), weights);
    CHECK(ours <= naive * (1 + 1e-6));
    CHECK(ours < none);
  }
}

TEST_CASE("a channel that carries nearly all of the inputs' energy is named in the report") {
  matrix<float> x = normal_matrix(30, 12, 1);
  matrix<float> const w = normal_matrix(5, 12, 2);
  CHECK(compress(w, observed(x), chain(slim_quantizer({.bits = 4}))).report.notes.empty());
  for (index_t t = 0; t < 30; ++t) x(t, 7) *= 100.0f;
  auto const notes = compress(w, observed(x), chain(slim_quantizer({.bits = 4}))).report.notes;
  REQUIRE(notes.size() == 1);
  CHECK(notes[0] == "massive activations: input channel 7 carries 99% of the inputs' energy");
}
