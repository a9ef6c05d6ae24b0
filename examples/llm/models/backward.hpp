#pragma once
/// @file
/// Gradients of a loss by what a model computes: the forward pass, walked the other way, stage by stage and block by block.
/// Hidden states at the beginning of each block are kept; what lies between is computed again when its block is reached, or
/// kept, too. Both ways compute the same bits.
///
/// A family says in stage::adjoint how gradients pass its stages; the parts they are made of are member functions here, next to
/// those of forward_pass. Embedding, positions and head stay as they are: gradients end at the embedded tokens.

#include "models/forward.hpp"

#include "slim/training/loss.hpp"

namespace slim_llm {

/// Gradients of a norm's numbers, summed over tokens; `bias` is empty where the norm has none.
struct norm_gradient {
  std::vector<double> weight, bias;
};

/// What a block's forward pass leaves for its backward pass, of one stage.
struct stage_record {
  matrix<float> hidden;               ///< before the stage
  matrix<float> x;                    ///< what its linears read
  std::vector<matrix<float>> outputs; ///< of its linears, if they are combined
  matrix<float> added;                ///< hidden states between the addition and stage::after_addition, if there is one
};

/// Neighbouring stages of a block: [first, last).
struct stage_range {
  std::size_t first = 0, last = static_cast<std::size_t>(-1); ///< beyond the end: to the end
};

/// The same of stages of a block.
struct block_record {
  std::size_t first = 0; ///< number of the first of them
  std::vector<stage_record> stages;
  block_state after; ///< of the last of them
};

/// Gradients by a block's state, on their way from its end to its beginning, and by its norms.
struct block_gradient {
  matrix<float> hidden;
  std::vector<matrix<float>> carried; ///< numbered as block_state::carried; empty: 0
  std::vector<norm_gradient> norms;   ///< as block::norms

  /// Gradient of carried value number `k`, which is (rows, cols).
  [[nodiscard]] matrix<float>& carry(std::size_t k, index_t rows, index_t cols) {
    if (carried.size() <= k) carried.resize(k + 1);
    if (carried[k].empty()) carried[k] = matrix<float>(rows, cols);
    return carried[k];
  }
};

class backward_pass;

/// Where an adjoint stands: its block, and what the forward pass left of its stage.
struct adjoint_scope {
  backward_pass const& pass;
  block const& b;
  stage_record const& record;
  std::vector<matrix<float>> const& carried; ///< values of the block's end; one that a later stage has overwritten is not there
};

/// Called for every linear, from the last to the first, with its input X (tokens, d_in), as it multiplies it, and the gradient
/// dY (tokens, d_out) of its output.
using linear_observer = std::function<void(linear const&, matrix_view<float const> x, matrix_view<float const> dy)>;

/// Gradients of q, k and v.
struct attention_gradient {
  matrix<float> q, k, v;
};

/// Walks back over blocks that `pass` has run. Refers to the pass, the model and the executor; all must outlive it.
class backward_pass {
public:
  /// @throws slim::config_error naming the family if it does not say how gradients pass its stages.
  backward_pass(model const& m, forward_pass const& pass, context const& ctx = {});

  /// The block's forward pass, or that of some stages; its result is record.after.
  [[nodiscard]] block_record record(block const& b, block_state state, stage_range stages = {}) const;
  /// From gradients behind the recorded stages to gradients before them. @throws slim::config_error naming a linear that runs
  /// from packed codes.
  void run_block(block const& b, block_record const& record, block_gradient& g, linear_observer const& observe = {}) const;
  /// Gradient of the hidden states behind the last block, given that of forward_pass::head_input.
  [[nodiscard]] matrix<float> head_adjoint(matrix_view<float const> hidden, matrix<float> d_head_in,
                                           norm_gradient& final_norm) const;

  [[nodiscard]] forward_pass const& forward() const { return pass_; }

  /// dX += the gradient of the norm's input X, given dY; adds those of its numbers to `to`. All (rows, size of the norm).
  void add_norm_adjoint(norm const& n, matrix_view<float const> x, matrix_view<float const> dy, matrix_view<float> dx,
                        norm_gradient& to) const;
  /// The norm of that role of the block at hand, the same.
  void add_norm_adjoint(adjoint_scope const& at, char const* role, matrix_view<float const> x, matrix_view<float const> dy,
                        matrix_view<float> dx, block_gradient& g) const;
  /// Of forward_pass::attention in windows, for the q, k and v that it was given.
  [[nodiscard]] attention_gradient attention_adjoint(adjoint_scope const& at, matrix<float> const& q, matrix<float> const& k,
                                                     matrix<float> const& v, matrix_view<float const> d_mixed,
                                                     block_gradient& g) const;
  /// Of forward_pass::gated: gradients of gate and up, in this order.
  [[nodiscard]] std::vector<matrix<float>> gated_adjoint(matrix<float> const& gate, matrix<float> const& up,
                                                         matrix<float> d) const;
  /// Of forward_pass::activated.
  [[nodiscard]] matrix<float> activated_adjoint(matrix<float> const& x, matrix<float> d) const;

private:
  void linears_adjoint(stage const& s, block const& b, matrix_view<float const> x, std::vector<matrix<float>> const& dy,
                       matrix_view<float> dx, linear_observer const& observe) const;
  void attend_adjoint(attention_gradient const& at, matrix_view<float const> d_mixed, index_t first, index_t kv_head,
                      attention_rule const& rule, attention_gradient& d) const;
  [[nodiscard]] matrix<float> rotate_back(adjoint_scope const& at, char const* norm_role, matrix<float> const& x,
                                          matrix<float> d, index_t heads, block_gradient& g) const;

  model const& model_;
  forward_pass const& pass_;
  context ctx_;
};

/// Loss of each row of forward_pass::head_input (tokens, embedding_dim); writes the gradient of their weighted sum.
using head_loss = std::function<std::vector<double>(matrix_view<float const> head_in, matrix_view<float> d_head_in)>;

struct backward_config {
  bool recompute = true; ///< false: activations of all blocks are kept, which saves a forward pass
};

/// What differentiate() finds beside the gradients of linears, which its observer sees.
struct model_gradient {
  std::vector<double> losses;                    ///< of each token
  std::vector<std::vector<norm_gradient>> norms; ///< of each block, as block::norms
  norm_gradient final_norm;
  matrix<float> embedded; ///< (tokens, hidden): of the embedded tokens
};

/// Runs tokens (whole windows) through the model and gradients back. Memory beyond the model: tokens * hidden floats per block,
/// and one block's activations; without recomputing the activations of all blocks. Bit-identical for any executor, and with and
/// without recomputing. Blocks of a model in a file are read when they are needed.
/// @throws slim::config_error, slim::shape_error as the forward pass; input_error naming the block if what it computes is not
/// finite.
[[nodiscard]] model_gradient differentiate(model const& m, index_t window, std::span<int const> tokens, head_loss const& loss,
                                           linear_observer const& observe, backward_config const& config = {},
                                           context const& ctx = {});

/// The model's head as losses read it. Its floats must be in memory and outlive it.
[[nodiscard]] slim::output_head head_of(model_config const& config, matrix<float> const& head);

/// The token that follows each token of a window, or -1 behind the last of it.
[[nodiscard]] std::vector<int> next_tokens(std::span<int const> tokens, index_t window);

} // namespace slim_llm
