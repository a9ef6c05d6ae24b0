#pragma once
/// @file
/// Layers that look like those of a language model, for comparisons of methods. Activations have a power-law spectrum in a
/// random basis, uneven channels with a few outliers, means that are not zero and tokens of uneven norm; weights are
/// heavy-tailed with uneven rows and columns, a low-rank part and a few huge entries.

#include "slim/slim.hpp"

#include <cmath>

namespace slim_bench {

using slim::index_t;
using slim::matrix;

struct layer {
  matrix<float> w; ///< d_out x d_in
  slim::calibration calib, held_out;
};

/// Numbers drawn one after the other.
class source {
public:
  explicit source(std::uint64_t seed) : seed_(seed) {}
  double normal() { return slim::random_normal(seed_, next_++); }
  double uniform() { return slim::random_uniform(seed_, next_++); }
  double student4() {
    double const chi2 = -2.0 * std::log((1.0 - uniform()) * (1.0 - uniform()));
    return normal() / std::sqrt(chi2 / 4.0);
  }

private:
  std::uint64_t seed_, next_ = 0;
};

inline matrix<float> normal_matrix(index_t rows, index_t cols, source& draw) {
  matrix<float> m(rows, cols);
  for (index_t k = 0; k < m.size(); ++k) m.data()[k] = static_cast<float>(draw.normal());
  return m;
}

/// What turns independent numbers into tokens: x = norm * (z mix + mean).
struct token_source {
  matrix<float> mix;
  std::vector<float> mean;

  token_source(index_t d, source& draw) : mix(d, d), mean(static_cast<std::size_t>(d)) {
    matrix<double> symmetric(d, d);
    for (index_t i = 0; i < d; ++i)
      for (index_t j = 0; j <= i; ++j) symmetric(i, j) = symmetric(j, i) = draw.normal();
    matrix<float> const basis(slim::symmetric_eigen(symmetric.view()).vectors.view());
    matrix<float> weighted = basis;
    double spectrum = 0;
    for (index_t k = 1; k <= d; ++k) spectrum += std::pow(static_cast<double>(k), -0.9) / static_cast<double>(d);
    for (index_t k = 0; k < d; ++k)
      for (index_t i = 0; i < d; ++i)
        weighted(i, k) *= static_cast<float>(std::sqrt(std::pow(static_cast<double>(k + 1), -0.9) / spectrum));
    slim::gemm_into(weighted.view(), transposed(basis.view()), mix.view());
    for (index_t j = 0; j < d; ++j) {
      double gain = std::exp(0.5 * draw.normal());
      if (j % 128 == 77) gain *= 8 + 12 * draw.uniform();
      for (index_t i = 0; i < d; ++i) mix(i, j) *= static_cast<float>(gain);
      mean[static_cast<std::size_t>(j)] = static_cast<float>(0.3 * draw.normal() * gain);
    }
  }

  [[nodiscard]] slim::calibration observed(index_t tokens, source& draw) const {
    slim::calibration calib(mix.rows(), {.gram = true});
    constexpr index_t batch = 1024;
    matrix<float> x(batch, mix.cols());
    for (index_t t = 0; t < tokens; t += batch) {
      slim::gemm_into(normal_matrix(batch, mix.rows(), draw).view(), mix.view(), x.view());
      for (index_t i = 0; i < batch; ++i) {
        auto const norm = static_cast<float>(std::exp(0.4 * draw.normal()));
        for (index_t j = 0; j < x.cols(); ++j) x(i, j) = norm * (x(i, j) + mean[static_cast<std::size_t>(j)]);
      }
      calib.observe(x.view());
    }
    return calib;
  }
};

inline float deviation(matrix<float> const& m) {
  double sum = 0, squares = 0;
  for (index_t k = 0; k < m.size(); ++k) {
    auto const x = static_cast<double>(m.data()[k]);
    sum += x;
    squares += x * x;
  }
  auto const count = static_cast<double>(m.size());
  return static_cast<float>(std::sqrt(squares / count - sum / count * (sum / count)));
}

inline matrix<float> synthetic_weight(index_t d_out, index_t d_in, source& draw) {
  matrix<float> w(d_out, d_in);
  std::vector<double> column_gain;
  for (index_t j = 0; j < d_in; ++j) column_gain.push_back(std::exp(0.25 * draw.normal()));
  for (index_t i = 0; i < d_out; ++i) {
    double const gain = std::exp(0.25 * draw.normal());
    for (index_t j = 0; j < d_in; ++j)
      w(i, j) = static_cast<float>(gain * column_gain[static_cast<std::size_t>(j)] * draw.student4());
  }
  index_t const rank = std::max<index_t>(d_in / 8, 1);
  matrix<float> left = normal_matrix(d_out, rank, draw), low_rank(d_out, d_in);
  for (index_t i = 0; i < d_out; ++i)
    for (index_t k = 0; k < rank; ++k) left(i, k) *= static_cast<float>(std::pow(static_cast<double>(k + 1), -0.7));
  slim::gemm_into(left.view(), normal_matrix(rank, d_in, draw).view(), low_rank.view());
  float const scale = 1 / deviation(w), low_rank_scale = 0.8f / deviation(low_rank);
  for (index_t k = 0; k < w.size(); ++k) {
    float& x = w.data()[k];
    x = 0.02f * (x * scale + low_rank.data()[k] * low_rank_scale);
    if (draw.uniform() < 2e-4) x *= 6;
  }
  return w;
}

/// Half as many tokens are held out as seen.
inline layer synthetic_layer(index_t d_out, index_t d_in, index_t tokens, std::uint64_t seed) {
  source draw(seed);
  token_source const text(d_in, draw);
  slim::calibration calib = text.observed(tokens, draw), held_out = text.observed(tokens / 2, draw);
  return {synthetic_weight(d_out, d_in, draw), std::move(calib), std::move(held_out)};
}

/// ||X (W - approximation)^T|| / ||X W^T|| on held-out tokens.
inline double held_out_error(layer const& l, matrix<float> const& approximation) {
  matrix<float> change = l.w;
  for (index_t k = 0; k < change.size(); ++k) change.data()[k] -= approximation.data()[k];
  return std::sqrt(slim::output_energy(change.view(), l.held_out) / slim::output_energy(l.w.view(), l.held_out));
}

} // namespace slim_bench
