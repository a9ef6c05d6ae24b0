#pragma once
/// @file
/// Questions with several answers, of which the model prefers the one that it finds likeliest.
///
/// A file holds an object per line: `context`, `choices` and `answer`, the number of the right choice from 0 on. A choice is
/// what follows the context directly, its space included. Source: lm-evaluation-harness, multiple_choice tasks.

#include "evaluate/evaluate.hpp"
#include "text/tokenizer.hpp"

#include <filesystem>
#include <vector>

namespace slim_llm {

/// One way to go on from a context.
struct choice_tokens {
  std::vector<int> tokens;    ///< of context and choice
  index_t context_tokens = 0; ///< the first so many are given, at least 1
  double characters = 0;      ///< of the choice, spaces before it not counted
};

struct choice_question {
  std::vector<choice_tokens> choices;
  index_t answer = 0;
};

/// The questions of a file. Context and choice are encoded together, so that tokens may cross nothing but spaces: those at the
/// end of a context belong to the choice. BOS stands in front if the vocabulary asks for it. @throws input_error with the line
/// and what is wrong with it; if a question is longer than `max_tokens`
[[nodiscard]] std::vector<choice_question> read_questions(tokenizer const& words, std::filesystem::path const& file,
                                                          index_t max_tokens);

/// Natural logarithms of the likelihoods of all choices of all questions, given their contexts.
[[nodiscard]] std::vector<std::vector<double>> choice_likelihoods(model const& m, std::vector<choice_question> const& questions,
                                                                  bool states_on_disk, context const& ctx = {},
                                                                  progress const& report = {});

/// Shares of questions whose right choice is the likeliest (ties: the first), and whose right choice is the likeliest per
/// character. Intervals are over questions, as summarise_windows has them.
struct choice_accuracy {
  paired_difference acc, acc_norm;
};
/// @throws slim::shape_error unless there is a likelihood for every choice
[[nodiscard]] choice_accuracy accuracy_of(std::vector<choice_question> const& questions,
                                          std::vector<std::vector<double>> const& likelihoods);

} // namespace slim_llm
