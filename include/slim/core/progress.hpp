#pragma once
/// @file
/// How far a long computation is, told to a callable of the caller's.

#include "slim/core/matrix_view.hpp"

#include <concepts>
#include <memory>
#include <string_view>
#include <type_traits>

namespace slim {
inline namespace SLIM_ABI {

/// What is done of how much, and what comes next.
struct progress_report {
  std::string_view next; ///< the step that begins now, as it describes itself; empty after the last. Valid during the call
  index_t done = 0;      ///< steps that are done
  index_t total = 0;     ///< steps in all
};

/// Non-owning reference to a callable `void(progress_report const&)`; two words. Empty unless made from one. Valid as long as
/// the callable lives.
class progress_ref {
public:
  constexpr progress_ref() noexcept = default;

  template <class F>
    requires(!std::same_as<std::remove_const_t<F>, progress_ref>) && std::is_invocable_v<F&, progress_report const&>
  progress_ref(F& f) noexcept // NOLINT: implicit on purpose
      : object_(const_cast<void*>(static_cast<void const*>(std::addressof(f)))),
        call_([](void* object, progress_report const& report) { (*static_cast<F*>(object))(report); }) {}

  /// A temporary callable would be gone before it is called.
  template <class F>
    requires(!std::same_as<F, progress_ref>) && std::is_invocable_v<F const&, progress_report const&>
  progress_ref(F const&&) = delete;

  [[nodiscard]] explicit operator bool() const noexcept { return call_ != nullptr; }
  /// Calls it; nothing if it is empty.
  void operator()(progress_report const& report) const {
    if (call_) call_(object_, report);
  }

private:
  void* object_ = nullptr;
  void (*call_)(void*, progress_report const&) = nullptr;
};

} // namespace SLIM_ABI
} // namespace slim
