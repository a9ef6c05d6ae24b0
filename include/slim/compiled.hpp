#pragma once
/// @file
/// Templates with a heavy body (decompositions) of the compiled form: units that use it take them from the library's own unit
/// instead of instantiating them. docs/guides/embedding.md, "Compiled".

#include "slim/linalg/cholesky.hpp"
#include "slim/linalg/feedback_factor.hpp"
#include "slim/linalg/low_rank.hpp"

#if defined(SLIM_COMPILING)
#define SLIM_COMPILED_TEMPLATE template
#else
#define SLIM_COMPILED_TEMPLATE extern template
#endif

#if defined(SLIM_COMPILING) || defined(SLIM_COMPILED)
namespace slim {
inline namespace SLIM_ABI {

SLIM_COMPILED_TEMPLATE low_rank_factors<float> truncated_low_rank<float>(matrix_view<float const>, index_t, truncated_config,
                                                                         context const&);
SLIM_COMPILED_TEMPLATE low_rank_factors<float> exact_low_rank<float>(matrix_view<float const>, index_t, context const&);
SLIM_COMPILED_TEMPLATE bool cholesky_inplace<float>(matrix_view<float>, context const&);
SLIM_COMPILED_TEMPLATE bool cholesky_inplace<double>(matrix_view<double>, context const&);
SLIM_COMPILED_TEMPLATE void solve_lower_inplace<float>(matrix_view<float const>, matrix_view<float>, context const&);
SLIM_COMPILED_TEMPLATE void solve_lower_inplace<double>(matrix_view<double const>, matrix_view<double>, context const&);
SLIM_COMPILED_TEMPLATE void solve_lower_transposed_inplace<float>(matrix_view<float const>, matrix_view<float>, context const&);
SLIM_COMPILED_TEMPLATE void solve_lower_transposed_inplace<double>(matrix_view<double const>, matrix_view<double>,
                                                                   context const&);
SLIM_COMPILED_TEMPLATE feedback_factor factor_for_feedback<float>(matrix_view<float const>, context const&);
SLIM_COMPILED_TEMPLATE matrix<float> without_directions<float>(matrix_view<float const>, matrix_view<float const>,
                                                               context const&);

} // namespace SLIM_ABI
} // namespace slim
#endif

#undef SLIM_COMPILED_TEMPLATE
