#pragma once
/// @file
/// SpQR (Dettmers et al., arXiv 2306.03078): error feedback into small groups whose scales are codes themselves, with the
/// weights that no other can make up for stored apart.

#include "slim/joint/error_feedback.hpp"
#include "slim/joint/outlier_fit.hpp"
#include "slim/quantization/codes/with_outliers.hpp"
#include "slim/quantization/grids/super_block_grid.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Settings of `spqr_compressor`.
struct spqr_config {
  double damping = 1.0; ///< of the mean diagonal of H; the command line that SpQR's page recommends has 1
  /// A weight is stored apart if (w - q)^2 / u_jj^2 exceeds this share of the mean over columns of (variance of the column /
  /// u_jj^2).
  double relative_threshold = 0.2;
  /// The threshold is searched, in at most 8 sweeps, so that no more than this share of the weights is apart, and hardly less;
  /// overrides relative_threshold unless negative.
  double share = -1.0;
  bool leave_one_out = true; ///< groups are fitted without likely outliers; false: SpQR's "simplified outliers"

  friend bool operator==(spqr_config const&, spqr_config const&) = default;
};

/// Makes `with_outliers` codes: groups are fitted when the sweep reaches them, without likely outliers; weights whose rounding
/// costs more than the threshold keep what they are by then, as a 16-bit residual to the decoded value (SpQR's code adds value
/// and decoded value, and so counts outliers twice). Channels are visited as they stand: for act-order put it into
/// in_basis(activation_order{}, ...). Without threshold and leaving out, on any grid, it is error_feedback with refit_groups.
template <grid Grid = super_block_grid>
class spqr_compressor {
public:
  /// @throws config_error on a damping or a threshold that is not positive, a share above 1, a grid that cannot be.
  explicit spqr_compressor(Grid values = spqr_tiles(), spqr_config config = {}) : values_(std::move(values)), config_(config) {
    if (!(config.damping > 0.0)) throw config_error(message("spqr_compressor: damping ", config.damping, ", needed is > 0"));
    if (!(config.relative_threshold > 0.0))
      throw config_error(message("spqr_compressor: relative_threshold ", config.relative_threshold, ", needed is > 0"));
    if (!(config.share <= 1.0)) throw config_error(message("spqr_compressor: share ", config.share, ", possible are 0 to 1"));
    (void)values_.empty(0, 0); // checks the grid
  }

  [[nodiscard]] spqr_config const& config() const noexcept { return config_; }

  /// @throws shape_error if W (d_out x d_in) and the calibration disagree on d_in; config_error before the first token.
  template <std::same_as<float> T>
  [[nodiscard]] joint_result<none, with_outliers<typename Grid::codes_type>>
  compress(matrix_view<T const> w, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, w.cols(), "spqr_compressor");
    matrix<T> const h = hessian(calib, config_.damping, ctx);
    auto const factor = factor_for_feedback(h.view(), ctx);
    std::vector<std::string> notes;
    detail::note_missing_gram(notes, calib);
    detail::note_damping(notes, factor);
    swept_layer made = config_.share >= 0.0 ? with_share(w, factor.upper.view(), ctx)
                                            : swept(w, factor.upper.view(), relative_threshold_of(w, factor.upper.view()), ctx);
    return {{{}, keep_outliers(std::move(made.codes), made.rounded.view(), made.outliers, number_format::fp16, ctx)},
            {},
            {},
            std::move(notes)};
  }

  [[nodiscard]] std::string describe() const {
    std::string const apart = config_.share >= 0.0 ? message(100 * config_.share, "% apart")
                                                   : message("apart beyond ", config_.relative_threshold, " of the variance");
    return message("SpQR, ", std::string(values_.describe()), ", damping ", config_.damping, ", ", apart,
                   config_.leave_one_out ? "" : ", groups fitted to all weights");
  }

private:
  /// What a sweep makes of W.
  struct swept_layer {
    typename Grid::codes_type codes;
    matrix<float> rounded;
    mask outliers;
  };

  [[nodiscard]] swept_layer swept(matrix_view<float const> w, matrix_view<float const> upper, float threshold,
                                  context const& ctx) const {
    swept_layer made{values_.empty(w.rows(), w.cols()), matrix<float>(w), mask(w.rows(), w.cols())};
    values_.fit(made.codes, w, ctx);
    feedback_options const options{.refit_groups = true, .outlier_threshold = threshold, .outliers = &made.outliers};
    if (config_.leave_one_out && detail::is_finite(threshold))
      feed_back(made.rounded.view(), upper, detail::leave_one_out<Grid>(values_, upper, threshold), made.codes, nullptr,
                options, ctx);
    else
      feed_back(made.rounded.view(), upper, values_, made.codes, nullptr, options, ctx);
    return made;
  }

  /// The sweep with the most outliers that are no more than the share. Groups fitted without likely outliers clip, so that more
  /// weights exceed a threshold than in a sweep without outliers, where the search begins.
  template <std::same_as<float> T>
  [[nodiscard]] swept_layer with_share(matrix_view<T const> w, matrix_view<float const> upper, context const& ctx) const {
    constexpr float never = std::numeric_limits<float>::infinity();
    auto const wanted = static_cast<index_t>(config_.share * static_cast<double>(w.size()));
    swept_layer best = swept(w, upper, never, ctx);
    if (wanted == 0) return best;
    matrix<float> errors = detail::sweep_errors(w, best.rounded.view(), upper, ctx);
    if (wanted >= errors.size()) return swept(w, upper, 0.0f, ctx);
    std::nth_element(errors.data(), errors.data() + wanted, errors.data() + errors.size(),
                     [](float a, float b) { return std::abs(a) > std::abs(b); });
    double low = 0, threshold = std::pow(static_cast<double>(errors.data()[wanted]), 2.0),
           high = 0; // too many below, few above
    index_t most = 0;
    constexpr int sweeps = 7;
    for (int k = 0; k < sweeps && threshold > 0.0 && 10 * most < 9 * wanted; ++k) {
      swept_layer made = swept(w, upper, static_cast<float>(threshold), ctx);
      index_t const count = made.outliers.count();
      (count > wanted ? low : high) = threshold;
      if (count <= wanted && count > most) {
        most = count;
        best = std::move(made);
      }
      threshold = high == 0.0 ? 4 * low : low == 0.0 ? high / 4 : std::sqrt(low * high);
    }
    return best;
  }

  [[nodiscard]] float relative_threshold_of(matrix_view<float const> w, matrix_view<float const> upper) const {
    if (w.rows() < 2 || w.cols() == 0) return std::numeric_limits<float>::infinity(); // one number has no variance
    double total = 0;
    for (index_t j = 0; j < w.cols(); ++j) {
      double mean = 0, square = 0;
      for (index_t i = 0; i < w.rows(); ++i) mean += static_cast<double>(w(i, j)) / static_cast<double>(w.rows());
      for (index_t i = 0; i < w.rows(); ++i) {
        double const off = static_cast<double>(w(i, j)) - mean;
        square += off * off;
      }
      auto const pivot = static_cast<double>(upper(j, j));
      total += square / static_cast<double>(w.rows() - 1) / (pivot * pivot);
    }
    return static_cast<float>(config_.relative_threshold * total / static_cast<double>(w.cols()));
  }

  Grid values_;
  spqr_config config_;
};

static_assert(joint_compressor<spqr_compressor<>>);

} // namespace SLIM_ABI
} // namespace slim
