#pragma once
/// @file
/// A decoder-only language model: configuration, norms and weights. Blocks are in memory, or stay in the model's file and are
/// read one at a time. How blocks compute is said by the model's family (models/family.hpp). Weights keep the order that the
/// file has: what is read is what is written back.

#include "models/activation.hpp"
#include "models/stored_matrix.hpp"

#include "slim/kernels/packed_linear.hpp"

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace slim_llm {

struct model_family;

/// Which two elements of a head are rotated together.
enum class rope_style {
  rotate_half,    ///< j and j + head_dim / 2: Hugging Face, and GGUF files of Qwen2 and Qwen3
  adjacent_pairs, ///< 2j and 2j + 1: GGUF files of architecture "llama", whose q and k rows are permuted accordingly
};

/// What attention of one block may do and that of another may not.
struct block_attention {
  index_t window = 0; ///< a token sees itself and the window - 1 tokens before it; 0: all tokens before it
  int rotary = 0;     ///< which table of model::rotary turns its positions into angles; no_rotary: none does
  static constexpr int no_rotary = -1;

  friend bool operator==(block_attention const&, block_attention const&) = default;
};

/// How rotary positions become angles.
struct rotary_table {
  std::vector<double> frequencies; ///< angle per position of each rotated pair, scaling applied; at most head_dim / 2 of them
  std::vector<double> long_frequencies; ///< take their place in windows longer than original_context (longrope); else empty
  index_t original_context = 0;         ///< tokens that the model was first trained on, where long_frequencies need it
  index_t longest = 0;                  ///< longer windows need other frequencies, which are not computed; 0: none do
  double attention_factor = 1;          ///< cosines and sines are multiplied by this (yarn, longrope)
};

/// Tensors that some models of a family have and others do not.
struct optional_tensors {
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool head_norms = false;  ///< norms of the heads of q and k (Qwen3)
  bool norm_weights = true; ///< an OPT model may do without
  bool final_norm = true;
};

/// Everything about a model but its numbers.
struct model_config {
  model_family const* family = nullptr;
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
  activation_kind activation = activation_kind::silu; ///< of MLPs
  bool tied_embeddings = true;
  optional_tensors has;
  rope_style rope = rope_style::rotate_half;
  bool norm_before = true;                ///< false: OPT-350M normalizes after each residual addition, and not at the end
  std::vector<block_attention> attention; ///< of each block; empty: all blocks see all tokens and use the first rotary table
  double attention_scale = 0;             ///< of the scores; 0: 1 / sqrt(head_dim)
  double attention_soft_cap = 0;          ///< scores s become cap tanh(s / cap); 0: they stay
  double logit_soft_cap = 0;              ///< the same for logits
  double embedding_scale = 1;             ///< embeddings are multiplied by this (Gemma: the root of `hidden`)
  index_t experts = 0;                    ///< MLPs of a block that a router chooses from; 0: one MLP, no router
  index_t experts_per_token = 0;          ///< how many the router chooses
  bool normalize_expert_weights = false;  ///< weights of the chosen experts are divided by their sum

  [[nodiscard]] index_t q_size() const { return heads * head_dim; }
  [[nodiscard]] index_t kv_size() const { return kv_heads * head_dim; }
  [[nodiscard]] block_attention attention_of(index_t number) const {
    return attention.empty() ? block_attention{} : attention[static_cast<std::size_t>(number)];
  }
};

/// Y = X W^T + bias, with what compression may add to it. All optional members may be empty.
struct linear {
  std::string role;                                    ///< what it is in its block: "q", "down"
  std::string name;                                    ///< tensor name of the weight in the file it came from
  matrix<float> weight;                                ///< (d_out, d_in); may be empty where `packed` is set
  std::vector<float> bias;                             ///< (d_out)
  matrix<float> L, R;                                  ///< adapters (d_in, r), (r, d_out): Y += (X L) R
  std::function<void(matrix_view<float>)> round_input; ///< rounds a copy of X in place (FP8, int8) before any product
  matrix<float> rest_L, rest_R;                      ///< if set: Y += ((X - rounded X) rest_L) rest_R, so that this part of the
                                                     ///< weight reads inputs as they come (SVDQuant's branch)
  std::shared_ptr<slim::packed_linear const> packed; ///< if set, runs in place of weight, L and R
  slim::input_precision packed_inputs = slim::input_precision::int8;

  [[nodiscard]] index_t d_in() const { return packed ? packed->cols() : weight.cols(); }
  [[nodiscard]] index_t d_out() const { return packed ? packed->rows() : weight.rows(); }
  [[nodiscard]] bool empty() const { return weight.empty(); }
};

/// RMSNorm (no bias) or LayerNorm, as the family says. An empty weight means: not there.
struct norm {
  std::string role; ///< what it is in its block: "attention_norm"
  std::string name;
  std::vector<float> weight;
  std::vector<float> bias;
};

/// One decoder layer: the norms and linears that its family lists, found by their roles.
struct block {
  std::vector<norm> norms;
  std::vector<linear> linears; ///< in order of execution
  std::vector<linear> kept;    ///< linears that are no part of a stage and stay as they are: a router
  block_attention attention;

  /// The linear of a role. @throws slim::config_error if the block has none.
  [[nodiscard]] linear& operator[](std::string_view role);
  [[nodiscard]] linear const& operator[](std::string_view role) const;
  /// The kept linear of a role. @throws slim::config_error if the block has none.
  [[nodiscard]] linear const& find_kept(std::string_view role) const;
  /// The norm of a role, or null.
  [[nodiscard]] norm* find_norm(std::string_view role);
  [[nodiscard]] norm const* find_norm(std::string_view role) const;
};

/// A matrix of a tensor that stacks matrices has the tensor's name and "[3]" behind; this is the name without that.
[[nodiscard]] std::string tensor_of(std::string const& linear_name);
/// The other way: the name of matrix `slice` of a tensor.
[[nodiscard]] std::string slice_name(std::string const& tensor, index_t slice);

/// A linear of a model by name and shape.
struct linear_info {
  std::string name, role;
  index_t d_out = 0, d_in = 0;
};

/// A whole model. Its blocks are either in `blocks` or in a file.
struct model {
  model_config config;
  stored_matrix embedding;          ///< (vocab, embedding_dim); also the head if tied
  matrix<float> positions;          ///< learned positions (max_positions + 2, hidden), row = position + 2; else empty
  std::vector<rotary_table> rotary; ///< one or two; empty without rotary positions
  linear project_in, project_out;   ///< OPT-350M: embedding_dim <-> hidden; else empty
  norm final_norm;
  stored_matrix head;        ///< (vocab, embedding_dim); empty if tied
  std::string repeated_head; ///< tensor of the file that holds the embedding a second time, as the head; empty if none does

  std::vector<block> blocks; ///< in memory
  /// Reads a block of the file, with its weights as floats, and keeps nothing of it in memory. Empty if blocks are in memory.
  std::function<block(index_t number, context const&)> read_block;
  std::vector<linear_info> file_linears; ///< of all blocks in the file, in order
  std::vector<std::string> notes;        ///< what loading passed over or decided, a sentence each, for the user to see

  /// What the logits are computed with.
  [[nodiscard]] stored_matrix const& output_head() const { return head.empty() ? embedding : head; }
};

/// A copy of block `number`, from memory or from the file.
[[nodiscard]] block load_block(model const& m, index_t number, context const& ctx = {});

/// Calls `f` with block `number`, which is only copied if it comes from the file.
template <class F>
void with_block(model const& m, index_t number, context const& ctx, F const& f) {
  if (!m.blocks.empty()) return f(m.blocks[static_cast<std::size_t>(number)]);
  block const read = m.read_block(number, ctx);
  f(read);
}

/// Brings all blocks into memory, for work that needs them again and again.
void load_blocks(model& m, context const& ctx = {});
/// The same with the output head as floats.
void load_into_memory(model& m, context const& ctx = {});

/// The linears of all blocks, in order.
[[nodiscard]] std::vector<linear_info> linears_of(model const& m);

/// Number of weights of the linears of all blocks: what compression works on.
[[nodiscard]] index_t linear_weight_count(model const& m);

} // namespace slim_llm
