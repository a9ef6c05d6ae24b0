#pragma once
/// @file
/// The definition of a product with a packed matrix: one weight at a time, in double. Every kernel is tested against it.

#include "slim/kernels/cpu/r16.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Y = X W^T (tokens x d_out) from X (tokens x d_in). @throws shape_error
inline void reference_linear_into(r16_matrix const& w, matrix_view<float const> x, matrix_view<double> y) {
  if (x.cols() != w.cols() || y.cols() != w.rows() || x.rows() != y.rows())
    throw shape_error(message("reference_linear_into: X ", x.rows(), " x ", x.cols(), ", W ", w.rows(), " x ", w.cols(), ", Y ",
                              y.rows(), " x ", y.cols()));
  matrix<float> block(r16_block_cols, r16_rows);
  auto* const values = reinterpret_cast<float(*)[r16_rows]>(block.data());
  for (index_t t = 0; t < y.rows(); ++t)
    for (index_t i = 0; i < y.cols(); ++i) y(t, i) = 0.0;
  for (index_t rb = 0; rb < w.layout().row_blocks(); ++rb)
    for (index_t cb = 0; cb * r16_block_cols < w.cols(); ++cb) {
      w.decode_block(rb, cb, values);
      for (index_t t = 0; t < x.rows(); ++t)
        for (index_t r = 0; r < std::min(r16_rows, w.rows() - rb * r16_rows); ++r)
          for (index_t c = 0; c < std::min(r16_block_cols, w.cols() - cb * r16_block_cols); ++c)
            y(t, rb * r16_rows + r) += static_cast<double>(values[c][r]) * static_cast<double>(x(t, cb * r16_block_cols + c));
    }
}

} // namespace SLIM_ABI
} // namespace slim
