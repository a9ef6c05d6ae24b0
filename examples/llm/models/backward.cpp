#include "models/backward.hpp"

#include "models/elementwise.hpp"
#include "run/input_error.hpp"

#include "slim/training/linear_gradient.hpp"

#include <algorithm>
#include <cmath>

namespace slim_llm {
namespace {

constexpr index_t rows_per_task = 16;     // elementwise work
constexpr index_t rows_per_sum = 64;      // sums over rows: of so many rows, then of these in order
constexpr index_t queries_per_tile = 128; // scores of attention at a time: 128 x window floats

void require_packed_nowhere(linear const& l) {
  if (l.packed) throw slim::config_error("'" + l.name + "' runs from packed codes; gradients need the model's own weights");
}

/// Of multiply_by_silu: writes the gradient of gate, and turns that of the product, d, into that of up.
void silu_row_adjoint(float const* gate, float const* up, float* d_gate, float* d, index_t n, slim::simd_level level) {
  std::vector<float> e(gate, gate + n);
  exp_inplace(e.data(), n, 0.0f, -1.0f, level); // e^-gate
  for (index_t j = 0; j < n; ++j) {
    float const a = gate[j], sigmoid = 1.0f / (1.0f + e[static_cast<std::size_t>(j)]), dy = d[j];
    d_gate[j] = dy * up[j] * sigmoid * (1.0f + a * (1.0f - sigmoid));
    d[j] = dy * a * sigmoid;
  }
}

bool all_finite(matrix<float> const& m) {
  return std::all_of(m.data(), m.data() + m.size(), [](float value) { return std::isfinite(value); });
}

void add_to(std::vector<double>& sum, std::vector<double> const& part) {
  if (sum.empty()) sum.resize(part.size());
  for (std::size_t k = 0; k < part.size(); ++k) sum[k] += part[k];
}

/// A norm's row: what add_norm_adjoint does with it.
struct norm_row {
  norm const& n;
  bool rms;
  double epsilon;

  void operator()(float const* x, float const* dy, float* dx, norm_gradient& to) const {
    auto const size = static_cast<index_t>(n.weight.size());
    double const count = static_cast<double>(size);
    double const center = rms ? 0.0 : sum_of(x, size) / count;
    double const inverse = 1.0 / std::sqrt(sum_of_squares(x, size, center) / count + epsilon);
    double sum = 0, dot = 0; // of w dy, and of w dy with the normalized row
    for (index_t j = 0; j < size; ++j) {
      double const d = static_cast<double>(dy[j]), y = (static_cast<double>(x[j]) - center) * inverse;
      double const wd = static_cast<double>(n.weight[static_cast<std::size_t>(j)]) * d;
      sum += wd;
      dot += wd * y;
      to.weight[static_cast<std::size_t>(j)] += d * y;
      if (!rms) to.bias[static_cast<std::size_t>(j)] += d;
    }
    double const mean = rms ? 0.0 : sum / count;
    for (index_t j = 0; j < size; ++j) {
      double const y = (static_cast<double>(x[j]) - center) * inverse;
      double const wd = static_cast<double>(n.weight[static_cast<std::size_t>(j)]) * static_cast<double>(dy[j]);
      dx[j] += static_cast<float>(inverse * (wd - mean - y * dot / count));
    }
  }
};

} // namespace

backward_pass::backward_pass(model const& m, forward_pass const& pass, context const& ctx) : model_(m), pass_(pass), ctx_(ctx) {
  for (stage const& s : pass.stages())
    if (!s.adjoint.input)
      throw slim::config_error(std::string("models of the family '") + m.config.family->name +
                               "' are run and compressed, but it is not known how gradients pass their blocks");
}

block_record backward_pass::record(block const& b, block_state state, stage_range stages) const {
  block_record all{stages.first, {}, {}};
  for (std::size_t k = stages.first; k < std::min(stages.last, pass_.stages().size()); ++k) {
    stage const& s = pass_.stages()[k];
    stage_record at;
    at.hidden = state.hidden;
    at.x = pass_.input(s, b, state);
    if (!s.ends_residual_branch()) {
      at.outputs = pass_.outputs(s, b, at.x);
      s.combine(pass_, b, state, at.outputs);
    } else {
      apply_into(b[s.linears.front()], at.x, state.hidden, slim::destination::add, ctx_);
      if (s.after_addition) {
        at.added = state.hidden;
        s.after_addition(pass_, b, state);
      }
    }
    all.stages.push_back(std::move(at));
  }
  all.after = std::move(state);
  return all;
}

void backward_pass::run_block(block const& b, block_record const& record, block_gradient& g,
                              linear_observer const& observe) const {
  g.norms.resize(b.norms.size());
  for (std::size_t k = record.stages.size(); k-- > 0;) {
    stage const& s = pass_.stages()[record.first + k];
    adjoint_scope const at{*this, b, record.stages[k], record.after.carried};
    std::vector<matrix<float>> dy;
    if (s.ends_residual_branch()) {
      if (s.after_addition) s.adjoint.after_addition(at, g);
      dy.push_back(g.hidden);
    } else {
      dy = s.adjoint.combine(at, g);
    }
    matrix<float> dx(at.record.x.rows(), at.record.x.cols());
    linears_adjoint(s, b, at.record.x, dy, dx.view(), observe);
    s.adjoint.input(at, std::move(dx), g);
  }
}

void backward_pass::linears_adjoint(stage const& s, block const& b, matrix_view<float const> x,
                                    std::vector<matrix<float>> const& dy, matrix_view<float> dx,
                                    linear_observer const& observe) const {
  for (std::size_t k = 0; k < s.linears.size(); ++k) {
    linear const& l = b[s.linears[k]];
    require_packed_nowhere(l);
    slim::add_linear_gradients({l.weight.view(), l.L.view(), l.R.view()}, x, dy[k],
                               {.x = dx, .weight = {}, .left = {}, .right = {}}, ctx_);
    if (!observe) continue;
    matrix<float> rounded; // gradients pass the rounding of inputs as if it were not there
    if (l.round_input) {
      rounded = matrix<float>(x);
      l.round_input(rounded.view());
    }
    observe(l, l.round_input ? matrix_view<float const>(rounded) : x, dy[k]);
  }
}

matrix<float> backward_pass::head_adjoint(matrix_view<float const> hidden, matrix<float> d_head_in,
                                          norm_gradient& final_norm) const {
  linear const& out = model_.project_out;
  matrix<float> d = std::move(d_head_in);
  if (!out.empty()) {
    matrix<float> before(d.rows(), out.d_in());
    slim::gemm_into(matrix_view<float const>(d), out.weight.view(), before.view(), ctx_);
    d = std::move(before);
  }
  if (model_.final_norm.weight.empty()) return d;
  matrix<float> dx(hidden.rows(), hidden.cols());
  add_norm_adjoint(model_.final_norm, hidden, d, dx.view(), final_norm);
  return dx;
}

void backward_pass::add_norm_adjoint(norm const& n, matrix_view<float const> x, matrix_view<float const> dy,
                                     matrix_view<float> dx, norm_gradient& to) const {
  bool const rms = model_.config.family->norm == norm_kind::rms;
  norm_row const row{n, rms, model_.config.norm_epsilon};
  std::vector<norm_gradient> parts(static_cast<std::size_t>((x.rows() + rows_per_sum - 1) / rows_per_sum));
  ctx_.parallel_for(x.rows(), rows_per_sum, [&](index_t begin, index_t end) {
    norm_gradient& part = parts[static_cast<std::size_t>(begin / rows_per_sum)];
    part.weight.resize(n.weight.size());
    if (!rms) part.bias.resize(n.weight.size());
    for (index_t i = begin; i < end; ++i) row(x.row(i), dy.row(i), dx.row(i), part);
  });
  for (norm_gradient const& part : parts) {
    add_to(to.weight, part.weight);
    add_to(to.bias, part.bias);
  }
}

void backward_pass::add_norm_adjoint(adjoint_scope const& at, char const* role, matrix_view<float const> x,
                                     matrix_view<float const> dy, matrix_view<float> dx, block_gradient& g) const {
  norm const* const n = at.b.find_norm(role);
  add_norm_adjoint(*n, x, dy, dx, g.norms[static_cast<std::size_t>(n - at.b.norms.data())]);
}

attention_gradient backward_pass::attention_adjoint(adjoint_scope const& at, matrix<float> const& q, matrix<float> const& k,
                                                    matrix<float> const& v, matrix_view<float const> d_mixed,
                                                    block_gradient& g) const {
  auto const& config = model_.config;
  attention_gradient seen{q, k, v}; // as attention sees them
  auto const positions = pass_.positions_of(q.rows(), {});
  pass_.normalize_and_rotate(at.b, "q_norm", seen.q.view(), config.heads, positions);
  pass_.normalize_and_rotate(at.b, "k_norm", seen.k.view(), config.kv_heads, positions);
  attention_gradient d{matrix<float>(q.rows(), q.cols()), matrix<float>(k.rows(), k.cols()), matrix<float>(v.rows(), v.cols())};
  attention_rule const rule = pass_.rule_of(at.b);
  index_t const windows = q.rows() / pass_.window();
  ctx_.parallel_for(windows * config.kv_heads, 1, [&](index_t begin, index_t end) {
    for (index_t task = begin; task < end; ++task)
      attend_adjoint(seen, d_mixed, task / config.kv_heads * pass_.window(), task % config.kv_heads, rule, d);
  });
  d.q = rotate_back(at, "q_norm", q, std::move(d.q), config.heads, g);
  d.k = rotate_back(at, "k_norm", k, std::move(d.k), config.kv_heads, g);
  return d;
}

/// One head of keys and values, of the window that begins at token `first`, with all the heads of queries that it serves.
void backward_pass::attend_adjoint(attention_gradient const& at, matrix_view<float const> d_mixed, index_t first,
                                   index_t kv_head, attention_rule const& rule, attention_gradient& d) const {
  index_t const dim = model_.config.head_dim, shared = model_.config.heads / model_.config.kv_heads;
  context const inner = ctx_.inside_task();
  for (index_t head = kv_head * shared; head < (kv_head + 1) * shared; ++head)
    for (index_t before = 0; before < pass_.window(); before += queries_per_tile) {
      index_t const queries = std::min(queries_per_tile, pass_.window() - before);
      index_t const first_key = visible_to(before, rule.reach).first, keys = before + queries - first_key;
      auto const queries_of = [&](auto view) { return view.block(first + before, head * dim, queries, dim); };
      auto const keys_of = [&](auto view) { return view.block(first + first_key, kv_head * dim, keys, dim); };
      auto const q = queries_of(at.q.view()), k = keys_of(at.k.view()), v = keys_of(at.v.view());
      auto const d_out = queries_of(d_mixed);

      matrix<float> p(queries, keys), capped, ds(queries, keys);
      slim::gemm_into(q, slim::transposed(k), p.view(), inner);
      if (rule.soft_cap > 0) {
        cap_softly(p.view(), rule.scale, rule.soft_cap);
        capped = p;
      }
      auto const inverse_sums =
          causal_softmax(p.view(), before, first_key, rule.reach, rule.soft_cap > 0 ? 1.0f : rule.scale, ctx_.simd);
      slim::gemm_into(d_out, slim::transposed(v), ds.view(), inner);
      for (index_t i = 0; i < queries; ++i) {
        double mean = 0; // of dP under P
        for (index_t j = 0; j < keys; ++j) {
          p(i, j) *= inverse_sums[static_cast<std::size_t>(i)];
          mean += static_cast<double>(p(i, j)) * static_cast<double>(ds(i, j));
        }
        auto const center = static_cast<float>(mean);
        for (index_t j = 0; j < keys; ++j) {
          ds(i, j) = p(i, j) * (ds(i, j) - center) * rule.scale;
          if (rule.soft_cap > 0) ds(i, j) *= 1.0f - capped(i, j) * capped(i, j) / (rule.soft_cap * rule.soft_cap);
        }
      }
      matrix_view<float const> const scores_gradient = ds.view(), weights = p.view();
      slim::gemm_into(scores_gradient, k, queries_of(d.q.view()), inner);
      slim::gemm_into(slim::transposed(scores_gradient), q, keys_of(d.k.view()), slim::destination::add, inner);
      slim::gemm_into(slim::transposed(weights), d_out, keys_of(d.v.view()), slim::destination::add, inner);
    }
}

/// Gradient of x, which normalize_and_rotate was given, from that of what it made of it.
matrix<float> backward_pass::rotate_back(adjoint_scope const& at, char const* norm_role, matrix<float> const& x,
                                         matrix<float> d, index_t heads, block_gradient& g) const {
  index_t const dim = model_.config.head_dim;
  int const rotary = at.b.attention.rotary;
  if (!pass_.angles_.empty() && rotary != block_attention::no_rotary) {
    auto const& angles = pass_.angles_.at(static_cast<std::size_t>(rotary));
    index_t const pairs = angles.cos.cols();
    bool const half = model_.config.rope == rope_style::rotate_half;
    index_t const partner = half ? pairs : 1, step = half ? 1 : 2;
    ctx_.parallel_for(d.rows(), rows_per_task, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) {
        float const* const c = angles.cos.row(i % pass_.window());
        float const* const s = angles.sin.row(i % pass_.window());
        for (index_t h = 0; h < heads; ++h) {
          float* const head = d.row(i) + h * dim;
          for (index_t j = 0; j < pairs; ++j) {
            float const first = head[step * j], second = head[step * j + partner];
            head[step * j] = first * c[j] + second * s[j];
            head[step * j + partner] = second * c[j] - first * s[j];
          }
        }
      }
    });
  }
  norm const* const n = at.b.find_norm(norm_role);
  if (!n) return d;
  auto const size = static_cast<index_t>(n->weight.size()); // of a head, or of a whole row
  index_t const rows = x.size() / std::max<index_t>(size, 1);
  matrix<float> dx(x.rows(), x.cols());
  add_norm_adjoint(at, norm_role, {x.data(), rows, size}, {d.data(), rows, size}, {dx.data(), rows, size}, g);
  return dx;
}

std::vector<matrix<float>> backward_pass::gated_adjoint(matrix<float> const& gate, matrix<float> const& up,
                                                        matrix<float> d) const {
  activation_kind const kind = pass_.config().activation;
  matrix<float> d_gate(d.rows(), d.cols());
  ctx_.parallel_for(d.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      if (kind == activation_kind::silu) {
        silu_row_adjoint(gate.row(i), up.row(i), d_gate.row(i), d.row(i), d.cols(), ctx_.simd);
        continue;
      }
      for (index_t j = 0; j < d.cols(); ++j) {
        activation_at const a = activate(kind, gate(i, j));
        d_gate(i, j) = d(i, j) * up(i, j) * a.slope;
        d(i, j) *= a.value;
      }
    }
  });
  std::vector<matrix<float>> both;
  both.push_back(std::move(d_gate));
  both.push_back(std::move(d));
  return both;
}

matrix<float> backward_pass::activated_adjoint(matrix<float> const& x, matrix<float> d) const {
  activation_kind const kind = pass_.config().activation;
  ctx_.parallel_for(d.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < d.cols(); ++j) d(i, j) *= activate(kind, x(i, j)).slope;
  });
  return d;
}

model_gradient differentiate(model const& m, index_t window, std::span<int const> tokens, head_loss const& loss,
                             linear_observer const& observe, backward_config const& config, context const& ctx) {
  forward_pass const forward(m, window, ctx);
  backward_pass const backward(m, forward, ctx);
  auto const layers = static_cast<std::size_t>(m.config.layers);
  std::vector<block_record> kept(config.recompute ? 0 : layers);
  std::vector<matrix<float>> begins; // hidden states before each block
  block_state state;
  state.hidden = forward.embed(tokens);
  for (std::size_t n = 0; n < layers; ++n)
    with_block(m, static_cast<index_t>(n), ctx, [&](block const& b) {
      if (config.recompute) {
        begins.push_back(state.hidden);
        forward.run_block(b, state);
        state.carried.clear();
      } else {
        kept[n] = backward.record(b, std::move(state));
        state = {};
        state.hidden = kept[n].after.hidden;
      }
      if (!all_finite(state.hidden))
        throw input_error(slim::message("block ", n, " (", b.linears.front().name,
                                        " and what follows): what it computes is not finite; no gradient comes of that"));
    });

  model_gradient out;
  out.norms.resize(layers);
  matrix<float> const head_in = forward.head_input(state.hidden);
  matrix<float> d_head_in(head_in.rows(), head_in.cols());
  out.losses = loss(head_in, d_head_in.view());
  block_gradient g;
  g.hidden = backward.head_adjoint(state.hidden, std::move(d_head_in), out.final_norm);
  for (std::size_t n = layers; n-- > 0;)
    with_block(m, static_cast<index_t>(n), ctx, [&](block const& b) {
      block_record record;
      if (config.recompute) {
        block_state before;
        before.hidden = std::move(begins[n]);
        record = backward.record(b, std::move(before));
      } else {
        record = std::move(kept[n]);
      }
      backward.run_block(b, record, g, observe);
      out.norms[n] = std::move(g.norms);
      g.norms.clear();
      g.carried.clear();
    });
  out.embedded = std::move(g.hidden);
  return out;
}

slim::output_head head_of(model_config const& config, matrix<float> const& head) {
  return {head.view(), static_cast<float>(config.logit_soft_cap)};
}

std::vector<int> next_tokens(std::span<int const> tokens, index_t window) {
  std::vector<int> next(tokens.size(), -1);
  auto const length = static_cast<std::size_t>(window);
  for (std::size_t t = 0; t + 1 < tokens.size(); ++t)
    if ((t + 1) % length != 0) next[t] = tokens[t + 1];
  return next;
}

} // namespace slim_llm
