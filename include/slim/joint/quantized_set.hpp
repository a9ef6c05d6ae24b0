#pragma once
/// @file
/// `quantized_set`: all weight matrices that a mask of some pattern and codes of some grid can stand for (2:4 with 4-bit codes,
/// dense 3-bit groups with a zero point, half the weights in NF4, ...), and how to move inside it.

#include "slim/joint/sweepable.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/quantization/grids/uniform_grid.hpp"
#include "slim/saliency/wanda.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Every weight is kept.
struct dense_pattern {
  using mask_type = none;
  static constexpr index_t group = 1;
  [[nodiscard]] std::string describe() const { return "dense"; }
};

/// N of M consecutive input channels are kept.
template <int N, int M>
struct nm {
  using mask_type = mask;
  static constexpr index_t group = M;
  [[nodiscard]] std::string describe() const { return message(N, ":", M); }
};

/// A share of each row is pruned, anywhere (in a sweep: of each block of 128 columns).
struct unstructured_pattern {
  using mask_type = mask;
  static constexpr index_t group = 1;
  double sparsity = 0.5;
  [[nodiscard]] std::string describe() const { return message(100 * sparsity, "% sparse"); }
};

namespace detail {

/// What an error of each column costs once the columns behind it have made up for it: 1 / u_jj^2, largest 1; `upper` is in the
/// order in which columns are visited.
[[nodiscard]] inline std::vector<float> column_curvature(matrix_view<float const> upper, std::span<index_t const> order) {
  std::vector<float> weights(static_cast<std::size_t>(upper.rows()));
  float largest = 0.0f;
  for (index_t k = 0; k < upper.rows(); ++k) {
    float const weight = 1.0f / (upper(k, k) * upper(k, k));
    weights[static_cast<std::size_t>(order.empty() ? k : order[static_cast<std::size_t>(k)])] = weight;
    largest = std::max(largest, weight);
  }
  for (float& weight : weights) weight /= largest;
  return weights;
}

} // namespace detail

/// The set of a grid and a pattern.
template <grid Grid, class Pattern>
class quantized_set {
public:
  using mask_type = typename Pattern::mask_type;
  using codes_type = typename Grid::codes_type;
  using element = sparse_codes<mask_type, codes_type>;

  /// @throws config_error on a grid that cannot be.
  explicit quantized_set(Grid values = {}, Pattern pattern = {}) : grid_(std::move(values)), pattern_(pattern) {
    (void)grid_.empty(0, 0); // checks the grid
  }

  [[nodiscard]] Grid const& values() const noexcept { return grid_; }
  /// Input channels that a mask ties together: M of N:M, else 1.
  [[nodiscard]] static constexpr index_t group() noexcept { return Pattern::group; }

  /// Wanda's mask of V, and V rounded to nearest on it.
  [[nodiscard]] element start(matrix_view<float const> v, calibration const& calib, context const& ctx = {}) const {
    element p{choose(pattern_, v, calib, ctx), grid_.empty(v.rows(), v.cols())};
    matrix<float> const kept = masked(v, p);
    grid_.fit(p.codes, kept.view(), ctx);
    p.codes.encode(kept.view(), ctx);
    return p;
  }

  /// Scales fitted to V on the mask at hand, then codes, and the mask anew, by error feedback; `options` says in which order,
  /// and whether scales are fitted again on the way. @throws shape_error
  void sweep(matrix_view<float const> v, matrix_view<float const> upper, element& p, feedback_options options = {},
             context const& ctx = {}) const {
    p.check("quantized_set::sweep");
    if constexpr (requires { grid_.fit_under(p.codes, v, std::span<float const>(), ctx); })
      grid_.fit_under(p.codes, masked(v, p).view(), detail::column_curvature(upper, options.order), ctx);
    else
      grid_.fit(p.codes, masked(v, p).view(), ctx);
    matrix<float> w(v);
    choose_on_the_way(options, pattern_);
    feed_back(w.view(), upper, grid_, p.codes, p.mask_or_null(), options, ctx);
  }

  /// One sweep of coordinate descent over codes, of 2:4 groups with their patterns. @throws shape_error
  void refine(matrix_view<float> gradient, matrix_view<float const> h, element& p, context const& ctx = {}) const {
    p.check("quantized_set::refine");
    descend_codes(gradient, h, grid_, p.codes, p.mask_or_null(), ctx);
  }

  /// Scales moved to their optimum for the codes at hand. @throws shape_error
  void refit(matrix_view<float> gradient, matrix_view<float const> h, element& p, context const& ctx = {}) const {
    p.check("quantized_set::refit");
    grid_.refit(p.codes, p.mask_or_null(), gradient, h, ctx);
  }

  [[nodiscard]] std::string describe() const { return message(pattern_.describe(), ", ", std::string(grid_.describe())); }

private:
  static none choose(dense_pattern, matrix_view<float const>, calibration const&, context const&) { return {}; }
  template <int N, int M>
  static mask choose(nm<N, M>, matrix_view<float const> v, calibration const& calib, context const& ctx) {
    return nm_pruner<N, M>(wanda{}).select(v, calib, ctx);
  }
  static mask choose(unstructured_pattern p, matrix_view<float const> v, calibration const& calib, context const& ctx) {
    return unstructured_pruner(wanda{}, {.sparsity = p.sparsity}).select(v, calib, ctx);
  }

  static void choose_on_the_way(feedback_options&, dense_pattern) {}
  template <int N, int M>
  static void choose_on_the_way(feedback_options& options, nm<N, M>) {
    options.choose = {N, M};
  }
  static void choose_on_the_way(feedback_options& options, unstructured_pattern p) { options.prune_share = p.sparsity; }

  static matrix<float> masked(matrix_view<float const> v, element const& p) {
    matrix<float> kept(v);
    if (auto const* const m = p.mask_or_null()) m->apply_to(kept.view());
    return kept;
  }

  Grid grid_;
  Pattern pattern_;
};

/// `quantized_set({.bits = 4}, nm<2, 4>{})` is a set of a uniform grid.
template <class Pattern>
quantized_set(uniform_grid, Pattern) -> quantized_set<uniform_grid, Pattern>;

static_assert(sweepable<quantized_set<uniform_grid, dense_pattern>> && sweepable<quantized_set<uniform_grid, nm<2, 4>>> &&
              sweepable<quantized_set<uniform_grid, unstructured_pattern>>);

} // namespace SLIM_ABI
} // namespace slim
