#include "models/attention_cache.hpp"

#include "models/elementwise.hpp"

#include <algorithm>
#include <type_traits>
#include <vector>

namespace slim_llm {
namespace {

constexpr index_t up_to_block(index_t n) {
  return (n + attention_cache::block - 1) / attention_cache::block * attention_cache::block;
}

bool all_finite(std::vector<std::uint16_t> const& bits) {
  return std::all_of(bits.begin(), bits.end(), [](std::uint16_t b) { return (b & 0x7c00) != 0x7c00; });
}

} // namespace

attention_cache::attention_cache(index_t longest, index_t heads, index_t head_dim, slim::number_format format)
    : heads_(heads), head_dim_(head_dim), padded_dim_(up_to_block(head_dim)), blocks_(up_to_block(longest) / block),
      format_(format) {
  if (format == slim::number_format::bf16) throw slim::config_error("a cache of keys and values holds fp16 or fp32, not bf16");
  index_t const rows = heads_ * blocks_ * block, bytes = slim::bit_width(format) / 8;
  keys_ = slim::aligned_bytes(rows * head_dim_ * bytes);
  values_ = slim::aligned_bytes(rows * padded_dim_ * bytes);
}

index_t attention_cache::key_at(index_t head, index_t position) const {
  return (head * blocks_ + position / block) * head_dim_ * block + position % block;
}

index_t attention_cache::value_at(index_t head, index_t position) const {
  return (head * blocks_ * block + position) * padded_dim_;
}

void const* attention_cache::keys_from(index_t head, index_t position) const {
  return keys_.data() + key_at(head, position) * (slim::bit_width(format_) / 8);
}

void const* attention_cache::values_from(index_t head, index_t position) const {
  return values_.data() + value_at(head, position) * (slim::bit_width(format_) / 8);
}

template <class Stored>
void attention_cache::put_head(index_t head, index_t position, matrix_view<float const> k, matrix_view<float const> v,
                               context const& ctx) {
  std::vector<Stored> row(static_cast<std::size_t>(head_dim_));
  auto const store = [&](float const* from, index_t t) {
    if constexpr (std::is_same_v<Stored, float>) {
      std::copy_n(from, head_dim_, row.data());
    } else {
      to_fp16(from, head_dim_, row.data(), ctx.simd);
      if (!all_finite(row))
        throw slim::config_error(slim::message("a key or value of the token at position ", position + t,
                                               " is NaN or beyond the largest number of fp16, 65504; keep keys and values "
                                               "as floats: --kv-cache fp32"));
    }
  };
  auto* const keys = reinterpret_cast<Stored*>(keys_.data());
  auto* const values = reinterpret_cast<Stored*>(values_.data());
  for (index_t t = 0; t < k.rows(); ++t) {
    store(k.row(t) + head * head_dim_, t);
    Stored* const to = keys + key_at(head, position + t);
    for (index_t d = 0; d < head_dim_; ++d) to[d * block] = row[static_cast<std::size_t>(d)];
    store(v.row(t) + head * head_dim_, t);
    std::copy_n(row.data(), head_dim_, values + value_at(head, position + t));
  }
}

void attention_cache::put(index_t position, matrix_view<float const> k, matrix_view<float const> v, context const& ctx) {
  constexpr index_t few = 16; // tokens that are no work for several threads
  ctx.parallel_for(heads_, k.rows() < few ? heads_ : 1, [&](index_t begin, index_t end) {
    for (index_t head = begin; head < end; ++head) {
      if (is_fp16())
        put_head<std::uint16_t>(head, position, k, v, ctx);
      else
        put_head<float>(head, position, k, v, ctx);
    }
  });
}

} // namespace slim_llm
