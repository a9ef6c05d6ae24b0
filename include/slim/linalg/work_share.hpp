#pragma once
/// @file
/// `work_share`: which part of a sum's numbers one of several machines computes. Every number belongs to one share, whatever
/// the number of shares, so that parts are put together without adding anything.

#include "slim/core/matrix_view.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Share `number` of `of` shares.
struct work_share {
  index_t number = 0;
  index_t of = 1;

  [[nodiscard]] constexpr bool whole() const noexcept { return of == 1; }
  /// Of `count` equal tasks the share has number, number + of, number + 2 of, ...: so many,
  [[nodiscard]] constexpr index_t tasks(index_t count) const noexcept {
    return count > number ? (count - number - 1) / of + 1 : 0;
  }
  /// of which this is the one at `place`.
  [[nodiscard]] constexpr index_t task(index_t place) const noexcept { return number + place * of; }
  /// Of `count` neighbours the share has first(count) to first(count) + size(count) - 1.
  [[nodiscard]] constexpr index_t first(index_t count) const noexcept { return count * number / of; }
  [[nodiscard]] constexpr index_t size(index_t count) const noexcept { return count * (number + 1) / of - first(count); }

  friend constexpr bool operator==(work_share const&, work_share const&) = default;
};

/// The share of one who works alone.
inline constexpr work_share all_work{};

} // namespace SLIM_ABI
} // namespace slim
