#pragma once
/// @file
/// What is known of the keys of config.json that a model type does not ask for. Sources: transformers 5.24 and 4.57
/// (PreTrainedConfig, GenerationConfig and the classes of the model types that are read), and folders of the Hub.

#include <nlohmann/json.hpp>

#include <string_view>

namespace slim_llm {

/// The key changes no result, whatever its value is.
[[nodiscard]] bool is_harmless_key(std::string_view key);

/// The key changes results in some class of transformers, or in code that comes with a folder. A model type that knows it asks
/// for it; in any other its value must be neutral.
[[nodiscard]] bool is_telling_key(std::string_view key);

/// Null, false, 0, 1 (of a factor), empty; or what else changes nothing under this key.
[[nodiscard]] bool is_neutral_value(std::string_view key, nlohmann::json const& value);

} // namespace slim_llm
