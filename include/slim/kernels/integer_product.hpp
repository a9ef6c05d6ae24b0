#pragma once
/// @file
/// Products of packed codes with inputs that are rounded to 8-bit integers.

#include "slim/kernels/activations.hpp"

namespace slim::inline SLIM_ABI {
namespace detail {

/// X W^T for a few tokens: `prepare` takes the tokens, then row blocks are computed in any order, on any threads.
class integer_product {
public:
  static constexpr index_t most_tokens = 64; ///< their inputs and outputs should stay in the caches

  integer_product(r16_matrix const& w, input_precision inputs, simd_level level)
      : w_(&w), kernels_(&r16_kernels_of(level)), planes_(inputs == input_precision::int16 ? 2 : 1),
        row_block_bytes_(w.layout().row_block_bytes()), header_bytes_(w.layout().header_bytes()) {
    constexpr index_t wide = r16_block_cols / r16_stage_cols;
    r16_layout const& layout = w.layout();
    if (inputs == input_precision::int8_128 && layout.scale_cols % r16_block_cols == 0) stages_per_scale_ = wide;
    for (std::size_t k = 0; k < w.levels().size(); ++k)
      book_[k] = static_cast<std::uint8_t>(w.levels()[k] + (is_sparse(layout.kind) ? 0 : 128));
    index_t const set_stages = layout.scale_cols > 0 ? layout.scale_cols / r16_stage_cols : layout.stages();
    walk_ = {.header = nullptr, // see block_of
             .stages = nullptr,
             .stage_count = layout.stages(),
             .scales = layout.scale_cols > 0,
             .set_bytes = layout.set_bytes(),
             .set_stages = set_stages,
             .input_stages = stages_per_scale_,
             .set_inputs = (set_stages + stages_per_scale_ - 1) / stages_per_scale_,
             .book = nullptr,
             .zero_points = layout.zero_points};
  }

  void prepare(matrix_view<float const> x, context const& ctx) {
    index_t const most = tokens_per_tile(), tiles = (x.rows() + most - 1) / most;
    tokens_ = x.rows();
    inputs_.assign(static_cast<std::size_t>(tiles), {});
    input_rounding const how{planes_, stages_per_scale_, std::max<index_t>(walk_.set_inputs, 1), &w_->input_factors(),
                             kernels_->flips_inputs(w_->layout().kind)};
    ctx.parallel_for(tiles, 2, [&](index_t begin, index_t end) {
      for (index_t tile = begin; tile < end; ++tile) {
        index_t const tokens = std::min(most, x.rows() - tile * most);
        inputs_[static_cast<std::size_t>(tile)] =
            quantize_inputs(*kernels_, x.middle_rows(tile * most, tokens), index_t{1} << log2_above(tokens * planes_), how);
      }
    });
  }

  /// `prepare` of the tokens that another product was prepared for, if both round them alike; else false, and nothing is done.
  [[nodiscard]] bool prepare_as(integer_product const& other) {
    bool const alike = kernels_ == other.kernels_ && planes_ == other.planes_ && w_->cols() == other.w_->cols() &&
                       walk_.input_stages == other.walk_.input_stages && walk_.set_inputs == other.walk_.set_inputs &&
                       w_->input_factors().empty() && other.w_->input_factors().empty();
    if (!alike) return false;
    tokens_ = other.tokens_;
    inputs_ = other.inputs_;
    if (kernels_->flips_inputs(w_->layout().kind) != kernels_->flips_inputs(other.w_->layout().kind))
      for (input_tile& tile : inputs_) flip_values(tile);
    return true;
  }

  /// What a task can be made of: two row blocks, one of either half of W. Memory answers two streams faster than one, and
  /// neighbouring pairs go on where the last ones ended.
  [[nodiscard]] index_t parts() const noexcept { return (w_->layout().row_blocks() + 1) / 2; }

  /// Rows of W in parts [begin, end) into their columns of Y (tokens x d_out).
  void multiply(index_t begin, index_t end, matrix_view<float> y, bool add) const {
    bool const few = inputs_.size() == 1 && inputs_[0].width <= 2;
    for (index_t first = begin; first < end; ++first) {
      index_t const pair[] = {first, first + parts()};
      std::span const row_blocks(pair, pair[1] < w_->layout().row_blocks() ? 2 : 1);
      if (few)
        multiply_tile(row_blocks, 0, y, add);
      else
        for (index_t const& rb : row_blocks)
          for (index_t tile = 0; tile < static_cast<index_t>(inputs_.size()); ++tile) multiply_tile({&rb, 1}, tile, y, add);
    }
  }

private:
  [[nodiscard]] index_t tokens_per_tile() const noexcept { return kernels_->most_vectors / planes_; }

  [[nodiscard]] static int log2_above(index_t vectors) noexcept {
    int log = 0;
    while ((index_t{1} << log) < vectors) ++log;
    return log;
  }

  [[nodiscard]] r16_row_block block_of(index_t rb) const noexcept {
    r16_row_block block = walk_;
    block.header = w_->data() + rb * row_block_bytes_;
    block.stages = block.header + header_bytes_;
    block.book = book_;
    return block;
  }

  /// One or two row blocks times a tile.
  void multiply_tile(std::span<index_t const> row_blocks, index_t tile, matrix_view<float> y, bool add) const {
    auto const kind = static_cast<int>(w_->layout().kind);
    input_tile const& inputs = inputs_[static_cast<std::size_t>(tile)];
    int const width = log2_above(inputs.width);
    float sums[8 * r16_rows];
    bool const two = row_blocks.size() == 2;
    r16_row_block const blocks[] = {block_of(row_blocks.front()), block_of(row_blocks.back())};
    r16_kernel const kernel = two ? kernels_->two[kind][width] : kernels_->of[kind][width];
    kernel(blocks, inputs.values.data(), inputs.scales.data(), inputs.sums.data(), sums);
    for (std::size_t k = 0; k < row_blocks.size(); ++k)
      write(row_blocks[k], inputs, sums + static_cast<index_t>(k) * inputs.width * r16_rows, tile * tokens_per_tile(), y, add);
  }

  void write(index_t rb, input_tile const& inputs, float* sums, index_t first, matrix_view<float> y, bool add) const {
    r16_layout const& layout = w_->layout();
    if (layout.scale_cols == 0) scale_rows(rb, inputs, sums);
    float const unit = layout.scale_cols == 0 ? 1.0f : w_->level_unit();
    index_t const rows = std::min(r16_rows, layout.rows - rb * r16_rows), count = std::min(tokens_per_tile(), tokens_ - first);
    for (index_t t = 0; t < count; ++t) {
      float* const out = y.row(first + t) + rb * r16_rows;
      float const* const s = sums + t * planes_ * r16_rows;
      float const* const rest = planes_ == 2 ? s + r16_rows : nullptr;
      float values[r16_rows]; // all, so that loops have a length
      for (index_t r = 0; r < r16_rows; ++r) values[r] = unit * (rest ? s[r] + rest[r] : s[r]);
      if (add)
        for (index_t r = 0; r < rows; ++r) out[r] += values[r];
      else
        std::copy_n(values, rows, out);
    }
  }

  /// Scale and zero point of rows that have only one.
  void scale_rows(index_t rb, input_tile const& inputs, float* sums) const {
    auto const plain = static_cast<float>(plain_zero(w_->layout().kind));
    for (index_t t = 0; t < inputs.width; ++t) {
      float const whole = inputs.sums[static_cast<std::size_t>(t)];
      for (index_t r = 0; r < r16_rows; ++r) {
        auto const row = static_cast<std::size_t>(rb * r16_rows + r);
        float const zero = w_->row_zeros().empty() ? plain : w_->row_zeros()[row];
        sums[t * r16_rows + r] = w_->row_scales()[row] * (sums[t * r16_rows + r] - zero * whole);
      }
    }
  }

  r16_matrix const* w_;
  r16_kernels const* kernels_;
  index_t planes_, row_block_bytes_, header_bytes_, stages_per_scale_ = 1, tokens_ = 0;
  r16_row_block walk_; ///< of every row block
  std::uint8_t book_[16] = {};
  std::vector<input_tile> inputs_;
};

} // namespace detail
} // namespace slim::inline SLIM_ABI
