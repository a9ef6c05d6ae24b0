#include "evaluate/evaluate.hpp"

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

std::pair<double, double> mean_and_standard_error(std::vector<double> const& values) {
  double const count = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (double const v : values) sum += v;
  double const mean = sum / count;
  for (double const v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() < 2 ? 0.0 : std::sqrt(squares / (count - 1) / count)};
}

} // namespace

slim::result<protocol> find_protocol(std::string const& name) {
  if (name == "windows") return protocol::windows;
  if (name == "llama.cpp") return protocol::llama_cpp;
  return slim::failure{"protocol '" + name + "' is not known; there are windows and llama.cpp"};
}

block_evaluation::window_plan block_evaluation::plan_windows(evaluation_config const& config, index_t available) {
  if (config.context < 2) throw slim::config_error(slim::message("evaluate: context is ", config.context, ", needs 2 or more"));
  if (config.stride < 0 || config.max_tokens < 0)
    throw slim::config_error(slim::message("evaluate: negative stride ", config.stride, " or max_tokens ", config.max_tokens));
  if (available < 2) throw slim::config_error(slim::message("evaluate: ", available, " tokens, nothing to predict"));
  window_plan plan;
  plan.length = std::min(config.context, available);
  if (config.max_tokens > 0) plan.length = std::min(plan.length, config.max_tokens);
  plan.stride = config.stride > 0 ? config.stride : plan.length;
  plan.count = (available - plan.length) / plan.stride + 1;
  if (config.max_tokens > 0) plan.count = std::min(plan.count, config.max_tokens / plan.length);
  if (config.protocol == protocol::llama_cpp) plan.first_target = plan.length / 2 + 1;
  if (plan.targets() < 1)
    throw slim::config_error(slim::message("evaluate: windows of ", plan.length, " tokens predict nothing"));
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
  bool const replace_first = config.protocol == protocol::llama_cpp && m.config.add_bos && m.config.bos >= 0;
  index_t const batch = std::max<index_t>(1, tokens_per_batch(m.config) / plan_.length);
  for (index_t first = 0; first < plan_.count; first += batch) {
    index_t const count = std::min(batch, plan_.count - first);
    auto ids = tokens_of_windows(tokens, first, count);
    if (replace_first)
      for (index_t w = 0; w < count; ++w) ids[static_cast<std::size_t>(w * plan_.length)] = m.config.bos;
    block_state state;
    state.hidden = pass_.embed(ids);
    states_.add(std::move(state));
    batches_.push_back(std::move(ids));
  }
  m.embedding.drop_pages();
}

void block_evaluation::advance(block const& b) {
  for (std::size_t k = 0; k < batches_.size(); ++k) {
    block_state state = states_.take(k);
    pass_.run_block(b, state);
    state.carried.clear();
    states_.put(k, std::move(state));
  }
  return_freed_memory();
}

/// Mean NLL of the targets of one window.
double block_evaluation::window_mean(matrix_view<float const> hidden, std::span<int const> ids) const {
  auto const head_in = pass_.head_input(hidden.middle_rows(plan_.first_target - 1, plan_.targets()));
  double sum = 0;
  for (double const nll : pass_.token_nll(head_in, ids.subspan(static_cast<std::size_t>(plan_.first_target)))) sum += nll;
  return sum / static_cast<double>(plan_.targets());
}

evaluation block_evaluation::finish() {
  evaluation out;
  auto const length = static_cast<std::size_t>(plan_.length);
  for (std::size_t k = 0; k < batches_.size(); ++k) {
    block_state const state = states_.take(k);
    auto const ids = std::span<int const>(batches_[k]);
    for (std::size_t first = 0; first < ids.size(); first += length)
      out.window_nll.push_back(
          window_mean(state.hidden.view().middle_rows(static_cast<index_t>(first), plan_.length), ids.subspan(first, length)));
  }
  model_.output_head().drop_pages();
  for (std::size_t w = 0; w < out.window_nll.size(); ++w)
    if (!std::isfinite(out.window_nll[w]))
      throw slim::nonfinite_error(
          slim::message("the loss of window ", w, " of the text is not a number: values inside the model overflow"));
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
