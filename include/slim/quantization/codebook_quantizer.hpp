#pragma once
/// @file
/// A book of levels per output channel, found by weighted k-means: SqueezeLLM's dense part (arXiv 2306.07629, section 4.1).

#include "slim/core/none.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"
#include "slim/quantization/weighted_kmeans.hpp"
#include "slim/saliency/saliency.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Books of `codebook_quantizer`.
struct codebook_config {
  int bits = 3;                                    ///< 1 to 8: 2^bits levels per row
  number_format book_format = number_format::fp16; ///< levels are rounded to it before weights are rounded to them

  friend bool operator==(codebook_config const&, codebook_config const&) = default;
};

/// Rounds each weight to the nearest level of its row's book; the levels minimise the sum over the row of importance * (w -
/// level)^2, the exact optimum (where SqueezeLLM's code starts k-means once at random). The importance is a saliency's score: a
/// Fisher diagonal (`external_saliency`), the mean square of the input (`input_energy`), or 1 (no saliency).
///
/// **Numerics** Rows with no more distinct weights than levels are exact up to the format of the book. A row whose importance
/// is 0 everywhere counts as one of equal importance. O(2^bits n log d_in).
template <class Saliency = none>
  requires(is_none<Saliency> || saliency<Saliency>)
class codebook_quantizer {
public:
  /// Equal importance. @throws config_error unless 1 <= bits <= 8.
  explicit codebook_quantizer(codebook_config config = {})
    requires is_none<Saliency>
      : config_(checked(config)) {}
  /// @throws config_error unless 1 <= bits <= 8.
  explicit codebook_quantizer(Saliency importance, codebook_config config = {})
    requires(!is_none<Saliency>)
      : config_(checked(config)), importance_(std::move(importance)) {}

  [[nodiscard]] codebook_config const& config() const noexcept { return config_; }

  /// @throws as the saliency; config_error naming a score that is negative or not a number.
  [[nodiscard]] codebook_codes quantize(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    return quantize_beside(w, mask(w.rows(), w.cols()), calib, ctx);
  }

  /// The same where the weights kept in `apart` are stored elsewhere: they have no say in the levels. @throws as quantize;
  /// shape_error
  [[nodiscard]] codebook_codes quantize_beside(matrix_view<float const> w, mask const& apart, calibration const& calib,
                                               context const& ctx = {}) const {
    apart.check("codebook_quantizer", w.rows(), w.cols());
    codebook_codes codes(w.rows(), w.cols(), config_.bits, per_channel);
    codes.book_format = config_.book_format;
    if (w.empty()) return codes;
    auto const score = scorer_of(w, calib, ctx);
    constexpr index_t rows_per_task = 4;
    ctx.parallel_for(w.rows(), rows_per_task, [&](index_t begin, index_t end) {
      std::vector<float> importance(static_cast<std::size_t>(w.cols()));
      for (index_t i = begin; i < end; ++i) {
        for (index_t j = 0; j < w.cols(); ++j)
          importance[static_cast<std::size_t>(j)] = apart.kept(i, j) ? 0.0f : checked_score(score(i, j), i, j);
        set_book(codes, i, weighted_kmeans({w.row(i), importance.size()}, importance, codes.levels()));
      }
    });
    codes.encode(w, ctx);
    return codes;
  }

  [[nodiscard]] std::string describe() const {
    std::string const numbers =
        config_.book_format == number_format::fp16 ? "" : message(", ", name_of(config_.book_format), " books");
    if constexpr (is_none<Saliency>)
      return message(config_.bits, " bit k-means per channel", numbers);
    else
      return message(config_.bits, " bit k-means per channel by ", std::string(importance_.describe()), numbers);
  }

private:
  static codebook_config checked(codebook_config config) {
    if (config.bits < 1 || config.bits > 8)
      throw config_error(message("codebook_quantizer: ", config.bits, " bits, possible are 1 to 8"));
    return config;
  }

  [[nodiscard]] auto scorer_of(matrix_view<float const> w, calibration const& calib, context const& ctx) const {
    if constexpr (is_none<Saliency>) {
      (void)w, (void)calib, (void)ctx;
      return [](index_t, index_t) { return 1.0f; };
    } else {
      return importance_.prepare(w, calib, ctx);
    }
  }

  static float checked_score(float score, index_t i, index_t j) {
    if (!(score >= 0.0f) || !detail::is_finite(score))
      throw config_error(
          message("codebook_quantizer: importance ", score, " at row ", i, ", column ", j, ", needed are numbers from 0 on"));
    return score;
  }

  /// Levels as they are stored; a book that needs fewer repeats its last one.
  void set_book(codebook_codes& codes, index_t i, std::vector<float> const& levels) const {
    for (index_t k = 0; k < codes.levels(); ++k)
      codes.books(i, k) =
          detail::stored_number(config_.book_format, levels[static_cast<std::size_t>(std::min(k, std::ssize(levels) - 1))]);
  }

  codebook_config config_;
  [[no_unique_address]] Saliency importance_{};
};

codebook_quantizer(codebook_config) -> codebook_quantizer<none>;

static_assert(quantizer<codebook_quantizer<>>);

} // namespace SLIM_ABI
} // namespace slim
