#pragma once
#include <slim/linalg/gemm.hpp>

// The sum of the product of two matrices of ones, (2 x 3) (3 x 2). A macro: a function here would itself be shared.
#define SUM_OF_PRODUCT                                                                                                         \
  slim::matrix<float> a(2, 3), b(3, 2), c(2, 2);                                                                               \
  for (slim::index_t k = 0; k < 6; ++k) a.data()[k] = b.data()[k] = 1.0f;                                                      \
  slim::gemm_into(a.view(), b.view(), c.view());                                                                               \
  return c(0, 0) + c(0, 1) + c(1, 0) + c(1, 1)
