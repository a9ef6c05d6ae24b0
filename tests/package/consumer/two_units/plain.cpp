#include "calls.hpp"

#include <cmath>
#include <limits>

float sum_plain() { SUM_OF_PRODUCT; }

bool sees_nan_plain() { return std::isnan(float(slim::fp16(std::numeric_limits<float>::quiet_NaN()))); }
