#pragma once
#include <cstdio>

namespace slim_test {

/// Tells ctest that this test could not run here, and why; the test then returns. Never for a test that failed.
inline void skip(char const* why) { std::printf("SLIM_SKIP: %s\n", why); }

} // namespace slim_test
