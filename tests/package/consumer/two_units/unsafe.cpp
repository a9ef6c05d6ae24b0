#include "calls.hpp"

float sum_unsafe() { SUM_OF_PRODUCT; }
