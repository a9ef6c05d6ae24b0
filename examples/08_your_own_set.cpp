// A set of admissible weights of your own: the joint solver alternates it with a low-rank part, and error feedback runs on it,
// without a line of theirs knowing it. The set: every row is a number times a vector of powers of two (0, +-1, +-2, +-4), so
// that products need only shifts and adds (APoT-like, arXiv 1909.13144). The layer is synthetic: heavy-tailed weights,
// correlated inputs.

#include <slim/slim.hpp>
#include <slim/testing/joint_laws.hpp>

#include <cmath>
#include <cstdio>

namespace {

using slim::index_t;

/// Codes: a signed exponent per weight, a scale per row.
struct shift_codes {
  slim::matrix<std::int8_t> levels; ///< 0, +-1, +-2, +-4
  std::vector<float> scales;

  index_t rows() const { return levels.rows(); }
  index_t cols() const { return levels.cols(); }
  double stored_bits(slim::mask const*) const { // 3 bits say which of seven levels, 32 a scale
    return 3.0 * static_cast<double>(levels.size()) + 32.0 * static_cast<double>(scales.size());
  }
  void dequantize_into(slim::matrix_view<float> values, slim::context const& = {}) const {
    if (values.rows() != rows() || values.cols() != cols())
      throw slim::shape_error("shift_codes: the destination has another shape");
    for (index_t i = 0; i < rows(); ++i)
      for (index_t j = 0; j < cols(); ++j)
        values(i, j) = scales[static_cast<std::size_t>(i)] * static_cast<float>(levels(i, j));
  }
};

/// The nearest of 0, +-1, +-2, +-4.
std::int8_t nearest_level(float x) {
  float const size = std::abs(x);
  int const level = size < 0.5f ? 0 : size < 1.5f ? 1 : size < 3.0f ? 2 : 4;
  return static_cast<std::int8_t>(x < 0.0f ? -level : level);
}

/// All matrices of such rows. It is `sweepable`: docs/concepts/sweepable.md.
class shift_set {
public:
  using mask_type = slim::none; // every weight is kept
  using codes_type = shift_codes;
  using element = slim::sparse_codes<mask_type, codes_type>;

  /// A scale per row that reaches its largest weight, and every weight to the nearest level.
  element start(slim::matrix_view<float const> v, slim::calibration const&, slim::context const& = {}) const {
    element p{{}, {slim::matrix<std::int8_t>(v.rows(), v.cols()), std::vector<float>(static_cast<std::size_t>(v.rows()))}};
    fit_scales(v, p);
    for (index_t i = 0; i < v.rows(); ++i)
      for (index_t j = 0; j < v.cols(); ++j) p.codes.levels(i, j) = level_of(v(i, j), i, p);
    return p;
  }

  /// Error feedback, plainly: what a column loses goes to the columns after it.
  void sweep(slim::matrix_view<float const> v, slim::matrix_view<float const> upper, element& p,
             slim::feedback_options const& = {}, slim::context const& ctx = {}) const {
    fit_scales(v, p);
    slim::matrix<float> w(v);
    ctx.parallel_for(w.rows(), 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < w.cols(); ++j) {
          p.codes.levels(i, j) = level_of(w(i, j), i, p);
          float const error = (w(i, j) - value_of(i, j, p)) / upper(j, j);
          for (index_t k = j + 1; k < w.cols(); ++k) w(i, k) -= error * upper(j, k);
        }
    });
  }

  /// One sweep of coordinate descent on ||V - S||_H: each level becomes the best one with all others fixed.
  /// `gradient` is (V - S) H and stays that.
  void refine(slim::matrix_view<float> gradient, slim::matrix_view<float const> h, element& p,
              slim::context const& ctx = {}) const {
    ctx.parallel_for(gradient.rows(), 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i)
        for (index_t j = 0; j < gradient.cols(); ++j) improve(gradient.row(i), h, p, i, j);
    });
  }

  /// Every scale to where ||V - S||_H of its row is least.
  void refit(slim::matrix_view<float> gradient, slim::matrix_view<float const> h, element& p, slim::context const& = {}) const {
    std::vector<double> image(static_cast<std::size_t>(h.rows())); // of the row's levels under H
    for (index_t i = 0; i < gradient.rows(); ++i) {
      double slope = 0, bend = 0;
      for (index_t k = 0; k < h.rows(); ++k) {
        double sum = 0;
        for (index_t j = 0; j < h.rows(); ++j) sum += static_cast<double>(h(j, k)) * p.codes.levels(i, j);
        image[static_cast<std::size_t>(k)] = sum;
        slope += static_cast<double>(gradient(i, k)) * p.codes.levels(i, k);
        bend += sum * p.codes.levels(i, k);
      }
      float& scale = p.codes.scales[static_cast<std::size_t>(i)];
      auto const moved = static_cast<float>(static_cast<double>(scale) + (bend > 0.0 ? slope / bend : 0.0));
      if (!(moved > 0.0f) || !std::isfinite(moved)) continue;
      double const by = static_cast<double>(moved) - static_cast<double>(scale);
      for (index_t k = 0; k < h.rows(); ++k) gradient(i, k) -= static_cast<float>(by * image[static_cast<std::size_t>(k)]);
      scale = moved;
    }
  }

  index_t group() const { return 1; } // no mask ties columns together
  std::string describe() const { return "0, +-1, +-2, +-4 times a scale per row"; }

private:
  static void fit_scales(slim::matrix_view<float const> v, element& p) {
    for (index_t i = 0; i < v.rows(); ++i) {
      float largest = 0;
      for (index_t j = 0; j < v.cols(); ++j) largest = std::max(largest, std::abs(v(i, j)));
      p.codes.scales[static_cast<std::size_t>(i)] = largest / 4;
    }
  }
  static std::int8_t level_of(float w, index_t i, element const& p) {
    float const scale = p.codes.scales[static_cast<std::size_t>(i)];
    return scale > 0.0f ? nearest_level(w / scale) : std::int8_t{0};
  }
  static float value_of(index_t i, index_t j, element const& p) {
    return p.codes.scales[static_cast<std::size_t>(i)] * static_cast<float>(p.codes.levels(i, j));
  }
  static void improve(float* gradient, slim::matrix_view<float const> h, element& p, index_t i, index_t j) {
    double const hjj = static_cast<double>(h(j, j)), before = static_cast<double>(value_of(i, j, p));
    float const ideal = static_cast<float>(before + static_cast<double>(gradient[j]) / hjj);
    std::int8_t const level = level_of(ideal, i, p), old = p.codes.levels(i, j);
    p.codes.levels(i, j) = level;
    double const moved = static_cast<double>(value_of(i, j, p)) - before;
    if (moved * (hjj * moved - 2 * static_cast<double>(gradient[j])) >= 0.0) { // it would not help
      p.codes.levels(i, j) = old;
      return;
    }
    for (index_t k = 0; k < h.rows(); ++k) gradient[k] -= static_cast<float>(moved * static_cast<double>(h(j, k)));
  }
};

static_assert(slim::sweepable<shift_set>);

} // namespace

int main() {
  index_t const rows = 64, cols = 128;
  slim::matrix<float> W(rows, cols), X(512, cols);
  for (index_t k = 0; k < W.size(); ++k) {
    double const z = slim::random_normal(1, static_cast<std::uint64_t>(k));
    W.data()[k] = static_cast<float>(0.02 * z * (1 + 0.3 * z * z)); // heavy tails
  }
  for (index_t t = 0; t < X.rows(); ++t)
    for (index_t j = 0; j < cols; ++j) {
      auto const fresh = static_cast<float>(slim::random_normal(2, static_cast<std::uint64_t>(t * cols + j)));
      X(t, j) = j == 0 ? fresh : 0.6f * X(t, j - 1) + 0.8f * fresh;
    }
  slim::calibration calib(cols, {.gram = true});
  calib.observe(X);

  auto const fed = slim::compress(W, calib, slim::chain(slim::error_feedback(shift_set{})));
  auto const joint =
      slim::compress(W, calib, slim::chain(slim::joint_slr(shift_set{}, {.rank = {.number = 8}, .iterations = 4})));
  for (auto const* const report : {&fed.report, &joint.report})
    std::printf("%-75s output error %.4f, %.2f bits per weight\n", report->last().step.substr(0, 75).c_str(),
                report->last().output_error, report->last().bits_per_weight);

  // The laws that the library's own sets are held to, on matrices that break code.
  std::string const broken = slim::testing::describe(slim::testing::check_sweepable(shift_set{}));
  std::printf("laws: %s\n", broken.empty() ? "hold" : broken.c_str());
  return broken.empty() && joint.report.last().output_error < fed.report.last().output_error ? 0 : 1;
}
