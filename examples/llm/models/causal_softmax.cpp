#include "models/causal_softmax.hpp"

#include <algorithm>
#include <cmath>

namespace slim_llm {

visible_keys visible_to(index_t query, index_t reach) {
  return {reach > 0 ? std::max<index_t>(0, query - reach + 1) : 0, query + 1};
}

void cap_softly(matrix_view<float> scores, float scale, float cap) {
  for (index_t i = 0; i < scores.rows(); ++i)
    for (index_t j = 0; j < scores.cols(); ++j) scores(i, j) = cap * std::tanh(scores(i, j) * scale / cap);
}

std::vector<float> causal_softmax(matrix_view<float> scores, index_t query_begin, index_t key_begin, index_t reach, float scale,
                                  slim::simd_level simd) {
  std::vector<float> inverse_sums;
  for (index_t i = 0; i < scores.rows(); ++i) {
    float* const row = scores.row(i);
    auto const seen = visible_to(query_begin + i, reach);
    float* const first = row + (seen.first - key_begin);
    index_t const count = seen.end - seen.first;
    inverse_sums.push_back(1.0f / exp_inplace(first, count, max_of(first, count, simd), scale, simd));
    std::fill(row, first, 0.0f);
    std::fill(first + count, row + scores.cols(), 0.0f);
  }
  return inverse_sums;
}

} // namespace slim_llm
