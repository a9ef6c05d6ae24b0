#include "models/families/families.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

constexpr model_family const* all[] = {&llama_family, &olmo2_family, &gemma_family, &phi3_family, &mixture_family, &opt_family};

} // namespace

std::span<model_family const* const> families() { return all; }

model_family const* find_family(family_format model_family::*format, std::string const& name) {
  for (model_family const* family : all) {
    auto const& names = (family->*format).names;
    if (std::find(names.begin(), names.end(), name) != names.end()) return family;
  }
  return nullptr;
}

std::string known_types(family_format model_family::*format) {
  std::vector<std::string> names;
  for (model_family const* family : all)
    names.insert(names.end(), (family->*format).names.begin(), (family->*format).names.end());
  std::string text;
  for (std::size_t k = 0; k < names.size(); ++k) text += (k == 0 ? "" : k + 1 == names.size() ? " and " : ", ") + names[k];
  return text;
}

found_layout find_layout(family_format const& format, model_config const& config,
                         std::function<bool(std::string const&)> const& has) {
  found_layout found{{}, format.roots.front()};
  for (std::string const& root : format.roots)
    if (has(format.tensors(config, root).embedding)) {
      found.root = root;
      break;
    }
  if (format.stacked_tensors) {
    found.tensors = format.stacked_tensors(config, found.root);
    std::string const last = found.tensors.block_prefix + "0." + found.tensors.linears.back().name;
    found.stacked = has(last) || has(slice_name(last, 0));
  }
  if (!found.stacked) found.tensors = format.tensors(config, found.root);
  return found;
}

std::vector<std::string> linear_roles(model_config const& config) {
  std::vector<std::string> roles;
  for (stage const& s : config.family->stages(config)) roles.insert(roles.end(), s.linears.begin(), s.linears.end());
  return roles;
}

} // namespace slim_llm
