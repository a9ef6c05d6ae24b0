#include "calls.hpp"
#include "refuses_nan.hpp"

#if !defined(__AVX2__) || !defined(__FAST_MATH__)
#error "this unit is the one with other flags"
#endif

float sum_fast() { SUM_OF_PRODUCT; }
bool refuses_nan_fast() { REFUSES_NAN; }
