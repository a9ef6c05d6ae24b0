#pragma once
/// @file
/// Inner loops of products with float inputs, one set per instruction set.

#include "slim/kernels/cpu/r16.hpp"
#include "slim/simd/levels.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Inner loops of one instruction set; explained in exact_kernels.inc. A block has 16 rows.
struct exact_kernels {
  void (*decode_dense)(r16_kind kind, unsigned char const* stage, float const* scales, float const* zeros, float const* book,
                       float (*w)[16]);
  void (*decode_sparse)(unsigned char const* stage, unsigned first, float const* scales, float const* book, float (*w)[16],
                        unsigned (*columns)[16]);
  void (*dense_product)(float const (*w)[16], index_t cols, index_t tokens, float const* const* x, float (*y)[16]);
  void (*sparse_product)(float const (*w)[16], unsigned const (*columns)[16], index_t slots, index_t tokens, float const* x,
                         index_t x_stride, float* y, index_t y_stride);
};

#define SLIM_KERNELS exact
#define SLIM_KERNELS_FILE "slim/kernels/cpu/exact_kernels.inc"
#include "slim/simd/for_each_level.inc"

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
