#include "compress/token_energies.hpp"

#include "models/backward.hpp"

#include "slim/training/fisher.hpp"

#include <algorithm>

namespace slim_llm {

std::map<std::string, linear_energies> token_energies(model const& m, std::span<int const> tokens, index_t window,
                                                      context const& ctx) {
  if (m.config.experts > 0)
    throw slim::config_error("weights of tokens are not computed for models with experts: which tokens an expert sees changes "
                             "while the model is compressed");
  matrix<float> read;
  if (!m.output_head().in_memory()) read = m.output_head().to_float(ctx);
  matrix<float> const& head = m.output_head().in_memory() ? *m.output_head().in_memory() : read;
  std::map<std::string, linear_energies> all;
  constexpr index_t tokens_at_a_time = 2048;
  auto const batch = static_cast<std::size_t>(std::max<index_t>(1, tokens_at_a_time / window) * window);
  for (std::size_t first = 0; first < tokens.size(); first += batch) {
    auto const part = tokens.subspan(first, std::min(batch, tokens.size() - first));
    auto const next = next_tokens(part, window);
    (void)differentiate(
        m, window, part,
        [&](matrix_view<float const> h, matrix_view<float> dh) {
          return slim::cross_entropy_into(head_of(m.config, head), h, next, dh, 1.0f, ctx);
        },
        [&](linear const& l, matrix_view<float const>, matrix_view<float const> dy) {
          linear_energies& of = all[l.name];
          of.d_in = l.d_in();
          auto const energy = slim::token_energy(dy);
          of.values.insert(of.values.end(), energy.begin(), energy.end());
        },
        {}, ctx);
  }
  return all;
}

} // namespace slim_llm
