#include "recipe.hpp"

#include "slim/slim.hpp"

#include <algorithm>
#include <charconv>

namespace slim_llm {
namespace {

enum class quantizer_kind { none, absmax, slim_quant, slim_quant_o };
enum class saliency_kind { none, magnitude, wanda };
enum class adapter_kind { none, naive, l2qer, slim, slim_4bit };

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
    {"slim-o", quantizer_kind::slim_quant_o, saliency_kind::wanda, adapter_kind::slim,
     "slim with activation-aware SLiM-Quant^O"},
};

struct modifiers {
  bool unstructured = false;
  bool prune_first = false;
  slim::scale_block block = slim::per_tensor;
  std::function<void(slim::matrix_view<float>)> round_input;
  std::string input_text;
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

/// An empty string, or what is wrong.
std::string apply_modifier(modifiers& m, std::string const& modifier, base_recipe const& base) {
  bool const quantizes = base.quantizer != quantizer_kind::none;
  if (modifier == "50") {
    if (base.pruned_by == saliency_kind::none)
      return slim::message("recipe ", base.name, " prunes nothing, so @50 has no meaning");
    m.unstructured = true;
  } else if (modifier == "channel" || group_size(modifier) > 0) {
    if (!quantizes) return slim::message("recipe ", base.name, " quantizes nothing, so @", modifier, " has no meaning");
    m.block = modifier == "channel" ? slim::per_channel : slim::per_group(group_size(modifier));
  } else if (modifier == "prune-first") {
    if (!quantizes || base.pruned_by == saliency_kind::none)
      return slim::message("recipe ", base.name, " does not both quantize and prune, so @prune-first has no meaning");
    m.prune_first = true;
  } else if (modifier == "fp8") {
    set_input(m, slim::fp8_input());
  } else if (modifier == "int8") {
    set_input(m, slim::int8_input());
  } else {
    return slim::message("modifier @", modifier, " is not known; there are @50 @channel @gN @prune-first @fp8 @int8");
  }
  return {};
}

std::optional<slim::any_quantizer> quantizer_of(base_recipe const& base, modifiers const& m) {
  constexpr auto scales = slim::number_format::fp16;
  switch (base.quantizer) {
  case quantizer_kind::none: return std::nullopt;
  case quantizer_kind::absmax: return slim::absmax_quantizer({.bits = 4, .block = m.block, .scale_format = scales});
  case quantizer_kind::slim_quant: return slim::slim_quantizer({.bits = 4, .block = m.block, .scale_format = scales});
  case quantizer_kind::slim_quant_o: break;
  }
  return slim::slim_quantizer({.bits = 4, .block = m.block, .outlier_share = 0.01, .scale_format = scales});
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

std::optional<slim::any_low_rank_solver> adapter_of(base_recipe const& base) {
  slim::lora_config const stored_16_bit{.rank = {.ratio = 0.1}, .format = slim::number_format::bf16};
  switch (base.adapter) {
  case adapter_kind::none: return std::nullopt;
  case adapter_kind::naive: return slim::naive_lora(stored_16_bit);
  case adapter_kind::l2qer: return slim::l2qer_lora(stored_16_bit);
  case adapter_kind::slim: return slim::slim_lora(stored_16_bit);
  case adapter_kind::slim_4bit: break;
  }
  slim::absmax_quantizer const rounding(
      {.bits = 4, .block = slim::per_column_group(128), .scale_format = slim::number_format::fp16});
  return slim::quantized_adapter(slim::slim_lora({.rank = {.ratio = 0.1}}), rounding);
}

/// The two lossy steps in their order, then the adapter if there is one.
template <class First, class Second>
slim::any_recipe in_order(First const& first, Second const& second, std::optional<slim::any_low_rank_solver> const& adapter) {
  if (adapter) return slim::chain(first, second, *adapter);
  return slim::chain(first, second);
}

recipe assemble_recipe(std::string const& name, base_recipe const& base, modifiers const& m) {
  recipe made{.name = name, .chain = {}, .steps = {}, .round_input = m.round_input};
  auto const quantizer = quantizer_of(base, m);
  auto const pruner = pruner_of(base, m);
  auto const adapter = adapter_of(base);
  if (quantizer) made.steps.push_back(quantizer->describe());
  if (pruner) made.steps.insert(m.prune_first ? made.steps.begin() : made.steps.end(), pruner->describe());
  if (adapter) made.steps.push_back(adapter->describe());
  if (!m.input_text.empty()) made.steps.push_back(m.input_text);
  if (quantizer && pruner)
    made.chain = m.prune_first ? in_order(*pruner, *quantizer, adapter) : in_order(*quantizer, *pruner, adapter);
  else if (quantizer)
    made.chain = slim::any_recipe(slim::chain(*quantizer));
  else if (pruner)
    made.chain = slim::any_recipe(slim::chain(*pruner));
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
  return all;
}

std::vector<recipe_summary> recipe_modifiers() {
  return {{"@50", "50% unstructured sparsity instead of 2:4"},
          {"@channel", "a weight scale per output channel instead of one per tensor"},
          {"@gN", "a weight scale per N input channels of a row, e.g. @g128"},
          {"@prune-first", "prune, then quantize what is left; without it the papers' order, quantize, then prune"},
          {"@fp8", "inputs of the linear layers rounded to FP8, one scale per tensor"},
          {"@int8", "inputs rounded to int8, one scale per tensor"}};
}

slim::result<recipe> find_recipe(std::string const& name) {
  auto const parts = split(name, '@');
  auto const base = std::find_if(std::begin(bases), std::end(bases), [&](base_recipe const& b) { return b.name == parts[0]; });
  if (base == std::end(bases)) {
    std::string known;
    for (auto const& b : bases) known += std::string(" ") + b.name;
    return slim::failure{slim::message("recipe '", parts[0], "' is not known; there are", known)};
  }
  modifiers m;
  for (std::size_t k = 1; k < parts.size(); ++k)
    if (auto const wrong = apply_modifier(m, parts[k], *base); !wrong.empty()) return slim::failure{wrong};
  return assemble_recipe(name, *base, m);
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
