#pragma once
/// @file
/// N:M sparsity: in every M consecutive input channels of a row the N most salient weights are kept (2:4 runs on sparse
/// tensor cores). A ragged last group of t < M columns keeps ceil(t N / M).

#include "slim/pruning/pruner.hpp"
#include "slim/saliency/saliency.hpp"

#include <array>

namespace slim::inline SLIM_ABI {

/// @tparam N kept, of M consecutive columns; 0 < N <= M <= 64.
/// Ties go to the lower column; a NaN score counts as the lowest. O(d_out d_in N).
template <int N, int M, saliency Saliency>
class basic_nm_pruner {
  static_assert(0 < N && N <= M && M <= 64, "slim::nm_pruner<N, M>: 0 < N <= M <= 64");

public:
  explicit basic_nm_pruner(Saliency ranking) : ranking_(std::move(ranking)) {}

  [[nodiscard]] mask select(matrix_view<float const> w, calibration const& seen, context const& ctx = {}) const {
    mask kept(w.rows(), w.cols(), {N, M});
    auto const score = ranking_.prepare(w, seen);
    constexpr index_t rows_per_task = 16;
    ctx.parallel_for(w.rows(), rows_per_task, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t first = 0; first < w.cols(); first += M) select_group(kept, score, i, first);
    });
    return kept;
  }

  [[nodiscard]] std::string describe() const { return message("prune ", N, ":", M, " by ", std::string(ranking_.describe())); }

private:
  template <class Scorer>
  static void select_group(mask& kept, Scorer const& score, index_t i, index_t first) {
    index_t const width = std::min<index_t>(M, kept.cols() - first);
    std::array<float, M> scores{};
    for (index_t k = 0; k < width; ++k) {
      float const s = score(i, first + k);
      scores[static_cast<std::size_t>(k)] = s == s ? s : -std::numeric_limits<float>::infinity();
    }
    std::uint64_t taken = 0;
    for (index_t round = 0; round < kept.pattern().kept_of(width); ++round) {
      index_t best = -1;
      for (index_t k = 0; k < width; ++k)
        if (!((taken >> k) & 1u) && (best < 0 || scores[static_cast<std::size_t>(k)] > scores[static_cast<std::size_t>(best)]))
          best = k;
      taken |= std::uint64_t{1} << best;
      kept.keep(i, first + best);
    }
  }

  Saliency ranking_;
};

/// `nm_pruner<2, 4>(wanda{})`
template <int N, int M, saliency Saliency>
[[nodiscard]] basic_nm_pruner<N, M, Saliency> nm_pruner(Saliency ranking) {
  return basic_nm_pruner<N, M, Saliency>(std::move(ranking));
}

} // namespace slim::inline SLIM_ABI
