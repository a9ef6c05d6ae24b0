#pragma once
/// @file
/// `grid_quantizer`: rounding to nearest on a grid whose scales are searched under the mean square of each input, the diagonal
/// of the output's error (llama.cpp's importance matrix).

#include "slim/quantization/grids/grid.hpp"
#include "slim/quantization/quantizer.hpp"

#include <span>

namespace slim {
inline namespace SLIM_ABI {

/// Any grid that fits scales under weights as a quantizer. Before the first token all columns count alike.
template <grid Grid>
class grid_quantizer {
public:
  /// @throws config_error on a grid that cannot be.
  explicit grid_quantizer(Grid values) : grid_(std::move(values)) { (void)grid_.empty(0, 0); }

  /// @throws shape_error unless W is d_out x d_in.
  [[nodiscard]] typename Grid::codes_type quantize(matrix_view<float const> w, calibration const& calib,
                                                   context const& ctx = {}) const {
    auto codes = grid_.empty(w.rows(), w.cols());
    std::vector<float> weights;
    if (calib.tokens() > 0)
      for (double const energy : calib.mean_square()) weights.push_back(static_cast<float>(energy));
    grid_.fit_under(codes, w, weights, ctx);
    codes.encode(w, ctx);
    return codes;
  }

  [[nodiscard]] std::string describe() const {
    return message("nearest of ", std::string(grid_.describe()), ", weighted by inputs");
  }

private:
  Grid grid_;
};

} // namespace SLIM_ABI
} // namespace slim
