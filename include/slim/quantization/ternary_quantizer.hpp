#pragma once
/// @file
/// Codes -1, 0, 1 times a scale: the projection on them that is nearest to the weights. The rest of Pruning Ternary
/// Quantization (arXiv 2107.10998) is a reconstruction, because its method section could not be read; the projection is exact
/// by itself.

#include "slim/quantization/codes/integer_codes.hpp"

#include <numeric>

namespace slim {
inline namespace SLIM_ABI {

/// Codes of `ternary_quantizer`.
struct ternary_config {
  index_t group = 0;                                ///< columns of a row that share a scale; 0: the whole row
  number_format scale_format = number_format::fp32; ///< of the scales; which weights are kept does not depend on it

  friend bool operator==(ternary_config const&, ternary_config const&) = default;
};

namespace detail {

/// The nearest alpha t, t of -1, 0 and 1, to numbers w: of |w| sorted downwards the first k are kept, k maximising (sum of
/// them)^2 / k; alpha is their mean. Ties go to the earlier number.
struct ternary_projection {
  float scale = 0;
  std::vector<index_t> order; ///< of all numbers, by falling magnitude
  std::size_t kept = 0;       ///< k

  explicit ternary_projection(std::span<float const> w) : order(w.size()) {
    std::iota(order.begin(), order.end(), index_t{0});
    auto const magnitude = [&](index_t j) { // a NaN counts as 0
      float const x = std::abs(w[static_cast<std::size_t>(j)]);
      return x == x ? x : 0.0f;
    };
    std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) { return magnitude(a) > magnitude(b); });
    double sum = 0, best = 0;
    for (std::size_t k = 0; k < order.size(); ++k) {
      sum += static_cast<double>(magnitude(order[k]));
      double const count = static_cast<double>(k + 1), gain = sum * sum / count;
      if (!(gain > best)) continue;
      best = gain;
      scale = static_cast<float>(sum / count);
      kept = k + 1;
    }
  }
};

} // namespace detail

/// The support of ternary codes on its way from all weights to the best ones: of each row of n weights, k of which the exact
/// projection keeps, the n - round(share (n - k)) largest. What a schedule of Pruning Ternary Quantization prunes by.
/// @throws config_error unless 0 <= share <= 1
[[nodiscard]] inline mask ternary_support(matrix_view<float const> w, double share, context const& ctx = {}) {
  if (!(share >= 0 && share <= 1)) throw config_error(message("ternary_support: a share of ", share));
  mask kept(w.rows(), w.cols());
  ctx.parallel_for(w.rows(), 16, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      detail::ternary_projection const best({w.row(i), static_cast<std::size_t>(w.cols())});
      auto const pruned = std::lround(share * static_cast<double>(best.order.size() - best.kept));
      for (std::size_t k = 0; k + static_cast<std::size_t>(pruned) < best.order.size(); ++k) kept.keep(i, best.order[k]);
    }
  });
  return kept;
}

/// Codes of 2 bits, of which -2 is never used, with the scale and the support of least squared error in each group. Twice
/// the weights have twice the scales and the same codes. O(n log n).
class ternary_quantizer {
public:
  /// @throws config_error on a negative group
  explicit ternary_quantizer(ternary_config config = {}) : config_(config) {
    if (config.group < 0) throw config_error(message("ternary_quantizer: a group of ", config.group, " columns"));
  }

  [[nodiscard]] ternary_config const& config() const noexcept { return config_; }

  [[nodiscard]] integer_codes quantize(matrix_view<float const> w, calibration const&, context const& ctx = {}) const {
    integer_codes made(w.rows(), w.cols(), 2, {.rows = 1, .cols = config_.group}, config_.scale_format);
    index_t const wide = made.block.cols_of(w.cols());
    ctx.parallel_for(w.rows(), 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t g = 0; g < made.scales.cols(); ++g) {
          float const* const group = w.row(i) + g * wide;
          auto const size = static_cast<std::size_t>(std::min(wide, w.cols() - g * wide));
          detail::ternary_projection const best({group, size});
          made.scales(i, g) = detail::stored_scale(config_.scale_format, best.scale);
          for (std::size_t k = 0; k < best.kept; ++k)
            made.codes(i, g * wide + best.order[k]) = static_cast<std::int8_t>(group[best.order[k]] < 0 ? -1 : 1);
        }
    });
    return made;
  }

  [[nodiscard]] std::string describe() const {
    return message("ternary ", slim::describe(scale_block{.rows = 1, .cols = config_.group}),
                   config_.scale_format == number_format::fp32 ? "" : message(", ", name_of(config_.scale_format), " scales"));
  }

private:
  ternary_config config_;
};

static_assert(quantizer<ternary_quantizer>);

} // namespace SLIM_ABI
} // namespace slim
