#pragma once
/// @file
/// `trainable_companding`: the quantizer of LCQ (Yamamoto, CVPR 2021, arXiv 2103.07156): companders and scales that train.

#include "slim/quantization/companding_quantizer.hpp"
#include "slim/training/straight_through.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Codes of a trainable_companding.
struct trainable_companding_config {
  int bits = 4;
  scale_block block = per_channel;
  index_t intervals = 16; ///< of the compander: 1, 2, 4, ... 256
};

/// Codes behind a compander, see companded_codes: Q = scale sign(w) L f^-1(round(L f(u / L)) / L), u = |w| / scale. Parameters:
/// the thetas of the compander, first 0, which is uniform; then a scale per block, first those of absmax_quantizer.
///
/// With z = L f(u / L) in interval i of the compander and the code k = z + constant in interval j (both in levels):
///   dz/dgamma_i = u - L d_i, dz/dbeta_i = L, dQ/dz = scale sign / gamma_j,
///   dQ/dgamma_j = -scale sign (k - L beta_j) / gamma_j^2, dQ/dbeta_j = -scale sign L / gamma_j,
///   dQ/dw = gamma_i / gamma_j, dQ/dscale = sign (level - u gamma_i / gamma_j);
/// then through the sums of shares and the softmax. Beyond the last level dQ/dw = 0 and dQ/dscale = sign L. (An implementation
/// of LCQ at hand takes gamma_i / gamma_j as 1.) Scales that are not positive give codes of 0 and no gradient.
class trainable_companding {
public:
  /// @throws config_error
  explicit trainable_companding(trainable_companding_config config = {})
      : config_(config), start_({.bits = config.bits, .block = config.block}) {
    (void)companding_quantizer({.bits = config.bits, .block = config.block, .intervals = config.intervals});
  }

  [[nodiscard]] std::vector<float> first(matrix_view<float const> w, context const& ctx = {}) const {
    std::vector<float> parameters(static_cast<std::size_t>(config_.intervals));
    integer_codes const codes = start_.quantize(w, calibration(w.cols()), ctx);
    parameters.insert(parameters.end(), codes.scales.data(), codes.scales.data() + codes.scales.size());
    return parameters;
  }

  /// @throws shape_error; config_error on a theta that is not finite
  [[nodiscard]] codebook_codes codes(matrix_view<float const> w, std::span<float const> parameters,
                                     context const& ctx = {}) const {
    scale_table scales = start_.zero_codes(w.rows(), w.cols()).scales;
    detail::check_trainable("trainable_companding", w, parameters, config_.intervals + scales.size(), w);
    auto const given = parameters.subspan(static_cast<std::size_t>(config_.intervals));
    for (index_t k = 0; k < scales.size(); ++k) scales.data()[k] = std::max(given[static_cast<std::size_t>(k)], 0.0f);
    return companded_codes(w, config_.bits, config_.block, scales, compander_of(parameters), ctx);
  }

  /// @throws as codes
  [[nodiscard]] quantizer_gradient backward(matrix_view<float const> w, std::span<float const> parameters,
                                            matrix_view<float const> dq, context const& ctx = {}) const {
    codebook_codes const made = codes(w, parameters, ctx);
    detail::check_trainable("trainable_companding", w, parameters, std::ssize(parameters), dq);
    compander const f = compander_of(parameters);
    auto const intervals = static_cast<std::size_t>(config_.intervals);
    quantizer_gradient g{matrix<float>(w.rows(), w.cols()), std::vector<float>(parameters.size())};
    std::vector<by_shape> parts(static_cast<std::size_t>(made.scales.rows()), by_shape(intervals)); // of rows of blocks
    index_t const tall = made.block.rows_of(w.rows()), wide = made.block.cols_of(w.cols());
    ctx.parallel_for(made.scales.rows(), 1, [&](index_t begin, index_t end) {
      for (index_t b = begin; b < end; ++b)
        for (index_t n = 0; n < made.scales.cols(); ++n) {
          double const scale = static_cast<double>(made.scales(b, n));
          double by_scale = 0;
          for (index_t i = b * tall; scale > 0 && i < std::min(w.rows(), (b + 1) * tall); ++i)
            for (index_t j = n * wide; j < std::min(w.cols(), (n + 1) * wide); ++j)
              by_scale += weight_gradient(w(i, j), scale, made.codes(i, j), dq(i, j), f, parts[static_cast<std::size_t>(b)],
                                          g.weight(i, j));
          g.parameters[intervals + static_cast<std::size_t>(b * made.scales.cols() + n)] = static_cast<float>(by_scale);
        }
    });
    by_shape sum(intervals);
    for (by_shape const& part : parts)
      for (std::size_t k = 0; k < intervals; ++k) {
        sum.slope[k] += part.slope[k];
        sum.offset[k] += part.offset[k];
      }
    set_theta_gradient(f, parameters, sum, g.parameters);
    return g;
  }

  [[nodiscard]] std::string describe() const {
    return message(config_.bits, " bit codes ", slim::describe(config_.block), ", compander and scales train");
  }

private:
  /// Gradients by slopes and offsets of the compander.
  struct by_shape {
    explicit by_shape(std::size_t intervals) : slope(intervals), offset(intervals) {}
    std::vector<double> slope, offset;
  };

  [[nodiscard]] compander compander_of(std::span<float const> parameters) const {
    return compander(parameters.first(static_cast<std::size_t>(config_.intervals)));
  }

  /// Of one weight; returns that by its scale.
  [[nodiscard]] double weight_gradient(float weight, double scale, std::uint8_t position, float behind, compander const& f,
                                       by_shape& shape, float& by_weight) const {
    double const d = static_cast<double>(behind), w = static_cast<double>(weight), u = std::abs(w) / scale;
    int const middle = 1 << (config_.bits - 1), levels = middle - 1;
    double const sign = w < 0 ? -1 : 1, last = levels, k = std::abs(int{position} - middle);
    if (u >= last) return d * sign * last;
    index_t const i = f.interval_before(u, last), j = f.interval_behind(k, last);
    double const ratio = f.slope(i) / f.slope(j), moved = d * scale * sign / f.slope(j);
    shape.slope[static_cast<std::size_t>(i)] += moved * (u - last * f.begin(i));
    shape.offset[static_cast<std::size_t>(i)] += moved * last;
    shape.slope[static_cast<std::size_t>(j)] -= moved * (k - last * f.offset(j)) / f.slope(j);
    shape.offset[static_cast<std::size_t>(j)] -= moved * last;
    by_weight = static_cast<float>(d * ratio);
    return d * sign * (f.expand(k, last) - u * ratio);
  }

  /// gamma_k = K th_k, beta_k the sum of the shares before k; then softmax.
  static void set_theta_gradient(compander const& f, std::span<float const> theta, by_shape const& sum, std::span<float> to) {
    index_t const intervals = f.intervals();
    std::vector<double> by_share(static_cast<std::size_t>(intervals));
    double later = 0, mean = 0;
    for (index_t k = intervals; k-- > 0;) {
      auto const n = static_cast<std::size_t>(k);
      by_share[n] = static_cast<double>(intervals) * sum.slope[n] + later;
      later += sum.offset[n];
      mean += f.share(k) * by_share[n];
    }
    float const largest = *std::max_element(theta.begin(), theta.begin() + intervals);
    for (index_t k = 0; k < intervals; ++k) {
      auto const n = static_cast<std::size_t>(k);
      bool const stopped = static_cast<double>(theta[n]) - static_cast<double>(largest) < -compander::widest_spread;
      to[n] = stopped ? 0.0f : static_cast<float>(f.share(k) * (by_share[n] - mean));
    }
  }

  trainable_companding_config config_;
  absmax_quantizer start_;
};

static_assert(trainable_quantizer<trainable_companding>);

} // namespace SLIM_ABI
} // namespace slim
