#include "evaluate/generate.hpp"

#include "slim/core/random.hpp"
#include "slim/quantization/absmax.hpp"

#include <algorithm>
#include <cmath>

namespace slim_llm {
namespace {

slim::r16_matrix eight_bits(matrix<float> const& head, context const& ctx) {
  slim::absmax_quantizer const rounding({.bits = 8, .block = slim::per_group(32), .scale_format = slim::number_format::fp16});
  return slim::pack_r16(rounding.quantize(head.view(), slim::calibration(head.cols()), ctx), ctx);
}

} // namespace

generation::generation(model const& m, index_t longest, bool packed_head, context const& ctx)
    : model_(m), ctx_(ctx), pass_(m, longest, ctx) {
  for (index_t b = 0; b < m.config.layers; ++b) caches_.emplace_back(longest, m.config.kv_heads, m.config.head_dim);
  if (packed_head) head_ = eight_bits(m.output_head().to_float(ctx), ctx);
}

std::vector<float> generation::append(std::span<int const> tokens) {
  auto const count = static_cast<index_t>(tokens.size());
  if (count == 0) throw slim::shape_error("generation::append: no tokens");
  if (size_ + count > pass_.window())
    throw slim::config_error(slim::message("generation: ", size_ + count, " tokens, room was made for ", pass_.window()));
  block_state state;
  state.hidden = pass_.embed_at(tokens, size_);
  state.position = size_;
  for (std::size_t n = 0; n < model_.blocks.size(); ++n) {
    state.cache = &caches_[n];
    pass_.run_block(model_.blocks[n], state);
  }
  size_ += count;
  auto const last = pass_.head_input(state.hidden.view().middle_rows(count - 1, 1));
  std::vector<float> logits(static_cast<std::size_t>(model_.embedding.rows()));
  matrix_view<float> const out(logits.data(), 1, model_.embedding.rows());
  if (head_) {
    slim::linear_into(*head_, last.view(), out, {}, ctx_);
    pass_.cap_logits(out);
  } else
    pass_.logits_into(last, 0, out);
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
