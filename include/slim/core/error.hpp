#pragma once
/// @file
/// Exceptions for callers' mistakes, and the one way messages are put together. Bytes from outside (files, packed
/// buffers) never throw: they go through slim::result (core/result.hpp).

#include "slim/config.hpp"

#include <charconv>
#include <concepts>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

namespace slim {
inline namespace SLIM_ABI {

/// Base of what the library throws on a caller's mistake.
struct error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// Sizes of two arguments do not fit each other. The message holds both.
struct shape_error : error {
  using error::error;
};

/// A configuration value is outside its range. The message holds the value and the range.
struct config_error : error {
  using error::error;
};

/// NaN or infinity where finite numbers are needed. The message holds the first row and column.
struct nonfinite_error : error {
  using error::error;
};

/// The work was given up because the caller asked for it (context::stop). No slim::error and no std::invalid_argument: nobody
/// made a mistake, and code that reports mistakes should not report a wish that was granted.
struct cancelled : std::exception {
  [[nodiscard]] char const* what() const noexcept override { return "slim: cancelled by context::stop"; }
};

namespace detail {

inline void append_text(std::string& out, std::string_view text) { out += text; }

template <std::integral Number>
void append_text(std::string& out, Number value) {
  out += std::to_string(value);
}

/// Shortest digits that name the number: 0.1, 1e-08, nan.
template <std::floating_point Number>
void append_text(std::string& out, Number value) {
  char digits[32];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

} // namespace detail

/// Concatenates strings and numbers: `message("W has ", rows, " rows")`.
template <class... Parts>
[[nodiscard]] std::string message(Parts const&... parts) {
  std::string out;
  (detail::append_text(out, parts), ...);
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
