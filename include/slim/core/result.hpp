#pragma once
/// @file
/// `result<T>`: a value, or one English sentence saying why there is none. Used for everything that comes from outside
/// (files, packed bytes), where bad input is normal and must never throw, assert or read out of bounds.

#include "slim/core/error.hpp"

#include <string>
#include <utility>
#include <variant>

namespace slim {
inline namespace SLIM_ABI {

/// Why there is no value. Names the file or buffer, the place inside it, and the reason.
struct failure {
  std::string what;
};

/// A value of type T or a failure. `T` must not be `failure`.
template <class T>
class [[nodiscard]] result {
public:
  result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  result(failure why) : state_(std::in_place_index<1>, std::move(why)) {}

  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
  [[nodiscard]] explicit operator bool() const noexcept { return has_value(); }

  /// The value. @throws slim::error with the failure's text if there is none.
  [[nodiscard]] T& value() & {
    require_value();
    return *std::get_if<0>(&state_);
  }
  [[nodiscard]] T const& value() const& {
    require_value();
    return *std::get_if<0>(&state_);
  }
  [[nodiscard]] T&& value() && {
    require_value();
    return std::move(*std::get_if<0>(&state_));
  }

  [[nodiscard]] T& operator*() & { return value(); }
  [[nodiscard]] T const& operator*() const& { return value(); }
  [[nodiscard]] T* operator->() { return &value(); }
  [[nodiscard]] T const* operator->() const { return &value(); }

  /// Why there is no value; empty if there is one.
  [[nodiscard]] std::string why() const { return has_value() ? std::string() : std::get_if<1>(&state_)->what; }

private:
  void require_value() const {
    if (!has_value()) throw error(std::get_if<1>(&state_)->what);
  }

  std::variant<T, failure> state_;
};

} // namespace SLIM_ABI
} // namespace slim
