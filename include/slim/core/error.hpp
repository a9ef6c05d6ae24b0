#pragma once
/// @file
/// Exceptions for callers' mistakes, and the one way messages are put together. Bytes from outside (files, packed
/// buffers) never throw: they go through slim::result (core/result.hpp).

#include "slim/config.hpp"

#include <charconv>
#include <concepts>
#include <exception>
#include <initializer_list>
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

/// A piece of a message: text or a number. Few types, so that what puts messages together is compiled once and not for every
/// sentence: messages are in every function that checks something.
class message_part {
public:
  explicit message_part(std::string_view text) : kind_(kind::text), text_(text) {}
  template <std::signed_integral Number>
  explicit message_part(Number value) : kind_(kind::whole), whole_(value) {}
  template <std::unsigned_integral Number>
  explicit message_part(Number value) : kind_(kind::natural), natural_(value) {}
  explicit message_part(float value) : kind_(kind::single), single_(value) {}
  explicit message_part(double value) : kind_(kind::real), real_(value) {}

  void append_to(std::string& out) const {
    char digits[32];
    char* const last = digits + sizeof digits;
    switch (kind_) {
    case kind::text: out += text_; return;
    case kind::whole: out.append(digits, std::to_chars(digits, last, whole_).ptr); return;
    case kind::natural: out.append(digits, std::to_chars(digits, last, natural_).ptr); return;
    case kind::single: out.append(digits, std::to_chars(digits, last, single_).ptr); return; // shortest: 0.1, 1e-08, nan
    case kind::real: out.append(digits, std::to_chars(digits, last, real_).ptr); return;
    }
  }

private:
  enum class kind : unsigned char { text, whole, natural, single, real } kind_;
  union {
    std::string_view text_;
    long long whole_;
    unsigned long long natural_;
    float single_;
    double real_;
  };
};

/// Cold: compilers lay calls, and what leads to them, out of the way of the loops, and spend no time on them.
[[nodiscard, gnu::cold, gnu::noinline]] inline std::string joined(std::initializer_list<message_part> parts) {
  std::string out;
  for (message_part const& part : parts) part.append_to(out);
  return out;
}

} // namespace detail

/// Concatenates strings and numbers: `message("W has ", rows, " rows")`. Of a number with a point the shortest digits that name
/// it: 0.1, 1e-08, nan.
template <class... Parts>
[[nodiscard]] std::string message(Parts const&... parts) {
  return detail::joined({detail::message_part(parts)...});
}

} // namespace SLIM_ABI
} // namespace slim
