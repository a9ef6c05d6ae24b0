#pragma once
/// @file
/// A model in another file format than the one it came from: what its tensors are called there, in which order their rows lie,
/// and the small files beside them.

#include "run/workspace.hpp"

#include <map>
#include <string>
#include <vector>

namespace slim_llm {

/// The GGUF file whose names and metadata a model has: itself, or the one that a .slim file was made of; null: it has those of
/// a folder.
[[nodiscard]] slim::gguf_file const* gguf_of(checkpoint const& file);

/// How tensors of one format are found in another.
struct tensor_names {
  std::map<std::string, std::string> names; ///< by name in the source; a bias has the name of its weight with "bias"
  bool permuted = false;                    ///< rows of q and k lie in another order
  bool from_pairs = false;                  ///< ... in the source: adjacent pairs; else halves of a head

  /// Row order[k] of the source is row k; empty: as they are.
  [[nodiscard]] std::vector<index_t> row_order(linear_info const& l, model_config const& config) const;
  /// The name of a tensor, or of the tensor that one of several linears of a tensor lies in. @throws input_error if it has no
  /// place in the other format.
  [[nodiscard]] std::string const& of(std::string const& name) const;
};

/// Names and rows as a Hugging Face folder has them. A folder's are its own; experts that lie stacked in it have a tensor for
/// each matrix, the form that all its readers know. @throws input_error if the model's type does not
/// map back from GGUF.
[[nodiscard]] tensor_names names_in_folder(checkpoint const& file, model const& m);

/// Names and rows as llama.cpp's converter makes them. @throws input_error if GGUF knows no such model.
[[nodiscard]] tensor_names names_in_gguf(checkpoint const& file, model const& m);
/// The same of a model whose names are those of a folder with `tensors`.
[[nodiscard]] tensor_names names_in_gguf(std::span<slim::tensor_info const> tensors, model const& m);

/// What llama.cpp calls the architecture. @throws input_error if it knows none such.
[[nodiscard]] std::string gguf_architecture(model_config const& config);

/// Configuration, tokenizer and other small files of a folder, by name, as text. Those of a folder are copied; of a GGUF file
/// config.json is made, and tokenizer.json where its vocabulary is byte-level BPE with GPT-2's or SmolLM's splitting;
/// `notes` says what could not be made. @throws input_error if the configuration does not map back.
[[nodiscard]] std::map<std::string, std::string> files_of_folder(checkpoint const& file, model const& m,
                                                                 std::vector<std::string>& notes);

} // namespace slim_llm
