#pragma once
/// @file
/// Timing, for the programs in these folders.

#include <algorithm>
#include <chrono>
#include <vector>

namespace bench {

/// Wall-clock seconds of one call.
template <class F>
double seconds_of(F const& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

} // namespace bench
