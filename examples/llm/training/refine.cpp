#include "training/refine.hpp"

#include "models/backward.hpp"
#include "run/input_error.hpp"

#include "slim/training/schedule.hpp"

#include <chrono>
#include <cmath>

namespace slim_llm {
namespace {

/// The states of a text's windows, as many together as one step takes, in the compressed model; and what they should become.
struct block_lesson {
  std::vector<block_state> batches;
  std::vector<std::vector<matrix<float>>> targets; ///< [part of the block][batch]: hidden states of the dense model behind it
  std::vector<block_state> dense;                  ///< states of the dense model, behind the last block that it has run

  [[nodiscard]] index_t tokens() const {
    index_t sum = 0;
    for (block_state const& batch : batches) sum += batch.hidden.rows();
    return sum;
  }
};

class refinery {
public:
  refinery(model const& compressed, refine_config const& config, context const& ctx)
      : config_(config), ctx_(ctx), forward_(compressed, config.context, ctx), backward_(compressed, forward_, ctx) {}

  /// Whole windows of a text, before the first block.
  [[nodiscard]] block_lesson prepare(model const& dense, std::span<int const> text, char const* what) const {
    index_t const windows = std::ssize(text) / config_.context;
    if (windows < 1)
      throw input_error(
          slim::message("the text to ", what, " has ", text.size(), " tokens, fewer than one window of ", config_.context));
    index_t const step = std::max<index_t>(1, config_.tokens_per_step / config_.context) * config_.context;
    forward_pass const of_dense(dense, config_.context, ctx_);
    block_lesson all;
    for (index_t first = 0; first < windows * config_.context; first += step) {
      index_t const count = std::min(step, windows * config_.context - first);
      auto const tokens = text.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
      all.batches.emplace_back().hidden = forward_.embed(tokens);
      all.dense.emplace_back().hidden = of_dense.embed(tokens);
    }
    return all;
  }

  /// The states of the dense model move through its block, and the targets of the block's parts are those on the way.
  void set_targets(block const& b, block_lesson& text) {
    text.targets.clear();
    if (parts_.empty()) find_parts(b, text.dense.front());
    for (stage_range const part : parts_) {
      text.targets.emplace_back();
      for (block_state& state : text.dense) {
        run(part, b, state);
        text.targets.back().push_back(state.hidden);
      }
    }
    for (block_state& state : text.dense) state.carried.clear();
  }

  /// Trains the parts of a block that computes with its packed layers from now on. Returns the layers as they are then.
  packed_weights refine_block(index_t number, block& b, layer_source const& layers, block_lesson& text, block_lesson& chosen_by,
                              refinement& result) {
    packed_weights done;
    std::vector<trained_layers> trained;
    for (stage_range const part : parts_) {
      trained.emplace_back(config_.parts);
      for_each_role(part, [&](std::string const& role) {
        if (auto const layer = layers(b[role].name)) trained.back().add(b[role], *layer, ctx_);
      });
    }
    for (std::size_t p = 0; p < parts_.size(); ++p) {
      refined_part found{number, {}, 0, 0, 0};
      for_each_role(parts_[p], [&](std::string const& role) { found.linears += (found.linears.empty() ? "" : " ") + role; });
      train(p, b, trained[p], text, chosen_by, found);
      result.parts.push_back(found);
      for (auto const& v : trained[p].values()) result.numbers += std::ssize(v);
      done.merge(trained[p].layers(ctx_));
      for (block_lesson* const l : {&text, &chosen_by})
        for (block_state& state : l->batches) run(parts_[p], b, state);
    }
    for (block_lesson* const l : {&text, &chosen_by})
      for (block_state& state : l->batches) state.carried.clear();
    return done;
  }

private:
  void run(stage_range part, block const& b, block_state& state) const {
    for (std::size_t k = part.first; k < part.last; ++k) {
      stage const& s = forward_.stages()[k];
      forward_.move_on(s, b, forward_.input(s, b, state), state);
    }
  }

  template <class F>
  void for_each_role(stage_range part, F const& f) const {
    for (std::size_t k = part.first; k < part.last; ++k)
      for (std::string const& role : forward_.stages()[k].linears) f(role);
  }

  /// Looks where the hidden states change. Experts add to them one after the other, and belong together.
  void find_parts(block const& b, block_state state) {
    auto const& stages = forward_.stages();
    std::size_t first = 0;
    for (std::size_t k = 0; k < stages.size(); ++k) {
      matrix<float> const before = state.hidden;
      run({k, k + 1}, b, state);
      bool const last = k + 1 == stages.size();
      bool const belongs = !last && !stages[k + 1].decided_by.empty() && !stages[k].decided_by.empty();
      if (!last && (belongs || state.hidden == before)) continue;
      parts_.push_back({first, k + 1});
      first = k + 1;
    }
  }

  /// Mean loss of a text behind part `p`.
  [[nodiscard]] double mean_loss(std::size_t p, block const& b, block_lesson const& text) const {
    double sum = 0;
    for (std::size_t k = 0; k < text.batches.size(); ++k) {
      block_state state = text.batches[k];
      run(parts_[p], b, state);
      matrix<float> unused(state.hidden.rows(), state.hidden.cols());
      for (double const loss : slim::relative_error_into(state.hidden, text.targets[p][k], unused.view(), 0.0f, ctx_))
        sum += loss;
    }
    return sum / static_cast<double>(text.tokens());
  }

  /// Gradients of the mean loss of a batch behind part `p`; returns the loss.
  double add_gradients(std::size_t p, block const& b, trained_layers const& trained, block_state const& batch,
                       matrix<float> const& target, tensor_numbers& gradients) const {
    block_record const record = backward_.record(b, batch, parts_[p]);
    auto const tokens = static_cast<double>(target.rows());
    block_gradient g;
    g.hidden = matrix<float>(target.rows(), target.cols());
    double sum = 0;
    for (double const loss :
         slim::relative_error_into(record.after.hidden, target, g.hidden.view(), static_cast<float>(1 / tokens), ctx_))
      sum += loss;
    backward_.run_block(b, record, g, [&](linear const& l, matrix_view<float const> x, matrix_view<float const> dy) {
      trained.add_gradients(l, x, dy, gradients, ctx_);
    });
    return sum / tokens;
  }

  void set(std::size_t p, block& b, trained_layers& trained, tensor_numbers values) const {
    trained.set(std::move(values));
    for_each_role(parts_[p], [&](std::string const& role) { trained.follow(b[role], ctx_); });
  }

  void train(std::size_t p, block& b, trained_layers& trained, block_lesson const& text, block_lesson const& chosen_by,
             refined_part& found) const {
    found.before = found.after = mean_loss(p, b, chosen_by);
    if (trained.tensors().empty()) return;
    tensor_numbers best = trained.values();
    auto const per_pass = std::ssize(text.batches);
    slim::schedule const rates({.peak = config_.learning_rate,
                                .last = config_.learning_rate / 100,
                                .warm_up = 0,
                                .steps = std::max<index_t>(config_.passes * per_pass, 1),
                                .shape = slim::decay_shape::cosine});
    slim::adamw optimizer;
    for (trained_tensor const& t : trained.tensors()) (void)optimizer.add(std::ssize(t.values));
    for (index_t pass = 0; pass < config_.passes; ++pass) {
      for (index_t k = 0; k < per_pass; ++k) {
        auto const at = static_cast<std::size_t>(k);
        tensor_numbers gradients = trained.no_gradients();
        double const loss = add_gradients(p, b, trained, text.batches[at], text.targets[p][at], gradients);
        double const norm = trained.shorten(gradients, config_.longest_gradient);
        if (!std::isfinite(loss) || !std::isfinite(norm))
          throw input_error(slim::message("refining block ", found.block, " (", found.linears, "): pass ", pass + 1, ", step ",
                                          k + 1, " has a loss of ", loss, " and gradients of norm ", norm,
                                          "; the last good state is that of pass ", found.best_pass,
                                          ". A lower learning rate may help"));
        set(p, b, trained, trained.stepped(optimizer, gradients, rates.at(pass * per_pass + k)));
      }
      double const now = mean_loss(p, b, chosen_by);
      if (!(now < found.after)) continue;
      found.after = now;
      found.best_pass = pass + 1;
      best = trained.values();
    }
    set(p, b, trained, std::move(best));
  }

  refine_config const& config_;
  context const& ctx_;
  forward_pass forward_;
  backward_pass backward_;
  std::vector<stage_range> parts_;
};

} // namespace

void refine_config::check() const {
  if (context < 2 || tokens_per_step < 1 || passes < 0)
    throw slim::config_error(
        slim::message("refine: windows of ", context, " tokens, ", tokens_per_step, " per step, ", passes, " passes"));
  if (!std::isfinite(learning_rate) || learning_rate < 0 || !(longest_gradient > 0))
    throw slim::config_error(slim::message("refine: learning rate ", learning_rate, ", longest gradient ", longest_gradient));
}

refinement refine(model const& dense, model const& compressed, layer_source const& layers, std::span<int const> train,
                  std::span<int const> choose, refine_config const& config, layer_sink const& sink, context const& ctx,
                  progress const& report) {
  config.check();
  auto const start = std::chrono::steady_clock::now();
  refinery work(compressed, config, ctx);
  block_lesson chosen_by = work.prepare(dense, choose, "choose by"), text = work.prepare(dense, train, "train on");
  refinement result;
  for (index_t n = 0; n < dense.config.layers; ++n) {
    {
      block const target = load_block(dense, n, ctx);
      work.set_targets(target, text);
      work.set_targets(target, chosen_by);
    }
    block b = load_block(compressed, n, ctx);
    sink(n, work.refine_block(n, b, layers, text, chosen_by, result));
    if (report) report(n + 1, dense.config.layers);
  }
  if (result.numbers == 0) throw slim::config_error("nothing of the packed layers trains: they have no adapters");
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

} // namespace slim_llm
