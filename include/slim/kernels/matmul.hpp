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
    bool const offset = kernels_.unsigned_inputs && w_.layout().kind == r16_kind::sparse24;
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

/// Float inputs. A block of 16 rows and 128 columns is decoded and serves all tokens of a walk: dense codes with rows in the
/// lanes of vectors; 2:4 codes with tokens in the lanes, which multiplies kept weights only.
class exact_product {
public:
  exact_product(r16_matrix const& w, matrix_view<float> y, bool add, context const& ctx)
      : w_(w), y_(y), add_(add), sparse_(w.layout().kind == r16_kind::sparse24), ctx_(ctx),
        kernels_(exact_kernels_of(ctx.simd)) {}

  void run(matrix_view<float const> x) {
    matrix<float> scaled;
    if (!w_.input_factors().empty()) { // the codes are decoded without them
      scaled = matrix<float>(x);
      for (index_t t = 0; t < x.rows(); ++t)
        for (index_t j = 0; j < x.cols(); ++j) scaled(t, j) *= w_.input_factors()[static_cast<std::size_t>(j)];
      x = scaled.view();
    }
    index_t const most = sparse_ ? sparse_tokens : tokens_per_walk;
    for (index_t first = 0; first < x.rows(); first += most)
      walk(x.middle_rows(first, std::min(most, x.rows() - first)), first);
  }

private:
  static constexpr index_t slots = r16_block_cols / 2;
  static constexpr index_t sparse_tokens = 32; ///< 128 columns of so many tokens fit the first cache twice

  struct block {
    alignas(64) float w[r16_block_cols][r16_rows];
    alignas(64) unsigned columns[slots][r16_rows];
  };

  void walk(matrix_view<float const> x, index_t first) {
    index_t const tokens = sparse_ ? (x.rows() + 15) / 16 * 16 : x.rows(), row_blocks = w_.layout().row_blocks();
    matrix<float> columns(sparse_ ? w_.cols() : 0, tokens); // X^T
    for (index_t j = 0; j < columns.rows(); ++j)
      for (index_t t = 0; t < x.rows(); ++t) columns(j, t) = x(t, j);
    ctx_.parallel_for(row_blocks, row_blocks_per_task(row_blocks), [&](index_t begin, index_t end) {
      block decoded;
      matrix<float> sums(sparse_ ? r16_rows : tokens, sparse_ ? tokens : r16_rows);
      for (index_t rb = begin; rb < end; ++rb) {
        std::fill_n(sums.data(), sums.size(), 0.0f);
        for (index_t from = 0; from < w_.cols(); from += r16_block_cols) {
          index_t const cols = std::min(r16_block_cols, w_.cols() - from);
          decode(rb, from, cols, decoded);
          if (sparse_)
            multiply_sparse(decoded, from, cols, columns, sums);
          else
            multiply_dense(decoded, from, cols, x, sums);
        }
        write(rb, first, x.rows(), sums);
      }
    });
  }

  void decode(index_t rb, index_t from, index_t cols, block& out) const {
    r16_layout const& layout = w_.layout();
    std::uint8_t const* const stages = w_.data() + rb * layout.row_block_bytes() + layout.header_bytes();
    alignas(64) float scales[r16_rows], zeros[r16_rows];
    index_t known = -1; // the set that scales and zeros are of
    for (index_t c = 0; c < cols; c += r16_stage_cols) {
      index_t const j = from + c, set = layout.scale_cols > 0 ? j / layout.scale_cols : 0;
      for (index_t r = 0; r < r16_rows && set != known; ++r) {
        scales[r] = w_.scale(rb * r16_rows + r, j);
        zeros[r] = static_cast<float>(w_.zero(rb * r16_rows + r, j));
      }
      known = set;
      std::uint8_t const* const stage = stages + j / r16_stage_cols * stage_bytes(layout.kind);
      if (sparse_)
        kernels_.decode_sparse(stage, static_cast<unsigned>(c), scales, out.w + c / 2, out.columns + c / 2);
      else
        kernels_.decode_dense(layout.kind, stage, scales, zeros, out.w + c);
    }
  }

  void multiply_sparse(block& b, index_t from, index_t cols, matrix<float> const& columns, matrix<float>& sums) const {
    index_t const used = (cols + r16_stage_cols - 1) / r16_stage_cols * (r16_stage_cols / 2);
    if (cols % r16_stage_cols != 0) drop_padding(b, used, cols);
    kernels_.sparse_product(b.w, b.columns, used, sums.cols(), columns.row(from), sums.data());
  }

  /// Kept weights behind the last column are none.
  static void drop_padding(block& b, index_t used, index_t cols) {
    for (index_t s = 0; s < used; ++s)
      for (index_t r = 0; r < r16_rows; ++r)
        if (static_cast<index_t>(b.columns[s][r]) >= cols) {
          b.columns[s][r] = 0;
          b.w[s][r] = 0.0f;
        }
  }

  void multiply_dense(block const& b, index_t from, index_t cols, matrix_view<float const> x, matrix<float>& sums) const {
    float const* inputs[tokens_per_walk];
    for (index_t t = 0; t < x.rows(); ++t) inputs[t] = x.row(t) + from;
    kernels_.dense_product(b.w, cols, x.rows(), inputs, reinterpret_cast<float(*)[r16_rows]>(sums.data()));
  }

  void write(index_t rb, index_t first, index_t tokens, matrix<float> const& sums) const {
    for (index_t t = 0; t < tokens; ++t)
      for (index_t r = 0; r < std::min(r16_rows, w_.rows() - rb * r16_rows); ++r) {
        float& out = y_(first + t, rb * r16_rows + r);
        float const value = sparse_ ? sums(r, t) : sums(t, r);
        out = add_ ? out + value : value;
      }
  }

  r16_matrix const& w_;
  matrix_view<float> y_;
  bool add_, sparse_;
  context const& ctx_;
  exact_kernels const& kernels_;
};

} // namespace detail

/// Y = X W^T, or Y +=, with W (d_out x d_in) packed, X (tokens x d_in), Y (tokens x d_out). Integer inputs are rounded per
/// token and 32 channels; see input_precision.
///
/// **Numerics** Integer products are exact, sums over stages of 32 channels are float. Bits depend on the simd level, not on
/// the executor nor on the other tokens of the batch. NaN and infinity in X reach the outputs of their token: all of them with
/// integer inputs, those of kept weights with exact ones. @throws shape_error
inline void matmul_into(r16_matrix const& w, matrix_view<float const> x, matrix_view<float> y,
                        matmul_options const& options = {}, context const& ctx = {}) {
  if (x.cols() != w.cols() || y.cols() != w.rows() || x.rows() != y.rows())
    throw shape_error(message("matmul_into: X ", x.rows(), " x ", x.cols(), ", W ", w.rows(), " x ", w.cols(), ", Y ", y.rows(),
                              " x ", y.cols()));
  if (options.inputs == input_precision::exact) return detail::exact_product(w, y, options.add, ctx).run(x);
  detail::integer_product(w, y, options, ctx).run(x);
}

} // namespace slim::inline SLIM_ABI
