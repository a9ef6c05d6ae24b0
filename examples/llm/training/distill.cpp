#include "training/distill.hpp"

#include "models/backward.hpp"
#include "run/file_output.hpp"
#include "run/input_error.hpp"
#include "training/run_state.hpp"

#include "slim/training/optimizer.hpp"
#include "slim/training/schedule.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace slim_llm {
namespace {

/// Tokens of whole windows, and what the losses compare with.
struct lesson {
  std::vector<int> tokens;
  std::vector<int> next;
  matrix<float> teacher; ///< head inputs of the dense model, (tokens, embedding_dim); empty for cross entropy
};

/// The part of a lesson that one step sees.
struct lesson_part {
  std::span<int const> tokens, next;
  matrix_view<float const> teacher;
};

lesson_part part_of(lesson const& all, index_t first, index_t count) {
  auto const begin = static_cast<std::size_t>(first), size = static_cast<std::size_t>(count);
  return {std::span(all.tokens).subspan(begin, size), std::span(all.next).subspan(begin, size),
          all.teacher.empty() ? matrix_view<float const>() : all.teacher.view().middle_rows(first, count)};
}

double mean_of(std::vector<double> const& losses, std::span<int const> next, training_loss kind) {
  double sum = 0;
  for (double const loss : losses) sum += loss;
  auto const counted = kind == training_loss::divergence
                           ? std::ssize(losses)
                           : std::count_if(next.begin(), next.end(), [](int token) { return token >= 0; });
  return sum / static_cast<double>(std::max<std::ptrdiff_t>(counted, 1));
}

/// Everything that a step needs and no step changes.
class classroom {
public:
  classroom(model const& dense, distill_config const& config, context const& ctx)
      : dense_(dense), config_(config), ctx_(ctx), head_(dense.output_head().to_float(ctx)) {}

  [[nodiscard]] index_t tokens_per_step() const {
    return std::max<index_t>(1, config_.tokens_per_step / config_.context) * config_.context;
  }

  /// Whole windows of a text, through the dense model once.
  [[nodiscard]] lesson prepare(std::span<int const> text, char const* what) const {
    auto const windows = std::ssize(text) / config_.context;
    if (windows < 1)
      throw input_error(
          slim::message("the text to ", what, " has ", text.size(), " tokens, fewer than one window of ", config_.context));
    auto const size = static_cast<std::size_t>(windows * config_.context);
    lesson all{{text.begin(), text.begin() + static_cast<std::ptrdiff_t>(size)}, {}, {}};
    all.next = next_tokens(all.tokens, config_.context);
    if (config_.loss == training_loss::divergence) all.teacher = head_inputs(dense_, all.tokens);
    return all;
  }

  /// Loss of each token and its gradient; `weight` is that of a token in their mean.
  [[nodiscard]] std::vector<double> loss(lesson_part const& part, matrix_view<float const> h, matrix_view<float> dh,
                                         float weight) const {
    auto const head = head_of(dense_.config, head_);
    if (config_.loss == training_loss::divergence) return slim::divergence_into(head, h, head, part.teacher, dh, weight, ctx_);
    return slim::cross_entropy_into(head, h, part.next, dh, weight, ctx_);
  }

  /// Mean loss of a model on a lesson.
  [[nodiscard]] double mean_loss(model const& m, lesson const& all) const {
    std::vector<double> losses;
    index_t const step = tokens_per_step(), count = std::ssize(all.tokens);
    for (index_t first = 0; first < count; first += step) {
      auto const part = part_of(all, first, std::min(step, count - first));
      matrix<float> const h = head_inputs(m, part.tokens);
      matrix<float> unused(h.rows(), h.cols());
      auto const more = loss(part, h, unused.view(), 0.0f);
      losses.insert(losses.end(), more.begin(), more.end());
    }
    return mean_of(losses, all.next, config_.loss);
  }

private:
  [[nodiscard]] matrix<float> head_inputs(model const& m, std::span<int const> tokens) const {
    forward_pass const pass(m, config_.context, ctx_);
    matrix<float> all(std::ssize(tokens), m.config.embedding_dim);
    index_t const step = tokens_per_step();
    for (index_t first = 0; first < all.rows(); first += step) {
      index_t const count = std::min(step, all.rows() - first);
      matrix<float> hidden = pass.embed(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
      for (index_t n = 0; n < m.config.layers; ++n) with_block(m, n, ctx_, [&](block const& b) { pass.run_block(b, hidden); });
      matrix<float> const h = pass.head_input(hidden);
      std::copy_n(h.data(), h.size(), all.row(first));
    }
    return all;
  }

  model const& dense_;
  distill_config const& config_;
  context const& ctx_;
  matrix<float> head_;
};

/// Gradients of the mean loss of one step's tokens; returns that loss.
double gradients_of(student const& compressed, classroom const& room, lesson_part const& part, distill_config const& config,
                    tensor_numbers& gradients, context const& ctx) {
  auto const counted = config.loss == training_loss::divergence
                           ? std::ssize(part.tokens)
                           : std::count_if(part.next.begin(), part.next.end(), [](int token) { return token >= 0; });
  float const weight = 1.0f / static_cast<float>(std::max<std::ptrdiff_t>(counted, 1));
  auto const found = differentiate(
      compressed.weights(), config.context, part.tokens,
      [&](matrix_view<float const> h, matrix_view<float> dh) { return room.loss(part, h, dh, weight); },
      [&](linear const& l, matrix_view<float const> x, matrix_view<float const> dy) {
        compressed.trained().add_gradients(l, x, dy, gradients, ctx);
      },
      {}, ctx);
  return mean_of(found.losses, part.next, config.loss);
}

} // namespace

training_loss parse_training_loss(std::string const& name) {
  if (name == "kl") return training_loss::divergence;
  if (name == "ce") return training_loss::cross_entropy;
  throw input_error("--loss " + name + ": possible are kl (towards the dense model) and ce (the text itself)");
}

void distill_config::check() const {
  if (context < 2 || tokens_per_step < 1 || steps < 0 || choose_every < 1)
    throw slim::config_error(slim::message("training: windows of ", context, " tokens, ", tokens_per_step, " per step, ", steps,
                                           " steps, ", choose_every, " between two looks at the choosing text"));
  if (!std::isfinite(learning_rate) || learning_rate < 0 || !(longest_gradient > 0))
    throw slim::config_error(slim::message("training: learning rate ", learning_rate, ", longest gradient ", longest_gradient));
}

distillation distill(student& compressed, model const& dense, std::span<int const> train, std::span<int const> choose,
                     distill_config const& config, context const& ctx, progress const& report) {
  config.check();
  auto const start = std::chrono::steady_clock::now();
  classroom const room(dense, config, ctx);
  lesson const chosen_by = room.prepare(choose, "choose by"), text = room.prepare(train, "train on");
  slim::schedule const rates({.peak = config.learning_rate,
                              .last = config.learning_rate / 100,
                              .warm_up = 0,
                              .steps = std::max<index_t>(config.steps, 1),
                              .shape = slim::decay_shape::cosine});
  slim::adamw optimizer;
  for (trained_tensor const& t : compressed.trained().tensors()) (void)optimizer.add(std::ssize(t.values));

  distillation result;
  run_state state{config.run_name, 0, 0, 0, 0, compressed.trained().values(), compressed.trained().values(), {}};
  if (!config.state.empty() && read_run_state(config.state, state)) {
    if (std::string const why = optimizer.restore(state.optimizer); !why.empty())
      throw input_error(config.state.string() + ": the state of the optimizer cannot be used: " + why);
    compressed.set(state.values, ctx);
  } else {
    state.before = state.best_loss = room.mean_loss(compressed.weights(), chosen_by);
  }
  auto const end_in_best = [&] {
    compressed.set(state.best, ctx);
    result.before = state.before;
    result.after = state.best_loss;
    result.best_step = state.best_step;
    result.steps = state.step;
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  index_t const at_a_time = room.tokens_per_step(), parts = (std::ssize(text.tokens) + at_a_time - 1) / at_a_time;
  while (state.step < config.steps) {
    index_t const first = state.step % parts * at_a_time;
    auto const part = part_of(text, first, std::min(at_a_time, std::ssize(text.tokens) - first));
    tensor_numbers gradients = compressed.trained().no_gradients();
    double const loss = gradients_of(compressed, room, part, config, gradients, ctx);
    double const norm = compressed.trained().shorten(gradients, config.longest_gradient);
    if (!std::isfinite(loss) || !std::isfinite(norm)) {
      end_in_best();
      throw input_error(slim::message("training: step ", state.step + 1, " has a loss of ", loss, " and gradients of norm ",
                                      norm, "; the last good state is that of step ", state.best_step,
                                      ". A lower learning rate may help"));
    }
    compressed.set(compressed.trained().stepped(optimizer, gradients, rates.at(state.step)), ctx);
    ++state.step;
    result.losses.push_back(loss);
    if (state.step % config.choose_every == 0 || state.step == config.steps) {
      double const now = room.mean_loss(compressed.weights(), chosen_by);
      if (now < state.best_loss) {
        state.best_loss = now;
        state.best_step = state.step;
        state.best = compressed.trained().values();
      }
      if (!config.state.empty()) {
        state.values = compressed.trained().values();
        state.optimizer = optimizer.state();
        write_run_state(config.state, state);
      }
    }
    if (report) report(state.step, config.steps);
  }
  end_in_best();
  return result;
}

} // namespace slim_llm
