#include "models/forward.hpp"

#include "models/attention.hpp"

#include <algorithm>
#include <cmath>

namespace slim_llm {
namespace {

constexpr index_t rows_per_task = 16;   // elementwise work
constexpr index_t logit_columns = 4096; // logits at a time: rows x 4096 floats

void require_columns(char const* what, index_t have, index_t want) {
  if (have != want) throw slim::shape_error(slim::message(what, ": has ", have, " columns, needs ", want));
}

void require_same_shape(matrix<float> const& gate, matrix<float> const& up) {
  if (gate.rows() != up.rows() || gate.cols() != up.cols())
    throw slim::shape_error(
        slim::message("the MLP's gate is ", gate.rows(), " x ", gate.cols(), ", up is ", up.rows(), " x ", up.cols()));
}

} // namespace

forward_pass::forward_pass(model const& m, index_t window, context const& ctx) : model_(m), window_(window), ctx_(ctx) {
  auto const& config = m.config;
  if (!config.family) throw slim::config_error("forward_pass: the model's configuration names no family");
  stages_ = config.family->stages(config);
  if (window < 1) throw slim::config_error(slim::message("windows of ", window, " tokens"));
  if (config.family->positions == position_kind::learned) {
    if (window + 2 > m.positions.rows())
      throw slim::config_error(
          slim::message("windows of ", window, " tokens, but the model has ", m.positions.rows() - 2, " learned positions"));
    return;
  }
  for (rotary_table const& rotary : m.rotary) angles_.push_back(angles_of(rotary));
}

forward_pass::angle_table forward_pass::angles_of(rotary_table const& rotary) const {
  if (rotary.longest > 0 && window_ > rotary.longest)
    throw slim::config_error(slim::message("windows of ", window_,
                                           " tokens: the model's rotary positions are of type 'dynamic', "
                                           "which is read for windows of up to ",
                                           rotary.longest, " tokens"));
  bool const is_long = !rotary.long_frequencies.empty() && window_ > rotary.original_context;
  auto const& frequencies = is_long ? rotary.long_frequencies : rotary.frequencies;
  auto const pairs = static_cast<index_t>(frequencies.size());
  angle_table table{matrix<float>(window_, pairs), matrix<float>(window_, pairs)};
  for (index_t t = 0; t < window_; ++t)
    for (index_t j = 0; j < pairs; ++j) {
      double const angle = static_cast<double>(t) * frequencies[static_cast<std::size_t>(j)];
      table.cos(t, j) = static_cast<float>(std::cos(angle) * rotary.attention_factor);
      table.sin(t, j) = static_cast<float>(std::sin(angle) * rotary.attention_factor);
    }
  return table;
}

matrix<float> forward_pass::embed(std::span<int const> tokens) const {
  index_t const count = static_cast<index_t>(tokens.size());
  if (count % window_ != 0)
    throw slim::shape_error(slim::message("embed: ", count, " tokens do not fill windows of ", window_));
  return embed(tokens, {});
}

std::vector<index_t> forward_pass::positions_of(index_t rows, std::span<grown_text const> texts) const {
  std::vector<index_t> positions;
  for (grown_text const& text : texts)
    for (index_t t = 0; t < text.tokens; ++t) positions.push_back(text.position + t);
  if (texts.empty())
    for (index_t t = 0; t < rows; ++t) positions.push_back(t % window_);
  if (static_cast<index_t>(positions.size()) != rows)
    throw slim::shape_error(slim::message("forward_pass: ", rows, " rows for texts of ", positions.size(), " tokens"));
  return positions;
}

matrix<float> forward_pass::embed(std::span<int const> tokens, std::span<grown_text const> texts) const {
  index_t const count = static_cast<index_t>(tokens.size());
  auto const& table = model_.embedding;
  matrix<float> embedded(count, table.cols());
  for (index_t t = 0; t < count; ++t) {
    int const id = tokens[static_cast<std::size_t>(t)];
    if (id < 0 || id >= table.rows())
      throw slim::config_error(slim::message("token ", id, " of the text is outside the model's vocabulary of ", table.rows(),
                                             ": the tokenizer is not the model's"));
    table.rows_into(id, embedded.view().middle_rows(t, 1), ctx_.inside_task());
  }
  if (model_.config.embedding_scale != 1) {
    float const scale = static_cast<float>(model_.config.embedding_scale);
    for (index_t k = 0; k < embedded.size(); ++k) embedded.data()[k] *= scale;
  }
  if (!model_.project_in.empty()) embedded = apply(model_.project_in, embedded, ctx_);
  if (model_.positions.empty()) return embedded;
  auto const positions = positions_of(count, texts);
  for (index_t t = 0; t < count; ++t) { // OPT keeps two rows in front for padding
    float const* const learned = model_.positions.row(positions[static_cast<std::size_t>(t)] + 2);
    for (index_t j = 0; j < embedded.cols(); ++j) embedded(t, j) += learned[j];
  }
  return embedded;
}

void forward_pass::normalize_row(norm const& n, float const* x, float* y, index_t size) const {
  double const epsilon = model_.config.norm_epsilon;
  double const count = static_cast<double>(size);
  float const* const weight = n.weight.data();
  if (model_.config.family->norm == norm_kind::rms) {
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

void forward_pass::normalize_and_rotate(block const& b, char const* norm_role, matrix_view<float> x, index_t heads,
                                        std::span<index_t const> positions) const {
  index_t const dim = model_.config.head_dim;
  norm const* head_norm = b.find_norm(norm_role);
  if (head_norm && static_cast<index_t>(head_norm->weight.size()) != dim) {
    normalize_inplace(*head_norm, x);
    head_norm = nullptr;
  }
  int const rotary = b.attention.rotary;
  angle_table const none;
  angle_table const& angles =
      angles_.empty() || rotary == block_attention::no_rotary ? none : angles_.at(static_cast<std::size_t>(rotary));
  index_t const pairs = angles.cos.cols();
  if (pairs == 0 && !head_norm) return;
  bool const half = model_.config.rope == rope_style::rotate_half;
  index_t const partner = half ? pairs : 1;
  index_t const step = half ? 1 : 2;
  ctx_.parallel_for(x.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      index_t const at = positions[static_cast<std::size_t>(i)];
      float const* const c = pairs > 0 ? angles.cos.row(at) : nullptr;
      float const* const s = pairs > 0 ? angles.sin.row(at) : nullptr;
      for (index_t h = 0; h < heads; ++h) {
        float* const head = x.row(i) + h * dim;
        if (head_norm) normalize_row(*head_norm, head, head, dim);
        for (index_t j = 0; j < pairs; ++j) {
          float const first = head[step * j];
          float const second = head[step * j + partner];
          head[step * j] = first * c[j] - second * s[j];
          head[step * j + partner] = second * c[j] + first * s[j];
        }
      }
    }
  });
}

attention_rule forward_pass::rule_of(block const& b) const {
  auto const& config = model_.config;
  double const scale =
      config.attention_scale > 0 ? config.attention_scale : 1.0 / std::sqrt(static_cast<double>(config.head_dim));
  return {b.attention.window, static_cast<float>(scale), static_cast<float>(config.attention_soft_cap)};
}

matrix<float> forward_pass::attention(block const& b, block_state& state, matrix<float> q, matrix<float> k,
                                      matrix<float> v) const {
  auto const& config = model_.config;
  require_columns("attention: q", q.cols(), config.q_size());
  require_columns("attention: k", k.cols(), config.kv_size());
  require_columns("attention: v", v.cols(), config.kv_size());
  index_t const tokens = q.rows();
  if (k.rows() != tokens || v.rows() != tokens || (state.texts.empty() && tokens % window_ != 0))
    throw slim::shape_error(slim::message("attention: q, k, v of ", tokens, ", ", k.rows(), ", ", v.rows(),
                                          " tokens do not fill windows of ", window_));
  auto const positions = positions_of(tokens, state.texts);
  normalize_and_rotate(b, "q_norm", q, config.heads, positions);
  normalize_and_rotate(b, "k_norm", k, config.kv_heads, positions);
  std::vector<attention_cache> of_windows;
  std::vector<grown_text> texts = state.texts;
  if (texts.empty()) {
    for (index_t first = 0; first < tokens; first += window_)
      of_windows.emplace_back(window_, config.kv_heads, config.head_dim, kv_format_);
    for (attention_cache& cache : of_windows) texts.push_back({&cache, window_, 0});
  }
  for (index_t row = 0; grown_text const& text : texts) {
    text.cache->put(text.position, k.view().middle_rows(row, text.tokens), v.view().middle_rows(row, text.tokens), ctx_);
    row += text.tokens;
  }
  matrix<float> mixed(tokens, q.cols());
  attend(q, config.heads, config.kv_heads, texts, rule_of(b), mixed, ctx_);
  return mixed;
}

matrix<float> forward_pass::gated(matrix<float> const& gate, matrix<float> up) const {
  require_same_shape(gate, up);
  activation_kind const kind = config().activation;
  ctx_.parallel_for(up.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      if (kind == activation_kind::silu)
        multiply_by_silu(up.row(i), gate.row(i), up.cols(), ctx_.simd);
      else
        for (index_t j = 0; j < up.cols(); ++j) up(i, j) *= activate(kind, gate(i, j)).value;
    }
  });
  return up;
}

matrix<float> forward_pass::activated(matrix<float> x) const {
  activation_kind const kind = config().activation;
  ctx_.parallel_for(x.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < x.cols(); ++j) x(i, j) = activate(kind, x(i, j)).value;
  });
  return x;
}

std::vector<matrix<float>> forward_pass::outputs(stage const& s, block const& b, matrix_view<float const> x) const {
  std::vector<linear const*> group;
  for (std::string const& role : s.linears) group.push_back(&b[role]);
  return apply_each(group, x, ctx_);
}

void forward_pass::move_on(stage const& s, block const& b, matrix_view<float const> x, block_state& state) const {
  if (s.ends_residual_branch()) {
    apply_into(b[s.linears.front()], x, state.hidden, slim::destination::add, ctx_);
    if (s.after_addition) s.after_addition(*this, b, state);
    return;
  }
  s.combine(*this, b, state, outputs(s, b, x));
}

void forward_pass::run_block(block const& b, block_state& state, stage_observer const& observe) const {
  for (stage const& s : stages_) {
    matrix<float> const x = input(s, b, state);
    if (observe) observe(s, x);
    move_on(s, b, x, state);
  }
}

void forward_pass::run_block(block const& b, matrix<float>& hidden, stage_observer const& observe) const {
  block_state state;
  state.hidden = std::move(hidden);
  run_block(b, state, observe);
  hidden = std::move(state.hidden);
}

matrix<float> forward_pass::head_input(matrix_view<float const> hidden) const {
  matrix<float> x = model_.final_norm.weight.empty() ? matrix<float>(hidden) : normalized(model_.final_norm, hidden);
  return model_.project_out.empty() ? x : apply(model_.project_out, x, ctx_);
}

void forward_pass::logits_into(matrix_view<float const> head_in, index_t first, matrix_view<float> logits) const {
  auto const& head = model_.output_head();
  if (matrix<float> const* const floats = head.in_memory()) {
    slim::gemm_into(head_in, slim::transposed(floats->view().middle_rows(first, logits.cols())), logits, ctx_);
  } else {
    for (index_t begin = 0; begin < logits.cols(); begin += logit_columns) {
      index_t const count = std::min(logit_columns, logits.cols() - begin);
      matrix<float> rows(count, head.cols());
      head.rows_into(first + begin, rows.view(), ctx_);
      slim::gemm_into(head_in, slim::transposed(matrix_view<float const>(rows)), logits.block(0, begin, logits.rows(), count),
                      ctx_);
    }
  }
  cap_logits(logits);
}

void forward_pass::cap_logits(matrix_view<float> logits) const {
  if (auto const cap = static_cast<float>(model_.config.logit_soft_cap); cap > 0)
    ctx_.parallel_for(logits.rows(), 1,
                      [&](index_t begin, index_t end) { cap_softly(logits.middle_rows(begin, end - begin), 1.0f, cap); });
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
