#pragma once
/// @file
/// R16 products of many vectors with AMX tiles. The codes of a stage are spread to a panel of bytes once and meet up to 64
/// vectors: row s of the panel is columns 4 s .. 4 s + 3 of 16 rows, as a tile wants its second factor, and inputs lie as it
/// wants its first. Integer sums are exact and scales are applied in the order of the VNNI kernels: the bits are the same.
///
/// Tested in an emulator of the tiles (tests/support/emulated_tiles.hpp). It has not run on a machine that has them, so
/// nothing chooses it by itself: simd_level::amx asks for it.

#include "slim/kernels/cpu/amx_tiles.hpp"
#include "slim/kernels/cpu/r16_avx512.hpp"

#if SLIM_SIMD_X86
namespace slim {
inline namespace SLIM_ABI {
namespace detail {

SLIM_SIMD_BEGIN_AVX512_VNNI
namespace amx {

inline constexpr int most_vectors = 64;

/// Byte `Byte` of each lane of four, four times.
template <int Byte>
__attribute__((always_inline)) inline __m512i repeated(__m512i v) {
  __m512i const first = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0x00000000);
  return _mm512_shuffle_epi8(v, _mm512_add_epi8(first, _mm512_set1_epi8(Byte)));
}

/// Columns 4 (2 S + Group) and on of a 2:4 stage: each kept code in its column, 0 in the others.
template <int Group>
__attribute__((always_inline)) inline __m512i spread_group(__m512i codes, __m512i columns) {
  __m512i const all = _mm512_set1_epi32(0x03020100);
  __m512i const first =
      _mm512_maskz_mov_epi8(_mm512_cmpeq_epi8_mask(repeated<2 * Group>(columns), all), repeated<2 * Group>(codes));
  __m512i const second =
      _mm512_maskz_mov_epi8(_mm512_cmpeq_epi8_mask(repeated<2 * Group + 1>(columns), all), repeated<2 * Group + 1>(codes));
  return _mm512_or_si512(first, second);
}

template <r16_kind Kind, int S>
__attribute__((always_inline)) inline void spread_step(std::uint8_t const* stage, __m512i book, std::int8_t* panel) {
  if constexpr (!is_sparse(Kind)) {
    _mm512_storeu_si512(panel + 64 * S, avx512vnni::dense_codes<Kind, S>(stage, book));
  } else if constexpr (S < 4) {
    __m512i const codes = avx512vnni::sparse_codes<Kind, S>(stage, book);
    __m512i const columns =
        _mm512_and_si512(avx512vnni::shifted_right<2 * S>(avx512vnni::vector_at(stage)), avx512vnni::bytes_of(3));
    _mm512_storeu_si512(panel + 128 * S, spread_group<0>(codes, columns));
    _mm512_storeu_si512(panel + 128 * S + 64, spread_group<1>(codes, columns));
  }
}

/// The codes of a stage, as the VNNI kernels multiply them.
template <r16_kind Kind>
inline void spread(r16_walk const& a, std::uint8_t const* stage, std::int8_t* panel) {
  __m512i const book = avx512vnni::book_of<Kind>(a);
  spread_step<Kind, 0>(stage, book, panel);
  spread_step<Kind, 1>(stage, book, panel);
  spread_step<Kind, 2>(stage, book, panel);
  spread_step<Kind, 3>(stage, book, panel);
  spread_step<Kind, 4>(stage, book, panel);
  spread_step<Kind, 5>(stage, book, panel);
  spread_step<Kind, 6>(stage, book, panel);
  spread_step<Kind, 7>(stage, book, panel);
}

using spreader = void (*)(r16_walk const&, std::uint8_t const* stage, std::int8_t* panel);
inline constexpr spreader spreaders[] = {
    spread<r16_kind::sparse24>, spread<r16_kind::sparse24_book>, spread<r16_kind::dense2>, spread<r16_kind::dense3>,
    spread<r16_kind::dense4>,   spread<r16_kind::dense4_book>,   spread<r16_kind::dense8>};

/// Tile 0 is the panel, tiles 1 to 3 inputs, tiles 4 to 7 sums of up to 16 vectors each.
inline amx_config config_of(int vectors) {
  amx_config how;
  how.rows[0] = r16_stage_cols / 4;
  how.row_bytes[0] = 64;
  for (int tile = 1; tile < 8; ++tile) {
    how.rows[tile] = static_cast<std::uint8_t>(vectors);
    how.row_bytes[tile] = tile < 4 ? r16_stage_cols : 64;
  }
  return how;
}

/// Sums of 16 vectors over a stage.
template <int Group, class Tiles>
__attribute__((always_inline)) inline void add_vectors(Tiles& tiles, std::int8_t const* x, int vectors, bool signed_codes) {
  constexpr int inputs = 1 + Group % 3;
  tiles.template load<inputs>(x + Group * vectors * r16_stage_cols, r16_stage_cols);
  tiles.template multiply<4 + Group, inputs, 0>(signed_codes);
}

/// What the tile of 16 vectors has summed, times the scales of the inputs: `products` collects.
template <int Group, class Tiles>
inline void scale_vectors(Tiles& tiles, int vectors, float const* scales, float* products) {
  alignas(64) std::int32_t found[16 * r16_rows];
  tiles.template store<4 + Group>(found, 64);
  tiles.template zero<4 + Group>();
  for (int t = 0; t < vectors; ++t) {
    float* const product = products + (Group * vectors + t) * r16_rows;
    __m512 const sum = _mm512_maskz_cvtepi32_ps(avx512vnni::every_lane, _mm512_loadu_si512(found + t * r16_rows));
    _mm512_storeu_ps(product, _mm512_fmadd_ps(_mm512_set1_ps(scales[Group * vectors + t]), sum, _mm512_loadu_ps(product)));
  }
}

/// One set of scales of 16 rows, as add_set of r16_product.inc: `out` collects.
template <class Tiles>
inline void add_set(Tiles& tiles, int T, r16_walk const& a, std::uint8_t const* stage, std::uint8_t const* set, index_t stages,
                    std::int8_t const* x, float const* scales, float const* sums, float* out) {
  int const vectors = T < 16 ? T : 16, groups = T / vectors;
  spreader const spread_codes = spreaders[static_cast<int>(a.kind)];
  bool const sparse = is_sparse(a.kind);
  alignas(64) std::int8_t panel[r16_stage_cols * r16_rows];
  alignas(64) float products[most_vectors * r16_rows] = {};
  for (index_t s = 0; s < stages; s += a.input_stages, scales += T) {
    index_t const end = stages - s < a.input_stages ? stages - s : a.input_stages;
    for (index_t k = 0; k < end; ++k, stage += stage_bytes(a.kind), x += T * r16_stage_cols) {
      spread_codes(a, stage, panel);
      tiles.template load<0>(panel, 64);
      add_vectors<0>(tiles, x, vectors, sparse);
      if (groups > 1) add_vectors<1>(tiles, x, vectors, sparse);
      if (groups > 2) add_vectors<2>(tiles, x, vectors, sparse);
      if (groups > 2) add_vectors<3>(tiles, x, vectors, sparse);
    }
    scale_vectors<0>(tiles, vectors, scales, products);
    if (groups > 1) scale_vectors<1>(tiles, vectors, scales, products);
    if (groups > 2) scale_vectors<2>(tiles, vectors, scales, products);
    if (groups > 2) scale_vectors<3>(tiles, vectors, scales, products);
  }
  __m512 const unit = _mm512_set1_ps(a.kind == r16_kind::sparse24 ? avx512vnni::code_unit<r16_kind::sparse24> : 1.0f);
  __m512 scale = unit, zero = _mm512_setzero_ps();
  if (a.scales) {
    scale = (a.scale_bytes == 4 ? _mm512_loadu_ps(set) : avx512vnni::scales_of(set)) * unit;
    zero = a.zero_points ? avx512vnni::zeros_of(set + a.scale_bytes * r16_rows)
                         : _mm512_set1_ps(static_cast<float>(plain_zero(a.kind)));
  }
  for (int t = 0; t < T; ++t) {
    __m512 product = _mm512_loadu_ps(products + t * r16_rows);
    if (!sparse) product = _mm512_fmadd_ps(zero, _mm512_set1_ps(-sums[t]), product);
    _mm512_storeu_ps(out + t * r16_rows, _mm512_fmadd_ps(scale, product, _mm512_loadu_ps(out + t * r16_rows)));
  }
}

/// See r16_kernel and r16_product.inc. T is 8, 16, 32 or 64.
template <class Tiles>
inline void r16_product(Tiles& tiles, int T, r16_walk const& a, std::uint8_t const* stage, index_t row_blocks,
                        std::int8_t const* values, float const* scales, float const* sums, r16_output const& to) {
  index_t const chunk_stages = a.chunk_sets * a.set_stages;
  tiles.configure(config_of(T < 16 ? T : 16));
  tiles.template zero<4>();
  tiles.template zero<5>();
  tiles.template zero<6>();
  tiles.template zero<7>();
  for (index_t n = 0; n < row_blocks; ++n) {
    alignas(64) float found[most_vectors * r16_rows] = {};
    std::int8_t const* x = values;
    float const *scale = scales, *sum = sums;
    for (index_t left = a.stage_count; left > 0; left -= chunk_stages) {
      std::uint8_t const* set = stage;
      stage += left <= chunk_stages ? a.last_header_bytes : a.header_bytes;
      for (index_t of_chunk = left < chunk_stages ? left : chunk_stages; of_chunk > 0; of_chunk -= a.set_stages) {
        index_t const some = of_chunk < a.set_stages ? of_chunk : a.set_stages;
        add_set(tiles, T, a, stage, set, some, x, scale, sum, found);
        stage += some * stage_bytes(a.kind);
        set += a.set_bytes;
        x += some * T * r16_stage_cols;
        scale += a.set_inputs * T;
        sum += T;
      }
    }
    for (index_t t = 0; t < to.tokens; ++t) {
      float* const y = to.first[0] + t * to.stride + n * r16_rows;
      float const* const v = found + t * to.planes * r16_rows;
      __m512 total = _mm512_loadu_ps(v);
      if (to.planes == 2) total = total + _mm512_loadu_ps(v + r16_rows);
      _mm512_storeu_ps(y, to.add ? _mm512_loadu_ps(y) + total : total);
    }
  }
  tiles.release();
}

/// An r16_kernel of T vectors, of any kind.
template <class Tiles, int T>
inline void product_of(r16_walk const& a, std::uint8_t const* const* streams, index_t row_blocks, std::int8_t const* values,
                       float const* scales, float const* sums, r16_output const& to) {
  Tiles tiles;
  r16_product(tiles, T, a, streams[0], row_blocks, values, scales, sums, to);
}

} // namespace amx
SLIM_SIMD_END

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
#endif
