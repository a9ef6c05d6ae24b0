#pragma once
/// @file
/// `quantized_set`: all weight matrices that a mask of some pattern and codes of some grid can stand for (2:4 with 4-bit codes,
/// dense 3-bit groups with a zero point, half the weights in 4 bits, ...), and how to move inside it. What solvers in joint/
/// alternate with a low-rank part.

#include "slim/core/none.hpp"
#include "slim/joint/row_sweep.hpp"
#include "slim/joint/scale_fit.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/saliency/wanda.hpp"

#include <concepts>

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

/// The grid of a set.
struct grid_config {
  int bits = 4;
  scale_block block = per_tensor;
  bool symmetric = true;                     ///< false: a zero point per scale
  scale_rule rule = scale_rule::least_error; ///< absmax whatever it says for zero points shared by several rows
  number_format scale_format = number_format::fp16;

  friend bool operator==(grid_config const&, grid_config const&) = default;
};

[[nodiscard]] inline std::string describe(grid_config const& grid) {
  return message(grid.bits, " bit ", describe(grid.block), grid.symmetric ? "" : " with zero points",
                 grid.rule == scale_rule::absmax || (!grid.symmetric && grid.block.rows != 1) ? ", absmax scales" : "",
                 grid.scale_format == number_format::fp32 ? "" : message(", ", name_of(grid.scale_format), " scales"));
}

/// One element of a set. Codes of pruned weights are their zero point: they stand for 0.
template <class Mask>
struct set_point {
  integer_codes codes;
  [[no_unique_address]] Mask kept;

  [[nodiscard]] matrix<float> values(context const& ctx = {}) const {
    matrix<float> out(codes.rows(), codes.cols());
    codes.dequantize_into(out.view(), ctx);
    return out;
  }
};

/// A set that error feedback and descent can move in. `start(V, calibration)` is a first element near V; `sweep(V, U, point)`
/// replaces it by one found with error feedback (U as in joint/feedback_factor.hpp); `refine(V, H, point)` and
/// `refit(V, H, point)` move codes and steps without ever raising ||V - S||_H beyond rounding. V is (d_out x d_in).
template <class S>
concept sweepable =
    requires(S const& s, matrix_view<float const> v, calibration const& calib, context const& ctx, typename S::point& p) {
      { s.start(v, calib, ctx) } -> std::same_as<typename S::point>;
      s.sweep(v, v, p, ctx);
      s.refine(v, v, p, ctx);
      s.refit(v, v, p, ctx);
      { p.values(ctx) } -> std::same_as<matrix<float>>;
      { s.describe() } -> std::convertible_to<std::string>;
    };

template <class Pattern>
class quantized_set {
public:
  using mask_type = typename Pattern::mask_type;
  using point = set_point<mask_type>;

  explicit quantized_set(grid_config grid = {}, Pattern pattern = {}) : grid_(grid), pattern_(pattern) {
    (void)empty_codes(0, 0); // checks the grid
  }

  [[nodiscard]] grid_config const& grid() const noexcept { return grid_; }
  /// Input channels that a mask ties together: M of N:M, else 1.
  [[nodiscard]] static constexpr index_t group() noexcept { return Pattern::group; }

  /// Wanda's mask of V, and V rounded to nearest on it.
  [[nodiscard]] point start(matrix_view<float const> v, calibration const& calib, context const& ctx = {}) const {
    point p{empty_codes(v.rows(), v.cols()), choose(pattern_, v, calib, ctx)};
    matrix<float> const kept = masked(v, p);
    fit_scales(p.codes, kept.view(), grid_.rule, {}, ctx);
    p.codes.encode(kept.view(), ctx);
    return p;
  }

  /// Steps fitted to V on the mask at hand, then codes, and the mask anew, by error feedback; `way` says in which order, and
  /// whether steps are fitted again on the way. @throws shape_error
  void sweep(matrix_view<float const> v, matrix_view<float const> upper, point& p, context const& ctx = {},
             feedback_options way = {}) const {
    fit_scales(p.codes, masked(v, p).view(), grid_.rule, {}, ctx);
    matrix<float> w(v);
    choose_on_the_way(way, pattern_);
    auto const fractions = scale_fractions(grid_.rule, grid_.symmetric);
    way.fractions = fractions;
    feed_back(w.view(), upper, &p.codes, mask_of(p), way, ctx);
  }

  /// One sweep of coordinate descent over codes, of 2:4 groups with their patterns. @throws shape_error
  void refine(matrix_view<float const> v, matrix_view<float const> h, point& p, context const& ctx = {}) const {
    matrix<float> rest = p.values(ctx), gradient(v.rows(), v.cols());
    for (index_t k = 0; k < rest.size(); ++k) rest.data()[k] = v.data()[k] - rest.data()[k];
    gemm_into(rest.view(), h, gradient.view(), ctx);
    descend_codes(gradient.view(), h, p.codes, mask_of(p), ctx);
  }

  /// Steps moved to their optimum for the codes at hand. @throws shape_error
  void refit(matrix_view<float const> v, matrix_view<float const> h, point& p, context const& ctx = {}) const {
    refit_scales(p.codes, v, h, ctx);
  }

  [[nodiscard]] std::string describe() const { return message(pattern_.describe(), ", ", slim::describe(grid_)); }

private:
  [[nodiscard]] integer_codes empty_codes(index_t rows, index_t cols) const {
    integer_codes codes(rows, cols, grid_.bits, grid_.block, grid_.scale_format);
    if (!grid_.symmetric) codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
    return codes;
  }

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
  static void choose_on_the_way(feedback_options& way, nm<N, M>) {
    way.choose = {N, M};
  }
  static void choose_on_the_way(feedback_options& way, unstructured_pattern p) { way.prune_share = p.sparsity; }

  static mask* mask_of(point& p) {
    if constexpr (is_none<mask_type>)
      return nullptr;
    else
      return &p.kept;
  }

  static matrix<float> masked(matrix_view<float const> v, point const& p) {
    matrix<float> kept(v);
    if constexpr (!is_none<mask_type>) p.kept.apply_to(kept.view());
    return kept;
  }

  grid_config grid_;
  Pattern pattern_;
};

static_assert(sweepable<quantized_set<dense_pattern>> && sweepable<quantized_set<nm<2, 4>>> &&
              sweepable<quantized_set<unstructured_pattern>>);

} // namespace SLIM_ABI
} // namespace slim
