#pragma once
/// @file
/// Products with the linears of a model.

#include "models/model.hpp"

#include "slim/core/context.hpp"
#include "slim/linalg/gemm.hpp"

#include <span>
#include <vector>

namespace slim_llm {

/// Y = X W^T + bias + (X L) R, or Y += that, from packed codes if there are some.
/// With `round_input`, X is copied and rounded first, for W and for the adapters alike (but for rest_L and rest_R). X (tokens,
/// d_in), Y (tokens, d_out).
/// @throws slim::shape_error.
void apply_into(linear const& l, matrix_view<float const> x, matrix_view<float> y, slim::destination mode,
                context const& ctx = {});
/// Y = X W^T + bias + (X L) R.
void apply_into(linear const& l, matrix_view<float const> x, matrix_view<float> y, context const& ctx = {});

/// The same into a new matrix.
[[nodiscard]] matrix<float> apply(linear const& l, matrix_view<float const> x, context const& ctx = {});

/// `apply` of one or more linears that read the same X (tokens, d_in); in one parallel region if all are packed alike.
[[nodiscard]] std::vector<matrix<float>> apply_each(std::span<linear const* const> group, matrix_view<float const> x,
                                                    context const& ctx = {});

} // namespace slim_llm
