#include "models/model.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

template <class Parts>
auto* find_role(Parts& parts, std::string_view role) {
  auto const found = std::find_if(parts.begin(), parts.end(), [&](auto const& part) { return part.role == role; });
  return found == parts.end() ? nullptr : &*found;
}

template <class Linears>
auto& require_role(Linears& linears, std::string_view role) {
  auto* const found = find_role(linears, role);
  if (!found) throw slim::config_error(slim::message("the block has no linear '", role, "'"));
  return *found;
}

} // namespace

linear& block::operator[](std::string_view role) { return require_role(linears, role); }
linear const& block::operator[](std::string_view role) const { return require_role(linears, role); }
norm* block::find_norm(std::string_view role) { return find_role(norms, role); }
norm const* block::find_norm(std::string_view role) const { return find_role(norms, role); }

index_t linear_weight_count(model const& m) {
  index_t count = 0;
  for (block const& b : m.blocks)
    for (linear const& l : b.linears) count += l.weight.size();
  return count;
}

} // namespace slim_llm
