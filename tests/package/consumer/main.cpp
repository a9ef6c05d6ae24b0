// What a user's first program does: hand over an Eigen matrix, get numbers back.
#include <slim/slim.hpp>

#include <Eigen/Core>

#include <cstdio>

#if defined(EXPECT_OPENMP) && EXPECT_OPENMP != 1 && defined(_OPENMP)
#error "this project did not ask for OpenMP"
#endif
#if defined(EXPECT_OPENMP) && EXPECT_OPENMP == 1 && !defined(_OPENMP)
#error "slim::slim should have brought OpenMP"
#endif

int main() {
  Eigen::MatrixXf A = Eigen::MatrixXf::Random(70, 5), B = Eigen::MatrixXf::Random(5, 3);
  slim::matrix<float> C(70, 3);
  slim::gemm_into(slim::as_matrix_view(A), slim::as_matrix_view(B), C.view());
  Eigen::MatrixXf const expected = A * B;
  for (Eigen::Index i = 0; i < 70; ++i)
    for (Eigen::Index j = 0; j < 3; ++j)
      if (!(std::abs(C(i, j) - expected(i, j)) < 1e-5f)) return 1;
  std::puts("consumer: right");
  return 0;
}
