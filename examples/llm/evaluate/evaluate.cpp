#include "evaluate/evaluate.hpp"

#include "run/input_error.hpp"
#include "run/memory.hpp"

#include "slim/core/random.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

namespace slim_llm {
namespace {

/// Tokens that go through a block together, rounded to whole windows: many, but no more than some tens of MB of activations.
index_t tokens_per_batch(model_config const& c) {
  constexpr index_t most = 4096, activations = index_t{1} << 24;
  return std::min(most, activations / std::max<index_t>(c.intermediate, 1));
}

bool all_finite(matrix<float> const& m) {
  return std::all_of(m.data(), m.data() + m.size(), [](float value) { return std::isfinite(value); });
}

} // namespace

std::pair<double, double> mean_and_standard_error(std::vector<double> const& values) {
  double const count = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (double const v : values) sum += v;
  double const mean = sum / count;
  for (double const v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() < 2 ? 0.0 : std::sqrt(squares / (count - 1) / count)};
}

slim::result<slim::number_format> find_kv_cache(std::string const& name) {
  if (name == "fp16") return slim::number_format::fp16;
  if (name == "fp32") return slim::number_format::fp32;
  return slim::failure{"--kv-cache " + name + ": possible are fp16, fp32"};
}

slim::result<protocol> find_protocol(std::string const& name) {
  if (name == "windows") return protocol::windows;
  if (name == "llama.cpp") return protocol::llama_cpp;
  return slim::failure{"protocol '" + name + "' is not known; there are windows and llama.cpp"};
}

block_evaluation::window_plan block_evaluation::plan_windows(evaluation_config const& config, index_t available) {
  if (config.context < 2)
    throw slim::config_error(slim::message("windows of ", config.context, " tokens predict nothing; 2 or more are needed"));
  if (config.stride < 0 || config.max_tokens < 0)
    throw slim::config_error(slim::message("negative stride ", config.stride, " or number of tokens ", config.max_tokens));
  if (available < 2) throw slim::config_error(slim::message("a text of ", available, " tokens has nothing to predict"));
  window_plan plan;
  plan.length = std::min(config.context, available);
  if (config.max_tokens > 0) plan.length = std::min(plan.length, config.max_tokens);
  plan.stride = config.stride > 0 ? config.stride : plan.length;
  plan.count = (available - plan.length) / plan.stride + 1;
  if (config.max_tokens > 0) plan.count = std::min(plan.count, config.max_tokens / plan.length);
  if (config.protocol == protocol::llama_cpp) plan.first_target = plan.length / 2 + 1;
  if (plan.targets() < 1)
    throw slim::config_error(slim::message("windows of ", plan.length, " tokens predict nothing by this protocol"));
  return plan;
}

index_t block_evaluation::tokens_in_windows(evaluation_config const& config, index_t available) {
  window_plan const plan = plan_windows(config, available);
  return plan.count * plan.length;
}

/// Tokens of `count` windows from number `first` on.
std::vector<int> block_evaluation::tokens_of_windows(std::span<int const> tokens, index_t first, index_t count) const {
  std::vector<int> ids;
  ids.reserve(static_cast<std::size_t>(count * plan_.length));
  for (index_t w = first; w < first + count; ++w) {
    auto const part = tokens.subspan(static_cast<std::size_t>(w * plan_.stride), static_cast<std::size_t>(plan_.length));
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

block_evaluation::block_evaluation(model const& m, std::span<int const> tokens, evaluation_config const& config,
                                   context const& ctx)
    : plan_(plan_windows(config, static_cast<index_t>(tokens.size()))), model_(m), pass_(m, plan_.length, ctx),
      states_(config.states_on_disk) {
  pass_.round_keys_and_values(config.kv_cache);
  index_t const batch = std::max<index_t>(1, tokens_per_batch(m.config) / plan_.length);
  for (index_t first = 0; first < plan_.count; first += batch) {
    index_t const count = std::min(batch, plan_.count - first);
    auto ids = tokens_of_windows(tokens, first, count);
    if (config.first_token)
      for (index_t w = 0; w < count; ++w) ids[static_cast<std::size_t>(w * plan_.length)] = *config.first_token;
    block_state state;
    state.hidden = pass_.embed(ids);
    states_.add(std::move(state));
    batches_.push_back(std::move(ids));
  }
  m.embedding.drop_pages();
}

void block_evaluation::restore(state_store states, index_t blocks) {
  if (states.size() != batches_.size())
    throw input_error(
        slim::message("the kept states are of ", states.size(), " batches of windows, the text has ", batches_.size()));
  states_ = std::move(states);
  blocks_ = blocks;
}

void block_evaluation::advance(block const& b) {
  for (std::size_t k = 0; k < batches_.size(); ++k) {
    block_state state = states_.take(k);
    pass_.run_block(b, state);
    if (!all_finite(state.hidden))
      throw input_error(slim::message("block ", blocks_, " (", b.linears.front().name,
                                      " and what follows): what it computes is not finite; a weight may be NaN or infinite, "
                                      "or numbers grow beyond what a float holds"));
    state.carried.clear();
    states_.put(k, std::move(state));
  }
  ++blocks_;
  return_freed_memory();
}

void block_evaluation::visit_windows(window_visitor const& f) {
  auto const length = static_cast<std::size_t>(plan_.length);
  index_t w = 0;
  for (std::size_t k = 0; k < batches_.size(); ++k) {
    block_state state = states_.take(k);
    auto const ids = std::span<int const>(batches_[k]);
    for (std::size_t first = 0; first < ids.size(); first += length) {
      auto const rows = state.hidden.view().middle_rows(static_cast<index_t>(first) + plan_.first_target - 1, plan_.targets());
      f(w++, pass_.head_input(rows), ids.subspan(first, length).subspan(static_cast<std::size_t>(plan_.first_target)));
    }
    states_.put(k, std::move(state));
  }
  model_.output_head().drop_pages();
}

evaluation block_evaluation::finish() {
  evaluation out;
  visit_windows([&](index_t, matrix_view<float const> head_in, std::span<int const> targets) {
    double sum = 0;
    for (double const nll : pass_.token_nll(head_in, targets)) sum += nll;
    out.window_nll.push_back(sum / static_cast<double>(plan_.targets()));
  });
  for (std::size_t w = 0; w < out.window_nll.size(); ++w)
    if (!std::isfinite(std::exp(out.window_nll[w])))
      throw input_error(slim::message("window ", w, " of the text (tokens ", static_cast<index_t>(w) * plan_.stride, " to ",
                                      static_cast<index_t>(w) * plan_.stride + plan_.length - 1,
                                      "): the likelihood of its tokens is no finite number (nll ", out.window_nll[w],
                                      "), though all blocks compute finite ones; look at the final norm and the head"));
  out.window = plan_.length;
  std::tie(out.nll, out.nll_stderr) = mean_and_standard_error(out.window_nll); // windows have the same number of targets
  out.perplexity = std::exp(out.nll);
  out.tokens = plan_.count * plan_.targets();
  return out;
}

evaluation evaluate(model const& m, std::span<int const> tokens, evaluation_config const& config, context const& ctx,
                    progress const& report) {
  block_evaluation run(m, tokens, config, ctx);
  for (index_t n = 0; n < m.config.layers; ++n) {
    with_block(m, n, ctx, [&](block const& b) { run.advance(b); });
    if (report) report(n + 1, m.config.layers);
  }
  return run.finish();
}

paired_difference compare(evaluation const& a, evaluation const& b) { return compare(a.window_nll, b.window_nll); }

paired_difference compare(std::vector<double> const& a, std::vector<double> const& b) {
  if (a.size() != b.size() || a.empty())
    throw slim::shape_error(slim::message("compare: ", a.size(), " and ", b.size(), " windows"));
  std::vector<double> difference(a.size());
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] = a[i] - b[i];
  return summarise_windows(difference);
}

paired_difference summarise_windows(std::vector<double> const& difference) {
  if (difference.empty()) throw slim::shape_error("summarise_windows: no windows");
  constexpr std::size_t resamples = 2000;
  std::vector<double> means;
  for (std::size_t k = 0; k < resamples; ++k) {
    double sum = 0;
    for (std::size_t i = 0; i < difference.size(); ++i)
      sum += difference[slim::random_bits(95, k * difference.size() + i) % difference.size()];
    means.push_back(sum / static_cast<double>(difference.size()));
  }
  std::sort(means.begin(), means.end());
  auto const [mean, standard_error] = mean_and_standard_error(difference);
  return {mean, standard_error, means[resamples / 40], means[resamples - 1 - resamples / 40]};
}

} // namespace slim_llm
