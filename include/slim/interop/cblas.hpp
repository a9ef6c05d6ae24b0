#pragma once
/// @file
/// Float products by the CBLAS that you link (OpenBLAS, MKL, BLIS, the reference's). Needs its <cblas.h>; nothing else in the
/// library does.
///
///     slim::context ctx;
///     ctx.sgemm = slim::sgemm_by_cblas;
///     auto layer = slim::compress(w, calib, recipe, ctx);
///
/// That BLAS then decides about threads, order of summation, NaN and infinity in products. Results are bit-identical for any
/// number of threads only if the BLAS promises that.

#include "slim/core/context.hpp"

#include <cblas.h>

namespace slim {
inline namespace SLIM_ABI {

/// An sgemm_function. Extents and strides must fit an int; gemm_into sees to that.
inline void sgemm_by_cblas(bool transpose_a, bool transpose_b, index_t m, index_t n, index_t k, float alpha, float const* a,
                           index_t lda, float const* b, index_t ldb, float beta, float* c, index_t ldc) {
  auto const narrow = [](index_t extent) { return static_cast<int>(extent); }; // CBLAS says int, or something wider
  cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, narrow(m),
              narrow(n), narrow(k), alpha, a, narrow(lda), b, narrow(ldb), beta, c, narrow(ldc));
}

} // namespace SLIM_ABI
} // namespace slim
