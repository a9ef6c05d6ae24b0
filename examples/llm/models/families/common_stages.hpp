#pragma once
/// @file
/// Parts of stages that several families share.

#include "models/forward.hpp"

namespace slim_llm::common {

/// Carried value: what attention or the MLP's activation makes of the text, the input of the linear that ends the branch.
inline constexpr std::size_t mixed = 0;

/// The input of a linear that ends a branch.
inline matrix<float> mixed_input(forward_pass const&, block const&, block_state& state) { return state.carry(mixed); }

/// Attention on the outputs of q, k and v.
inline void attend(forward_pass const& pass, block const& b, block_state& state, std::vector<matrix<float>> qkv) {
  state.carry(mixed) = pass.attention(b, state, std::move(qkv[0]), std::move(qkv[1]), std::move(qkv[2]));
}

} // namespace slim_llm::common
