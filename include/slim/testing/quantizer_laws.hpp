#pragma once
/// @file
/// Laws of a quantizer. Codes of type integer_codes are held to their documented grid as well.

#include "slim/core/finite.hpp"
#include "slim/quantization/codes/integer_codes.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"
#include "slim/testing/violation.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

namespace detail {

template <quantized_matrix C>
[[nodiscard]] matrix<float> values_of(C const& codes, context const& ctx) {
  matrix<float> values(codes.rows(), codes.cols());
  codes.dequantize_into(values.view(), ctx);
  return values;
}

/// The price of codes: all, every other one, none.
template <quantized_matrix C>
void judge_stored_bits(collector& judge, C const& codes) {
  mask some(codes.rows(), codes.cols());
  mask const none_kept = some;
  for (index_t i = 0; i < codes.rows(); ++i)
    for (index_t j = i % 2; j < codes.cols(); j += 2) some.keep(i, j);
  double const all = codes.stored_bits(nullptr), half = codes.stored_bits(&some), side = codes.stored_bits(&none_kept);
  auto const size = static_cast<double>(codes.rows() * codes.cols());
  judge.expect(0.0 <= side && side <= half && half <= all && slim::detail::is_finite(all), "fewer kept codes cost no more",
               message(side, ", ", half, ", ", all));
  judge.expect(all - side <= 64.0 * size, "a code has at most 64 bits", message(all, " for ", size));
}

/// Whether codes that say how they are checked are sound; nothing reads the values of others.
template <quantized_matrix C>
bool judge_soundness(collector& judge, C const& codes) {
  std::string why;
  try {
    if constexpr (requires { codes.check_codes("codes"); })
      codes.check_codes("codes");
    else if constexpr (requires { codes.check("codes"); })
      codes.check("codes");
  } catch (error const& e) {
    why = e.what();
  }
  return judge.expect(why.empty(), "parts of codes fit each other, and codes fit in their bits", why);
}

/// Grid, ranges and stored bits of integer codes of w.
inline void judge_integer_codes(collector& judge, integer_codes const& codes, matrix<float> const& w,
                                matrix<float> const& values) {
  index_t const tall = codes.block.rows == 0 ? w.rows() : codes.block.rows,
                wide = codes.block.cols == 0 ? w.cols() : codes.block.cols;
  index_t const down = w.rows() == 0 ? 0 : (w.rows() - 1) / tall + 1, across = w.cols() == 0 ? 0 : (w.cols() - 1) / wide + 1;
  if (!judge.expect(codes.scales.rows() == down && codes.scales.cols() == across, "there is one scale per block",
                    message(codes.scales.rows(), " x ", codes.scales.cols(), ", blocks ", down, " x ", across)))
    return;
  double moved = 0;
  for (float const factor : codes.channel_factors) moved += factor != 1.0f ? 1.0 : 0.0;
  double const stored = static_cast<double>(codes.scales.size()) * bit_width(codes.scales.format()) +
                        static_cast<double>(codes.zeros.size() + codes.codes.size()) * codes.bits + moved * 48.0;
  judge.expect(codes.stored_bits() == stored, "stored bits are what codes, scales, zero points and channel factors take",
               message(codes.stored_bits(), " for ", stored));
  for (index_t k = 0; k < codes.scales.size(); ++k) {
    float const scale = codes.scales.data()[k];
    if (!judge.expect(scale >= 0.0f && slim::detail::is_finite(scale), "scales are finite and not negative", message(scale)))
      return;
    if (!judge.expect(same_bits(scale, rounded_to(codes.scales.format(), scale)), "scales are numbers of their format",
                      message(scale)))
      return;
  }
  int const lowest = -(1 << (codes.bits - 1)), highest = (1 << (codes.bits - 1)) - 1;
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j) {
      double const scale = static_cast<double>(codes.scales(i / tall, j / wide));
      int const zero = codes.zeros.empty() ? 0 : codes.zeros(i / tall, j / wide), code = codes.codes(i, j);
      double const factor =
          codes.channel_factors.empty() ? 1.0 : static_cast<double>(codes.channel_factors[static_cast<std::size_t>(j)]);
      double const on_grid = scale * (code - zero) / factor, x = static_cast<double>(w(i, j)),
                   value = static_cast<double>(values(i, j));
      std::string const at = message("(", i, ", ", j, "): ", w(i, j), " -> code ", code, ", zero ", zero, ", scale ",
                                     codes.scales(i / tall, j / wide));
      // One rounding of the product and one of the quotient; half a denormal each.
      if (!judge.expect(std::abs(value - on_grid) <= 0x1p-22 * std::abs(on_grid) + 0x1p-148,
                        "values are scale * (code - zero) / factor", at))
        return;
      if (!judge.expect(lowest <= code && code <= highest && lowest <= zero && zero <= highest,
                        "codes and zero points fit in their bits", at))
        return;
      if (!judge.expect(x != 0.0 || value == 0.0, "0 stays 0", at)) return;
      bool const clipped = (code == highest && x > value) || (code == lowest && x < value);
      double const half_step = 0.5 * scale / factor;
      if (!judge.expect(clipped || std::abs(x - value) <= half_step * (1 + 0x1p-20) + 0x1p-22 * std::abs(x) + 0x1p-148,
                        "a weight inside the range goes to the nearest value of the grid", at))
        return;
    }
}

} // namespace detail

/// Codes have W's shape; finite weights have finite values; stored bits are finite, not negative, no more when fewer codes are
/// kept, and at most 64 per weight beyond what no codes at all cost; the same
/// values every time and on every executor; W is not changed; a destination of another shape is refused by shape_error. For
/// integer_codes without offsets also: values on the grid, the nearest one inside the range, 0 stays 0, codes and zero points
/// fit in their bits, scales are numbers of their format, side bits count what is stored.
template <quantizer Q>
[[nodiscard]] violations check_quantizer(Q const& q, std::vector<named_matrix> const& matrices = hard_matrices()) {
  violations broken;
  for (named_matrix const& w : matrices)
    for (named_calibration const& c : hard_calibrations(w.values.cols())) {
      detail::collector judge(broken, message(w.name, "; ", c.name));
      matrix<float> const before = w.values;
      auto const codes = q.quantize(w.values.view(), c.calib, on(serial_executor{}));
      judge.expect(same_bits(w.values, before), "W is not changed");
      if (!judge.expect(codes.rows() == w.values.rows() && codes.cols() == w.values.cols(), "codes have the shape of W",
                        message(codes.rows(), " x ", codes.cols())))
        continue;
      if (!detail::judge_soundness(judge, codes)) continue;
      detail::judge_stored_bits(judge, codes);
      matrix<float> const values = detail::values_of(codes, on(serial_executor{}));
      judge.expect(all_finite(values), "finite weights have finite values");
      auto const again_on = [&](auto const& where) {
        auto const again = q.quantize(w.values.view(), c.calib, on(where));
        return again.stored_bits(nullptr) == codes.stored_bits(nullptr) &&
               same_bits(values, detail::values_of(again, on(where)));
      };
      judge.expect(again_on(serial_executor{}), "the same twice");
      judge.expect(again_on(backwards_executor{}), "the same when tasks run backwards");
      judge.expect(again_on(thread_team_executor{}), "the same on several threads");
      bool refused = false;
      try {
        matrix<float> larger(codes.rows() + 1, codes.cols());
        codes.dequantize_into(larger.view(), on(serial_executor{}));
      } catch (shape_error const&) {
        refused = true;
      }
      judge.expect(refused, "a destination of another shape is refused by shape_error");
      if constexpr (std::same_as<std::remove_const_t<decltype(codes)>, integer_codes>)
        if (codes.offsets.empty()) detail::judge_integer_codes(judge, codes, w.values, values);
    }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
