#pragma once
/// @file
/// The linear sum assignment problem: assigns every row to a column of its own, so that the total gain is largest.

#include "slim/core/finite.hpp"
#include "slim/core/matrix.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

namespace detail {

/// Shortest augmenting paths with dual prices [Jonker, Volgenant 1987]: costs minus prices stay >= 0, matched pairs at 0.
class assignment_solver {
public:
  explicit assignment_solver(matrix_view<double const> gain)
      : gain_(gain), n_(gain.rows()), row_price_(size()), column_price_(size()), column_of_(size(), -1), row_of_(size(), -1),
        distance_(size()), previous_(size()), columns_(size()) {}

  std::vector<index_t> solve() {
    set_prices();
    for (index_t i = 0; i < n_; ++i)
      if (at(column_of_, i) < 0) augment_from(i);
    return std::move(column_of_);
  }

private:
  [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(n_); }
  template <class T>
  [[nodiscard]] static T& at(std::vector<T>& values, index_t i) noexcept {
    return values[static_cast<std::size_t>(i)];
  }
  [[nodiscard]] double reduced(index_t i, index_t j) noexcept {
    return -gain_(i, j) - at(row_price_, i) - at(column_price_, j);
  }

  void match(index_t i, index_t j) noexcept {
    at(column_of_, i) = j;
    at(row_of_, j) = i;
  }

  /// Initial prices, under which every row has a column of reduced cost 0. Rows whose columns differ are matched at once.
  void set_prices() {
    for (index_t j = 0; j < n_; ++j) {
      double smallest = -gain_(0, j);
      for (index_t i = 1; i < n_; ++i) smallest = std::min(smallest, -gain_(i, j));
      at(column_price_, j) = smallest;
    }
    for (index_t i = 0; i < n_; ++i) {
      index_t best = 0;
      for (index_t j = 1; j < n_; ++j)
        if (reduced(i, j) < reduced(i, best)) best = j;
      at(row_price_, i) = reduced(i, best);
      if (at(row_of_, best) < 0) match(i, best);
    }
  }

  /// Dijkstra over reduced costs from an unmatched row to the nearest unmatched column. Then every row on the path takes the
  /// next column of the path.
  void augment_from(index_t start) {
    std::fill(distance_.begin(), distance_.end(), std::numeric_limits<double>::infinity());
    std::iota(columns_.begin(), columns_.end(), index_t{0});
    reached_ = 0;
    index_t row = start, end = -1;
    double travelled = 0;
    while (end < 0) {
      std::swap(at(columns_, reached_), at(columns_, nearest_from(row, travelled)));
      index_t const nearest = at(columns_, reached_++);
      travelled = at(distance_, nearest);
      row = at(row_of_, nearest);
      if (row < 0) end = nearest;
    }
    update_prices(start, travelled);
    for (index_t j = end; j >= 0;) {
      index_t const i = at(previous_, j), next = at(column_of_, i);
      match(i, j);
      j = i == start ? -1 : next;
    }
  }

  /// Shortens distances through `row` and returns the place in columns_ of the nearest column that is not reached yet.
  index_t nearest_from(index_t row, double travelled) {
    double const so_far = travelled - at(row_price_, row);
    double least = std::numeric_limits<double>::infinity();
    index_t place = reached_;
    for (index_t k = reached_; k < n_; ++k) {
      index_t const j = at(columns_, k);
      double const through = so_far - gain_(row, j) - at(column_price_, j);
      double& distance = at(distance_, j);
      if (through < distance) {
        distance = through;
        at(previous_, j) = row;
      }
      if (distance < least) {
        least = distance;
        place = k;
      }
    }
    return place;
  }

  void update_prices(index_t start, double travelled) {
    at(row_price_, start) += travelled;
    for (index_t k = 0; k < reached_; ++k) {
      index_t const j = at(columns_, k);
      double const ahead = travelled - at(distance_, j);
      at(column_price_, j) -= ahead;
      if (index_t const i = at(row_of_, j); i >= 0) at(row_price_, i) += ahead;
    }
  }

  matrix_view<double const> gain_;
  index_t n_;
  std::vector<double> row_price_, column_price_;
  std::vector<index_t> column_of_, row_of_;
  std::vector<double> distance_;  ///< of columns from the start row, while a path is searched
  std::vector<index_t> previous_; ///< the row from which a column was reached
  std::vector<index_t> columns_;  ///< those that the search has reached come first, `reached_` of them
  index_t reached_ = 0;
};

} // namespace detail

/// The permutation p that maximises sum_i gain(i, p[i]), by shortest augmenting paths on the calling thread: O(n^3) at worst.
/// @throws shape_error if the matrix is not square; nonfinite_error on NaN or infinity.
[[nodiscard]] inline std::vector<index_t> linear_sum_assignment(matrix_view<double const> gain) {
  if (gain.rows() != gain.cols())
    throw shape_error(message("linear_sum_assignment: the gains are ", gain.rows(), " x ", gain.cols()));
  for (index_t i = 0; i < gain.rows(); ++i)
    for (index_t j = 0; j < gain.cols(); ++j)
      if (!detail::is_finite(gain(i, j)))
        throw nonfinite_error(message("linear_sum_assignment: the gain is ", gain(i, j), " at row ", i, ", column ", j));
  if (gain.empty()) return {};
  return detail::assignment_solver(gain).solve();
}

} // namespace SLIM_ABI
} // namespace slim
