#pragma once
/// @file
/// Inner loops of products with R16 matrices, one set per instruction set, chosen at run time: a row block of 16 rows times a
/// tile of vectors of 8-bit inputs.

#include "slim/kernels/cpu/arm_dot.hpp"
#include "slim/kernels/cpu/r16_walk.hpp"
#include "slim/simd/levels.hpp"
#if !SLIM_DECLARES_ONLY
#pragma GCC diagnostic push // sizes of arrays of vectors are ints
#pragma GCC diagnostic ignored "-Wsign-conversion"
#include "slim/kernels/cpu/r16_amx.hpp"
#include "slim/kernels/cpu/r16_avx2.hpp"
#include "slim/kernels/cpu/r16_avx512.hpp"
#include "slim/kernels/cpu/r16_neon.hpp"
#pragma GCC diagnostic pop
#endif

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Row blocks of 16 rows that lie one behind the other, in one stream or in two (memory answers two faster than one; tiles of 1
/// and 2 vectors wait for it), times the vectors of a tile: the sum over the columns of scale (code - zero) x, with values,
/// scales and sums as in input_tile. Where a row has one scale it is left out, and so is the zero point of dense codes: the sum
/// is over code * x. Codes of a book are its levels, + 128 if dense.
using r16_kernel = void (*)(r16_walk const&, std::uint8_t const* const* streams, index_t row_blocks, std::int8_t const* values,
                            float const* scales, float const* sums, r16_output const& to);

/// Rounds stages of 32 inputs to int8 with one scale, largest / 127: codes to `out`, a stage every `out_stride`, scale and
/// scale times their sum, and what is left of x to `rest`, which may be x or null. An input that is not finite makes the scale
/// NaN; a scale that is no normal number makes all codes 0.
using input_kernel = void (*)(float const* x, index_t stages, std::int8_t* out, index_t out_stride, float* scale, float* sum,
                              float* rest);

/// Kernels of one instruction set.
struct r16_kernels {
  index_t most_vectors;    ///< of a tile
  bool unsigned_inputs[2]; ///< products with sparse24, sparse24_book want the inputs + 128
  input_kernel round_inputs;
  /// [kind][log2 of the vectors of a tile]; books per row and tiles of 16 x 16 have 1 and 4 vectors
  r16_kernel of[12][7];
  /// Takes over from `fewest_of_many` vectors on, and finds the same bits, for all but those; null: nobody does.
  r16_kernels const* many;

  static constexpr index_t fewest_of_many = 8;

  [[nodiscard]] bool flips_inputs(r16_kind kind) const noexcept {
    return is_sparse(kind) && unsigned_inputs[static_cast<int>(kind)];
  }
};

#if SLIM_DECLARES_ONLY
[[nodiscard]] r16_kernels const& r16_kernels_of_codes(simd_level wanted);
[[nodiscard]] r16_kernels const& r16_kernels_of_books(simd_level wanted);
#else

/// A product in any C++: the meaning of the others, stage by stage.
namespace scalar {

inline void round_inputs(float const* x, index_t stages, std::int8_t* out, index_t out_stride, float* scale, float* sum,
                         float* rest) {
  float largest = 0, finite = 0;
  for (index_t k = 0; k < stages * r16_stage_cols; ++k) {
    largest = std::max(largest, std::fabs(x[k]));
    finite += x[k] * 0.0f;
  }
  *scale = finite == finite ? largest / 127 : std::numeric_limits<float>::quiet_NaN();
  bool const normal = *scale >= smallest_input_scale;
  float const inverse = normal ? 1 / *scale : 0.0f;
  int total = 0;
  for (index_t k = 0; k < stages * r16_stage_cols; ++k) {
    float const level = normal ? std::min(std::max(x[k] * inverse, -127.0f), 127.0f) : 0.0f;
    int const code = round_to_int(level);
    out[k / r16_stage_cols * out_stride + k % r16_stage_cols] = static_cast<std::int8_t>(code);
    total += code;
    if (rest) rest[k] = x[k] - *scale * static_cast<float>(code);
  }
  *sum = *scale * static_cast<float>(total);
}

/// Code of column c of a dense stage, level of a book.
template <r16_kind Kind>
int multiplied_code(r16_walk const& a, std::uint8_t const* books, std::uint8_t const* stage, index_t r, index_t c) {
  int const code = dense_code(Kind, stage, r, c);
  if constexpr (has_row_books(Kind)) return books[64 * (r % 4) + 16 * (r / 4) + code];
  return has_book(Kind) ? a.book[code] : code;
}

/// Sum over columns first .. last - 1 (of 2:4: all) of a stage of a row.
template <r16_kind Kind>
int stage_product(r16_walk const& a, std::uint8_t const* books, std::uint8_t const* stage, index_t r, std::int8_t const* x,
                  index_t first = 0, index_t last = r16_stage_cols) {
  int sum = 0;
  if constexpr (is_sparse(Kind)) {
    for (index_t group = 0; group < r16_stage_cols / 4; ++group) {
      sparse_pair const pair = sparse_codes(stage, r, group);
      for (int slot = 0; slot < 2; ++slot) {
        int const level = has_book(Kind) ? static_cast<std::int8_t>(a.book[pair.code[slot]]) : pair.code[slot] - 8;
        sum += level * x[4 * group + pair.column[slot]];
      }
    }
  } else {
    for (index_t c = first; c < last; ++c) sum += multiplied_code<Kind>(a, books, stage, r, c) * x[c];
  }
  return sum;
}

/// Scale and offset of a row in a tile, from the codes and numbers of its set.
struct second_level_values {
  float scale, offset;
};
[[nodiscard]] inline second_level_values second_level_of(r16_walk const& a, std::uint8_t const* set, index_t r, int tile) {
  auto const word = [](std::uint8_t const* at) { return static_cast<std::uint16_t>(at[0] | at[1] << 8); };
  auto const number = [&](int k) { return static_cast<float>(fp16::from_bits(word(set + 2 * r16_rows + 8 * tile + 2 * k))); };
  unsigned const fields = unsigned{word(set + 2 * r)} >> (tile * (a.scale_bits + a.offset_bits));
  auto const scale = static_cast<float>(fields & ((1u << a.scale_bits) - 1u));
  auto const offset = static_cast<float>(fields >> a.scale_bits & ((1u << a.offset_bits) - 1u));
  return {number(0) * scale + number(1), number(2) * offset + number(3)};
}

/// A row block; returns where the next one begins. T is a number here: one body per kind is enough where speed is no matter.
template <r16_kind Kind>
std::uint8_t const* one_product(int T, r16_walk const& a, std::uint8_t const* stages, std::int8_t const* values,
                                float const* scales, float const* sums, float* out) {
  for (index_t k = 0; k < T * r16_rows; ++k) out[k] = 0.0f;
  std::uint8_t const* const books = stages;
  if constexpr (has_row_books(Kind)) stages += r16_book_bytes;
  std::uint8_t const* set = stages;
  constexpr int sums_of_set = has_tiles(Kind) ? 2 : 1;
  for (index_t first = 0, s = 0; first < a.stage_count; first += a.set_stages, ++s, sums += sums_of_set * T) {
    if (s % a.chunk_sets == 0) {
      set = stages;
      stages += a.stage_count - first <= a.chunk_sets * a.set_stages ? a.last_header_bytes : a.header_bytes;
    }
    index_t const count = std::min(a.stage_count - first, a.set_stages);
    for (index_t r = 0; r < r16_rows; ++r) {
      if constexpr (has_tiles(Kind)) {
        for (int tile = 0; tile < 2; ++tile) {
          second_level_values const found = second_level_of(a, set, r, tile);
          for (int t = 0; t < T; ++t) {
            int const dot = stage_product<Kind>(a, books, stages, r, values + t * r16_stage_cols, 16 * tile, 16 * tile + 16);
            out[t * r16_rows + r] += scales[t] * (found.scale * static_cast<float>(dot) + found.offset * sums[tile * T + t]);
          }
        }
        continue;
      }
      float scale = 1.0f, zero = 0.0f, offset = 0.0f;
      if (a.scale_bits > 0) {
        second_level_values const found = second_level_of(a, set, r, 0);
        scale = found.scale;
        offset = found.offset;
      } else if (a.scales) {
        if (a.scale_bytes == 4)
          std::memcpy(&scale, set + 4 * r, sizeof scale);
        else
          scale = static_cast<float>(fp16::from_bits(static_cast<std::uint16_t>(set[2 * r] | set[2 * r + 1] << 8)));
        zero = static_cast<float>(a.zero_points ? set[a.scale_bytes * r16_rows + r] : plain_zero(Kind));
      }
      for (int t = 0; t < T; ++t) {
        float sum = 0;
        for (index_t from = 0; from < count; from += a.input_stages) {
          int dot = 0;
          for (index_t k = from; k < std::min(count, from + a.input_stages); ++k)
            dot += stage_product<Kind>(a, books, stages + k * stage_bytes(Kind), r, values + (k * T + t) * r16_stage_cols);
          sum += scales[from / a.input_stages * T + t] * static_cast<float>(dot);
        }
        out[t * r16_rows + r] += scale * (sum - (is_sparse(Kind) ? 0.0f : zero * sums[t]));
        if (a.scale_bits > 0) out[t * r16_rows + r] += offset * sums[t];
      }
    }
    set += a.set_bytes;
    stages += count * stage_bytes(Kind);
    values += count * T * r16_stage_cols;
    scales += a.set_inputs * T;
  }
  return stages;
}

template <r16_kind Kind>
void product_of_kind(int T, r16_walk const& a, std::uint8_t const* const* streams, index_t row_blocks,
                     std::int8_t const* values, float const* scales, float const* sums, r16_output const& to) {
  for (int k = 0; k < to.streams; ++k) {
    std::uint8_t const* at = streams[k];
    for (index_t n = 0; n < row_blocks; ++n) {
      float found[8 * r16_rows];
      at = one_product<Kind>(T, a, at, values, scales, sums, found);
      for (index_t t = 0; t < to.tokens; ++t)
        for (index_t r = 0; r < r16_rows; ++r) {
          float& y = to.first[k][t * to.stride + n * r16_rows + r];
          float const* const v = found + t * to.planes * r16_rows + r;
          float sum = v[0];
          if (T > 1 && to.planes == 2) sum += v[r16_rows];
          y = to.add ? y + sum : sum;
        }
    }
  }
}

template <r16_kind Kind, int T>
void r16_product(r16_walk const& a, std::uint8_t const* const* streams, index_t row_blocks, std::int8_t const* values,
                 float const* scales, float const* sums, r16_output const& to) {
  product_of_kind<Kind>(T, a, streams, row_blocks, values, scales, sums, to);
}

} // namespace scalar

#define SLIM_R16_OF_KIND(space, kind)                                                                                          \
  {space::r16_product<kind, 1>, space::r16_product<kind, 2>, space::r16_product<kind, 4>, space::r16_product<kind, 8>}
#define SLIM_R16_UP_TO_4_OF_KIND(space, kind)                                                                                  \
  {space::r16_product<kind, 1>, space::r16_product<kind, 2>, space::r16_product<kind, 4>, nullptr}
#define SLIM_R16_ONE_OR_4(space, kind) {space::r16_product<kind, 1>, nullptr, space::r16_product<kind, 4>, nullptr}
#define SLIM_R16_CODES(of_kind, of_narrow, space)                                                                              \
  {of_kind(space, r16_kind::sparse24),                                                                                         \
   {},                                                                                                                         \
   of_kind(space, r16_kind::dense2),                                                                                           \
   of_kind(space, r16_kind::dense3),                                                                                           \
   of_kind(space, r16_kind::dense4),                                                                                           \
   {},                                                                                                                         \
   of_kind(space, r16_kind::dense8),                                                                                           \
   {},                                                                                                                         \
   {},                                                                                                                         \
   of_narrow(space, r16_kind::dense2_tiles),                                                                                   \
   of_narrow(space, r16_kind::dense3_tiles),                                                                                   \
   of_narrow(space, r16_kind::dense4_tiles)}
#define SLIM_R16_BOOKS(of_kind, of_narrow, space)                                                                              \
  {{},                                                                                                                         \
   of_kind(space, r16_kind::sparse24_book),                                                                                    \
   {},                                                                                                                         \
   {},                                                                                                                         \
   {},                                                                                                                         \
   of_kind(space, r16_kind::dense4_book),                                                                                      \
   {},                                                                                                                         \
   of_narrow(space, r16_kind::dense3_books),                                                                                   \
   of_narrow(space, r16_kind::dense4_books)}
#define SLIM_R16_TABLE(kinds, of_kind, space, most, flips, flips_book, rounding, many)                                         \
  {most, {flips, flips_book}, rounding, kinds(of_kind, SLIM_R16_ONE_OR_4, space), many}
/// The kernels of either family of kinds: `Books` those whose codes are positions in tables.
#define SLIM_R16_FAMILY(name, of_kind, space, most, flips, flips_book, rounding)                                               \
  template <bool Books>                                                                                                        \
  [[nodiscard]] constexpr r16_kernels name([[maybe_unused]] r16_kernels const* many) {                                         \
    if constexpr (Books)                                                                                                       \
      return SLIM_R16_TABLE(SLIM_R16_BOOKS, of_kind, space, most, flips, flips_book, rounding, many);                          \
    else                                                                                                                       \
      return SLIM_R16_TABLE(SLIM_R16_CODES, of_kind, space, most, flips, flips_book, rounding, many);                          \
  }

#if SLIM_SIMD_X86
/// Kernels of 8 to 64 vectors of a type of tiles, in place of those of VNNI: the same of every kind that they know.
template <class Tiles>
[[nodiscard]] constexpr r16_kernels tile_kernels() {
  r16_kernels found{amx::most_vectors, {false, false}, avx2::round_inputs, {}, nullptr};
  for (std::size_t kind = 0; kind < std::size(amx::spreaders); ++kind) {
    found.of[kind][3] = amx::product_of<Tiles, 8>;
    found.of[kind][4] = amx::product_of<Tiles, 16>;
    found.of[kind][5] = amx::product_of<Tiles, 32>;
    found.of[kind][6] = amx::product_of<Tiles, 64>;
  }
  return found;
}

SLIM_R16_FAMILY(vnni_kernels, SLIM_R16_OF_KIND, avx512vnni, 8, true, true, avx2::round_inputs)
SLIM_R16_FAMILY(avx2_kernels, SLIM_R16_UP_TO_4_OF_KIND, avx2, 4, true, false, avx2::round_inputs)
#elif SLIM_SIMD_ARM
SLIM_R16_FAMILY(dot_kernels, SLIM_R16_OF_KIND, neon, 8, false, false, scalar::round_inputs)
#endif
SLIM_R16_FAMILY(scalar_kernels, SLIM_R16_OF_KIND, scalar, 8, false, false, scalar::round_inputs)

/// The kernels of a family at a level; see r16_kernels_of_codes.
template <bool Books>
[[nodiscard]] r16_kernels const& r16_kernels_of_family(simd_level wanted) {
#if SLIM_SIMD_X86
  static constexpr r16_kernels vnni = vnni_kernels<Books>(nullptr), tiles = tile_kernels<amx_tiles>();
  static constexpr r16_kernels vnni_and_tiles = vnni_kernels<Books>(&tiles), avx2_table = avx2_kernels<Books>(nullptr);
  simd_level const level = resolve(wanted);
  if (wanted == simd_level::amx) return vnni_and_tiles;
  if (level == simd_level::avx512 && __builtin_cpu_supports("avx512vnni")) return vnni;
  if (level >= simd_level::avx2) return avx2_table;
#elif SLIM_SIMD_ARM
  static constexpr r16_kernels dot = dot_kernels<Books>(nullptr);
  (void)resolve(wanted);
  if (wanted == simd_level::automatic && has_dot_product()) return dot;
#else
  (void)resolve(wanted);
#endif
  static constexpr r16_kernels plain = scalar_kernels<Books>(nullptr);
  return plain;
}

/// The kernels of a level, of kinds whose codes are numbers; AVX-512 without VNNI runs those of AVX2, `amx` those of VNNI below
/// 8 vectors, `automatic` on ARM those of NEON if there is `sdot`. @throws config_error if the machine lacks the level.
[[nodiscard]] SLIM_DOOR r16_kernels const& r16_kernels_of_codes(simd_level wanted) {
  return r16_kernels_of_family<false>(wanted);
}
/// The same of kinds whose codes are positions in tables.
[[nodiscard]] SLIM_DOOR r16_kernels const& r16_kernels_of_books(simd_level wanted) {
  return r16_kernels_of_family<true>(wanted);
}

#undef SLIM_R16_OF_KIND
#undef SLIM_R16_UP_TO_4_OF_KIND
#undef SLIM_R16_ONE_OR_4
#undef SLIM_R16_CODES
#undef SLIM_R16_BOOKS
#undef SLIM_R16_TABLE
#undef SLIM_R16_FAMILY
#endif // !SLIM_DECLARES_ONLY

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
