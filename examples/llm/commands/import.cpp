#include "commands.hpp"
#include "formats/import_folder.hpp"
#include "formats/load.hpp"
#include "formats/packed_weights.hpp"
#include "run/json_output.hpp"
#include "run/output_files.hpp"
#include "run/table.hpp"

#include "slim/packing/dense_codes.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <iostream>

namespace slim_llm {
namespace {

/// Codes and adapter of a linear in the formats of packed files. @throws input_error if they have no place there
packed_layer packed_of(std::string const& name, slim::integer_codes const& codes, slim::adapter const* adapter) {
  packed_layer layer;
  try {
    layer.weight = slim::dense_codes::pack(codes);
    if (!adapter) return layer;
    layer.format = adapter->format;
    if (adapter->left_codes) {
      layer.left = slim::dense_codes::pack(*adapter->left_codes);
      layer.right = slim::dense_codes::pack(*adapter->right_codes);
    } else {
      layer.left_values = adapter->left;
      layer.right_values = adapter->right;
    }
  } catch (slim::error const& wrong) {
    throw input_error(name + ": has no place in a packed file: " + wrong.what());
  }
  return layer;
}

} // namespace

void import_command::run() const {
  file_plan files;
  files.reads_model(folder);
  if (!adapter.empty()) files.reads_model(adapter);
  files.writes_folder("--out", out, {"model.safetensors", "config.json"});
  files.writes_file("--packed", packed);
  files.writes_text("--json", json);
  files.check();
  quantized_folder const source(folder);
  std::printf("%s: %s\n", folder.c_str(), source.describe().c_str());
  source.write_dense(out);
  checkpoint const file(out);
  model const dense = required(load_model(out));
  for (std::string const& note : dense.notes) std::cerr << "note: " << note << "\n";
  std::map<std::string, slim::adapter> const adapters =
      adapter.empty() ? std::map<std::string, slim::adapter>() : read_adapters(adapter, file, dense);
  packed_writer writer(packed, "imported from " + source.describe(), file.fingerprint());
  for (linear_info const& l : linears_of(dense)) {
    std::string const module = l.name.substr(0, l.name.rfind(".weight"));
    if (!source.has_codes(module))
      throw input_error(folder.string() + ": " + module + " is not quantized, and packed files hold codes");
    auto const found = adapters.find(l.name);
    packed_weights one;
    one.emplace(l.name, packed_of(l.name, source.codes(module), found == adapters.end() ? nullptr : &found->second));
    writer.add(one);
  }
  double const bytes = writer.bytes();
  writer.finish();
  auto const weights = static_cast<double>(linear_weight_count(dense));
  std::printf("%s holds the model with weights as numbers, %s its %td linears packed: %s, %s bits per weight.\n", out.c_str(),
              packed.c_str(), std::ssize(linears_of(dense)), readable_bytes(bytes).c_str(),
              fixed(8 * bytes / weights, 3).c_str());
  if (!json.empty())
    write_json(json, {{"source", source.describe()},
                      {"out", out.string()},
                      {"packed", packed.string()},
                      {"packed_linear_bytes", bytes},
                      {"adapters", adapters.size()}});
}

} // namespace slim_llm
