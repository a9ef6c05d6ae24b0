#pragma once
/// @file
/// The forward pass on the CPU, cut into the stages that calibration needs. Hidden states are (tokens, hidden) matrices that
/// hold whole windows one after another; windows are independent of each other and positions restart in each.
///
/// One block, stage by stage (`run_block` does just this):
///
///     auto X = pass.attention_input(b, hidden);                      // input of q, k, v
///     auto A = pass.attention_mix(b, apply(b.q, X), apply(b.k, X), apply(b.v, X));   // input of o
///     pass.add_attention_output(b, A, hidden);
///     X = pass.mlp_input(b, hidden);                                 // input of gate, up
///     auto M = pass.mlp_mix(b, apply(b.gate, X), apply(b.up, X));    // input of down
///     pass.add_mlp_output(b, M, hidden);
///
/// Every result is bit-identical for any number of threads, and does not depend on which windows are computed together as
/// long as slim::gemm_into computes a row of a product independently of the others.

#include "models/attention_cache.hpp"
#include "models/model.hpp"

#include "slim/core/context.hpp"
#include "slim/linalg/gemm.hpp"

#include <initializer_list>
#include <span>
#include <vector>

namespace slim_llm {

using slim::context;

/// Y = X W^T + bias + (X L) R, or Y += that, from packed codes if there are some.
/// With `round_input`, X is copied and rounded first, for W and for the adapters alike. X (tokens, d_in), Y (tokens, d_out).
/// @throws slim::shape_error.
void apply_into(linear const& l, matrix_view<float const> x, matrix_view<float> y, context const& ctx = {},
                slim::destination mode = slim::destination::overwrite);

/// The same into a new matrix; an empty linear gives an empty matrix.
[[nodiscard]] matrix<float> apply(linear const& l, matrix_view<float const> x, context const& ctx = {});

/// `apply` of one or more linears that read the same X (tokens, d_in); in one parallel region if all are packed alike.
[[nodiscard]] std::vector<matrix<float>> apply_each(std::initializer_list<linear const*> group, matrix_view<float const> x,
                                                    context const& ctx = {});

/// Called by run_block with the input X of a group of linears before they are applied. It may change them.
using group_observer = std::function<void(linear_group const&, matrix_view<float const> x)>;

/// Computes with the configuration, embedding and final norm of `m`; blocks are handed in, so that those of an edited copy
/// may be used. Refers to `m` and to the executor of `ctx`; both must outlive it.
class forward_pass {
public:
  /// @param window tokens per window. @throws slim::config_error if it is below 1 or beyond what the model can do.
  forward_pass(model const& m, index_t window, context const& ctx = {});

  /// Hidden states of tokens (whole windows). @throws slim::shape_error unless tokens fill whole windows,
  /// slim::config_error on an id outside the vocabulary.
  [[nodiscard]] matrix<float> embed(std::span<int const> tokens) const;
  /// The same for tokens that stand at `position` and on of one window.
  [[nodiscard]] matrix<float> embed_at(std::span<int const> tokens, index_t position) const;

  [[nodiscard]] matrix<float> attention_input(block const& b, matrix_view<float const> hidden) const;
  /// Head norms, rotary positions and causal attention per window. q (tokens, q_size), k and v (tokens, kv_size).
  [[nodiscard]] matrix<float> attention_mix(block const& b, matrix<float> q, matrix<float> k, matrix<float> v) const;
  /// The same for tokens at `position` and on of one window, whose earlier keys and values are in `cache`; those of the tokens
  /// are put behind them.
  [[nodiscard]] matrix<float> attention_mix_cached(block const& b, matrix<float> q, matrix<float> k, matrix<float> const& v,
                                                   index_t position, attention_cache& cache) const;
  void add_attention_output(block const& b, matrix_view<float const> mixed, matrix_view<float> hidden) const;
  [[nodiscard]] matrix<float> mlp_input(block const& b, matrix_view<float const> hidden) const;
  /// silu(gate) * up, or relu(up) if gate is empty.
  [[nodiscard]] matrix<float> mlp_mix(block const& b, matrix<float> gate, matrix<float> up) const;
  void add_mlp_output(block const& b, matrix_view<float const> mixed, matrix_view<float> hidden) const;

  /// The whole block, hidden states in place.
  void run_block(block const& b, matrix_view<float> hidden) const;
  /// The same, handing the input of each group of linears to `observe` before they run.
  void run_block(block& b, matrix_view<float> hidden, group_observer const& observe) const;

  /// What the head multiplies: final norm (and OPT-350M's project_out) of any rows of the hidden states.
  [[nodiscard]] matrix<float> head_input(matrix_view<float const> hidden) const;
  /// Logits of tokens first .. first + logits.cols() - 1 for rows of head_input. logits (rows, count).
  void logits_into(matrix_view<float const> head_in, index_t first, matrix_view<float> logits) const;
  /// Negative log-likelihood, in nats, of targets[i] after row i of head_in. Never holds rows x vocab logits.
  [[nodiscard]] std::vector<double> token_nll(matrix_view<float const> head_in, std::span<int const> targets) const;

  [[nodiscard]] index_t window() const { return window_; }

private:
  [[nodiscard]] matrix<float> normalized(norm const& n, matrix_view<float const> x) const;
  void normalize_into(norm const& n, matrix_view<float const> x, matrix_view<float> y) const;
  void normalize_row(norm const& n, float const* x, float* y, index_t size) const;
  void rotate(norm const& head_norm, matrix_view<float> x, index_t heads, index_t position = 0) const;
  void attend_all(matrix_view<float const> q, matrix_view<float const> k, matrix_view<float const> v, index_t before,
                  matrix_view<float> out) const;
  void attend_to_cache(matrix_view<float const> q, attention_cache const& cache, index_t visible, matrix_view<float> out) const;
  void attend(matrix_view<float const> q, matrix_view<float const> k, matrix_view<float const> v, index_t head, index_t before,
              matrix_view<float> out) const;

  model const& model_;
  index_t window_;
  context ctx_;
  matrix<float> cos_, sin_; ///< (window, head_dim / 2)
};

} // namespace slim_llm
