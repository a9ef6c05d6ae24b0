#pragma once
/// @file
/// Outliers by the quartiles of a matrix: SqueezeLLM's rule (arXiv 2306.07629, section 4.2, and its code).

#include "slim/core/finite.hpp"
#include "slim/pruning/pruner.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// How far outliers lie out.
struct iqr_config {
  double reach = 1.5; ///< ranges between the quartiles beyond them; SqueezeLLM starts at 1.5 to 2

  friend bool operator==(iqr_config const&, iqr_config const&) = default;
};

/// Keeps the weights that lie far out, |w| > T with T = max(|q1 - reach (q3 - q1)|, |q3 + reach (q3 - q1)|), where q1 and q3
/// are the quartiles of the whole matrix, interpolated linearly. Meant to say which weights are stored apart
/// (outlier_quantizer). A constant matrix has no outliers. NaN counts as 0. O(n) expected.
class iqr_pruner {
public:
  /// @throws config_error unless the reach is a number from 0 on.
  explicit iqr_pruner(iqr_config config = {}) : config_(config) {
    if (!(config.reach >= 0.0) || !detail::is_finite(config.reach))
      throw config_error(message("iqr_pruner: reach ", config.reach, ", needed is a number from 0 on"));
  }

  [[nodiscard]] iqr_config const& config() const noexcept { return config_; }

  [[nodiscard]] mask select(matrix_view<float const> w, calibration const&, context const& = {}) const {
    mask kept(w.rows(), w.cols());
    if (w.empty()) return kept;
    std::vector<float> sorted;
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) sorted.push_back(w(i, j) == w(i, j) ? w(i, j) : 0.0f);
    double const q1 = quantile(sorted, 0.25), q3 = quantile(sorted, 0.75), out = config_.reach * (q3 - q1);
    double const threshold = std::max(std::abs(q1 - out), std::abs(q3 + out));
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) kept.keep(i, j, std::abs(static_cast<double>(w(i, j))) > threshold);
    return kept;
  }

  [[nodiscard]] std::string describe() const { return message("beyond ", config_.reach, " ranges of the quartiles"); }

private:
  /// The number at position share * (n - 1) of the sorted ones, between two of them in proportion. Reorders.
  [[nodiscard]] static double quantile(std::vector<float>& numbers, double share) {
    double const at = share * static_cast<double>(numbers.size() - 1);
    auto const below = static_cast<std::ptrdiff_t>(at);
    auto const here = numbers.begin() + below;
    std::nth_element(numbers.begin(), here, numbers.end());
    auto const low = static_cast<double>(*here);
    if (here + 1 == numbers.end()) return low;
    auto const high = static_cast<double>(*std::min_element(here + 1, numbers.end()));
    return low + (at - static_cast<double>(below)) * (high - low);
  }

  iqr_config config_;
};

static_assert(pruner<iqr_pruner>);

} // namespace SLIM_ABI
} // namespace slim
