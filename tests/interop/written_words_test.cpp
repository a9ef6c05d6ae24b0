// Codes written as the words of GPTQ, compressed-tensors and MLX: golden words that their own packers made, an oracle that
// reads one bit at a time, and the way back.

#include "slim/interop/compressed_tensors.hpp"
#include "slim/interop/gptq.hpp"
#include "slim/interop/mlx.hpp"
#include "slim/packing/dense_codes.hpp"

#include <catch2/catch.hpp>

namespace {

using Catch::Contains;
using namespace slim;

std::vector<std::int32_t> words(std::vector<std::uint32_t> const& bits) { return {bits.begin(), bits.end()}; }

/// Field k of a stream whose words lie `stride` apart, bit by bit.
int field(std::vector<std::int32_t> const& stream, index_t first, index_t stride, index_t k, int bits) {
  int value = 0;
  for (int b = 0; b < bits; ++b) {
    index_t const at = k * bits + b;
    auto const w = static_cast<std::uint32_t>(stream[static_cast<std::size_t>(first + at / 32 * stride)]);
    value |= static_cast<int>(w >> (at % 32) & 1u) << b;
  }
  return value;
}

/// Codes with every value of their bits, scales of 8 significant bits, zero points if asked for.
integer_codes some_codes(index_t rows, index_t cols, int bits, index_t group, bool asymmetric) {
  integer_codes c(rows, cols, bits, per_group(group), number_format::fp16);
  int const n = 1 << bits;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) c.codes(i, j) = static_cast<std::int8_t>((i * 7 + j * 11 + j / 3) % n - n / 2);
  for (index_t i = 0; i < c.scales.rows(); ++i)
    for (index_t g = 0; g < c.scales.cols(); ++g) c.scales(i, g) = static_cast<float>(129 + (i * 5 + g * 3) % 127) * 0x1p-12f;
  if (!asymmetric) return c;
  c.zeros = matrix<std::int8_t>(c.scales.rows(), c.scales.cols());
  for (index_t k = 0; k < c.zeros.size(); ++k) c.zeros.data()[k] = static_cast<std::int8_t>(k % n - n / 2);
  return c;
}

matrix<float> values_of(integer_codes const& c) {
  matrix<float> w(c.rows(), c.cols());
  c.dequantize_into(w.view());
  return w;
}

/// Row r, column c: ((5 r + 7 c + c / 3) mod 16) - 8.
integer_codes golden_codes() {
  integer_codes c(4, 16, 4, per_group(16), number_format::fp16);
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 16; ++j) c.codes(i, j) = static_cast<std::int8_t>((5 * i + 7 * j + j / 3) % 16 - 8);
  for (index_t i = 0; i < 4; ++i) c.scales(i, 0) = 0.5f;
  return c;
}

} // namespace

TEST_CASE("compressed-tensors and GPTQ have the words that their own packers make") {
  CHECK(to_pack_quantized(golden_codes(), 16).weight_packed ==
        words({0x3c4d6e70, 0xe6f8092a, 0x8192b3c5, 0x3b4d5e7f, 0xd6e7081a, 0x8092a3c4, 0x2b3c5d6f, 0xd5e7f819}));
  integer_codes four(8, 16, 4, per_group(16), number_format::fp16); // GPTQ's zero points want 8 outputs: two times the four
  for (index_t i = 0; i < 8; ++i)
    for (index_t j = 0; j < 16; ++j) four.codes(i, j) = golden_codes().codes(i % 4, j);
  gptq_layer const one = to_gptq(four, 16, true), two = to_gptq(four, 16, false);
  CHECK(one.qweight == words({0x3c4d6e70, 0x8192b3c5, 0xd6e7081a, 0x2b3c5d6f, 0x3c4d6e70, 0x8192b3c5, 0xd6e7081a, 0x2b3c5d6f,
                              0xe6f8092a, 0x3b4d5e7f, 0x8092a3c4, 0xd5e7f819, 0xe6f8092a, 0x3b4d5e7f, 0x8092a3c4, 0xd5e7f819}));
  CHECK(one.qzeros == words({0x77777777}));
  CHECK(two.qzeros == words({0x88888888}));
  CHECK(one.g_idx == std::vector<std::int32_t>(16, 0));
}

TEST_CASE("MLX's own words, scale and bias are read as the codes they are, and written again") {
  // mlx.core.quantize 0.32.4 of ((37 i) mod 101 - 50) / 64, i = 0 .. 31, float16, groups of 32, 3 bits
  std::vector<std::int32_t> const weight = words({0xf078ceaf, 0x50f19d5e, 0xa1e33abd});
  std::vector<float> const scale{static_cast<float>(fp16::from_bits(0xb240))},
      bias{static_cast<float>(fp16::from_bits(0x3a40))};
  integer_codes const codes = from_mlx({.d_out = 1, .d_in = 32, .bits = 3, .weight = weight, .scales = scale, .biases = bias});
  CHECK((codes.offsets.empty() && codes.symmetric()));
  CHECK(codes.value(0, 0) == -0.5859375f); // mlx.core.dequantize
  CHECK(codes.value(0, 1) == -0.1953125f);
  CHECK(codes.value(0, 2) == 0.390625f);
  mlx_layer const again = to_mlx(codes, 32);
  CHECK(again.weight == weight);
  CHECK((again.scales(0, 0) == scale[0] && again.biases(0, 0) == bias[0]));
  std::vector<float> const other{0.3f}; // no multiple of the scale: an offset
  integer_codes const shifted =
      from_mlx({.d_out = 1, .d_in = 32, .bits = 3, .weight = weight, .scales = scale, .biases = other});
  CHECK(shifted.value(0, 0) == scale[0] * 7 + 0.3f);
  CHECK_THAT(why_not_pack_quantized(shifted, 32), Contains("real offsets have no place"));
}

TEST_CASE("every bit of the written words is where the formats say, and the way back gives the same codes") {
  for (int const bits : {2, 3, 4, 8})
    for (bool const asymmetric : {false, true}) {
      integer_codes const c = some_codes(32, 96, bits, 32, asymmetric);
      int const middle = 1 << (bits - 1);
      pack_quantized_layer const ct = to_pack_quantized(c, 32);
      gptq_layer const gptq = to_gptq(c, 32, false);
      index_t const across = 96 * bits / 32;
      int wrong = 0;
      for (index_t i = 0; i < 32; ++i)
        for (index_t j = 0; j < 96; ++j) {
          int const stored = c.codes(i, j) + middle;
          wrong += field(ct.weight_packed, i * across, 1, j, bits) != stored;
          wrong += field(gptq.qweight, i, 32, j, bits) != stored;
        }
      for (index_t i = 0; i < 32; ++i)
        for (index_t g = 0; g < 3; ++g) {
          int const stored = c.zero_at(i, g * 32) + middle;
          if (asymmetric) wrong += field(ct.weight_zero_point, g, 3, i, bits) != stored;
          wrong += field(gptq.qzeros, g * bits, 1, i, bits) != stored;
        }
      CHECK(wrong == 0);
      CHECK(from_pack_quantized(ct.arrays()) == c);
      CHECK(from_gptq(gptq.arrays()).codes == c);
      if (bits == 8 && asymmetric) continue; // scale times zero point needs more bits than fp16 has
      if (bits == 4 && asymmetric) {
        CHECK_THAT(why_not_mlx(c, 32), Contains("is not a number of fp16; scales of 8 significant bits"));
        continue;
      }
      mlx_layer const mlx = to_mlx(c, 32);
      CHECK(mlx.weight == ct.weight_packed);
      for (index_t i = 0; i < 32; ++i)
        for (index_t g = 0; g < 3; ++g)
          REQUIRE(mlx.biases(i, g) == -c.scales(i, g) * static_cast<float>(c.zero_at(i, g * 32) + middle));
      CHECK(from_mlx(mlx.arrays()) == c);
    }
}

TEST_CASE("a last word that is not full, and rows that share words of zero points") {
  integer_codes const c = some_codes(5, 40, 3, 20, true); // 120 bits of a row in 4 words, 15 bits of zero points in one
  pack_quantized_layer const ct = to_pack_quantized(c, 20);
  CHECK((ct.weight_packed.size() == 20 && ct.weight_zero_point.size() == 2));
  CHECK(from_pack_quantized(ct.arrays()) == c);
  CHECK_THAT(why_not_gptq(c, 20, false), Contains("fill no whole words"));
}

TEST_CASE("groups that do not divide the columns are cut with their scale repeated, values unchanged") {
  for (bool const asymmetric : {false, true}) {
    integer_codes const c = some_codes(16, 192, 3, 128, asymmetric); // 128 and 64
    CHECK(even_group(c) == 64);
    integer_codes const even = in_even_groups(c, 64);
    CHECK(even.scales.cols() == 3);
    CHECK(even.scales(3, 0) == even.scales(3, 1));
    CHECK(values_of(even) == values_of(c));
    CHECK(values_of(from_pack_quantized(to_pack_quantized(c, 32).arrays())) == values_of(c));
    CHECK(why_not_pack_quantized(c, 128) == "groups of 128 columns do not divide the 64 that share a scale in each of 192");
    CHECK_THROWS_WITH(in_even_groups(c, 128), Contains("groups of 128 do not divide"));
  }
  integer_codes whole(4, 64, 4, per_tensor, number_format::fp16);
  whole.scales(0, 0) = 0.25f;
  CHECK(even_group(whole) == 64);
  CHECK(in_even_groups(whole, 32).scales(3, 1) == 0.25f);
}

TEST_CASE("zero points that are signs of scales become negative scales, with the same values; others stay") {
  integer_codes c = some_codes(6, 64, 4, 32, true);
  for (index_t k = 0; k < c.zeros.size(); ++k) c.zeros.data()[k] = static_cast<std::int8_t>(-(k % 3 == 1));
  for (bool const flagged : {false, true}) {
    c.signed_scales = flagged;
    integer_codes const turned = with_negative_scales(c);
    CHECK(turned.zeros.empty());
    CHECK(turned.scales(0, 1) == -c.scales(0, 1));
    CHECK(values_of(turned) == values_of(c));
    CHECK_NOTHROW(turned.check_codes("test"));
    integer_codes back = with_positive_scales(turned);
    back.signed_scales = flagged;
    CHECK(back == c);
  }
  integer_codes affine = some_codes(6, 64, 3, 16, true);
  for (index_t k = 0; k < affine.scales.size(); k += 3) affine.scales.data()[k] = -affine.scales.data()[k];
  integer_codes const positive = with_positive_scales(affine);
  CHECK(values_of(positive) == values_of(affine));
  CHECK_NOTHROW(positive.check_codes("test"));
  CHECK_NOTHROW(slim::dense_codes::pack(positive));
  c.signed_scales = false;
  c.zeros(2, 0) = 1;
  CHECK(with_negative_scales(c) == c);
}

TEST_CASE("what a format cannot hold is said before anything is written") {
  integer_codes c = some_codes(32, 64, 4, 32, false);
  auto const all = [&](char const* sentence) {
    CHECK_THAT(why_not_pack_quantized(c, 32), Contains(sentence));
    CHECK_THAT(why_not_gptq(c, 32, true), Contains(sentence));
    CHECK_THAT(why_not_mlx(c, 32), Contains(sentence));
    CHECK_THROWS_WITH(to_pack_quantized(c, 32), Contains(sentence));
    CHECK_THROWS_WITH(to_gptq(c, 32, true), Contains(sentence));
    CHECK_THROWS_WITH(to_mlx(c, 32), Contains(sentence));
  };
  c.channel_factors.assign(64, 2.0f);
  all("factors of input channels");
  c.channel_factors.assign(64, 1.0f);
  CHECK(why_not_gptq(c, 32, true).empty());
  c.group_bits = {4, 3};
  c.codes = matrix<std::int8_t>(32, 64);
  all("bits of their own");
  c = some_codes(32, 64, 4, 32, false);
  c.scales(3, 1) = 0.1f;
  all("the scale 0.1 of row 3 is not a number of fp16");
  CHECK(why_not_pack_quantized(c, 32, number_format::fp32).empty());
  c = some_codes(32, 64, 5, 32, false);
  all("codes of 5 bits");
  c = some_codes(32, 64, 4, 32, true); // a zero point at the lowest code
  CHECK_THAT(why_not_gptq(c, 32, true), Contains("has no place in version 1"));
  for (index_t k = 0; k < c.zeros.size(); ++k) c.zeros.data()[k] = static_cast<std::int8_t>(8);
  CHECK(why_not_gptq(c, 32, true).empty()); // 16, stored as 15
  CHECK_THAT(why_not_gptq(c, 32, false), Contains("zero point 16 has no place in version 2"));
  CHECK_THAT(why_not_pack_quantized(c, 32), Contains("a zero point lies outside"));
  CHECK(from_gptq(to_gptq(c, 32, true).arrays()).codes == c);
  CHECK_THAT(why_not_mlx(some_codes(32, 64, 4, 16, false), 16), Contains("it has 32, 64 and 128"));
  c.codes(0, 0) = 9;
  CHECK_THROWS_AS(to_gptq(c, 32, true), config_error);
}

TEST_CASE("arrays of compressed-tensors and MLX that do not fit each other are refused by name") {
  pack_quantized_layer const ct = to_pack_quantized(some_codes(32, 64, 3, 32, true), 32);
  auto const refused = [&](char const* sentence, auto const& spoil) {
    pack_quantized_arrays a = ct.arrays();
    spoil(a);
    CHECK_THROWS_WITH(from_pack_quantized(a), Contains(sentence));
  };
  refused("weight_packed has 191 numbers, 32 x 6", [](auto& a) { a.weight_packed = a.weight_packed.first(191); });
  refused("weight_zero_point has 5 numbers, 3 x 2", [](auto& a) { a.weight_zero_point = a.weight_zero_point.first(5); });
  refused("64 scales for 32 outputs of 63 channels", [](auto& a) { a.d_in = 63; });
  refused("5 bits", [](auto& a) { a.bits = 5; });
  refused("d_out is -1", [](auto& a) { a.d_out = -1; });
  mlx_layer const mlx = to_mlx(some_codes(32, 64, 3, 32, true), 32);
  auto const refused_mlx = [&](char const* sentence, auto const& spoil) {
    mlx_arrays a = mlx.arrays();
    spoil(a);
    CHECK_THROWS_WITH(from_mlx(a), Contains(sentence));
  };
  refused_mlx("weight has 191 numbers, 32 x 6", [](auto& a) { a.weight = a.weight.first(191); });
  refused_mlx("biases has 63 numbers, 32 x 2", [](auto& a) { a.biases = a.biases.first(63); });
  refused_mlx("d_in is 63", [](auto& a) { a.d_in = 63; });
  refused_mlx("6 bits", [](auto& a) { a.bits = 6; });
}
