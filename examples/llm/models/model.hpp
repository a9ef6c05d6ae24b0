#pragma once
/// @file
/// A decoder-only language model in memory: configuration, float weights, and the order in which its linear layers run.
/// Two families: `llama` (Llama, Mistral, SmolLM, Qwen2, Qwen3: RMSNorm, rotary positions, gated MLP) and `opt` (LayerNorm,
/// learned positions, ReLU MLP). Weights stay as the file has them: what is read is what is written back.

#include "slim/core/matrix.hpp"
#include "slim/kernels/packed_linear.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace slim_llm {

using slim::index_t;
using slim::matrix;
using slim::matrix_view;

enum class architecture { llama, opt };

/// Which two elements of a head are rotated together.
enum class rope_style {
  rotate_half,    ///< j and j + head_dim / 2: Hugging Face, and GGUF files of Qwen2 and Qwen3
  adjacent_pairs, ///< 2j and 2j + 1: GGUF files of architecture "llama", whose q and k rows are permuted accordingly
};

/// Everything about a model but its numbers.
struct model_config {
  architecture family = architecture::llama;
  std::string name; ///< as the file says it: "llama", "mistral", "qwen2", "qwen3", "opt"
  index_t layers = 0;
  index_t hidden = 0;
  index_t heads = 0;
  index_t kv_heads = 0; ///< divides heads; each serves heads / kv_heads query heads
  index_t head_dim = 0;
  index_t intermediate = 0;
  index_t vocab = 0;
  index_t embedding_dim = 0; ///< columns of the embedding; differs from `hidden` in OPT-350M only
  index_t max_positions = 0; ///< longest window the model was made for; 0 if the file does not say
  double norm_epsilon = 1e-5;
  bool tied_embeddings = true;
  rope_style rope = rope_style::rotate_half;
  bool norm_before = true;    ///< false: OPT-350M normalises after each residual addition, and not at the end
  index_t sliding_window = 0; ///< attention reaches back this many tokens; 0 = all. Longer windows are refused by forward_pass
  int bos = -1;               ///< id of the begin-of-text token, -1 if there is none
  bool add_bos = false;       ///< the file asks for `bos` in front of every text

  [[nodiscard]] index_t q_size() const { return heads * head_dim; }
  [[nodiscard]] index_t kv_size() const { return kv_heads * head_dim; }
};

/// Y = X W^T + bias, with what compression may add to it. All optional members may be empty.
struct linear {
  std::string name;                                    ///< tensor name of the weight in the file it came from
  matrix<float> weight;                                ///< (d_out, d_in)
  std::vector<float> bias;                             ///< (d_out)
  matrix<float> L, R;                                  ///< adapters (d_in, r), (r, d_out): Y += (X L) R
  std::function<void(matrix_view<float>)> round_input; ///< rounds a copy of X in place (FP8, int8) before any product
  std::shared_ptr<slim::packed_linear const> packed;   ///< if set, runs in place of weight, L and R
  slim::input_precision packed_inputs = slim::input_precision::int8;

  [[nodiscard]] index_t d_in() const { return weight.cols(); }
  [[nodiscard]] index_t d_out() const { return weight.rows(); }
  [[nodiscard]] bool empty() const { return weight.empty(); }
};

/// RMSNorm (llama; no bias) or LayerNorm (opt). An empty weight means: not there.
struct norm {
  std::string name;
  std::vector<float> weight;
  std::vector<float> bias;
};

/// One decoder layer. OPT: fc1 is `up`, fc2 is `down`, `gate` is empty.
struct block {
  norm attention_norm, mlp_norm;
  norm q_norm, k_norm; ///< per head (Qwen3), else empty
  linear q, k, v, o, gate, up, down;
};

/// A whole model.
struct model {
  model_config config;
  std::string embedding_name;
  matrix<float> embedding;              ///< (vocab, embedding_dim); also the head if tied
  matrix<float> positions;              ///< OPT: (max_positions + 2, hidden), row = position + 2; else empty
  std::vector<double> rope_frequencies; ///< llama: angle per position of pair j, head_dim / 2 values, scaling applied
  linear project_in, project_out;       ///< OPT-350M: embedding_dim <-> hidden; else empty
  std::vector<block> blocks;
  norm final_norm;
  linear head; ///< (vocab, embedding_dim); empty if tied
};

/// Where the linears of a block take their input from, in order of execution.
enum class stage { attention_input, attention_mix, mlp_input, mlp_mix };

/// Linears that read the same input X.
struct linear_group {
  stage input;
  std::vector<linear*> members;
};

/// {q, k, v}, {o}, {gate, up}, {down}; OPT: {q, k, v}, {o}, {fc1}, {fc2}. Pointers into `b`.
[[nodiscard]] std::vector<linear_group> linear_groups(block& b);

/// "q", "k", ... "down": the role of one of b's linears.
[[nodiscard]] std::string role_of(block const& b, linear const& member);

/// Number of weights of the linears of all blocks: what compression works on.
[[nodiscard]] index_t linear_weight_count(model const& m);

} // namespace slim_llm
