#include "compress/recipe_parts.hpp"

#include "slim/interop/gguf_grids.hpp"
#include "slim/quantization/grid_quantizer.hpp"
#include "slim/quantization/range_quantizer.hpp"
#include "slim/slim.hpp"

#include <cmath>

namespace slim_llm {
namespace {

constexpr auto factor_format = slim::number_format::bf16;
constexpr slim::index_t slim_repo_multiple = 128; ///< of ranks, in SLiM's published code
constexpr double outlier_share = 0.01;            ///< of the input channels that SLiM-Quant^O scales

slim::slim_quantizer slim_repo_quantizer(code_part const& codes) {
  return slim::slim_quantizer(
      {.bits = codes.bits, .block = codes.block, .search = slim::scale_search::reference, .scale_format = codes.scale_format});
}

/// Codes of `code_part::searched`: symmetric ones with scales of either sign.
slim::stock_grid signed_grid(code_part const& codes) {
  return {.bits = codes.bits, .block = codes.block, .scale_format = codes.scale_format};
}
slim::uniform_grid weighted_grid(code_part const& codes) {
  return {.bits = codes.bits,
          .block = codes.block,
          .symmetric = false,
          .rule = slim::scale_rule::weighted_error,
          .scale_format = codes.scale_format,
          .scale_digits = codes.scale_digits};
}

slim::any_quantizer rounding_of(code_part const& codes) {
  if (codes.searched && codes.symmetric) return slim::grid_quantizer(signed_grid(codes));
  if (codes.searched) return slim::grid_quantizer(weighted_grid(codes));
  return slim::absmax_quantizer({.bits = codes.bits,
                                 .block = codes.block,
                                 .symmetric = codes.symmetric,
                                 .scale_format = codes.scale_format,
                                 .full_range = codes.full_range});
}

std::optional<slim::any_quantizer> quantizer_of(code_part const& codes) {
  switch (codes.method) {
  case code_method::absmax: return rounding_of(codes);
  case code_method::range:
    return slim::range_quantizer({.bits = codes.bits,
                                  .block = codes.block,
                                  .range = {.rule = codes.range},
                                  .by_output = codes.by_output,
                                  .scale_format = codes.scale_format});
  case code_method::slim_quant:
    return slim::slim_quantizer({.bits = codes.bits, .block = codes.block, .scale_format = codes.scale_format});
  case code_method::slim_quant_o:
    return slim::slim_quantizer(
        {.bits = codes.bits, .block = codes.block, .outlier_share = outlier_share, .scale_format = codes.scale_format});
  case code_method::slim_repo: return slim_repo_quantizer(codes);
  default: return std::nullopt;
  }
}

template <slim::saliency Saliency>
slim::any_pruner pruner_by(Saliency const& ranking, bool unstructured) {
  if (unstructured) return slim::unstructured_pruner(ranking, {.sparsity = 0.5});
  return slim::nm_pruner<2, 4>(ranking);
}

std::optional<slim::any_pruner> pruner_of(mask_part const& mask) {
  switch (mask.method) {
  case mask_method::magnitude: return pruner_by(slim::magnitude{}, mask.unstructured);
  case mask_method::wanda: return pruner_by(slim::wanda{}, mask.unstructured);
  default: return std::nullopt;
  }
}

/// SLiM-LoRA with factors of so many bits; 0: numbers.
slim::any_low_rank_solver slim_adapter(adapter_part const& adapter, slim::adapter_rank rank) {
  if (adapter.bits == 0) return slim::slim_lora({.rank = rank, .format = factor_format});
  slim::absmax_quantizer const rounding(
      {.bits = adapter.bits, .block = slim::per_column_group(128), .scale_format = adapter.scale_format});
  return slim::quantized_adapter(slim::slim_lora({.rank = rank}), rounding);
}

/// An adapter that is a step of its own.
std::optional<slim::any_low_rank_solver> adapter_of(adapter_part const& adapter, slim::adapter_rank rank) {
  switch (adapter.method) {
  case adapter_method::svd: return slim::naive_lora({.rank = rank, .format = factor_format});
  case adapter_method::l2qer: return slim::l2qer_lora({.rank = rank, .format = factor_format});
  case adapter_method::slim: return slim_adapter(adapter, rank);
  case adapter_method::exact: return slim::exact_lora({.rank = rank, .format = factor_format});
  case adapter_method::slim_repo:
    rank.multiple = slim_repo_multiple;
    return slim::saliency_lora<slim::rms_saliency>({.rank = rank, .format = factor_format});
  default: return std::nullopt;
  }
}

/// The last, undocumented step of SLiM's code (slim/lora.py, add_lora): what the adapter leaves of W is pruned and quantized
/// again, with a step of its own; the adapter stays.
struct quantize_again {
  slim::slim_quantizer quantizer;

  template <class State>
  State operator()(State state, slim::calibration const& calib, slim::context const& ctx) const {
    state.current = state.original;
    state.adapter.subtract_from(state.current.view(), ctx);
    state.weight.mask.apply_to(state.current.view());
    auto const codes = quantizer.quantize(state.current.view(), calib, ctx);
    codes.dequantize_into(state.current.view(), ctx);
    state.weight.codes = codes;
    return state;
  }
  std::string describe() const { return "quantize again what the adapter leaves"; }
};

/// The two lossy steps in their order, then the adapter if there is one.
template <class First, class Second>
slim::any_chain in_order(First const& first, Second const& second, std::optional<slim::any_low_rank_solver> const& adapter) {
  if (adapter) return slim::chain(first, second, *adapter);
  return slim::chain(first, second);
}

/// One step after the other.
slim::any_chain chain_of_steps(recipe_parts const& parts, slim::adapter_rank rank) {
  auto const quantizer = quantizer_of(parts.codes);
  auto const pruner = pruner_of(parts.mask);
  auto const adapter = adapter_of(parts.adapter, rank);
  if (parts.adapter.method == adapter_method::slim_repo)
    return slim::chain(*quantizer, *pruner, *adapter, quantize_again{slim_repo_quantizer(parts.codes)});
  if (quantizer && pruner)
    return parts.prune_first ? in_order(*pruner, *quantizer, adapter) : in_order(*quantizer, *pruner, adapter);
  if (quantizer) return slim::chain(*quantizer);
  return slim::chain(*pruner);
}

/// Calls `f` with the sparsity pattern of the parts.
template <class F>
slim::any_chain with_pattern(mask_part const& mask, F const& f) {
  if (mask.method == mask_method::none) return f(slim::dense_pattern{});
  if (mask.unstructured) return f(slim::unstructured_pattern{});
  return f(slim::nm<2, 4>{});
}

slim::uniform_grid grid_of(code_part const& codes) {
  bool const plain = codes.method == code_method::gptq && codes.symmetric;
  return {.bits = codes.bits,
          .block = codes.block,
          .symmetric = codes.symmetric,
          .rule = codes.searched ? slim::scale_rule::weighted_error
                  : plain        ? slim::scale_rule::full_range
                                 : slim::scale_rule::least_error,
          .scale_format = codes.scale_format};
}

slim::joint_config joint_config_of(recipe_parts const& parts, slim::adapter_rank rank) {
  slim::adapter_format const stored{.bits = parts.adapter.bits, .scale_format = parts.adapter.scale_format};
  if (parts.codes.method == code_method::alternating) return slim::alternating_config(rank, stored);
  return {.rank = rank, .stored = stored};
}

/// Dense codes of any grid by error feedback.
template <slim::grid Grid>
slim::any_chain feedback_on(Grid const& grid, slim::error_feedback_config const& config, bool towards_dense) {
  slim::error_feedback const solver(slim::quantized_set<Grid, slim::dense_pattern>(grid), config);
  if (towards_dense) return slim::chain(slim::toward_target{}, solver);
  return slim::chain(solver);
}

/// Codes of other engines' formats and of ggml's types, without an adapter.
slim::any_chain chain_on_engine_grid(recipe_parts const& parts) {
  slim::error_feedback_config config{.damping = 0.1, .act_order = true, .descents = 4};
  if (parts.codes.damping > 0.0) config.damping = parts.codes.damping;
  if (!parts.is_stock() && parts.codes.symmetric) return feedback_on(signed_grid(parts.codes), config, parts.towards_dense());
  if (!parts.is_stock()) return feedback_on(weighted_grid(parts.codes), config, parts.towards_dense());
  if (auto const grid = slim::stock_grid_of(parts.codes.type)) return feedback_on(*grid, config, parts.towards_dense());
  return feedback_on(slim::codebook_grid_of(parts.codes.type).value(), config, parts.towards_dense());
}

/// Mask and codes together, and the adapter with them or behind them.
slim::any_chain chain_of_solver(recipe_parts const& parts, slim::adapter_rank rank) {
  if (parts.is_stock() || parts.codes.method == code_method::targeted) return chain_on_engine_grid(parts);
  return with_pattern(parts.mask, [&](auto pattern) -> slim::any_chain {
    slim::quantized_set const set(grid_of(parts.codes), pattern);
    slim::error_feedback_config feedback{.act_order = parts.codes.method == code_method::gptq};
    if (parts.codes.damping > 0.0) feedback.damping = parts.codes.damping;
    if (parts.codes.searched && parts.codes.symmetric) return feedback_on(signed_grid(parts.codes), feedback, false);
    if (parts.codes.method == code_method::gptq) return slim::chain(slim::error_feedback(set, feedback));
    if (parts.codes.method == code_method::error_feedback) {
      if (auto const adapter = adapter_of(parts.adapter, rank))
        return slim::chain(slim::error_feedback(set, feedback), *adapter);
      return slim::chain(slim::error_feedback(set, feedback));
    }
    slim::joint_slr const solver(set, joint_config_of(parts, rank));
    if (parts.towards_dense()) return slim::chain(slim::toward_target{}, solver);
    return slim::chain(solver);
  });
}

} // namespace

slim::any_chain chain_of(recipe_parts const& parts, slim::adapter_rank rank) {
  if (parts.is_system()) return chain_of_system(parts.codes);
  return parts.has_solver() ? chain_of_solver(parts, rank) : chain_of_steps(parts, rank);
}

namespace {

/// A mask of the pattern that keeps the first weights of every group or row.
slim::mask first_kept(mask_part const& how, slim::index_t rows, slim::index_t cols) {
  slim::index_t const group = how.unstructured ? cols : 4;
  slim::mask kept(rows, cols, how.unstructured ? slim::sparsity_pattern{} : slim::sparsity_pattern{2, 4});
  for (slim::index_t i = 0; i < rows; ++i)
    for (slim::index_t j = 0; j < cols; ++j) {
      slim::index_t const first = j / group * group, size = std::min(group, cols - first);
      kept.keep(i, j, j - first < size - size / 2);
    }
  return kept;
}

/// Zeros, with codes if the parts say so.
slim::adapter blank_adapter(adapter_part const& how, slim::index_t d_out, slim::index_t d_in, slim::index_t rank) {
  slim::adapter a;
  a.format = factor_format;
  a.left = slim::matrix<float>(d_in, rank);
  a.right = slim::matrix<float>(rank, d_out);
  if (how.bits == 0) return a;
  slim::absmax_quantizer const rounding(
      {.bits = how.bits, .block = slim::per_column_group(slim::adapter_format{}.group), .scale_format = how.scale_format});
  a.left_codes = rounding.zero_codes(d_in, rank);
  a.right_codes = rounding.zero_codes(rank, d_out);
  return a;
}

} // namespace

slim::any_layer blank_layer(recipe_parts const& parts, slim::index_t d_out, slim::index_t d_in, slim::adapter_rank rank) {
  slim::absmax_quantizer const rounding({.bits = parts.codes.bits,
                                         .block = parts.codes.block,
                                         .symmetric = parts.codes.symmetric,
                                         .scale_format = parts.codes.scale_format});
  bool const signed_scales = parts.codes.method == code_method::targeted && parts.codes.symmetric;
  auto codes = signed_scales ? signed_grid(parts.codes).empty(d_out, d_in) : rounding.zero_codes(d_out, d_in);
  if (parts.codes.scale_digits > 0) // a number that has them all
    std::fill_n(codes.scales.data(), codes.scales.size(), 0x1p-7f - std::ldexp(0x1p-7f, -parts.codes.scale_digits));
  if (parts.codes.method == code_method::slim_quant_o) {
    codes.channel_factors.assign(static_cast<std::size_t>(d_in), 1.0f);
    auto const scaled = static_cast<std::size_t>(outlier_share * static_cast<double>(d_in));
    std::fill_n(codes.channel_factors.begin(), scaled, 2.0f);
  }
  std::optional<slim::mask> kept;
  if (parts.mask.method != mask_method::none) kept = first_kept(parts.mask, d_out, d_in);
  slim::any_layer layer{{std::move(kept), std::move(codes)}, std::nullopt, {}};
  if (parts.adapter.method == adapter_method::slim_repo) rank.multiple = slim_repo_multiple;
  if (parts.adapter.method != adapter_method::none)
    layer.adapter = blank_adapter(parts.adapter, d_out, d_in, rank.of(d_out, d_in));
  return layer;
}

} // namespace slim_llm
