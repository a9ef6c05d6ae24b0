#pragma once
/// @file
/// Importance of weights found elsewhere, such as the diagonal of a Fisher matrix (SqueezeLLM, arXiv 2306.07629, equation 6),
/// as a saliency.

#include "slim/core/finite.hpp"
#include "slim/core/matrix_traits.hpp"
#include "slim/saliency/saliency.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// A matrix of scores, one per weight. Only ratios matter.
class external_saliency {
public:
  class scorer {
  public:
    explicit scorer(matrix_view<float const> scores) : scores_(scores) {}
    float operator()(index_t i, index_t j) const noexcept { return scores_(i, j); }

  private:
    matrix_view<float const> scores_;
  };

  /// Scores (d_out x d_in) of any real type. @throws config_error naming the first that is negative (a gradient that was not
  /// squared), NaN or, as float, infinite.
  template <class Matrix>
    requires matrix_like<Matrix const>
  explicit external_saliency(Matrix const& scores) : scores_(to_float(scores)) {
    for (index_t i = 0; i < scores_.rows(); ++i)
      for (index_t j = 0; j < scores_.cols(); ++j)
        if (!(scores_(i, j) >= 0.0f) || !detail::is_finite(scores_(i, j)))
          throw config_error(message("external_saliency: importance ", scores_(i, j), " at row ", i, ", column ", j,
                                     ", needed are numbers from 0 on"));
  }

  /// @throws shape_error if W has another shape than the scores.
  [[nodiscard]] scorer prepare(matrix_view<float const> w, calibration const&, context const& = {}) const {
    if (w.rows() != scores_.rows() || w.cols() != scores_.cols())
      throw shape_error(message("external_saliency: the scores are ", scores_.rows(), " x ", scores_.cols(), ", W is ",
                                w.rows(), " x ", w.cols()));
    return scorer(scores_.view());
  }
  [[nodiscard]] std::string describe() const { return "external saliency"; }

private:
  matrix<float> scores_;
};

static_assert(saliency<external_saliency>);

} // namespace SLIM_ABI
} // namespace slim
