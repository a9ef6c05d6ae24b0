#pragma once
/// @file
/// The type of weights that a config.json names ("dtype", before transformers 5 "torch_dtype"). Programs convert weights to it
/// when they load them.

#include <string>
#include <string_view>

namespace slim_llm {

/// The text of a config.json with another type; everything else stays as it is, byte for byte. Both keys are changed where they
/// are there; "torch_dtype", which all versions read, is added if there is none. A text that is no JSON object stays as it is.
[[nodiscard]] std::string with_dtype(std::string config, std::string_view dtype);

} // namespace slim_llm
