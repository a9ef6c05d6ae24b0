#pragma once
/// @file
/// Difficult matrices and calibrations: the inputs of the law suites. All are finite, made from a seed, and have names.

#include "slim/calibration/calibration.hpp"
#include "slim/core/random.hpp"
#include "slim/core/scalar.hpp"

#include <algorithm>
#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// A hard matrix, and its name in broken laws.
struct named_matrix {
  std::string name;
  matrix<float> values;
};

/// A hard calibration, and its name in broken laws.
struct named_calibration {
  std::string name;
  calibration calib;
};

/// Standard normal numbers times `spread`.
[[nodiscard]] inline matrix<float> normal_matrix(index_t rows, index_t cols, std::uint64_t seed, float spread = 1.0f) {
  matrix<float> m(rows, cols);
  for (index_t k = 0; k < m.size(); ++k)
    m.data()[k] = spread * static_cast<float>(random_normal(seed, static_cast<std::uint64_t>(k)));
  return m;
}

/// f(x) for every element of a copy.
template <class F>
[[nodiscard]] matrix<float> mapped(matrix<float> m, F const& f) {
  for (index_t k = 0; k < m.size(); ++k) m.data()[k] = f(m.data()[k]);
  return m;
}

/// Normal numbers of awkward shapes: empty, one row, one column, not divisible by 4, 16 or 128.
[[nodiscard]] inline std::vector<named_matrix> hard_shapes(std::uint64_t seed = 1) {
  index_t const extents[][2] = {{0, 0}, {0, 5},   {5, 0},   {1, 1},    {1, 37}, {37, 1},
                                {2, 3}, {16, 16}, {5, 130}, {33, 257}, {67, 50}};
  std::vector<named_matrix> all;
  for (auto const& [rows, cols] : extents)
    all.push_back({message("normal ", rows, " x ", cols), normal_matrix(rows, cols, seed++, 0.02f)});
  return all;
}

/// Awkward values at shapes that end raggedly: constant, zero, one outlier, one sign, denormal, huge, heavy-tailed, exact in
/// bf16, with ties.
[[nodiscard]] inline std::vector<named_matrix> hard_values(std::uint64_t seed = 2) {
  matrix<float> const normal = normal_matrix(21, 30, seed);
  std::vector<named_matrix> all;
  all.push_back({"constant", mapped(normal, [](float) { return 0.25f; })});
  all.push_back({"all zero", mapped(normal, [](float) { return 0.0f; })});
  all.push_back({"one outlier", normal});
  all.back().values(7, 11) = -4000.0f;
  all.push_back({"one nonzero", matrix<float>(21, 30)});
  all.back().values(20, 29) = -1.5f;
  all.push_back({"all negative", mapped(normal, [](float x) { return -std::abs(x) - 0.1f; })});
  all.push_back({"all positive", mapped(normal, [](float x) { return std::abs(x) + 0.1f; })});
  all.push_back({"denormal", mapped(normal, [](float x) { return x * 1e-40f; })});
  all.push_back({"tiny", mapped(normal, [](float x) { return x * 1e-34f; })});
  all.push_back({"huge", mapped(normal, [](float x) { return x * 1e30f; })});
  all.push_back({"heavy-tailed", mapped(normal, [](float x) { return x * x * x * x * x; })});
  all.push_back({"bf16-exact", mapped(normal, [](float x) { return static_cast<float>(bf16(x)); })});
  all.push_back({"ties", mapped(normal, [](float x) { return std::clamp(std::round(x), -1.0f, 1.0f); })});
  all.push_back({"zero rows and columns", normal});
  for (index_t j = 0; j < 30; ++j) all.back().values(4, j) = all.back().values(5, j) = 0.0f;
  for (index_t i = 0; i < 21; ++i) all.back().values(i, 8) = all.back().values(i, 29) = 0.0f;
  return all;
}

/// All hard matrices.
[[nodiscard]] inline std::vector<named_matrix> hard_matrices(std::uint64_t seed = 1) {
  std::vector<named_matrix> all = hard_shapes(seed);
  for (named_matrix& m : hard_values(seed + 100)) all.push_back(std::move(m));
  return all;
}

/// A calibration that has seen X (tokens x d_in).
[[nodiscard]] inline calibration observed(matrix<float> const& x, calibration_config config = {}) {
  calibration calib(x.cols(), config);
  calib.observe(x.view());
  return calib;
}

/// Calibrations of `channels` input channels: ordinary, constant, with dead channels, all dead, one token, outlier channels,
/// tiny activations; with and without a Gram matrix. All have seen at least one token, and keep a sample of 16.
[[nodiscard]] inline std::vector<named_calibration> hard_calibrations(index_t channels, std::uint64_t seed = 3) {
  matrix<float> const normal = normal_matrix(48, channels, seed);
  matrix<float> dead = normal, outliers = normal;
  for (index_t t = 0; t < normal.rows(); ++t)
    for (index_t j = 0; j < channels; ++j) {
      if (j % 3 == 0) dead(t, j) = 0.0f;
      if (j % 7 == 2) outliers(t, j) *= 300.0f;
    }
  calibration_config const plain{.samples = 16}, with_gram{.gram = true, .samples = 16};
  std::vector<named_calibration> all;
  all.push_back({"normal activations", observed(normal, plain)});
  all.push_back({"normal activations, Gram", observed(normal, with_gram)});
  all.push_back({"constant activations, Gram", observed(mapped(normal, [](float) { return -0.5f; }), with_gram)});
  all.push_back({"dead channels", observed(dead, plain)});
  all.push_back({"dead channels, Gram", observed(dead, with_gram)});
  all.push_back({"all dead, Gram", observed(mapped(normal, [](float) { return 0.0f; }), with_gram)});
  all.push_back({"one token, Gram", observed(normal_matrix(1, channels, seed + 1), with_gram)});
  all.push_back({"outlier channels", observed(outliers, plain)});
  all.push_back({"tiny activations, Gram", observed(mapped(dead, [](float x) { return x * 1e-15f; }), with_gram)});
  return all;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
