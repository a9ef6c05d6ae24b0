#pragma once
/// @file
/// What a written Hugging Face folder needs beside its tensors: the type to load it in, and a config.json that is changed in
/// nothing but what must change.

#include "slim/io/outgoing_tensor.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace slim_llm {

/// The type in which a program should load tensors, so that it gets the numbers that are written: float16, unless something
/// would not survive it: F32, F64, or BF16 beyond its range.
[[nodiscard]] char const* loaded_dtype(std::vector<slim::outgoing_tensor> const& tensors);

/// `config`, a JSON object as text, with members in front. Keys that it has must not be among them.
[[nodiscard]] std::string with_members(std::string config, nlohmann::ordered_json const& members);

} // namespace slim_llm
