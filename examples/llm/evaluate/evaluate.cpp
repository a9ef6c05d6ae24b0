#include "evaluate/evaluate.hpp"

#include "slim/core/random.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

namespace slim_llm {
namespace {

constexpr index_t tokens_per_batch = 4096; // hidden states at a time, rounded to whole windows

struct window_plan {
  index_t length = 0, stride = 0, count = 0;
  index_t first_target = 1; ///< position inside a window
  [[nodiscard]] index_t targets() const { return length - first_target; }
};

window_plan plan_windows(evaluation_config const& config, index_t available) {
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

std::pair<double, double> mean_and_standard_error(std::vector<double> const& values) {
  double const count = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (double const v : values) sum += v;
  double const mean = sum / count;
  for (double const v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() < 2 ? 0.0 : std::sqrt(squares / (count - 1) / count)};
}

/// Tokens of `count` windows from number `first` on, as the model gets them.
std::vector<int> window_tokens(std::span<int const> tokens, window_plan const& plan, index_t first, index_t count) {
  std::vector<int> ids;
  ids.reserve(static_cast<std::size_t>(count * plan.length));
  for (index_t w = first; w < first + count; ++w) {
    auto const part = tokens.subspan(static_cast<std::size_t>(w * plan.stride), static_cast<std::size_t>(plan.length));
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

/// Mean NLL of the targets of one window of the batch.
double window_mean(forward_pass const& pass, matrix_view<float const> hidden, std::span<int const> ids,
                   window_plan const& plan) {
  auto const head_in = pass.head_input(hidden.middle_rows(plan.first_target - 1, plan.targets()));
  double sum = 0;
  for (double const nll : pass.token_nll(head_in, ids.subspan(static_cast<std::size_t>(plan.first_target)))) sum += nll;
  return sum / static_cast<double>(plan.targets());
}

} // namespace

slim::result<protocol> find_protocol(std::string const& name) {
  if (name == "windows") return protocol::windows;
  if (name == "llama.cpp") return protocol::llama_cpp;
  return slim::failure{"protocol '" + name + "' is not known; there are windows and llama.cpp"};
}

evaluation evaluate(model const& m, std::span<int const> tokens, evaluation_config const& config, context const& ctx,
                    progress const& report) {
  window_plan const plan = plan_windows(config, static_cast<index_t>(tokens.size()));
  bool const replace_first = config.protocol == protocol::llama_cpp && m.config.add_bos && m.config.bos >= 0;
  forward_pass const pass(m, plan.length, ctx);
  index_t const batch = std::max<index_t>(1, tokens_per_batch / plan.length);
  evaluation out;
  for (index_t first = 0; first < plan.count; first += batch) {
    index_t const count = std::min(batch, plan.count - first);
    auto ids = window_tokens(tokens, plan, first, count);
    if (replace_first)
      for (index_t w = 0; w < count; ++w) ids[static_cast<std::size_t>(w * plan.length)] = m.config.bos;
    auto hidden = pass.embed(ids);
    for (block const& b : m.blocks) pass.run_block(b, hidden);
    for (index_t w = 0; w < count; ++w) {
      auto const part =
          std::span<int const>(ids).subspan(static_cast<std::size_t>(w * plan.length), static_cast<std::size_t>(plan.length));
      out.window_nll.push_back(window_mean(pass, hidden.view().middle_rows(w * plan.length, plan.length), part, plan));
    }
    if (report) report(first + count, plan.count);
  }
  std::tie(out.nll, out.nll_stderr) = mean_and_standard_error(out.window_nll); // windows have the same number of targets
  out.perplexity = std::exp(out.nll);
  out.tokens = plan.count * plan.targets();
  return out;
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
