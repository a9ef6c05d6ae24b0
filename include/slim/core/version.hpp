#pragma once
/// @file
/// The version in words; as a number for `#if`: SLIM_VERSION of slim/config.hpp.

#include "slim/config.hpp"

#include <string_view>

#define SLIM_TEXT_OF(number) #number
#define SLIM_TEXT(number) SLIM_TEXT_OF(number)

namespace slim {
inline namespace SLIM_ABI {

/// "0.1.0": what a version promises is said in docs/developing/contributing.md.
[[nodiscard]] constexpr std::string_view version() noexcept {
  return SLIM_TEXT(SLIM_VERSION_MAJOR) "." SLIM_TEXT(SLIM_VERSION_MINOR) "." SLIM_TEXT(SLIM_VERSION_PATCH);
}

} // namespace SLIM_ABI
} // namespace slim

#undef SLIM_TEXT
#undef SLIM_TEXT_OF
