#pragma once
/// @file
/// SVDQuant's branch (arXiv 2411.05007): the largest directions of the weight as an adapter, what is left as codes, and the two
/// in turn.

#include "slim/adapters/adapter.hpp"
#include "slim/calibration/output_error.hpp"
#include "slim/core/elementwise.hpp"
#include "slim/joint/joint_compressor.hpp"
#include "slim/linalg/low_rank.hpp"
#include "slim/quantization/input_quantizer.hpp"
#include "slim/quantization/quantizer.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Inputs stay as they are.
struct exact_input {
  void round_inplace(matrix_view<float>) const noexcept {}
  [[nodiscard]] std::string describe() const { return "exact inputs"; }
};

/// Settings of `low_rank_residual`.
struct low_rank_residual_config {
  adapter_rank rank = {.number = 32};
  int iterations = 100;                       ///< turns at most; 1: the plain method
  int patience = 1;                           ///< turns without improvement after which it ends; SVDQuant's code: 1
  number_format format = number_format::fp16; ///< of the factors

  friend bool operator==(low_rank_residual_config const&, low_rank_residual_config const&) = default;
};

/// In turn B = the best approximation of W - Q by a rank, and Q = the quantizer's rounding of W - B, from Q = 0; the turn of
/// least output error is kept. With an input quantizer the error is ||X (W - B)^T - round(X) Q^T|| on the calibration's sample
/// (the branch reads inputs as they come), else that of W - B - Q on all tokens; without tokens the squared error of the
/// weights. Rank 0: the quantizer alone. `objective` has the error of every turn, relative to the output.
template <quantizer Quantizer, input_quantizer Inputs = exact_input>
class low_rank_residual {
public:
  /// @throws config_error on a rank that cannot be, or unless iterations and patience are positive.
  explicit low_rank_residual(Quantizer rounding, low_rank_residual_config config = {})
    requires std::same_as<Inputs, exact_input>
      : low_rank_residual(std::move(rounding), Inputs{}, config) {}
  explicit low_rank_residual(Quantizer rounding, Inputs inputs, low_rank_residual_config config = {})
      : rounding_(std::move(rounding)), inputs_(std::move(inputs)), config_(config) {
    (void)config.rank.of(1, 1);
    if (config.iterations < 1 || config.patience < 1)
      throw config_error(message("low_rank_residual: ", config.iterations, " iterations, patience ", config.patience));
  }

  [[nodiscard]] low_rank_residual_config const& config() const noexcept { return config_; }

  /// @throws shape_error if W (d_out x d_in) and the calibration disagree on d_in; config_error without the sample that rounded
  /// inputs need.
  template <std::same_as<float> T>
  [[nodiscard]] auto compress(matrix_view<T const> w, calibration const& calib, context const& ctx = {}) const {
    require_channels(calib, w.cols(), "low_rank_residual");
    if constexpr (rounds_inputs) require_samples(calib, "low_rank_residual");
    using codes_type = decltype(rounding_.quantize(matrix_view<float const>(w), calib, ctx));
    using result_type = joint_result<none, codes_type, adapter>;
    index_t const rank = config_.rank.of(w.rows(), w.cols());
    judge const judged(*this, w, calib, ctx);
    std::optional<result_type> best;
    std::vector<double> errors;
    matrix<float> codes_values(w.rows(), w.cols());
    double least = std::numeric_limits<double>::infinity();
    for (int turn = 0, idle = 0; turn < config_.iterations && idle < config_.patience; ++turn) {
      matrix<float> rest(w.rows(), w.cols());
      subtract_into(w, codes_values.view(), rest.view(), ctx);
      adapter branch = branch_of<T>(rest.view(), rank, ctx);
      rest = matrix<float>(w);
      branch.subtract_from(rest.view(), ctx);
      auto codes = rounding_.quantize(matrix_view<float const>(rest.view()), calib, ctx);
      codes.dequantize_into(codes_values.view(), ctx);
      errors.push_back(judged.error(rest.view(), codes_values.view()));
      idle = errors.back() < least || !best ? 0 : idle + 1;
      if (idle == 0) {
        least = errors.back();
        best = result_type{{{}, std::move(codes)}, std::move(branch), {}, {}};
      }
      if (rank == 0) break; // every turn is the same
    }
    best->objective = std::move(errors);
    return std::move(*best);
  }

  [[nodiscard]] std::string describe() const {
    return message(slim::describe(config_.rank), " and ", std::string(rounding_.describe()), " in turn, at most ",
                   config_.iterations, rounds_inputs ? message(", with ", std::string(inputs_.describe())) : "");
  }

private:
  static constexpr bool rounds_inputs = !std::same_as<Inputs, exact_input>;

  template <class T>
  [[nodiscard]] adapter branch_of(matrix_view<float const> rest, index_t rank, context const& ctx) const {
    adapter branch = empty_adapter(rest.cols(), rest.rows());
    branch.format = config_.format;
    if (rank == 0) return branch;
    auto const found = truncated_low_rank<T>(rest, rank, {}, ctx); // rest ~ basis coefficients = (left right)^T
    branch.left = matrix<float>(transposed(matrix_view<float const>(found.coefficients.view())));
    branch.right = matrix<float>(transposed(matrix_view<float const>(found.basis.view())));
    float const most = largest_number(config_.format);
    bool clipped = false;
    for (auto* factor : {&branch.left, &branch.right})
      for (index_t k = 0; k < factor->size(); ++k) {
        clipped = clipped || std::abs(factor->data()[k]) > most;
        factor->data()[k] = rounded_to(config_.format, std::clamp(factor->data()[k], -most, most));
      }
    if (clipped)
      branch.notes.push_back(message("numbers of the branch beyond those of ", name_of(config_.format), " were clipped"));
    if (!found.fallbacks.empty()) branch.notes.push_back(found.fallbacks);
    return branch;
  }

  /// The error of a turn, relative to the output.
  class judge {
  public:
    judge(low_rank_residual const& of, matrix_view<float const> w, calibration const& calib, context const& ctx)
        : calib_(calib), ctx_(ctx) {
      if constexpr (rounds_inputs) {
        rounded_ = matrix<float>(calib.samples());
        of.inputs_.round_inplace(rounded_.view());
        unit_ = squared(product(calib.samples(), w));
      } else {
        unit_ = energy(w);
      }
    }

    /// Of `rest`, W less the branch, and the codes' values.
    [[nodiscard]] double error(matrix_view<float const> rest, matrix_view<float const> values) const {
      double found = 0;
      if constexpr (rounds_inputs) {
        matrix<float> left = product(calib_.samples(), rest);
        gemm_into(rounded_.view(), transposed(values), left.view(), destination::subtract, ctx_.in_fp32());
        found = squared(left);
      } else {
        matrix<float> left(rest.rows(), rest.cols());
        subtract_into(rest, values, left.view(), ctx_);
        found = energy(left.view());
      }
      return unit_ > 0.0 ? std::sqrt(found / unit_) : 0.0;
    }

  private:
    [[nodiscard]] matrix<float> product(matrix_view<float const> x, matrix_view<float const> w) const {
      matrix<float> y(x.rows(), w.rows());
      gemm_into(x, transposed(w), y.view(), ctx_.in_fp32());
      return y;
    }
    [[nodiscard]] double energy(matrix_view<float const> e) const {
      if (calib_.tokens() > 0) return output_energy(e, calib_, ctx_);
      matrix<float> const copy(e);
      return squared(copy);
    }
    [[nodiscard]] static double squared(matrix<float> const& m) {
      double sum = 0;
      for (index_t k = 0; k < m.size(); ++k) sum += static_cast<double>(m.data()[k]) * static_cast<double>(m.data()[k]);
      return sum;
    }

    calibration const& calib_;
    context const& ctx_;
    matrix<float> rounded_;
    double unit_ = 0;
  };

  Quantizer rounding_;
  Inputs inputs_;
  low_rank_residual_config config_;
};

} // namespace SLIM_ABI
} // namespace slim
