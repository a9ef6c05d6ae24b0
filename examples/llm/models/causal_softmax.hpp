#pragma once
/// @file
/// Scores of attention and what they become: soft caps, and softmax over the keys that a query sees.

#include "models/elementwise.hpp"

#include "slim/core/matrix_view.hpp"

#include <vector>

namespace slim_llm {

using slim::matrix_view;

/// How far the attention of one call looks, and what it does with scores.
struct attention_rule {
  index_t reach = 0; ///< as block_attention::window
  float scale = 1, soft_cap = 0;
};

/// Keys that a query sees: [first, end).
struct visible_keys {
  index_t first, end;
};

/// Query number `query` of a window sees itself and at most reach - 1 keys before it, all of them if `reach` is 0.
[[nodiscard]] visible_keys visible_to(index_t query, index_t reach);

/// Scores become cap tanh(scale score / cap).
void cap_softly(matrix_view<float> scores, float scale, float cap);

/// Turns scores of queries into unnormalised attention weights over the keys that each sees; all other keys get exactly 0. Row
/// i is query `query_begin` + i, column j is key `key_begin` + j. Returns the inverse sum of each row.
[[nodiscard]] std::vector<float> causal_softmax(matrix_view<float> scores, index_t query_begin, index_t key_begin,
                                                index_t reach, float scale, slim::simd_level simd);

} // namespace slim_llm
