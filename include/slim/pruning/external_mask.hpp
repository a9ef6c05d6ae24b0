#pragma once
/// @file
/// A mask found elsewhere (learned ones such as MaskLLM, arXiv 2409.17481), used as a pruner.

#include "slim/core/matrix_traits.hpp"
#include "slim/pruning/pruner.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// A mask that was found elsewhere, as a pruner: keeps what is not zero in it.
class external_mask {
public:
  /// Keeps what is not zero in m (d_out x d_in; bool, integer or real). If a pattern is promised it is checked.
  /// @throws config_error naming the first group that breaks the pattern.
  template <class Matrix>
    requires matrix_like<Matrix const>
  explicit external_mask(Matrix const& m, sparsity_pattern pattern = {})
      : kept_(as_matrix_view(m).rows(), as_matrix_view(m).cols(), pattern) {
    auto const view = as_matrix_view(m);
    for (index_t i = 0; i < view.rows(); ++i)
      for (index_t j = 0; j < view.cols(); ++j) kept_.keep(i, j, view(i, j) != typename decltype(view)::value_type{});
    if (pattern.structured()) check_pattern();
  }

  /// @throws shape_error if W has another shape than the mask.
  [[nodiscard]] mask select(matrix_view<float const> w, calibration const&, context const& = {}) const {
    if (w.rows() != kept_.rows() || w.cols() != kept_.cols())
      throw shape_error(
          message("external_mask: the mask is ", kept_.rows(), " x ", kept_.cols(), ", W is ", w.rows(), " x ", w.cols()));
    return kept_;
  }

  [[nodiscard]] std::string describe() const { return "external mask"; }

private:
  void check_pattern() const {
    sparsity_pattern const pattern = kept_.pattern();
    for (index_t i = 0; i < kept_.rows(); ++i)
      for (index_t first = 0; first < kept_.cols(); first += pattern.m) {
        index_t const width = std::min(pattern.m, kept_.cols() - first);
        index_t count = 0;
        for (index_t k = 0; k < width; ++k) count += kept_.kept(i, first + k) ? 1 : 0;
        if (count != pattern.kept_of(width))
          throw config_error(message("external_mask: ", pattern.n, ":", pattern.m, " promised, but row ", i, " keeps ", count,
                                     " of columns ", first, " to ", first + width - 1));
      }
  }

  mask kept_;
};

static_assert(pruner<external_mask>);

} // namespace SLIM_ABI
} // namespace slim
