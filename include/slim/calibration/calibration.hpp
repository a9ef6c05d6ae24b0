#pragma once
/// @file
/// `calibration`: what the inputs of a linear layer looked like, as streaming, mergeable statistics. Activations are seen
/// once, batch by batch, and not kept, except for a sample of some tokens on request. Everything downstream (saliencies, step
/// searches, adapter solvers, reports) reads from here.

#include "slim/calibration/channel_moments.hpp"
#include "slim/calibration/token_sample.hpp"
#include "slim/core/context.hpp"
#include "slim/core/finite.hpp"
#include "slim/core/matrix_traits.hpp"
#include "slim/linalg/gemm.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Which statistics to collect beyond the moments of single channels.
struct calibration_config {
  bool gram = false;             ///< also X^T X: d_in * d_in doubles, tokens * d_in^2 multiply-adds
  index_t outputs = 0;           ///< also X^T Y with targets Y of so many columns: d_in * outputs doubles
  index_t samples = 0;           ///< also so many of the tokens themselves (all, if fewer come): samples * d_in floats
  std::uint64_t sample_seed = 0; ///< of their choice
  /// Index of the first token in its text. Calibrations of the parts of one text, each told where its part begins, and merged
  /// in the order of the text, keep the sample that one calibration of the whole text keeps.
  std::uint64_t first_token = 0;
  /// Machines that see the same tokens split the products: each adds up its share of the numbers of X^T X and X^T Y, and the
  /// others stay 0. Such a calibration is only good for being saved: calibration_bytes.hpp says how shares become a whole.
  work_share share = all_work;

  friend bool operator==(calibration_config const&, calibration_config const&) = default;
};

/// Whether two calibrations keep the same statistics: all of their configurations but `first_token` is equal.
[[nodiscard]] inline bool same_statistics(calibration_config a, calibration_config const& b) {
  a.first_token = b.first_token;
  return a == b;
}

/// What a calibration may not know, because it was made from sums that do not tell it. Sums of squares are always known.
enum class statistic : unsigned { mean, mean_abs, max_abs, sample_peak_mean_abs };

[[nodiscard]] constexpr std::string_view name_of(statistic what) {
  constexpr std::string_view names[] = {"mean", "mean_abs", "max_abs", "sample_peak_mean_abs"};
  return names[static_cast<std::size_t>(what)];
}

namespace detail {
struct calibration_bytes; // calibration_bytes.hpp
} // namespace detail

/// Statistics of X (tokens x d_in), one column per input channel of a layer.
///
/// **Numerics** Sums are double, tokens are added in order, so moments do not depend on how tokens are cut into batches nor
/// on the number of threads. The Gram matrix adds float products of panels of 256 tokens in double (linalg/gemm.hpp); it
/// does not depend on the number of threads, and on the cut into batches only by float rounding inside a panel. The sample
/// depends on neither, bit for bit.
class calibration {
public:
  /// @throws shape_error if channels or outputs < 0; config_error if samples < 0, or if there is no such share.
  explicit calibration(index_t channels, calibration_config config = {})
      : config_(config), channels_(checked(channels)), sum_(size()), sum_abs_(size()), sum_square_(size()), max_abs_(size()),
        peak_mean_abs_(size()) {
    if (config_.outputs < 0) throw shape_error(message("calibration: ", config_.outputs, " outputs"));
    if (config_.samples < 0) throw config_error(message("calibration: a sample of ", config_.samples, " tokens"));
    if (config_.share.of < 1 || config_.share.number < 0 || config_.share.number >= config_.share.of)
      throw config_error(message("calibration: share ", config_.share.number, " of ", config_.share.of));
    if (config_.gram) gram_ = matrix<double>(channels, channels);
    sample_ = detail::token_sample({}, matrix<float>(0, channels));
    cross_ = matrix<double>(channels, config_.outputs);
  }

  /// What a Gram matrix X^T X (d_in x d_in, summed over `tokens` tokens) tells. All members of `statistic` are unknown; dead
  /// channels are those of sum 0. The two triangles may differ by rounding; their mean is taken.
  /// @throws shape_error if it is not square; nonfinite_error naming the first element that is not finite; config_error if it
  /// cannot be a Gram matrix of so many tokens: a negative number on the diagonal, |g_ij| above sqrt(g_ii g_jj), triangles
  /// that differ, numbers without tokens.
  [[nodiscard]] static calibration from_gram(matrix_view<double const> gram, index_t tokens) {
    detail::check_gram(gram, tokens);
    calibration out(gram.rows(), {.gram = true});
    out.tokens_ = tokens;
    for (index_t i = 0; i < gram.rows(); ++i) {
      for (index_t j = 0; j < gram.cols(); ++j) out.gram_(i, j) = (gram(i, j) + gram(j, i)) / 2;
      out.sum_square_[static_cast<std::size_t>(i)] = gram(i, i);
    }
    out.forget(~0u);
    return out;
  }

  /// What moments of channels over `tokens` tokens tell, without a Gram matrix. What is left empty is unknown.
  /// @throws shape_error if two members are of different lengths; nonfinite_error naming the first number that is not finite;
  /// config_error if they cannot be moments of so many tokens: negative, numbers without tokens, or larger than the sum of
  /// squares allows, as means in place of sums are.
  [[nodiscard]] static calibration from_moments(channel_moments moments, index_t tokens) {
    detail::check_moments(moments, tokens);
    calibration out(static_cast<index_t>(moments.sum_square.size()));
    out.tokens_ = tokens;
    unsigned unknown = 0;
    auto const take = [&](statistic what, auto& known, auto& given) {
      if (given.empty()) unknown |= bit(what);
      known = std::move(given);
    };
    out.sum_square_ = std::move(moments.sum_square);
    take(statistic::mean, out.sum_, moments.sum);
    take(statistic::mean_abs, out.sum_abs_, moments.sum_abs);
    take(statistic::max_abs, out.max_abs_, moments.max_abs);
    take(statistic::sample_peak_mean_abs, out.peak_mean_abs_, moments.sample_peak_mean_abs);
    out.forget(unknown);
    return out;
  }

  /// Adds a batch X (tokens x d_in); any matrix_like. One call is one sample (a sequence) for sample_peak_mean_abs().
  /// @throws shape_error if X has another number of channels; nonfinite_error on NaN or infinity unless the context says
  /// otherwise; cancelled if it is stopped before the batch begins to be added, for a batch is added whole or not at all. The
  /// calibration is unchanged when it throws. What it does not know (knows()) it does not learn by this.
  template <class M>
  void observe(M const& x, context const& ctx = {}) {
    static_assert(matrix_like<M const>, "slim: calibration::observe takes matrices of real numbers.");
    if constexpr (matrix_like<M const>) {
      detail::float_rows<M> const rows(x); // no copy where X is rows of floats
      observe(rows.view(), ctx);
    }
  }

  /// The same without a copy, for row-major floats.
  void observe(matrix_view<float const> x, context const& ctx = {}) {
    if (config_.outputs != 0)
      throw config_error(message("calibration::observe: ", config_.outputs, " outputs are to be observed with X"));
    observe(x, matrix_view<float const>(nullptr, x.rows(), 0, 0), ctx);
  }

  /// Adds a batch X with the outputs Y (tokens x outputs) that the layer should have given: see target_weight().
  /// @throws as observe(X), and shape_error unless Y has X's tokens and the configured number of outputs.
  template <class M, class N>
    requires matrix_like<M const> && matrix_like<N const>
  void observe(M const& x, N const& y, context const& ctx = {}) {
    detail::float_rows<M> const inputs(x);
    detail::float_rows<N> const targets(y);
    observe(inputs.view(), targets.view(), ctx);
  }
  void observe(matrix_view<float const> x, matrix_view<float const> y, context const& ctx = {}) { observe_all(x, y, {}, ctx); }

  /// The same, where token t counts `weights[t]` times in all sums: x_t x_t^T, x_t y_t^T, x_tj, |x_tj|, x_tj^2. Weights of mean
  /// 1 keep means what they are; weights of 1 change no bit. Largest magnitudes and the sample regard all tokens alike. Weights
  /// that grow with what the end loss loses by a token's error: training/fisher.hpp.
  /// @throws as observe(X, Y), and shape_error unless there is one weight per token, config_error on one that is negative or
  /// not finite.
  void observe(matrix_view<float const> x, matrix_view<float const> y, std::span<float const> weights,
               context const& ctx = {}) {
    if (std::ssize(weights) != x.rows())
      throw shape_error(message("calibration::observe: ", weights.size(), " weights for ", x.rows(), " tokens"));
    for (std::size_t t = 0; t < weights.size(); ++t)
      if (!detail::is_finite(weights[t]) || weights[t] < 0.0f)
        throw config_error(message("calibration::observe: the weight of token ", t, " is ", weights[t]));
    observe_all(x, y, weights, ctx);
  }

  /// Adds what another calibration of the same layer has seen, and what it holds out: its tokens come after the tokens of this
  /// one. Sums are added in that order, so their bits depend on it. The samples become the sample of both streams: bit for bit
  /// that of one calibration that observed both, if `other.config().first_token` is this one's first_token + tokens(). With
  /// another first_token each token still has the same chance to be kept, but tokens of the same index go in or out together.
  /// What one of the two does not know (knows()) is unknown afterwards.
  /// @throws shape_error, config_error on a mismatch; the calibration is unchanged then.
  void merge(calibration const& other) {
    if (other.channels_ != channels_)
      throw shape_error(message("calibration::merge: ", other.channels_, " channels into ", channels_));
    if (!same_statistics(other.config_, config_))
      throw config_error("calibration::merge: the two sides collect different statistics (Gram matrix, outputs or samples)");
    held_out_ptr held_out = joined(held_out_, other.held_out_);
    if (config_.samples > 0) sample_.append(other.sample_, config_.samples, tokens_);
    forget(other.unknown_);
    for (std::size_t j = 0; j < size(); ++j) {
      if (knows(statistic::mean)) sum_[j] += other.sum_[j];
      if (knows(statistic::mean_abs)) sum_abs_[j] += other.sum_abs_[j];
      sum_square_[j] += other.sum_square_[j];
      if (knows(statistic::max_abs)) max_abs_[j] = std::max(max_abs_[j], other.max_abs_[j]);
      if (knows(statistic::sample_peak_mean_abs)) peak_mean_abs_[j] = std::max(peak_mean_abs_[j], other.peak_mean_abs_[j]);
    }
    for (index_t k = 0; k < gram_.size(); ++k) gram_.data()[k] += other.gram_.data()[k];
    for (index_t k = 0; k < cross_.size(); ++k) cross_.data()[k] += other.cross_.data()[k];
    tokens_ += other.tokens_;
    zeroed_ += other.zeroed_;
    held_out_ = std::move(held_out);
  }

  [[nodiscard]] index_t channels() const noexcept { return channels_; }
  [[nodiscard]] index_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] calibration_config const& config() const noexcept { return config_; }
  /// Activations that were NaN or infinite and taken as 0 (context::on_nonfinite == zero).
  [[nodiscard]] index_t zeroed_activations() const noexcept { return zeroed_; }

  /// Whether a statistic is there: always, unless the calibration comes from sums (from_gram(), from_moments()). The four
  /// members of its name throw config_error otherwise, so that nobody works with a 0 that was never observed.
  [[nodiscard]] bool knows(statistic what) const noexcept { return (unknown_ & bit(what)) == 0; }

  /// Mean over tokens of x_j, |x_j|, x_j^2; 0 before the first token.
  [[nodiscard]] std::vector<double> mean() const { return per_token(known(statistic::mean, sum_)); }
  [[nodiscard]] std::vector<double> mean_abs() const { return per_token(known(statistic::mean_abs, sum_abs_)); }
  [[nodiscard]] std::vector<double> mean_square() const { return per_token(sum_square_); }
  /// Largest |x_j| of any token.
  [[nodiscard]] std::vector<float> const& max_abs() const { return known(statistic::max_abs, max_abs_); }
  /// Largest over batches of the batch's mean |x_j| (the statistic of L2QER, arXiv 2402.02446).
  [[nodiscard]] std::vector<double> const& sample_peak_mean_abs() const {
    return known(statistic::sample_peak_mean_abs, peak_mean_abs_);
  }

  /// Channels whose activation was 0 in every token.
  [[nodiscard]] index_t dead_channels() const {
    if (tokens_ == 0) return 0;
    if (!knows(statistic::max_abs)) return static_cast<index_t>(std::count(sum_square_.begin(), sum_square_.end(), 0.0));
    return static_cast<index_t>(std::count(max_abs_.begin(), max_abs_.end(), 0.0f));
  }

  [[nodiscard]] bool has_gram() const noexcept { return config_.gram; }
  /// X^T X over all tokens (d_in x d_in, symmetric, not divided by tokens()). @throws config_error if not collected, or
  /// only in part (calibration_config::share).
  [[nodiscard]] matrix_view<double const> gram() const {
    if (!config_.gram) throw config_error("calibration::gram: not collected; construct with {.gram = true}");
    if (!config_.share.whole())
      throw config_error(
          message("calibration::gram: share ", config_.share.number, " of ", config_.share.of, " is not all of it"));
    return gram_.view();
  }

  /// The tokens kept, (min(config().samples, tokens()), d_in), in the order in which they were seen: a uniform choice without
  /// repetition by (config().sample_seed, index of the token), see detail::token_sample. No rows unless asked for.
  [[nodiscard]] matrix_view<float const> samples() const noexcept { return sample_.rows().view(); }

  /// X^T Y over all tokens (d_in x outputs, not divided by tokens()); no columns unless outputs were asked for.
  [[nodiscard]] matrix_view<double const> cross() const noexcept { return cross_.view(); }

  /// The same statistics and samples for some of the outputs: linears with one input share a calibration, stacked side by side
  /// in Y.
  /// @throws shape_error if there are no such outputs.
  [[nodiscard]] calibration for_outputs(index_t first, index_t count) const {
    calibration part = *this;
    part.cross_ = matrix<double>(cross_.view().block(0, first, channels_, count));
    part.config_.outputs = count;
    return part;
  }

  /// Statistics of tokens that nothing is fitted to, for judging solutions and for reports; null if there are none.
  [[nodiscard]] calibration const* held_out() const noexcept { return held_out_.get(); }
  /// @throws shape_error if it is of another layer; config_error if it holds out tokens itself.
  void hold_out(calibration other) {
    if (other.channels_ != channels_)
      throw shape_error(message("calibration::hold_out: ", other.channels_, " channels, expected ", channels_));
    if (other.held_out_) throw config_error("calibration::hold_out: tokens held out hold out none themselves");
    held_out_ = std::make_shared<calibration const>(std::move(other));
  }

  /// What a calibration of Y has seen where this one saw X, if y_j = factors[j] * x_{from[j]}: channels in another order, and
  /// scaled (no factors: 1 each, and every number is copied exactly). @throws shape_error if a channel does not exist or the
  /// factors are not one per channel; config_error if a factor is not finite.
  [[nodiscard]] calibration remapped(std::span<index_t const> from, std::span<double const> factors = {}) const {
    check_map(from, factors);
    calibration out(static_cast<index_t>(from.size()), config_);
    out.forget(unknown_);
    auto const factor = [&](std::size_t j) { return factors.empty() ? 1.0 : factors[j]; };
    for (std::size_t j = 0; j < from.size(); ++j) {
      auto const x = static_cast<std::size_t>(from[j]);
      double const f = factor(j);
      if (knows(statistic::mean)) out.sum_[j] = f * sum_[x];
      if (knows(statistic::mean_abs)) out.sum_abs_[j] = std::abs(f) * sum_abs_[x];
      out.sum_square_[j] = f * f * sum_square_[x];
      if (knows(statistic::max_abs)) out.max_abs_[j] = static_cast<float>(std::abs(f) * static_cast<double>(max_abs_[x]));
      if (knows(statistic::sample_peak_mean_abs)) out.peak_mean_abs_[j] = std::abs(f) * peak_mean_abs_[x];
      for (index_t k = 0; k < config_.outputs; ++k) out.cross_(static_cast<index_t>(j), k) = f * cross_(from[j], k);
      for (std::size_t k = 0; config_.gram && k < from.size(); ++k)
        out.gram_(static_cast<index_t>(j), static_cast<index_t>(k)) = f * factor(k) * gram_(from[j], from[k]);
    }
    out.tokens_ = tokens_;
    out.zeroed_ = zeroed_;
    matrix<float> samples(sample_.rows().rows(), out.channels_);
    for (index_t t = 0; t < samples.rows(); ++t)
      for (std::size_t j = 0; j < from.size(); ++j)
        samples(t, static_cast<index_t>(j)) = static_cast<float>(factor(j) * static_cast<double>(sample_.rows()(t, from[j])));
    out.sample_ = detail::token_sample(sample_.tickets(), std::move(samples));
    if (held_out_) out.hold_out(held_out_->remapped(from, factors));
    return out;
  }

private:
  friend struct detail::calibration_bytes;

  [[nodiscard]] static constexpr unsigned bit(statistic what) noexcept { return 1u << static_cast<unsigned>(what); }
  static constexpr unsigned all_statistics = 15;

  /// Drops statistics.
  void forget(unsigned what) {
    unknown_ |= what & all_statistics;
    if (!knows(statistic::mean)) sum_.clear();
    if (!knows(statistic::mean_abs)) sum_abs_.clear();
    if (!knows(statistic::max_abs)) max_abs_.clear();
    if (!knows(statistic::sample_peak_mean_abs)) peak_mean_abs_.clear();
  }

  template <class Numbers>
  [[nodiscard]] Numbers const& known(statistic what, Numbers const& numbers) const {
    if (!knows(what))
      throw config_error(
          message("calibration::", name_of(what), ": not known; the calibration was made from sums that do not tell it"));
    return numbers;
  }

  void check_map(std::span<index_t const> from, std::span<double const> factors) const {
    if (!factors.empty() && factors.size() != from.size())
      throw shape_error(message("calibration::remapped: ", factors.size(), " factors for ", from.size(), " channels"));
    for (index_t const x : from)
      if (x < 0 || x >= channels_)
        throw shape_error(message("calibration::remapped: channel ", x, " of ", channels_, " channels"));
    for (double const f : factors)
      if (!detail::is_finite(f)) throw config_error(message("calibration::remapped: factor ", f));
  }

  using held_out_ptr = std::shared_ptr<calibration const>;

  /// What two calibrations hold out, in this order.
  static held_out_ptr joined(held_out_ptr const& first, held_out_ptr const& second) {
    if (!first || !second) return first ? first : second;
    auto both = std::make_shared<calibration>(*first);
    both->merge(*second);
    return both;
  }

  static index_t checked(index_t channels) {
    if (channels < 0) throw shape_error(message("calibration: ", channels, " channels"));
    return channels;
  }

  std::size_t size() const noexcept { return static_cast<std::size_t>(channels_); }

  /// `weights` of the tokens, or none.
  void observe_all(matrix_view<float const> x, matrix_view<float const> y, std::span<float const> weights, context const& ctx) {
    if (x.cols() != channels_)
      throw shape_error(message("calibration::observe: X has ", x.cols(), " channels, expected ", channels_));
    if (y.cols() != config_.outputs || y.rows() != x.rows())
      throw shape_error(
          message("calibration::observe: Y is ", y.rows(), " x ", y.cols(), ", expected ", x.rows(), " x ", config_.outputs));
    ctx.throw_if_stopped();
    if (ctx.on_nonfinite == nonfinite::propagate) return add(x, y, weights, ctx.to_the_end());
    index_t const bad = count_nonfinite(x, "X", ctx) + count_nonfinite(y, "Y", ctx);
    if (bad == 0) return add(x, y, weights, ctx.to_the_end());
    matrix<float> const clean_x = zeroed(x), clean_y = zeroed(y);
    add(clean_x.view(), clean_y.view(), weights, ctx.to_the_end());
    zeroed_ += bad;
  }

  std::vector<double> per_token(std::vector<double> sums) const {
    if (tokens_ > 0)
      for (double& s : sums) s /= static_cast<double>(tokens_);
    return sums;
  }

  /// Number of NaN and infinite elements, or nonfinite_error naming the first one.
  static index_t count_nonfinite(matrix_view<float const> x, char const* name, context const& ctx) {
    constexpr index_t rows_per_task = 64;
    std::vector<index_t> counts(static_cast<std::size_t>((x.rows() + rows_per_task - 1) / rows_per_task));
    ctx.parallel_for(x.rows(), rows_per_task, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t)
        for (index_t j = 0; j < x.cols(); ++j) {
          if (detail::is_finite(x(t, j))) continue;
          if (ctx.on_nonfinite == nonfinite::reject)
            throw nonfinite_error(message("calibration::observe: ", name, " is ", x(t, j), " at token ", t, ", channel ", j));
          ++counts[static_cast<std::size_t>(begin / rows_per_task)];
        }
    });
    return std::accumulate(counts.begin(), counts.end(), index_t{0});
  }

  static matrix<float> zeroed(matrix_view<float const> x) {
    matrix<float> cleaned(x);
    for (index_t k = 0; k < cleaned.size(); ++k)
      if (!detail::is_finite(cleaned.data()[k])) cleaned.data()[k] = 0.0f;
    return cleaned;
  }

  void add(matrix_view<float const> x, matrix_view<float const> y, std::span<float const> weights, context const& ctx) {
    if (unknown_ != 0) {
      calibration_config config = config_;
      config.first_token += static_cast<std::uint64_t>(tokens_);
      calibration batch(channels_, config);
      batch.add(x, y, weights, ctx);
      return merge(batch);
    }
    matrix<float> const root_x = times_roots(x, weights), root_y = times_roots(y, weights);
    if (config_.samples > 0)
      sample_.add(x, config_.samples, config_.sample_seed, tokens_, config_.first_token + static_cast<std::uint64_t>(tokens_));
    constexpr index_t columns_per_task = 64;
    ctx.parallel_for(channels_, columns_per_task, [&](index_t begin, index_t end) { add_columns(x, weights, begin, end); });
    matrix_view<float const> const gram_x = weights.empty() ? x : root_x, cross_y = weights.empty() ? y : root_y;
    if (config_.gram) add_gram(gram_x, gram_.view(), config_.share, ctx);
    if (config_.outputs > 0) add_cross(gram_x, cross_y, cross_.view(), config_.share, ctx);
    tokens_ += x.rows();
  }

  /// Rows times the roots of their weights; nothing without weights.
  static matrix<float> times_roots(matrix_view<float const> x, std::span<float const> weights) {
    if (weights.empty()) return {};
    matrix<float> out(x);
    for (index_t t = 0; t < out.rows(); ++t) {
      float const root = std::sqrt(weights[static_cast<std::size_t>(t)]);
      for (index_t j = 0; j < out.cols(); ++j) out(t, j) *= root;
    }
    return out;
  }

  void add_columns(matrix_view<float const> x, std::span<float const> weights, index_t begin, index_t end) {
    std::vector<double> batch_abs(static_cast<std::size_t>(end - begin));
    for (index_t t = 0; t < x.rows(); ++t) {
      double const weight = weights.empty() ? 1.0 : static_cast<double>(weights[static_cast<std::size_t>(t)]);
      for (index_t j = begin; j < end; ++j) {
        auto const c = static_cast<std::size_t>(j);
        double const value = static_cast<double>(x(t, j));
        double const magnitude = std::abs(value);
        sum_[c] += weight * value;
        sum_abs_[c] += weight * magnitude;
        sum_square_[c] += weight * (value * value);
        max_abs_[c] = std::max(max_abs_[c], static_cast<float>(magnitude));
        batch_abs[static_cast<std::size_t>(j - begin)] += weight * magnitude;
      }
    }
    if (x.rows() == 0) return;
    for (index_t j = begin; j < end; ++j) {
      double const batch_mean = batch_abs[static_cast<std::size_t>(j - begin)] / static_cast<double>(x.rows());
      double& peak = peak_mean_abs_[static_cast<std::size_t>(j)];
      peak = std::max(peak, batch_mean);
    }
  }

  calibration_config config_;
  index_t channels_;
  index_t tokens_ = 0;
  index_t zeroed_ = 0;
  unsigned unknown_ = 0; ///< a bit per statistic; what is unknown has no numbers
  std::vector<double> sum_, sum_abs_, sum_square_;
  std::vector<float> max_abs_;
  std::vector<double> peak_mean_abs_;
  matrix<double> gram_;
  matrix<double> cross_;
  detail::token_sample sample_;
  held_out_ptr held_out_;
};

/// What a component says when matrix and calibration are of different layers. @throws shape_error
inline void require_channels(calibration const& calib, index_t cols, char const* who) {
  if (calib.channels() != cols)
    throw shape_error(message(who, ": the matrix has ", cols, " columns, the calibration ", calib.channels(), " channels"));
}

/// What a component says when it needs activations and was given none. @throws config_error
inline void require_observed(calibration const& calib, char const* who) {
  if (calib.tokens() == 0 && calib.channels() > 0)
    throw config_error(message(who, ": needs activations, the calibration has seen no tokens"));
}

/// What a component says when it needs a statistic that the calibration does not know. @throws config_error
inline void require_known(calibration const& calib, statistic what, char const* who) {
  if (!calib.knows(what))
    throw config_error(
        message(who, ": needs ", name_of(what), " of the inputs, which a calibration made from sums does not know"));
}

/// What a component says when it needs tokens themselves and the calibration keeps none. @throws config_error
inline void require_samples(calibration const& calib, char const* who) {
  require_observed(calib, who);
  if (calib.samples().rows() == 0 && calib.channels() > 0)
    throw config_error(message(who, ": needs a sample of the inputs; construct the calibration with {.samples = n}"));
}

} // namespace SLIM_ABI
} // namespace slim
