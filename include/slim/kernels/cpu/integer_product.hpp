#pragma once
/// @file
/// Products of packed codes with inputs that are rounded to 8-bit integers.

#include "slim/kernels/cpu/activations.hpp"

#include <initializer_list>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// X W^T for a few tokens: `prepare` takes the tokens, then row blocks are computed in any order, on any threads.
class integer_product {
public:
  static constexpr index_t most_tokens = 64; ///< their inputs and outputs should stay in the caches

  integer_product(r16_matrix const& w, input_precision inputs, r16_kernels const& kernels)
      : w_(&w), few_(&kernels), kernels_(&kernels), planes_(inputs == input_precision::int16 ? 2 : 1),
        row_block_bytes_(w.layout().row_block_bytes()) {
    constexpr index_t wide = r16_block_cols / r16_stage_cols;
    r16_layout const& layout = w.layout();
    if (inputs == input_precision::int8_128 && layout.scale_cols % r16_block_cols == 0 && !narrow()) stages_per_scale_ = wide;
    bool const scales = layout.scale_cols > 0;
    index_t const set_stages = scales ? layout.scale_cols / r16_stage_cols : wide; // as if groups of 128 had no scales
    index_t const chunk_sets = layout.chunk_sets(), rest = layout.sets() % chunk_sets;
    walk_ = {.kind = layout.kind,
             .stage_count = layout.stages(),
             .scales = scales,
             .chunk_sets = chunk_sets,
             .header_bytes = layout.header_bytes(chunk_sets),
             .last_header_bytes = layout.header_bytes(rest > 0 ? rest : chunk_sets),
             .set_bytes = layout.set_bytes(),
             .set_stages = set_stages,
             .input_stages = stages_per_scale_,
             .set_inputs = (set_stages + stages_per_scale_ - 1) / stages_per_scale_,
             .zero_points = layout.zero_points,
             .scale_bytes = layout.scale_bytes(),
             .scale_bits = layout.scale_bits,
             .offset_bits = layout.offset_bits,
             .book = {}};
    for (std::size_t k = 0; k < w.levels().size(); ++k)
      walk_.book[k] = static_cast<std::uint8_t>(w.levels()[k] + (is_sparse(layout.kind) ? 0 : 128));
  }

  void prepare(matrix_view<float const> x, context const& ctx) {
    choose_kernels(x.rows());
    index_t const most = tokens_per_tile(), tiles = (x.rows() + most - 1) / most;
    tokens_ = x.rows();
    inputs_.assign(static_cast<std::size_t>(tiles), {});
    input_rounding const how{planes_,
                             stages_per_scale_,
                             walk_.set_inputs,
                             &w_->input_factors(),
                             kernels_->flips_inputs(w_->layout().kind),
                             has_tiles(w_->layout().kind)};
    ctx.parallel_for(tiles, 2, [&](index_t begin, index_t end) {
      for (index_t tile = begin; tile < end; ++tile) {
        index_t const tokens = std::min(most, x.rows() - tile * most);
        inputs_[static_cast<std::size_t>(tile)] =
            quantize_inputs(*kernels_, x.middle_rows(tile * most, tokens), width_of(tokens * planes_), how);
      }
    });
  }

  /// `prepare` of the tokens that another product was prepared for, if both round them alike; else false, and nothing is done.
  [[nodiscard]] bool prepare_as(integer_product const& other) {
    choose_kernels(other.tokens_);
    bool const same_level =
        kernels_->round_inputs == other.kernels_->round_inputs && kernels_->most_vectors == other.kernels_->most_vectors;
    bool const alike = same_level && planes_ == other.planes_ && w_->cols() == other.w_->cols() &&
                       walk_.input_stages == other.walk_.input_stages && walk_.set_inputs == other.walk_.set_inputs &&
                       narrow() == other.narrow() && has_tiles(w_->layout().kind) == has_tiles(other.w_->layout().kind) &&
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

  /// Rows of W in parts [begin, end) into their columns of Y (tokens x d_out). Parts are best computed many at a time: what
  /// happens between two calls of a kernel is not hidden behind the memory, and costs more than it looks.
  void multiply(index_t begin, index_t end, matrix_view<float> y, bool add) const {
    index_t const pairs = std::min(end, w_->layout().row_blocks() - parts()); // the last part may be a single row block
    if (inputs_.size() == 1 && inputs_[0].width <= 2) {
      for (index_t first = begin, count = 0; first < pairs; first += count)
        count = multiply_tile({first, first + parts()}, pairs - first, 0, y, add);
      if (std::max(begin, pairs) < end) multiply_tile({end - 1}, 1, 0, y, add);
    } else {
      for (index_t rb = begin; rb < end; ++rb) multiply_tiles(rb, y, add);
      for (index_t rb = begin; rb < pairs; ++rb) multiply_tiles(rb + parts(), y, add);
    }
  }

private:
  static constexpr index_t at_a_time = 64; ///< vectors times row blocks, where the kernel's sums are not the outputs

  void choose_kernels(index_t tokens) {
    kernels_ = few_->many && !narrow() && tokens * planes_ >= r16_kernels::fewest_of_many ? few_->many : few_;
  }

  /// Kinds whose tiles have 1 or 4 vectors.
  [[nodiscard]] bool narrow() const noexcept { return has_row_books(w_->layout().kind) || has_tiles(w_->layout().kind); }

  [[nodiscard]] index_t tokens_per_tile() const noexcept {
    return (narrow() ? std::min<index_t>(kernels_->most_vectors, 4) : kernels_->most_vectors) / planes_;
  }

  /// Vectors of a tile that holds so many.
  [[nodiscard]] index_t width_of(index_t vectors) const noexcept {
    return narrow() && vectors > 1 ? 4 : index_t{1} << log2_above(vectors);
  }

  [[nodiscard]] static int log2_above(index_t vectors) noexcept {
    int log = 0;
    while ((index_t{1} << log) < vectors) ++log;
    return log;
  }

  /// A row block times all tiles.
  void multiply_tiles(index_t rb, matrix_view<float> y, bool add) const {
    for (index_t tile = 0; tile < static_cast<index_t>(inputs_.size()); ++tile) multiply_tile({rb}, 1, tile, y, add);
  }

  /// Row blocks from each of `first` on, one or two of them, times a tile: up to `count`, returns how many.
  index_t multiply_tile(std::initializer_list<index_t> first, index_t count, index_t tile, matrix_view<float> y,
                        bool add) const {
    auto const kind = static_cast<int>(w_->layout().kind);
    input_tile const& inputs = inputs_[static_cast<std::size_t>(tile)];
    int const width = log2_above(inputs.width);
    index_t const first_token = tile * tokens_per_tile(), tokens = std::min(tokens_per_tile(), tokens_ - first_token);
    index_t const whole = w_->rows() / r16_rows - *(first.end() - 1); // row blocks of 16 rows that are there
    bool const finished = whole > 0 && w_->layout().scale_cols > 0 && w_->level_unit() == 1.0f;
    count = std::min(count, finished ? whole : at_a_time / inputs.width);
    float sums[2][at_a_time * r16_rows]; // [stream]
    auto const used = static_cast<int>(first.size());
    r16_output to{used, {}, y.row_stride(), tokens, planes_, add};
    if (!finished) to = {used, {}, count * r16_rows, inputs.width, 1, false};
    std::uint8_t const* streams[2] = {};
    for (int k = 0; k < used; ++k) {
      streams[k] = w_->data() + first.begin()[k] * row_block_bytes_;
      to.first[k] = finished ? y.row(first_token) + first.begin()[k] * r16_rows : sums[k];
    }
    kernels_->of[kind][width](walk_, streams, count, inputs.values.data(), inputs.scales.data(), inputs.sums.data(), to);
    for (int k = 0; k < used && !finished; ++k)
      for (index_t n = 0; n < count; ++n)
        finish(first.begin()[k] + n, inputs, sums[k] + n * r16_rows, to.stride, y.middle_rows(first_token, tokens), add);
    return count;
  }

  /// What a kernel found of a row block, a vector every `stride`, to the outputs of its tokens: scales of rows and levels, and
  /// rows that are not there.
  void finish(index_t rb, input_tile const& inputs, float* found, index_t stride, matrix_view<float> y, bool add) const {
    r16_layout const& layout = w_->layout();
    if (layout.scale_cols == 0) scale_rows(rb, inputs, found, stride);
    float const unit = layout.scale_cols == 0 ? 1.0f : w_->level_unit();
    index_t const rows = std::min(r16_rows, layout.rows - rb * r16_rows);
    for (index_t t = 0; t < y.rows(); ++t) {
      float* const out = y.row(t) + rb * r16_rows;
      float const* const s = found + t * planes_ * stride;
      for (index_t r = 0; r < rows; ++r) {
        float const value = unit * (planes_ == 2 ? s[r] + s[stride + r] : s[r]);
        out[r] = add ? out[r] + value : value;
      }
    }
  }

  /// Scale and zero point of rows that have only one.
  void scale_rows(index_t rb, input_tile const& inputs, float* found, index_t stride) const {
    auto const plain = static_cast<float>(plain_zero(w_->layout().kind));
    for (index_t t = 0; t < inputs.width; ++t) {
      float whole = 0;
      for (std::size_t k = static_cast<std::size_t>(t); k < inputs.sums.size(); k += static_cast<std::size_t>(inputs.width))
        whole += inputs.sums[k];
      for (index_t r = 0; r < r16_rows; ++r) {
        auto const row = static_cast<std::size_t>(rb * r16_rows + r);
        float const zero = w_->row_zeros().empty() ? plain : w_->row_zeros()[row];
        found[t * stride + r] = w_->row_scales()[row] * (found[t * stride + r] - zero * whole);
      }
    }
  }

  r16_matrix const* w_;
  r16_kernels const *few_, *kernels_; ///< given, and chosen for the number of vectors
  index_t planes_, row_block_bytes_, stages_per_scale_ = 1, tokens_ = 0;
  r16_walk walk_;
  std::vector<input_tile> inputs_;
};

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
