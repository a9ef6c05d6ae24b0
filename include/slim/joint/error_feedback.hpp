#pragma once
/// @file
/// One sweep of error feedback: GPTQ/OPTQ (arXiv 2210.17323) over dense codes, SparseGPT with joint quantization
/// (arXiv 2301.00774, section 3.4) over sparse ones, SparseGPT alone where there are no codes.

#include "slim/calibration/hessian.hpp"
#include "slim/joint/joint_compressor.hpp"
#include "slim/joint/quantized_set.hpp"
#include "slim/linalg/feedback_factor.hpp"

#include <numeric>

namespace slim {
inline namespace SLIM_ABI {

/// Settings of error_feedback, and so of gptq and sparsegpt.
struct error_feedback_config {
  double damping = 0.01; ///< of the mean diagonal of H
  /// Input channels with the largest H_jj first (GPTQ's act-order), 2:4 groups as a whole by the sum of theirs. Scales are then
  /// fitted before the sweep.
  bool act_order = false;
  /// Per-group scales are fitted again when the sweep reaches their group, to the weights as they are by then, as GPTQ does.
  bool refit_groups = false;
  int descents = 0; ///< sweeps of coordinate descent, each with refitted scales, after the feedback

  friend bool operator==(error_feedback_config const&, error_feedback_config const&) = default;
};

namespace detail {

/// Columns by descending diagonal of H, groups of m together; ties keep their order.
[[nodiscard]] inline std::vector<index_t> activation_order(matrix_view<float const> h, index_t m) {
  index_t const n = h.rows(), groups = n / m; // a ragged last group stays last
  std::vector<double> weight(static_cast<std::size_t>(groups));
  for (index_t g = 0; g < groups; ++g)
    for (index_t j = g * m; j < (g + 1) * m; ++j) weight[static_cast<std::size_t>(g)] += static_cast<double>(h(j, j));
  std::vector<index_t> by_weight(static_cast<std::size_t>(groups));
  std::iota(by_weight.begin(), by_weight.end(), index_t{0});
  std::stable_sort(by_weight.begin(), by_weight.end(), [&](index_t a, index_t b) {
    return weight[static_cast<std::size_t>(a)] > weight[static_cast<std::size_t>(b)];
  });
  std::vector<index_t> order;
  for (index_t g : by_weight)
    for (index_t j = g * m; j < (g + 1) * m; ++j) order.push_back(j);
  for (index_t j = groups * m; j < n; ++j) order.push_back(j);
  return order;
}

[[nodiscard]] inline matrix<float> permuted(matrix_view<float const> h, std::span<index_t const> order) {
  matrix<float> out(h.rows(), h.cols());
  for (index_t i = 0; i < h.rows(); ++i)
    for (index_t j = 0; j < h.cols(); ++j)
      out(i, j) = h(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(j)]);
  return out;
}

inline void note_missing_gram(std::vector<std::string>& notes, calibration const& calib) {
  if (!calib.has_gram())
    notes.push_back("no Gram matrix was collected: channels are taken as uncorrelated, so that no error is fed back and this "
                    "is rounding to nearest; construct the calibration with {.gram = true}");
}

inline void note_damping(std::vector<std::string>& notes, feedback_factor const& factor) {
  if (factor.damping > 0.0)
    notes.push_back(message("H not positive definite: damping raised by ", factor.damping, " of its mean diagonal"));
}

} // namespace detail

/// Error feedback into any set, such as quantized_set. d_in^3 / 3 + d_out d_in^2 / 2 multiply-adds.
template <sweepable Set>
class error_feedback {
public:
  /// @throws config_error if the damping is not positive, descents are negative, or scales are to be refitted out of order.
  explicit error_feedback(Set set, error_feedback_config config = {}) : set_(std::move(set)), config_(config) {
    if (!(config.damping > 0.0)) throw config_error(message("error_feedback: damping ", config.damping, ", needed is > 0"));
    if (config.descents < 0) throw config_error(message("error_feedback: descents ", config.descents, ", needed is >= 0"));
    if (config.act_order && config.refit_groups)
      throw config_error("error_feedback: act_order visits groups in pieces, so refit_groups cannot be asked for with it");
  }

  [[nodiscard]] error_feedback_config const& config() const noexcept { return config_; }

  /// @throws shape_error if W and the calibration disagree on d_in; config_error before the first token.
  template <std::same_as<float> T>
  [[nodiscard]] joint_result<typename Set::mask_type, typename Set::codes_type>
  compress(matrix_view<T const> w, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, w.cols(), "error_feedback");
    matrix<T> const h = hessian(calib, config_.damping, ctx);
    auto p = set_.start(w, calib, ctx);
    std::vector<std::string> notes;
    detail::note_missing_gram(notes, calib);
    auto const order = config_.act_order ? detail::activation_order(h.view(), set_.group()) : std::vector<index_t>();
    auto const factor = factor_for_feedback(order.empty() ? h.view() : detail::permuted(h.view(), order).view(), ctx);
    detail::note_damping(notes, factor);
    set_.sweep(w, factor.upper.view(), p, {.order = order, .refit_groups = config_.refit_groups}, ctx);
    detail::descend(set_, w, h.view(), p, config_.descents, ctx);
    return {std::move(p), {}, {}, std::move(notes)};
  }

  [[nodiscard]] std::string describe() const {
    return message("error feedback, ", std::string(set_.describe()), ", damping ", config_.damping,
                   config_.act_order ? ", act-order" : "", config_.refit_groups ? ", scales refitted on the way" : "",
                   config_.descents > 0 ? message(", ", config_.descents, " sweeps of descent") : "");
  }

private:
  Set set_;
  error_feedback_config config_;
};

static_assert(joint_compressor<error_feedback<quantized_set<uniform_grid, dense_pattern>>>);

} // namespace SLIM_ABI
} // namespace slim
