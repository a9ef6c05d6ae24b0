#pragma once
/// @file
/// Results as JSON files.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

namespace slim_llm {

/// Writes `result`, an object. JSON has no NaN and no infinity: such numbers are written as null, their places are listed under
/// the key "not_finite", and standard error says so. Bytes that are no UTF-8 become U+FFFD. @throws input_error
void write_json(std::filesystem::path const& file, nlohmann::json result);

} // namespace slim_llm
