#include "compress/recipe_parts.hpp"

#include "slim/slim.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace slim_llm {
namespace {

enum class quantizer_kind { none, absmax, slim_quant, slim_quant_o, reference };
enum class saliency_kind { none, magnitude, wanda };
enum class adapter_kind { none, naive, l2qer, slim, slim_4bit, exact, reference };

struct base_recipe {
  char const* name;
  quantizer_kind quantizer;
  saliency_kind pruned_by;
  adapter_kind adapter;
  char const* text;
};

constexpr base_recipe bases[] = {
    {"dense", quantizer_kind::none, saliency_kind::none, adapter_kind::none, "the model as it is"},
    {"absmax", quantizer_kind::absmax, saliency_kind::none, adapter_kind::none, "4-bit codes, step from the largest weight"},
    {"slim-quant", quantizer_kind::slim_quant, saliency_kind::none, adapter_kind::none,
     "4-bit codes, step of least expected error (SLiM-Quant)"},
    {"magnitude-24", quantizer_kind::none, saliency_kind::magnitude, adapter_kind::none, "2:4 sparsity by magnitude"},
    {"wanda-24", quantizer_kind::none, saliency_kind::wanda, adapter_kind::none, "2:4 sparsity by Wanda"},
    {"absmax-wanda", quantizer_kind::absmax, saliency_kind::wanda, adapter_kind::none, "absmax, then Wanda 2:4"},
    {"slim-quant-wanda", quantizer_kind::slim_quant, saliency_kind::wanda, adapter_kind::none, "SLiM-Quant, then Wanda 2:4"},
    {"naive", quantizer_kind::slim_quant, saliency_kind::wanda, adapter_kind::naive,
     "... + low-rank adapter by plain SVD of the error"},
    {"l2qer", quantizer_kind::slim_quant, saliency_kind::wanda, adapter_kind::l2qer,
     "... + low-rank adapter with L2QER's channel scaling"},
    {"slim", quantizer_kind::slim_quant, saliency_kind::wanda, adapter_kind::slim,
     "... + SLiM-LoRA: SVD of the error weighted by mean |x|"},
    {"slim-q", quantizer_kind::slim_quant, saliency_kind::wanda, adapter_kind::slim_4bit,
     "slim with 4-bit adapters in groups of 128"},
    {"slim-repo", quantizer_kind::reference, saliency_kind::wanda, adapter_kind::reference,
     "slim as its published code does it: its step search, RMS saliency, rank padded to 128, weights quantized again after"},
    {"qera", quantizer_kind::slim_quant, saliency_kind::wanda, adapter_kind::exact,
     "... + low-rank adapter exact for the layer's output (QERA)"},
    {"slim-o", quantizer_kind::slim_quant_o, saliency_kind::wanda, adapter_kind::slim,
     "slim with activation-aware SLiM-Quant^O"},
};

template <slim::input_quantizer Rounding>
void set_input(modifiers& m, Rounding const& rounding) {
  m.round_input = [rounding](slim::matrix_view<float> x) { rounding.round_inplace(x); };
  m.input_text = rounding.describe();
}

/// Reads "g128" and the like; 0 if it is nothing of the kind.
slim::index_t group_size(std::string const& modifier) {
  if (modifier.size() < 2 || modifier[0] != 'g') return 0;
  slim::index_t size = 0;
  auto const end = modifier.data() + modifier.size();
  auto const [stop, error] = std::from_chars(modifier.data() + 1, end, size);
  return error == std::errc() && stop == end && size > 0 ? size : 0;
}

/// Reads "r0.075" (a ratio) or "r32" (a number).
std::optional<slim::adapter_rank> rank_modifier(std::string const& modifier) {
  if (modifier.size() < 2 || modifier[0] != 'r') return std::nullopt;
  auto const rank = parse_rank(modifier.substr(1));
  return rank ? std::optional(*rank) : std::nullopt;
}

recipe_traits traits_of(base_recipe const& base) {
  bool const quantizes = base.quantizer != quantizer_kind::none, prunes = base.pruned_by != saliency_kind::none;
  return {.quantizes = quantizes,
          .prunes = prunes,
          .has_order = quantizes && prunes && base.adapter != adapter_kind::reference,
          .has_adapter = base.adapter != adapter_kind::none,
          .has_targets = false};
}

/// An empty string, or what is wrong.
std::string apply_modifier(modifiers& m, std::string const& modifier, std::string const& base, recipe_traits const& can) {
  auto const meaningless = [&](char const* why) {
    return slim::message("recipe ", base, " ", why, ", so @", modifier, " has no meaning");
  };
  if (modifier == "50") {
    if (!can.prunes) return meaningless("prunes nothing");
    m.unstructured = true;
  } else if (modifier == "channel" || group_size(modifier) > 0) {
    if (!can.quantizes) return meaningless("quantizes nothing");
    m.block = modifier == "channel" ? slim::per_channel : slim::per_group(group_size(modifier));
  } else if (auto const rank = rank_modifier(modifier)) {
    if (!can.has_adapter) return meaningless("has no adapter");
    m.rank = *rank;
  } else if (modifier == "prune-first") {
    if (!can.has_order) return meaningless("does not both quantize and prune in steps of their own");
    m.prune_first = true;
  } else if (modifier == "no-target") {
    if (!can.has_targets) return meaningless("aims at the weights anyway");
    m.targets = false;
  } else if (modifier == "fp8") {
    set_input(m, slim::fp8_input());
  } else if (modifier == "int8") {
    set_input(m, slim::int8_input());
  } else {
    return slim::message("modifier @", modifier,
                         " is not known; there are @50 @channel @gN @rR @prune-first @no-target @fp8 @int8");
  }
  return {};
}

slim::slim_quantizer reference_quantizer(slim::scale_block block) {
  return slim::slim_quantizer(
      {.bits = 4, .block = block, .search = slim::scale_search::reference, .scale_format = slim::number_format::fp16});
}

std::optional<slim::any_quantizer> quantizer_of(base_recipe const& base, modifiers const& m) {
  constexpr auto scales = slim::number_format::fp16;
  switch (base.quantizer) {
  case quantizer_kind::none: return std::nullopt;
  case quantizer_kind::absmax:
    return slim::absmax_quantizer({.bits = 4, .block = m.block.value_or(slim::per_tensor), .scale_format = scales});
  case quantizer_kind::slim_quant:
    return slim::slim_quantizer({.bits = 4, .block = m.block.value_or(slim::per_tensor), .scale_format = scales});
  case quantizer_kind::reference: return slim::any_quantizer(reference_quantizer(m.block.value_or(slim::per_tensor)));
  case quantizer_kind::slim_quant_o: break;
  }
  return slim::slim_quantizer(
      {.bits = 4, .block = m.block.value_or(slim::per_tensor), .outlier_share = 0.01, .scale_format = scales});
}

template <slim::saliency Saliency>
slim::any_pruner pruner_by(Saliency ranking, bool unstructured) {
  if (unstructured) return slim::unstructured_pruner({.sparsity = 0.5}, ranking);
  return slim::nm_pruner<2, 4>(ranking);
}

std::optional<slim::any_pruner> pruner_of(base_recipe const& base, modifiers const& m) {
  switch (base.pruned_by) {
  case saliency_kind::none: return std::nullopt;
  case saliency_kind::magnitude: return pruner_by(slim::magnitude{}, m.unstructured);
  case saliency_kind::wanda: break;
  }
  return pruner_by(slim::wanda{}, m.unstructured);
}

std::optional<slim::any_low_rank_solver> adapter_of(base_recipe const& base, slim::adapter_rank rank) {
  slim::lora_config const stored_16_bit{.rank = rank, .format = slim::number_format::bf16};
  switch (base.adapter) {
  case adapter_kind::none: return std::nullopt;
  case adapter_kind::naive: return slim::naive_lora(stored_16_bit);
  case adapter_kind::l2qer: return slim::l2qer_lora(stored_16_bit);
  case adapter_kind::slim: return slim::slim_lora(stored_16_bit);
  case adapter_kind::exact: return slim::exact_lora({.rank = rank, .format = slim::number_format::bf16});
  case adapter_kind::reference: {
    slim::lora_config padded = stored_16_bit;
    padded.rank.multiple = 128;
    return slim::saliency_lora<slim::rms_saliency>(padded);
  }
  case adapter_kind::slim_4bit: break;
  }
  slim::absmax_quantizer const rounding(
      {.bits = 4, .block = slim::per_column_group(128), .scale_format = slim::number_format::fp16});
  return slim::quantized_adapter(slim::slim_lora({.rank = rank}), rounding);
}

/// The last, undocumented step of SLiM's code (slim/lora.py, add_lora): what the adapter leaves of W is pruned and quantized
/// again, with a step of its own; the adapter stays.
struct quantize_again {
  slim::slim_quantizer quantizer;

  template <class State>
  State operator()(State state, slim::calibration const& seen, slim::context const& ctx) const {
    state.current = state.original;
    state.low_rank.subtract_from(state.current.view(), ctx);
    state.kept.apply_to(state.current.view());
    auto const codes = quantizer.quantize(state.current.view(), seen, ctx);
    codes.dequantize_into(state.current.view(), ctx);
    state.codes = codes;
    return state;
  }
  std::string describe() const { return "quantize again what the adapter leaves"; }
};

/// The two lossy steps in their order, then the adapter if there is one.
template <class First, class Second>
slim::any_recipe in_order(First const& first, Second const& second, std::optional<slim::any_low_rank_solver> const& adapter) {
  if (adapter) return slim::chain(first, second, *adapter);
  return slim::chain(first, second);
}

slim::any_recipe chain_of(base_recipe const& base, modifiers const& m, slim::adapter_rank rank) {
  auto const quantizer = quantizer_of(base, m);
  auto const pruner = pruner_of(base, m);
  auto const adapter = adapter_of(base, rank);
  if (base.adapter == adapter_kind::reference)
    return slim::chain(*quantizer, *pruner, *adapter, quantize_again{reference_quantizer(m.block.value_or(slim::per_tensor))});
  if (quantizer && pruner)
    return m.prune_first ? in_order(*pruner, *quantizer, adapter) : in_order(*quantizer, *pruner, adapter);
  if (quantizer) return slim::chain(*quantizer);
  return slim::chain(*pruner);
}

recipe assemble_recipe(std::string const& name, base_recipe const& base, modifiers const& m) {
  recipe made;
  made.name = name;
  made.rank = m.rank.value_or(slim::adapter_rank{});
  if (base.adapter != adapter_kind::none)
    made.stored = slim::adapter_format{.bits = base.adapter == adapter_kind::slim_4bit ? 4 : 0};
  made.round_input = m.round_input;
  auto const quantizer = quantizer_of(base, m);
  auto const pruner = pruner_of(base, m);
  auto const adapter = adapter_of(base, made.rank);
  if (quantizer) made.steps.push_back(quantizer->describe());
  if (pruner) made.steps.insert(m.prune_first ? made.steps.begin() : made.steps.end(), pruner->describe());
  if (adapter) made.steps.push_back(adapter->describe());
  if (base.adapter == adapter_kind::reference)
    made.steps.push_back(quantize_again{reference_quantizer(m.block.value_or(slim::per_tensor))}.describe());
  if (!m.input_text.empty()) made.steps.push_back(m.input_text);
  if (quantizer || pruner) made.chain = [base, m](slim::adapter_rank rank) { return chain_of(base, m, rank); };
  return made;
}

std::vector<std::string> split(std::string const& text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find(separator, begin)) != std::string::npos; begin = end + 1)
    parts.push_back(text.substr(begin, end - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

} // namespace

std::vector<recipe_summary> base_recipes() {
  std::vector<recipe_summary> all;
  for (auto const& base : bases) all.push_back({base.name, base.text});
  auto const joint = joint_recipes();
  all.insert(all.end(), joint.begin(), joint.end());
  return all;
}

std::vector<recipe_summary> recipe_modifiers() {
  return {{"@50", "50% unstructured sparsity instead of 2:4"},
          {"@channel", "a weight scale per output channel instead of one per tensor"},
          {"@gN", "a weight scale per N input channels of a row, e.g. @g128"},
          {"@rR", "adapters of rank ratio R if it is below 1, else of rank R, e.g. @r0.075, @r32"},
          {"@no-target", "towards the weights, not towards the dense model's outputs"},
          {"@prune-first", "prune, then quantize what is left; without it the papers' order, quantize, then prune"},
          {"@fp8", "inputs of the linear layers rounded to FP8, one scale per tensor"},
          {"@int8", "inputs rounded to int8, one scale per tensor"}};
}

slim::result<slim::adapter_rank> parse_rank(std::string const& text) {
  double value = 0;
  auto const end = text.data() + text.size();
  auto const [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !(value >= 0.0) || value > 1e6 || (value >= 1.0 && value != std::floor(value)))
    return slim::failure{slim::message("rank '", text, "': a ratio below 1 or a whole number is needed")};
  if (value < 1.0) return slim::adapter_rank{.ratio = value};
  return slim::adapter_rank{.number = static_cast<slim::index_t>(value)};
}

slim::adapter_rank recipe::rank_of(std::string const& tensor, std::string const& role) const {
  if (auto const by_tensor = ranks.find(tensor); by_tensor != ranks.end()) return by_tensor->second;
  if (auto const by_role = ranks.find(role); by_role != ranks.end()) return by_role->second;
  return rank;
}

slim::result<recipe> find_recipe(std::string const& name) {
  auto const parts = split(name, '@');
  auto const base = std::find_if(std::begin(bases), std::end(bases), [&](base_recipe const& b) { return b.name == parts[0]; });
  auto const joint = joint_recipe_traits(parts[0]);
  if (base == std::end(bases) && !joint) {
    std::string known;
    for (auto const& b : base_recipes()) known += " " + b.name;
    return slim::failure{slim::message("recipe '", parts[0], "' is not known; there are", known)};
  }
  modifiers m;
  recipe_traits const can = joint ? *joint : traits_of(*base);
  for (std::size_t k = 1; k < parts.size(); ++k)
    if (auto const wrong = apply_modifier(m, parts[k], parts[0], can); !wrong.empty()) return slim::failure{wrong};
  return joint ? make_joint_recipe(name, parts[0], m) : assemble_recipe(name, *base, m);
}

slim::result<std::vector<recipe>> find_recipes(std::string const& comma_separated) {
  std::vector<recipe> all;
  for (auto const& name : split(comma_separated, ',')) {
    auto found = find_recipe(name);
    if (!found) return slim::failure{found.why()};
    all.push_back(std::move(*found));
  }
  return all;
}

} // namespace slim_llm
