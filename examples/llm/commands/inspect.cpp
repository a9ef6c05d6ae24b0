#include "commands.hpp"
#include "compress/recipe.hpp"
#include "run/json_output.hpp"
#include "run/output_files.hpp"
#include "run/table.hpp"
#include "run/workspace.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>

namespace slim_llm {

void inspect_command::run() const {
  file_plan files;
  files.reads_model(model);
  files.writes_text("--json", json);
  files.check();
  checkpoint const file(model);
  table rows({"tensor", "type", "shape", "bits/element", "bytes"});
  nlohmann::json tensors = nlohmann::json::array();
  auto stored = file.tensors();
  if (auto const* const container = file.container())
    stored.insert(stored.end(), container->factors().begin(), container->factors().end());
  for (auto const& tensor : stored) {
    std::string shape;
    for (auto const extent : tensor.shape) shape += (shape.empty() ? "" : " x ") + std::to_string(extent);
    rows.add({tensor.name, tensor.stored_type, shape, fixed(tensor.bits_per_element(), 3),
              readable_bytes(static_cast<double>(tensor.bytes.size()))});
    tensors.push_back({{"name", tensor.name},
                       {"type", tensor.stored_type},
                       {"shape", tensor.shape},
                       {"bits_per_element", tensor.bits_per_element()},
                       {"bytes", tensor.bytes.size()}});
  }
  std::printf("%s%zu tensors, %s\n", rows.text().c_str(), stored.size(), readable_bytes(file.tensor_bytes()).c_str());
  if (!json.empty()) write_json(json, {{"model", model.string()}, {"tensors", tensors}});
}

void tokenize_command::run() const {
  file_plan files;
  files.reads_model(model);
  files.reads_file("--text", text);
  files.writes_text("--json", json);
  files.check();
  checkpoint const file(model);
  auto const ids = file.load_tokenizer().encode(read_text(text));
  if (json.empty())
    for (auto const id : ids) std::printf("%d\n", id);
  else
    write_json(json, {{"tokens", ids}});
}

void recipes_command::run() const {
  file_plan files;
  files.writes_text("--json", json);
  files.check();
  nlohmann::json list = nlohmann::json::array();
  for (auto const& base : base_recipes()) {
    auto const steps = required(find_recipe(base.name)).steps;
    std::printf("%-17s %s\n", base.name.c_str(), base.text.c_str());
    for (std::size_t k = 0; k < steps.size(); ++k) std::printf("%17s %zu. %s\n", "", k + 1, steps[k].c_str());
    list.push_back({{"name", base.name}, {"text", base.text}, {"steps", steps}});
  }
  table endings({"modifier", "what it changes"});
  nlohmann::json modifiers = nlohmann::json::array();
  for (auto const& modifier : recipe_modifiers()) {
    endings.add({modifier.name, modifier.text});
    modifiers.push_back({{"name", modifier.name}, {"text", modifier.text}});
  }
  std::printf("\nModifiers go behind a name and can be combined, as in slim-q@50@g128:\n%s", endings.text().c_str());
  if (!json.empty()) write_json(json, {{"recipes", list}, {"modifiers", modifiers}});
}

} // namespace slim_llm
