#pragma once
/// @file
/// Sums over activations that somebody else has made, and whether they can be what they are said to be.

#include "slim/core/finite.hpp"
#include "slim/core/matrix_view.hpp"

#include <cmath>
#include <limits>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Moments of input channels that somebody else has summed up, one number per channel. Only the sums of squares are needed;
/// vectors left empty are unknown. llama.cpp's imatrix holds sums of squares (`in_sum2`) and numbers of tokens (`counts`).
struct channel_moments {
  std::vector<double> sum_square;                ///< sum over tokens of x_j^2
  std::vector<double> sum = {};                  ///< ... of x_j
  std::vector<double> sum_abs = {};              ///< ... of |x_j|
  std::vector<float> max_abs = {};               ///< largest |x_j|
  std::vector<double> sample_peak_mean_abs = {}; ///< largest over samples of the sample's mean |x_j|
};

namespace detail {

/// What double sums of float products may be off by: an impossible number is larger.
inline constexpr double sum_tolerance = 1e-3;

/// @throws as calibration::from_gram
inline void check_gram(matrix_view<double const> gram, index_t tokens) {
  if (gram.rows() != gram.cols())
    throw shape_error(message("calibration::from_gram: the Gram matrix is ", gram.rows(), " x ", gram.cols()));
  if (tokens < 0) throw config_error(message("calibration::from_gram: ", tokens, " tokens"));
  auto const refuse = [&](index_t i, index_t j, char const* why) {
    throw config_error(message("calibration::from_gram: ", gram(i, j), " at (", i, ", ", j, ") ", why));
  };
  for (index_t i = 0; i < gram.rows(); ++i) {
    for (index_t j = 0; j < gram.cols(); ++j) {
      if (!detail::is_finite(gram(i, j)))
        throw nonfinite_error(message("calibration::from_gram: G is ", gram(i, j), " at (", i, ", ", j, ")"));
      if (tokens == 0 && gram(i, j) != 0.0) refuse(i, j, "without tokens");
    }
    if (gram(i, i) < 0.0) refuse(i, i, "is a negative sum of squares");
  }
  for (index_t i = 0; i < gram.rows(); ++i)
    for (index_t j = 0; j < i; ++j) {
      double const bound = std::sqrt(gram(i, i)) * std::sqrt(gram(j, j));
      if (std::abs(gram(i, j)) > (1 + sum_tolerance) * bound) refuse(i, j, "is more than the diagonal allows");
      if (std::abs(gram(i, j) - gram(j, i)) > sum_tolerance * bound) refuse(i, j, "is not what the other triangle says");
    }
}

/// One member: as many numbers as channels, none below `lowest`, and no |number| above `highest(channel)`.
template <class Numbers, class Highest>
void check_moment(Numbers const& numbers, char const* name, std::size_t channels, double lowest, Highest const& highest) {
  if (numbers.size() != channels)
    throw shape_error(
        message("calibration::from_moments: ", numbers.size(), " numbers in ", name, ", ", channels, " in sum_square"));
  for (std::size_t j = 0; j < channels; ++j) {
    double const x = static_cast<double>(numbers[j]);
    if (!detail::is_finite(x))
      throw nonfinite_error(message("calibration::from_moments: ", name, " is ", x, " in channel ", j));
    if (x < lowest || std::abs(x) > highest(j) * (1 + sum_tolerance))
      throw config_error(message("calibration::from_moments: ", name, " is ", x, " in channel ", j, ", expected at most ",
                                 highest(j), " for the tokens and sums of squares", lowest < 0 ? "" : ", and at least 0"));
  }
}

/// @throws as calibration::from_moments
inline void check_moments(channel_moments const& m, index_t tokens) {
  if (tokens < 0) throw config_error(message("calibration::from_moments: ", tokens, " tokens"));
  std::size_t const channels = m.sum_square.size();
  constexpr double no_limit = std::numeric_limits<double>::max() / 2;
  double const root = std::sqrt(static_cast<double>(tokens));
  auto const any = [&](std::size_t) { return tokens == 0 ? 0.0 : no_limit; };
  auto const by_sum = [&](std::size_t j) { return root * std::sqrt(m.sum_square[j]); }; // Cauchy and Schwarz
  auto const by_one = [&](std::size_t j) { return std::sqrt(m.sum_square[j]); };
  check_moment(m.sum_square, "sum_square", channels, 0.0, any);
  if (!m.sum.empty()) check_moment(m.sum, "sum", channels, -no_limit, by_sum);
  if (!m.sum_abs.empty()) check_moment(m.sum_abs, "sum_abs", channels, 0.0, by_sum);
  if (!m.max_abs.empty()) check_moment(m.max_abs, "max_abs", channels, 0.0, by_one);
  if (!m.sample_peak_mean_abs.empty()) check_moment(m.sample_peak_mean_abs, "sample_peak_mean_abs", channels, 0.0, by_one);
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
