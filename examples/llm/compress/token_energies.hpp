#pragma once
/// @file
/// How much the end loss of a model cares for each token of a text, linear by linear.

#include "models/model.hpp"

#include <map>
#include <span>

namespace slim_llm {

/// Of one linear: slim::token_energy of every token, of the cross entropy of the text summed over its tokens.
struct linear_energies {
  index_t d_in = 0;
  std::vector<float> values;
};

/// By the names of the linears. Tokens fill whole windows; some windows at a time go through the model and back. Memory: the
/// output head as floats, hidden states of 2048 tokens before every block, activations of one block.
/// @throws slim::config_error if the model has experts, which do not see all tokens, or its family no gradients.
[[nodiscard]] std::map<std::string, linear_energies> token_energies(model const& m, std::span<int const> tokens, index_t window,
                                                                    context const& ctx = {});

} // namespace slim_llm
