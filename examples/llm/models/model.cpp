#include "models/model.hpp"

namespace slim_llm {

std::vector<linear_group> linear_groups(block& b) {
  std::vector<linear_group> groups = {{stage::attention_input, {&b.q, &b.k, &b.v}}, {stage::attention_mix, {&b.o}}};
  if (b.gate.empty())
    groups.push_back({stage::mlp_input, {&b.up}});
  else
    groups.push_back({stage::mlp_input, {&b.gate, &b.up}});
  groups.push_back({stage::mlp_mix, {&b.down}});
  return groups;
}

std::string role_of(block const& b, linear const& member) {
  if (&member == &b.q) return "q";
  if (&member == &b.k) return "k";
  if (&member == &b.v) return "v";
  if (&member == &b.o) return "o";
  if (&member == &b.gate) return "gate";
  if (&member == &b.up) return "up";
  if (&member == &b.down) return "down";
  throw slim::config_error("role_of: '" + member.name + "' is not a linear of this block");
}

index_t linear_weight_count(model const& m) {
  index_t count = 0;
  for (block const& b : m.blocks)
    for (linear const* l : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}) count += l->weight.size();
  return count;
}

} // namespace slim_llm
