// Bytes written out by hand from docs/formats, and sizes.

#include "slim/packing/unpack.hpp"
#include "slim/testing/packed_format_laws.hpp"

#include <catch2/catch.hpp>

namespace {

using slim::index_t;
using slim::integer_codes;
using slim::mask;

/// "53 4c ..." as bytes.
std::vector<std::byte> hex(std::string const& text) {
  std::vector<std::byte> bytes;
  for (std::size_t at = text.find_first_not_of(' '); at != std::string::npos; at = text.find_first_not_of(' ', at + 2))
    bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(at, 2), nullptr, 16)));
  return bytes;
}

std::string hex(std::vector<std::byte> const& bytes) {
  std::string text;
  for (std::byte const b : bytes) {
    text += "0123456789abcdef"[static_cast<unsigned>(b) >> 4];
    text += "0123456789abcdef"[static_cast<unsigned>(b) & 15u];
    text += ' ';
  }
  return text;
}

void set_codes(integer_codes& into, std::vector<int> const& codes) {
  for (std::size_t k = 0; k < codes.size(); ++k) into.codes.data()[k] = static_cast<std::int8_t>(codes[k]);
}

mask mask_of(index_t rows, index_t cols, std::string const& kept, slim::sparsity_pattern pattern = {}) {
  mask made(rows, cols, pattern);
  for (index_t k = 0; k < rows * cols; ++k) made.keep(k / cols, k % cols, kept[static_cast<std::size_t>(k)] == 'x');
  return made;
}

template <class F, class Codes>
void check_golden(Codes const& codes, mask const& kept, std::string const& expected) {
  CHECK(hex(F::pack(codes, kept)) == hex(hex(expected)));
  auto const read = F::unpack(hex(expected));
  REQUIRE(read.why() == "");
  CHECK(read->mask == kept);
  REQUIRE(read->codes.template get_if<Codes>());
  CHECK(slim::testing::same_bits(*read->codes.template get_if<Codes>(), codes));
}

} // namespace

TEST_CASE("golden bytes: 2:4, 4 bits, 2 x 7, one fp16 scale per row") {
  integer_codes codes(2, 7, 4, slim::per_channel, slim::number_format::fp16);
  codes.scales(0, 0) = 1.0f; // 3c00
  codes.scales(1, 0) = 0.5f; // 3800
  set_codes(codes, {1, 0, -8, 0, 0, 7, 2, 0, -1, 0, 3, 4, 5, 0});
  check_golden<slim::sparse24>(codes, mask_of(2, 7, "x.x..xx.x.xxx.", {.n = 2, .m = 4}),
                               "53 4c 50 4b 01 00 02 04 02 00 00 00 02 00 00 00 04 00 00 00 00 00 00 00 "
                               "02 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 "
                               "01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 08 00 00 00 00 00 00 00 "
                               "00 3c 00 38 "
                               "09 af " // row 0: 1 + 8 and -8 + 8; 7 + 8 and 2 + 8
                               "b7 dc " // row 1: -1 + 8 and 3 + 8; 4 + 8 and 5 + 8
                               "98 "    // row 0: positions 0, 2: 0 | 2 << 2; 1, 2: 1 | 2 << 2
                               "4d");   // row 1: positions 1, 3 and 0, 1
}

TEST_CASE("golden bytes: 2:4 fillers are the zero point, behind the end of the row first, then at the lowest free column") {
  integer_codes codes(1, 6, 4, slim::per_tensor, slim::number_format::bf16);
  codes.scales(0, 0) = 1.0f; // 3f80
  codes.zeros = slim::matrix<std::int8_t>(1, 1);
  codes.zeros(0, 0) = -3; // 5
  set_codes(codes, {4, -3, -3, -3, -3, 6});
  mask const kept = mask_of(1, 6, "x....x");
  std::string const expected = "53 4c 50 4b 01 00 02 04 01 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 "
                               "01 00 00 00 00 00 00 00 06 00 00 00 00 00 00 00 "
                               "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00 "
                               "80 3f 05 "
                               "5c 5e " // 4 + 8 at 0, filler at 1; 6 + 8 at 1, filler at 2, which is column 6 of 6
                               "94";
  CHECK(hex(slim::sparse24::pack(codes, kept)) == hex(hex(expected)));
  auto const read = slim::sparse24::unpack(hex(expected));
  REQUIRE(read.why() == "");
  CHECK(read->mask == mask_of(1, 6, "xx...x"));
  CHECK(slim::testing::same_bits(*read->codes.get_if<integer_codes>(), codes));
}

TEST_CASE("golden bytes: dense, 3 bits, 2 x 3, fp32 scales and zero points per group of 2") {
  integer_codes codes(2, 3, 3, slim::per_group(2), slim::number_format::fp32);
  codes.scales(0, 0) = 1.0f;
  codes.scales(0, 1) = 2.0f;
  codes.scales(1, 0) = 0.5f;
  codes.zeros = slim::matrix<std::int8_t>(2, 2);
  codes.zeros(0, 0) = 1;
  codes.zeros(0, 1) = -4;
  codes.zeros(1, 1) = 3;
  set_codes(codes, {-4, 3, 0, 1, -1, 2});
  check_golden<slim::dense_codes>(codes, mask_of(2, 3, "xxxxxx"),
                                  "53 4c 50 4b 01 00 01 03 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 "
                                  "02 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 "
                                  "01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 06 00 00 00 00 00 00 00 "
                                  "00 00 80 3f 00 00 00 40 00 00 00 3f 00 00 00 00 "
                                  "05 0f "  // 5 | 0 << 3 | 4 << 6 | 7 << 9
                                  "38 01 "  // 0 | 7 << 3 | 4 << 6
                                  "9d 01"); // 5 | 3 << 3 | 6 << 6
}

TEST_CASE("golden bytes: bit mask, 2 bits, 2 x 10, one bf16 scale, one channel factor") {
  integer_codes codes(2, 10, 2, slim::per_tensor, slim::number_format::bf16);
  codes.scales(0, 0) = 1.5f; // 3fc0
  codes.channel_factors.assign(10, 1.0f);
  codes.channel_factors[4] = 2.0f;
  set_codes(codes, {-2, 0, 0, 1, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  check_golden<slim::nm_bitmask>(codes, mask_of(2, 10, "x..x.....x.........."),
                                 "53 4c 50 4b 01 00 03 02 01 02 00 00 00 00 00 00 00 00 00 00 01 00 00 00 "
                                 "02 00 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 "
                                 "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 "
                                 "c0 3f "
                                 "04 00 00 00 00 40 " // column 4: 2.0f
                                 "09 02 00 00 "       // columns 0, 3 and 9; none
                                 "1c");               // 0 | 3 << 2 | 1 << 4
}

TEST_CASE("golden bytes: rows, 4 bits, 3 x 4, one fp16 scale, a code book") {
  integer_codes codes(3, 4, 4, slim::per_tensor, slim::number_format::fp16);
  codes.scales(0, 0) = 2.0f; // 4000
  set_codes(codes, {0, 0, 0, 0, 0, 0, 0, -8, 0, 0, 7, 0});
  std::vector<float> book(16);
  book[0] = -1.0f;
  book[15] = 1.0f;
  check_golden<slim::csr_codes>(
      slim::testing::in_table(codes, book), mask_of(3, 4, ".....x.x..x."),
      "53 4c 50 4b 01 00 04 04 02 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00 "
      "03 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00 "
      "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 "
      "00 40 "
      "00 00 80 bf 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 "
      "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 80 3f "
      "00 00 00 00 00 00 00 00 02 00 00 00 03 00 00 00 " // row offsets
      "01 00 03 00 02 00 "                               // columns
      "08 0f");                                          // 8 | 0 << 4; 15
}

TEST_CASE("2:4 int4 takes exactly 3.0 bits per weight, 3.125 with an fp16 scale per 128") {
  index_t const rows = 48, cols = 4096;
  mask const kept = slim::testing::random_mask24(rows, cols, 1);
  auto const bits_of = [&](int bits, slim::scale_block block, std::size_t scale_bytes) {
    integer_codes const codes(rows, cols, bits, block, slim::number_format::fp16);
    std::size_t const bytes = slim::sparse24::pack(codes, kept).size() - sizeof(slim::packed_header) - scale_bytes;
    return static_cast<double>(bytes) * 8.0 / static_cast<double>(rows * cols);
  };
  CHECK(bits_of(4, slim::per_group(128), 0) == 3.125); // scales counted
  CHECK(bits_of(4, slim::per_tensor, 2) == 3.0);
  CHECK(bits_of(8, slim::per_tensor, 2) == 5.0);
  CHECK(bits_of(2, slim::per_tensor, 2) == 2.0);
}

TEST_CASE("what is stored is what the report counts: codes, positions, scales, zero points") {
  index_t const rows = 16, cols = 512;
  integer_codes const codes =
      slim::testing::random_codes(rows, cols, 4, slim::per_group(128), slim::number_format::fp16, true, false, 1);
  mask const kept = slim::testing::random_mask24(rows, cols, 1);
  auto const counted = codes.stored_bits(&kept) + kept.index_bits();
  CHECK(static_cast<double>(slim::sparse24::byte_size(codes, kept) - 64) * 8.0 == counted);
  mask free(rows, cols); // two of four, but nothing promised: a bit per weight
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) free.keep(i, j, kept.kept(i, j));
  CHECK(static_cast<double>(slim::nm_bitmask::byte_size(codes, free) - 64) * 8.0 ==
        codes.stored_bits(&free) + free.index_bits());
}
