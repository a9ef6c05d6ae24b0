#pragma once
/// @file
/// Folders that other software quantized, and adapters beside them, as `.slim` files.

#include "formats/slim_writer.hpp"

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

/// What was imported.
struct imported_model {
  linear_bytes linears;
  index_t weights = 0;      ///< of them
  std::size_t adapters = 0; ///< linears that have one
  double bytes = 0;         ///< of the file
  std::vector<std::string> notes;
};

/// A folder in the format of compressed-tensors (pack-quantized), GPTQ or MLX (affine).
class quantized_folder {
public:
  /// @throws input_error naming file and reason, if it is in none of these formats
  explicit quantized_folder(std::filesystem::path const& path);
  ~quantized_folder();

  /// "compressed-tensors, 4 bits", for people.
  [[nodiscard]] std::string describe() const;
  /// @throws input_error naming the module
  [[nodiscard]] slim::integer_codes codes(std::string const& module) const;
  /// Writes the same codes, with adapters, as a `.slim` file. `adapters`: a folder of PEFT or mlx-lm, or a LoRA GGUF; empty:
  /// none. @throws input_error naming file, tensor and reason
  imported_model write_slim(std::filesystem::path const& out, std::filesystem::path const& adapters) const;

private:
  /// The module of codes that a tensor is a part of; empty if it is of none.
  [[nodiscard]] std::string module_of(std::string const& tensor) const;
  /// The model as a `.slim` file takes it over, its linears without bytes.
  [[nodiscard]] slim_source source() const;

  std::filesystem::path path_;
  slim::safetensors_folder file_;
  nlohmann::ordered_json config_;
  std::unique_ptr<layer_format> format_;
  std::map<std::string, int> bits_; ///< of a module's codes
};

/// Adapters by the name of the weight in the folder that `m` was loaded from, which has `tensors`: a folder of PEFT or mlx-lm,
/// or a LoRA GGUF. Scalings other than 1 go into the right factor, which then is F32. @throws input_error naming file, tensor
/// and reason
[[nodiscard]] std::map<std::string, slim::adapter> read_adapters(std::filesystem::path const& path,
                                                                 std::span<slim::tensor_info const> tensors, model const& m);

} // namespace slim_llm
