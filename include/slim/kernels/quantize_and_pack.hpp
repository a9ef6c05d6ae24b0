#pragma once
/// @file
/// From float weights to the packed matrix that the kernels run on, in one walk: rounding to nearest (absmax), with or without
/// 2:4 pruning. 16 rows at a time: codes and mask never leave the cache, and every weight comes from memory once. Byte for byte
/// what the components give one after the other.

#include "slim/kernels/pack_r16.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"

namespace slim::inline SLIM_ABI {
namespace detail {

/// Room for 16 rows of codes and kept positions, and for one row of pruned weights.
struct pack_room {
  integer_codes codes;
  mask kept;
  std::vector<float> pruned;
};

/// `fill(i, k, room)` quantizes row i into row k of the room's codes (and mask, if sparse), for 16 rows at a time.
template <class F>
r16_matrix pack_row_by_row(index_t rows, index_t cols, absmax_quantizer const& quantizer, bool sparse, context const& ctx,
                           F const& fill) {
  absmax_config const& how = quantizer.config();
  bool const zero_points = !how.symmetric && rows > 0 && cols > 0;
  r16_packer packer({rows, cols, how.bits, how.block, zero_points, sparse, {}}, ctx.simd);
  constexpr index_t row_blocks_per_task = 4;
  ctx.parallel_for(packer.layout().row_blocks(), row_blocks_per_task, [&](index_t begin, index_t end) {
    pack_room room{quantizer.zero_codes(r16_rows, cols), mask(sparse ? r16_rows : 0, cols, {2, 4}),
                   std::vector<float>(static_cast<std::size_t>(sparse ? cols : 0))};
    for (index_t row_block = begin; row_block < end; ++row_block) {
      index_t const first = row_block * r16_rows;
      for (index_t k = 0; k < std::min(r16_rows, rows - first); ++k) fill(first + k, k, room);
      packer.put(row_block, room.codes, sparse ? &room.kept : nullptr, 0);
    }
  });
  return packer.take();
}

} // namespace detail

/// `pack_r16(absmax_quantizer(how).quantize(w))`. Blocks of scales that span rows take the components one after the other.
/// @throws config_error as pack_r16
[[nodiscard]] inline r16_matrix quantize_and_pack(matrix_view<float const> w, absmax_config const& how,
                                                  context const& ctx = {}) {
  absmax_quantizer const quantizer(how);
  if (how.block.rows_of(w.rows()) > 1) return pack_r16(quantizer.quantize(w, calibration(w.cols()), ctx), ctx);
  auto const& rounding = detail::rounding_kernels_of(ctx.simd);
  return detail::pack_row_by_row(w.rows(), w.cols(), quantizer, false, ctx, [&](index_t i, index_t k, detail::pack_room& room) {
    quantizer.quantize_row(rounding, w.row(i), room.codes, k);
  });
}

/// 2:4 pruning by a saliency, then absmax of what is kept: with `kept = nm_pruner<2, 4>(ranking).select(w, seen)` and pruned
/// weights 0, `pack_r16(absmax_quantizer(how).quantize(w), kept)`. @throws as they do
template <saliency Saliency>
[[nodiscard]] r16_matrix prune_and_pack(matrix_view<float const> w, Saliency const& ranking, absmax_config const& how,
                                        calibration const& seen, context const& ctx = {}) {
  absmax_quantizer const quantizer(how);
  if (how.block.rows_of(w.rows()) > 1) {
    mask const kept = nm_pruner<2, 4>(ranking).select(w, seen, ctx);
    matrix<float> pruned(w);
    kept.apply_to(pruned);
    return pack_r16(quantizer.quantize(pruned, seen, ctx), kept, ctx);
  }
  auto const score = ranking.prepare(w, seen);
  auto const& selection = detail::selection_kernels_of(ctx.simd);
  auto const& rounding = detail::rounding_kernels_of(ctx.simd);
  return detail::pack_row_by_row(w.rows(), w.cols(), quantizer, true, ctx, [&](index_t i, index_t k, detail::pack_room& room) {
    float* const pruned = room.pruned.data();
    detail::select_row<2, 4>(selection, score, i, w, room.kept.row(k), pruned);
    quantizer.quantize_row(rounding, pruned, room.codes, k);
  });
}

} // namespace slim::inline SLIM_ABI
