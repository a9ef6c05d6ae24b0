#include "calls.hpp"

float sum_sse42() { SUM_OF_PRODUCT; }
