#pragma once
/// @file
/// How far the predictions of a model are from those of another, usually the dense one: Kullback-Leibler divergence, agreement
/// on the likeliest token, change of the probability of the token that follows. As llama-perplexity --kl-divergence defines
/// them; intervals are over windows here, because tokens of a window are not independent.

#include "evaluate/evaluate.hpp"
#include "formats/logits_file.hpp"

namespace slim_llm {

/// Means over all predicted tokens, in nats and as shares. P is the base, Q the model.
struct divergence {
  paired_difference kl;                            ///< sum over the vocabulary of P (log P - log Q)
  paired_difference same_top;                      ///< share of positions where both have the same likeliest token
  paired_difference delta_p;                       ///< Q(token) - P(token) of the token that follows
  paired_difference excess_nll;                    ///< log P(token) - log Q(token)
  double rms_delta_p = 0;                          ///< root of the mean square of Q(token) - P(token)
  double kl_median = 0, kl_99 = 0, kl_largest = 0; ///< of single positions
  double nll = 0, base_nll = 0;
  index_t tokens = 0, windows = 0;
  std::vector<double> window_kl;
};

/// Both evaluations are behind their last blocks and have the same windows. @throws input_error if vocabularies differ or a
/// prediction is not finite.
[[nodiscard]] divergence diverge(block_evaluation& base, block_evaluation& measured, context const& ctx = {});
/// The base is a file. As llama-perplexity does, tokens that it gives a log-probability of -16 or less do not count.
/// @throws as above, and if the evaluation has other windows than the file.
[[nodiscard]] divergence diverge(logits_file const& base, block_evaluation& measured, context const& ctx = {});

/// Writes the predictions of an evaluation by the protocol of llama.cpp, behind its last block. `tokens`: of its windows, as
/// they are in the text. @throws input_error
void save_logits(block_evaluation& of, std::span<int const> tokens, std::filesystem::path const& path);

} // namespace slim_llm
