#pragma once
/// @file
/// `compander`: the monotone piecewise linear function that LCQ (Yamamoto, CVPR 2021, arXiv 2103.07156) puts before and, as its
/// inverse, behind uniform rounding; and the codes that come of it.

#include "slim/quantization/codes/codebook_codes.hpp"

#include <span>

namespace slim {
inline namespace SLIM_ABI {

/// f: [0, 1] -> [0, 1] over K equal intervals of its input, K the number of thetas. th = softmax(theta); in interval k, which
/// begins at d_k = k / K, the slope is gamma_k = th_k K, and f(d_k) = beta_k = th_0 + ... + th_(k-1). theta = 0 is the
/// identity, exactly. Thetas count as at least the largest one less 20, so that no slope underflows.
///
/// Magnitudes are given in units of levels: u in [0, L] stands for u / L. **Numerics** double.
class compander {
public:
  static constexpr double widest_spread = 20; ///< between thetas

  /// @throws config_error unless there are 1, 2, 4, ... 256 finite thetas
  explicit compander(std::span<float const> theta) : shares_(theta.begin(), theta.end()), offsets_(theta.size() + 1) {
    if (theta.empty() || theta.size() > 256 || (theta.size() & (theta.size() - 1)) != 0)
      throw config_error(message("compander: ", theta.size(), " intervals, possible are 1, 2, 4, ... 256"));
    for (float const t : theta)
      if (!detail::is_finite(t)) throw config_error(message("compander: a theta of ", t));
    double const largest = *std::max_element(shares_.begin(), shares_.end());
    double sum = 0;
    for (double& t : shares_) sum += t = std::exp(std::max(t - largest, -widest_spread));
    for (std::size_t k = 0; k < shares_.size(); ++k) {
      shares_[k] /= sum;
      offsets_[k + 1] = offsets_[k] + shares_[k];
    }
    offsets_.back() = 1;
  }

  [[nodiscard]] index_t intervals() const noexcept { return std::ssize(shares_); }
  [[nodiscard]] double share(index_t k) const noexcept { return shares_[static_cast<std::size_t>(k)]; }        ///< th_k
  [[nodiscard]] double slope(index_t k) const noexcept { return share(k) * static_cast<double>(intervals()); } ///< gamma_k
  [[nodiscard]] double offset(index_t k) const noexcept { return offsets_[static_cast<std::size_t>(k)]; }      ///< beta_k
  [[nodiscard]] double begin(index_t k) const noexcept {
    return static_cast<double>(k) / static_cast<double>(intervals());
  } ///< d_k

  /// The interval that u, a magnitude before f, lies in.
  [[nodiscard]] index_t interval_before(double u, double levels) const noexcept {
    return std::clamp<index_t>(static_cast<index_t>(u * static_cast<double>(intervals()) / levels), 0, intervals() - 1);
  }
  /// The interval whose values y, a magnitude behind f, is among; the last one of y = L.
  [[nodiscard]] index_t interval_behind(double y, double levels) const noexcept {
    auto const above = std::upper_bound(offsets_.begin() + 1, offsets_.end() - 1, y / levels);
    return above - (offsets_.begin() + 1);
  }

  /// L f(u / L), for u in [0, L].
  [[nodiscard]] double compress(double u, double levels) const noexcept {
    index_t const k = interval_before(u, levels);
    return slope(k) * (u - levels * begin(k)) + levels * offset(k);
  }
  /// The inverse, for y in [0, L].
  [[nodiscard]] double expand(double y, double levels) const noexcept {
    if (y >= levels) return levels; // the last level, exactly
    index_t const k = interval_behind(y, levels);
    double const within = (y - levels * offset(k)) / slope(k) + levels * begin(k);
    return std::clamp(within, levels * begin(k), levels * begin(k + 1));
  }

private:
  std::vector<double> shares_, offsets_;
};

namespace detail {

/// Signed code of w: sign round(L f(|w| / (L scale))) with w beyond L scale clipped. A scale that is not positive and a NaN
/// give 0.
[[nodiscard]] inline int companded(float w, float scale, compander const& f, int levels) noexcept {
  float const ratio = w / scale;
  if (!(scale > 0.0f) || !(ratio == ratio)) return 0;
  double const u = std::min(static_cast<double>(std::abs(ratio)), static_cast<double>(levels));
  int const k = round_to_int(static_cast<float>(f.compress(u, levels)));
  return ratio < 0.0f ? -k : k;
}

} // namespace detail

/// W (d_out x d_in) with given scales and compander: of `bits` bits, L = 2^(bits-1) - 1, the signed code c stands for scale
/// times sign(c) L f^-1(|c| / L), levels rounded to fp16. Position 0 of the book repeats position 1: code c has position c +
/// 2^(bits-1). With theta = 0 the values are those of integer codes with these scales, bit for bit.
/// @throws shape_error unless there is a scale for each block; config_error unless 2 <= bits <= 8
[[nodiscard]] inline codebook_codes companded_codes(matrix_view<float const> w, int bits, scale_block block,
                                                    scale_table const& scales, compander const& f, context const& ctx = {}) {
  if (bits < 2 || bits > 8) throw config_error(message("companded_codes: ", bits, " bits, possible are 2 to 8"));
  int const middle = 1 << (bits - 1), levels = middle - 1;
  std::vector<float> book;
  for (int p = 0; p <= middle + levels; ++p) {
    int const magnitude = std::min(std::abs(p - middle), levels);
    auto const level = rounded_to(number_format::fp16, static_cast<float>(f.expand(magnitude, levels)));
    book.push_back(p < middle ? -level : level);
  }
  codebook_codes codes(w.rows(), w.cols(), book, block, scales.stored());
  codes.scales = scales;
  codes.check("companded_codes");
  ctx.parallel_for(w.rows(), 16, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i)
      for (index_t j = 0; j < w.cols(); ++j)
        codes.codes(i, j) = static_cast<std::uint8_t>(middle + detail::companded(w(i, j), codes.scale_at(i, j), f, levels));
  });
  return codes;
}

} // namespace SLIM_ABI
} // namespace slim
