#pragma once
/// @file
/// Result of a law suite: broken laws as data. The suites print nothing and know no test framework:
///
///     CHECK(slim::testing::describe(slim::testing::check_pruner(my_pruner())) == "");   // Catch2, doctest, ...

#include "slim/core/error.hpp"

#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// One law that did not hold.
struct violation {
  std::string law;     ///< the law, as a sentence
  std::string where;   ///< the hard matrix and the calibration it broke on
  std::string details; ///< the numbers
};

/// Broken laws; empty if all hold.
using violations = std::vector<violation>;

/// One line per violation; empty if there is none.
[[nodiscard]] inline std::string describe(violations const& broken) {
  std::string text;
  for (violation const& v : broken) text += message(v.law, " [", v.where, "] ", v.details, "\n");
  return text;
}

namespace detail {

/// Collects violations of one place.
class collector {
public:
  collector(violations& into, std::string where) : into_(into), where_(std::move(where)) {}

  /// Notes a violation unless `holds`. Returns `holds`, so that a check can stop early.
  bool expect(bool holds, char const* law, std::string const& details = {}) {
    if (!holds) into_.push_back({law, where_, details});
    return holds;
  }

private:
  violations& into_;
  std::string where_;
};

} // namespace detail
} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
