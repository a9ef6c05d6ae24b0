#pragma once
/// @file
/// A problem with what the user gave.

#include "slim/core/result.hpp"

#include <stdexcept>
#include <utility>

namespace slim_image {

/// The program prints it and ends with exit code 1.
struct input_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The value, or input_error with the failure's sentence.
template <class T>
[[nodiscard]] T required(slim::result<T> found) {
  if (!found) throw input_error(found.why());
  return std::move(found).value();
}

} // namespace slim_image
