#pragma once
/// @file
/// The accumulation of X^T X in linalg/gemm.hpp: tiles of the upper triangle, float inside blocks of rows, blocks in double.

#include "slim/linalg/gemm_tiled.hpp"
#include "slim/linalg/work_share.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Edge of the square tiles of the result: a multiple of every micro-kernel's width, and small enough for some parallel
/// tasks also where the matrix is small.
[[nodiscard]] constexpr index_t gram_tile(index_t d) { return d < 1536 ? 96 : 192; }

/// Tile `task` of the upper triangle, counted column by column: (0,0) (0,1) (1,1) (0,2) ...
struct gram_position {
  index_t row, col;
};

[[nodiscard]] constexpr gram_position gram_tile_at(index_t task) {
  index_t col = 0;
  while (task > col) task -= ++col;
  return {task, col};
}

/// One tile of X^T X over the packed rows of X: float inside a block of 256 rows, blocks added in double into `sum`.
inline void gram_tile_product(panel_source x, index_t first_row, index_t depth, packed_columns const& packed, index_t i,
                              index_t rows, index_t j, index_t cols, gemm_kernels const& kernels, double* sum) {
  aligned_buffer<float> left(round_up(rows, kernels.tile_rows) * std::min(gemm_depth, depth));
  aligned_buffer<float> product(rows * cols);
  for (index_t k = 0; k < depth; k += gemm_depth) {
    index_t const block_depth = std::min(gemm_depth, depth - k);
    pack_rows(kernels, x, i, rows, first_row + k, block_depth, left.data());
    multiply_packed(kernels, kernels.places(block_depth), left.data(), packed.block(k, block_depth, j), product.data(), cols,
                    rows, cols, false);
    for (index_t t = 0; t < rows * cols; ++t) sum[t] = static_cast<double>(product.data()[t]) + (k > 0 ? sum[t] : 0.0);
  }
}

/// G += X^T X for any strides of X. Tiles on and above the diagonal are computed; those above it are added on both sides. A
/// float G takes half the memory, and is rounded once per 64 MB of packed X: for callers who round to float anyway. Only tiles
/// of the share are added.
template <class T>
void add_gram_of(matrix_view<float const, strided> x, matrix_view<T> gram, context const& ctx, work_share share = all_work) {
  auto const& kernels = kernels_of(ctx);
  index_t const d = x.cols();
  if (x.empty()) return;
  index_t const edge = gram_tile(d), tiles = ceil_div(d, edge);
  index_t const strip = std::min(x.rows(), std::max<index_t>(1, gemm_packed_floats / d / gemm_depth) * gemm_depth);
  packed_columns packed(strip, d, kernels);
  for (index_t first = 0; first < x.rows(); first += strip) {
    index_t const depth = std::min(strip, x.rows() - first);
    packed.pack(cols_of(x), 0, d, first, depth, ctx);
    ctx.parallel_for(share.tasks(tiles * (tiles + 1) / 2), 1, [&](index_t place, index_t) {
      auto const tile = gram_tile_at(share.task(place));
      index_t const i = tile.row * edge, j = tile.col * edge;
      index_t const rows = std::min(edge, d - i), cols = std::min(edge, d - j);
      aligned_buffer<double> sum(rows * cols);
      gram_tile_product(cols_of(x), first, depth, packed, i, rows, j, cols, kernels, sum.data());
      for (index_t r = 0; r < rows; ++r)
        for (index_t s = 0; s < cols; ++s) gram(i + r, j + s) += static_cast<T>(sum.data()[r * cols + s]);
      if (i == j) return;
      for (index_t s = 0; s < cols; ++s)
        for (index_t r = 0; r < rows; ++r) gram(j + s, i + r) += static_cast<T>(sum.data()[r * cols + s]);
    });
  }
}

/// G += the upper triangle of P, on both sides: G stays symmetric, whatever P is. Only tiles of the share are added.
inline void add_upper_triangle(matrix_view<float const> product, matrix_view<double> gram, work_share share,
                               context const& ctx) {
  index_t const d = product.cols(), edge = gram_tile(d), tiles = ceil_div(d, edge);
  ctx.parallel_for(share.tasks(tiles * (tiles + 1) / 2), 1, [&](index_t place, index_t) {
    auto const tile = gram_tile_at(share.task(place));
    index_t const last_row = std::min(d, (tile.row + 1) * edge), last_col = std::min(d, (tile.col + 1) * edge);
    for (index_t i = tile.row * edge; i < last_row; ++i)
      for (index_t j = std::max(i, tile.col * edge); j < last_col; ++j) {
        gram(i, j) += static_cast<double>(product(i, j));
        if (i != j) gram(j, i) += static_cast<double>(product(i, j));
      }
  });
}

} // namespace detail

} // namespace SLIM_ABI
} // namespace slim
