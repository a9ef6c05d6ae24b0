/// Near misses: a type that lacks one requirement does not model the concept; and algorithms ask no more than it.
#include "slim/adapters/exact_lora.hpp"
#include "slim/adapters/quantized_adapter.hpp"
#include "slim/adapters/saliency_lora.hpp"
#include "slim/adapters/sparse_adapter.hpp"
#include "slim/joint/joint_slr.hpp"
#include "slim/pipeline/any.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/testing/archetypes.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

using view = matrix_view<float const>;

// saliency
struct scores_double {
  struct scorer {
    double operator()(index_t, index_t) const;
  };
  scorer prepare(view, calibration const&, context const&) const;
  std::string describe() const;
};
struct scorer_not_const {
  struct scorer {
    float operator()(index_t, index_t);
  };
  scorer prepare(view, calibration const&, context const&) const;
  std::string describe() const;
};
struct saliency_without_describe {
  saliency_archetype::scorer prepare(view, calibration const&, context const&) const;
};
struct saliency_without_context {
  saliency_archetype::scorer prepare(view, calibration const&) const;
  std::string describe() const;
};
struct saliency_not_const {
  saliency_archetype::scorer prepare(view, calibration const&, context const&);
  std::string describe() const;
};
static_assert(!saliency<scores_double> && !saliency<scorer_not_const> && !saliency<saliency_without_describe> &&
              !saliency<saliency_without_context> && !saliency<saliency_not_const> && !saliency<linear_saliency_archetype> &&
              !saliency<int>);

// linear saliency
struct weights_double {
  std::vector<double> channel_weights(calibration const&) const;
  std::string describe() const;
};
struct linear_saliency_without_describe {
  std::vector<float> channel_weights(calibration const&) const;
};
static_assert(!linear_saliency<weights_double> && !linear_saliency<linear_saliency_without_describe> &&
              !linear_saliency<saliency_archetype>);

// pruner
struct selects_bools {
  matrix<bool> select(view, calibration const&, context const&) const;
  std::string describe() const;
};
struct pruner_without_context {
  mask select(view, calibration const&) const;
  std::string describe() const;
};
struct pruner_that_wants_to_write {
  mask select(matrix_view<float>, calibration const&, context const&) const;
  std::string describe() const;
};
struct pruner_without_describe {
  mask select(view, calibration const&, context const&) const;
};
struct pruner_not_const {
  mask select(view, calibration const&, context const&);
  std::string describe() const;
};
static_assert(!pruner<selects_bools> && !pruner<pruner_without_context> && !pruner<pruner_that_wants_to_write> &&
              !pruner<pruner_without_describe> && !pruner<pruner_not_const> && !pruner<quantizer_archetype>);

// quantized_matrix
struct codes_without_cols {
  index_t rows() const;
  double stored_bits(mask const*) const;
  void dequantize_into(matrix_view<float>, context const&) const;
};
struct codes_with_whole_bits {
  index_t rows() const;
  index_t cols() const;
  int stored_bits(mask const*) const;
  void dequantize_into(matrix_view<float>, context const&) const;
};
struct codes_priced_without_mask {
  index_t rows() const;
  index_t cols() const;
  double stored_bits() const;
  void dequantize_into(matrix_view<float>, context const&) const;
};
struct codes_that_cannot_be_read {
  index_t rows() const;
  index_t cols() const;
  double stored_bits(mask const*) const;
};
static_assert(!quantized_matrix<codes_without_cols> && !quantized_matrix<codes_with_whole_bits> &&
              !quantized_matrix<codes_priced_without_mask> && !quantized_matrix<codes_that_cannot_be_read>);

// quantizer
struct returns_no_codes {
  matrix<float> quantize(view, calibration const&, context const&) const;
  std::string describe() const;
};
struct quantizer_without_describe {
  codes_archetype quantize(view, calibration const&, context const&) const;
};
struct quantizer_without_calibration {
  codes_archetype quantize(view, context const&) const;
  std::string describe() const;
};
static_assert(!quantizer<returns_no_codes> && !quantizer<quantizer_without_describe> &&
              !quantizer<quantizer_without_calibration>);
static_assert(integer_quantizer<absmax_quantizer> && !integer_quantizer<quantizer_archetype> &&
              !integer_quantizer<any_quantizer>);

// low-rank solver
struct solver_without_energy {
  adapter solve(view, calibration const&, context const&) const;
  std::string describe() const;
};
struct solver_without_describe {
  adapter solve(view, calibration const&, context const&) const;
  double energy(view, calibration const&, context const&) const;
};
struct solver_of_pairs {
  std::pair<matrix<float>, matrix<float>> solve(view, calibration const&, context const&) const;
  double energy(view, calibration const&, context const&) const;
  std::string describe() const;
};
static_assert(!low_rank_solver<solver_without_energy> && !low_rank_solver<solver_without_describe> &&
              !low_rank_solver<solver_of_pairs>);

// diagonal norm
struct weights_of_doubles : low_rank_solver_archetype {
  std::vector<double> channel_weights(calibration const&) const;
};
template <class S>
concept sparse_adapter_takes = requires { typename sparse_adapter<S, pruner_archetype>; };
static_assert(!diagonal_norm<linear_saliency_archetype> && !diagonal_norm<slim_saliency> && !diagonal_norm<exact_lora> &&
              !diagonal_norm<low_rank_solver_archetype> && !diagonal_norm<weights_of_doubles>);
static_assert(diagonal_norm<saliency_lora<slim_saliency>> &&
              diagonal_norm<sparse_adapter<diagonal_norm_archetype, any_pruner>>);
static_assert(diagonal_norm<quantized_adapter<diagonal_norm_archetype, absmax_quantizer>> &&
              !diagonal_norm<quantized_adapter<exact_lora, absmax_quantizer>>);
static_assert(sparse_adapter_takes<diagonal_norm_archetype> && !sparse_adapter_takes<exact_lora> &&
              !sparse_adapter_takes<slim_saliency>);

// transform
struct transform_without_inverse {
  matrix<float> apply(view) const;
  calibration apply_to(calibration const&) const;
  std::string describe() const;
};
struct transform_in_place {
  void apply(matrix_view<float>) const;
  void invert(matrix_view<float>) const;
  calibration apply_to(calibration const&) const;
  std::string describe() const;
};
struct transform_of_weights_only {
  matrix<float> apply(view) const;
  matrix<float> invert(view) const;
  std::string describe() const;
};
struct transform_not_const {
  matrix<float> apply(view);
  matrix<float> invert(view);
  calibration apply_to(calibration const&);
  std::string describe() const;
};
struct transform_of_half_a_calibration : transform_of_weights_only {
  matrix<double> apply_to(calibration const&) const;
};
static_assert(!transform<transform_without_inverse> && !transform<transform_in_place> && !transform<transform_not_const> &&
              !transform<pruner_archetype>);
static_assert(transform<transform_of_weights_only> && !calibration_transform<transform_of_weights_only> &&
              !calibration_transform<transform_archetype> && !calibration_transform<transform_of_half_a_calibration> &&
              !calibration_transform<transform_without_inverse>);

// bit allocator
struct allocator_without_widths {
  std::vector<index_t> allocate(bit_offers const&) const;
  std::string describe() const;
};
struct allocator_of_bits {
  std::vector<double> widths() const;
  std::vector<std::uint8_t> allocate(bit_offers const&) const; // bits, where positions are asked for
  std::string describe() const;
};
static_assert(!bit_allocator<allocator_without_widths> && !bit_allocator<allocator_of_bits>);

// input quantizer, executor
struct input_quantizer_without_describe {
  void round_inplace(matrix_view<float>) const;
};
struct input_quantizer_of_constants {
  void round_inplace(matrix_view<int>) const;
  std::string describe() const;
};
struct executor_not_const {
  void for_each(index_t, task_ref);
};
struct executor_without_for_each {
  void run(index_t, task_ref) const;
};
static_assert(!input_quantizer<input_quantizer_without_describe> && !input_quantizer<input_quantizer_of_constants>);

// A trainable quantizer lacks its first parameters; its gradient is the weight's alone.
struct trainable_quantizer_without_first {
  integer_codes codes(matrix_view<float const>, std::span<float const>, context const&) const { return {}; }
  quantizer_gradient backward(matrix_view<float const>, std::span<float const>, matrix_view<float const>,
                              context const&) const {
    return {};
  }
  std::string describe() const { return ""; }
};
struct trainable_quantizer_of_weights_alone : trainable_quantizer_without_first {
  std::vector<float> first(matrix_view<float const>, context const&) const { return {}; }
  matrix<float> backward(matrix_view<float const>, std::span<float const>, matrix_view<float const>, context const&) const {
    return {};
  }
};
static_assert(!trainable_quantizer<trainable_quantizer_without_first> &&
              !trainable_quantizer<trainable_quantizer_of_weights_alone>);
static_assert(!executor<executor_not_const> && !executor<executor_without_for_each>);

} // namespace

TEST_CASE("pruners need no more of a saliency than the concept says") {
  matrix<float> const w = normal_matrix(3, 9, 1);
  mask const kept = nm_pruner<2, 4>(saliency_archetype(0)).select(w.view(), calibration(9));
  for (index_t j = 0; j < 9; ++j) CHECK(kept.kept(1, j) == (j == 2 || j == 3 || j == 6 || j == 7 || j == 8));
  mask const last =
      unstructured_pruner<saliency_archetype>(saliency_archetype(0), {.sparsity = 0.7}).select(w.view(), calibration(9));
  for (index_t j = 0; j < 9; ++j) CHECK(last.kept(2, j) == (j >= 6));
  CHECK(unstructured_pruner<saliency_archetype>(saliency_archetype(0)).describe().find("archetype") != std::string::npos);
}

TEST_CASE("compress needs no more of its steps than the concepts say") {
  matrix<float> const w = normal_matrix(3, 6, 2);
  auto const layer = compress(w, chain(pruner_archetype(0), quantizer_archetype(0), low_rank_solver_archetype(0)));
  matrix<float> const weights = layer.weight.values();
  // The archetype's grid has no 0: the mask must still hold.
  for (index_t i = 0; i < 3; ++i)
    for (index_t j = 0; j < 6; ++j) CHECK(weights(i, j) == (j % 2 == 0 ? 1.0f : 0.0f));
  CHECK(layer.adapter.rank() == 1);
  CHECK(layer.report.steps.size() == 3);
  CHECK(layer.report.steps[0].step == "archetype");
  CHECK(layer.report.steps[2].rank == 1);
  CHECK(decompress(layer) == weights);
}

TEST_CASE("type erasure needs no more than the concepts say, and changes nothing") {
  matrix<float> const w = normal_matrix(3, 6, 2);
  any_pruner const p = pruner_archetype(0);
  any_quantizer const q = quantizer_archetype(0);
  any_low_rank_solver const s = low_rank_solver_archetype(0);
  any_chain const recipe = chain(p, q, s);
  any_layer const layer = recipe.compress(w, calibration(6));
  auto const same = compress(w, chain(pruner_archetype(0), quantizer_archetype(0), low_rank_solver_archetype(0)));
  CHECK(layer.weight.values() == same.weight.values());
  CHECK(layer.weight.codes.stored_bits() == 18.0);
  CHECK(p.describe() == "archetype");
  CHECK(q.describe() == "archetype");
  CHECK(s.describe() == "archetype");
}

TEST_CASE("solvers over sets need no more of a set, and chains no more of a joint compressor, than the concepts say") {
  matrix<float> const w = normal_matrix(5, 8, 4);
  calibration const calib = observed(normal_matrix(30, 8, 5), {.gram = true});
  auto const joint =
      compress(w, calib, chain(joint_slr<set_archetype>(set_archetype(0), {.rank = {.number = 2}, .iterations = 2})));
  CHECK(joint.adapter.rank() == 2);
  CHECK(joint.report.last().bits_per_weight > 1.0);
  auto const fed = compress(w, calib, chain(error_feedback<set_archetype>(set_archetype(0), {.descents = 1})));
  for (index_t k = 0; k < fed.weight.codes.signs.size(); ++k) CHECK(std::abs(fed.weight.codes.signs.data()[k]) == 1);
  auto const ones = compress(w, calib, chain(joint_compressor_archetype(0)));
  CHECK(ones.weight.values() == matrix<float>(mapped(w, [](float) { return 1.0f; })));
}

TEST_CASE("sweeps need no more of a grid than the concept says") {
  matrix<float> w = normal_matrix(5, 8, 4), unit(8, 8);
  for (index_t j = 0; j < 8; ++j) unit(j, j) = 1.0f;
  grid_archetype const zero(0);
  auto codes = zero.empty(5, 8);
  feed_back(w.view(), unit.view(), zero, codes, nullptr);
  CHECK(w == matrix<float>(5, 8)); // its one value
  descend_codes(w.view(), unit.view(), zero, codes, nullptr);
}

TEST_CASE("a quantized adapter needs no more of its solver than the concept says") {
  matrix<float> const e = normal_matrix(4, 5, 3);
  quantized_adapter<low_rank_solver_archetype, absmax_quantizer> const both(low_rank_solver_archetype(0),
                                                                            absmax_quantizer({.bits = 4}));
  adapter const found = both.solve(matrix_view<float const>(e.view()), calibration(5));
  CHECK(found.rank() == 1);
  CHECK(found.left_codes.has_value());
}

TEST_CASE("a sparse adapter needs no more of its solver and pruner than the concepts say") {
  matrix<float> const e = normal_matrix(4, 5, 3);
  sparse_adapter<diagonal_norm_archetype, pruner_archetype> const thin(diagonal_norm_archetype(0), pruner_archetype(0));
  adapter const found = thin.solve(matrix_view<float const>(e.view()), calibration(5));
  CHECK(found.rank() == 1);
  REQUIRE(found.left_mask.has_value());
  CHECK(found.left_mask->kept(0, 2));
  CHECK(thin.channel_weights(calibration(5)) == std::vector<float>(5, 1.0f));
}

TEST_CASE("algorithms need no more of an executor than the concept says") {
  executor_archetype const where(0);
  std::vector<int> visits(10);
  slim::parallel_for(where, 10, 3, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
  });
  CHECK(visits == std::vector<int>(10, 1));
}
