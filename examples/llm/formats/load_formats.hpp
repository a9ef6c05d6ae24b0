#pragma once
/// @file
/// The two kinds of configurations behind load_model, each with the tensors of its own files or of a .slim file.

#include "models/model.hpp"
#include "run/model_files.hpp"

#include "slim/core/result.hpp"
#include "slim/io/gguf/reader.hpp"

#include <memory>
#include <span>

namespace slim_llm {

/// Tensors by the names of a format, and what keeps their file open.
struct model_tensors {
  std::span<slim::tensor_info const> list;
  std::shared_ptr<void const> file;
  std::vector<std::string> notes = {}; ///< of how they were found
};

/// A model whose configuration is metadata of GGUF. Failures name `file.path()`.
[[nodiscard]] slim::result<model> model_of_gguf(slim::gguf_file const& file, model_tensors const& tensors);
/// A model whose configuration is a config.json. Failures name `files.place()`.
[[nodiscard]] slim::result<model> model_of_hugging_face(model_files const& files, model_tensors const& tensors);

} // namespace slim_llm
