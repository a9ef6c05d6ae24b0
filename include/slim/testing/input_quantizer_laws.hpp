#pragma once
/// @file
/// Laws of an input quantizer.

#include "slim/core/finite.hpp"
#include "slim/quantization/input_quantizer.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"
#include "slim/testing/violation.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// Finite stays finite, 0 stays 0, |x - x'| <= bound * max|x| (`bound`: what the component documents, e.g. 1 / 254 for int8),
/// rounding again changes nothing but the last bits (8 ulp of max|x|), the same every time.
template <input_quantizer Q>
[[nodiscard]] violations check_input_quantizer(Q const& q, double bound,
                                               std::vector<named_matrix> const& matrices = hard_matrices()) {
  violations broken;
  for (named_matrix const& x : matrices) {
    detail::collector judge(broken, x.name);
    matrix<float> once = x.values, again = x.values;
    q.round_inplace(once.view());
    q.round_inplace(again.view());
    judge.expect(same_bits(once, again), "the same twice");
    matrix<float> twice = once;
    q.round_inplace(twice.view());
    double largest = 0;
    for (index_t k = 0; k < x.values.size(); ++k)
      largest = std::max(largest, static_cast<double>(std::abs(x.values.data()[k])));
    for (index_t k = 0; k < x.values.size(); ++k) {
      float const value = x.values.data()[k], rounded = once.data()[k];
      std::string const at = message("element ", k, ": ", value, " -> ", rounded, " -> ", twice.data()[k]);
      if (!judge.expect(slim::detail::is_finite(rounded), "finite stays finite", at)) break;
      if (!judge.expect(value != 0.0f || rounded == 0.0f, "0 stays 0", at)) break;
      double const error = std::abs(static_cast<double>(value) - static_cast<double>(rounded));
      if (!judge.expect(error <= bound * largest * (1 + 0x1p-20), "|x - x'| <= bound * max|x|", at)) break;
      double const drift = std::abs(static_cast<double>(twice.data()[k]) - static_cast<double>(rounded));
      if (!judge.expect(drift <= 0x1p-20 * largest, "rounding again changes the last bits at most", at)) break;
    }
  }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
