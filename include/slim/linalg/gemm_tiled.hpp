#pragma once
/// @file
/// The algorithm of linalg/gemm.hpp: packed panels, tiles in registers [Goto, van de Geijn 2008]. Tiles of C and blocks of the
/// inner dimension depend on the shapes and the instruction set only.

#include "slim/core/context.hpp"
#include "slim/linalg/gemm_kernels.hpp"
#include "slim/linalg/gemm_packing.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace slim {
inline namespace SLIM_ABI {

/// What a product does to its destination.
enum class destination { overwrite, add, subtract };

namespace detail {

/// Inner dimension of a packed block: a panel of B (32 columns) and one of A fit the first-level cache together.
inline constexpr index_t gemm_depth = 256;
/// Rows of C per task: the packed block of A (200 kB) stays in the second-level cache.
inline constexpr index_t gemm_rows = 192;
/// Largest number of columns of C per task. A is packed again for each strip; that costs about 1% of the product.
inline constexpr index_t gemm_cols = 1024;
/// Largest number of floats of B that are packed at a time (64 MB).
inline constexpr index_t gemm_packed_floats = index_t{1} << 24;
/// Up to these numbers of rows (or columns) of C, packing the other operand costs more than it saves. The first is for inner
/// products of contiguous vectors (70% of the tiled speed), the second for combinations of rows (30%).
inline constexpr index_t gemm_thin_dots = 48;
inline constexpr index_t gemm_thin_rows = 12;
/// The widest panel of all kernels.
inline constexpr index_t gemm_max_width = 32;

[[nodiscard]] inline panel_source rows_of(matrix_view<float const, strided> a) {
  return {a.data(), a.row_stride(), a.col_stride()};
}
[[nodiscard]] inline panel_source cols_of(matrix_view<float const, strided> b) {
  return {b.data(), b.col_stride(), b.row_stride()};
}

/// One panel as the kernels read it: `lanes <= width` lanes from `first` on, inner indices [k0, k0 + depth), at most
/// gemm_depth.
inline void pack_panel_for(gemm_kernels const& kernels, panel_source source, index_t first, index_t lanes, index_t k0,
                           index_t depth, index_t width, float* out) {
  if (!kernels.round_pairs) return pack_panel(source, first, lanes, k0, depth, width, out);
  if (lanes == width && source.lane_stride == 1)
    return kernels.round_pairs(depth, width, source.at(first, k0), source.depth_stride, out);
  if (lanes == width && source.depth_stride == 1 && width % 4 == 0 && depth % 8 == 0)
    return kernels.round_lanes(depth, width, source.at(first, k0), source.lane_stride, out);
  float floats[gemm_depth * gemm_max_width];
  pack_panel(source, first, lanes, k0, depth, width, floats);
  kernels.round_pairs(depth, width, floats, width, out);
}

/// All panels of the rows [first, first + rows) of A, one behind the other.
inline void pack_rows(gemm_kernels const& kernels, panel_source source, index_t first, index_t rows, index_t k0, index_t depth,
                      float* out) {
  index_t const width = kernels.tile_rows;
  for (index_t i = 0; i < rows; i += width)
    pack_panel_for(kernels, source, first + i, std::min(width, rows - i), k0, depth, width, out + i * kernels.places(depth));
}

/// One block of C, `rows x cols`, from packed panels, whose depth is counted in places. Ragged tiles go through a full one on
/// the stack.
inline void multiply_packed(gemm_kernels const& kernels, index_t depth, float const* a, float const* b, float* c,
                            index_t c_stride, index_t rows, index_t cols, bool add) {
  index_t const tile_rows = kernels.tile_rows, tile_cols = kernels.tile_cols;
  float whole[12 * 32];
  for (index_t j = 0; j < cols; j += tile_cols)
    for (index_t i = 0; i < rows; i += tile_rows) {
      float* const corner = c + i * c_stride + j;
      if (i + tile_rows <= rows && j + tile_cols <= cols) {
        kernels.tile(depth, a + i * depth, b + j * depth, corner, c_stride, add);
        continue;
      }
      kernels.tile(depth, a + i * depth, b + j * depth, whole, tile_cols, false);
      for (index_t r = 0; r < std::min(tile_rows, rows - i); ++r)
        for (index_t s = 0; s < std::min(tile_cols, cols - j); ++s)
          corner[r * c_stride + s] = whole[r * tile_cols + s] + (add ? corner[r * c_stride + s] : 0.0f);
    }
}

/// B cut into blocks of `gemm_depth` inner indices, each packed into panels: the block at k0 begins at k0 * padded columns.
class packed_columns {
public:
  packed_columns(index_t max_depth, index_t max_cols, gemm_kernels const& kernels)
      : kernels_(kernels), width_(kernels.tile_cols), buffer_(max_depth * round_up(max_cols, kernels.tile_cols)) {}

  /// Columns [first, first + cols), inner indices [k0, k0 + depth) of `source`, in parallel.
  void pack(panel_source source, index_t first, index_t cols, index_t k0, index_t depth, context const& ctx) {
    padded_ = round_up(cols, width_);
    index_t const panels = padded_ / width_, blocks = ceil_div(depth, gemm_depth);
    ctx.parallel_for(panels * blocks, 8, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) {
        index_t const k = t / panels * gemm_depth, j = t % panels * width_;
        index_t const block_depth = std::min(gemm_depth, depth - k);
        pack_panel_for(kernels_, source, first + j, std::min(width_, cols - j), k0 + k, block_depth, width_,
                       buffer_.data() + k * padded_ + j * kernels_.places(block_depth));
      }
    });
  }

  /// Panels from column j on (a multiple of the panel's width) of the block of inner indices at k.
  [[nodiscard]] float const* block(index_t k, index_t block_depth, index_t j) const {
    return buffer_.data() + k * padded_ + j * kernels_.places(block_depth);
  }

private:
  gemm_kernels const& kernels_;
  index_t width_;
  index_t padded_ = 0;
  aligned_buffer<float> buffer_;
};

/// Of floats, or of pairs in bf16.
inline void negate(gemm_kernels const& kernels, float* data, index_t size) {
  std::uint32_t const signs = kernels.round_pairs ? 0x80008000u : 0x80000000u;
  for (index_t i = 0; i < size; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, data + i, sizeof bits);
    bits ^= signs;
    std::memcpy(data + i, &bits, sizeof bits);
  }
}

inline void store(float& where, float value, destination mode) {
  where = mode == destination::overwrite ? value : mode == destination::add ? where + value : where - value;
}

/// The grid of tasks over C: rows x cols per task, multiples of the tile.
struct gemm_grid {
  index_t rows, cols;
};

[[nodiscard]] inline gemm_grid grid_for(index_t m, index_t n, gemm_kernels const& kernels) {
  index_t const row_blocks = std::max<index_t>(1, ceil_div(m, gemm_rows));
  index_t cols = std::min(gemm_cols, round_up(n, kernels.tile_cols));
  while (cols > 128 && row_blocks * ceil_div(n, cols) < 32) cols /= 2;
  return {round_up(ceil_div(m, row_blocks), kernels.tile_rows), round_up(cols, kernels.tile_cols)};
}

/// The general case: B packed strip by strip, A block by block inside each task.
inline void multiply_tiled(matrix_view<float const, strided> a, matrix_view<float const, strided> b, matrix_view<float> c,
                           destination mode, context const& ctx) {
  auto const& kernels = kernels_of(ctx);
  index_t const m = c.rows(), n = c.cols(), depth = a.cols();
  auto const grid = grid_for(m, n, kernels);
  index_t const strip = std::min(n, std::max(grid.cols, gemm_packed_floats / depth / grid.cols * grid.cols));
  packed_columns packed(depth, strip, kernels);
  for (index_t first = 0; first < n; first += strip) {
    index_t const cols = std::min(strip, n - first);
    packed.pack(cols_of(b), first, cols, 0, depth, ctx);
    index_t const across = ceil_div(cols, grid.cols), down = ceil_div(m, grid.rows);
    ctx.parallel_for(across * down, 1, [&](index_t task, index_t) {
      index_t const i = task / across * grid.rows, j = task % across * grid.cols;
      index_t const rows = std::min(grid.rows, m - i), width = std::min(grid.cols, cols - j);
      aligned_buffer<float> left(round_up(rows, kernels.tile_rows) * std::min(gemm_depth, depth));
      for (index_t k = 0; k < depth; k += gemm_depth) {
        index_t const block_depth = std::min(gemm_depth, depth - k), places = kernels.places(block_depth);
        pack_rows(kernels, rows_of(a), i, rows, k, block_depth, left.data());
        if (mode == destination::subtract) negate(kernels, left.data(), round_up(rows, kernels.tile_rows) * places);
        multiply_packed(kernels, places, left.data(), packed.block(k, block_depth, j), c.row(i) + first + j, c.row_stride(),
                        rows, width, k > 0 || mode != destination::overwrite);
      }
    });
  }
}

/// Rows of A and columns of B both contiguous: inner products. Tasks are blocks of columns.
inline void multiply_thin_dots(matrix_view<float const, strided> a, matrix_view<float const, strided> b,
                               matrix_view<float, strided> c, destination mode, context const& ctx) {
  auto const& kernels = kernels_of(ctx.simd);
  index_t const m = c.rows(), n = c.cols(), depth = a.cols();
  index_t const grain = std::max<index_t>(4, round_up(ceil_div(index_t{1} << 16, depth), 4));
  ctx.parallel_for(n, grain, [&](index_t begin, index_t end) {
    for (index_t j = begin; j < end; j += 4)
      for (index_t i = 0; i < m; i += 2) { // rows and columns behind the end repeat the last one; their results are not stored
        auto const row = [&](index_t r) { return a.data() + std::min(r, m - 1) * a.row_stride(); };
        auto const column = [&](index_t s) { return b.data() + std::min(s, n - 1) * b.col_stride(); };
        float const* const left[2] = {row(i), row(i + 1)};
        float const* const right[4] = {column(j), column(j + 1), column(j + 2), column(j + 3)};
        float sum[8];
        kernels.dots(depth, left, right, sum);
        for (index_t r = 0; r < std::min<index_t>(2, m - i); ++r)
          for (index_t s = 0; s < std::min<index_t>(4, end - j); ++s) store(c(i + r, j + s), sum[4 * r + s], mode);
      }
  });
}

/// Rows of B contiguous: each row of C is a combination of them. Tasks are blocks of columns.
inline void multiply_thin_rows(matrix_view<float const, strided> a, matrix_view<float const, strided> b,
                               matrix_view<float, strided> c, destination mode, context const& ctx) {
  constexpr index_t width = 256;
  auto const& kernels = kernels_of(ctx.simd);
  index_t const m = c.rows(), n = c.cols(), depth = a.cols();
  index_t const grain = width * std::max<index_t>(1, (index_t{1} << 16) / (depth * width));
  ctx.parallel_for(n, grain, [&](index_t begin, index_t end) {
    float sum[width];
    for (index_t j = begin; j < end; j += width)
      for (index_t i = 0; i < m; ++i) {
        index_t const cols = std::min(width, end - j);
        kernels.combine(depth, a.data() + i * a.row_stride(), a.col_stride(), b.data() + j, b.row_stride(), cols, sum);
        for (index_t s = 0; s < cols; ++s) store(c(i, j + s), sum[s], mode);
      }
  });
}

/// C with few rows. Returns false if there are too many rows, or if the strides fit neither algorithm: then packing is faster.
[[nodiscard]] inline bool multiply_thin(matrix_view<float const, strided> a, matrix_view<float const, strided> b,
                                        matrix_view<float, strided> c, destination mode, context const& ctx) {
  bool const contiguous_b_rows = b.col_stride() == 1 || b.cols() == 1;
  bool const contiguous_b_cols = b.row_stride() == 1 || b.rows() == 1;
  bool const contiguous_a_rows = a.col_stride() == 1 || a.cols() == 1;
  if (c.rows() <= gemm_thin_dots && contiguous_b_cols && contiguous_a_rows)
    multiply_thin_dots(a, b, c, mode, ctx);
  else if (c.rows() <= gemm_thin_rows && contiguous_b_rows)
    multiply_thin_rows(a, b, c, mode, ctx);
  else
    return false;
  return true;
}

inline void multiply(matrix_view<float const, strided> a, matrix_view<float const, strided> b, matrix_view<float> c,
                     destination mode, context const& ctx) {
  matrix_view<float, strided> const result(c);
  if (multiply_thin(a, b, result, mode, ctx)) return;
  if (multiply_thin(transposed(b), transposed(a), transposed(result), mode, ctx)) return;
  multiply_tiled(a, b, c, mode, ctx);
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
