#pragma once
/// @file
/// Products of packed matrices with float inputs: codes are decoded a block at a time.

#include "slim/core/context.hpp"
#include "slim/core/matrix.hpp"
#include "slim/kernels/cpu/exact_kernels.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// X W^T for a few tokens, as integer_product. A block of 16 rows and 128 columns is decoded and serves all tokens: dense codes
/// with rows in the lanes of vectors; 2:4 codes with tokens in the lanes, which multiplies kept weights only.
class exact_product {
public:
  static constexpr index_t most_tokens = 64;

  exact_product(r16_matrix const& w, simd_level level)
      : w_(&w), kernels_(&exact_kernels_of(level)), sparse_(is_sparse(w.layout().kind)) {
    for (std::size_t k = 0; k < w.levels().size(); ++k) levels_[k] = static_cast<float>(w.levels()[k]);
  }

  void prepare(matrix_view<float const> x, context const&) {
    inputs_ = matrix<float>(x);
    if (!w_->input_factors().empty()) // the codes are decoded without them
      for (index_t t = 0; t < x.rows(); ++t)
        for (index_t j = 0; j < x.cols(); ++j) inputs_(t, j) *= w_->input_factors()[static_cast<std::size_t>(j)];
    if (!sparse_) return;
    columns_ = matrix<float>(w_->cols(), (x.rows() + 15) / 16 * 16);
    for (index_t j = 0; j < w_->cols(); ++j)
      for (index_t t = 0; t < x.rows(); ++t) columns_(j, t) = inputs_(t, j);
  }

  /// What a task can be made of: row blocks.
  [[nodiscard]] index_t parts() const noexcept { return w_->layout().row_blocks(); }

  /// Rows of W in parts [begin, end) into their columns of Y (tokens x d_out).
  void multiply(index_t begin, index_t end, matrix_view<float> y, bool add) const {
    block decoded;
    matrix<float> sums(sparse_ ? r16_rows : inputs_.rows(), sparse_ ? columns_.cols() : r16_rows);
    for (index_t rb = begin; rb < end; ++rb) {
      std::fill_n(sums.data(), sums.size(), 0.0f);
      for (index_t from = 0; from < w_->cols(); from += r16_block_cols) {
        index_t const cols = std::min(r16_block_cols, w_->cols() - from);
        decode(rb, from, cols, decoded);
        if (sparse_)
          multiply_sparse(decoded, from, cols, sums);
        else
          multiply_dense(decoded, from, cols, sums);
      }
      write(rb, y, add, sums);
    }
  }

private:
  static constexpr index_t slots = r16_block_cols / 2;

  struct block {
    alignas(64) float w[r16_block_cols][r16_rows];
    alignas(64) unsigned columns[slots][r16_rows];
  };

  void decode(index_t rb, index_t from, index_t cols, block& out) const {
    r16_layout const& layout = w_->layout();
    std::uint8_t const* const begin = w_->data() + rb * layout.row_block_bytes();
    float const* const book = has_book(layout.kind) ? levels_ : nullptr;
    alignas(64) float scales[r16_rows], zeros[r16_rows];
    index_t known = -1; // the set that scales and zeros are of
    for (index_t c = 0; c < cols; c += r16_stage_cols) {
      index_t const j = from + c, set = layout.scale_cols > 0 ? j / layout.scale_cols : 0;
      for (index_t r = 0; r < r16_rows && set != known; ++r) {
        scales[r] = w_->scale(rb * r16_rows + r, j);
        zeros[r] = static_cast<float>(w_->zero(rb * r16_rows + r, j));
      }
      known = set;
      if (has_row_books(layout.kind) || layout.scale_bits > 0) {
        decode_one_by_one(rb, j, scales, out.w + c);
        continue;
      }
      std::uint8_t const* const stage = begin + layout.stage_offset(j / r16_stage_cols);
      if (sparse_)
        kernels_->decode_sparse(stage, static_cast<unsigned>(c), scales, book, out.w + c / 2, out.columns + c / 2);
      else
        kernels_->decode_dense(layout.kind, stage, scales, zeros, book, out.w + c);
    }
  }

  /// A stage of levels per row, or of scales and offsets that are codes: what no kernel decodes.
  [[gnu::noinline]] void decode_one_by_one(index_t rb, index_t j, float const* scales, float (*w)[r16_rows]) const {
    r16_layout const& layout = w_->layout();
    std::uint8_t const* const stage = w_->data() + rb * layout.row_block_bytes() + layout.stage_offset(j / r16_stage_cols);
    index_t const tiles = has_tiles(layout.kind) ? 2 : 1, wide = r16_stage_cols / tiles;
    for (index_t r = 0; r < r16_rows; ++r)
      for (index_t first = 0; first < r16_stage_cols; first += wide) {
        index_t const i = rb * r16_rows + r;
        float const scale = tiles == 2 ? w_->scale(i, j + first) : scales[r], offset = w_->offset(i, j + first);
        for (index_t c = first; c < first + wide; ++c) {
          int const code = dense_code(layout.kind, stage, r, c);
          w[c][r] = scale * static_cast<float>(has_row_books(layout.kind) ? w_->row_level(i, code) : code) + offset;
        }
      }
  }

  void multiply_sparse(block& b, index_t from, index_t cols, matrix<float>& sums) const {
    index_t const used = (cols + r16_stage_cols - 1) / r16_stage_cols * (r16_stage_cols / 2);
    if (cols % r16_stage_cols != 0) drop_padding(b, used, cols);
    constexpr index_t tokens = 32; // 128 columns of so many fit the first cache twice
    for (index_t t = 0; t < sums.cols(); t += tokens)
      kernels_->sparse_product(b.w, b.columns, used, std::min(tokens, sums.cols() - t), columns_.row(from) + t, columns_.cols(),
                               sums.data() + t, sums.cols());
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

  void multiply_dense(block const& b, index_t from, index_t cols, matrix<float>& sums) const {
    float const* inputs[most_tokens];
    for (index_t t = 0; t < inputs_.rows(); ++t) inputs[t] = inputs_.row(t) + from;
    kernels_->dense_product(b.w, cols, inputs_.rows(), inputs, reinterpret_cast<float(*)[r16_rows]>(sums.data()));
  }

  void write(index_t rb, matrix_view<float> y, bool add, matrix<float> const& sums) const {
    for (index_t t = 0; t < inputs_.rows(); ++t)
      for (index_t r = 0; r < std::min(r16_rows, w_->rows() - rb * r16_rows); ++r) {
        float& out = y(t, rb * r16_rows + r);
        float const value = sparse_ ? sums(r, t) : sums(t, r);
        out = add ? out + value : value;
      }
  }

  r16_matrix const* w_;
  exact_kernels const* kernels_;
  bool sparse_;
  float levels_[16] = {};
  matrix<float> inputs_;  ///< tokens x d_in
  matrix<float> columns_; ///< X^T, tokens padded to 16, for 2:4
};

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
