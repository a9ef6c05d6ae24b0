#pragma once
/// @file
/// Scales of super-blocks: small integers times a step that the groups of a super-block share. How the step and the integers
/// are found for weights, and how they move to their optimum for codes that are already chosen.

#include "slim/quantization/grids/grid.hpp"
#include "slim/quantization/grids/refit.hpp"
#include "slim/quantization/scale_table.hpp"

#include <array>
#include <limits>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// A number for each of sixteen rows.
using row_numbers = std::array<float, static_cast<std::size_t>(grid_lanes)>;

[[nodiscard]] inline row_numbers scaled(row_numbers const& step, row_numbers const& code) noexcept {
  row_numbers out;
  for (std::size_t l = 0; l < out.size(); ++l) out[l] = step[l] * code[l];
  return out;
}
[[nodiscard]] inline row_numbers negated(row_numbers const& a) noexcept {
  row_numbers out;
  for (std::size_t l = 0; l < out.size(); ++l) out[l] = -a[l];
  return out;
}

/// The integers that a second level can hold.
struct integer_range {
  float low, high;

  [[nodiscard]] row_numbers moved(row_numbers const& code, int by) const noexcept {
    row_numbers out;
    for (std::size_t l = 0; l < out.size(); ++l) out[l] = std::min(std::max(code[l] + static_cast<float>(by), low), high);
    return out;
  }
};

[[nodiscard]] inline integer_range range_of(scale_storage const& stored) noexcept {
  return {static_cast<float>(-stored.zero_code()), static_cast<float>((1 << stored.bits) - 1 - stored.zero_code())};
}

/// A step, and an integer for each group.
struct chosen_step {
  row_numbers step = {};
  std::vector<row_numbers> codes;
};

/// Per row, the best of `candidates` steps `step_of(k, lane)` for the numbers of the groups, each with the nearest integers.
/// `error_with(g, decoded)` is the error of group g with these numbers.
template <class StepOf, class ErrorWith>
[[nodiscard]] chosen_step choose_step(int candidates, StepOf const& step_of, std::vector<row_numbers> const& numbers,
                                      integer_range range, ErrorWith const& error_with) {
  chosen_step best{{}, std::vector<row_numbers>(numbers.size())};
  row_numbers least;
  least.fill(std::numeric_limits<float>::infinity());
  for (int k = 0; k < candidates; ++k) {
    row_numbers candidate, sum = {};
    std::vector<row_numbers> code(numbers.size());
    for (std::size_t l = 0; l < candidate.size(); ++l) candidate[l] = step_of(k, l);
    for (std::size_t g = 0; g < numbers.size(); ++g) {
      for (std::size_t l = 0; l < candidate.size(); ++l) {
        float const ratio = candidate[l] != 0.0f ? numbers[g][l] / candidate[l] : 0.0f;
        code[g][l] = std::nearbyint(std::min(std::max(ratio, range.low), range.high));
      }
      row_numbers const error = error_with(g, scaled(candidate, code[g]));
      for (std::size_t l = 0; l < sum.size(); ++l) sum[l] += error[l];
    }
    for (std::size_t l = 0; l < sum.size(); ++l) {
      if (!(sum[l] < least[l])) continue;
      least[l] = sum[l];
      best.step[l] = candidate[l];
      for (std::size_t g = 0; g < numbers.size(); ++g) best.codes[g][l] = code[g][l];
    }
  }
  return best;
}

/// refit_parameters for the entries of a table with a second level over the groups of single rows: the integers, each moved to
/// the best one with all others fixed, then the steps. No entry changes its sign. `basis(i, j)` is what weight (i, j) gains
/// when its entry grows by 1; `wide` are the columns of a group.
template <class Basis>
void refit_second_level(scale_table& table, index_t wide, matrix_view<float> gradient, matrix_view<float const> h,
                        Basis const& basis, context const& ctx) {
  scale_storage const& stored = table.stored();
  index_t const super_groups = stored.block.cols_of(table.cols());
  int const zero = stored.zero_code();
  auto const range = range_of(stored);
  refit_parameters(
      1, wide, gradient, h, basis,
      [&](index_t i, index_t g, double curvature, double slope) {
        float const step = table.steps()(i, g / super_groups);
        int const code = table.codes()(i, g) - zero;
        if (!(curvature > 0.0) || step == 0.0f) return 0.0;
        float const before = table(i, g);
        auto const wanted = static_cast<double>(code) + slope / curvature / static_cast<double>(step);
        if (!(wanted == wanted)) return 0.0;
        double const low = code > 0 ? 0.0 : static_cast<double>(range.low);
        double const high = code < 0 ? 0.0 : static_cast<double>(range.high);
        int const to = static_cast<int>(std::nearbyint(std::min(std::max(wanted, low), high)));
        double const by = static_cast<double>(step * static_cast<float>(to)) - static_cast<double>(before);
        if (to == code || !lowers_error(curvature, slope, by)) return 0.0;
        table.set_code(i, g, to + zero);
        return by;
      },
      ctx);
  refit_parameters(
      1, wide * super_groups, gradient, h,
      [&](index_t i, index_t j) { return static_cast<float>(table.codes()(i, j / wide) - zero) * basis(i, j); },
      [&](index_t i, index_t b, double curvature, double slope) {
        if (!(curvature > 0.0)) return 0.0;
        float const step = table.steps()(i, b);
        float const to = stored_number(stored.format, static_cast<float>(static_cast<double>(step) + slope / curvature));
        double const by = static_cast<double>(to) - static_cast<double>(step);
        bool const same_sign = to * step > 0.0f;
        if (!same_sign || !is_finite(to) || !lowers_error(curvature, slope, by)) return 0.0;
        table.set_step(i, b, to);
        return by;
      },
      ctx);
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
