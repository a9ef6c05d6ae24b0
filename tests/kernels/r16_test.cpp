// The bytes of the layout, written here a second time from docs/formats/r16.md, and what comes back from them.
#include "slim/kernels/cpu/pack_r16.hpp"

#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/testing/hard_codes.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/unpack_r16.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

/// Codes that run through all values: 16 rows x 64 columns, one row block with two sets of scales and two stages.
integer_codes two_stages(int bits) {
  integer_codes codes(16, 64, bits, per_group(32), number_format::fp16);
  for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] = 0.5f * static_cast<float>(k + 1);
  for (index_t i = 0; i < 16; ++i)
    for (index_t j = 0; j < 64; ++j)
      codes.codes(i, j) = static_cast<std::int8_t>((7 * i + 3 * j + i * j) % (1 << bits) + codes.lowest());
  return codes;
}

unsigned stored(integer_codes const& codes, index_t i, index_t j) {
  return static_cast<unsigned>(codes.codes(i, j) + (1 << (codes.bits - 1)));
}

} // namespace

TEST_CASE("a set is 16 fp16 scales, little-endian, then 16 zero points without sign") {
  integer_codes codes = two_stages(4);
  codes.zeros = matrix<std::int8_t>(16, 2);
  for (index_t i = 0; i < 16; ++i) codes.zeros(i, 1) = static_cast<std::int8_t>(i - 8);
  r16_matrix const packed = pack_r16(codes);
  REQUIRE(packed.layout().header_bytes(2) == 128); // two sets of 48 bytes, up to a cache line
  CHECK(packed.data()[0] == 0x00);                 // 0.5 as fp16 is 0x3800
  CHECK(packed.data()[1] == 0x38);
  CHECK(packed.data()[48 + 2 * 15] == 0x00); // 16 is 0x4c00
  CHECK(packed.data()[48 + 2 * 15 + 1] == 0x4c);
  for (index_t i = 0; i < 16; ++i) CHECK(packed.data()[32 + i] == 8);
  for (index_t i = 0; i < 16; ++i) CHECK(packed.data()[48 + 32 + i] == i);
}

TEST_CASE("scales stand in front of their stages, as many sets as fill cache lines") {
  for (bool const zero_points : {false, true}) {
    integer_codes codes(32, 352, 2, per_group(32), number_format::fp16); // 11 sets of one stage
    for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] = static_cast<float>(k % 256 + 1);
    if (zero_points) codes.zeros = matrix<std::int8_t>(32, 11);
    for (index_t k = 0; k < codes.codes.size(); ++k) codes.codes.data()[k] = static_cast<std::int8_t>(k / 32 % 11 % 4 - 2);
    r16_matrix const packed = pack_r16(codes);
    index_t const row_block_bytes = zero_points ? 2 * (192 + 4 * 128) + 192 + 3 * 128 : 5 * (64 + 2 * 128) + 64 + 128;
    REQUIRE(packed.layout().byte_size() == 2 * row_block_bytes);
    for (index_t set = 0; set < 11; ++set) {
      index_t const chunk = zero_points ? set / 4 * (192 + 4 * 128) : set / 2 * (64 + 2 * 128);
      index_t const in_chunk = zero_points ? set % 4 : set % 2, header = zero_points ? 192 : 64;
      std::uint8_t const* const second = packed.data() + row_block_bytes;
      std::uint8_t const* const scales = second + chunk + in_chunk * (zero_points ? 48 : 32);
      for (index_t r = 0; r < 16; ++r)
        REQUIRE(fp16::from_bits(static_cast<std::uint16_t>(scales[2 * r] | scales[2 * r + 1] << 8)) ==
                fp16(codes.scales(16 + r, set)));
      auto const code = static_cast<std::uint8_t>(set % 4);
      std::uint8_t const four = static_cast<std::uint8_t>(code * 0b01010101);
      for (index_t k = 0; k < 128; ++k) REQUIRE(second[chunk + header + in_chunk * 128 + k] == four);
    }
  }
}

TEST_CASE("a stage of dense codes has the bits of the diagram") {
  for (int const bits : {2, 3, 4, 8}) {
    integer_codes const codes = two_stages(bits);
    r16_matrix const packed = pack_r16(codes);
    std::uint8_t const* const stage = packed.data() + 64 + stage_bytes(packed.layout().kind); // the second
    for (index_t r = 0; r < 16; ++r)
      for (index_t k = 0; k < 4; ++k) {
        auto const code = [&](index_t step) { return stored(codes, r, 32 + 4 * step + k); };
        index_t const byte = 4 * r + k;
        if (bits == 8)
          for (index_t s = 0; s < 8; ++s) REQUIRE(stage[64 * s + byte] == code(s));
        if (bits == 4)
          for (index_t v = 0; v < 4; ++v) REQUIRE(stage[64 * v + byte] == (code(2 * v) | code(2 * v + 1) << 4));
        if (bits == 2)
          for (index_t p = 0; p < 2; ++p)
            REQUIRE(stage[64 * p + byte] == (code(4 * p) | code(4 * p + 1) << 2 | code(4 * p + 2) << 4 | code(4 * p + 3) << 6));
        if (bits == 3) {
          unsigned top = 0;
          for (index_t v = 0; v < 3; ++v) {
            REQUIRE((stage[64 * v + byte] & 63u) == (code(2 * v) | code(2 * v + 1) << 3));
            top |= static_cast<unsigned>(stage[64 * v + byte] >> 6) << (2 * v);
          }
          REQUIRE(top == (code(6) | code(7) << 3));
        }
      }
  }
}

TEST_CASE("a stage of 2:4 codes has the bits of the diagram") {
  integer_codes const codes = two_stages(4);
  mask kept(16, 64, {2, 4});
  int const patterns[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
  auto const columns = [&](index_t r, index_t group) { return patterns[(r + group) % 6]; };
  for (index_t r = 0; r < 16; ++r)
    for (index_t group = 0; group < 16; ++group)
      for (int slot = 0; slot < 2; ++slot) kept.keep(r, 4 * group + columns(r, group)[slot]);
  r16_matrix const packed = pack_r16(codes, kept);
  std::uint8_t const* const stage = packed.data() + 64;
  for (index_t r = 0; r < 16; ++r)
    for (index_t k = 0; k < 4; ++k) {
      auto const column = [&](index_t step) { return static_cast<unsigned>(columns(r, 2 * step + k / 2)[k % 2]); };
      auto const code = [&](index_t step) { return stored(codes, r, 4 * (2 * step + k / 2) + column(step)); };
      REQUIRE(stage[4 * r + k] == (column(0) | column(1) << 2 | column(2) << 4 | column(3) << 6));
      REQUIRE(stage[64 + 4 * r + k] == (code(0) | code(1) << 4));
      REQUIRE(stage[128 + 4 * r + k] == (code(2) | code(3) << 4));
    }
}

TEST_CASE("numbers stand column by column, 16 rows side by side") {
  matrix<float> const w = normal_matrix(16, 32, 3);
  r16_matrix const packed = pack_r16(matrix_view<float const>(w.view()), number_format::bf16);
  for (index_t r = 0; r < 16; ++r)
    for (index_t c = 0; c < 32; ++c) {
      std::uint8_t const* const at = packed.data() + 32 * c + 2 * r;
      REQUIRE((at[0] | at[1] << 8) == bf16(w(r, c)).bits);
    }
}

TEST_CASE("unpack gives back codes, scales, zero points and mask, for any shape") {
  auto const [rows, cols] =
      GENERATE(table<index_t, index_t>({{16, 128}, {1, 1}, {3, 5}, {17, 129}, {40, 300}, {0, 7}, {5, 0}}));
  scale_block const blocks[] = {per_channel, per_group(32), per_group(128)};
  scale_block const block = blocks[GENERATE(range(0, 3))];
  matrix<float> const w = normal_matrix(rows, cols, 9);
  for (int const bits : {2, 3, 4, 8})
    for (bool const symmetric : {true, false}) {
      absmax_quantizer const rounding(
          {.bits = bits, .block = block, .symmetric = symmetric, .scale_format = number_format::fp16});
      integer_codes const codes = rounding.quantize(w.view(), calibration(cols));
      auto const unpacked = unpack_r16(pack_r16(codes));
      mask const& kept = unpacked.mask;
      REQUIRE(unpacked.codes.get_if<integer_codes>());
      integer_codes const& found = *unpacked.codes.get_if<integer_codes>();
      REQUIRE(found.bits == bits);
      REQUIRE(found.codes == codes.codes);
      REQUIRE(kept.count() == rows * cols);
      for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < cols; ++j) REQUIRE(found.value(i, j) == codes.value(i, j));
    }
  mask const kept = nm_pruner<2, 4>(magnitude{}).select(matrix_view<float const>(w.view()), calibration(cols));
  integer_codes codes =
      absmax_quantizer({.bits = 4, .block = block, .scale_format = number_format::fp16}).quantize(w.view(), calibration(cols));
  codes.channel_factors.assign(static_cast<std::size_t>(cols), 2.0f);
  auto const unpacked = unpack_r16(pack_r16(codes, kept));
  mask const& found_kept = unpacked.mask;
  integer_codes const& found = *unpacked.codes.get_if<integer_codes>();
  REQUIRE(found.channel_factors == codes.channel_factors);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      if (kept.kept(i, j)) REQUIRE(found_kept.kept(i, j));
      if (kept.kept(i, j)) REQUIRE(found.value(i, j) == codes.value(i, j));
      if (!kept.kept(i, j)) REQUIRE(found.codes(i, j) == 0); // pruned, or a filler
    }
}

TEST_CASE("a code book comes back as it went in") {
  integer_codes const codes = two_stages(4);
  std::vector<float> book(16);
  for (std::size_t k = 0; k < 16; ++k) book[k] = 0.125f * (static_cast<float>(k * 8) - 60.0f);
  book[0] = -15.875f; // 127 eighths
  codebook_codes const in_book = in_table(codes, book);
  auto const unpacked = unpack_r16(pack_r16(in_book));
  auto const* const found = unpacked.codes.get_if<codebook_codes>();
  REQUIRE(found);
  CHECK(found->books == in_book.books);
  CHECK(found->codes == in_book.codes);
  CHECK(found->scales.values() == codes.scales.values());
  matrix<float> const w = normal_matrix(2, 2, 1);
  CHECK_THROWS_AS(unpack_r16(pack_r16(matrix_view<float const>(w.view()), number_format::fp16)), config_error);
}
