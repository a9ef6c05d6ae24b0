#include "commands.hpp"
#include "formats/load.hpp"
#include "formats/packed_weights.hpp"
#include "formats/slim_container.hpp"
#include "run/json_output.hpp"
#include "run/output_files.hpp"
#include "run/progress_line.hpp"
#include "run/table.hpp"
#include "run/workspace.hpp"

#include "slim/packing/unpack.hpp"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>

namespace slim_llm {
namespace {

/// Counts of what the linears of a .slim file are.
struct decoded_linears {
  index_t layers = 0, two_of_four = 0, adapters = 0;
  double weights = 0, bits = 0;
};

/// Whether at most two of every four weights of a row are not 0.
bool is_two_of_four(matrix<float> const& w) {
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); j += 4) {
      int others = 0;
      for (index_t k = j; k < std::min(j + 4, w.cols()); ++k) others += w(i, k) != 0.0f ? 1 : 0;
      if (others > 2) return false;
    }
  return true;
}

/// Decodes every linear. (Readers of packed bytes take nothing that their writers would not write.) @throws input_error naming
/// the linear.
decoded_linears decode_all(slim_container const& file) {
  decoded_linears all;
  progress_line line("decoding", "linear");
  auto const& names = file.linears()->names();
  for (std::string const& name : names) {
    auto const fail = [&](std::string const& why) {
      throw input_error(file.path().string() + ": tensor '" + name + "': " + why);
    };
    packed_layer const layer = file.linears()->layer(name);
    auto const codes = slim::unpack(layer.weight);
    if (!codes) fail(codes.why());
    linear l;
    l.name = name;
    l.weight = matrix<float>(codes->rows(), codes->cols());
    use_packed(l, layer, std::nullopt);
    for (index_t k = 0; k < l.weight.size(); ++k)
      if (!std::isfinite(l.weight.data()[k])) fail("decodes to a number that is not finite");
    bool const promises = codes->mask.pattern() == slim::sparsity_pattern{2, 4};
    if (promises && !is_two_of_four(codes->values())) fail("says that it is 2:4 sparse and is not");
    all.two_of_four += promises ? 1 : 0;
    all.adapters += layer.left.empty() && layer.left_values.empty() ? 0 : 1;
    all.weights += static_cast<double>(l.weight.size());
    all.bits += 8 * layer.bytes();
    line.show(++all.layers, static_cast<index_t>(names.size()));
  }
  return all;
}

} // namespace

void validate_command::run() const {
  file_plan files;
  files.reads_model(path);
  files.writes_text("--json", json);
  files.check();
  checkpoint const file(path); // structure of the file
  nlohmann::json result = {{"path", path.string()}};
  if (auto const* const container = file.container()) {
    if (std::string const damage = container->find_damage(); !damage.empty()) throw input_error(path.string() + ": " + damage);
    auto const linears = decode_all(*container);
    std::printf("%td linears decode, %td of them 2:4 sparse, %td with adapters, %.3f bits per weight\n", linears.layers,
                linears.two_of_four, linears.adapters, linears.weights > 0 ? linears.bits / linears.weights : 0.0);
    result.update({{"linears", linears.layers}, {"two_of_four", linears.two_of_four}, {"adapters", linears.adapters}});
  }
  (void)file.load_tokenizer();
  auto const m = required(load_model(path)); // configuration, shapes, all numbers finite
  std::printf("%s is sound: %zu tensors, %s, %td blocks of type %s, tokenizer and configuration%s\n", path.c_str(),
              file.tensors().size(), readable_bytes(file.tensor_bytes()).c_str(), m.config.layers, m.config.name.c_str(),
              file.container() ? "; all bytes are as they were written" : "");
  result.update({{"tensors", file.tensors().size()}, {"bytes", file.tensor_bytes()}, {"blocks", m.config.layers}});
  if (!json.empty()) write_json(json, result);
}

} // namespace slim_llm
