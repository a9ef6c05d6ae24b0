#pragma once
/// @file
/// Which scaling of the input channels serves rounded weights and rounded inputs best: SVDQuant's search over SmoothQuant's
/// family (arXiv 2411.05007, and its code; SmoothQuant: arXiv 2211.10438).

#include "slim/linalg/low_rank.hpp"
#include "slim/quantization/input_quantizer.hpp"
#include "slim/quantization/quantizer.hpp"
#include "slim/transforms/channel_scaling.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Settings of `search_channel_scaling`.
struct channel_scaling_search_config {
  int grids = 20;   ///< 2 grids - 1 scalings are tried: none, max|x|^a, and max|x|^a / max|w|^(1-a), for a = k / grids
  index_t rank = 0; ///< of a branch that is in place while scalings are judged: it takes the scaled weight's largest directions
                    ///< and reads inputs as they come; 0: none

  friend bool operator==(channel_scaling_search_config const&, channel_scaling_search_config const&) = default;
};

/// Makes the channel_scaling of least output error ||X W^T - round(X / s) Q(W s - B)^T - (X / s) B^T|| on the calibration's
/// sample X; B is the branch, max|x| and max|w| are those of a channel. For in_basis:
/// `chain(in_basis(search_channel_scaling(quantizer, group_input()), quantizer))`. A channel whose factor would be 0 or no
/// number keeps 1. Ties go to the earlier scaling, so none is taken unless another is better.
template <quantizer Quantizer, input_quantizer Inputs>
class search_channel_scaling {
public:
  /// @throws config_error unless grids >= 1 and rank >= 0.
  explicit search_channel_scaling(Quantizer weights, Inputs inputs, channel_scaling_search_config config = {})
      : weights_(std::move(weights)), inputs_(std::move(inputs)), config_(config) {
    if (config.grids < 1 || config.rank < 0)
      throw config_error(message("search_channel_scaling: ", config.grids, " grids, rank ", config.rank));
  }

  [[nodiscard]] channel_scaling_search_config const& config() const noexcept { return config_; }

  /// @throws shape_error if W (d_out x d_in) and the calibration disagree on d_in; config_error without a sample of the inputs.
  template <std::same_as<float> T>
  [[nodiscard]] channel_scaling operator()(matrix_view<T const> w, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, w.cols(), "search_channel_scaling");
    require_samples(calib, "search_channel_scaling");
    std::vector<double> largest_w(static_cast<std::size_t>(w.cols()));
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j)
        largest_w[static_cast<std::size_t>(j)] =
            std::max(largest_w[static_cast<std::size_t>(j)], static_cast<double>(std::abs(w(i, j))));
    matrix_view<float const> const x = calib.samples();
    matrix<T> target(x.rows(), w.rows());
    gemm_into(x, transposed(w), target.view(), ctx.in_fp32());
    std::vector<float> best;
    double least = std::numeric_limits<double>::infinity();
    for (int k = 0; k < 2 * config_.grids - 1; ++k) {
      int const step = (k + 1) / 2;
      double const alpha = static_cast<double>(step) / config_.grids, beta = k > 0 && k % 2 == 0 ? 1.0 - alpha : 0.0;
      std::vector<float> factors = factors_of(calib.max_abs(), largest_w, alpha, beta);
      if (double const error = error_of<T>(w, x, channel_scaling(factors), target.view(), calib, ctx);
          error < least || best.empty()) {
        least = error;
        best = std::move(factors);
      }
    }
    return channel_scaling(std::move(best));
  }

  [[nodiscard]] std::string describe() const {
    return message("best of ", 2 * config_.grids - 1, " channel scalings for ", std::string(weights_.describe()), " and ",
                   std::string(inputs_.describe()), config_.rank > 0 ? message(" beside rank ", config_.rank) : "");
  }

private:
  /// max|x|^alpha / max|w|^beta. Times a power of 2 where scaled weights would leave the range that half precision holds well:
  /// the scaling is the same, but for what scales and a branch in fp16 could not store.
  [[nodiscard]] static std::vector<float> factors_of(std::vector<float> const& largest_x, std::vector<double> const& largest_w,
                                                     double alpha, double beta) {
    std::vector<float> factors;
    for (std::size_t j = 0; j < largest_w.size(); ++j) {
      auto const s = static_cast<float>(std::pow(static_cast<double>(largest_x[j]), alpha) / std::pow(largest_w[j], beta));
      factors.push_back(s > 0.0f && std::isnormal(s) && std::isnormal(1.0f / s) ? s : 1.0f);
    }
    double farthest = 0;
    for (std::size_t j = 0; j < factors.size(); ++j)
      farthest = std::max(farthest, static_cast<double>(factors[j]) * largest_w[j]);
    int const exponent = farthest > 0.0 && std::isfinite(farthest) ? std::ilogb(farthest) : 0;
    constexpr int harmless = 8;
    if (std::abs(exponent) > harmless)
      for (float& s : factors) {
        float const moved = std::ldexp(s, -exponent);
        s = std::isnormal(moved) && std::isnormal(1.0f / moved) ? moved : 1.0f;
      }
    return factors;
  }

  template <class T>
  [[nodiscard]] double error_of(matrix_view<float const> w, matrix_view<float const> x, channel_scaling const& scaling,
                                matrix_view<float const> target, calibration const& calib, context const& ctx) const {
    matrix<float> rest = scaling.apply(w), inputs = scaling.invert(x), made(target.rows(), target.cols());
    if (config_.rank > 0) {
      auto const branch = truncated_low_rank<T>(rest.view(), config_.rank, {}, ctx);
      matrix<float> inner(x.rows(), branch.coefficients.rows());
      gemm_into(inputs.view(), transposed(matrix_view<float const>(branch.coefficients.view())), inner.view(), ctx.in_fp32());
      gemm_into(inner.view(), transposed(matrix_view<float const>(branch.basis.view())), made.view(), ctx.in_fp32());
      gemm_into(branch.basis.view(), branch.coefficients.view(), rest.view(), destination::subtract, ctx.in_fp32());
    }
    auto const codes = weights_.quantize(rest.view(), scaling.apply_to(calib), ctx);
    codes.dequantize_into(rest.view(), ctx);
    inputs_.round_inplace(inputs.view());
    gemm_into(inputs.view(), transposed(matrix_view<float const>(rest.view())), made.view(),
              config_.rank > 0 ? destination::add : destination::overwrite, ctx.in_fp32());
    double error = 0;
    for (index_t t = 0; t < made.rows(); ++t)
      for (index_t i = 0; i < made.cols(); ++i) {
        double const off = static_cast<double>(made(t, i)) - static_cast<double>(target(t, i));
        error += off * off;
      }
    return error;
  }

  Quantizer weights_;
  Inputs inputs_;
  channel_scaling_search_config config_;
};

} // namespace SLIM_ABI
} // namespace slim
