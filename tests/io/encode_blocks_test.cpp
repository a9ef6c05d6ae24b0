#include "slim/io/gguf/encode_blocks.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using Catch::Contains;
using enum tensor_type;

namespace {

integer_codes codes_of(index_t rows, index_t cols, int bits, index_t group, float scale = 0.5f) {
  integer_codes codes(rows, cols, bits, per_group(group), number_format::fp16);
  for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] = scale;
  for (index_t k = 0; k < codes.codes.size(); ++k)
    codes.codes.data()[k] = static_cast<std::int8_t>(codes.lowest() + (k * 7) % (1 << bits));
  return codes;
}

/// The values that ggml decodes.
std::vector<float> decoded(tensor_type type, index_t rows, index_t cols, std::vector<std::byte> const& bytes) {
  tensor_info const tensor{"t", type, std::string(name_of(type)), {rows, cols}, bytes};
  matrix<float> out(rows, cols);
  REQUIRE(dequantize_rows_into(tensor, 0, out.view()).why().empty());
  return {out.data(), out.data() + out.size()};
}

std::string refusal(tensor_type type, integer_codes const& codes, mask const* kept = nullptr) {
  return encode_blocks(type, codes, kept).why();
}

} // namespace

TEST_CASE("codes become the bytes of ggml's blocks") {
  // w = (q - 8) d with d = 0.5 (0x3800): element 0 is the low nibble of the first byte, element 16 the high one.
  integer_codes codes(1, 32, 4, per_group(32), number_format::fp16);
  codes.scales(0, 0) = 0.5f;
  codes.codes(0, 0) = -8;
  codes.codes(0, 16) = 7;
  codes.codes(0, 15) = 1;
  auto const made = encode_blocks(q4_0, codes);
  REQUIRE(made);
  std::vector<int> bytes;
  for (std::byte const b : *made) bytes.push_back(std::to_integer<int>(b));
  CHECK(bytes == std::vector<int>{0x00, 0x38, 0xf0, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88,
                                  0x88, 0x88, 0x89});
}

TEST_CASE("a weight outside the mask is 0, also where zero points move the codes") {
  integer_codes codes = codes_of(2, 64, 3, 32);
  codes.zeros = matrix<std::int8_t>(2, 2);
  codes.zeros(0, 0) = -4;
  codes.zeros(1, 1) = 3;
  mask kept(2, 64);
  for (index_t j = 0; j < 64; j += 3) kept.keep(1, j);
  auto const made = encode_blocks(q4_1, codes, &kept);
  REQUIRE(made);
  auto const values = decoded(q4_1, 2, 64, *made);
  for (index_t i = 0; i < 2; ++i)
    for (index_t j = 0; j < 64; ++j)
      CHECK(values[static_cast<std::size_t>(i * 64 + j)] == (kept.kept(i, j) ? codes.value(i, j) : 0.0f));
}

TEST_CASE("a minimum that fp16 cannot hold is moved to a level that it can") {
  integer_codes codes = codes_of(1, 32, 3, 32, static_cast<float>(fp16(0.33325195f))); // 11 significant bits
  codes.zeros = matrix<std::int8_t>(1, 1);
  codes.zeros(0, 0) = 3; // lowest level -7: seven scales need more than 11 bits, eight do not
  REQUIRE(static_cast<float>(fp16(codes.scales(0, 0) * 7)) != codes.scales(0, 0) * 7);
  auto const made = encode_blocks(q4_1, codes);
  REQUIRE(made);
  auto const values = decoded(q4_1, 1, 32, *made);
  for (index_t j = 0; j < 32; ++j) CHECK(values[static_cast<std::size_t>(j)] == codes.value(0, j));
}

TEST_CASE("no rows and no columns have no blocks") {
  CHECK(encode_blocks(q4_0, codes_of(0, 32, 4, 32))->empty());
  CHECK(encode_blocks(q8_0, codes_of(3, 0, 4, 32))->empty());
}

TEST_CASE("what a type cannot hold is said") {
  CHECK_THAT(refusal(q4_0, codes_of(2, 48, 4, 16)), Contains("Q4_0: rows of 48 are no whole blocks of 32"));
  CHECK_THAT(refusal(q4_0, codes_of(2, 64, 4, 48)), Contains("row 0: groups of columns are no multiples of 32"));
  CHECK_THAT(refusal(q4_0, codes_of(2, 64, 4, 32, 1.0f / 3)), Contains("is not a number of fp16"));
  CHECK_THAT(refusal(q4_0, codes_of(2, 64, 5, 32)), Contains("is not in -8 to 7"));
  CHECK_THAT(refusal(q4_k, codes_of(2, 256, 4, 32)), Contains("Q4_K: row 0: scales have no second level"));
  CHECK_THAT(refusal(q5_1, codes_of(2, 64, 6, 32)), Contains("are more than 32"));
  CHECK_THAT(refusal(iq4_nl, codes_of(2, 64, 4, 32)), Contains("no type of evenly spaced levels"));
  CHECK_THAT(refusal(f16, codes_of(2, 64, 4, 32)), Contains("F16"));
  auto moved = codes_of(2, 64, 4, 32);
  moved.channel_factors.assign(64, 1.0f);
  CHECK(encode_blocks(q4_0, moved));
  moved.channel_factors[3] = 2.0f;
  CHECK_THAT(refusal(q4_0, moved), Contains("channel factors"));
  mask const other(2, 32);
  auto const codes = codes_of(2, 64, 4, 32);
  CHECK_THAT(refusal(q4_0, codes, &other), Contains("the mask is 2 x 32"));
  auto broken = codes_of(2, 64, 4, 32);
  broken.scales = scale_table(1, 1);
  CHECK_THROWS_AS(encode_blocks(q4_0, broken), shape_error);

  codebook_codes book(1, 32, std::vector<float>{-1, -0.5f, 0, 0.5f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, per_group(32), {});
  CHECK_THAT(encode_blocks(iq4_nl, book).why(), Contains("is none of IQ4's"));
  CHECK_THAT(encode_blocks(q4_0, book).why(), Contains("no type of a code book"));
}

TEST_CASE("a mask in IQ4_NL is refused unless the scale is 0: the book has no level 0") {
  codebook_codes codes(1, 32, std::vector<float>(ggml::iq4_levels.begin(), ggml::iq4_levels.end()), per_group(32), {});
  mask kept(1, 32);
  CHECK(encode_blocks(iq4_nl, codes, &kept));
  codes.scales(0, 0) = 0.5f;
  CHECK_THAT(encode_blocks(iq4_nl, codes, &kept).why(), Contains("column 0 would become 0.5 instead of 0"));
}

TEST_CASE("rows that are no blocks of 256 fall back as llama-quantize does") {
  CHECK(fallback_for_rows(q4_k, 512) == q4_k);
  CHECK(fallback_for_rows(q4_k, 576) == q5_0);
  CHECK(fallback_for_rows(q5_k, 576) == q5_1);
  CHECK(fallback_for_rows(q6_k, 576) == q8_0);
  CHECK(fallback_for_rows(iq4_xs, 576) == iq4_nl);
  for (auto const type : {q2_k, q3_k}) CHECK(fallback_for_rows(type, 576) == q4_0);
  CHECK(fallback_for_rows(q4_k, 100) == f16);
  CHECK(fallback_for_rows(q8_0, 100) == f16);
}
