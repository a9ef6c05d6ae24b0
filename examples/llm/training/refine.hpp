#pragma once
/// @file
/// Trains what stands beside the codes of each block towards the dense model's hidden states, attention and MLP separately
/// (what 3BASiL-TM, NeurIPS 2025, does for whole blocks). The target of a part is the dense model's own residual stream behind
/// it, so that a part also makes up for the drift that the parts before it have left. One block is in memory at a time; the
/// gradient ends at the part.

#include "training/trained_layers.hpp"

#include "evaluate/evaluate.hpp"

namespace slim_llm {

struct refine_config {
  index_t context = 512;          ///< tokens per window
  index_t tokens_per_step = 1024; ///< rounded to whole windows, at least one
  index_t passes = 5;             ///< over the text, for each part; behind each the choosing text is looked at
  double learning_rate = 1e-3;    ///< at first, relative to the size of the numbers; falls along a cosine to a hundredth
  double longest_gradient = 1;    ///< norm of all gradients of a part together, longer ones are shortened
  trained_parts parts = {};

  /// @throws slim::config_error on a value out of range
  void check() const;
};

/// What came of one part of a block.
struct refined_part {
  index_t block = 0;
  std::string linears;          ///< their roles: "q k v o"
  double before = 0, after = 0; ///< mean over the choosing text's tokens of |h - dense h|^2 / |dense h|^2 behind the part
  index_t best_pass = 0;        ///< passes behind the state that was kept; 0: the start was best
};

struct refinement {
  std::vector<refined_part> parts;
  index_t numbers = 0; ///< that trained
  double seconds = 0;
};

/// The packed layer of a linear of that name; nothing if it has none, and stays as it is.
using layer_source = std::function<std::optional<packed_layer>(std::string const& name)>;
/// Gets the layers of each block when it is done, in order.
using layer_sink = std::function<void(index_t block, packed_weights const& layers)>;

/// Refines all blocks of `compressed`, the layers of which `layers` has, on whole windows of `train`. Each part ends in the
/// state that is best on `choose`, the start included, so that no part is farther from its target there than it began. Each
/// step moves by AdamW.
///
/// A part ends behind the stages that change the hidden states; all experts of a block are one part.
///
/// Memory: one block as floats; of all tokens the hidden states of both models, the targets of a block's parts and carried
/// values; activations of a part of one step; moments of one part. Bit-identical for any executor.
/// @throws input_error if a text is shorter than a window, naming a linear whose layer does not fit, and naming block, linears
/// and pass if a loss is not finite; slim::config_error if nothing trains, or if it is not known how gradients pass the
/// family's blocks.
refinement refine(model const& dense, model const& compressed, layer_source const& layers, std::span<int const> train,
                  std::span<int const> choose, refine_config const& config, layer_sink const& sink, context const& ctx = {},
                  progress const& report = {});

} // namespace slim_llm
