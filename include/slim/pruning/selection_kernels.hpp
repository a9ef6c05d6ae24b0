#pragma once
/// @file
/// Innermost loops of 2:4 pruning, one set per instruction set, chosen at run time.

#include "slim/simd/levels.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Inner loops of one instruction set; explained in selection_kernels.inc.
struct selection_kernels {
  void (*keep_two_of_four)(float const* v, float const* factors, index_t cols, unsigned char* kept);
  void (*gather_two_of_four)(float const* w, float const* scores, float const* factors, index_t cols, float* kept,
                             unsigned char* places);
};

#define SLIM_KERNELS selection
#define SLIM_KERNELS_FILE "slim/pruning/selection_kernels.inc"
#include "slim/simd/for_each_level.inc"

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
