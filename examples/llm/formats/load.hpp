#pragma once
/// @file
/// Model files -> model. Reads GGUF files (any tensor type that slim::read_matrix knows) and Hugging Face folders (config.json
/// of transformers 4 and 5, safetensors in one or more parts) of the types that the families name (models/family.hpp), and
/// .slim files made of either.

#include "models/model.hpp"

#include "slim/core/result.hpp"

#include <filesystem>
#include <optional>

namespace slim_llm {

/// The model; the linears of its blocks, its embedding and its head stay in the file until they are needed. Rotary positions
/// keep the file's row order (rope_style), so that weights can be written back as they were. What was passed over or decided is
/// in model::notes. The failure names the file, the tensor or key, and the reason; among the reasons: a missing tensor, a wrong
/// shape, a tensor that no part of the model uses, a number that is none, a key that changes results and is not supported.
/// Reads all tensors that the model uses once. `inputs`: linears that are stored as codes (.slim) run on them, with inputs of
/// that precision; without it they run on the floats that the codes stand for.
[[nodiscard]] slim::result<model> load_model(std::filesystem::path const& path,
                                             std::optional<slim::input_precision> inputs = {});

} // namespace slim_llm
