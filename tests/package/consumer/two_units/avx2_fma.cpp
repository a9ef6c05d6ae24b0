#include "calls.hpp"

float sum_avx2_fma() { SUM_OF_PRODUCT; }
