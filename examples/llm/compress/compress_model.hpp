#pragma once
/// @file
/// Compresses a model, block by block: only one block is in memory at a time. The inputs of a layer are taken from the model as
/// it is compressed so far, so that later layers see what earlier ones made of the text.

#include "compress/recipe.hpp"
#include "evaluate/evaluate.hpp"
#include "formats/packed_weights.hpp"
#include "run/ranks.hpp"

#include <filesystem>

namespace slim_llm {

/// One compressed linear layer.
struct layer_result {
  index_t block = 0;
  std::string name; ///< of the weight's tensor
  std::string role; ///< q, k, v, o, gate, up, down
  slim::layer_report report;
  index_t vanished_rows = 0; ///< rows that became 0 and were not: a scale that no stored number holds
};

/// What the blocks that are done leave to the next one, and what they cost.
struct compression_state {
  index_t blocks = 0; ///< done
  state_store windows,
      dense_windows; ///< hidden states before the next block; those of the dense model if the recipe needs them
  std::vector<layer_result> layers;
  double seconds = 0;
};

struct compress_config {
  index_t context = 1024;       ///< tokens per calibration window
  index_t calib_tokens = 16384; ///< at most; rounded down to whole windows
  index_t held_out_tokens = 0;  ///< behind those, at most: nothing is fitted to them; errors are measured, solutions judged
  bool keep_packed = false;     ///< the sink gets the packed codes too
  index_t max_blocks = 0;       ///< stop behind so many blocks; 0: all
  bool states_on_disk = false;  ///< hidden states wait in a scratch file between their turns
  /// Statistics of a linear from elsewhere: then no tokens are needed, and none are run; errors are estimates from these.
  std::function<slim::calibration(linear const&)> statistics = {};
  /// Fills the state of a run that goes on (blocks, states, layers, seconds); empty: begin with the first block.
  std::function<void(compression_state&)> restore = {};
  /// Called after the sink with every block: what is kept of the state is enough to go on from here.
  std::function<void(compression_state&)> keep = {};
  /// Processes that share the work; null: this one alone. Windows and linears are split over ranks: window w goes through the
  /// model in rank w % size, all ranks observe all windows and add up a share of the products each, and a linear is
  /// compressed by one rank. Sink, restore, keep and report are called in the first rank; keep is set in all ranks or in none.
  ranks* job = nullptr;
};

/// What compressing the model cost.
struct compression {
  std::vector<layer_result> layers;
  index_t blocks = 0;         ///< compressed
  index_t calib_tokens = 0;   ///< used
  double bits_per_weight = 0; ///< of all compressed linears together, everything counted
  double layer_error = 0;     ///< mean over layers of ||X (W - W')^T|| / ||X W^T|| on the calibration tokens
  double held_out_error = 0;  ///< the same on tokens held out; 0 without
  double seconds = 0;
  std::vector<std::string> notes;    ///< fallbacks of any layer, one line each, with the layer's name
  std::vector<std::string> warnings; ///< layers of which nothing is left, or whole rows of which became 0
};

/// Gets every block when it is done, in order. The linears hold W_c + (L R)^T, dense floats of what the compressed layer
/// computes; `round_input` is set if the recipe asks for it. `packed` has the layers of this block, with keep_packed;
/// an expert that no token was sent to has none.
using block_sink = std::function<void(index_t number, block& compressed, packed_weights& packed)>;

/// Linears with the same input share one calibration. `source_bits` is what a weight costs in the source, reported for a recipe
/// that changes nothing. The time that the sink takes is not counted.
///
/// Memory beyond the embedding: one block as floats; the hidden states and one intermediate of all calibration tokens,
/// calib_tokens * (hidden + max(q_size, intermediate)) floats, twice that for a recipe that aims at the dense model's outputs,
/// or one window of them with states_on_disk; one Gram matrix (largest d_in^2 doubles), two with tokens held out; and what the
/// recipe needs for one linear.
/// Bit-identical for any executor and any number of ranks. Layers of the result are complete in the first rank. @throws
/// slim::error if the text is shorter than two tokens.
[[nodiscard]] compression compress_model(model const& m, std::span<int const> tokens, recipe const& how,
                                         compress_config const& config, double source_bits, block_sink const& sink,
                                         context const& ctx = {}, progress const& report = {});

/// A row per layer and step: block, role, shape, step, errors, sparsity, bits, rank, seconds, notes.
void write_layer_csv(std::vector<layer_result> const& layers, std::filesystem::path const& file);

} // namespace slim_llm
