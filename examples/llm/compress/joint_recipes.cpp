#include "compress/recipe_parts.hpp"

#include "slim/slim.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

enum class method { rtn, gptq, feedback, eora, alternating, joint };

struct joint_recipe {
  char const* name;
  method how;
  bool sparse;
  int bits;
  slim::scale_block block;
  bool symmetric;
  double rank_ratio;
  int adapter_bits; ///< 0: bf16
  char const* text;
};

constexpr auto g128 = slim::per_group(128);

constexpr joint_recipe all[] = {
    {"sparsegpt-gptq", method::feedback, true, 4, slim::per_tensor, true, 0.0, 0,
     "2:4 and 4-bit codes by error feedback, chosen together (SparseGPT + GPTQ)"},
    {"eora", method::eora, true, 4, slim::per_tensor, true, 0.1, 0,
     "sparsegpt-gptq + low-rank adapter exact for the output (EoRA)"},
    {"alternating", method::alternating, true, 4, slim::per_tensor, true, 0.1, 0,
     "error feedback and exact adapter in turn (CALDERA's loop over 2:4 + 4 bit)"},
    {"joint", method::joint, true, 4, slim::per_tensor, true, 0.1, 0,
     "2:4, 4-bit codes and adapter solved together, towards the dense model's outputs"},
    {"joint-q", method::joint, true, 4, slim::per_tensor, true, 0.1, 4, "joint with 4-bit adapters in groups of 128"},
    {"joint-int8", method::joint, true, 4, slim::per_tensor, true, 0.05, 8, "joint with 8-bit adapters of half the rank"},
    {"rtn-int4", method::rtn, false, 4, g128, true, 0.0, 0, "dense 4-bit groups of 128, rounded to nearest"},
    {"gptq-int4", method::gptq, false, 4, g128, true, 0.0, 0, "dense 4-bit groups of 128 by GPTQ with act-order"},
    {"gptq-int3", method::gptq, false, 3, g128, false, 0.0, 0,
     "dense 3-bit groups of 128 with zero points by GPTQ with act-order"},
    {"int2-lr", method::joint, false, 2, slim::per_group(64), false, 0.15, 4,
     "dense 2-bit groups of 64 with zero points and 4-bit adapters, solved together"},
    {"int3-lr", method::joint, false, 3, g128, false, 0.075, 4,
     "dense 3-bit groups of 128 with zero points and 4-bit adapters, solved together"},
    {"int4-lr", method::joint, false, 4, g128, false, 0.03, 4,
     "dense 4-bit groups of 128 with zero points and 4-bit adapters, solved together"},
};

joint_recipe const* find(std::string const& name) {
  auto const found = std::find_if(std::begin(all), std::end(all), [&](joint_recipe const& r) { return r.name == name; });
  return found == std::end(all) ? nullptr : found;
}

/// `f(pattern)` with the pattern that a recipe asks for.
template <class F>
slim::any_recipe with_pattern(joint_recipe const& r, modifiers const& m, F const& f) {
  if (!r.sparse) return f(slim::dense_pattern{});
  if (m.unstructured) return f(slim::unstructured_pattern{});
  return f(slim::nm_pattern<2, 4>{});
}

slim::grid_config grid_of(joint_recipe const& r, modifiers const& m) {
  bool const plain = r.how == method::gptq;
  return {.bits = r.bits,
          .block = m.block.value_or(r.block),
          .symmetric = r.symmetric,
          .steps = plain && r.symmetric ? slim::step_rule::absmax : slim::step_rule::least_error};
}

slim::joint_config joint_config_of(joint_recipe const& r, slim::adapter_rank rank) {
  slim::adapter_format const stored{.bits = r.adapter_bits};
  if (r.how == method::alternating) return slim::alternating_config(rank, stored);
  return {.rank = rank, .stored = stored};
}

bool aims_at_dense(joint_recipe const& r, modifiers const& m) { return r.how == method::joint && m.targets; }

slim::any_recipe chain_of(joint_recipe const& r, modifiers const& m, slim::adapter_rank rank) {
  if (r.how == method::rtn)
    return slim::chain(slim::absmax_quantizer({.bits = r.bits,
                                               .block = m.block.value_or(r.block),
                                               .symmetric = r.symmetric,
                                               .scale_format = slim::number_format::fp16}));
  return with_pattern(r, m, [&](auto pattern) -> slim::any_recipe {
    slim::quantized_set const set(grid_of(r, m), pattern);
    switch (r.how) {
    case method::gptq: return slim::chain(slim::obs_compressor(set, {.act_order = true}));
    case method::feedback: return slim::chain(slim::obs_compressor(set));
    case method::eora:
      return slim::chain(slim::obs_compressor(set), slim::exact_lora({.rank = rank, .format = slim::number_format::bf16}));
    default: break;
    }
    slim::joint_slr const solver(set, joint_config_of(r, rank));
    if (aims_at_dense(r, m)) return slim::chain(slim::toward_target{}, solver);
    return slim::chain(solver);
  });
}

} // namespace

std::vector<recipe_summary> joint_recipes() {
  std::vector<recipe_summary> summaries;
  for (auto const& r : all) summaries.push_back({r.name, r.text});
  return summaries;
}

std::optional<recipe_traits> joint_recipe_traits(std::string const& base) {
  joint_recipe const* const r = find(base);
  if (!r) return std::nullopt;
  return recipe_traits{.quantizes = true,
                       .prunes = r->sparse,
                       .has_order = false,
                       .has_adapter = r->rank_ratio > 0.0,
                       .has_targets = r->how == method::joint};
}

recipe make_joint_recipe(std::string const& name, std::string const& base, modifiers const& m) {
  joint_recipe const& r = *find(base);
  recipe made;
  made.name = name;
  made.rank = m.rank.value_or(slim::adapter_rank{.ratio = r.rank_ratio});
  if (r.rank_ratio > 0.0) made.stored = slim::adapter_format{.bits = r.adapter_bits};
  made.towards_dense = aims_at_dense(r, m);
  made.round_input = m.round_input;
  made.chain = [r, m](slim::adapter_rank rank) { return chain_of(r, m, rank); };
  made.steps = made.chain(made.rank).steps();
  if (!m.input_text.empty()) made.steps.push_back(m.input_text);
  return made;
}

} // namespace slim_llm
