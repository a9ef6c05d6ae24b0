#pragma once
/// @file
/// Folders that other software quantized, and adapters beside them, as a dense folder and packed linears.

#include "run/workspace.hpp"

#include "slim/adapters/adapter.hpp"
#include "slim/io/safetensors/reader.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace slim_llm {

class layer_format;

/// A folder in the format of compressed-tensors (pack-quantized), GPTQ or MLX (affine).
class quantized_folder {
public:
  /// @throws input_error naming file and reason, if it is in none of these formats
  explicit quantized_folder(std::filesystem::path const& path);
  ~quantized_folder();

  /// "compressed-tensors, 4 bits", for people.
  [[nodiscard]] std::string describe() const;
  /// Modules whose weights are codes.
  [[nodiscard]] bool has_codes(std::string const& module) const { return bits_.contains(module); }
  /// @throws input_error naming the module
  [[nodiscard]] slim::integer_codes codes(std::string const& module) const;
  /// The model with weights as numbers, F16 where that holds them, else F32. @throws input_error
  void write_dense(std::filesystem::path const& out) const;

private:
  [[nodiscard]] bool is_part(std::string const& tensor) const;

  std::filesystem::path path_;
  slim::safetensors_folder file_;
  nlohmann::ordered_json config_;
  std::unique_ptr<layer_format> format_;
  std::map<std::string, int> bits_; ///< of a module's codes
};

/// Adapters by the name of the weight in the folder `m` was loaded from: a folder of PEFT or mlx-lm, or a LoRA GGUF. Scalings
/// other than 1 go into the right factor, which then is F32. @throws input_error naming file, tensor and reason
[[nodiscard]] std::map<std::string, slim::adapter> read_adapters(std::filesystem::path const& path, checkpoint const& file,
                                                                 model const& m);

} // namespace slim_llm
