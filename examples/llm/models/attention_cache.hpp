#pragma once
/// @file
/// Keys and values of the tokens of a text, of one block of a model, in the order in which attention reads them.

#include "slim/core/aligned_bytes.hpp"
#include "slim/core/context.hpp"
#include "slim/core/scalar.hpp"

namespace slim_llm {

using slim::context;
using slim::index_t;
using slim::matrix_view;

/// Per head, blocks of 64 positions: keys with positions side by side, [block][channel][64], so that scores of 64 positions are
/// sums of vectors; values [position][channel], room for channels filled up to a multiple of 64. As floats or fp16.
class attention_cache {
public:
  static constexpr index_t block = 64;

  /// @throws slim::config_error if `format` is bf16.
  attention_cache(index_t longest, index_t heads, index_t head_dim, slim::number_format format);

  /// Rows of k and v (tokens, heads * head_dim), rotated already, are those of `position` and on. fp16 rounds them to nearest,
  /// ties to even. @throws slim::config_error if one of them is beyond the largest number of fp16, or NaN.
  void put(index_t position, matrix_view<float const> k, matrix_view<float const> v, context const& ctx = {});

  /// Of a head: keys of the block that `position` begins, and values from there on.
  [[nodiscard]] void const* keys_from(index_t head, index_t position) const;
  [[nodiscard]] void const* values_from(index_t head, index_t position) const;
  [[nodiscard]] bool is_fp16() const { return format_ == slim::number_format::fp16; }
  [[nodiscard]] index_t head_dim() const { return head_dim_; }
  [[nodiscard]] index_t padded_dim() const { return padded_dim_; }

private:
  template <class Stored>
  void put_head(index_t head, index_t position, matrix_view<float const> k, matrix_view<float const> v, context const& ctx);
  [[nodiscard]] index_t key_at(index_t head, index_t position) const;
  [[nodiscard]] index_t value_at(index_t head, index_t position) const;

  index_t heads_, head_dim_, padded_dim_, blocks_;
  slim::number_format format_;
  slim::aligned_bytes keys_, values_;
};

/// Tokens at the end of a text that grows, whose keys and values so far lie in a cache.
struct grown_text {
  attention_cache* cache = nullptr;
  index_t tokens = 0;
  index_t position = 0; ///< of the first of them
};

} // namespace slim_llm
