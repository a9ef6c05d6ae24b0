#include "compress/time_estimate.hpp"

#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>

namespace slim_llm {
namespace {

constexpr index_t most_weights = index_t{1} << 21; ///< that are compressed to measure
constexpr index_t measured_rows = 64;              ///< of the head's input

/// Seconds that a call takes.
template <class F>
double seconds_of(F const& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// What one window and the linears of the first block take.
class block_measurement {
public:
  block_measurement(model const& m, recipe const& how, forward_pass const& pass, context const& ctx)
      : how_(how), pass_(pass), ctx_(ctx) {
    loading = seconds_of([&] { block_ = load_block(m, 0, ctx_); });
  }

  double loading = 0, solving = 0, observing = 0, running = 0;

  void run(std::span<int const> tokens) {
    block_state state;
    state.hidden = pass_.embed(tokens);
    for (stage const& s : pass_.stages()) {
      matrix<float> x;
      running += seconds_of([&] { x = pass_.input(s, block_, state); });
      if (x.rows() > 1) measure(s, x);
      running += seconds_of([&] { pass_.move_on(s, block_, x, state); });
    }
  }

private:
  void measure(stage const& s, matrix<float> const& x) {
    index_t outputs = 0;
    if (how_.towards_dense)
      for (std::string const& role : s.linears) outputs += block_[role].d_out();
    slim::calibration calib(x.cols(), {.gram = true, .outputs = outputs});
    matrix<float> target(x.rows(), outputs);
    index_t first = 0;
    if (outputs > 0)
      for (std::string const& role : s.linears) {
        auto const y = target.view().block(0, first, x.rows(), block_[role].d_out());
        slim::gemm_into(x.view(), slim::transposed(block_[role].weight.view()), y, ctx_);
        first += block_[role].d_out();
      }
    observing += seconds_of([&] {
      if (outputs > 0)
        calib.observe(matrix_view<float const>(x), matrix_view<float const>(target), ctx_);
      else
        calib.observe(matrix_view<float const>(x), ctx_);
    });
    first = 0;
    for (std::string const& role : s.linears) {
      solving += solve(block_[role], calib, first);
      first += block_[role].d_out();
    }
  }

  /// Seconds for one linear, whose outputs are columns `first` and on of the target.
  double solve(linear const& l, slim::calibration const& calib, index_t first) {
    recipe const* const how = how_.of(l.name);
    if (!how || !how->chain) return 0;
    auto const key = std::tuple(l.d_out(), l.d_in(), how);
    if (auto const found = known_.find(key); found != known_.end()) return found->second;
    index_t const rows = std::clamp<index_t>(most_weights / l.d_in(), 1, l.d_out());
    auto rank = how->rank_of(l.name, l.role);
    if (rows < l.d_out()) rank = {.number = std::min(rank.of(l.d_out(), l.d_in()), rows / 2)};
    auto const w = l.weight.view().middle_rows(0, rows);
    auto const chain = how->chain(rank);
    double const seconds = seconds_of([&] {
      if (how_.towards_dense)
        (void)chain.compress(w, calib.for_outputs(first, rows), ctx_);
      else
        (void)chain.compress(w, calib, ctx_);
    });
    return known_[key] = seconds * static_cast<double>(l.d_out()) / static_cast<double>(rows);
  }

  recipe const& how_;
  forward_pass const& pass_;
  context const& ctx_;
  block block_;
  std::map<std::tuple<index_t, index_t, recipe const*>, double> known_;
};

} // namespace

time_estimate estimate_time(model const& m, recipe const& how, text_tokens const& tokens, index_t context_tokens,
                            index_t evaluations, context const& ctx) {
  auto const all = static_cast<index_t>(tokens.calibration.size());
  index_t const window = std::min(context_tokens, all);
  forward_pass const pass(m, window, ctx);
  block_measurement one(m, how, pass, ctx);
  one.run(std::span(tokens.calibration).first(static_cast<std::size_t>(window)));
  double const blocks = static_cast<double>(m.config.layers);
  double const windows = static_cast<double>(all / window);
  double const evaluated = static_cast<double>(tokens.evaluation.size());
  double const evaluated_windows = evaluated / static_cast<double>(window);
  double const evaluated_models = evaluations > 0 ? static_cast<double>(evaluations + 1) : 0.0;
  time_estimate out;
  out.solving = blocks * one.solving;
  out.observing = blocks * windows * one.observing;
  out.running = blocks * (windows * one.running * (how.towards_dense ? 2 : 1) +
                          evaluated_windows * evaluated_models * one.running + one.loading * (evaluations > 0 ? 2 : 1));
  matrix<float> const rows(measured_rows, m.output_head().cols());
  std::vector<int> const targets(static_cast<std::size_t>(measured_rows), 0);
  if (evaluations > 0)
    out.predicting = seconds_of([&] { (void)pass.token_nll(rows.view(), targets); }) * evaluated * evaluated_models /
                     static_cast<double>(measured_rows);
  return out;
}

} // namespace slim_llm
