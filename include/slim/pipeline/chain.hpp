#pragma once
/// @file
/// `chain(step, step, ...)`: a recipe. Steps run in the order in which they are written; swapping two of them is an ablation.

#include "slim/adapters/adapter.hpp"
#include "slim/core/elementwise.hpp"
#include "slim/joint/joint_compressor.hpp"
#include "slim/pipeline/report.hpp"
#include "slim/pruning/pruner.hpp"
#include "slim/quantization/quantizer.hpp"

#include <tuple>
#include <type_traits>
#include <utility>

namespace slim {
inline namespace SLIM_ABI {

/// What a chain's steps hand on to each other. Between steps `current` is the matrix that `weight` stands for: mask .* codes,
/// or W with pruned weights 0 as long as nothing is quantized (`weight.codes` is then `none`).
template <class Mask = none, class Codes = none, class Adapter = none>
struct layer_state {
  matrix<float> original;           ///< W, d_out x d_in
  matrix<float> current;            ///< W_c: what is left of W without the adapter
  sparse_codes<Mask, Codes> weight; ///< the mask and the codes that are chosen so far
  [[no_unique_address]] Adapter adapter{};
  layer_report report;
};

/// The steps of a recipe.
template <class... Steps>
struct step_chain {
  std::tuple<Steps...> steps;
};

/// `chain(slim_quantizer({.bits = 4}), nm_pruner<2, 4>(wanda{}), slim_lora())`
template <class... Steps>
[[nodiscard]] step_chain<std::decay_t<Steps>...> chain(Steps&&... steps) {
  return {std::tuple<std::decay_t<Steps>...>(std::forward<Steps>(steps)...)};
}

namespace detail {

template <class Mask, class Codes, class Adapter>
void require_shape(layer_state<Mask, Codes, Adapter> const& state, index_t rows, index_t cols, char const* who) {
  if (rows != state.original.rows() || cols != state.original.cols())
    throw shape_error(message("slim::compress: the ", who, " returned ", rows, " x ", cols, " for a matrix of ",
                              state.original.rows(), " x ", state.original.cols()));
}

/// A pruner chooses the mask.
template <class P, class Mask, class Codes, class Adapter>
auto prune(P const& step, layer_state<Mask, Codes, Adapter> state, calibration const& calib, context const& ctx) {
  static_assert(is_none<Mask>, "slim::compress: the chain prunes twice; a layer has one mask.");
  static_assert(is_none<Adapter>, "slim::compress: a pruner after the adapter would undo the repair; put the adapter last.");
  mask kept = step.select(matrix_view<float const>(state.current.view()), calib, ctx);
  require_shape(state, kept.rows(), kept.cols(), "pruner");
  kept.apply_to(state.current.view());
  return layer_state<mask, Codes, none>{std::move(state.original),
                                        std::move(state.current),
                                        {std::move(kept), std::move(state.weight.codes)},
                                        {},
                                        std::move(state.report)};
}

/// A quantizer makes the codes.
template <class Q, class Mask, class Codes, class Adapter>
auto quantize(Q const& step, layer_state<Mask, Codes, Adapter> state, calibration const& calib, context const& ctx) {
  static_assert(is_none<Codes>, "slim::compress: the chain quantizes twice; a layer has one set of codes.");
  static_assert(is_none<Adapter>, "slim::compress: a quantizer after the adapter would undo the repair; put the adapter last.");
  auto codes = step.quantize(matrix_view<float const>(state.current.view()), calib, ctx);
  require_shape(state, codes.rows(), codes.cols(), "quantizer");
  codes.dequantize_into(state.current.view(), ctx);
  if (auto const* const kept = state.weight.mask_or_null())
    kept->apply_to(state.current.view()); // a grid without 0 must not bring pruned weights back
  return layer_state<Mask, decltype(codes), none>{std::move(state.original),
                                                  std::move(state.current),
                                                  {std::move(state.weight.mask), std::move(codes)},
                                                  {},
                                                  std::move(state.report)};
}

/// A low-rank solver makes the adapter from the error that the steps before it left.
template <class S, class Mask, class Codes, class Adapter>
auto repair(S const& step, layer_state<Mask, Codes, Adapter> state, calibration const& calib, context const& ctx) {
  static_assert(!is_none<Mask> || !is_none<Codes>, "slim::compress: an adapter before anything lossy has no error to repair.");
  static_assert(is_none<Adapter>, "slim::compress: the chain has two adapters; a layer has one.");
  matrix<float> error(state.original.rows(), state.original.cols());
  subtract_into(state.original.view(), state.current.view(), error.view(), ctx);
  adapter found = step.solve(matrix_view<float const>(error.view()), calib, ctx);
  require_shape(state, found.right.cols(), found.left.rows(), "low-rank solver");
  return layer_state<Mask, Codes, adapter>{std::move(state.original), std::move(state.current), std::move(state.weight),
                                           std::move(found), std::move(state.report)};
}

/// Codes of a joint result as a chain has them: values that are not quantized are no codes yet.
template <class Codes>
auto as_chain_codes(Codes codes) {
  if constexpr (std::is_same_v<Codes, plain_values>)
    return none{};
  else
    return codes;
}

/// A joint compressor makes mask, codes and perhaps the adapter together.
template <class J, class Mask, class Codes, class Adapter>
auto compress_jointly(J const& step, layer_state<Mask, Codes, Adapter> state, calibration const& calib, context const& ctx) {
  static_assert(is_none<Mask> && is_none<Codes> && is_none<Adapter>,
                "slim::compress: a joint compressor behind a pruner, quantizer or adapter would undo it; put it first.");
  auto found = step.compress(matrix_view<float const>(state.current.view()), calib, ctx);
  require_shape(state, found.weight.rows(), found.weight.cols(), "joint compressor");
  state.report.notes.insert(state.report.notes.end(), found.notes.begin(), found.notes.end());
  state.report.objective = std::move(found.objective);
  matrix<float> current = found.weight.values(ctx);
  auto codes = as_chain_codes(std::move(found.weight.codes));
  return layer_state<decltype(found.weight.mask), decltype(codes), decltype(found.adapter)>{
      std::move(state.original),
      std::move(current),
      {std::move(found.weight.mask), std::move(codes)},
      std::move(found.adapter),
      std::move(state.report)};
}

template <class Step, class State>
inline constexpr bool is_own_step = std::is_invocable_v<Step const&, State, calibration const&, context const&>;

/// One step, by the role its type plays.
template <class Step, class State>
auto apply_step(Step const& step, State state, calibration const& calib, context const& ctx) {
  constexpr int roles = int{pruner<Step>} + int{quantizer<Step>} + int{low_rank_solver<Step>} + int{joint_compressor<Step>};
  static_assert(
      roles <= 1,
      "slim::compress: a step plays two roles (pruner, quantizer, low-rank solver, joint compressor); wrap it so that it plays one.");
  static_assert(roles == 1 || is_own_step<Step, State>,
                "slim::compress: a step of the chain is no pruner, quantizer, "
                "low-rank solver or joint compressor, nor a callable (state, calibration, context) "
                "-> state. To see why: static_assert(slim::quantizer<your_step>).");
  if constexpr (pruner<Step>)
    return prune(step, std::move(state), calib, ctx);
  else if constexpr (quantizer<Step>)
    return quantize(step, std::move(state), calib, ctx);
  else if constexpr (low_rank_solver<Step>)
    return repair(step, std::move(state), calib, ctx);
  else if constexpr (joint_compressor<Step>)
    return compress_jointly(step, std::move(state), calib, ctx);
  else if constexpr (is_own_step<Step, State>)
    return step(std::move(state), calib, ctx);
  else
    return state; // the assertion above has said what is wrong
}

} // namespace detail

} // namespace SLIM_ABI
} // namespace slim
