#include "refuses_nan.hpp"

#if !__FINITE_MATH_ONLY__ || defined(__FAST_MATH__)
#error "this unit is the one with -ffinite-math-only"
#endif

bool refuses_nan_finite() { REFUSES_NAN; }
