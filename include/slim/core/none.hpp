#pragma once
/// @file
/// `none`: what a slot holds whose part is absent, known at compile time.

#include "slim/config.hpp"

#include <type_traits>

namespace slim {
inline namespace SLIM_ABI {

/// Using a slot of this type does not compile.
struct none {};

/// Whether a slot is absent.
template <class T>
inline constexpr bool is_none = std::is_same_v<T, none>;

} // namespace SLIM_ABI
} // namespace slim
