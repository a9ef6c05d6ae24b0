#include "formats/rope.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace slim_llm {
namespace {

using scaling = rope_settings::scaling;

constexpr std::pair<char const*, scaling> kinds[] = {
    {"default", scaling::none},  {"none", scaling::none}, {"linear", scaling::linear},    {"dynamic", scaling::dynamic},
    {"llama3", scaling::llama3}, {"yarn", scaling::yarn}, {"longrope", scaling::longrope}};

/// Turns within the context the model was first trained on: many are kept, few are slowed down, a ramp in between.
double llama3_frequency(rope_settings const& rope, double frequency) {
  double const turns = rope.original_context * frequency / (2 * std::numbers::pi);
  double const ramp = (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor);
  double const kept = std::clamp(ramp, 0.0, 1.0);
  return (1 - kept) * frequency / rope.factor + kept * frequency;
}

/// The pair (as a number with a fraction) that makes so many turns within the original context.
double yarn_pair(rope_settings const& rope, double turns) {
  return static_cast<double>(rope.rotated) * std::log(rope.original_context / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

/// How much of pair j keeps its frequency, for all pairs.
std::vector<double> yarn_kept(rope_settings const& rope) {
  double low = yarn_pair(rope, rope.beta_fast), high = yarn_pair(rope, rope.beta_slow);
  if (rope.whole_pairs) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope.rotated - 1));
  if (low == high) high += 0.001;
  std::vector<double> kept;
  for (index_t j = 0; j < rope.rotated / 2; ++j)
    kept.push_back(1 - std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0));
  return kept;
}

double magnitude(double factor, double weight) { return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0; }

double attention_factor_of(rope_settings const& rope) {
  if (rope.kind != scaling::yarn && rope.kind != scaling::longrope) return 1;
  if (rope.attention_factor > 0) return rope.attention_factor;
  if (rope.kind == scaling::longrope)
    return rope.factor <= 1 ? 1.0 : std::sqrt(1 + std::log(rope.factor) / std::log(rope.original_context));
  if (rope.multi_scale != 0 && rope.multi_scale_all != 0)
    return magnitude(rope.factor, rope.multi_scale) / magnitude(rope.factor, rope.multi_scale_all);
  return magnitude(rope.factor, 1);
}

} // namespace

std::string known_scalings() { return "default, linear, dynamic, llama3, yarn and longrope"; }

std::optional<scaling> find_scaling(std::string const& name) {
  for (auto const& [known, kind] : kinds)
    if (name == known) return kind;
  return std::nullopt;
}

std::string why_not_valid(rope_settings const& rope) {
  auto const positive = [](double value) { return std::isfinite(value) && value > 0; };
  if (!positive(rope.theta) || rope.theta == 1) return slim::message("rotary base (rope_theta) is ", rope.theta);
  if (!positive(rope.factor)) return slim::message("rotary factor is ", rope.factor, "; it must be positive");
  bool const needs_context = rope.kind == scaling::llama3 || rope.kind == scaling::yarn || rope.kind == scaling::longrope;
  constexpr double most_positions = index_t{1} << 30;
  if (needs_context && !(rope.original_context > 1 && rope.original_context <= most_positions))
    return slim::message("the original context of the rotary positions (original_max_position_embeddings) is ",
                         rope.original_context);
  if (rope.kind == scaling::llama3 &&
      !(rope.high_frequency_factor > rope.low_frequency_factor && rope.low_frequency_factor > 0))
    return slim::message("high_freq_factor ", rope.high_frequency_factor, " must be above low_freq_factor ",
                         rope.low_frequency_factor, ", and both positive");
  if (rope.kind == scaling::yarn && !(positive(rope.beta_fast) && positive(rope.beta_slow)))
    return slim::message("beta_fast ", rope.beta_fast, " and beta_slow ", rope.beta_slow, " must be positive");
  if (!std::isfinite(rope.attention_factor) || rope.attention_factor < 0)
    return slim::message("rotary attention_factor is ", rope.attention_factor, "; it must be positive");
  for (auto const* factors : {&rope.short_factors, &rope.long_factors}) {
    if (rope.kind != scaling::longrope) continue;
    if (static_cast<index_t>(factors->size()) != rope.rotated / 2)
      return slim::message("longrope needs ", rope.rotated / 2, " short and long factors, there are ", factors->size());
    if (!std::all_of(factors->begin(), factors->end(), positive)) return "longrope factors must be positive";
  }
  return {};
}

rotary_table rotary_of(rope_settings const& rope) {
  rotary_table table;
  auto const kept = rope.kind == scaling::yarn ? yarn_kept(rope) : std::vector<double>();
  for (index_t j = 0; j < rope.rotated / 2; ++j) {
    auto const pair = static_cast<std::size_t>(j);
    double const plain = std::pow(rope.theta, -2.0 * static_cast<double>(j) / static_cast<double>(rope.rotated));
    double frequency = plain;
    if (rope.kind == scaling::linear) frequency = plain / rope.factor;
    if (rope.kind == scaling::llama3) frequency = llama3_frequency(rope, plain);
    if (rope.kind == scaling::yarn) frequency = plain / rope.factor * (1 - kept[pair]) + plain * kept[pair];
    if (rope.kind == scaling::longrope) {
      frequency = plain / rope.short_factors[pair];
      table.long_frequencies.push_back(plain / rope.long_factors[pair]);
    }
    table.frequencies.push_back(frequency);
  }
  if (rope.kind == scaling::longrope) table.original_context = static_cast<index_t>(rope.original_context);
  if (rope.kind == scaling::dynamic) table.longest = rope.max_positions;
  table.attention_factor = attention_factor_of(rope);
  return table;
}

} // namespace slim_llm
