#pragma once
/// @file
/// The concept of what decides how many bits each item gets (a group of columns, a layer), and what items offer.

#include "slim/core/error.hpp"
#include "slim/core/finite.hpp"
#include "slim/core/matrix.hpp"

#include <concepts>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Items and what they lose at each width.
struct bit_offers {
  std::vector<double> sizes;  ///< weights of each item, > 0
  std::vector<double> scores; ///< importance of each item
  std::vector<double> widths; ///< bits per weight on offer, ascending
  matrix<double> losses;      ///< items x widths: what an item loses at a width
  /// What an allocation loses as a whole, asked with a position in `widths` per item; empty: the sum of the items' losses.
  std::function<double(std::span<index_t const>)> loss_of;

  [[nodiscard]] index_t count() const noexcept { return std::ssize(sizes); }

  /// Of an allocation.
  [[nodiscard]] double loss(std::span<index_t const> chosen) const {
    if (loss_of) return loss_of(chosen);
    double total = 0;
    for (std::size_t k = 0; k < chosen.size(); ++k) total += losses(static_cast<index_t>(k), chosen[k]);
    return total;
  }

  /// @throws shape_error, config_error unless all parts fit each other. `who` begins the message.
  void check(std::string_view who) const {
    if (std::ssize(scores) != count() || losses.rows() != count() || losses.cols() != std::ssize(widths))
      throw shape_error(message(who, ": ", count(), " sizes, ", scores.size(), " scores, ", widths.size(), " widths and ",
                                losses.rows(), " x ", losses.cols(), " losses"));
    for (std::size_t k = 0; k < widths.size(); ++k)
      if (!(widths[k] > 0.0) || !detail::is_finite(widths[k]) || (k > 0 && !(widths[k] > widths[k - 1])))
        throw config_error(message(who, ": width ", k, " is ", widths[k], " bits, widths must ascend"));
    for (index_t k = 0; k < count(); ++k) {
      auto const at = static_cast<std::size_t>(k);
      if (!(sizes[at] > 0.0) || !detail::is_finite(sizes[at]) || !detail::is_finite(scores[at]))
        throw config_error(message(who, ": item ", k, " has ", sizes[at], " weights and score ", scores[at]));
      for (index_t b = 0; b < losses.cols(); ++b)
        if (!detail::is_finite(losses(k, b)) || losses(k, b) < 0.0)
          throw config_error(
              message(who, ": item ", k, " loses ", losses(k, b), " at ", widths[static_cast<std::size_t>(b)], " bits"));
    }
  }
};

/// `allocate(offers)` returns a position in `offers.widths` per item; `widths()` are the widths it wants offers of, ascending.
/// Laws: positions exist; pure; ties go to the lower item.
template <class A>
concept bit_allocator = requires(A const& a, bit_offers const& offers) {
  { a.widths() } -> std::same_as<std::vector<double>>;
  { a.allocate(offers) } -> std::same_as<std::vector<index_t>>;
  { a.describe() } -> std::convertible_to<std::string>;
};

} // namespace SLIM_ABI
} // namespace slim
