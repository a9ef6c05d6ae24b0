#pragma once
/// @file
/// `matmul_into`: products with packed matrices on the CPU. Row blocks are shared out, every output is computed by one task in
/// one order, so that the bits do not depend on the number of threads.

#include "slim/kernels/activations.hpp"
#include "slim/kernels/cpu/exact_kernels.hpp"
#include "slim/kernels/cpu/r16_kernels.hpp"

namespace slim::inline SLIM_ABI {

/// How a product is computed, and what becomes of Y.
struct matmul_options {
  input_precision inputs = input_precision::int8;
  bool add = false; ///< Y += instead of Y =
};

namespace detail {

/// Tokens that one walk over the row blocks serves: their outputs and inputs should stay in the caches.
inline constexpr index_t tokens_per_walk = 64;
/// Row blocks per task: long streams, and enough tasks for uneven threads. Depends on the matrix only.
[[nodiscard]] constexpr index_t row_blocks_per_task(index_t row_blocks) { return std::max<index_t>(row_blocks / 16, 1); }

/// Integer inputs.
class integer_product {
public:
  integer_product(r16_matrix const& w, matrix_view<float> y, matmul_options const& options, context const& ctx)
      : w_(w), y_(y), options_(options), ctx_(ctx), kernels_(r16_kernels_of(ctx.simd)),
        planes_(options.inputs == input_precision::int16 ? 2 : 1) {}

  void run(matrix_view<float const> x) {
    for (index_t first = 0; first < x.rows(); first += tokens_per_walk)
      walk(x, first, std::min(tokens_per_walk, x.rows() - first));
  }

private:
  /// Tokens [first, first + count).
  void walk(matrix_view<float const> x, index_t first, index_t count) {
    index_t const most = kernels_.most_vectors / planes_, tiles = (count + most - 1) / most;
    std::vector<input_tile> inputs;
    inputs.reserve(static_cast<std::size_t>(tiles));
    bool const offset = w_.layout().kind == r16_kind::sparse24;
    for (index_t t = 0; t < count; t += most) {
      index_t const tokens = std::min(most, count - t);
      inputs.push_back(
          quantize_inputs(kernels_, x, first + t, tokens, width_of(tokens * planes_), planes_, w_.input_factors(), offset));
    }
    index_t const row_blocks = w_.layout().row_blocks();
    ctx_.parallel_for(row_blocks, row_blocks_per_task(row_blocks), [&](index_t begin, index_t end) {
      for (index_t rb = begin; rb < end; ++rb)
        for (index_t tile = 0; tile < tiles; ++tile)
          multiply(rb, inputs[static_cast<std::size_t>(tile)], first + tile * most, std::min(most, count - tile * most));
    });
  }

  /// The next power of two.
  [[nodiscard]] static index_t width_of(index_t vectors) {
    index_t width = 1;
    while (width < vectors) width *= 2;
    return width;
  }

  void multiply(index_t rb, input_tile const& inputs, index_t first, index_t count) const {
    r16_layout const& layout = w_.layout();
    float sums[8 * r16_rows];
    int log_width = 0;
    while ((index_t{1} << log_width) < inputs.width) ++log_width;
    std::uint8_t const* const header = w_.data() + rb * layout.row_block_bytes();
    r16_row_block const block{header,
                              header + layout.header_bytes(),
                              layout.stages(),
                              layout.scale_cols / r16_stage_cols,
                              layout.set_bytes(),
                              layout.zero_points};
    kernels_.of[static_cast<int>(layout.kind)][log_width](block, inputs.values.data(), inputs.scales.data(), inputs.sums.data(),
                                                          sums);
    if (layout.scale_cols == 0) scale_rows(rb, inputs, sums);
    index_t const rows = std::min(r16_rows, layout.rows - rb * r16_rows);
    for (index_t t = 0; t < count; ++t) {
      float* const y = y_.row(first + t) + rb * r16_rows;
      float const* const s = sums + t * planes_ * r16_rows;
      for (index_t r = 0; r < rows; ++r) {
        float const value = planes_ == 2 ? s[r] + s[r16_rows + r] : s[r];
        y[r] = options_.add ? y[r] + value : value;
      }
    }
  }

  /// Scale and zero point of rows that have only one.
  void scale_rows(index_t rb, input_tile const& inputs, float* sums) const {
    float const plain_zero =
        w_.layout().kind == r16_kind::sparse24 ? 0.0f : static_cast<float>(1 << (code_bits(w_.layout().kind) - 1));
    for (index_t t = 0; t < inputs.width; ++t) {
      float whole = 0;
      for (std::size_t k = static_cast<std::size_t>(t); k < inputs.sums.size(); k += static_cast<std::size_t>(inputs.width))
        whole += inputs.sums[k];
      for (index_t r = 0; r < r16_rows; ++r) {
        auto const row = static_cast<std::size_t>(rb * r16_rows + r);
        float const zero = w_.row_zeros().empty() ? plain_zero : w_.row_zeros()[row];
        sums[t * r16_rows + r] = w_.row_scales()[row] * (sums[t * r16_rows + r] - zero * whole);
      }
    }
  }

  r16_matrix const& w_;
  matrix_view<float> y_;
  matmul_options options_;
  context const& ctx_;
  r16_kernels const& kernels_;
  index_t planes_;
};

/// Float inputs: a block is decoded and serves all tokens of a walk.
inline void exact_product(r16_matrix const& w, matrix_view<float const> x, matrix_view<float> y, bool add, context const& ctx) {
  exact_kernel const kernel = exact_kernel_of(ctx.simd);
  index_t const row_blocks = w.layout().row_blocks();
  ctx.parallel_for(row_blocks, row_blocks_per_task(row_blocks), [&](index_t begin, index_t end) {
    alignas(64) float values[r16_block_cols][r16_rows];
    matrix<float> sums(x.rows(), r16_rows);
    std::vector<float const*> inputs(static_cast<std::size_t>(x.rows()));
    std::vector<float*> outputs(inputs.size());
    for (index_t rb = begin; rb < end; ++rb) {
      std::fill_n(sums.data(), sums.size(), 0.0f);
      for (index_t cb = 0; cb * r16_block_cols < w.cols(); ++cb) {
        w.decode_block(rb, cb, values);
        index_t const from = cb * r16_block_cols;
        for (index_t t = 0; t < x.rows(); ++t) {
          inputs[static_cast<std::size_t>(t)] = x.row(t) + from;
          outputs[static_cast<std::size_t>(t)] = sums.row(t);
        }
        kernel(values, std::min(r16_block_cols, w.cols() - from), x.rows(), inputs.data(), outputs.data());
      }
      for (index_t t = 0; t < x.rows(); ++t)
        for (index_t r = 0; r < std::min(r16_rows, w.rows() - rb * r16_rows); ++r) {
          float& out = y(t, rb * r16_rows + r);
          out = add ? out + sums(t, r) : sums(t, r);
        }
    }
  });
}

} // namespace detail

/// Y = X W^T, or Y +=, with W (d_out x d_in) packed, X (tokens x d_in), Y (tokens x d_out). Integer inputs are rounded per
/// token and 32 channels; see input_precision.
///
/// **Numerics** Integer products are exact, sums over stages of 32 channels are float. Bits depend on the simd level, not on
/// the executor nor on the other tokens of the batch. NaN and infinity in X reach the outputs of their token. @throws
/// shape_error
inline void matmul_into(r16_matrix const& w, matrix_view<float const> x, matrix_view<float> y,
                        matmul_options const& options = {}, context const& ctx = {}) {
  if (x.cols() != w.cols() || y.cols() != w.rows() || x.rows() != y.rows())
    throw shape_error(message("matmul_into: X ", x.rows(), " x ", x.cols(), ", W ", w.rows(), " x ", w.cols(), ", Y ", y.rows(),
                              " x ", y.cols()));
  if (options.inputs == input_precision::exact) return detail::exact_product(w, x, y, options.add, ctx);
  detail::integer_product(w, y, options, ctx).run(x);
}

} // namespace slim::inline SLIM_ABI
