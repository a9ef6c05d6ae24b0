#pragma once
/// @file
/// The known name that a mistyped one probably means.

#include <string>
#include <string_view>
#include <vector>

namespace slim_llm {

/// "; did you mean 'compress'?", or nothing if no name is near: at most a third of its letters, and at least one, inserted,
/// removed, changed or swapped with their neighbour. The first of equally near ones.
[[nodiscard]] std::string did_you_mean(std::string_view wrong, std::vector<std::string> const& names);

} // namespace slim_llm
