#include "formats/folder_files.hpp"

#include <cstring>

namespace slim_llm {
namespace {

/// Not a number of F16: 65536 and beyond, infinity, NaN.
bool outside_of_f16(std::span<std::byte const> bf16) {
  constexpr std::uint16_t first_beyond = 0x4780, magnitude = 0x7fff;
  for (std::size_t k = 0; k + 1 < bf16.size(); k += 2) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, &bf16[k], sizeof bits);
    if ((bits & magnitude) >= first_beyond) return true;
  }
  return false;
}

} // namespace

char const* loaded_dtype(std::vector<slim::outgoing_tensor> const& tensors) {
  for (auto const& tensor : tensors) {
    if (tensor.type == slim::tensor_type::f32 || tensor.type == slim::tensor_type::f64) return "float32";
    auto const* const bytes = std::get_if<std::span<std::byte const>>(&tensor.source);
    if (tensor.type == slim::tensor_type::bf16 && bytes && outside_of_f16(*bytes)) return "float32";
  }
  return "float16";
}

std::string with_members(std::string config, nlohmann::ordered_json const& members) {
  std::size_t const brace = config.find('{');
  if (brace == std::string::npos || members.empty()) return config;
  bool const empty = config.find_first_not_of(" \t\r\n", brace + 1) == config.find('}', brace);
  std::string text = members.dump(2); // "{\n ... \n}"
  text = text.substr(1, text.size() - 3);
  return config.insert(brace + 1, text + (empty ? "\n" : ","));
}

} // namespace slim_llm
