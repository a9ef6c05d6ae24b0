#include "calls.hpp"
#include "refuses_nan.hpp"

#include <cmath>
#include <limits>

float sum_plain() { SUM_OF_PRODUCT; }
bool refuses_nan_plain() { REFUSES_NAN; }

bool sees_nan_plain() { return std::isnan(float(slim::fp16(std::numeric_limits<float>::quiet_NaN()))); }
