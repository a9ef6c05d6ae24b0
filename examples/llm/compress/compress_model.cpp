#include "compress/compress_model.hpp"

#include "compress/run_folder.hpp"
#include "compress/stock_types.hpp"
#include "compress/token_energies.hpp"
#include "run/file_output.hpp"
#include "run/memory.hpp"
#include "run/table.hpp"

#include "slim/calibration/calibration_bytes.hpp"
#include "slim/training/fisher.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

namespace slim_llm {
namespace {

/// Statistics of the inputs of a stage's linears over all windows: of all of them together, or, where tokens weigh differently
/// for each, of one.
struct stage_statistics {
  std::vector<std::string> linears; ///< roles
  slim::calibration calib;
  std::optional<slim::calibration> held_out;
};

/// A linear to compress, by which statistics.
struct linear_task {
  linear* l;
  slim::calibration const* calib;
  index_t first_output = 0;       ///< column of the calibration's outputs
  bool shares_outputs = false;    ///< with other linears of the stage
  recipe const* how = nullptr;    ///< null: it stays as it is,
  char const* why_left = nullptr; ///< for this reason
};

/// What is known of a compressed linear beside its weight.
struct compressed_linear {
  layer_result result;
  packed_layer packed;
  std::vector<float> channel_factors; ///< of a recipe that rounds inputs for codes
  matrix<float> rest_L, rest_R;
};

/// How much each token counts for each linear, by the linear's name: weights of all windows, one behind the other. Empty: all
/// tokens count alike.
using all_token_weights = std::map<std::string, std::vector<float>>;

/// Compresses blocks, stage by stage. A stage is observed on all calibration windows, its linears are compressed, and the
/// windows move on through the compressed linears. The last `held_out` windows are only measured on. If the recipe aims at the
/// dense model, a second set of states runs through the dense linears, one stage ahead: a stage is still dense when it is
/// observed.
class block_compressor {
public:
  block_compressor(forward_pass const& pass, recipe const& how, all_token_weights const& weights, index_t held_out,
                   bool keep_packed, ranks& job, context const& ctx)
      : pass_(pass), how_(how), weights_(weights), held_out_(held_out), keep_packed_(keep_packed), job_(job), ctx_(ctx) {}

  /// Compresses the linears of b and moves the states of all windows through it; `dense_windows` those of the dense model,
  /// empty if the recipe does not need them. Returns the packed layers, if they are to be kept.
  packed_weights run(index_t number, block& b, state_store& windows, state_store& dense_windows,
                     std::vector<layer_result>& layers) {
    packed_weights packed;
    stage const* before = nullptr;
    for (stage const& current : pass_.stages()) {
      auto statistics = empty_statistics(b, current);
      observe_windows(current, before, b, windows, dense_windows, statistics);
      return_freed_memory();
      for (stage_statistics& part : statistics) {
        if (part.held_out) part.calib.hold_out(std::move(*part.held_out));
        part.held_out.reset();
        unite_shares(b, part);
      }
      compress_linears(number, b, statistics, packed, layers);
      before = &current;
    }
    for_own_windows(windows, [&](std::size_t w) {
      block_state window = windows.take(w);
      move_on(*before, b, window);
      forget_carried(windows, w, std::move(window));
    });
    for_own_windows(dense_windows, [&](std::size_t w) { forget_carried(dense_windows, w, dense_windows.take(w)); });
    return packed;
  }

  /// Compresses the linears of b by statistics from elsewhere.
  packed_weights run(index_t number, block& b, std::function<slim::calibration(linear const&)> const& statistics,
                     std::vector<layer_result>& layers) {
    packed_weights packed;
    std::vector<stage_statistics> parts;
    for (stage const& current : pass_.stages())
      for (std::string const& role : current.linears) parts.push_back({{role}, statistics(b[role]), {}});
    try {
      compress_linears(number, b, parts, packed, layers);
    } catch (slim::config_error const& error) {
      throw slim::config_error("recipe " + how_.name + " needs more than sums of squares: " + error.what());
    }
    return packed;
  }

private:
  static constexpr index_t tokens_per_task = 16;

  void move_on(stage const& s, block const& b, block_state& window) const {
    pass_.move_on(s, b, pass_.input(s, b, window), window);
  }

  [[nodiscard]] std::vector<stage_statistics> empty_statistics(block const& b, stage const& s) const {
    index_t const d_in = b[s.linears.front()].d_in();
    std::vector<std::vector<std::string>> groups;
    if (weights_.empty())
      groups.push_back(s.linears);
    else
      for (std::string const& role : s.linears) groups.push_back({role});
    std::vector<stage_statistics> all;
    slim::work_share const share{job_.rank(), job_.size()};
    for (auto const& roles : groups) {
      index_t outputs = 0;
      if (how_.towards_dense)
        for (std::string const& role : roles) outputs += b[role].d_out();
      slim::calibration_config const config{.gram = true, .outputs = outputs, .samples = how_.samples, .share = share};
      all.push_back({roles, slim::calibration(d_in, config), {}});
      if (held_out_ > 0) all.back().held_out.emplace(d_in, slim::calibration_config{.gram = true, .share = share});
    }
    return all;
  }

  static void forget_carried(state_store& windows, std::size_t w, block_state window) {
    window.carried.clear();
    windows.put(w, std::move(window));
  }

  /// Calls `f` with the number of every window that is in this rank's care.
  template <class F>
  void for_own_windows(state_store const& windows, F const& f) const {
    for (auto w = static_cast<std::size_t>(job_.rank()); w < windows.size(); w += static_cast<std::size_t>(job_.size())) f(w);
  }

  /// Adds all windows to the statistics, in their order: in turns, in which each rank moves one of its windows on.
  void observe_windows(stage const& s, stage const* before, block const& b, state_store& windows, state_store& dense_windows,
                       std::vector<stage_statistics>& statistics) const {
    auto const count = windows.size(), turn = static_cast<std::size_t>(job_.size()),
               rank = static_cast<std::size_t>(job_.rank());
    for (std::size_t first = 0; first < count; first += turn) {
      window_values mine;
      if (first + rank < count) mine = values_of(s, before, b, windows, dense_windows, first + rank);
      for (std::size_t w = first; w < std::min(count, first + turn); ++w) {
        window_values received;
        window_values& values = w == first + rank ? mine : received;
        bool const fitted = w + static_cast<std::size_t>(held_out_) < count;
        job_.broadcast(values.x, static_cast<index_t>(w - first));
        if (fitted && how_.towards_dense) job_.broadcast(values.target, static_cast<index_t>(w - first));
        observe(s, b, values, w, fitted, statistics);
      }
    }
  }

  /// What the linears of a stage read of a window, and what they should give: nothing if there are no dense states.
  struct window_values {
    matrix<float> x, target;
  };

  /// The window, and its dense state if there is one, move on to the stage.
  [[nodiscard]] window_values values_of(stage const& s, stage const* before, block const& b, state_store& windows,
                                        state_store& dense_windows, std::size_t w) const {
    block_state window = windows.take(w);
    if (before) move_on(*before, b, window);
    window_values values{pass_.input(s, b, window), {}};
    if (!dense_windows.empty()) {
      block_state dense = dense_windows.take(w);
      for (std::size_t const k : s.decided_by) dense.carry(k) = window.carry(k);
      values.target = dense_outputs(s, b, dense, window);
      dense_windows.put(w, std::move(dense));
    }
    windows.put(w, std::move(window));
    return values;
  }

  /// Adds window `w` to the statistics, and the outputs that the linears should have where outputs are collected.
  void observe(stage const& s, block const& b, window_values const& values, std::size_t w, bool fitted,
               std::vector<stage_statistics>& statistics) const {
    auto const& [x, target] = values;
    try {
      index_t first = 0;
      for (stage_statistics& part : statistics) {
        slim::calibration& to = fitted ? part.calib : *part.held_out;
        index_t const outputs = part.calib.config().outputs;
        matrix_view<float const> y(nullptr, x.rows(), 0, 0);
        if (to.config().outputs > 0) y = target.view().block(0, first, target.rows(), outputs);
        first += outputs;
        if (weights_.empty())
          to.observe(x.view(), y, ctx_);
        else
          to.observe(x.view(), y, weights_of(b[part.linears.front()], w, x.rows()), ctx_);
      }
    } catch (slim::nonfinite_error const&) {
      throw overflow_at(b[s.linears.front()]);
    }
  }

  [[nodiscard]] static slim::nonfinite_error overflow_at(linear const& l) {
    return slim::nonfinite_error(
        "tensor '" + l.name +
        "': what it reads or gives on the calibration text is NaN or infinite: values inside the model overflow");
  }

  /// All ranks get the whole of statistics of which each has a share.
  void unite_shares(block const& b, stage_statistics& part) const {
    if (job_.size() == 1) return;
    try {
      auto bytes = slim::save(part.calib);
      job_.unite(bytes);
      part.calib = slim::load_calibration(bytes).value();
    } catch (slim::nonfinite_error const&) {
      throw overflow_at(b[part.linears.front()]);
    }
  }

  /// The outputs that the linears of a stage should have, side by side: those of the dense model, without their biases, which
  /// compression leaves alone. A linear that ends a residual branch should also make up for what its state lacks already.
  [[nodiscard]] matrix<float> dense_outputs(stage const& s, block const& b, block_state& dense,
                                            block_state const& window) const {
    auto const x = pass_.input(s, b, dense);
    if (s.ends_residual_branch()) {
      auto target = output_and_drift(b[s.linears.front()], x, dense.hidden, window.hidden);
      pass_.move_on(s, b, x, dense);
      return target;
    }
    auto outputs = pass_.outputs(s, b, x);
    auto target = side_by_side(s, b, outputs);
    s.combine(pass_, b, dense, std::move(outputs));
    return target;
  }

  [[nodiscard]] matrix<float> side_by_side(stage const& s, block const& b, std::vector<matrix<float>> const& outputs) const {
    index_t cols = 0;
    for (auto const& y : outputs) cols += y.cols();
    matrix<float> all(outputs.front().rows(), cols, slim::uninitialized);
    index_t first = 0;
    for (std::size_t k = 0; k < outputs.size(); ++k) {
      auto const& y = outputs[k];
      auto const& bias = b[s.linears[k]].bias;
      ctx_.parallel_for(y.rows(), tokens_per_task, [&](index_t begin, index_t end) {
        for (index_t t = begin; t < end; ++t)
          for (index_t j = 0; j < y.cols(); ++j)
            all(t, first + j) = y(t, j) - (bias.empty() ? 0.0f : bias[static_cast<std::size_t>(j)]);
      });
      first += y.cols();
    }
    return all;
  }

  [[nodiscard]] matrix<float> output_and_drift(linear const& dense, matrix_view<float const> x,
                                               matrix<float> const& dense_hidden, matrix<float> const& hidden) const {
    matrix<float> y(x.rows(), dense.d_out(), slim::uninitialized);
    slim::gemm_into(x, slim::transposed(dense.weight.view()), y.view(), ctx_);
    ctx_.parallel_for(y.rows(), tokens_per_task, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t)
        for (index_t j = 0; j < y.cols(); ++j) y(t, j) += dense_hidden(t, j) - hidden(t, j);
    });
    return y;
  }

  /// Weights of the tokens of window `w`.
  [[nodiscard]] std::span<float const> weights_of(linear const& l, std::size_t w, index_t tokens) const {
    auto const count = static_cast<std::size_t>(tokens);
    return std::span(weights_.at(l.name)).subspan(w * count, count);
  }

  /// Linears that do not need each other, each compressed by one rank, which hands it to the others.
  void compress_linears(index_t number, block& b, std::vector<stage_statistics> const& statistics, packed_weights& packed,
                        std::vector<layer_result>& layers) const {
    auto const tasks = tasks_of(b, statistics);
    auto const owners = owners_of(tasks);
    std::vector<compressed_linear> made(tasks.size());
    for (std::size_t k = 0; k < tasks.size(); ++k)
      if (tasks[k].how && owners[k] == job_.rank()) made[k] = compress(number, tasks[k]);
    for (std::size_t k = 0; k < tasks.size(); ++k) {
      linear& l = *tasks[k].l;
      l.round_input = how_.round_input;
      if (!tasks[k].how) {
        leave_dense(number, l, tasks[k].why_left, layers);
        continue;
      }
      hand_round(l, made[k], owners[k]);
      if (how_.rounds_for_codes) round_for_codes(l, made[k]);
      if (keep_packed_) packed.emplace(l.name, std::move(made[k].packed));
      layers.push_back(std::move(made[k].result));
    }
  }

  [[nodiscard]] std::vector<linear_task> tasks_of(block& b, std::vector<stage_statistics> const& statistics) const {
    std::vector<linear_task> tasks;
    for (stage_statistics const& s : statistics) {
      bool const shared = s.linears.size() > 1 && how_.towards_dense; // then each linear has its own columns of the outputs
      index_t first = 0;
      for (std::string const& role : s.linears) {
        linear_task task{&b[role], &s.calib, first, shared, how_.of(b[role].name), "left as it is: the recipe says so"};
        if (task.how && !task.how->chain) task.how = nullptr;
        if (s.calib.tokens() == 0) { // of an expert that the router sent no token to nothing is known of the inputs
          task.how = nullptr;
          task.why_left = "left as it is: no token of the calibration text was sent to this expert";
        }
        tasks.push_back(task);
        first += b[role].d_out();
      }
    }
    return tasks;
  }

  /// The rank of each task: the largest tasks first, each to the rank that has the least to do.
  [[nodiscard]] std::vector<index_t> owners_of(std::vector<linear_task> const& tasks) const {
    std::vector<std::size_t> order(tasks.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return tasks[a].l->weight.size() > tasks[b].l->weight.size(); });
    std::vector<index_t> owners(tasks.size()), load(static_cast<std::size_t>(job_.size()));
    for (std::size_t const k : order) {
      if (!tasks[k].how) continue;
      auto const least = std::min_element(load.begin(), load.end());
      owners[k] = least - load.begin();
      *least += tasks[k].l->weight.size();
    }
    return owners;
  }

  /// The linear gets the weight that the compressed one stands for.
  [[nodiscard]] compressed_linear compress(index_t number, linear_task const& task) const {
    linear& l = *task.l;
    auto const chain = how_.chain_for(l.name, l.role);
    auto const layer = task.shares_outputs
                           ? chain.compress(l.weight.view(), task.calib->for_outputs(task.first_output, l.d_out()), ctx_)
                           : chain.compress(l.weight.view(), *task.calib, ctx_);
    matrix<float> const dense = std::exchange(l.weight, slim::decompress(layer, ctx_));
    compressed_linear made;
    made.result = {number, l.name, l.role, layer.report, vanished_rows(dense, l.weight)};
    if (auto const why = how_.fallbacks.find(l.name); why != how_.fallbacks.end())
      made.result.report.notes.push_back(why->second);
    auto const type = how_.types.find(l.name);
    if (keep_packed_)
      made.packed = type == how_.types.end() ? pack(l.name, layer, ctx_) : pack_blocks(l.name, type->second, layer, ctx_);
    if (how_.rounds_for_codes) {
      if (auto const* const codes = layer.weight.codes.get_if<slim::integer_codes>())
        made.channel_factors = codes->channel_factors;
      if (layer.adapter) {
        made.rest_L = layer.adapter->left;
        made.rest_R = layer.adapter->right;
      }
    }
    return_freed_memory();
    return made;
  }

  /// All ranks get what rank `owner` made of a linear.
  void hand_round(linear& l, compressed_linear& made, index_t owner) const {
    if (job_.size() == 1) return;
    job_.broadcast(l.weight, owner);
    std::string report = layers_as_json({made.result}).dump();
    job_.broadcast(report, owner);
    made.result = layers_of_json(nlohmann::json::parse(report)).front();
    packed_layer& packed = made.packed;
    for (auto* const bytes : {&packed.weight, &packed.left, &packed.right}) job_.broadcast(*bytes, owner);
    for (auto* const m : {&packed.left_values, &packed.right_values, &made.rest_L, &made.rest_R}) job_.broadcast(*m, owner);
    job_.broadcast(packed.format, owner);
    job_.broadcast(packed.blocks, owner);
    job_.broadcast(made.channel_factors, owner);
  }

  /// Inputs are divided by the codes' channel factors, rounded, and multiplied again; the adapter is told what was rounded off.
  void round_for_codes(linear& l, compressed_linear& made) const {
    if (!made.channel_factors.empty())
      l.round_input = [factors = std::move(made.channel_factors), round = how_.round_input](matrix_view<float> x) {
        for (index_t t = 0; t < x.rows(); ++t)
          for (index_t j = 0; j < x.cols(); ++j) x(t, j) /= factors[static_cast<std::size_t>(j)];
        round(x);
        for (index_t t = 0; t < x.rows(); ++t)
          for (index_t j = 0; j < x.cols(); ++j) x(t, j) *= factors[static_cast<std::size_t>(j)];
      };
    l.rest_L = std::move(made.rest_L);
    l.rest_R = std::move(made.rest_R);
  }

  static index_t vanished_rows(matrix<float> const& before, matrix<float> const& after) {
    auto const zero = [](matrix<float> const& m, index_t i) {
      return std::all_of(m.row(i), m.row(i) + m.cols(), [](float w) { return w == 0.0f; });
    };
    index_t count = 0;
    for (index_t i = 0; i < after.rows(); ++i) count += zero(after, i) && !zero(before, i) ? 1 : 0;
    return count;
  }

  static void leave_dense(index_t number, linear const& l, char const* why, std::vector<layer_result>& layers) {
    slim::layer_report report;
    report.rows = l.d_out();
    report.cols = l.d_in();
    report.notes = {why};
    layers.push_back({number, l.name, l.role, report, 0});
  }

  forward_pass const& pass_;
  recipe const& how_;
  all_token_weights const& weights_;
  index_t held_out_;
  bool keep_packed_;
  ranks& job_;
  context const& ctx_;
};

[[nodiscard]] index_t rank_of_window(std::size_t w, ranks const& job) { return static_cast<index_t>(w) % job.size(); }

/// The states of all windows before the first block; those in the care of other ranks stay empty.
void add_embedded_windows(state_store& windows, forward_pass const& pass, std::span<int const> tokens, ranks const& job) {
  auto const length = static_cast<std::size_t>(pass.window());
  for (std::size_t first = 0; first < tokens.size(); first += length) {
    block_state window;
    if (rank_of_window(windows.size(), job) == job.rank()) window.hidden = pass.embed(tokens.subspan(first, length));
    windows.add(std::move(window));
  }
}

/// The first rank gets the hidden states of all windows.
void collect_windows(state_store& windows, ranks& job) {
  if (job.size() == 1) return;
  for (std::size_t w = 0; w < windows.size(); ++w) {
    block_state window = windows.take(w);
    job.broadcast(window.hidden, rank_of_window(w, job));
    if (!job.first() && rank_of_window(w, job) != job.rank()) window = {};
    windows.put(w, std::move(window));
  }
}

/// The ranks get the windows in their care from the first one, which has them all.
void distribute_windows(state_store& windows, ranks& job) {
  if (job.size() == 1) return;
  std::size_t count = windows.size();
  job.broadcast(count, 0);
  for (std::size_t w = 0; w < count; ++w) {
    block_state window;
    if (job.first()) window = windows.take(w);
    job.broadcast(window.hidden, 0);
    if (job.first()) {
      windows.put(w, std::move(window));
    } else {
      if (rank_of_window(w, job) != job.rank()) window = {};
      windows.add(std::move(window));
    }
  }
}

/// Weights by the end loss, of fitted tokens and of those held out behind them: clipped and blended alike, so that both errors
/// are of one kind. Raw ones would leave it to a handful of held-out tokens which solution is taken.
all_token_weights guiding_weights(model const& m, std::span<int const> tokens, index_t window, context const& ctx) {
  all_token_weights all;
  for (auto& [name, energy] : token_energies(m, tokens, window, ctx))
    all.emplace(name, slim::token_weights(energy.values, energy.d_in));
  return all;
}

/// Inputs are rounded, weights are not.
void round_inputs_only(model const& m, recipe const& how, index_t blocks, block_sink const& sink, context const& ctx) {
  for (index_t n = 0; n < blocks; ++n) {
    block b = load_block(m, n, ctx);
    for (linear& l : b.linears) l.round_input = how.round_input;
    packed_weights none;
    sink(n, b, none);
  }
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

constexpr double nothing_left = 0.999; ///< relative output error

void summarise(compression& result) {
  double bits = 0, weights = 0, errors = 0, held_out = 0;
  for (auto const& layer : result.layers) {
    auto const last = layer.report.last();
    auto const size = static_cast<double>(layer.report.rows * layer.report.cols);
    bits += last.bits_per_weight * size;
    weights += size;
    errors += last.output_error;
    if (!std::isnan(last.held_out_error)) held_out += last.held_out_error;
    if (layer.vanished_rows > 0)
      result.warnings.push_back(slim::message(layer.name, ": ", layer.vanished_rows, " of ", layer.report.rows,
                                              " rows became 0: their scale is too small to be stored"));
    else if (last.output_error >= nothing_left)
      result.warnings.push_back(
          slim::message(layer.name, ": its output error is ", last.output_error, ": nothing that it computed is left"));
    for (auto const& note : layer.report.notes) result.notes.push_back(layer.name + ": " + note);
    for (auto const& step : layer.report.steps)
      for (auto const& note : step.notes) result.notes.push_back(layer.name + ": " + note);
  }
  result.bits_per_weight = bits / weights;
  result.layer_error = errors / static_cast<double>(result.layers.size());
  result.held_out_error = held_out / static_cast<double>(result.layers.size());
}

} // namespace

compression compress_model(model const& m, std::span<int const> tokens, recipe const& wanted, compress_config const& config,
                           double source_bits, block_sink const& sink, context const& given, progress const& report) {
  recipe const how = with_stock_types(wanted, m);
  context ctx = given;
  if (how.bf16_products) ctx.products = slim::product_inputs::bf16;
  if (how.distilled || how.refined)
    throw slim::config_error("recipe " + how.name +
                             " trains the compressed model, and only `ablate` does that in one go; compress to a .slim "
                             "file without @refine and @kl, then use `refine` or `finetune`");
  compression result;
  result.blocks = config.max_blocks > 0 ? std::min(config.max_blocks, m.config.layers) : m.config.layers;
  ranks alone;
  ranks& job = config.job ? *config.job : alone;
  if (!how.chain) {
    if (job.first()) round_inputs_only(m, how, result.blocks, sink, ctx);
    result.bits_per_weight = source_bits;
    return result;
  }
  if (config.statistics && (how.needs_hessian || how.towards_dense || how.guided || how.samples > 0))
    throw slim::config_error("recipe " + how.name +
                             " needs to see what linears read; sums of squares are enough for recipes such as "
                             "rtn-int4@range=output, slim-quant-wanda, naive and slim-repo");
  if (tokens.size() < 2 && !config.statistics)
    throw slim::config_error(slim::message("compress: ", tokens.size(), " calibration tokens, needs 2 or more"));
  if (config.context < 1 || config.calib_tokens < 1 || config.held_out_tokens < 0 || config.max_blocks < 0)
    throw slim::config_error(slim::message("compress: context ", config.context, ", calib_tokens ", config.calib_tokens,
                                           ", held_out_tokens ", config.held_out_tokens, ", max_blocks ", config.max_blocks));
  keep_freed_memory();
  auto start = std::chrono::steady_clock::now();
  index_t const available = static_cast<index_t>(tokens.size());
  index_t const window = std::max<index_t>(1, std::min({config.context, config.calib_tokens, available}));
  index_t const windows = std::min(config.calib_tokens, available) / window;
  index_t const held_out = std::min(config.held_out_tokens, available - windows * window) / window;
  forward_pass const pass(m, window, ctx);
  result.calib_tokens = windows * window;
  auto const used = tokens.first(static_cast<std::size_t>((windows + held_out) * window));
  compression_state state;
  state.windows = state_store(config.states_on_disk);
  state.dense_windows = state_store(config.states_on_disk);
  if (config.restore && job.first()) config.restore(state);
  job.broadcast(state.blocks, 0);
  if (state.blocks > 0) {
    distribute_windows(state.windows, job);
    distribute_windows(state.dense_windows, job);
  } else if (!config.statistics) {
    add_embedded_windows(state.windows, pass, used, job);
    if (how.towards_dense) add_embedded_windows(state.dense_windows, pass, used, job);
    m.embedding.drop_pages();
  }
  all_token_weights const weights = how.guided ? guiding_weights(m, used, window, ctx) : all_token_weights();
  block_compressor compressor(pass, how, weights, held_out, config.keep_packed, job, ctx);
  while (state.blocks < result.blocks) {
    block b = load_block(m, state.blocks, ctx);
    auto packed = config.statistics ? compressor.run(state.blocks, b, config.statistics, state.layers)
                                    : compressor.run(state.blocks, b, state.windows, state.dense_windows, state.layers);
    state.seconds += seconds_since(start);
    if (job.first()) sink(state.blocks, b, packed);
    ++state.blocks;
    if (config.keep) {
      collect_windows(state.windows, job);
      collect_windows(state.dense_windows, job);
      if (job.first()) config.keep(state);
    }
    start = std::chrono::steady_clock::now();
    if (report && job.first()) report(state.blocks, result.blocks);
  }
  result.layers = std::move(state.layers);
  result.seconds = state.seconds;
  summarise(result);
  return result;
}

void write_layer_csv(std::vector<layer_result> const& layers, std::filesystem::path const& file) {
  table rows({"block", "role", "tensor", "d_out", "d_in", "step", "relative_error", "output_error", "held_out_error",
              "sparsity", "bits_per_weight", "rank", "seconds", "notes"});
  for (auto const& layer : layers)
    for (auto const& step : layer.report.steps) {
      std::string notes;
      for (auto const& note : step.notes) notes += (notes.empty() ? "" : "; ") + note;
      rows.add({std::to_string(layer.block), layer.role, layer.name, std::to_string(layer.report.rows),
                std::to_string(layer.report.cols), step.step, fixed(step.relative_error, 6), fixed(step.output_error, 6),
                fixed(step.held_out_error, 6), fixed(step.sparsity, 6), fixed(step.bits_per_weight, 4),
                std::to_string(step.rank), fixed(step.seconds, 4), notes});
    }
  write_file(file, rows.csv());
}

} // namespace slim_llm
