#pragma once
/// @file
/// A family of models: all that the program must know to load, run and compress them, as data. A block is a list of stages;
/// a stage is a group of linears that read the same input. The forward pass runs the stages in order; the compressor observes
/// the input of a stage, compresses its linears and moves on. One file per family in models/families; they are found by the
/// table in models/family.cpp. docs/developing/architecture.md shows how to add one.

#include "models/attention_cache.hpp"
#include "models/config_reader.hpp"
#include "models/model.hpp"

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace slim_llm {

class forward_pass;

/// What a block's stages read and change, for whole windows of tokens or for new tokens of texts.
struct block_state {
  matrix<float> hidden;               ///< the residual stream (tokens, hidden)
  std::vector<matrix<float>> carried; ///< what one stage computes and a later one reads; numbered by the family
  std::vector<grown_text> texts;      ///< whose tokens the rows are, one text behind the other; empty: whole windows

  /// Carried value number `k`; empty at first.
  [[nodiscard]] matrix<float>& carry(std::size_t k) {
    if (carried.size() <= k) carried.resize(k + 1);
    return carried[k];
  }
};

struct adjoint_scope;
struct block_gradient;

/// What the functions of a stage become when gradients run backwards, see models/backward.hpp. Each takes the gradient of the
/// block's state behind its function and leaves that of the state before it.
struct stage_adjoint {
  /// Of stage::input: adds what dX, the gradient of X (tokens, d_in), makes of it.
  std::function<void(adjoint_scope const&, matrix<float> dx, block_gradient&)> input;
  /// Of stage::combine: returns the gradients of the linears' outputs, in the order of the linears.
  std::function<std::vector<matrix<float>>(adjoint_scope const&, block_gradient&)> combine = {};
  /// Of stage::after_addition.
  std::function<void(adjoint_scope const&, block_gradient&)> after_addition = {};
};

/// Linears of a block that read the same input X (tokens, d_in), and what their outputs become.
struct stage {
  std::vector<std::string> linears; ///< roles, in the order in which `combine` gets their outputs

  /// X of the linears. It is called more than once and must not consume anything.
  std::function<matrix<float>(forward_pass const&, block const&, block_state&)> input;

  /// Uses the outputs (tokens, d_out) of the linears: to compute what a later stage reads, or to change the hidden states.
  /// Null: the stage ends a residual branch. The output of its only linear is added to the hidden states.
  std::function<void(forward_pass const&, block const&, block_state&, std::vector<matrix<float>>)> combine = {};

  /// Follows that addition; may be null. OPT-350M normalizes here, a router decides here.
  std::function<void(forward_pass const&, block const&, block_state&)> after_addition = {};

  /// Carried values that say which rows X has. When outputs of the dense model are targets of a compressed one, the dense model
  /// takes these values from the compressed one, so that both have the same rows.
  std::vector<std::size_t> decided_by = {};

  /// Has a function where the stage has one. Without them the family's models are run and compressed, but not differentiated.
  stage_adjoint adjoint = {};

  [[nodiscard]] bool ends_residual_branch() const { return combine == nullptr; }
};

/// A norm of every block, and the tensor it lies in.
struct norm_tensor {
  std::string role;
  std::string name; ///< behind the block's prefix; the weight. The bias has the same name with "bias" for "weight"
  index_t size = 0;
};

enum class bias_rule {
  none,     ///< a bias in the file contradicts the configuration
  allowed,  ///< it is used if it is there
  required, ///< it must be there
};

/// A linear of every block, and the tensor it lies in.
struct linear_tensor {
  std::string role;
  std::string name; ///< as norm_tensor::name
  index_t d_out = 0, d_in = 0;
  bias_rule bias = bias_rule::none;
  index_t slice = -1; ///< of a tensor that stacks matrices of several linears; -1: the tensor is the matrix
  index_t slices = 0; ///< how many of its linears such a tensor stacks
  index_t below = 1;  ///< ... of which so many lie below each other in a matrix of the stack: gate and up of an expert
};

/// The tensors of a model by the names of one file format. Names of parts that the model lacks are empty.
struct tensor_layout {
  std::string embedding, positions, final_norm, head, project_in, project_out;
  std::string block_prefix; ///< in front of a block's tensors, before the block's number and a dot
  std::vector<norm_tensor> norms;
  std::vector<linear_tensor> linears;   ///< in order of execution
  std::vector<linear_tensor> kept = {}; ///< block::kept
  std::vector<std::string> left_out;    ///< prefixes of tensors that are no part of the text model: a vision tower
  float norm_offset = 0;                ///< is added to the weights of all norms: Gemma's folders hold them less 1
};

enum class norm_kind { rms, layer };
enum class position_kind { rotary, learned };

/// What a family says of rotary positions where a file may be silent.
struct rope_defaults {
  double theta = 10000;
  double local_theta = 0;           ///< of a second table, for blocks with a window; 0: there is one table
  index_t original_context = 0;     ///< where nothing names it; 0: the number of positions
  bool may_rotate_a_part = false;   ///< of a head
  bool yarn_means_longrope = false; ///< Phi-3's first configurations called it so
};

/// How a family is stored in one file format.
struct family_format {
  std::vector<std::string> names; ///< of model types, as files say them
  /// Reads what the loader has not read yet: all but layers, hidden size, heads and the vocabulary.
  void (*read_config)(config_reader&, model_config&, rope_defaults&) = nullptr;
  /// `root` is in front of all names that do not belong to the head.
  tensor_layout (*tensors)(model_config const&, std::string const& root) = nullptr;
  std::vector<std::string> roots = {""};              ///< roots that files may have; the embedding tells which
  activation_kind activation = activation_kind::silu; ///< of all models in GGUF, which has no key for it
  /// Another form that the same tensors may have: experts stacked. Files are in it if its last linear of the first block is
  /// there. Null: there is none.
  tensor_layout (*stacked_tensors)(model_config const&, std::string const& root) = nullptr;
};

struct model_family {
  char const* name = "";
  norm_kind norm = norm_kind::rms;
  position_kind positions = position_kind::rotary;
  /// A block's stages, in order of execution.
  std::vector<stage> (*stages)(model_config const&) = nullptr;
  family_format gguf = {}; ///< without names if GGUF knows no such model
  family_format hugging_face = {};
};

/// The names that a file's tensors have.
struct found_layout {
  tensor_layout tensors;
  std::string root;     ///< of format.roots
  bool stacked = false; ///< they are format.stacked_tensors
};

/// Which root and form of a format the tensors have for which `has(name)` holds; the first ones if the embedding is nowhere.
[[nodiscard]] found_layout find_layout(family_format const& format, model_config const& config,
                                       std::function<bool(std::string const&)> const& has);

/// All families.
[[nodiscard]] std::span<model_family const* const> families();

/// The family that reads models of type `name` in a format, `&model_family::gguf` or `&model_family::hugging_face`; or null.
[[nodiscard]] model_family const* find_family(family_format model_family::*format, std::string const& name);

/// "llama, qwen2 and qwen3": the types of models that can be read in a format.
[[nodiscard]] std::string known_types(family_format model_family::*format);

/// Roles of the linears of a block, in order of execution.
[[nodiscard]] std::vector<std::string> linear_roles(model_config const& config);

} // namespace slim_llm
