#include "models/attention.hpp"

#include "slim/core/matrix.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

constexpr index_t key_block = attention_cache::block;
constexpr index_t span_positions = 4 * key_block;
constexpr index_t rows_per_tile = 64; ///< their scores of a span, queries and outputs should stay in the second-level cache
constexpr index_t few_rows = 8;       ///< so few rows convert fp16 as they go, more rows share converted blocks

/// Tokens of one text and the heads of q that share a head of the cache: a row each, head by head for every token.
class tile {
public:
  tile(attention_cache const& cache, index_t kv_head, index_t heads, index_t tokens, attention_rule const& rule,
       slim::simd_level simd)
      : cache_(cache), kv_head_(kv_head), heads_(heads), rows_(heads * tokens), rule_(rule), simd_(simd),
        q_(rows_, cache.head_dim()), out_(rows_, cache.padded_dim()), scores_(rows_, span_positions),
        state_(static_cast<std::size_t>(rows_)) {
    if (cache.is_fp16() && rows_ > few_rows) widened_.resize(static_cast<std::size_t>(key_block * cache.padded_dim()));
  }

  /// Queries of the tokens from `position` on: rows of `q`, cut to the heads of this tile; the same of `out`.
  void run(matrix_view<float const> q, index_t position, matrix_view<float> out) {
    index_t const dim = cache_.head_dim();
    for (index_t i = 0; i < rows_; ++i) std::copy_n(q.row(i / heads_) + i % heads_ * dim, dim, q_.row(i));
    index_t const end = position + q.rows();
    index_t const first = visible_to(position, rule_.reach).first / span_positions * span_positions;
    for (index_t begin = first; begin < end; begin += span_positions)
      add_span(begin, std::min(end - begin, span_positions), position);
    for (index_t i = 0; i < rows_; ++i) {
      float const inverse = 1.0f / state_[static_cast<std::size_t>(i)].sum;
      float* const to = out.row(i / heads_) + i % heads_ * dim;
      for (index_t d = 0; d < dim; ++d) to[d] = out_(i, d) * inverse;
    }
  }

private:
  struct running {
    float largest = 0, sum = 0;
    bool begun = false;
  };

  /// Positions begin .. begin + count - 1.
  void add_span(index_t begin, index_t count, index_t position) {
    index_t const dim = cache_.head_dim(), padded = cache_.padded_dim();
    for (index_t b = 0; b < count; b += key_block)
      multiply_panels({.a = q_.data(),
                       .a_stride = dim,
                       .rows = rows_,
                       .inner = dim,
                       .b = panel(cache_.keys_from(kv_head_, begin + b), key_block * dim),
                       .is_fp16 = panel_is_fp16(),
                       .b_stride = key_block,
                       .columns = key_block,
                       .c = scores_.data() + b,
                       .c_stride = span_positions,
                       .add = false},
                      simd_);
    for (index_t i = 0; i < rows_; ++i) weigh(i, begin, count, position + i / heads_);
    for (index_t b = 0; b < count; b += key_block) {
      index_t const some = std::min(key_block, count - b);
      multiply_panels({.a = scores_.data() + b,
                       .a_stride = span_positions,
                       .rows = rows_,
                       .inner = some,
                       .b = panel(cache_.values_from(kv_head_, begin + b), some * padded),
                       .is_fp16 = panel_is_fp16(),
                       .b_stride = padded,
                       .columns = padded,
                       .c = out_.data(),
                       .c_stride = padded,
                       .add = true},
                      simd_);
    }
  }

  /// Scores of a row, of the token at `position`, become weights; what it has summed before is rescaled if they are larger.
  void weigh(index_t i, index_t begin, index_t count, index_t position) {
    visible_keys const all = visible_to(position, rule_.reach);
    index_t const first = std::max(all.first - begin, index_t{0}), end = std::min(all.end - begin, count);
    float* const row = scores_.row(i);
    if (first >= end) return std::fill(row, row + count, 0.0f);
    float* const seen = row + first;
    float scale = rule_.scale;
    if (rule_.soft_cap > 0) {
      cap_softly({seen, 1, end - first}, scale, rule_.soft_cap);
      scale = 1.0f;
    }
    running& s = state_[static_cast<std::size_t>(i)];
    float const largest = max_of(seen, end - first, simd_);
    if (!s.begun || largest > s.largest) {
      float factor = s.largest;
      if (s.begun) {
        (void)exp_inplace(&factor, 1, largest, scale, simd_);
        s.sum *= factor;
        for (index_t d = 0; d < out_.cols(); ++d) out_(i, d) *= factor;
      }
      s.largest = largest;
      s.begun = true;
    }
    s.sum += exp_inplace(seen, end - first, s.largest, scale, simd_);
    std::fill(row, seen, 0.0f);
    std::fill(row + end, row + count, 0.0f);
  }

  [[nodiscard]] bool panel_is_fp16() const { return cache_.is_fp16() && widened_.empty(); }

  /// Numbers of the cache as this tile multiplies them.
  [[nodiscard]] void const* panel(void const* stored, index_t numbers) {
    if (widened_.empty()) return stored;
    from_fp16(static_cast<std::uint16_t const*>(stored), numbers, widened_.data(), simd_);
    return widened_.data();
  }

  attention_cache const& cache_;
  index_t kv_head_, heads_, rows_;
  attention_rule rule_;
  slim::simd_level simd_;
  slim::matrix<float> q_, out_, scores_;
  std::vector<running> state_;
  std::vector<float> widened_; ///< a block of keys or values; empty: they are multiplied as they are stored
};

} // namespace

void attend(matrix_view<float const> q, index_t heads, index_t kv_heads, std::span<grown_text const> texts,
            attention_rule const& rule, matrix_view<float> out, context const& ctx) {
  index_t const shared = heads / kv_heads, tokens_per_tile = std::max<index_t>(1, rows_per_tile / shared);
  struct task {
    attention_cache const* cache;
    index_t row, tokens, position, kv_head;
  };
  std::vector<task> tasks;
  for (index_t row = 0; grown_text const& text : texts) {
    for (index_t kv_head = 0; kv_head < kv_heads; ++kv_head)
      for (index_t first = 0; first < text.tokens; first += tokens_per_tile)
        tasks.push_back(
            {text.cache, row + first, std::min(tokens_per_tile, text.tokens - first), text.position + first, kv_head});
    row += text.tokens;
  }
  ctx.parallel_for(static_cast<index_t>(tasks.size()), 1, [&](index_t begin, index_t end) {
    for (index_t k = begin; k < end; ++k) {
      task const& t = tasks[static_cast<std::size_t>(k)];
      index_t const columns = shared * t.cache->head_dim();
      tile(*t.cache, t.kv_head, shared, t.tokens, rule, ctx.simd)
          .run(q.block(t.row, t.kv_head * columns, t.tokens, columns), t.position,
               out.block(t.row, t.kv_head * columns, t.tokens, columns));
    }
  });
}

} // namespace slim_llm
