#include "calls.hpp"

float sum_avx2() { SUM_OF_PRODUCT; }
