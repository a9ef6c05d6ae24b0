#pragma once
/// @file
/// `in_basis(transform, steps...)`: a step of a chain that compresses the layer in another basis of its input channels: scaled
/// (SmoothQuant, arXiv 2211.10438; AWQ, arXiv 2306.00978), permuted, rotated (QuaRot, arXiv 2404.00456).

#include "slim/linalg/gemm.hpp"
#include "slim/pipeline/compress.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"
#include "slim/quantization/codes/column_parts.hpp"
#include "slim/quantization/codes/integer_codes.hpp"
#include "slim/transforms/channel_permutation.hpp"
#include "slim/transforms/channel_scaling.hpp"
#include "slim/transforms/transform.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Codes on a mask of a transformed weight: they stand for invert(mask .* codes). What in_basis leaves of a transform that
/// codes cannot absorb.
template <transform Transform, class Weight>
struct codes_in_basis {
  Transform basis;
  Weight weight; ///< sparse_codes of the transformed weight, d_out x d_in

  [[nodiscard]] index_t rows() const { return weight.rows(); }
  [[nodiscard]] index_t cols() const { return weight.cols(); }
  /// The transform is stored, too. A mask of the layer cannot leave codes out: they belong to other columns.
  [[nodiscard]] double stored_bits(mask const*) const { return weight.stored_bits() + basis.stored_bits(); }
  /// @throws shape_error
  void dequantize_into(matrix_view<float> out, context const& ctx = {}) const {
    detail::require_shape(rows(), cols(), out.rows(), out.cols(), "dequantize_into");
    matrix<float> const here = weight.values(ctx), values = basis.invert(here.view());
    for (index_t i = 0; i < rows(); ++i) std::copy_n(values.row(i), cols(), out.row(i));
  }
  /// What formats and kernels hold of them (in_parts): another order of the columns is part of column_parts.
  [[nodiscard]] any_codes in_parts() const
    requires std::same_as<Transform, channel_permutation> && is_none<typename Weight::mask_type>
  {
    return detail::reordered(slim::in_parts(any_codes(weight.codes)), basis.order());
  }
};

namespace detail {

/// G' = A^-1 G A^-T for W' = W A, X' = X A^-T. A^-1 is what `invert` makes of the unit matrix.
template <transform Transform>
[[nodiscard]] calibration rotated(Transform const& basis, calibration const& calib, context const& ctx) {
  index_t const n = calib.channels();
  matrix<float> unit(n, n), half(n, n), gram(n, n);
  for (index_t j = 0; j < n; ++j) unit(j, j) = 1.0f;
  matrix<float> const inverse = basis.invert(unit.view()), before(calib.gram());
  gemm_into(inverse.view(), before.view(), half.view(), ctx.in_fp32());
  gemm_into(half.view(), transposed(inverse.view()), gram.view(), ctx.in_fp32());
  matrix<double> sums(n, n);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) sums(i, j) = 0.5 * (static_cast<double>(gram(i, j)) + static_cast<double>(gram(j, i)));
  return calibration::from_gram(sums.view(), calib.tokens());
}

/// What the calibration would have seen of transformed inputs. @throws config_error if that cannot be said.
template <transform Transform>
[[nodiscard]] calibration transformed_calibration(Transform const& basis, calibration const& calib, context const& ctx) {
  if constexpr (calibration_transform<Transform>) {
    return basis.apply_to(calib);
  } else {
    if (calib.tokens() == 0) return calibration(calib.channels());
    if (!calib.has_gram())
      throw config_error(
          "slim::in_basis: a transform that mixes channels needs the calibration's Gram matrix; construct it with "
          "{.gram = true}");
    calibration out = rotated(basis, calib, ctx);
    if (calib.held_out()) out.hold_out(transformed_calibration(basis, *calib.held_out(), ctx));
    return out;
  }
}

/// Whether a scaling of the input channels goes into the codes' channel factors.
template <class Transform, class Codes>
inline constexpr bool absorbs_basis = std::is_same_v<Transform, channel_scaling> &&
                                      (std::is_same_v<Codes, integer_codes> || std::is_same_v<Codes, codebook_codes>);

template <class Codes>
void multiply_factors(Codes& codes, channel_scaling const& by) {
  codes.channel_factors.resize(static_cast<std::size_t>(codes.cols()), 1.0f);
  for (std::size_t j = 0; j < codes.channel_factors.size(); ++j) codes.channel_factors[j] *= by.factors()[j];
}

/// (L R)^T A^-1 = (A^-T L R)^T: the rows of L^T go back like rows of a weight.
template <transform Transform>
[[nodiscard]] adapter out_of_basis(Transform const& basis, adapter a) {
  if (a.rank() == 0) return a;
  matrix<float> const rows(transposed(a.left.view())), back = basis.invert(rows.view());
  a.left = matrix<float>(transposed(back.view()));
  if (a.left_codes || a.left_mask) {
    a.left_codes.reset();
    a.left_mask.reset();
    a.notes.push_back("adapter: its left factor comes back from another basis as numbers, without codes and mask");
  }
  for (index_t k = 0; k < a.left.size(); ++k) a.left.data()[k] = rounded_to(a.format, a.left.data()[k]);
  return a;
}
inline none out_of_basis(auto const&, none) { return {}; }

} // namespace detail

/// The step that in_basis makes. `basis` is a transform, or makes one of W, calibration and context.
template <class Basis, class... Steps>
class basis_step {
public:
  explicit basis_step(Basis basis, Steps... steps)
      : basis_(std::move(basis)), steps_{std::tuple<Steps...>(std::move(steps)...)} {}

  /// Applies the transform, runs the steps, and takes their result back.
  template <class Mask, class Codes, class Adapter>
  [[nodiscard]] auto operator()(layer_state<Mask, Codes, Adapter> state, calibration const& calib, context const& ctx) const {
    static_assert(is_none<Mask> && is_none<Codes> && is_none<Adapter>,
                  "slim::compress: in_basis behind a pruner, quantizer or adapter would undo it; put it first.");
    auto const basis = made(state.current.view(), calib, ctx);
    using transform_type = std::remove_const_t<decltype(basis)>;
    static_assert(
        requires {
          { basis.stored_bits() } -> std::convertible_to<double>;
        }, "slim::compress: a transform of in_basis needs stored_bits(), what it costs to store it.");
    layer_state<> inner;
    inner.original = inner.current = basis.apply(state.current.view());
    inner.report.rows = state.report.rows;
    inner.report.cols = state.report.cols;
    calibration const there = detail::transformed_calibration(basis, calib, ctx);
    auto const reference = detail::energy_of(inner.original.view(), there, ctx);
    auto done = detail::run_steps<0>(steps_.steps, std::move(inner), reference, there, ctx);
    using weight_type = decltype(done.weight);
    static_assert(!is_none<typename weight_type::codes_type>,
                  "slim::compress: in_basis needs a quantizer or a joint compressor.");
    for (auto& step : done.report.steps) {
      step.step = message("in basis: ", step.step);
      state.report.steps.push_back(std::move(step));
    }
    state.report.notes.insert(state.report.notes.end(), done.report.notes.begin(), done.report.notes.end());
    state.report.objective = std::move(done.report.objective);
    auto adapter_here = detail::out_of_basis(basis, std::move(done.adapter));
    if constexpr (detail::absorbs_basis<transform_type, typename weight_type::codes_type>) {
      detail::multiply_factors(done.weight.codes, basis);
      return with(std::move(state), std::move(done.weight), std::move(adapter_here), ctx);
    } else {
      using codes_type = codes_in_basis<transform_type, weight_type>;
      return with(std::move(state), sparse_codes<none, codes_type>{{}, {basis, std::move(done.weight)}},
                  std::move(adapter_here), ctx);
    }
  }

  [[nodiscard]] std::string describe() const {
    if constexpr (requires { basis_.describe(); })
      return message("back from the basis of ", std::string(basis_.describe()));
    else
      return "back from another basis";
  }

private:
  [[nodiscard]] auto made(matrix_view<float const> w, calibration const& calib, context const& ctx) const {
    if constexpr (transform<Basis>) {
      (void)w, (void)calib, (void)ctx;
      return basis_;
    } else {
      static_assert(
          std::is_invocable_v<Basis const&, matrix_view<float const>, calibration const&, context const&>,
          "slim::compress: the first argument of in_basis is no transform, nor a callable (W, calibration, context) -> "
          "transform. To see why: static_assert(slim::transform<your_transform>).");
      return basis_(w, calib, ctx);
    }
  }

  template <class State, class Mask, class Codes, class Adapter>
  [[nodiscard]] static auto with(State state, sparse_codes<Mask, Codes> weight, Adapter a, context const& ctx) {
    matrix<float> current = weight.values(ctx);
    return layer_state<Mask, Codes, Adapter>{std::move(state.original), std::move(current), std::move(weight), std::move(a),
                                             std::move(state.report)};
  }

  Basis basis_;
  step_chain<Steps...> steps_;
};

/// Compresses in another basis: `chain(in_basis(channel_scaling(s), absmax_quantizer(), slim_lora()))`. The transform is
/// applied to W and the calibration, the steps run, and their result is taken back: the factors of a channel_scaling go into
/// the codes (and so into the input factors of the packed layer), other transforms stay beside the codes; the adapter works on
/// the inputs as they come. Instead of a transform, a callable may make one: (W, calibration, context) -> transform. A
/// transform that mixes channels needs the Gram matrix, and steps in its basis have no other statistics. @throws as the
/// transform and the steps
template <class Basis, class... Steps>
[[nodiscard]] basis_step<std::decay_t<Basis>, std::decay_t<Steps>...> in_basis(Basis&& basis, Steps&&... steps) {
  return basis_step<std::decay_t<Basis>, std::decay_t<Steps>...>(std::forward<Basis>(basis), std::forward<Steps>(steps)...);
}

} // namespace SLIM_ABI
} // namespace slim
