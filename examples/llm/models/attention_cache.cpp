#include "models/attention_cache.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

constexpr index_t up_to_block(index_t n) {
  return (n + attention_cache::block - 1) / attention_cache::block * attention_cache::block;
}

} // namespace

attention_cache::attention_cache(index_t longest, index_t heads, index_t head_dim)
    : heads_(heads), head_dim_(head_dim), padded_dim_(up_to_block(head_dim)), blocks_(up_to_block(longest) / block),
      keys_(static_cast<std::size_t>(heads_ * blocks_ * block * head_dim_)),
      values_(static_cast<std::size_t>(heads_ * blocks_ * block * padded_dim_)) {}

index_t attention_cache::key_at(index_t head, index_t position) const {
  return (head * blocks_ + position / block) * head_dim_ * block + position % block;
}

index_t attention_cache::value_at(index_t head, index_t position) const {
  return (head * blocks_ * block + position) * padded_dim_;
}

void attention_cache::put(index_t position, matrix_view<float const> k, matrix_view<float const> v) {
  for (index_t t = 0; t < k.rows(); ++t)
    for (index_t h = 0; h < heads_; ++h) {
      float const* const key = k.row(t) + h * head_dim_;
      float* const to = keys_.data() + key_at(h, position + t);
      for (index_t d = 0; d < head_dim_; ++d) to[d * block] = key[d];
      std::copy_n(v.row(t) + h * head_dim_, head_dim_, values_.data() + value_at(h, position + t));
    }
}

matrix<float> attention_cache::keys(index_t count) const {
  matrix<float> out(count, heads_ * head_dim_);
  for (index_t t = 0; t < count; ++t)
    for (index_t h = 0; h < heads_; ++h) {
      float const* const key = keys_.data() + key_at(h, t);
      for (index_t d = 0; d < head_dim_; ++d) out(t, h * head_dim_ + d) = key[d * block];
    }
  return out;
}

matrix<float> attention_cache::values(index_t count) const {
  matrix<float> out(count, heads_ * head_dim_);
  for (index_t t = 0; t < count; ++t)
    for (index_t h = 0; h < heads_; ++h) std::copy_n(values_.data() + value_at(h, t), head_dim_, out.row(t) + h * head_dim_);
  return out;
}

} // namespace slim_llm
