#pragma once
/// @file
/// How other software keeps compressed linears in a Hugging Face folder: the tensors of a linear, and what config.json says
/// about them. Export and import share it, so that what is written is what is read.

#include "models/model.hpp"

#include "slim/io/tensor.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace slim_llm {

/// A linear as a file names and stores it.
struct stored_layer {
  std::string module; ///< name of its weight without ".weight"
  index_t d_out = 0, d_in = 0;
  int bits = 0;
  bool symmetric = true;
  index_t group = 0; ///< columns that share a scale
};

/// A tensor of a linear without its numbers.
struct layer_part {
  std::string suffix; ///< behind the module's name
  std::string type;   ///< as safetensors calls it
  std::vector<index_t> shape;

  [[nodiscard]] std::uint64_t bytes() const;
};

/// The tensor of a name, or null.
using tensor_finder = std::function<slim::tensor_info const*(std::string const&)>;

/// A format for linears of a folder.
class layer_format {
public:
  virtual ~layer_format() = default;

  /// As users write it behind --to.
  [[nodiscard]] virtual std::string name() const = 0;
  /// Columns that share a scale in the file, where the codes allow `even` of them or any divisor.
  [[nodiscard]] virtual index_t group_of(index_t even) const = 0;
  /// What cannot be held; empty: nothing is lost.
  [[nodiscard]] virtual std::string why_not(slim::integer_codes const& codes, index_t group) const = 0;
  /// The same codes with scales, and what goes with them, rounded to what can be held.
  [[nodiscard]] virtual slim::integer_codes nearest(slim::integer_codes const& codes, index_t group) const = 0;
  /// What all layers have to have in common; empty: they do. Called before `parts` and what follows.
  [[nodiscard]] virtual std::string settle(std::vector<stored_layer> const&) { return {}; }
  [[nodiscard]] virtual std::vector<layer_part> parts(stored_layer const& layer) const = 0;
  /// The bytes of one of its parts.
  [[nodiscard]] virtual std::vector<std::byte> bytes(std::string const& suffix, slim::integer_codes const& codes,
                                                     index_t group) const = 0;
  /// The codes of a layer of which bits are known; shapes are taken from the tensors. @throws slim::error, input_error
  [[nodiscard]] virtual slim::integer_codes read(tensor_finder const& find, std::string const& module, int bits) const = 0;
  /// Members of config.json. `left` are modules of linears that are not compressed.
  [[nodiscard]] virtual nlohmann::ordered_json config(std::vector<stored_layer> const& layers,
                                                      std::vector<std::string> const& left) const = 0;
  /// Files beside config.json that say the same.
  [[nodiscard]] virtual std::map<std::string, std::string> more_files(nlohmann::ordered_json const&) const { return {}; }
  /// Metadata "format" of the safetensors file.
  [[nodiscard]] virtual std::string framework() const { return "pt"; }
};

/// The widest groups of equal size that codes allow; rows with one scale in all are cut to groups of at most 128, which all
/// readers take.
[[nodiscard]] index_t even_group_of(slim::integer_codes const& codes);
/// Columns that share a scale in all layers of a folder, where each allows so many.
[[nodiscard]] index_t common_group(std::vector<index_t> const& even, layer_format const& format);

/// "ct", "gptq" (version 1 for symmetric codes, else 2), "gptq:v1", "gptq:v2", "mlx"; null: none of these.
[[nodiscard]] std::unique_ptr<layer_format> find_layer_format(std::string const& name);

} // namespace slim_llm
