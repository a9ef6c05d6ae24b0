// Arrays of other software become codes and calibrations with the values that their own software gives them. Words are written
// by hand, or from the definition: the packers of AutoGPTQ, AutoAWQ and bitsandbytes, restated.

#include "slim/interop/awq.hpp"
#include "slim/interop/bitsandbytes.hpp"
#include "slim/interop/gptq.hpp"
#include "slim/interop/imatrix.hpp"
#include "slim/transforms/channel_permutation.hpp"

#include <catch2/catch.hpp>

namespace {

using Catch::Contains;
using namespace slim;

std::int32_t word(std::uint32_t bits) { return static_cast<std::int32_t>(bits); }

/// A layer of GPTQ by its definition: unsigned codes q (d_in x d_out), zero points z and scales (groups x d_out).
struct gptq_file {
  index_t d_out, d_in, groups;
  int bits;
  std::vector<std::int32_t> qweight, qzeros, g_idx;
  std::vector<fp16> scales;

  static unsigned code(index_t j, index_t i) { return static_cast<unsigned>(j * 7 + i * 3 + j / 5); }
  static unsigned zero(index_t g, index_t i) { return static_cast<unsigned>(g * 5 + i); }
  static float scale(index_t g, index_t i) { return 0.25f * static_cast<float>(1 + (g + 2 * i) % 9); }

  gptq_file(index_t outputs, index_t inputs, index_t group_count, int bit_count, std::vector<std::int32_t> groups_of)
      : d_out(outputs), d_in(inputs), groups(group_count), bits(bit_count),
        qweight(static_cast<std::size_t>(inputs * bit_count / 32 * outputs)),
        qzeros(static_cast<std::size_t>(group_count * (outputs * bit_count / 32))), g_idx(std::move(groups_of)) {
    unsigned const all = (1u << bits) - 1;
    // One bit at a time: bit b of field k lies in word (k bits + b) / 32.
    auto const put = [&](std::vector<std::int32_t>& words, index_t first, index_t stride, index_t k, unsigned value) {
      for (int b = 0; b < bits; ++b) {
        index_t const at = k * bits + b;
        auto& w = words[static_cast<std::size_t>(first + at / 32 * stride)];
        w = word(static_cast<std::uint32_t>(w) | (value >> b & 1u) << (at % 32));
      }
    };
    for (index_t j = 0; j < d_in; ++j)
      for (index_t i = 0; i < d_out; ++i) put(qweight, i, d_out, j, code(j, i) & all);
    for (index_t g = 0; g < groups; ++g)
      for (index_t i = 0; i < d_out; ++i) {
        put(qzeros, g * (d_out * bits / 32), 1, i, zero(g, i) & all);
        scales.emplace_back(scale(g, i));
      }
  }

  [[nodiscard]] gptq_arrays arrays() const { return {d_out, d_in, bits, qweight, qzeros, scales, g_idx}; }
  [[nodiscard]] float value(index_t i, index_t j, index_t g, int one_less) const {
    unsigned const all = (1u << bits) - 1;
    return scale(g, i) *
           (static_cast<float>(code(j, i) & all) - static_cast<float>((zero(g, i) & all) + static_cast<unsigned>(one_less)));
  }
};

} // namespace

TEST_CASE("GPTQ's arrays have the values that its software gives them, in all bits and versions") {
  for (int const bits : {2, 3, 4, 8})
    for (bool const one_less : {true, false}) {
      gptq_file const file(32, 64, 4, bits, {});
      gptq_arrays arrays = file.arrays();
      arrays.zeros_are_one_less = one_less;
      gptq_codes const layer = from_gptq(arrays);
      CHECK(layer.order.empty());
      CHECK(layer.codes.block == per_group(16));
      matrix<float> w(32, 64);
      layer.codes.dequantize_into(w.view());
      int wrong = 0;
      for (index_t i = 0; i < 32; ++i)
        for (index_t j = 0; j < 64; ++j) wrong += w(i, j) != file.value(i, j, j / 16, one_less ? 1 : 0);
      CHECK(wrong == 0);
    }
}

TEST_CASE("GPTQ's act-order comes as an order of the channels") {
  std::vector<std::int32_t> g_idx; // channels 0, 2, 4, ... in groups 3, 2, 1, 0
  for (int j = 0; j < 64; ++j) g_idx.push_back(3 - j % 4);
  gptq_file const file(32, 64, 4, 4, g_idx);
  gptq_codes const layer = from_gptq(file.arrays());
  REQUIRE(layer.order.size() == 64);
  matrix<float> in_order(32, 64);
  layer.codes.dequantize_into(in_order.view());
  matrix<float> const w = channel_permutation(layer.order).invert(in_order.view());
  int wrong = 0;
  for (index_t i = 0; i < 32; ++i)
    for (index_t j = 0; j < 64; ++j) wrong += w(i, j) != file.value(i, j, 3 - j % 4, 1);
  CHECK(wrong == 0);
  std::vector<std::int32_t> plain;
  for (int j = 0; j < 64; ++j) plain.push_back(j / 16);
  CHECK(from_gptq(gptq_file(32, 64, 4, 4, plain).arrays()).order.empty());
}

TEST_CASE("a word of GPTQ by hand; symmetric layers have no zero points") {
  std::vector<std::int32_t> const qweight{word(0x76543210u), word(0xfedcba98u), 0, 0, 0, 0, 0, 0};
  std::vector<std::int32_t> const qzeros{word(0x77777777u)}; // 8 - 1: the middle
  std::vector<fp16> const scales(8, fp16(0.5f));
  gptq_codes const layer =
      from_gptq({.d_out = 8, .d_in = 8, .bits = 4, .qweight = qweight, .qzeros = qzeros, .scales = scales});
  CHECK(layer.codes.symmetric());
  for (index_t j = 0; j < 8; ++j) {
    CHECK(layer.codes.value(0, j) == 0.5f * static_cast<float>(j - 8));
    CHECK(layer.codes.value(1, j) == 0.5f * static_cast<float>(j));
  }
}

TEST_CASE("GPTQ's arrays that do not fit each other are refused by name") {
  auto const refused = [](std::string const& sentence, auto const& spoil) {
    gptq_file file(32, 64, 4, 4, std::vector<std::int32_t>(64, 0));
    for (std::size_t j = 0; j < 64; ++j) file.g_idx[j] = static_cast<std::int32_t>(j / 16);
    gptq_arrays arrays = file.arrays();
    spoil(file, arrays);
    CHECK_THROWS_WITH(from_gptq(arrays), Contains(sentence));
  };
  refused("qweight has 255 numbers, 8 x 32", [](auto&, auto& a) { a.qweight = a.qweight.first(255); });
  refused("qzeros has 3 numbers, 4 x 4", [](auto&, auto& a) { a.qzeros = a.qzeros.first(3); });
  refused("scales has 127 numbers, 3 x 32", [](auto&, auto& a) { a.scales = a.scales.first(127); });
  refused("0 scales for 32 outputs", [](auto&, auto& a) {
    a.scales = {};
    a.qzeros = {};
  });
  refused("g_idx has 63 numbers", [](auto&, auto& a) { a.g_idx = a.g_idx.first(63); });
  refused("channel 5 into group 4 of 4", [](auto& f, auto&) { f.g_idx[5] = 4; });
  refused("channel 5 into group -1 of 4", [](auto& f, auto&) { f.g_idx[5] = -1; });
  refused("not of 16 channels each", [](auto& f, auto&) { f.g_idx[5] = 1; });
  refused("5 bits, possible are 2, 3, 4 and 8", [](auto&, auto& a) { a.bits = 5; });
  refused("d_in is 63", [](auto&, auto& a) { a.d_in = 63; });
}

TEST_CASE("AWQ's arrays have the values that its software gives them") {
  constexpr int order[8] = {0, 2, 4, 6, 1, 3, 5, 7}; // AutoAWQ: place k of a word holds output order[k]
  constexpr index_t d_out = 16, d_in = 12, groups = 3;
  auto const code = [](index_t j, index_t i) { return static_cast<std::uint32_t>((5 * j + 3 * i) % 16); };
  auto const zero = [](index_t g, index_t i) { return static_cast<std::uint32_t>((g + i) % 16); };
  std::vector<std::int32_t> qweight, qzeros;
  std::vector<fp16> scales;
  auto const words = [&](std::vector<std::int32_t>& to, index_t row, auto const& value) {
    for (index_t first = 0; first < d_out; first += 8) {
      std::uint32_t w = 0;
      for (int k = 0; k < 8; ++k) w |= value(row, first + order[k]) << (4 * k);
      to.push_back(word(w));
    }
  };
  for (index_t j = 0; j < d_in; ++j) words(qweight, j, code);
  for (index_t g = 0; g < groups; ++g) {
    words(qzeros, g, zero);
    for (index_t i = 0; i < d_out; ++i) scales.emplace_back(0.125f * static_cast<float>(g + i + 1));
  }
  integer_codes const codes = from_awq({d_out, d_in, qweight, qzeros, scales});
  for (index_t i = 0; i < d_out; ++i)
    for (index_t j = 0; j < d_in; ++j)
      REQUIRE(codes.value(i, j) == 0.125f * static_cast<float>(j / 4 + i + 1) *
                                       (static_cast<float>(code(j, i)) - static_cast<float>(zero(j / 4, i))));
  std::vector<std::int32_t> const one{word(0x75316420u)}; // outputs 0 .. 7 hold 0 .. 7
  std::vector<fp16> const ones(8, fp16(1.0f));
  std::vector<std::int32_t> const none{0};
  integer_codes const small = from_awq({8, 1, one, none, ones});
  for (index_t i = 0; i < 8; ++i) CHECK(small.value(i, 0) == static_cast<float>(i));
  CHECK_THROWS_WITH(from_awq({d_out, d_in, std::span(qweight).first(7), qzeros, scales}),
                    Contains("qweight has 7 numbers, 12 x 2"));
  CHECK_THROWS_WITH(from_awq({d_out, d_in, qweight, std::span(qzeros).first(2), scales}), Contains("qzeros has 2 numbers"));
  CHECK_THROWS_WITH(from_awq({d_out, 13, qweight, qzeros, scales}), Contains("48 scales for 16 outputs of 13 channels"));
  CHECK_THROWS_WITH(from_awq({12, d_in, qweight, qzeros, scales}), Contains("d_out is 12"));
}

TEST_CASE("NF4 arrays have the values that bitsandbytes gives them") {
  std::vector<std::uint8_t> packed;
  for (int k = 0; k < 2 * 128 / 2; ++k) packed.push_back(static_cast<std::uint8_t>(k * 37));
  std::vector<float> const absmax{0.5f, 2.0f, 0.1f, 3.0f};
  codebook_codes const codes = from_bitsandbytes(2, 128, packed, absmax);
  auto const levels = nf4_levels();
  for (index_t i = 0; i < 2; ++i)
    for (index_t j = 0; j < 128; ++j) {
      auto const at = static_cast<std::size_t>(i * 128 + j);
      unsigned const byte = packed[at / 2], position = at % 2 == 0 ? byte >> 4 : byte & 15u;
      REQUIRE(codes.value(i, j) == absmax[at / 64] * levels[position]);
    }
  CHECK_THROWS_WITH(from_bitsandbytes(2, 128, std::span(packed).first(127), absmax),
                    Contains("packed has 254 numbers, 2 x 128"));
  CHECK_THROWS_WITH(from_bitsandbytes(2, 128, packed, std::span(absmax).first(3)), Contains("absmax has 3 numbers, 2 x 2"));
  CHECK_THROWS_AS(from_bitsandbytes(4, 64, packed, absmax, 48), config_error);
  CHECK_THROWS_AS(from_bitsandbytes(2, 128, packed, absmax, 64, {1.0f, 2.0f}), config_error);
}

TEST_CASE("an imatrix becomes a calibration, of any expert") {
  std::vector<float> const sums{4.0f, 0.0f, 9.0f, 1.0f, 1.0f, 1.0f}, counts{2.0f, 4.0f};
  calibration const first = from_imatrix(sums, counts), second = from_imatrix(sums, counts, 1);
  CHECK(first.mean_square() == std::vector<double>{2.0, 0.0, 4.5});
  CHECK((first.tokens() == 2 && first.dead_channels() == 1 && !first.knows(statistic::mean_abs)));
  CHECK(second.mean_square() == std::vector<double>{0.25, 0.25, 0.25});
  CHECK_THROWS_AS(from_imatrix(sums, counts, 2), shape_error);
  CHECK_THROWS_AS(from_imatrix(std::span(sums).first(5), counts), shape_error);
  CHECK_THROWS_AS(from_imatrix(sums, std::vector<float>{1.5f}), config_error);
  CHECK_THROWS_AS(from_imatrix(std::vector<float>{-1.0f}, std::vector<float>{1.0f}), config_error);
}
