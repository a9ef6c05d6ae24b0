#pragma once
/// @file
/// The forward pass on the CPU. Hidden states are (tokens, hidden) matrices that hold whole windows one after another; windows
/// are independent of each other and positions restart in each. A block runs stage by stage, as its family lists them:
///
///     for (stage const& s : pass.stages()) {
///       auto const X = pass.input(s, b, state); // what the linears of the stage read
///       pass.move_on(s, b, X, state);           // applies them, and leaves the input of the next stage in `state`
///     }
///
/// The parts that stages are made of (norms, attention, activations) are member functions, for families to use.
///
/// Every result is bit-identical for any number of threads, and does not depend on which windows are computed together as
/// long as slim::gemm_into computes a row of a product independently of the others.

#include "models/apply.hpp"
#include "models/causal_softmax.hpp"
#include "models/family.hpp"

namespace slim_llm {

/// Called by run_block with the input X of a stage's linears before they are applied. It may change the linears.
using stage_observer = std::function<void(stage const&, matrix_view<float const> x)>;

/// Computes with the configuration, embedding and final norm of `m`; blocks are handed in, so that those of an edited copy
/// may be used. Refers to `m` and to the executor of `ctx`; both must outlive it.
class forward_pass {
public:
  /// @param window tokens per window. @throws slim::config_error if it is below 1 or beyond what the model can do.
  forward_pass(model const& m, index_t window, context const& ctx = {});

  /// Keys and values of whole windows are rounded to a format from now on, as a text's cache would round them.
  void round_keys_and_values(slim::number_format format) { kv_format_ = format; }

  /// Hidden states of tokens (whole windows). @throws slim::shape_error unless tokens fill whole windows,
  /// slim::config_error on an id outside the vocabulary.
  [[nodiscard]] matrix<float> embed(std::span<int const> tokens) const;
  /// The same for new tokens of texts.
  [[nodiscard]] matrix<float> embed(std::span<int const> tokens, std::span<grown_text const> texts) const;

  /// The stages of a block, in order of execution.
  [[nodiscard]] std::vector<stage> const& stages() const { return stages_; }
  /// The input X of a stage's linears.
  [[nodiscard]] matrix<float> input(stage const& s, block const& b, block_state& state) const {
    return s.input(*this, b, state);
  }
  /// The outputs (tokens, d_out) of a stage's linears.
  [[nodiscard]] std::vector<matrix<float>> outputs(stage const& s, block const& b, matrix_view<float const> x) const;
  /// Applies the stage's linears to X and moves the state on to the next stage.
  void move_on(stage const& s, block const& b, matrix_view<float const> x, block_state& state) const;
  /// The whole block.
  void run_block(block const& b, block_state& state, stage_observer const& observe = {}) const;
  /// The same for hidden states alone.
  void run_block(block const& b, matrix<float>& hidden, stage_observer const& observe = {}) const;

  /// What the head multiplies: final norm (and OPT-350M's project_out) of any rows of the hidden states.
  [[nodiscard]] matrix<float> head_input(matrix_view<float const> hidden) const;
  /// Logits of tokens first .. first + logits.cols() - 1 for rows of head_input. logits (rows, count).
  void logits_into(matrix_view<float const> head_in, index_t first, matrix_view<float> logits) const;
  /// Applies the model's soft cap of logits, if it has one, to products with the head that logits_into did not make.
  void cap_logits(matrix_view<float> logits) const;
  /// Negative log-likelihood, in nats, of targets[i] after row i of head_in. Never holds rows x vocab logits.
  [[nodiscard]] std::vector<double> token_nll(matrix_view<float const> head_in, std::span<int const> targets) const;

  [[nodiscard]] index_t window() const { return window_; }
  [[nodiscard]] model_config const& config() const { return model_.config; }

  /// The family's norm of every row of X.
  [[nodiscard]] matrix<float> normalized(norm const& n, matrix_view<float const> x) const;
  void normalize_inplace(norm const& n, matrix_view<float> x) const { normalize_into(n, x, x); }
  /// Norms "q_norm" and "k_norm" (if the block has them; of every head, or of the whole row if they are as long as that),
  /// rotary positions (if the block has them), and causal attention inside windows, as far back as the block sees; or inside
  /// the state's texts if there are some, behind the keys and values of their caches, to which k and v are added. q (tokens,
  /// q_size), k and v (tokens, kv_size).
  [[nodiscard]] matrix<float> attention(block const& b, block_state& state, matrix<float> q, matrix<float> k,
                                        matrix<float> v) const;
  /// The model's activation of gate, times up, element by element. @throws slim::shape_error
  [[nodiscard]] matrix<float> gated(matrix<float> const& gate, matrix<float> up) const;
  /// The model's activation of x, element by element.
  [[nodiscard]] matrix<float> activated(matrix<float> x) const;

private:
  friend class backward_pass; // walks the same steps the other way

  [[nodiscard]] attention_rule rule_of(block const& b) const;
  void normalize_into(norm const& n, matrix_view<float const> x, matrix_view<float> y) const;
  void normalize_row(norm const& n, float const* x, float* y, index_t size) const;
  /// Cosines and sines of the positions of a window, (window, pairs).
  struct angle_table {
    matrix<float> cos, sin;
  };

  [[nodiscard]] angle_table angles_of(rotary_table const& rotary) const;
  /// `positions` of the rows in their windows or texts.
  void normalize_and_rotate(block const& b, char const* norm_role, matrix_view<float> x, index_t heads,
                            std::span<index_t const> positions) const;
  [[nodiscard]] std::vector<index_t> positions_of(index_t rows, std::span<grown_text const> texts) const;

  model const& model_;
  index_t window_;
  context ctx_;
  slim::number_format kv_format_ = slim::number_format::fp32; ///< of whole windows
  std::vector<stage> stages_;
  std::vector<angle_table> angles_; ///< of each table of model::rotary
};

} // namespace slim_llm
