#pragma once
/// @file
/// Writes a compressed model that stock software loads: the linears as F16 with adapters merged, all else copied.

#include "run/workspace.hpp"

namespace slim_llm {

/// From a GGUF file a GGUF file, from a Hugging Face folder a folder (model.safetensors and the small files beside it).
/// Written beside and renamed. Returns the bytes of the tensors' file. @throws input_error if it cannot be written, or if `out`
/// is the source itself.
double export_model(workspace& work, std::filesystem::path const& out, std::string const& recipe);

} // namespace slim_llm
