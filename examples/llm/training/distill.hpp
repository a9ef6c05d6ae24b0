#pragma once
/// @file
/// Trains what stands beside a model's codes towards the dense model's distributions (DWQ of MLX; the fine-tuning of WaterSIC,
/// arXiv 2603.04956), or on the text itself. The dense model's last hidden states are kept, never its logits.

#include "training/student.hpp"

#include "evaluate/evaluate.hpp"

#include <filesystem>

namespace slim_llm {

enum class training_loss {
  divergence,    ///< from the dense model
  cross_entropy, ///< of the text, which also teaches the text
};

/// "kl" or "ce". @throws input_error
[[nodiscard]] training_loss parse_training_loss(std::string const& name);

struct distill_config {
  index_t context = 512;          ///< tokens per window
  index_t tokens_per_step = 2048; ///< rounded to whole windows, at least one
  index_t steps = 64;             ///< windows are taken in turn, from the beginning again behind the last
  double learning_rate = 5e-4;    ///< at first, relative to the size of the numbers; falls along a cosine to a hundredth
  double longest_gradient = 1;    ///< norm of all gradients together, longer ones are shortened
  index_t choose_every = 8;       ///< steps between two looks at the choosing text, and between two states
  training_loss loss = training_loss::divergence;
  std::filesystem::path state; ///< where a run that is stopped leaves off, and goes on from; empty: nowhere
  std::string run_name;        ///< what the state belongs to: model, layers, text. Another name is refused

  /// @throws slim::config_error on a value out of range
  void check() const;
};

/// What training did.
struct distillation {
  double before = 0, after = 0; ///< mean loss per token on the choosing text, of the start and of the best state
  index_t best_step = 0;        ///< steps behind it; 0: the start was best
  index_t steps = 0;            ///< taken in all, those before a stop included
  std::vector<double> losses;   ///< of the steps of this run, on what they were trained on
  double seconds = 0;
};

/// Trains `compressed` on whole windows of `train`; keeps the state that is best on `choose`, which the run ends in, so that it
/// never ends worse there than it began. Each step moves by AdamW.
///
/// Memory beyond student and dense model: the head as floats; hidden states of all tokens, of those of a step before every
/// block; activations of one block; moments. Bit-identical for any executor, and for a run that was stopped.
/// @throws input_error if the texts are shorter than a window, if the loss is not finite (naming the step; the best state so
/// far is kept), or if the state file is of another run or cannot be written.
distillation distill(student& compressed, model const& dense, std::span<int const> train, std::span<int const> choose,
                     distill_config const& config, context const& ctx = {}, progress const& report = {});

} // namespace slim_llm
