#pragma once
/// @file
/// Error feedback into column groups of different widths: SliM-LLM (arXiv 2405.14917) with a balanced allocation, "2/4/16-bit
/// in a weight matrix" (arXiv 2311.16442) with more bits for a share of the groups and outliers in the others.

#include "slim/allocation/bit_allocator.hpp"
#include "slim/joint/error_feedback.hpp"
#include "slim/joint/outlier_fit.hpp"
#include "slim/quantization/codes/with_outliers.hpp"
#include "slim/quantization/grids/super_block_grid.hpp"
#include "slim/saliency/saliency.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Settings of `mixed_bits`.
struct mixed_bits_config {
  double damping = 0.01; ///< of the mean diagonal of H
  /// Share of all weights that is stored apart in 16 bits, chosen in the groups of the fewest bits by what a sweep without them
  /// loses, (w - q)^2 / u_jj^2.
  double outlier_share = 0.0;

  friend bool operator==(mixed_bits_config const&, mixed_bits_config const&) = default;
};

/// A group of columns (of all rows) is an item of the allocator: its score is the mean of the saliency over the group, its loss
/// at a width is that of rounding it to nearest, tr(E H E^T); the loss of a whole allocation counts what groups do to each
/// other. Then error feedback runs into groups of the widths chosen, each fitted when the sweep reaches it. The grid has groups
/// and `group_bits` (uniform_grid, super_block_grid).
template <saliency Saliency, bit_allocator Allocator, grid Grid = super_block_grid>
class mixed_bits {
public:
  /// @throws config_error on a damping that is not positive, a share that is not in [0, 1], a grid that cannot be.
  explicit mixed_bits(Saliency ranking, Allocator allocator, Grid values = {}, mixed_bits_config config = {})
      : ranking_(std::move(ranking)), allocator_(std::move(allocator)), values_(std::move(values)), config_(config) {
    if (!(config.damping > 0.0)) throw config_error(message("mixed_bits: damping ", config.damping, ", needed is > 0"));
    if (!(config.outlier_share >= 0.0 && config.outlier_share <= 1.0))
      throw config_error(message("mixed_bits: outlier_share ", config.outlier_share, ", possible are 0 to 1"));
    (void)values_.empty(0, 0); // checks the grid
    for (double const width : allocator_.widths())
      if (width != std::floor(width) || width < 1.0 || width > 8.0)
        throw config_error(message("mixed_bits: a width of ", width, " bits, possible are 1 to 8"));
  }

  [[nodiscard]] mixed_bits_config const& config() const noexcept { return config_; }

  /// @throws shape_error if W (d_out x d_in) and the calibration disagree on d_in; config_error before the first token; as the
  /// saliency and the allocator.
  template <std::same_as<float> T>
  [[nodiscard]] joint_result<none, with_outliers<typename Grid::codes_type>>
  compress(matrix_view<T const> w, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, w.cols(), "mixed_bits");
    matrix<T> const h = hessian(calib, config_.damping, ctx);
    std::vector<std::string> notes;
    detail::note_missing_gram(notes, calib);
    Grid const grid = with_widths(w, allocated(w, calib, h.view(), ctx));
    auto const factor = factor_for_feedback(h.view(), ctx);
    detail::note_damping(notes, factor);
    mask apart(w.rows(), w.cols());
    matrix<float> rounded(w);
    auto codes = swept(grid, rounded, factor.upper.view(), apart, ctx);
    if (config_.outlier_share > 0.0 && !w.empty()) {
      mask const narrow = narrowest_of(codes);
      apart = detail::largest_errors(detail::sweep_errors(w, rounded.view(), factor.upper.view(), ctx).view(),
                                     config_.outlier_share, &narrow);
      rounded = matrix<float>(w);
      codes = swept(grid, rounded, factor.upper.view(), apart, ctx);
    }
    return {{{}, keep_outliers(std::move(codes), rounded.view(), apart, number_format::fp16, ctx)}, {}, {}, std::move(notes)};
  }

  [[nodiscard]] std::string describe() const {
    return message("error feedback, ", std::string(values_.describe()), "; ", std::string(allocator_.describe()), " by ",
                   std::string(ranking_.describe()), "; damping ", config_.damping,
                   config_.outlier_share > 0.0 ? message(", ", 100 * config_.outlier_share, "% apart") : "");
  }

private:
  /// The grid with one width for all groups.
  [[nodiscard]] Grid with_width(double width) const {
    Grid grid = values_;
    grid.bits = static_cast<int>(width);
    grid.group_bits.clear();
    return grid;
  }

  /// The grid with the widths chosen.
  [[nodiscard]] Grid with_widths(matrix_view<float const> w, std::vector<index_t> const& chosen) const {
    std::vector<double> const widths = allocator_.widths();
    Grid grid = with_width(widths.back());
    if (w.empty()) return grid;
    for (index_t const k : chosen) grid.group_bits.push_back(static_cast<std::uint8_t>(widths[static_cast<std::size_t>(k)]));
    return grid;
  }

  [[nodiscard]] std::vector<index_t> allocated(matrix_view<float const> w, calibration const& calib, matrix_view<float const> h,
                                               context const& ctx) const {
    if (w.empty()) return {};
    bit_offers offers;
    offers.widths = allocator_.widths();
    auto const first = with_width(offers.widths.front());
    index_t const wide = first.group_cols(first.empty(w.rows(), w.cols()));
    auto const score = ranking_.prepare(w, calib, ctx);
    for (index_t j = 0; j < w.cols(); j += wide) {
      index_t const width = std::min(wide, w.cols() - j);
      double sum = 0;
      for (index_t i = 0; i < w.rows(); ++i)
        for (index_t k = j; k < j + width; ++k) sum += static_cast<double>(score(i, k));
      offers.sizes.push_back(static_cast<double>(w.rows() * width));
      offers.scores.push_back(sum / offers.sizes.back());
    }
    std::vector<matrix<float>> errors;
    for (double const width : offers.widths) errors.push_back(rounding_error(w, with_width(width), ctx));
    offers.losses = matrix<double>(offers.count(), std::ssize(offers.widths));
    for (index_t g = 0; g < offers.count(); ++g)
      for (index_t k = 0; k < offers.losses.cols(); ++k) {
        index_t const begin = g * wide, width = std::min(wide, w.cols() - begin);
        offers.losses(g, k) = hessian_energy(errors[static_cast<std::size_t>(k)].view().block(0, begin, w.rows(), width),
                                             h.block(begin, begin, width, width), ctx);
      }
    offers.loss_of = [&](std::span<index_t const> chosen) {
      matrix<float> error(w.rows(), w.cols());
      for (index_t i = 0; i < w.rows(); ++i)
        for (index_t j = 0; j < w.cols(); ++j)
          error(i, j) = errors[static_cast<std::size_t>(chosen[static_cast<std::size_t>(j / wide)])](i, j);
      return hessian_energy(error.view(), h, ctx);
    };
    return allocator_.allocate(offers);
  }

  /// W less what rounding to nearest makes of it.
  [[nodiscard]] static matrix<float> rounding_error(matrix_view<float const> w, Grid const& grid, context const& ctx) {
    auto codes = grid.empty(w.rows(), w.cols());
    grid.fit(codes, w, ctx);
    codes.encode(w, ctx);
    matrix<float> error(w.rows(), w.cols());
    codes.dequantize_into(error.view(), ctx);
    subtract_into(w, error.view(), error.view(), ctx);
    return error;
  }

  [[nodiscard]] static auto swept(Grid const& grid, matrix<float>& w, matrix_view<float const> upper, mask const& apart,
                                  context const& ctx) {
    auto codes = grid.empty(w.rows(), w.cols());
    grid.fit(codes, w.view(), ctx);
    feedback_options const options{.refit_groups = true, .unrounded = &apart};
    feed_back(w.view(), upper, detail::fit_beside<Grid>(grid, apart), codes, nullptr, options, ctx);
    return codes;
  }

  /// Weights of the groups of the fewest bits.
  [[nodiscard]] static mask narrowest_of(typename Grid::codes_type const& codes) {
    int const least = *std::min_element(codes.group_bits.begin(), codes.group_bits.end());
    index_t const wide = codes.block.cols_of(codes.cols());
    mask narrow(codes.rows(), codes.cols());
    for (index_t i = 0; i < codes.rows(); ++i)
      for (index_t j = 0; j < codes.cols(); ++j) narrow.keep(i, j, codes.bits_of(j / wide) == least);
    return narrow;
  }

  Saliency ranking_;
  Allocator allocator_;
  Grid values_;
  mixed_bits_config config_;
};

} // namespace SLIM_ABI
} // namespace slim
