#include "slim/core/matrix_traits.hpp"
#if CASE > 6
#include "slim/calibration/calibration.hpp"
#include "slim/kernels/packed_linear.hpp"
#endif

#include <Eigen/Core>

#include <string>

void use() {
  Eigen::MatrixXf A(2, 3), B(2, 3);
  std::string text;
#if CASE == 0
  (void)slim::as_matrix_view(A);
  (void)slim::to_float(B);
#elif CASE == 1 // error: a temporary matrix would be gone before its view is used. Name it first.
  (void)slim::as_matrix_view(Eigen::MatrixXf(2, 3));
#elif CASE == 2 // error: evaluate lazy expressions first
  (void)slim::as_matrix_view(A + B);
#elif CASE == 3 // error: slim: not a matrix of real numbers.
  (void)slim::as_matrix_view(text);
#elif CASE == 4 // error: or specialise slim::matrix_traits for it.
  (void)slim::to_float(text);
#elif CASE == 5 // error: a temporary matrix would be gone before its view is used. Name it first.
  (void)slim::as_matrix_view(slim::matrix<float>(2, 3));
#elif CASE == 6 // error: slim: not a matrix of real numbers.
  Eigen::MatrixXcf complex(2, 3);
  (void)slim::to_float(complex);
#elif CASE == 7 // error: takes matrices of real numbers.
  Eigen::MatrixXcf complex(2, 3);
  slim::calibration(3).observe(complex);
#elif CASE == 8 // error: slim: forward_into writes real numbers, and Y holds integers
  Eigen::Matrix<signed char, Eigen::Dynamic, Eigen::Dynamic> integers(2, 3);
  slim::forward_into(slim::packed_linear{}, A, integers);
#endif
}
