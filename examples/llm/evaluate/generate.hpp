#pragma once
/// @file
/// Text from a model, one token after the other: the forward pass with the keys and values of earlier tokens kept. Several
/// texts grow side by side, through products of several tokens.

#include "models/attention_cache.hpp"
#include "models/forward.hpp"

#include "slim/kernels/packed_linear.hpp"

#include <optional>

namespace slim_llm {

/// How the next token is chosen.
struct sampling {
  double temperature = 0; ///< 0: the likeliest token; else from the softmax of logits / temperature
  std::uint64_t seed = 0;
};

struct generation_config {
  bool packed_head = false;                                 ///< the output head runs on 8-bit codes in groups of 32
  slim::number_format kv_cache = slim::number_format::fp16; ///< of keys and values
};

/// A text that grows: keys and values of its tokens. Made by generation::begin.
class growing_text {
public:
  [[nodiscard]] index_t size() const { return size_; }

private:
  friend class generation;
  std::vector<attention_cache> caches_; ///< of the blocks
  index_t size_ = 0, longest_ = 0;
};

/// Tokens to be appended to a text.
struct appended_tokens {
  growing_text* text;
  std::span<int const> tokens;
};

/// Lets texts grow. The model's blocks must be in memory (load_into_memory). Refers to the model and the executor of `ctx`;
/// both must outlive it.
class generation {
public:
  /// @param longest tokens that a text may have. @throws slim::config_error if the model cannot do so many, or keeps no cache
  /// in that format.
  generation(model const& m, index_t longest, generation_config const& config = {}, context const& ctx = {});

  /// An empty text with room for `longest` tokens, at most as many as above; 0: as many.
  [[nodiscard]] growing_text begin(index_t longest = 0) const;

  /// Appends tokens to texts, each given once, and returns the logits of what comes next, a row per part. A row does not
  /// depend on the other parts. @throws slim::config_error beyond a text's room or outside the vocabulary, and if a key or a
  /// value does not fit into the cache; slim::shape_error without tokens.
  [[nodiscard]] matrix<float> append(std::span<appended_tokens const> parts) const;
  /// The same of one text.
  [[nodiscard]] matrix<float> append(growing_text& text, std::span<int const> tokens) const;

private:
  model const& model_;
  context ctx_;
  generation_config config_;
  forward_pass pass_;
  std::optional<slim::r16_matrix> head_;
};

/// The token that `how` chooses; `drawn` counts draws, so that the same seed gives the same text.
[[nodiscard]] int choose_token(std::span<float const> logits, sampling const& how, std::uint64_t drawn);

} // namespace slim_llm
