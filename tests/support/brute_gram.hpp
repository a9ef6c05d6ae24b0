#pragma once

#include "slim/core/matrix.hpp"

namespace slim_test {

/// X^T X in double, token by token.
inline slim::matrix<double> brute_gram(slim::matrix<float> const& x) {
  slim::matrix<double> gram(x.cols(), x.cols());
  for (slim::index_t t = 0; t < x.rows(); ++t)
    for (slim::index_t a = 0; a < x.cols(); ++a)
      for (slim::index_t b = 0; b < x.cols(); ++b)
        gram(a, b) += static_cast<double>(x(t, a)) * static_cast<double>(x(t, b));
  return gram;
}

} // namespace slim_test
