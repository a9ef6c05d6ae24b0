#pragma once
/// @file
/// Text from a model, one token after the other: the forward pass with the keys and values of earlier tokens kept.

#include "models/forward.hpp"

#include "slim/kernels/packed_linear.hpp"

#include <optional>

namespace slim_llm {

/// How the next token is chosen.
struct sampling {
  double temperature = 0; ///< 0: the likeliest token; else from the softmax of logits / temperature
  std::uint64_t seed = 0;
};

/// A text that grows. The model's blocks must be in memory (load_into_memory). Refers to the model and the executor of `ctx`;
/// both must outlive it.
class generation {
public:
  /// @param longest tokens that the text may have. The output head runs on 8-bit codes in groups of 32 if `packed_head`.
  /// @throws slim::config_error if the model cannot do so many.
  generation(model const& m, index_t longest, bool packed_head, context const& ctx = {});

  /// Appends tokens and returns the logits of what comes next. @throws slim::config_error beyond `longest` or outside the
  /// vocabulary; slim::shape_error without tokens.
  [[nodiscard]] std::vector<float> append(std::span<int const> tokens);
  [[nodiscard]] index_t size() const { return size_; }

private:
  model const& model_;
  context ctx_;
  forward_pass pass_;
  std::vector<attention_cache> caches_;
  std::optional<slim::r16_matrix> head_;
  index_t size_ = 0;
};

/// The token that `how` chooses; `drawn` counts draws, so that the same seed gives the same text.
[[nodiscard]] int choose_token(std::span<float const> logits, sampling const& how, std::uint64_t drawn);

} // namespace slim_llm
