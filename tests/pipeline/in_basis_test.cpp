// Chains in another basis, against the same steps on a transformed weight by hand.

#include "slim/adapters/exact_lora.hpp"
#include "slim/adapters/quantized_adapter.hpp"
#include "slim/joint/joint_slr.hpp"
#include "slim/kernels/packed_linear.hpp"
#include "slim/pipeline/any.hpp"
#include "slim/pipeline/in_basis.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/transforms/channel_permutation.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;
using Catch::Contains;

namespace {

std::vector<float> uneven_factors(index_t channels) {
  std::vector<float> factors;
  for (index_t j = 0; j < channels; ++j) factors.push_back(0.5f + 0.125f * static_cast<float>(j % 13));
  return factors;
}

/// The reflection I - 2 u u^T / n with u of alternating signs: orthogonal, symmetric, its own inverse; mixes all channels.
struct reflection {
  matrix<float> apply(matrix_view<float const> w) const {
    matrix<float> out(w);
    for (index_t i = 0; i < w.rows(); ++i) {
      double dot = 0;
      for (index_t j = 0; j < w.cols(); ++j) dot += static_cast<double>(w(i, j)) * (j % 2 == 0 ? 1.0 : -1.0);
      auto const by = static_cast<float>(2.0 * dot / static_cast<double>(w.cols()));
      for (index_t j = 0; j < w.cols(); ++j) out(i, j) -= j % 2 == 0 ? by : -by;
    }
    return out;
  }
  matrix<float> invert(matrix_view<float const> w) const { return apply(w); }
  double stored_bits() const { return 0.0; }
  std::string describe() const { return "reflection"; }
};
static_assert(transform<reflection> && !calibration_transform<reflection>);

double distance(matrix<float> const& a, matrix<float> const& b) {
  double most = 0;
  for (index_t k = 0; k < a.size(); ++k)
    most = std::max(most, std::abs(static_cast<double>(a.data()[k]) - static_cast<double>(b.data()[k])));
  return most;
}

} // namespace

TEST_CASE("a scaling goes into the channel factors of the codes, and the packed layer multiplies its inputs by them") {
  matrix<float> const w = normal_matrix(33, 96, 1), x = normal_matrix(200, 96, 2);
  calibration const calib = observed(x, {.gram = true});
  channel_scaling const scaling(uneven_factors(96));
  absmax_quantizer const int4({.bits = 4, .block = per_group(32), .scale_format = number_format::fp16});
  auto const layer = compress(w, calib, chain(in_basis(scaling, int4)));

  matrix<float> const by_hand = scaling.invert(compress(scaling.apply(w.view()), chain(int4)).weight.values().view());
  CHECK(layer.weight.values() == by_hand);
  CHECK(layer.weight.codes.channel_factors == scaling.factors());
  CHECK(layer.report.steps.size() == 2);
  CHECK_THAT(layer.report.steps[0].step, Contains("in basis: absmax"));
  CHECK_THAT(layer.report.steps[1].step, Contains("scaling of 96 channels"));
  CHECK(layer.report.steps[0].output_error == Approx(layer.report.steps[1].output_error).epsilon(1e-4)); // X W^T is the same

  packed_linear const packed = pack(layer);
  matrix<float> y(5, 33);
  matrix_view<float const> const some = x.view().middle_rows(0, 5);
  forward_into(packed, some, y.view(), {.inputs = input_precision::exact});
  for (index_t t = 0; t < 5; ++t)
    for (index_t i = 0; i < 33; ++i) {
      double sum = 0;
      for (index_t j = 0; j < 96; ++j) sum += static_cast<double>(x(t, j)) * static_cast<double>(by_hand(i, j));
      CHECK(static_cast<double>(y(t, i)) == Approx(sum).margin(1e-4));
    }
}

TEST_CASE("with 2:4 and an adapter, scaled: the adapter works on inputs as they come") {
  matrix<float> const w = normal_matrix(24, 64, 3), x = normal_matrix(150, 64, 4);
  calibration const calib = observed(x, {.gram = true});
  channel_scaling const scaling(uneven_factors(64));
  absmax_quantizer const int4({.bits = 4, .block = per_channel});
  auto const half = nm_pruner<2, 4>(wanda{});
  exact_lora const lora({.rank = {.number = 4}});
  auto const layer = compress(w, calib, chain(in_basis(scaling, int4, half, lora)));
  auto const there = compress(scaling.apply(w.view()), scaling.apply_to(calib), chain(int4, half, lora));
  CHECK(layer.weight.mask == there.weight.mask);
  matrix<float> const expected = scaling.invert(decompress(there).view());
  CHECK(distance(decompress(layer), expected) < 1e-5);
  CHECK(layer.report.last().output_error == Approx(there.report.last().output_error).epsilon(1e-3));

  adapter_format const four_bits{.bits = 4, .group = 32};
  auto const joint =
      compress(w, calib,
               chain(in_basis(scaling, joint_slr(quantized_set({.bits = 4}, nm<2, 4>{}),
                                                 {.rank = {.number = 4}, .stored = four_bits, .iterations = 2}))));
  CHECK(joint.adapter.rank() == 4);
  CHECK_FALSE(joint.adapter.left_codes);
  CHECK_THAT(joint.report.last().notes.back(), Contains("comes back from another basis as numbers"));
  CHECK(pack(joint).rank() == 4);
}

TEST_CASE("permuted and rotated layers keep their codes in the basis they were made in") {
  matrix<float> const w = normal_matrix(16, 40, 5), x = normal_matrix(120, 40, 6);
  calibration const calib = observed(x, {.gram = true});
  std::vector<index_t> order;
  for (index_t j = 0; j < 40; ++j) order.push_back((j * 7) % 40);
  channel_permutation const permutation(order);
  absmax_quantizer const int4({.bits = 4, .block = per_group(8)});
  auto const half = nm_pruner<2, 4>(wanda{});
  auto const permuted = compress(w, calib, chain(in_basis(permutation, int4, half)));
  auto const there = compress(permutation.apply(w.view()), permutation.apply_to(calib), chain(int4, half));
  CHECK(permuted.weight.values() == permutation.invert(there.weight.values().view()));
  CHECK(permuted.report.last().bits_per_weight == Approx(there.report.last().bits_per_weight + 32.0 / 16).epsilon(1e-12));

  auto const rotated =
      compress(w, calib, chain(in_basis(reflection{}, error_feedback(quantized_set({.bits = 3}, dense_pattern{})))));
  matrix<float> rotated_x = reflection{}.apply(x.view());
  auto const in_there = compress(reflection{}.apply(w.view()), observed(rotated_x, {.gram = true}),
                                 chain(error_feedback(quantized_set({.bits = 3}, dense_pattern{}))));
  CHECK(rotated.report.last().output_error == Approx(in_there.report.last().output_error).epsilon(0.02));
  CHECK_THROWS_WITH(pack(rotated), Contains("a basis of their own"));
  CHECK_THROWS_WITH(compress(w, observed(x), chain(in_basis(reflection{}, int4))),
                    Contains("needs the calibration's Gram matrix"));
}

TEST_CASE("a basis may be made of the weight and what its inputs looked like") {
  matrix<float> w = normal_matrix(32, 64, 7), x = normal_matrix(200, 64, 8);
  for (index_t t = 0; t < 200; ++t) x(t, 5) *= 40.0f; // an outlier channel
  calibration const calib = observed(x, {.gram = true});
  auto const smoothing = [](matrix_view<float const> v, calibration const& seen, context const&) {
    std::vector<float> factors;
    for (double const square : seen.mean_square()) factors.push_back(static_cast<float>(std::pow(square, 0.25)));
    CHECK(v.rows() == 32);
    return channel_scaling(factors);
  };
  absmax_quantizer const int3({.bits = 3, .block = per_channel});
  auto const plain = compress(w, calib, chain(int3)), smooth = compress(w, calib, chain(in_basis(smoothing, int3)));
  CHECK(smooth.report.last().output_error < 0.5 * plain.report.last().output_error);
  CHECK(any_chain(chain(in_basis(smoothing, int3))).compress(w, calib).report.last().output_error ==
        smooth.report.last().output_error);
}
