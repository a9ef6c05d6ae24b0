#include "formats/export_plan.hpp"

#include "formats/export_adapter.hpp"
#include "formats/export_gguf.hpp"
#include "formats/layer_format.hpp"
#include "run/input_error.hpp"

#include "slim/interop/even_groups.hpp"

#include <cmath>

namespace slim_llm {
namespace {

bool is_gguf(std::string const& to) { return to == "gguf" || to.starts_with("gguf:"); }

/// The largest number of a format below a power of two near 0.01: it has all significant bits.
float widest_number(slim::number_format format) {
  constexpr float power = 0x1p-7f;
  for (int digits = 24; digits > 0; --digits)
    if (float const x = power - std::ldexp(power, -digits); slim::rounded_to(format, x) == x) return x;
  return power;
}

/// Levels at both ends of the range, and scales with all significant bits of their format, unless the recipe gives them fewer.
void fill_with_hardest(slim::integer_codes& codes) {
  float const scale = widest_number(codes.scales.format());
  for (index_t k = 0; k < codes.scales.size(); ++k)
    if (codes.scales.data()[k] == 0.0f) codes.scales.data()[k] = scale;
  for (index_t k = 0; k < codes.codes.size(); ++k)
    codes.codes.data()[k] = static_cast<std::int8_t>(k % 2 == 0 ? codes.lowest() : codes.highest());
  for (index_t k = 0; k < codes.zeros.size(); ++k)
    codes.zeros.data()[k] = static_cast<std::int8_t>(codes.signed_scales ? -(k % 2)
                                                     : k % 2 == 0        ? codes.lowest()
                                                                         : codes.highest());
  codes = slim::with_negative_scales(std::move(codes)); // as export_source reads them
}

void plan_folder(layer_format& format, std::vector<slim::integer_codes> const& codes, std::vector<planned_export>& planned) {
  std::vector<index_t> even;
  std::vector<stored_layer> stored;
  for (auto const& c : codes) even.push_back(even_group_of(c));
  index_t const group = common_group(even, format);
  for (std::size_t k = 0; k < codes.size(); ++k) {
    planned[k].why_not = format.why_not(codes[k], group);
    stored.push_back({"a linear", codes[k].rows(), codes[k].cols(), codes[k].bits, codes[k].symmetric(), group});
  }
  if (std::string const why = format.settle(stored); !why.empty()) planned.front().why_not = why;
  for (std::size_t k = 0; k < codes.size(); ++k)
    for (layer_part const& part : format.parts(stored[k])) planned[k].linear_bytes += static_cast<double>(part.bytes());
}

} // namespace

bool is_export_format(std::string const& to) {
  if (is_gguf(to)) return to != "gguf:" && is_gguf_type(to == "gguf" ? "" : to.substr(std::string_view("gguf:").size()));
  return find_layer_format(to) != nullptr;
}

std::vector<planned_export> plan_export(std::string const& to, std::vector<slim::any_layer> layers) {
  std::vector<planned_export> planned(layers.size());
  std::vector<slim::integer_codes> codes;
  for (slim::any_layer& layer : layers) {
    codes.push_back(*layer.weight.codes.get_if<slim::integer_codes>());
    fill_with_hardest(codes.back());
    if (!layer.adapter) continue;
    for (auto* const factor : {&layer.adapter->left_codes, &layer.adapter->right_codes})
      if (*factor) fill_with_hardest(**factor);
    if (layer.adapter->left_codes) layer.adapter->left = values_of(*layer.adapter->left_codes);
    if (layer.adapter->right_codes) layer.adapter->right = values_of(*layer.adapter->right_codes);
  }
  if (is_gguf(to)) {
    std::string const type = to == "gguf" ? "" : to.substr(std::string_view("gguf:").size());
    for (std::size_t k = 0; k < codes.size(); ++k) planned[k].linear_bytes = gguf_bytes_of(codes[k], type, planned[k].why_not);
  } else {
    auto const format = find_layer_format(to);
    if (!format) throw input_error("--for " + to + ": is no format of export");
    plan_folder(*format, codes, planned);
  }
  bool const as_gguf = is_gguf(to);
  std::vector<slim::adapter> adapters;
  for (slim::any_layer& layer : layers) adapters.push_back(layer.adapter ? std::move(*layer.adapter) : slim::adapter());
  auto const bytes = as_gguf ? lora_gguf_bytes_of(adapters) : factor_bytes_of(adapters, to == "mlx");
  for (std::size_t k = 0; k < planned.size(); ++k) planned[k].adapter_bytes = bytes[k];
  return planned;
}

std::optional<slim::tensor_type> embedding_type(std::string const& option, std::string const& text) {
  if (text.empty()) return std::nullopt;
  for (auto const& [name, type] :
       {std::pair{"f16", slim::tensor_type::f16}, {"bf16", slim::tensor_type::bf16}, {"f32", slim::tensor_type::f32}})
    if (text == name) return type;
  throw input_error(option + " " + text + ": possible are f16, bf16 and f32");
}

double side_bytes_in(std::string const& to, index_t rows, index_t cols, slim::tensor_type stored,
                     std::optional<slim::tensor_type> wanted) {
  using slim::tensor_type;
  auto const bytes_as = [&](tensor_type type) {
    auto const block = slim::block_of(type);
    return static_cast<double>(rows * cols / block.elements * block.bytes);
  };
  if (is_gguf(to)) return bytes_as(stored);
  if (wanted) return bytes_as(*wanted);
  if (to == "mlx" && stored == tensor_type::q8_0)
    return static_cast<double>(rows * cols) * (1 + 4.0 / 32); // groups of 32, F16 scale and bias
  bool const plain = stored == tensor_type::f16 || stored == tensor_type::bf16;
  return bytes_as(plain ? stored : tensor_type::f32);
}

index_t rank_step_of(std::string const& to) {
  if (is_gguf(to)) return 32;
  return to == "mlx" ? 0 : 1;
}

} // namespace slim_llm
