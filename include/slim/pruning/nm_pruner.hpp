#pragma once
/// @file
/// N:M sparsity: in every M consecutive input channels of a row the N most salient weights are kept (2:4 runs on sparse
/// tensor cores). A ragged last group of t < M columns keeps ceil(t N / M).

#include "slim/pruning/pruner.hpp"
#include "slim/pruning/selection_kernels.hpp"
#include "slim/saliency/saliency.hpp"

#include <array>

namespace slim {
inline namespace SLIM_ABI {

namespace detail {

/// The N best of a group of `width` <= M scores.
template <int N, int M>
void select_group(float const* scores, index_t width, std::uint8_t* kept) {
  std::array<float, static_cast<std::size_t>(M)> ranked{};
  for (index_t k = 0; k < width; ++k) {
    kept[k] = 0;
    ranked[static_cast<std::size_t>(k)] = scores[k] == scores[k] ? scores[k] : -std::numeric_limits<float>::infinity();
  }
  for (index_t round = 0; round < sparsity_pattern{N, M}.kept_of(width); ++round) {
    index_t best = -1;
    for (index_t k = 0; k < width; ++k)
      if (!kept[k] && (best < 0 || ranked[static_cast<std::size_t>(k)] > ranked[static_cast<std::size_t>(best)])) best = k;
    kept[best] = 1;
  }
}

/// Row i of a mask: kept[j] becomes 1 or 0. Works on panels that fit the first-level cache.
template <int N, int M, class Scorer>
void select_row(selection_kernels const& kernels, Scorer const& score, index_t i, matrix_view<float const> w,
                std::uint8_t* kept) {
  constexpr index_t panel = 1024 / M * M;
  constexpr bool scores_by_column = requires { score.column_factors(); };
  std::array<float, static_cast<std::size_t>(panel)> scores;
  for (index_t first = 0; first < w.cols(); first += panel) {
    index_t const width = std::min(panel, w.cols() - first);
    index_t const by_kernel = N == 2 && M == 4 ? width / 4 * 4 : 0;
    for (index_t j = scores_by_column ? by_kernel : 0; j < width; ++j)
      scores[static_cast<std::size_t>(j)] = score(i, first + j);
    if constexpr (N == 2 && M == 4 && scores_by_column)
      kernels.keep_two_of_four(w.row(i) + first, score.column_factors() + first, by_kernel, kept + first);
    else if constexpr (N == 2 && M == 4)
      kernels.keep_two_of_four(scores.data(), nullptr, by_kernel, kept + first);
    for (index_t j = by_kernel; j < width; j += M)
      select_group<N, M>(scores.data() + j, std::min<index_t>(M, width - j), kept + first + j);
  }
}

} // namespace detail

/// @tparam N kept, of M consecutive columns; 0 < N <= M <= 64.
/// Ties go to the lower column; a NaN score counts as the lowest. O(d_out d_in N).
template <int N, int M, saliency Saliency>
class basic_nm_pruner {
  static_assert(0 < N && N <= M && M <= 64, "slim::nm_pruner<N, M>: 0 < N <= M <= 64");

public:
  explicit basic_nm_pruner(Saliency ranking) : ranking_(std::move(ranking)) {}

  [[nodiscard]] mask select(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    mask kept(w.rows(), w.cols(), {N, M});
    auto const score = ranking_.prepare(w, calib, ctx);
    auto const& kernels = detail::selection_kernels_of(ctx.simd);
    constexpr index_t rows_per_task = 16;
    ctx.parallel_for(w.rows(), rows_per_task, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) detail::select_row<N, M>(kernels, score, i, w, kept.row(i));
    });
    return kept;
  }

  [[nodiscard]] std::string describe() const { return message("prune ", N, ":", M, " by ", std::string(ranking_.describe())); }

private:
  Saliency ranking_;
};

/// `nm_pruner<2, 4>(wanda{})`
template <int N, int M, saliency Saliency>
[[nodiscard]] basic_nm_pruner<N, M, Saliency> nm_pruner(Saliency ranking) {
  return basic_nm_pruner<N, M, Saliency>(std::move(ranking));
}

} // namespace SLIM_ABI
} // namespace slim
