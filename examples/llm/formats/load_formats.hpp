#pragma once
/// @file
/// The two formats behind load_model.

#include "models/model.hpp"

#include "slim/core/result.hpp"

#include <filesystem>

namespace slim_llm {

[[nodiscard]] slim::result<model> load_gguf(std::filesystem::path const& file);
[[nodiscard]] slim::result<model> load_hugging_face(std::filesystem::path const& folder);

} // namespace slim_llm
