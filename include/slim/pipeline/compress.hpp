#pragma once
/// @file
/// `compress(W, calibration, recipe)`: one linear layer through a chain. `decompress` gives back the dense weight it computes.

#include "slim/calibration/output_error.hpp"
#include "slim/core/finite.hpp"
#include "slim/pipeline/chain.hpp"

#include <chrono>
#include <limits>

namespace slim {
inline namespace SLIM_ABI {

/// A compressed layer: W is replaced by W_c = mask .* codes, and an adapter. Slots of steps that were not in the chain have
/// type `none`; using them does not compile. Weights that were not quantized are `plain_values`.
template <class Mask, class Codes, class Adapter>
struct compressed_layer {
  sparse_codes<Mask, Codes> weight;      ///< W_c, d_out x d_in
  [[no_unique_address]] Adapter adapter; ///< slim::adapter
  layer_report report;
};

namespace detail {

/// Weights and context as the steps get them: finite, or vouched for.
inline void check_weights(matrix<float>& w, layer_report& report, context const& ctx) {
  if (ctx.on_nonfinite == nonfinite::propagate) return;
  index_t zeroed = 0;
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j) {
      if (is_finite(w(i, j))) continue;
      if (ctx.on_nonfinite == nonfinite::reject)
        throw nonfinite_error(message("slim::compress: W is ", w(i, j), " at row ", i, ", column ", j));
      w(i, j) = 0.0f;
      ++zeroed;
    }
  if (zeroed > 0) report.notes.push_back(message(zeroed, " weights were not finite and are taken as 0"));
}

/// Massive activations, said once per layer: a step or an adapter that does not care for such a channel ruins the output, and
/// relative errors of the layer are those of this channel.
inline void note_massive_channel(calibration const& calib, layer_report& report) {
  std::vector<double> const squares = calib.mean_square();
  if (squares.size() < 2) return;
  auto const largest = std::max_element(squares.begin(), squares.end());
  double const share = *largest / std::accumulate(squares.begin(), squares.end(), 0.0);
  if (share > 0.9)
    report.notes.push_back(message("massive activations: input channel ", largest - squares.begin(), " carries ",
                                   static_cast<int>(100 * share), "% of the inputs' energy"));
}

/// Energies of the original weight, against which errors are relative.
struct reference_energy {
  double weight = 0;
  double output = 0;
  double held_out = 0;
};

inline double frobenius_energy(matrix_view<float const> m) {
  double energy = 0;
  for (index_t i = 0; i < m.rows(); ++i)
    for (index_t j = 0; j < m.cols(); ++j) energy += static_cast<double>(m(i, j)) * static_cast<double>(m(i, j));
  return energy;
}

/// The error's share of the reference; 0 where there is nothing to lose, NaN where one of them is no number.
inline double relative(double energy, double reference) {
  if (!is_finite(energy) || !is_finite(reference)) return std::numeric_limits<double>::quiet_NaN();
  return reference > 0.0 ? std::sqrt(energy / reference) : 0.0;
}

/// Bits of what is stored, indices, scales and adapter included. Weights without codes count as 16-bit numbers.
template <class Mask, class Codes, class Adapter>
double stored_bits(layer_state<Mask, Codes, Adapter> const& state) {
  double bits = 0;
  if constexpr (is_none<Codes>) {
    auto const* const kept = state.weight.mask_or_null();
    bits = 16.0 * static_cast<double>(state.original.size());
    if (kept) bits = std::min(bits, 16.0 * static_cast<double>(kept->count()) + kept->index_bits());
  } else {
    bits = state.weight.stored_bits();
  }
  if constexpr (!is_none<Adapter>) bits += state.adapter.bits();
  return bits;
}

template <class Mask, class Codes, class Adapter>
step_report measured(layer_state<Mask, Codes, Adapter> const& state, reference_energy const& reference,
                     calibration const& calib, context const& ctx) {
  step_report report;
  matrix<float> error = state.current;
  if constexpr (!is_none<Adapter>) state.adapter.add_to(error.view(), ctx);
  subtract_into(state.original.view(), error.view(), error.view(), ctx);
  report.relative_error = relative(frobenius_energy(error.view()), reference.weight);
  if (calib.tokens() > 0) report.output_error = relative(output_energy(error.view(), calib, ctx), reference.output);
  if (calib.held_out())
    report.held_out_error = relative(output_energy(error.view(), *calib.held_out(), ctx), reference.held_out);
  if constexpr (!is_none<Mask>) report.sparsity = state.weight.mask.sparsity();
  if constexpr (!is_none<Adapter>) {
    report.rank = state.adapter.rank();
    report.notes = state.adapter.notes;
  }
  if (state.original.size() > 0) report.bits_per_weight = stored_bits(state) / static_cast<double>(state.original.size());
  return report;
}

template <class Step>
std::string name_of_step(Step const& step) {
  if constexpr (requires { step.describe(); })
    return step.describe();
  else
    return "own step";
}

[[nodiscard]] inline reference_energy energy_of(matrix_view<float const> w, calibration const& calib, context const& ctx) {
  return {frobenius_energy(w), calib.tokens() > 0 ? output_energy(w, calib, ctx) : 0.0,
          calib.held_out() ? output_energy(w, *calib.held_out(), ctx) : 0.0};
}

/// A step of somebody's own must leave `current` and the codes in agreement, because the codes are what the layer keeps.
template <class Mask, class Codes, class Adapter>
void require_codes(layer_state<Mask, Codes, Adapter> const& state, std::string const& step, context const& ctx) {
  if constexpr (!is_none<Codes>)
    if (state.weight.values(ctx) != state.current)
      throw config_error(message("slim::compress: the step '", step,
                                 "' changed the weights but not their codes; change state.weight.codes with state.current"));
}

template <std::size_t Index, class Steps, class State>
auto run_steps(Steps const& steps, State state, reference_energy reference, calibration const& calib, context const& ctx) {
  if constexpr (Index == std::tuple_size_v<Steps>) {
    return state;
  } else {
    auto const& step = std::get<Index>(steps);
    ctx.between_steps(name_of_step(step), index_t{Index}, index_t{std::tuple_size_v<Steps>});
    auto const start = std::chrono::steady_clock::now();
    auto next = apply_step(step, std::move(state), calib, ctx);
    double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if constexpr (is_own_step<std::decay_t<decltype(step)>, State>) {
      reference = energy_of(next.original.view(), calib, ctx); // it may have aimed elsewhere
      require_codes(next, name_of_step(step), ctx);
    }
    step_report report = measured(next, reference, calib, ctx);
    report.step = name_of_step(step);
    report.seconds = seconds;
    next.report.steps.push_back(std::move(report));
    return run_steps<Index + 1>(steps, std::move(next), reference, calib, ctx);
  }
}

/// The layer that a chain's last state stands for.
///
/// Codes that are handed out are 0 where the mask is, so that whoever uses them without it cannot bring pruned weights back.
template <class Mask, class Codes, class Adapter>
auto finished(layer_state<Mask, Codes, Adapter> state) {
  if (auto const* const kept = state.weight.mask_or_null())
    if constexpr (requires { state.weight.codes.prune(*kept); }) state.weight.codes.prune(*kept);
  if constexpr (is_none<Codes>)
    return compressed_layer<Mask, plain_values, Adapter>{{std::move(state.weight.mask), {.values = std::move(state.current)}},
                                                         std::move(state.adapter),
                                                         std::move(state.report)};
  else
    return compressed_layer<Mask, Codes, Adapter>{std::move(state.weight), std::move(state.adapter), std::move(state.report)};
}

} // namespace detail

/// Compresses one layer. W (d_out x d_in) is any matrix_like of real numbers; it is copied, not changed. Bit-identical for any
/// executor. @throws shape_error if W and the calibration disagree on d_in; nonfinite_error (see context); config_error if a
/// step needs activations and none were seen.
template <class M, class... Steps>
[[nodiscard]] auto compress(M const& w, calibration const& calib, step_chain<Steps...> const& recipe, context const& ctx = {}) {
  layer_state<> state;
  state.original = to_float(w);
  if (state.original.cols() != calib.channels())
    throw shape_error(
        message("slim::compress: W has ", state.original.cols(), " input channels, the calibration ", calib.channels()));
  detail::check_weights(state.original, state.report, ctx);
  state.current = state.original;
  state.report.rows = state.original.rows();
  state.report.cols = state.original.cols();
  state.report.exact_output_error = calib.has_gram();
  if (index_t const dead = calib.dead_channels(); dead > 0)
    state.report.notes.push_back(message(dead, " input channels were 0 in every token"));
  detail::note_massive_channel(calib, state.report);
  if (calib.zeroed_activations() > 0)
    state.report.notes.push_back(message(calib.zeroed_activations(), " activations were not finite and are taken as 0"));
  auto const reference = detail::energy_of(state.original.view(), calib, ctx);
  return detail::finished(detail::run_steps<0>(recipe.steps, std::move(state), reference, calib, ctx));
}

/// The same for recipes that need no activations.
template <class M, class... Steps>
[[nodiscard]] auto compress(M const& w, step_chain<Steps...> const& recipe, context const& ctx = {}) {
  return compress(w, calibration(as_matrix_view(w).cols()), recipe, ctx);
}

/// The dense weight (d_out x d_in) of the compressed layer: W_c + (L R)^T.
template <class Mask, class Codes, class Adapter>
[[nodiscard]] matrix<float> decompress(compressed_layer<Mask, Codes, Adapter> const& layer, context const& ctx = {}) {
  matrix<float> weights = layer.weight.values(ctx);
  if constexpr (!is_none<Adapter>) layer.adapter.add_to(weights.view(), ctx);
  return weights;
}

} // namespace SLIM_ABI
} // namespace slim
