#include "models/forward.hpp"

#include "models/elementwise.hpp"

#include <algorithm>
#include <cmath>

namespace slim_llm {
namespace {

constexpr index_t rows_per_task = 16;     // elementwise work
constexpr index_t queries_per_task = 128; // scores of one attention task: 128 x window floats
constexpr index_t logit_columns = 4096;   // logits at a time: rows x 4096 floats

void require_columns(char const* what, index_t have, index_t want) {
  if (have != want) throw slim::shape_error(slim::message(what, ": has ", have, " columns, needs ", want));
}

void add_bias(std::vector<float> const& bias, matrix_view<float> y, context const& ctx) {
  if (bias.empty()) return;
  float const* const values = bias.data();
  ctx.parallel_for(y.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      float* const row = y.row(i);
      for (index_t j = 0; j < y.cols(); ++j) row[j] += values[j];
    }
  });
}

/// Turns scores of query i into unnormalised attention weights over keys 0 .. query_begin + i; later keys get exactly 0.
/// Returns the inverse sum of each row.
std::vector<float> causal_softmax(matrix_view<float> scores, index_t query_begin, float scale, slim::simd_level simd) {
  std::vector<float> inverse_sums;
  for (index_t i = 0; i < scores.rows(); ++i) {
    float* const row = scores.row(i);
    index_t const visible = query_begin + i + 1;
    inverse_sums.push_back(1.0f / exp_inplace(row, visible, max_of(row, visible, simd), scale, simd));
    std::fill(row + visible, row + scores.cols(), 0.0f);
  }
  return inverse_sums;
}

} // namespace

void apply_into(linear const& l, matrix_view<float const> x, matrix_view<float> y, context const& ctx, slim::destination mode) {
  if (x.cols() != l.d_in() || y.cols() != l.d_out() || x.rows() != y.rows())
    throw slim::shape_error(slim::message("apply_into: ", l.name, " is ", l.d_out(), " x ", l.d_in(), ", X is ", x.rows(),
                                          " x ", x.cols(), ", Y is ", y.rows(), " x ", y.cols()));
  matrix<float> rounded;
  if (l.round_input) {
    rounded = matrix<float>(x);
    l.round_input(rounded.view());
    x = rounded;
  }
  if (l.packed) {
    bool const add = mode == slim::destination::add;
    slim::matmul_into(*l.packed, x, y, {.inputs = l.packed_inputs, .add = add}, ctx);
    return add_bias(l.bias, y, ctx);
  }
  slim::gemm_into(x, slim::transposed(l.weight.view()), y, ctx, mode);
  if (!l.L.empty()) {
    matrix<float> inner(x.rows(), l.L.cols());
    slim::gemm_into(x, l.L.view(), inner, ctx);
    slim::gemm_into(matrix_view<float const>(inner), l.R.view(), y, ctx, slim::destination::add);
  }
  add_bias(l.bias, y, ctx);
}

matrix<float> apply(linear const& l, matrix_view<float const> x, context const& ctx) {
  if (l.empty()) return {};
  matrix<float> y(x.rows(), l.d_out());
  apply_into(l, x, y, ctx);
  return y;
}

std::vector<matrix<float>> apply_each(std::initializer_list<linear const*> group, matrix_view<float const> x,
                                      context const& ctx) {
  std::vector<matrix<float>> results;
  linear const& first = **group.begin();
  bool const together = std::all_of(group.begin(), group.end(), [&](linear const* l) {
    return l->packed && !l->round_input && l->d_in() == x.cols() && l->packed_inputs == first.packed_inputs;
  });
  if (!together) {
    for (linear const* l : group) results.push_back(apply(*l, x, ctx));
    return results;
  }
  std::vector<slim::layer_output> outputs;
  for (linear const* l : group) results.emplace_back(x.rows(), l->d_out());
  for (std::size_t k = 0; k < results.size(); ++k) outputs.push_back({group.begin()[k]->packed.get(), results[k].view()});
  slim::matmul_into(outputs, x, {.inputs = first.packed_inputs}, ctx);
  for (std::size_t k = 0; k < results.size(); ++k) add_bias(group.begin()[k]->bias, results[k].view(), ctx);
  return results;
}

forward_pass::forward_pass(model const& m, index_t window, context const& ctx) : model_(m), window_(window), ctx_(ctx) {
  auto const& config = m.config;
  if (window < 1) throw slim::config_error(slim::message("forward_pass: windows of ", window, " tokens"));
  if (config.sliding_window > 0 && window > config.sliding_window)
    throw slim::config_error(slim::message("forward_pass: windows of ", window, " tokens, but the model attends to the last ",
                                           config.sliding_window, " only; sliding attention is not implemented"));
  if (config.family == architecture::opt) {
    if (window + 2 > m.positions.rows())
      throw slim::config_error(slim::message("forward_pass: windows of ", window, " tokens, but the model has ",
                                             m.positions.rows() - 2, " learned positions"));
    return;
  }
  index_t const pairs = config.head_dim / 2;
  cos_ = matrix<float>(window, pairs);
  sin_ = matrix<float>(window, pairs);
  for (index_t t = 0; t < window; ++t)
    for (index_t j = 0; j < pairs; ++j) {
      double const angle = static_cast<double>(t) * m.rope_frequencies[static_cast<std::size_t>(j)];
      cos_(t, j) = static_cast<float>(std::cos(angle));
      sin_(t, j) = static_cast<float>(std::sin(angle));
    }
}

matrix<float> forward_pass::embed(std::span<int const> tokens) const {
  index_t const count = static_cast<index_t>(tokens.size());
  if (count % window_ != 0)
    throw slim::shape_error(slim::message("embed: ", count, " tokens do not fill windows of ", window_));
  return embed_at(tokens, 0);
}

matrix<float> forward_pass::embed_at(std::span<int const> tokens, index_t position) const {
  index_t const count = static_cast<index_t>(tokens.size());
  auto const& table = model_.embedding;
  matrix<float> embedded(count, table.cols());
  for (index_t t = 0; t < count; ++t) {
    int const id = tokens[static_cast<std::size_t>(t)];
    if (id < 0 || id >= table.rows())
      throw slim::config_error(slim::message("embed: token ", id, " at ", t, " is outside the vocabulary of ", table.rows()));
    std::copy_n(table.row(id), table.cols(), embedded.row(t));
  }
  if (!model_.project_in.empty()) embedded = apply(model_.project_in, embedded, ctx_);
  if (model_.positions.empty()) return embedded;
  for (index_t t = 0; t < count; ++t) { // OPT keeps two rows in front for padding
    float const* const learned = model_.positions.row((position + t) % window_ + 2);
    for (index_t j = 0; j < embedded.cols(); ++j) embedded(t, j) += learned[j];
  }
  return embedded;
}

void forward_pass::normalize_row(norm const& n, float const* x, float* y, index_t size) const {
  double const epsilon = model_.config.norm_epsilon;
  double const count = static_cast<double>(size);
  float const* const weight = n.weight.data();
  if (model_.config.family == architecture::llama) {
    float const inverse = static_cast<float>(1.0 / std::sqrt(sum_of_squares(x, size) / count + epsilon));
    for (index_t j = 0; j < size; ++j) y[j] = x[j] * inverse * weight[j];
    return;
  }
  double const mean = sum_of(x, size) / count;
  float const inverse = static_cast<float>(1.0 / std::sqrt(sum_of_squares(x, size, mean) / count + epsilon));
  float const center = static_cast<float>(mean);
  float const* const bias = n.bias.data();
  for (index_t j = 0; j < size; ++j) y[j] = (x[j] - center) * inverse * weight[j] + bias[j];
}

void forward_pass::normalize_into(norm const& n, matrix_view<float const> x, matrix_view<float> y) const {
  require_columns(n.name.c_str(), x.cols(), static_cast<index_t>(n.weight.size()));
  ctx_.parallel_for(x.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) normalize_row(n, x.row(i), y.row(i), x.cols());
  });
}

matrix<float> forward_pass::normalized(norm const& n, matrix_view<float const> x) const {
  matrix<float> y(x.rows(), x.cols());
  normalize_into(n, x, y);
  return y;
}

matrix<float> forward_pass::attention_input(block const& b, matrix_view<float const> hidden) const {
  return model_.config.norm_before ? normalized(b.attention_norm, hidden) : matrix<float>(hidden);
}

void forward_pass::rotate(norm const& head_norm, matrix_view<float> x, index_t heads, index_t position) const {
  index_t const dim = model_.config.head_dim;
  index_t const pairs = cos_.cols(); // 0 without rotary positions
  bool const half = model_.config.rope == rope_style::rotate_half;
  index_t const partner = half ? pairs : 1;
  index_t const step = half ? 1 : 2;
  ctx_.parallel_for(x.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      float const* const c = cos_.row((position + i) % window_);
      float const* const s = sin_.row((position + i) % window_);
      for (index_t h = 0; h < heads; ++h) {
        float* const head = x.row(i) + h * dim;
        if (!head_norm.weight.empty()) normalize_row(head_norm, head, head, dim);
        for (index_t j = 0; j < pairs; ++j) {
          float const a = head[step * j];
          float const b = head[step * j + partner];
          head[step * j] = a * c[j] - b * s[j];
          head[step * j + partner] = b * c[j] + a * s[j];
        }
      }
    }
  });
}

/// One head. Rows of q stand behind `before` earlier rows of k and v; each sees those and the ones up to itself.
void forward_pass::attend(matrix_view<float const> q, matrix_view<float const> k, matrix_view<float const> v, index_t head,
                          index_t before, matrix_view<float> out) const {
  auto const& config = model_.config;
  index_t const dim = config.head_dim;
  index_t const kv_head = head / (config.heads / config.kv_heads);
  index_t const queries = q.rows();
  index_t const keys = before + queries; // causal: nothing later is looked at
  context const inner = ctx_.inside_task();
  matrix<float> scores(queries, keys);
  slim::gemm_into(q.block(0, head * dim, queries, dim), slim::transposed(k.block(0, kv_head * dim, keys, dim)), scores, inner);
  float const scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  auto const inverse_sums = causal_softmax(scores, before, scale, ctx_.simd);
  auto const mixed = out.block(0, head * dim, queries, dim);
  slim::gemm_into(matrix_view<float const>(scores), v.block(0, kv_head * dim, keys, dim), mixed, inner);
  for (index_t i = 0; i < queries; ++i)
    for (index_t j = 0; j < dim; ++j) mixed(i, j) *= inverse_sums[static_cast<std::size_t>(i)];
}

matrix<float> forward_pass::attention_mix(block const& b, matrix<float> q, matrix<float> k, matrix<float> v) const {
  auto const& config = model_.config;
  require_columns("attention_mix: q", q.cols(), config.q_size());
  require_columns("attention_mix: k", k.cols(), config.kv_size());
  require_columns("attention_mix: v", v.cols(), config.kv_size());
  if (q.rows() % window_ != 0 || k.rows() != q.rows() || v.rows() != q.rows())
    throw slim::shape_error(slim::message("attention_mix: q, k, v of ", q.rows(), ", ", k.rows(), ", ", v.rows(),
                                          " tokens do not fill windows of ", window_));
  rotate(b.q_norm, q, config.heads);
  rotate(b.k_norm, k, config.kv_heads);
  matrix<float> mixed(q.rows(), q.cols());
  index_t const parts = (window_ + queries_per_task - 1) / queries_per_task;
  index_t const windows = q.rows() / window_;
  ctx_.parallel_for(windows * config.heads * parts, 1, [&](index_t begin, index_t end) {
    for (index_t task = begin; task < end; ++task) {
      index_t const first = task / (config.heads * parts) * window_, before = task % parts * queries_per_task;
      index_t const queries = std::min(queries_per_task, window_ - before);
      attend(q.view().middle_rows(first + before, queries), k.view().middle_rows(first, before + queries),
             v.view().middle_rows(first, before + queries), task / parts % config.heads, before,
             mixed.view().middle_rows(first + before, queries));
    }
  });
  return mixed;
}

matrix<float> forward_pass::attention_mix_cached(block const& b, matrix<float> q, matrix<float> k, matrix<float> const& v,
                                                 index_t position, attention_cache& cache) const {
  auto const& config = model_.config;
  index_t const tokens = q.rows();
  rotate(b.q_norm, q, config.heads, position);
  rotate(b.k_norm, k, config.kv_heads, position);
  cache.put(position, k, v);
  matrix<float> mixed(tokens, q.cols());
  if (tokens == 1)
    attend_to_cache(q, cache, position + 1, mixed);
  else if (position == 0)
    attend_all(q, k, v, 0, mixed);
  else
    attend_all(q, cache.keys(position + tokens), cache.values(position + tokens), position, mixed);
  return mixed;
}

/// All heads. Rows of q stand behind `before` earlier rows of k and v.
void forward_pass::attend_all(matrix_view<float const> q, matrix_view<float const> k, matrix_view<float const> v,
                              index_t before, matrix_view<float> out) const {
  index_t const parts = (q.rows() + queries_per_task - 1) / queries_per_task;
  ctx_.parallel_for(model_.config.heads * parts, 1, [&](index_t begin, index_t end) {
    for (index_t task = begin; task < end; ++task) {
      index_t const first = task % parts * queries_per_task, queries = std::min(queries_per_task, q.rows() - first);
      index_t const earlier = before + first;
      attend(q.middle_rows(first, queries), k.middle_rows(0, earlier + queries), v.middle_rows(0, earlier + queries),
             task / parts, earlier, out.middle_rows(first, queries));
    }
  });
}

/// One token.
void forward_pass::attend_to_cache(matrix_view<float const> q, attention_cache const& cache, index_t visible,
                                   matrix_view<float> out) const {
  auto const& config = model_.config;
  index_t const dim = config.head_dim, queries = config.heads / config.kv_heads;
  float const scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  ctx_.parallel_for(config.kv_heads, 1, [&](index_t head, index_t) {
    index_t const first = head * queries * dim;
    cached_attention const a{q.row(0) + first,      queries, dim,  cache.padded_dim(), cache.keys_of(head),
                             cache.values_of(head), visible, scale};
    matrix<float> scores(1, a.score_size()), mixed(queries, a.padded_dim);
    attend_cached(a, scores.data(), mixed.data(), ctx_.simd);
    for (index_t h = 0; h < queries; ++h) std::copy_n(mixed.row(h), dim, out.row(0) + first + h * dim);
  });
}

void forward_pass::add_attention_output(block const& b, matrix_view<float const> mixed, matrix_view<float> hidden) const {
  apply_into(b.o, mixed, hidden, ctx_, slim::destination::add);
  if (!model_.config.norm_before) normalize_into(b.attention_norm, hidden, hidden);
}

matrix<float> forward_pass::mlp_input(block const& b, matrix_view<float const> hidden) const {
  return model_.config.norm_before ? normalized(b.mlp_norm, hidden) : matrix<float>(hidden);
}

matrix<float> forward_pass::mlp_mix(block const& b, matrix<float> gate, matrix<float> up) const {
  bool const gated = !b.gate.empty();
  if (gated && (gate.rows() != up.rows() || gate.cols() != up.cols()))
    throw slim::shape_error(
        slim::message("mlp_mix: gate is ", gate.rows(), " x ", gate.cols(), ", up is ", up.rows(), " x ", up.cols()));
  ctx_.parallel_for(up.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      float* const u = up.row(i);
      if (!gated) {
        for (index_t j = 0; j < up.cols(); ++j) u[j] = u[j] < 0.0f ? 0.0f : u[j];
        continue;
      }
      multiply_by_silu(u, gate.row(i), up.cols(), ctx_.simd);
    }
  });
  return up;
}

void forward_pass::add_mlp_output(block const& b, matrix_view<float const> mixed, matrix_view<float> hidden) const {
  apply_into(b.down, mixed, hidden, ctx_, slim::destination::add);
  if (!model_.config.norm_before) normalize_into(b.mlp_norm, hidden, hidden);
}

void forward_pass::run_block(block const& b, matrix_view<float> hidden) const {
  {
    auto const x = attention_input(b, hidden);
    auto qkv = apply_each({&b.q, &b.k, &b.v}, x, ctx_);
    auto const mixed = attention_mix(b, std::move(qkv[0]), std::move(qkv[1]), std::move(qkv[2]));
    add_attention_output(b, mixed, hidden);
  }
  auto const x = mlp_input(b, hidden);
  auto both = apply_each({&b.gate, &b.up}, x, ctx_);
  auto const mixed = mlp_mix(b, std::move(both[0]), std::move(both[1]));
  add_mlp_output(b, mixed, hidden);
}

void forward_pass::run_block(block& b, matrix_view<float> hidden, group_observer const& observe) const {
  auto const groups = linear_groups(b);
  {
    auto const x = attention_input(b, hidden);
    observe(groups[0], x);
    auto qkv = apply_each({&b.q, &b.k, &b.v}, x, ctx_);
    auto const mixed = attention_mix(b, std::move(qkv[0]), std::move(qkv[1]), std::move(qkv[2]));
    observe(groups[1], mixed);
    add_attention_output(b, mixed, hidden);
  }
  auto const x = mlp_input(b, hidden);
  observe(groups[2], x);
  auto both = apply_each({&b.gate, &b.up}, x, ctx_);
  auto const mixed = mlp_mix(b, std::move(both[0]), std::move(both[1]));
  observe(groups[3], mixed);
  add_mlp_output(b, mixed, hidden);
}

matrix<float> forward_pass::head_input(matrix_view<float const> hidden) const {
  matrix<float> x = model_.final_norm.weight.empty() ? matrix<float>(hidden) : normalized(model_.final_norm, hidden);
  return model_.project_out.empty() ? x : apply(model_.project_out, x, ctx_);
}

void forward_pass::logits_into(matrix_view<float const> head_in, index_t first, matrix_view<float> logits) const {
  auto const& head = model_.head.empty() ? model_.embedding : model_.head.weight;
  slim::gemm_into(head_in, slim::transposed(head.view().middle_rows(first, logits.cols())), logits, ctx_);
}

std::vector<double> forward_pass::token_nll(matrix_view<float const> head_in, std::span<int const> targets) const {
  index_t const rows = head_in.rows();
  index_t const vocab = model_.embedding.rows();
  if (rows != static_cast<index_t>(targets.size()))
    throw slim::shape_error(slim::message("token_nll: ", rows, " rows, ", targets.size(), " targets"));
  // log sum exp over slabs of the vocabulary: `sum` is relative to e^largest, rescaled whenever the maximum grows.
  struct running {
    double largest = -INFINITY, sum = 0, target = 0;
  };
  std::vector<running> state(static_cast<std::size_t>(rows));
  matrix<float> slab(rows, std::min(vocab, logit_columns));
  for (index_t first = 0; first < vocab; first += logit_columns) {
    index_t const width = std::min(logit_columns, vocab - first);
    matrix_view<float> const logits = slab.view().block(0, 0, rows, width);
    logits_into(head_in, first, logits);
    ctx_.parallel_for(rows, rows_per_task, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        running& s = state[static_cast<std::size_t>(i)];
        index_t const target = targets[static_cast<std::size_t>(i)] - first;
        if (target >= 0 && target < width) s.target = static_cast<double>(logits(i, target));
        float const top = max_of(logits.row(i), width, ctx_.simd);
        double const largest = std::max(s.largest, static_cast<double>(top));
        double const sum = static_cast<double>(exp_inplace(logits.row(i), width, top, 1.0f, ctx_.simd));
        s.sum = s.sum * std::exp(s.largest - largest) + sum * std::exp(static_cast<double>(top) - largest);
        s.largest = largest;
      }
    });
  }
  std::vector<double> nll(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < nll.size(); ++i) nll[i] = state[i].largest + std::log(state[i].sum) - state[i].target;
  return nll;
}

} // namespace slim_llm
