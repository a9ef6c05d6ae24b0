#pragma once
/// @file
/// Dense and sparse (SqueezeLLM, arXiv 2306.07629, section 4.2): pruners say which weights are stored apart, a quantizer takes
/// the rest.

#include "slim/pruning/pruner.hpp"
#include "slim/quantization/codes/with_outliers.hpp"
#include "slim/quantization/quantizer.hpp"

#include <tuple>
#include <utility>

namespace slim {
inline namespace SLIM_ABI {

/// A quantizer, and pruners whose kept weights move to the side: what any of them keeps is 0 for the quantizer, and its
/// residual to the decoded value is stored in 16 bits. Pruners see W as it comes. A quantizer that has `quantize_beside(W,
/// apart, calibration, ctx)` is told which weights are apart.
///
///     outlier_quantizer(codebook_quantizer(input_energy{}), iqr_pruner(), unstructured_pruner(wanda{}, {.sparsity = 0.9995,
///                                                                                 .scope = prune_scope::matrix}))
template <quantizer Quantizer, pruner... Selectors>
class outlier_quantizer {
public:
  explicit outlier_quantizer(Quantizer dense, Selectors... selectors)
      : dense_(std::move(dense)), selectors_(std::move(selectors)...) {}

  /// @throws as the parts
  [[nodiscard]] auto quantize(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    mask apart(w.rows(), w.cols());
    std::apply([&](auto const&... selector) { (add(apart, selector.select(w, calib, ctx)), ...); }, selectors_);
    matrix<float> rest(w);
    for (index_t i = 0; i < rest.rows(); ++i)
      for (index_t j = 0; j < rest.cols(); ++j)
        if (apart.kept(i, j)) rest(i, j) = 0.0f;
    matrix_view<float const> const left = rest.view();
    if constexpr (requires { dense_.quantize_beside(left, apart, calib, ctx); })
      return keep_outliers(dense_.quantize_beside(left, apart, calib, ctx), w, apart, number_format::fp16, ctx);
    else
      return keep_outliers(dense_.quantize(left, calib, ctx), w, apart, number_format::fp16, ctx);
  }

  [[nodiscard]] std::string describe() const {
    std::string text = message(std::string(dense_.describe()), "; apart:");
    char const* between = " ";
    auto const append = [&](auto const& selector) {
      text += message(between, std::string(selector.describe()));
      between = ", ";
    };
    std::apply([&](auto const&... selector) { (append(selector), ...); }, selectors_);
    return text;
  }

private:
  static void add(mask& all, mask const& more) {
    more.check("outlier_quantizer", all.rows(), all.cols());
    for (index_t i = 0; i < all.rows(); ++i)
      for (index_t j = 0; j < all.cols(); ++j)
        if (more.kept(i, j)) all.keep(i, j);
  }

  Quantizer dense_;
  std::tuple<Selectors...> selectors_;
};

} // namespace SLIM_ABI
} // namespace slim
