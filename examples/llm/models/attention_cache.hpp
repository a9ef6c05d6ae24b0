#pragma once
/// @file
/// Keys and values of the tokens so far, of one block of a model, in the order in which a single new token reads them.

#include "slim/core/matrix.hpp"

#include <vector>

namespace slim_llm {

using slim::index_t;
using slim::matrix;
using slim::matrix_view;

/// Per head, blocks of 64 positions: keys with positions side by side, [block][channel][64], so that scores of 64 positions are
/// sums of vectors; values [position][channel], channels filled up to 64 with zeros.
class attention_cache {
public:
  static constexpr index_t block = 64;

  attention_cache(index_t longest, index_t heads, index_t head_dim);

  /// Rows of k and v (tokens, heads * head_dim), rotated already, are those of `position` and on.
  void put(index_t position, matrix_view<float const> k, matrix_view<float const> v);
  /// The first `count` positions as put in: (count, heads * head_dim).
  [[nodiscard]] matrix<float> keys(index_t count) const;
  [[nodiscard]] matrix<float> values(index_t count) const;

  [[nodiscard]] float const* keys_of(index_t head) const { return keys_.data() + key_at(head, 0); }
  [[nodiscard]] float const* values_of(index_t head) const { return values_.data() + value_at(head, 0); }
  [[nodiscard]] index_t padded_dim() const { return padded_dim_; }

private:
  [[nodiscard]] index_t key_at(index_t head, index_t position) const;
  [[nodiscard]] index_t value_at(index_t head, index_t position) const;

  index_t heads_, head_dim_, padded_dim_, blocks_;
  std::vector<float> keys_, values_;
};

} // namespace slim_llm
