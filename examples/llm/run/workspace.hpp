#pragma once
/// @file
/// What every command needs: an opened model file with its tokenizer, and texts.

#include "formats/slim_container.hpp"
#include "models/model.hpp"
#include "run/input_error.hpp"
#include "text/tokenizer.hpp"

#include "slim/core/context.hpp"
#include "slim/io/gguf/reader.hpp"
#include "slim/io/safetensors/reader.hpp"

#include <filesystem>
#include <variant>

namespace slim_llm {

/// A GGUF file, a Hugging Face folder or a .slim file, open for reading tensor by tensor.
class checkpoint {
public:
  /// @throws input_error
  explicit checkpoint(std::filesystem::path path);

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }
  /// Of a .slim file: those of the model, as slim_container has them.
  [[nodiscard]] std::vector<slim::tensor_info> const& tensors() const;
  /// The GGUF file, or null if it is none.
  [[nodiscard]] slim::gguf_file const* gguf() const { return std::get_if<slim::gguf_file>(&file_); }
  /// The .slim file, or null if it is none.
  [[nodiscard]] slim_container const* container() const { return std::get_if<slim_container>(&file_); }
  /// Bytes of all tensors.
  [[nodiscard]] double tensor_bytes() const;
  /// Stored bits per weight of the linears together.
  [[nodiscard]] double bits_per_weight(std::vector<linear_info> const& linears) const;
  /// Tells this model from others: FNV-1a, 64 bits in hexadecimal, over names, types, shapes and bytes of all tensors in the
  /// order of their names. How they are spread over files does not matter. Reads the whole model.
  [[nodiscard]] std::string fingerprint() const;
  /// @throws input_error
  [[nodiscard]] tokenizer load_tokenizer() const;

private:
  std::filesystem::path path_;
  std::variant<slim::gguf_file, slim::safetensors_folder, slim_container> file_;
};

/// A model with everything around it.
struct workspace {
  checkpoint file;
  tokenizer words;
  model weights;
  double source_bits = 0; ///< stored bits per weight of the linears in the file

  /// `inputs` as load_model has it. @throws input_error
  explicit workspace(std::filesystem::path const& path, std::optional<slim::input_precision> inputs = {});
};

/// The whole file. @throws input_error
[[nodiscard]] std::string read_text(std::filesystem::path const& file);

/// Ids of a file's text; control tokens that are spelled out are ordinary text. @throws input_error if it has fewer than two.
[[nodiscard]] std::vector<int> tokens_of(tokenizer const& words, std::filesystem::path const& file);
/// The same as llama-perplexity has it: without a newline at the end, with BOS in front if the vocabulary asks for it. @throws
/// input_error also if the vocabulary asks for EOS behind a text, which llama-perplexity refuses.
[[nodiscard]] std::vector<int> llama_cpp_tokens_of(tokenizer const& words, std::filesystem::path const& file);

/// The text in the cache that examples/fetch_model.sh makes ($SLIM_CACHE or ~/.cache/slim): "jargon.first.txt" to calibrate,
/// "jargon.last.txt" to evaluate. @throws input_error with the command that fetches it.
[[nodiscard]] std::filesystem::path default_text(char const* name);

} // namespace slim_llm
