#pragma once
/// @file
/// Adapters in few bits: the factors of any low-rank solver, rounded by a quantizer (SLiM-LoRA^Q, arXiv 2410.09615,
/// section 3.4: AbsMax, 4 bits, groups of 128).

#include "slim/adapters/adapter.hpp"
#include "slim/quantization/codes/integer_codes.hpp"
#include "slim/saliency/saliency.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Solves, then rounds L and R. Both factors are quantized as they are stored, (d_in x r) and (r x d_out), so that
/// `per_column_group(128)` groups along the dimension a product sums over, with a ragged last group; one scale per column if
/// there are fewer rows.
template <low_rank_solver Solver, integer_quantizer Rounding>
class quantized_adapter {
public:
  quantized_adapter(Solver solver, Rounding rounding) : solver_(std::move(solver)), rounding_(std::move(rounding)) {}

  [[nodiscard]] double energy(matrix_view<float const> e, calibration const& calib, context const& ctx = {}) const {
    return solver_.energy(e, calib, ctx);
  }
  /// The inner solver's, if its norm is diagonal.
  [[nodiscard]] std::vector<float> channel_weights(calibration const& calib) const
    requires linear_saliency<Solver>
  {
    return solver_.channel_weights(calib);
  }

  template <std::same_as<float> T>
  [[nodiscard]] adapter solve(matrix_view<T const> e, calibration const& calib, context const& ctx = {}) const {
    adapter found = solver_.solve(e, calib, ctx);
    if (found.rank() == 0) return found;
    found.left_codes = round_factor(found.left, ctx);
    found.right_codes = round_factor(found.right, ctx);
    return unless_worse_than_none(std::move(found), e, ctx,
                                  [&](matrix_view<float const> rest) { return energy(rest, calib, ctx); });
  }

  [[nodiscard]] std::string describe() const {
    return message(std::string(solver_.describe()), ", factors ", std::string(rounding_.describe()));
  }

private:
  integer_codes round_factor(matrix<float>& factor, context const& ctx) const {
    integer_codes codes = rounding_.quantize(matrix_view<float const>(factor.view()), calibration(factor.cols()), ctx);
    codes.dequantize_into(factor.view(), ctx);
    return codes;
  }

  Solver solver_;
  Rounding rounding_;
};

} // namespace SLIM_ABI
} // namespace slim
