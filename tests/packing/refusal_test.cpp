// What is refused, and that the sentence says what and where.

#include "slim/packing/unpack.hpp"
#include "slim/testing/packed_format_laws.hpp"

#include "slim/testing/hard_codes.hpp"

#include <catch2/catch.hpp>

namespace {

using Catch::Contains;
using slim::index_t;
using slim::integer_codes;
using slim::mask;

integer_codes plain(index_t rows, index_t cols, int bits = 4) {
  return {rows, cols, bits, slim::per_tensor, slim::number_format::fp32};
}

mask all_of(index_t rows, index_t cols) {
  mask kept(rows, cols);
  for (index_t k = 0; k < rows * cols; ++k) kept.keep(k / cols, k % cols);
  return kept;
}

/// The bytes with a number written over them.
template <class T>
std::vector<std::byte> with(std::vector<std::byte> bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
  return bytes;
}

std::string why(std::vector<std::byte> const& bytes) { return slim::unpack(bytes).why(); }

} // namespace

TEST_CASE("pack refuses three of four columns in 2:4 and names them") {
  mask kept(2, 8);
  for (index_t const j : {4, 5, 7}) kept.keep(1, j);
  CHECK_THROWS_WITH(slim::sparse24::pack(plain(2, 8), kept), Contains("row 1 keeps 3 of columns 4 to 7"));
  CHECK_THROWS_AS(slim::sparse24::pack(plain(2, 8), kept), slim::config_error);
}

TEMPLATE_TEST_CASE("pack refuses parts that do not fit each other", "", slim::sparse24, slim::dense_codes, slim::nm_bitmask,
                   slim::csr_codes) {
  auto const pack = [](integer_codes const& codes) { return TestType::pack(codes, mask(codes.rows(), codes.cols())); };
  CHECK_THROWS_AS(TestType::pack(plain(2, 8), mask(2, 7)), slim::shape_error);
  CHECK_THROWS_AS(TestType::pack(plain(2, 8), mask(3, 8)), slim::shape_error);
  auto codes = plain(2, 8);
  codes.scales = slim::scale_table(2, 1);
  CHECK_THROWS_WITH(pack(codes), Contains("2 x 1 scales where 1 x 1"));
  codes = plain(2, 8);
  codes.zeros = slim::matrix<std::int8_t>(2, 1);
  CHECK_THROWS_AS(pack(codes), slim::shape_error);
  codes.zeros = slim::matrix<std::int8_t>(1, 1);
  codes.zeros(0, 0) = 8;
  CHECK_THROWS_WITH(pack(codes), Contains("zero point 0 is 8 in 4 bits"));
  codes = plain(2, 8);
  codes.channel_factors.assign(7, 1.0f);
  CHECK_THROWS_AS(pack(codes), slim::shape_error);
  codes.channel_factors.assign(8, 1.0f);
  for (float const factor : {0.0f, -1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    codes.channel_factors[3] = factor;
    CHECK_THROWS_WITH(pack(codes), Contains("channel factor 3"));
  }
  codes = plain(2, 8);
  codes.bits = 9;
  CHECK_THROWS_AS(pack(codes), slim::config_error);
}

TEMPLATE_TEST_CASE("pack refuses codes that the byte formats have no place for", "", slim::sparse24, slim::dense_codes,
                   slim::nm_bitmask, slim::csr_codes) {
  auto const pack = [](integer_codes const& codes) { return TestType::pack(codes, mask(codes.rows(), codes.cols())); };
  CHECK_THROWS_AS(pack(integer_codes(2, 8, 1, slim::per_tensor, slim::number_format::fp32)), slim::config_error);
  auto codes = plain(2, 8);
  codes.group_bits = {3};
  CHECK_THROWS_WITH(pack(codes), Contains("bits per group"));
  codes = plain(2, 8);
  codes.offsets = slim::scale_table(1, 1);
  CHECK_THROWS_WITH(pack(codes), Contains("offsets"));
  codes = plain(2, 8);
  codes.scales = slim::scale_table(1, 1, {.bits = 6});
  CHECK_THROWS_WITH(pack(codes), Contains("second level"));
}

TEMPLATE_TEST_CASE("the code book of a matrix without weights is all 0, or refused", "", slim::sparse24, slim::dense_codes,
                   slim::nm_bitmask, slim::csr_codes) {
  auto const good = TestType::pack(slim::testing::in_table(plain(0, 5), std::vector<float>(16, 1.0f)), mask(0, 5));
  CHECK(TestType::unpack(good).why() == "");
  std::size_t const book = sizeof(slim::packed_header); // no scales stand before it
  CHECK_THAT(TestType::unpack(with(good, book + 4, 2.0f)).why(), Contains("the code book holds 2"));
}

TEMPLATE_TEST_CASE("pack refuses scales that would not come back", "", slim::sparse24, slim::dense_codes, slim::nm_bitmask,
                   slim::csr_codes) {
  integer_codes codes(1, 4, 4, slim::per_tensor, slim::number_format::fp16);
  auto const pack = [&](float scale) {
    codes.scales(0, 0) = scale;
    return TestType::pack(codes, mask(1, 4));
  };
  CHECK_NOTHROW(pack(0.0f));
  CHECK_NOTHROW(pack(0x1p-24f));
  CHECK_THROWS_AS(pack(0.1f), slim::config_error); // not a number of fp16
  CHECK_THROWS_AS(pack(-1.0f), slim::config_error);
  CHECK_THROWS_AS(pack(-0.0f), slim::config_error);
  CHECK_THROWS_AS(pack(1e6f), slim::config_error);
  CHECK_THROWS_AS(pack(std::nanf("")), slim::nonfinite_error);
  CHECK_THROWS_AS(pack(std::numeric_limits<float>::infinity()), slim::nonfinite_error);
}

TEMPLATE_TEST_CASE("pack refuses a kept code outside its bits, and does not look at pruned ones", "", slim::sparse24,
                   slim::dense_codes, slim::nm_bitmask, slim::csr_codes) {
  auto codes = plain(1, 4, 3);
  codes.codes(0, 2) = 4;
  mask kept(1, 4);
  CHECK_NOTHROW(TestType::pack(codes, kept));
  kept.keep(0, 2);
  CHECK_THROWS_WITH(TestType::pack(codes, kept), Contains("code (0, 2) is 4 in 3 bits"));
  codes.codes(0, 2) = -5;
  CHECK_THROWS_AS(TestType::pack(codes, kept), slim::config_error);
}

TEST_CASE(
    "a table of levels has 16, one book and codes of one column, and must have a 0 if weights are pruned without a trace") {
  using slim::testing::in_table;
  std::vector<float> book(16);
  mask const all = all_of(1, 2);
  CHECK_NOTHROW(slim::dense_codes::pack(in_table(plain(1, 2), book), all));
  slim::codebook_codes const three_bits(1, 2, std::vector<float>(8), slim::per_tensor, {});
  CHECK_THROWS_AS(slim::dense_codes::pack(three_bits, all), slim::config_error);
  slim::codebook_codes const of_vectors(1, 2, 4, slim::per_tensor, 2);
  CHECK_THROWS_AS(slim::dense_codes::pack(of_vectors, all), slim::config_error);
  slim::codebook_codes const per_row(2, 2, 4, slim::per_channel);
  CHECK_THROWS_AS(slim::dense_codes::pack(per_row, all_of(2, 2)), slim::config_error);
  book[8] = 0.5f;
  CHECK_NOTHROW(slim::dense_codes::pack(in_table(plain(1, 2), book), all));
  CHECK_THROWS_WITH(slim::dense_codes::pack(in_table(plain(1, 2), book), mask(1, 2)), Contains("no 0"));
  CHECK_THROWS_WITH(slim::sparse24::pack(in_table(plain(1, 4), book), mask(1, 4)), Contains("no 0"));
  CHECK_NOTHROW(slim::sparse24::pack(in_table(plain(1, 2), book), mask(1, 2))); // fillers behind the end meet no input
  CHECK_NOTHROW(slim::nm_bitmask::pack(in_table(plain(1, 2), book), mask(1, 2)));
  book[0] = std::nanf("");
  CHECK_THROWS_AS(slim::nm_bitmask::pack(in_table(plain(1, 2), book), mask(1, 2)), slim::nonfinite_error);
}

TEST_CASE("a header that cannot be is refused with what is wrong in it") {
  auto const good = slim::dense_codes::pack(plain(2, 8));
  CHECK(why(good) == "");
  CHECK_THAT(why({}), Contains("0 bytes"));
  CHECK_THAT(why(with(good, 0, 'G')), Contains("not SLPK"));
  CHECK_THAT(why(with(good, 4, std::uint16_t{2})), Contains("version 2"));
  CHECK_THAT(why(with(good, 6, std::uint8_t{5})), Contains("kind 5"));
  CHECK_THAT(why(with(good, 7, std::uint8_t{9})), Contains("9 bits"));
  CHECK_THAT(why(with(good, 8, std::uint8_t{3})), Contains("scale format 3"));
  CHECK_THAT(why(with(good, 9, std::uint8_t{8})), Contains("flag"));
  CHECK_THAT(why(with(good, 10, std::uint16_t{1})), Contains("flag"));
  CHECK_THAT(why(with(good, 12, std::uint32_t{5})), Contains("pattern 5:0"));
  CHECK_THAT(why(with(good, 20, std::uint32_t{1})), Contains("1 channel factors"));
  CHECK_THAT(why(with(good, 24, std::int64_t{-1})), Contains("shape -1 x 8"));
  CHECK_THAT(why(with(good, 32, std::int64_t{1} << 40)), Contains("shape 2 x 1099511627776"));
  CHECK_THAT(why(with(good, 32, std::int64_t{1} << 30)), Contains("more weights than"));
  CHECK_THAT(why(with(good, 32, std::int64_t{1} << 20)), Contains("needs"));
  CHECK_THAT(why(with(good, 40, std::int64_t{-1})), Contains("scale block of -1"));
  CHECK_THAT(why(with(good, 56, std::int64_t{15})), Contains("15 codes"));
}

TEST_CASE("scales that are NaN, infinite or negative are refused with their place") {
  auto const good = slim::dense_codes::pack(plain(2, 8));
  CHECK_THAT(why(with(good, 64, std::nanf(""))), Contains("byte 64: scale 0 is nan"));
  CHECK_THAT(why(with(good, 64, std::numeric_limits<float>::infinity())), Contains("scale 0 is inf"));
  CHECK_THAT(why(with(good, 64, -1.0f)), Contains("scale 0 is -1"));
  CHECK_THAT(why(with(good, 64, -0.0f)), Contains("scale 0 is -0"));
}

TEST_CASE("positions that do not ascend, and fillers that are not where they have to be, are refused") {
  auto const good = slim::sparse24::pack(plain(1, 6), mask(1, 6)); // 64 header, 4 scale, 2 codes, 1 byte of positions
  REQUIRE(good.size() == 71);
  REQUIRE(good[70] == std::byte{0xe4}); // 0, 1; 2, 3: both behind the end
  for (int const bad : {0xe1, 0xe0, 0xe5, 0xeb, 0xd4, 0xc4, 0xf4})
    CHECK_THAT(why(with(good, 70, static_cast<std::uint8_t>(bad))), Contains("row 0, columns from"));
  CHECK(why(with(good, 70, std::uint8_t{0x44})) == "");                            // 0, 1; 0, 1
  CHECK(why(with(good, 70, std::uint8_t{0x84})) == "");                            // 0, 1; 0, 2: the first behind the end
  CHECK_THAT(why(with(good, 69, std::uint8_t{0x89})), Contains("columns from 4")); // a filler that is not 0
  CHECK_THAT(why(with(good, 16, std::uint64_t{4})), Contains("pattern"));          // 0:4 promised
}

TEST_CASE("of several broken rows the first is named, also if tasks run backwards") {
  index_t const rows = 300, cols = 1001; // the last byte of a row has 4 bits left
  auto bytes = slim::dense_codes::pack(plain(rows, cols));
  std::size_t const row_bytes = 501;
  for (std::size_t const row : {290u, 131u, 70u}) bytes[64 + 4 + (row + 1) * row_bytes - 1] = std::byte{0xf8};
  CHECK_THAT(slim::dense_codes::unpack(bytes).why(), Contains("row 70:"));
  slim::testing::backwards_executor const backwards;
  CHECK_THAT(slim::dense_codes::unpack(bytes, {}, slim::testing::on(backwards)).why(), Contains("row 70:"));
}

TEST_CASE("row offsets and columns that do not ascend are refused") {
  mask kept(2, 5);
  for (index_t const j : {1, 3}) kept.keep(0, j);
  kept.keep(1, 0);
  auto const good = slim::csr_codes::pack(plain(2, 5), kept); // 64 header, 4 scale, 12 offsets, 6 columns, 2 codes
  REQUIRE(good.size() == 88);
  CHECK_THAT(why(with(good, 68, std::uint32_t{1})), Contains("first row begins at code 1"));
  CHECK_THAT(why(with(good, 72, std::uint32_t{4})), Contains("row 0 is codes 0 to 4 of 3"));
  CHECK_THAT(why(with(good, 76, std::uint32_t{2})), Contains("end at code 2 of 3"));
  CHECK_THAT(why(with(good, 76, std::uint32_t{1})), Contains("row 1 is codes 2 to 1"));
  CHECK_THAT(why(with(good, 80, std::uint16_t{3})), Contains("row 0, code 1: column 3"));
  CHECK_THAT(why(with(good, 84, std::uint16_t{5})), Contains("column 5"));
  CHECK_THAT(why(with(good, 87, std::uint8_t{0x18})), Contains("behind the last code"));
}

TEST_CASE("a mask that keeps another number of codes than there are is refused") {
  mask kept(1, 10);
  kept.keep(0, 4);
  auto const good = slim::nm_bitmask::pack(plain(1, 10), kept); // 64 header, 4 scale, 2 mask, 1 code
  REQUIRE(good.size() == 71);
  CHECK_THAT(why(with(good, 68, std::uint8_t{0x11})), Contains("keeps 2 codes"));
  CHECK_THAT(why(with(good, 69, std::uint8_t{0x04})), Contains("row 0 of the mask"));
  CHECK_THAT(why(with(good, 70, std::uint8_t{0x18})), Contains("row 0 of the codes"));
}

TEST_CASE("weights that take no bytes are made room for only up to the limit") {
  index_t const cols = 1 << 20;
  auto const bytes = slim::csr_codes::pack(plain(32, cols), mask(32, cols));
  CHECK(bytes.size() == 64 + 4 + 33 * 4);
  CHECK_THAT(slim::csr_codes::unpack(bytes).why(), Contains("more weights than the 16777216"));
  auto const read = slim::csr_codes::unpack(bytes, {.weights = index_t{32} * cols});
  REQUIRE(read.why() == "");
  CHECK(read->mask.count() == 0);
}

TEST_CASE("columns take 2 bytes up to 65536 of them, then 4") {
  for (auto const& [cols, bytes] : {std::pair<index_t, std::size_t>{65536, 2}, {65537, 4}}) {
    mask kept(1, cols);
    kept.keep(0, cols - 1);
    auto codes = plain(1, cols);
    codes.codes(0, cols - 1) = 5;
    codes.channel_factors.assign(static_cast<std::size_t>(cols), 1.0f);
    codes.channel_factors.back() = 3.0f;
    auto const packed = slim::csr_codes::pack(codes, kept);
    CHECK(packed.size() == 64 + 4 + (bytes + 4) + 8 + bytes + 1);
    auto const read = slim::csr_codes::unpack(packed);
    REQUIRE(read.why() == "");
    CHECK(read->mask == kept);
    CHECK(slim::testing::same_bits(*read->codes.get_if<integer_codes>(), codes));
  }
}
