#include "compress/stock_types.hpp"

#include "run/input_error.hpp"

#include "slim/io/gguf/encode_blocks.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

using slim::tensor_type;

struct stock_preset {
  char const* name;
  tensor_type type; ///< of the tensors for which nothing else is said
  bool mixed;
  std::uint32_t file_type;
};

constexpr stock_preset presets[] = {
    {"q4_0", tensor_type::q4_0, false, 2},      {"q4_1", tensor_type::q4_1, false, 3},
    {"q8_0", tensor_type::q8_0, false, 7},      {"q5_0", tensor_type::q5_0, false, 8},
    {"q5_1", tensor_type::q5_1, false, 9},      {"q2_k", tensor_type::q2_k, true, 10},
    {"q3_k", tensor_type::q3_k, false, 11},     {"q3_k_m", tensor_type::q3_k, true, 12},
    {"q4_k", tensor_type::q4_k, false, 14},     {"q4_k_m", tensor_type::q4_k, true, 15},
    {"q5_k", tensor_type::q5_k, false, 16},     {"q5_k_m", tensor_type::q5_k, true, 17},
    {"q6_k", tensor_type::q6_k, false, 18},     {"iq4_nl", tensor_type::iq4_nl, false, 25},
    {"iq4_xs", tensor_type::iq4_xs, false, 30},
};

stock_preset const& find_preset(std::string const& name) {
  return *std::find_if(std::begin(presets), std::end(presets), [&](stock_preset const& p) { return p.name == name; });
}

/// Where llama-quantize spends more: in the first and the last eighth of the blocks and in every third one between.
bool gets_more_bits(index_t layer, index_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

/// The type of a linear of block `layer` before rows are looked at.
tensor_type type_of(stock_preset const& preset, std::string const& role, index_t layer, model_config const& config) {
  if (!preset.mixed) return preset.type;
  std::string const name = preset.name;
  bool const more = gets_more_bits(layer, config.layers);
  if (role == "v") {
    if (name == "q2_k") return config.heads / config.kv_heads >= 4 ? tensor_type::q4_k : tensor_type::q3_k;
    if (name == "q3_k_m") return layer < 2 ? tensor_type::q5_k : tensor_type::q4_k;
    return more ? tensor_type::q6_k : preset.type;
  }
  if (role == "down") {
    if (name == "q2_k") return tensor_type::q3_k;
    if (name == "q3_k_m") return layer < config.layers / 16 ? tensor_type::q5_k : tensor_type::q4_k;
    return more ? tensor_type::q6_k : preset.type;
  }
  if (role == "o") {
    if (name == "q2_k") return tensor_type::q3_k;
    if (name == "q3_k_m") return tensor_type::q4_k;
  }
  if (role == "qkv") {
    if (name == "q3_k_m") return tensor_type::q4_k;
    if (name == "q4_k_m") return tensor_type::q5_k;
    if (name == "q5_k_m") return tensor_type::q6_k;
  }
  return preset.type;
}

/// Types before and behind the fallback, by tensor name.
std::map<std::string, std::pair<tensor_type, tensor_type>> types_of(std::string const& name, model const& m) {
  std::map<std::string, std::pair<tensor_type, tensor_type>> types;
  std::map<std::string, index_t> layer_of_role;
  for (linear_info const& l : linears_of(m)) {
    if (find_preset(name).mixed && l.role.starts_with("expert"))
      throw input_error("gguf:" + name + ": " + l.name +
                        " is an expert; which types llama-quantize mixes is known here for models "
                        "without experts");
    tensor_type const wanted = type_of(find_preset(name), l.role, layer_of_role[l.role]++, m.config);
    types[l.name] = {wanted, slim::fallback_for_rows(wanted, l.d_in)};
  }
  return types;
}

} // namespace

recipe with_stock_types(recipe how, model const& m) {
  if (how.preset.empty()) return how;
  for (auto const& [name, types] : types_of(how.preset, m)) {
    if (types.second == tensor_type::f16)
      throw input_error(name + ": its rows are no whole blocks of 32, so no type of " + how.name + " holds it");
    how.types[name] = types.second;
    if (types.first != types.second)
      how.fallbacks[name] =
          slim::message(slim::name_of(types.second), " in place of ", slim::name_of(types.first),
                        ", as llama-quantize does: rows are no whole blocks of ", slim::block_of(types.first).elements);
  }
  return how;
}

std::uint32_t file_type_of(std::string const& preset) { return find_preset(preset).file_type; }

} // namespace slim_llm
