#pragma once
/// @file
/// Adapters in few bits: the factors of any low-rank solver, rounded by a quantizer (SLiM-LoRA^Q, arXiv 2410.09615,
/// section 3.4: AbsMax, 4 bits, groups of 128).

#include "slim/adapters/diagonal_norm.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Solves, then rounds L and R. Both factors are quantized as they are stored, (d_in x r) and (r x d_out), so that
/// `per_column_group(128)` groups along the dimension a product sums over, with a ragged last group; one scale per column if
/// there are fewer rows.
template <low_rank_solver Solver, integer_quantizer Rounding>
class quantized_adapter : public detail::wraps_solver<Solver> {
public:
  quantized_adapter(Solver solver, Rounding rounding)
      : detail::wraps_solver<Solver>(std::move(solver)), rounding_(std::move(rounding)) {}

  template <std::same_as<float> T>
  [[nodiscard]] adapter solve(matrix_view<T const> e, calibration const& calib, context const& ctx = {}) const {
    adapter found = this->inner().solve(e, calib, ctx);
    if (found.rank() == 0) return found;
    found.left_codes = round_factor(found.left, ctx);
    found.right_codes = round_factor(found.right, ctx);
    return unless_worse_than_none(std::move(found), e, ctx,
                                  [&](matrix_view<float const> rest) { return this->energy(rest, calib, ctx); });
  }

  [[nodiscard]] std::string describe() const {
    return message(std::string(this->inner().describe()), ", factors ", std::string(rounding_.describe()));
  }

private:
  integer_codes round_factor(matrix<float>& factor, context const& ctx) const {
    integer_codes codes = rounding_.quantize(matrix_view<float const>(factor.view()), calibration(factor.cols()), ctx);
    codes.dequantize_into(factor.view(), ctx);
    return codes;
  }

  Rounding rounding_;
};

} // namespace SLIM_ABI
} // namespace slim
