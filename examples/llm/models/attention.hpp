#pragma once
/// @file
/// Causal attention over keys and values of a cache.

#include "models/attention_cache.hpp"
#include "models/causal_softmax.hpp"

#include <span>

namespace slim_llm {

/// Attention of all heads. Rows of q (tokens, heads * head_dim), rotated already, are the tokens of the texts, one text behind
/// the other. Each sees the keys of its text up to itself, which the text's cache holds, as far back as the rule lets it; `out`
/// has the shape of q. Heads of q share those of the caches evenly.
///
/// **Numerics** Weights are relative to the largest score of a span of 256 positions, and rescaled where a later span has a
/// larger one (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022,
/// algorithm 1), so that memory does not grow with the text. Sums are float, in the order of positions: a row does not depend
/// on which rows are computed with it, nor on threads.
void attend(matrix_view<float const> q, index_t heads, index_t kv_heads, std::span<grown_text const> texts,
            attention_rule const& rule, matrix_view<float> out, context const& ctx);

} // namespace slim_llm
