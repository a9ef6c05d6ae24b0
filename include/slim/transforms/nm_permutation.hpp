#pragma once
/// @file
/// An order of input channels under which N:M sparsity keeps more: RIA's channel permutation (Zhang et al., ICLR 2024).
/// Channels are sorted by score and dealt to the groups in turn, forth and back, so that no group holds many of the best. Then
/// a place of all groups at a time is dealt anew by linear sum assignment: the best exchange of those channels, found exactly.

#include "slim/core/finite.hpp"
#include "slim/core/power_of_two.hpp"
#include "slim/linalg/assignment.hpp"
#include "slim/pruning/mask.hpp"
#include "slim/saliency/saliency.hpp"
#include "slim/transforms/channel_permutation.hpp"

#include <array>
#include <cmath>
#include <functional>

namespace slim {
inline namespace SLIM_ABI {

/// Settings of permutation_for_nm.
struct nm_permutation_config {
  sparsity_pattern pattern{2, 4};
  index_t block = 0;                   ///< channels stay inside blocks of this many (a head, for o_proj); 0: they go anywhere
  index_t tied = 1;                    ///< this many neighbouring blocks share one order (the query heads of a key-value head)
  int rounds = 8;                      ///< at most; a round deals every place of a group once. 0: sort and deal only
  index_t groups_per_assignment = 512; ///< exchanges stay inside this many groups: bounds the O(groups^3) of an assignment

  friend bool operator==(nm_permutation_config const&, nm_permutation_config const&) = default;
};

/// An order, and what it keeps.
struct nm_permutation {
  channel_permutation permutation;
  double score_before = 0; ///< retained_score in the order as it was
  double score_after = 0;  ///< ... and in this one; never below score_before
  int rounds = 0;          ///< of assignments that were done
};

namespace detail {

/// A score as the search takes it: NaN, infinity and negative numbers count as 0.
[[nodiscard]] inline float clean_score(float s) noexcept { return s > 0.0f && detail::is_finite(s) ? s : 0.0f; }

/// The power of two that brings the largest score below 1, so that sums of scores stay finite.
[[nodiscard]] inline int power_below_one(matrix_view<float const> scores) noexcept {
  float largest = 0.0f;
  for (index_t i = 0; i < scores.rows(); ++i)
    for (index_t j = 0; j < scores.cols(); ++j) largest = std::max(largest, clean_score(scores(i, j)));
  return power_below(largest);
}

/// Sum of the `n` largest of `count` numbers, in order of their size; they are sorted on the way.
[[nodiscard]] inline double top_sum(float* values, index_t count, index_t n) {
  std::partial_sort(values, values + n, values + count, std::greater<>());
  double sum = 0;
  for (index_t k = 0; k < n; ++k) sum += static_cast<double>(values[k]);
  return sum;
}

inline constexpr index_t largest_permuted_group = 64;

/// Score kept when column j of a row is column order[j] of the scores. One partial sum per row: the same for any executor.
[[nodiscard]] inline double retained_in_order(matrix_view<float const> scores, std::vector<index_t> const& order,
                                              sparsity_pattern pattern, context const& ctx) {
  auto const cols = static_cast<index_t>(order.size());
  std::vector<double> kept(static_cast<std::size_t>(scores.rows()));
  ctx.parallel_for(scores.rows(), 16, [&](index_t begin, index_t end) {
    std::array<float, largest_permuted_group> group{};
    for (index_t i = begin; i < end; ++i)
      for (index_t first = 0; first < cols; first += pattern.m) {
        index_t const width = std::min(pattern.m, cols - first);
        for (index_t k = 0; k < width; ++k)
          group[static_cast<std::size_t>(k)] = clean_score(scores(i, order[static_cast<std::size_t>(first + k)]));
        kept[static_cast<std::size_t>(i)] += top_sum(group.data(), width, pattern.kept_of(width));
      }
  });
  return std::accumulate(kept.begin(), kept.end(), 0.0);
}

/// Searches the order of one set of channels that may change places. `scores` holds these channels only.
class permutation_search {
public:
  permutation_search(matrix<float> scores, nm_permutation_config const& config, context const& ctx)
      : scores_(std::move(scores)), config_(config), ctx_(ctx), order_(channel_permutation::identity(scores_.cols()).order()),
        score_(retained(order_)) {}

  /// Rounds of assignments until one gains nothing.
  int run() {
    take_if_better(dealt());
    for (int round = 1; round <= config_.rounds; ++round) {
      double const before = score_;
      for (index_t place = 0; place < config_.pattern.m; ++place) deal_anew(place);
      if (!(score_ > before * (1 + 1e-6))) return round;
    }
    return config_.rounds;
  }

  [[nodiscard]] std::vector<index_t> const& order() const noexcept { return order_; }

private:
  [[nodiscard]] double retained(std::vector<index_t> const& order) const {
    return retained_in_order(scores_.view(), order, config_.pattern, ctx_);
  }

  /// The rounding of an assignment's gains must not cost score: a candidate is judged by what it keeps.
  bool take_if_better(std::vector<index_t> candidate) {
    double const score = retained(candidate);
    if (!(score > score_)) return false;
    order_ = std::move(candidate);
    score_ = score;
    return true;
  }

  [[nodiscard]] index_t groups() const noexcept { return (scores_.cols() + config_.pattern.m - 1) / config_.pattern.m; }
  [[nodiscard]] index_t width_of(index_t group) const noexcept {
    return std::min(config_.pattern.m, scores_.cols() - group * config_.pattern.m);
  }
  [[nodiscard]] index_t at(index_t position) const noexcept { return order_[static_cast<std::size_t>(position)]; }

  /// Channels by falling sum of scores, dealt to the groups forth and back. A short last group takes part while it has places.
  [[nodiscard]] std::vector<index_t> dealt() const {
    std::vector<double> sum(static_cast<std::size_t>(scores_.cols()));
    for (index_t i = 0; i < scores_.rows(); ++i)
      for (index_t j = 0; j < scores_.cols(); ++j) sum[static_cast<std::size_t>(j)] += static_cast<double>(scores_(i, j));
    std::vector<index_t> ranked = channel_permutation::identity(scores_.cols()).order();
    std::stable_sort(ranked.begin(), ranked.end(),
                     [&](index_t a, index_t b) { return sum[static_cast<std::size_t>(a)] > sum[static_cast<std::size_t>(b)]; });
    std::vector<index_t> order(ranked.size());
    std::size_t next = 0;
    for (index_t place = 0; place < config_.pattern.m; ++place)
      for (index_t turn = 0; turn < groups(); ++turn) {
        index_t const group = place % 2 == 0 ? turn : groups() - 1 - turn;
        if (place < width_of(group)) order[static_cast<std::size_t>(group * config_.pattern.m + place)] = ranked[next++];
      }
    return order;
  }

  /// The channels at one place of all groups, assigned anew, chunk by chunk.
  void deal_anew(index_t place) {
    for (index_t first = 0; first < groups(); first += config_.groups_per_assignment) {
      index_t end = std::min(groups(), first + config_.groups_per_assignment);
      if (place >= width_of(end - 1)) --end; // the short last group has no such place
      if (end - first < 2) continue;
      std::vector<index_t> const channel_of = linear_sum_assignment(gains(place, first, end).view());
      std::vector<index_t> candidate = order_;
      for (index_t g = first; g < end; ++g)
        candidate[position(g, place)] =
            at((first + channel_of[static_cast<std::size_t>(g - first)]) * config_.pattern.m + place);
      take_if_better(std::move(candidate));
    }
  }

  [[nodiscard]] std::size_t position(index_t group, index_t place) const noexcept {
    return static_cast<std::size_t>(group * config_.pattern.m + place);
  }

  /// gain(g, k): score kept in group g, up to a constant of the group, if channel k joins its others. A group that keeps n
  /// holds the n - 1 best of the others, and the better of the newcomer and the n-th.
  [[nodiscard]] matrix<double> gains(index_t place, index_t first, index_t end) const {
    index_t const count = end - first;
    matrix<float> newcomer(scores_.rows(), count), threshold(scores_.rows(), count);
    ctx_.parallel_for(scores_.rows(), 32, [&](index_t row, index_t row_end) {
      for (index_t i = row; i < row_end; ++i)
        for (index_t g = first; g < end; ++g) {
          newcomer(i, g - first) = scores_(i, at(g * config_.pattern.m + place));
          threshold(i, g - first) = nth_of_others(i, g, place);
        }
    });
    matrix<double> gain(count, count);
    ctx_.parallel_for(count, 8, [&](index_t begin, index_t stop) { add_gains(newcomer, threshold, begin, stop, gain); });
    return gain;
  }

  [[nodiscard]] float nth_of_others(index_t i, index_t group, index_t place) const {
    std::array<float, largest_permuted_group> others{};
    index_t const width = width_of(group), n = config_.pattern.kept_of(width);
    if (n == width) return 0.0f; // everybody is kept
    for (index_t k = 0, count = 0; k < width; ++k)
      if (k != place) others[static_cast<std::size_t>(count++)] = scores_(i, at(group * config_.pattern.m + k));
    auto const nth = others.begin() + (n - 1);
    std::nth_element(others.begin(), nth, others.begin() + (width - 1), std::greater<>());
    return *nth;
  }

  /// Float sums over panels of rows, panels added in double.
  static void add_gains(matrix<float> const& newcomer, matrix<float> const& threshold, index_t begin, index_t end,
                        matrix<double>& gain) {
    constexpr index_t panel = 64;
    index_t const count = newcomer.cols();
    std::vector<float> sum(static_cast<std::size_t>(count));
    for (index_t row = 0; row < newcomer.rows(); row += panel)
      for (index_t g = begin; g < end; ++g) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (index_t i = row; i < std::min(row + panel, newcomer.rows()); ++i) {
          float const least = threshold(i, g);
          float const* const candidates = newcomer.row(i);
          float* const into = sum.data();
          for (index_t k = 0; k < count; ++k) into[k] += candidates[k] > least ? candidates[k] : least;
        }
        for (index_t k = 0; k < count; ++k) gain(g, k) += static_cast<double>(sum[static_cast<std::size_t>(k)]);
      }
  }

  matrix<float> scores_;
  nm_permutation_config const& config_;
  context const& ctx_;
  std::vector<index_t> order_;
  double score_;
};

inline void check(nm_permutation_config const& config, index_t channels) {
  sparsity_pattern const p = config.pattern;
  if (!(0 < p.n && p.n <= p.m && p.m <= largest_permuted_group))
    throw config_error(
        message("permutation_for_nm: pattern ", p.n, ":", p.m, ", expected 0 < n <= m <= ", largest_permuted_group));
  if (config.rounds < 0 || config.groups_per_assignment < 2 || config.tied < 1 || config.block < 0)
    throw config_error(message("permutation_for_nm: ", config.rounds, " rounds, ", config.groups_per_assignment,
                               " groups per assignment, ", config.tied, " tied blocks of ", config.block));
  if (config.block == 0 && config.tied > 1) throw config_error("permutation_for_nm: tied blocks need a block size");
  if (config.block > 0 && (config.block % p.m != 0 || channels % (config.block * config.tied) != 0))
    throw config_error(message("permutation_for_nm: blocks of ", config.block, ", ", config.tied, " tied, in ", channels,
                               " channels, groups of ", p.m));
}

} // namespace detail

/// Sum of the scores that N:M sparsity keeps; NaN, infinite and negative scores count as 0. Double sums.
/// @throws config_error unless 0 < n <= m <= 64.
[[nodiscard]] inline double retained_score(matrix_view<float const> scores, sparsity_pattern pattern, context const& ctx = {}) {
  detail::check({.pattern = pattern}, scores.cols());
  return detail::retained_in_order(scores, channel_permutation::identity(scores.cols()).order(), pattern, ctx);
}

/// A good order for scores (d_out x d_in; larger = more important; scores as in retained_score). Never keeps less than the
/// order as it is; the same for every executor. A round costs O(d_out d_in^2 / m) additions and an assignment, for channels
/// that go anywhere. @throws config_error on a bad pattern, or blocks that do not divide d_in or are not divided by m.
[[nodiscard]] inline nm_permutation permutation_for_nm(matrix_view<float const> scores,
                                                       nm_permutation_config const& config = {}, context const& ctx = {}) {
  detail::check(config, scores.cols());
  std::vector<index_t> order = channel_permutation::identity(scores.cols()).order();
  double const before = detail::retained_in_order(scores, order, config.pattern, ctx);
  index_t const block = config.block == 0 ? std::max<index_t>(scores.cols(), 1) : config.block;
  int const power = detail::power_below_one(scores);
  int rounds = 0;
  for (index_t first = 0; first < scores.cols(); first += block * config.tied) {
    // Tied blocks: their rows below each other, so that one order of the columns serves them all.
    matrix<float> part(scores.rows() * config.tied, block);
    for (index_t i = 0; i < part.rows(); ++i)
      for (index_t j = 0; j < block; ++j)
        part(i, j) = std::ldexp(detail::clean_score(scores(i / config.tied, first + i % config.tied * block + j)), power);
    detail::permutation_search search(std::move(part), config, ctx);
    rounds = std::max(rounds, search.run());
    for (index_t t = 0; t < config.tied; ++t)
      for (index_t j = 0; j < block; ++j)
        order[static_cast<std::size_t>(first + t * block + j)] =
            first + t * block + search.order()[static_cast<std::size_t>(j)];
  }
  double const after = detail::retained_in_order(scores, order, config.pattern, ctx);
  if (!(after >= before)) return {channel_permutation::identity(scores.cols()), before, before, rounds}; // rounding of equals
  return {channel_permutation(std::move(order)), before, after, rounds};
}

/// The same, for the scores that a saliency gives W.
template <saliency Saliency>
[[nodiscard]] nm_permutation permutation_for_nm(matrix_view<float const> w, calibration const& calib, Saliency const& ranking,
                                                nm_permutation_config const& config = {}, context const& ctx = {}) {
  auto const score = ranking.prepare(w, calib, ctx);
  matrix<float> scores(w.rows(), w.cols());
  ctx.parallel_for(w.rows(), 16, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < w.cols(); ++j) scores(i, j) = score(i, j);
  });
  return permutation_for_nm(scores.view(), config, ctx);
}

} // namespace SLIM_ABI
} // namespace slim
