#pragma once
/// @file
/// `unpack_r16`: the codes of an R16 matrix, read byte by byte as kernels/cpu/r16.hpp describes the layout.

#include "slim/kernels/cpu/r16.hpp"
#include "slim/packing/side_data.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Codes, mask and code book that `pack_r16` was given. Codes of pruned weights are 0. Where a 2:4 group kept fewer than two
/// weights, the fillers are kept weights of code 0. Scales of channels have become fp32, codes of 5 to 7 bits 8; a book's scale
/// has gone to the levels' unit. @throws config_error if the matrix holds numbers.
[[nodiscard]] inline unpacked_matrix unpack_r16(r16_matrix const& packed) {
  r16_layout const& layout = packed.layout();
  if (!has_codes(layout.kind)) throw config_error(message("unpack_r16: the matrix holds ", name_of(layout.kind), ", no codes"));
  bool const grouped = layout.scale_cols > 0, zeros = layout.zero_points || !packed.row_zeros().empty();
  int const offset = 1 << (code_bits(layout.kind) - 1);
  detail::packed_parts found{
      integer_codes(layout.rows, layout.cols, code_bits(layout.kind), {1, layout.scale_cols},
                    grouped && !layout.wide_scales ? number_format::fp16 : number_format::fp32),
      mask(layout.rows, layout.cols, is_sparse(layout.kind) ? sparsity_pattern{2, 4} : sparsity_pattern{}),
      {}};
  integer_codes& codes = found.codes;
  if (zeros) codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
  for (index_t i = 0; i < codes.scales.rows(); ++i)
    for (index_t g = 0; g < codes.scales.cols(); ++g) {
      index_t const j = g * layout.scale_cols;
      codes.scales(i, g) = packed.scale(i, j) / packed.level_unit();
      if (zeros) codes.zeros(i, g) = static_cast<std::int8_t>(packed.zero(i, j) - offset);
    }
  for (float const factor : packed.input_factors()) codes.channel_factors.push_back(1 / factor);
  if (has_book(layout.kind)) {
    detail::code_book& book = found.book.emplace();
    for (std::size_t k = 0; k < book.size(); ++k) book[k] = static_cast<float>(packed.levels()[k]) * packed.level_unit();
  }
  auto const put = [&](index_t i, index_t j, int stored) {
    if (j >= layout.cols) return;
    codes.codes(i, j) = static_cast<std::int8_t>(stored - offset);
    found.kept.keep(i, j);
  };
  for (index_t i = 0; i < layout.rows; ++i)
    for (index_t first = 0; first < layout.cols; first += r16_stage_cols) {
      std::uint8_t const* const stage =
          packed.data() + i / r16_rows * layout.row_block_bytes() + layout.stage_offset(first / r16_stage_cols);
      for (index_t k = 0; k < r16_stage_cols; ++k) {
        if (!is_sparse(layout.kind)) put(i, first + k, detail::dense_code(layout.kind, stage, i % r16_rows, k));
        if (!is_sparse(layout.kind) || k % 4 != 0) continue;
        detail::sparse_pair const pair = detail::sparse_codes(stage, i % r16_rows, k / 4);
        for (int slot = 0; slot < 2; ++slot) put(i, first + k + pair.column[slot], pair.code[slot]);
      }
    }
  return detail::unpacked(std::move(found));
}

} // namespace SLIM_ABI
} // namespace slim
