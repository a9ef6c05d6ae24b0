#pragma once
#include "slim/simd/levels.hpp"

#include <vector>

namespace slim_test {

/// Every level this machine runs, by name; the scalar one first.
inline std::vector<slim::simd_level> simd_levels() {
  std::vector<slim::simd_level> all = {slim::simd_level::scalar};
  for (slim::simd_level const level : {slim::simd_level::avx2, slim::simd_level::avx512})
    if (slim::best_simd_level() >= level) all.push_back(level);
  return all;
}

inline slim::context at(slim::simd_level level, slim::context ctx = {}) {
  ctx.simd = level;
  return ctx;
}

} // namespace slim_test
