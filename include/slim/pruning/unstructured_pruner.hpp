#pragma once
/// @file
/// Unstructured sparsity: the least salient weights of a row, or of the whole matrix, are pruned.

#include "slim/pruning/pruner.hpp"
#include "slim/saliency/saliency.hpp"

#include <algorithm>

namespace slim {
inline namespace SLIM_ABI {

/// The set of weights that are compared with each other. Wanda compares within a row (an output channel).
enum class prune_scope { row, matrix };

/// How much `unstructured_pruner` prunes, and among which weights.
struct unstructured_config {
  double sparsity = 0.5; ///< share pruned, in [0, 1]
  prune_scope scope = prune_scope::row;

  friend bool operator==(unstructured_config const&, unstructured_config const&) = default;
};

/// Prunes floor(sparsity * n) of n competing weights. Ties keep the lower position; a NaN score counts as the lowest.
/// O(n) expected (nth_element).
template <saliency Saliency>
class unstructured_pruner {
public:
  /// @throws config_error if the sparsity is not in [0, 1].
  explicit unstructured_pruner(Saliency ranking, unstructured_config config = {})
      : config_(config), ranking_(std::move(ranking)) {
    if (!(config.sparsity >= 0.0 && config.sparsity <= 1.0))
      throw config_error(message("unstructured_pruner: sparsity ", config.sparsity, " is not in [0, 1]"));
  }

  [[nodiscard]] unstructured_config const& config() const noexcept { return config_; }

  [[nodiscard]] mask select(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    mask kept(w.rows(), w.cols());
    auto const score = ranking_.prepare(w, calib, ctx);
    bool const by_row = config_.scope == prune_scope::row;
    index_t const rows_together = by_row ? 1 : w.rows();
    index_t const teams = by_row ? w.rows() : 1;
    constexpr index_t teams_per_task = 8;
    ctx.parallel_for(teams, teams_per_task, [&](index_t begin, index_t end) {
      for (index_t team = begin; team < end; ++team) select_among(kept, score, team * rows_together, rows_together);
    });
    return kept;
  }

  [[nodiscard]] std::string describe() const {
    return message("prune ", config_.sparsity, config_.scope == prune_scope::row ? " of each row" : " of the matrix", " by ",
                   std::string(ranking_.describe()));
  }

private:
  template <class Scorer>
  void select_among(mask& kept, Scorer const& score, index_t first_row, index_t rows) const {
    index_t const cols = kept.cols();
    std::vector<float> scores(static_cast<std::size_t>(rows * cols));
    for (index_t k = 0; k < rows * cols; ++k) {
      float const s = score(first_row + k / cols, k % cols);
      scores[static_cast<std::size_t>(k)] = s == s ? s : -std::numeric_limits<float>::infinity();
    }
    auto const total = static_cast<double>(scores.size());
    index_t const wanted = rows * cols - static_cast<index_t>(std::floor(config_.sparsity * total));
    if (wanted == 0) return;
    std::vector<float> ranked = scores;
    auto const last_kept = ranked.begin() + (wanted - 1);
    std::nth_element(ranked.begin(), last_kept, ranked.end(), std::greater<>());
    float const threshold = *last_kept;
    index_t ties =
        wanted - static_cast<index_t>(std::count_if(ranked.begin(), ranked.end(), [&](float s) { return s > threshold; }));
    for (index_t k = 0; k < rows * cols; ++k) {
      float const s = scores[static_cast<std::size_t>(k)];
      bool const keep = s > threshold || (s == threshold && ties-- > 0);
      kept.keep(first_row + k / cols, k % cols, keep);
    }
  }

  unstructured_config config_;
  Saliency ranking_;
};

} // namespace SLIM_ABI
} // namespace slim
