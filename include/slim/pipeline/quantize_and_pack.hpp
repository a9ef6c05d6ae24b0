#pragma once
/// @file
/// From float weights to the packed matrix that the kernels run on, in one walk: rounding to nearest (absmax), with or without
/// 2:4 pruning. 16 rows at a time, a panel of columns after the other: weights come from memory once, and what is made of them
/// never leaves the cache. Byte for byte what the components give one after the other.

#include "slim/kernels/cpu/pack_r16.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"

#include <array>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// What one task works in: codes, scales and zero points of 16 rows, and, of pruned rows, the kept weights of a panel and the
/// places of all.
struct packing_room {
  matrix<std::int8_t> codes;
  matrix<std::uint8_t> places;
  std::vector<float> kept;
  matrix<float> scales;
  matrix<std::int8_t> zeros;
};

/// Packs rows that have scales of their own, a row block at a time. `weights(i, r, first, width, room)` gives those to round of
/// columns first .. first + width - 1 of row i, row r of the room: all of them or, if sparse, the kept ones, whose places it
/// notes.
template <class Weights>
r16_matrix pack_rows(matrix_view<float const> w, absmax_quantizer const& quantizer, bool sparse, context const& ctx,
                     Weights const& weights) {
  absmax_config const& how = quantizer.config();
  index_t const rows = w.rows(), cols = w.cols(), group = how.block.cols_of(cols), panel = quantizer.panel_cols(cols);
  r16_packer packer({rows, cols, how.bits, how.block, !how.symmetric && !w.empty(), sparse, false, {}}, ctx.simd);
  auto const& kernels = rounding_kernels_of(ctx.simd);
  auto const codes_of = [&](index_t columns) { return sparse ? (columns + 3) / 4 * 2 : columns; };
  index_t const groups = (cols + group - 1) / group;
  constexpr index_t row_blocks_per_task = 4;
  ctx.parallel_for(packer.layout().row_blocks(), row_blocks_per_task, [&](index_t begin, index_t end) {
    packing_room room{matrix<std::int8_t>(r16_rows, codes_of(cols)),
                      matrix<std::uint8_t>(sparse ? r16_rows : 0, codes_of(cols)),
                      std::vector<float>(static_cast<std::size_t>(sparse ? codes_of(panel) : 0)),
                      matrix<float>(r16_rows, groups), matrix<std::int8_t>(r16_rows, groups)};
    for (index_t row_block = begin; row_block < end; ++row_block) {
      index_t const begin_row = row_block * r16_rows, count = std::min(r16_rows, rows - begin_row);
      for (index_t r = 0; r < count; ++r)
        for (index_t first = 0; first < cols; first += panel) {
          index_t const width = std::min(panel, cols - first);
          quantizer.quantize_groups(kernels, weights(begin_row + r, r, first, width, room), codes_of(width),
                                    codes_of(std::min(group, cols)), room.scales.row(r) + first / group,
                                    room.zeros.row(r) + first / group, room.codes.row(r) + codes_of(first));
        }
      packer.begin(row_block);
      for (index_t r = 0; r < count; ++r) packer.put_scales(begin_row + r, 0, groups, room.scales.row(r), room.zeros.row(r));
      if (sparse)
        packer.put_gathered(row_block, room.codes, room.places);
      else
        packer.put_dense(row_block, room.codes);
    }
  });
  return packer.take();
}

/// The two kept weights of every four columns first .. first + width - 1 of row i, in order, and their places: bytes
/// `column << 4 | 8`. A last group of fewer columns may keep one: it gets a 0 at the lowest column that is free.
template <class Scorer>
void gather_kept(selection_kernels const& kernels, Scorer const& score, matrix_view<float const> w, index_t i, index_t first,
                 index_t width, float* kept, std::uint8_t* places) {
  constexpr index_t panel = 1024;
  for (; width > 0; first += panel, width -= panel, kept += panel / 2, places += panel / 2) {
    index_t const cols = std::min(panel, width), whole = cols / 4 * 4;
    if constexpr (requires { score.column_factors(); }) {
      kernels.gather_two_of_four(w.row(i) + first, nullptr, score.column_factors() + first, whole, kept, places);
    } else {
      std::array<float, panel> scores;
      for (index_t j = 0; j < whole; ++j) scores[static_cast<std::size_t>(j)] = score(i, first + j);
      kernels.gather_two_of_four(w.row(i) + first, scores.data(), nullptr, whole, kept, places);
    }
    if (whole == cols) continue;
    float scores[4];
    std::uint8_t flags[4];
    for (index_t k = 0; k < cols - whole; ++k) scores[k] = score(i, first + whole + k);
    select_group<2, 4>(scores, cols - whole, flags);
    index_t slot = whole / 2;
    auto const put = [&](index_t column, float value) {
      kept[slot] = value;
      places[slot++] = static_cast<std::uint8_t>(column << 4 | 8);
    };
    bool const alone = std::count(flags, flags + (cols - whole), std::uint8_t{1}) == 1;
    if (alone && !flags[0]) put(0, 0.0f);
    for (index_t k = 0; k < cols - whole; ++k)
      if (flags[k]) put(k, w(i, first + whole + k));
    if (alone && flags[0]) put(1, 0.0f);
  }
}

/// Whether a walk over row blocks knows all it needs: scales of single rows, which are not fitted to fp16 afterwards.
[[nodiscard]] inline bool packs_by_rows(matrix_view<float const> w, absmax_config const& how) {
  bool const grouped = how.block.cols_of(w.cols()) < w.cols();
  return how.block.rows_of(w.rows()) <= 1 && (!grouped || how.scale_format == number_format::fp16);
}

} // namespace detail

/// `pack_r16(absmax_quantizer(how).quantize(w))`. Blocks of scales that span rows, and scales of groups
/// that are not fp16, take the components one after the other.
/// @throws config_error as pack_r16
[[nodiscard]] inline r16_matrix quantize_and_pack(matrix_view<float const> w, absmax_config const& how,
                                                  context const& ctx = {}) {
  absmax_quantizer const quantizer(how);
  if (!detail::packs_by_rows(w, how)) return pack_r16(quantizer.quantize(w, calibration(w.cols()), ctx), ctx);
  return detail::pack_rows(w, quantizer, false, ctx,
                           [&](index_t i, index_t, index_t first, index_t, detail::packing_room&) { return w.row(i) + first; });
}

/// 2:4 pruning by a saliency, then absmax of what is kept: with `kept = nm_pruner<2, 4>(ranking).select(w, calib)` and pruned
/// weights 0, `pack_r16(absmax_quantizer(how).quantize(w), kept)`. @throws as they do
template <saliency Saliency>
[[nodiscard]] r16_matrix prune_and_pack(matrix_view<float const> w, calibration const& calib, Saliency const& ranking,
                                        absmax_config const& how, context const& ctx = {}) {
  absmax_quantizer const quantizer(how);
  if (!detail::packs_by_rows(w, how)) {
    mask const kept = nm_pruner<2, 4>(ranking).select(w, calib, ctx);
    matrix<float> pruned(w);
    kept.apply_to(pruned);
    return pack_r16(quantizer.quantize(pruned, calib, ctx), kept, ctx);
  }
  auto const score = ranking.prepare(w, calib, ctx);
  auto const& selection = detail::selection_kernels_of(ctx.simd);
  return detail::pack_rows(
      w, quantizer, true, ctx, [&](index_t i, index_t r, index_t first, index_t width, detail::packing_room& room) {
        detail::gather_kept(selection, score, w, i, first, width, room.kept.data(), room.places.row(r) + first / 2);
        return static_cast<float const*>(room.kept.data());
      });
}

} // namespace SLIM_ABI
} // namespace slim
