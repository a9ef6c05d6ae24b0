#include "evaluate/generate.hpp"

#include "slim/core/random.hpp"
#include "slim/quantization/absmax.hpp"

#include <algorithm>
#include <cmath>

namespace slim_llm {
namespace {

slim::r16_matrix eight_bits(stored_matrix const& head, context const& ctx) {
  slim::absmax_quantizer const rounding({.bits = 8, .block = slim::per_group(32), .scale_format = slim::number_format::fp16});
  matrix<float> read;
  matrix<float> const* values = head.in_memory();
  if (!values) values = &(read = head.to_float(ctx));
  return slim::pack_r16(rounding.quantize(values->view(), slim::calibration(values->cols()), ctx), ctx);
}

} // namespace

generation::generation(model const& m, index_t longest, generation_config const& config, context const& ctx)
    : model_(m), ctx_(ctx), config_(config), pass_(m, longest, ctx) {
  if (config.packed_head) head_ = eight_bits(m.output_head(), ctx);
}

growing_text generation::begin(index_t longest) const {
  growing_text text;
  text.longest_ = longest > 0 ? longest : pass_.window();
  auto const& c = model_.config;
  for (index_t b = 0; b < c.layers; ++b) text.caches_.emplace_back(text.longest_, c.kv_heads, c.head_dim, config_.kv_cache);
  return text;
}

matrix<float> generation::append(growing_text& text, std::span<int const> tokens) const {
  appended_tokens const part{&text, tokens};
  return append({&part, 1});
}

matrix<float> generation::append(std::span<appended_tokens const> parts) const {
  std::vector<int> tokens;
  block_state state;
  for (appended_tokens const& part : parts) {
    auto const count = static_cast<index_t>(part.tokens.size());
    if (count == 0) throw slim::shape_error("generation::append: no tokens");
    if (part.text->size_ + count > part.text->longest_)
      throw slim::config_error(
          slim::message("generation: ", part.text->size_ + count, " tokens, room was made for ", part.text->longest_));
    tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
    state.texts.push_back({nullptr, count, part.text->size_});
  }
  state.hidden = pass_.embed(tokens, state.texts);
  for (std::size_t n = 0; n < model_.blocks.size(); ++n) {
    for (std::size_t k = 0; k < parts.size(); ++k) state.texts[k].cache = &parts[k].text->caches_[n];
    pass_.run_block(model_.blocks[n], state);
  }
  matrix<float> last(std::ssize(parts), state.hidden.cols()), logits(std::ssize(parts), model_.embedding.rows());
  for (index_t k = 0, row = 0; k < last.rows(); ++k) {
    appended_tokens const& part = parts[static_cast<std::size_t>(k)];
    part.text->size_ += std::ssize(part.tokens);
    row += std::ssize(part.tokens);
    std::copy_n(state.hidden.row(row - 1), last.cols(), last.row(k));
  }
  matrix<float> const head_in = pass_.head_input(last.view());
  if (head_) {
    slim::linear_into(*head_, head_in.view(), logits.view(), {}, ctx_);
    pass_.cap_logits(logits.view());
  } else
    pass_.logits_into(head_in.view(), 0, logits.view());
  return logits;
}

int choose_token(std::span<float const> logits, sampling const& how, std::uint64_t drawn) {
  auto const largest = std::max_element(logits.begin(), logits.end());
  if (how.temperature <= 0) return static_cast<int>(largest - logits.begin());
  std::vector<double> cumulative;
  double sum = 0;
  for (float const l : logits) cumulative.push_back(sum += std::exp(static_cast<double>(l - *largest) / how.temperature));
  auto const found = std::upper_bound(cumulative.begin(), cumulative.end(), sum * slim::random_uniform(how.seed, drawn));
  return static_cast<int>(std::min(found, cumulative.end() - 1) - cumulative.begin());
}

} // namespace slim_llm
