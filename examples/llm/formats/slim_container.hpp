#pragma once
/// @file
/// `.slim`: a compressed model in one safetensors file (docs/formats/slim.md). It holds the packed linears with their adapters
/// as formats/packed_weights.hpp has them, all other tensors of the source as they are stored there (or at 8 bits: embedding
/// and head), the source's small files or GGUF metadata, and in `__metadata__` the list of tensors, recipe, source and hashes.
/// It needs nothing else to run.

#include "run/model_files.hpp"

#include "slim/io/gguf/reader.hpp"
#include "slim/io/safetensors/reader.hpp"

#include <nlohmann/json.hpp>

namespace slim_llm {

class packed_file;

/// Names in a `.slim` file.
struct slim_format {
  static constexpr std::string_view version = "1";             ///< metadata "version"
  static constexpr std::string_view coded_version = "2";       ///< ... of a file whose codes are entropy coded
  static constexpr std::string_view file_prefix = "file:";     ///< of tensors that hold the bytes of small files
  static constexpr std::string_view gguf_name = "header.gguf"; ///< of the file with a GGUF file's metadata
  static constexpr std::string_view metadata = "__metadata__"; ///< what the hash of all metadata is listed under
};

/// "model.slim": the name decides, when files are read as when they are written.
[[nodiscard]] bool is_slim_path(std::filesystem::path const& path);

/// An open `.slim` file, of which everything is checked but the codes themselves. Cheap to copy.
class slim_container {
public:
  /// The failure names file, tensor and reason.
  [[nodiscard]] static slim::result<slim_container> open(std::filesystem::path const& path);

  [[nodiscard]] std::filesystem::path const& path() const { return file_->path(); }
  /// The tensors of the model in the order of the source, by the source's names and types. A linear that is stored as codes has
  /// stored_type `coded_type` (formats/assemble.hpp), its shape (d_out, d_in), and the bytes of its packed codes.
  [[nodiscard]] std::vector<slim::tensor_info> const& tensors() const { return tensors_; }
  /// The factors of the linears' adapters, as they are stored.
  [[nodiscard]] std::vector<slim::tensor_info> const& factors() const { return factors_; }
  /// The packed linears, layer by layer.
  [[nodiscard]] std::shared_ptr<packed_file const> const& linears() const { return linears_; }
  /// Metadata of the GGUF file that it was made of: a GGUF file without tensors. Null if it was made of a Hugging Face folder.
  [[nodiscard]] slim::gguf_file const* gguf() const { return gguf_.get(); }
  /// The small files of the Hugging Face folder that it was made of; none if it was made of a GGUF file.
  [[nodiscard]] model_files files() const { return {path(), small_files_, file_}; }
  /// The resolved recipe and what it was applied to.
  [[nodiscard]] nlohmann::json const& recipe() const { return recipe_; }
  /// Whether its codes are entropy coded: the file has fewer bits than the weights take when they are loaded.
  [[nodiscard]] bool entropy_coded() const { return coded_; }
  /// Fingerprint of the model that it was made of (checkpoint::fingerprint).
  [[nodiscard]] std::string const& source() const { return source_; }
  /// Reads all bytes and compares their hashes with those in the file: the first tensor whose bytes have changed, or what else
  /// was damaged; empty if all are as they were written.
  [[nodiscard]] std::string find_damage() const;
  [[nodiscard]] std::shared_ptr<void const> keeps_open() const { return file_; }
  /// The file below, with tensors and metadata as they are stored.
  [[nodiscard]] slim::safetensors_file const& stored() const { return *file_; }
  /// Whether a stored tensor is a linear's codes or a factor of its adapter.
  [[nodiscard]] bool is_of_linear(std::string const& name) const;

private:
  slim_container() = default;
  [[nodiscard]] std::string read_metadata();
  [[nodiscard]] std::string add_tensor(nlohmann::json const& entry);
  [[nodiscard]] std::string add_files();

  std::shared_ptr<slim::safetensors_file const> file_;
  std::vector<slim::tensor_info> tensors_, factors_;
  std::shared_ptr<packed_file const> linears_;
  std::shared_ptr<slim::gguf_file const> gguf_;
  std::map<std::string, std::span<std::byte const>> small_files_;
  nlohmann::json recipe_;
  std::string source_;
  bool coded_ = false;
};

/// FNV-1a of all entries but "hashes", which holds the result.
[[nodiscard]] std::string hash_of_metadata(std::map<std::string, std::string> const& metadata);

} // namespace slim_llm
