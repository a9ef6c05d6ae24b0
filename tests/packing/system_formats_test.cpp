// The formats of version 2: books per row, scales and offsets of a second level, parts of columns, residuals around them. Bytes
// written out by hand, values bit for bit, broken bytes, and what is refused.

#include "slim/packing/pack_codes.hpp"
#include "slim/quantization/companding_quantizer.hpp"
#include "slim/quantization/ternary_quantizer.hpp"
#include "slim/quantization/vector_codebook_quantizer.hpp"
#include "slim/testing/hard_matrices.hpp"

#include "slim/testing/same_bits.hpp"

#include "support/allocation_watch.hpp"
#include "support/system_codes.hpp"

#include <catch2/catch.hpp>

namespace {

using Catch::Contains;
using namespace slim_test;
using bytes_t = std::vector<std::byte>;

slim::matrix<float> values(any_codes const& codes) {
  slim::matrix<float> out(codes.rows(), codes.cols());
  codes.dequantize_into(out.view());
  return out;
}

constexpr slim::unpack_limit tight{.weights = 4096, .weights_per_byte = 16};

/// Whether the bytes are read. What is read packs to the same bytes; what is not gets a sentence; memory is as the bytes.
bool reads(bytes_t const& bytes) {
  slim_test::allocation_watch const watch;
  auto const read = slim::unpack(bytes, tight);
  std::size_t const taken = watch.peak();
  REQUIRE(taken < 8192 + 96 * bytes.size() + 2 * static_cast<std::size_t>(tight.weights));
  if (!read) {
    REQUIRE(read.why().size() > 20);
    return false;
  }
  bool const known = static_cast<slim::packed_kind>(bytes[6]) >= slim::packed_kind::residuals;
  if (known) REQUIRE(slim::pack_codes(read->codes) == bytes);
  return true;
}

bytes_t hex(std::string const& text) {
  bytes_t bytes;
  for (std::size_t at = text.find_first_not_of(' '); at != std::string::npos; at = text.find_first_not_of(' ', at + 2))
    bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(at, 2), nullptr, 16)));
  return bytes;
}

std::string header(int kind, int bits, int format, int rows, int cols, int block_rows, int block_cols, int entries) {
  auto const byte = [](int b) {
    constexpr char const* digits = "0123456789abcdef";
    return std::string{digits[b / 16], digits[b % 16], ' '};
  };
  auto const number = [&](int n) { return byte(n) + "00 00 00 00 00 00 00 "; };
  return "53 4c 50 4b 02 00 " + byte(kind) + byte(bits) + byte(format) + "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 " +
         number(rows) + number(cols) + number(block_rows) + number(block_cols) + number(entries);
}

} // namespace

TEST_CASE("codes of the systems come back from their bytes with the same values, and pack to the same bytes") {
  for (any_codes const& codes : small_codes()) {
    bytes_t const bytes = slim::pack_codes(codes);
    auto const read = slim::unpack(bytes);
    REQUIRE(read.why() == "");
    CHECK(read->mask.count() == codes.rows() * codes.cols());
    CHECK(slim::testing::same_bits(values(read->codes), values(codes)));
    CHECK(slim::pack_codes(read->codes) == bytes);
  }
}

TEST_CASE("codes in parts have the values of the codes they were made of") {
  integer_codes const mixed = second_level(5, 9, true, 11);
  CHECK(slim::testing::same_bits(values(slim::in_parts(any_codes(mixed))), values(any_codes(mixed))));
  slim::with_outliers<integer_codes> const apart{mixed, residual(5, 9, number_format::fp16, 12)};
  CHECK(slim::testing::same_bits(values(slim::in_parts(any_codes(apart))), values(any_codes(apart))));
  CHECK(slim::in_parts(any_codes(slim::with_outliers<integer_codes>{
                           mixed, {.row_begin = std::vector<index_t>(6, 0), .columns = {}, .values = {}}}))
            .get_if<column_parts>() != nullptr);
  slim::matrix<float> const before = values(slim::in_parts(any_codes(apart)));
  std::vector<index_t> const to = {3, 0, 8, 1, 7, 2, 6, 4, 5};
  slim::matrix<float> const after = values(slim::detail::reordered(slim::in_parts(any_codes(apart)), to));
  for (index_t i = 0; i < 5; ++i)
    for (index_t k = 0; k < 9; ++k) CHECK(after(i, to[static_cast<std::size_t>(k)]) == before(i, k));
}

TEST_CASE("golden bytes: books per row, 2 bits, 2 x 3, fp16 levels") {
  codebook_codes codes(2, 3, 2, slim::per_channel);
  float const levels[] = {-1, 0, 1, 2, -2, 0.5f, 0, 4};
  std::copy_n(levels, 8, codes.books.data());
  std::uint8_t const places[] = {0, 3, 1, 2, 2, 1};
  std::copy_n(places, 6, codes.codes.data());
  CHECK(slim::pack_codes(any_codes(codes)) ==
        hex(header(6, 2, 2, 2, 3, 0, 0, 6) + "00 bc 00 00 00 3c 00 40 00 c0 00 38 00 00 00 44 " // levels
                                             "1c "                                              // 0 | 3 << 2 | 1 << 4
                                             "1a "));                                           // 2 | 2 << 2 | 1 << 4
}

TEST_CASE("golden bytes: a second level, 2 bits, 2 x 2, groups of 1, in two parts of columns with a residual") {
  slim::scale_storage const stored{.format = number_format::fp16, .bits = 3, .block = {.rows = 2, .cols = 1}, .shifted = true};
  integer_codes codes(2, 1, 2, slim::per_group(1), stored);
  codes.offsets = slim::scale_table(2, 1, stored);
  codes.scales(0, 0) = 1;
  codes.scales(1, 0) = 8; // step 1, base 1: codes 0 and 7
  codes.offsets(0, 0) = -2;
  codes.offsets(1, 0) = -9; // step 1, base -9: codes 7 and 0
  codes.scales.store(true);
  codes.offsets.store(false);
  codes.codes(0, 0) = -2;
  codes.codes(1, 0) = 1;
  std::string const part = header(7, 2, 2, 2, 1, 1, 1, 2) +
                           "03 03 03 00 00 00 00 00 02 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 " // 3 and 3 bits, 2 x 1
                           "38 00 3c 00 3c " // scales: 0 | 7 << 3; step 1, base 1
                           "07 00 3c 80 c8 " // offsets: 7 | 0 << 3; step 1, base -9
                           "00 03 ";         // codes: -2 + 2; 1 + 2
  CHECK(slim::pack_codes(any_codes(codes)) == hex(part));
  column_parts const parts{{1, 0}, {any_codes(codes), any_codes(codes)}};
  std::string const both =
      header(8, 0, 0, 2, 2, 0, 0, 2) + "01 00 00 00 " + "64 00 00 00 00 00 00 00 " + part + "64 00 00 00 00 00 00 00 " + part;
  CHECK(slim::pack_codes(any_codes(parts)) == hex(both));
  slim::sparse_residual const r{.row_begin = {0, 0, 1}, .columns = {1}, .values = {0.25f}, .format = number_format::fp16};
  any_codes const all(slim::with_outliers<any_codes>{any_codes(parts), r});
  CHECK(slim::pack_codes(all) ==
        hex(header(5, 0, 2, 2, 2, 0, 0, 1) + "00 00 00 00 00 00 00 00 01 00 00 00 " + "01 00 " + "00 34 " + both));
  slim::matrix<float> const w = values(slim::unpack(slim::pack_codes(all))->codes);
  CHECK((w(0, 0) == -2 && w(1, 0) == 15 && w(0, 1) == -2 && w(1, 1) == 15.25f)); // 1 * 0 - 2; 8 * 3 - 9
}

TEST_CASE("broken bytes of the systems' formats are refused, or pack to themselves") {
  std::size_t read = 0, refused = 0;
  std::uint64_t counter = 0;
  for (any_codes const& codes : small_codes()) {
    bytes_t const good = slim::pack_codes(codes);
    REQUIRE(reads(good));
    for (std::size_t size = 0; size < good.size(); ++size)
      REQUIRE_FALSE(reads(bytes_t(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size))));
    bytes_t longer = good;
    longer.push_back(std::byte{0});
    REQUIRE_FALSE(reads(longer));
    for (std::size_t at = 0; at < good.size(); ++at) {
      for (unsigned value = 0; value < 256; value += good.size() > 200 ? 5 : 1) {
        bytes_t bytes = good;
        bytes[at] = static_cast<std::byte>(value);
        ++(reads(bytes) ? read : refused);
      }
      for (std::uint64_t const number :
           {~std::uint64_t{0}, std::uint64_t{1} << 63, std::uint64_t{1} << 31, std::uint64_t{1} << 24})
        if (at + 8 <= good.size()) {
          bytes_t bytes = good;
          std::memcpy(bytes.data() + at, &number, 8);
          ++(reads(bytes) ? read : refused);
        }
    }
    for (int round = 0; round < 1000; ++round) {
      bytes_t bytes = good;
      for (std::uint64_t flips = 1 + random(13, counter++) % 3; flips > 0; --flips)
        bytes[random(13, counter++) % bytes.size()] ^= static_cast<std::byte>(1u << flips);
      ++(reads(bytes) ? read : refused);
    }
  }
  CHECK(read > 5000);
  CHECK(refused > 20000);
}

TEST_CASE("what the systems' formats do not hold is refused with its values") {
  codebook_codes scaled = books(2, 4, 3, 1);
  scaled.channel_factors.assign(4, 2.0f);
  CHECK_THROWS_WITH(slim::pack_codes(any_codes(scaled)), Contains("and factors"));
  codebook_codes wide = books(2, 4, 3, 1);
  wide.books(1, 2) = 1.0001f;
  CHECK_THROWS_WITH(slim::pack_codes(any_codes(wide)), Contains("level 10 is 1.0001, which is no fp16 number"));
  integer_codes single = second_level(2, 4, false, 1);
  single.scales = slim::scale_table(2, 2, {.format = number_format::fp16});
  CHECK_THROWS_WITH(slim::pack_codes(any_codes(single)), Contains("scales of 0 bits and offsets of 2"));
  slim::sparse_residual const r{.row_begin = {0, 0, 2, 2}, .columns = {3, 1}, .values = {1, 2}, .format = number_format::fp16};
  CHECK_THROWS_WITH(slim::pack_codes(any_codes(slim::with_outliers<any_codes>{any_codes(books(3, 5, 3, 1)), r})),
                    Contains("not in the order of their columns"));
  column_parts twice{{0, 0, 2}, {any_codes(books(3, 3, 3, 1))}};
  CHECK_THROWS_WITH(slim::pack_codes(any_codes(twice)), Contains("names 0 of 3, each belongs there once"));
  CHECK_THROWS_AS(slim::pack_codes(any_codes(column_parts{{0, 1}, {any_codes(books(3, 3, 3, 1))}})), slim::shape_error);
  integer_codes spanning = second_level(4, 8, true, 1);
  spanning.scales = slim::scale_table(4, 4, {.format = number_format::fp16, .bits = 3, .block = {.rows = 2, .cols = 2}});
  CHECK_THROWS_WITH(slim::in_parts(any_codes(spanning)), Contains("second level over 2 groups"));
}

TEST_CASE("companded codes of 4 bits and ternary codes are packed with their values, others are refused by what they are") {
  slim::matrix<float> const w = slim::testing::normal_matrix(6, 70, 2);
  slim::calibration const unseen(70);
  auto const read = [](any_codes const& codes) { return slim::unpack(slim::pack_codes(codes)); };
  for (any_codes const& codes :
       {any_codes(slim::companding_quantizer().quantize(w.view(), unseen)),
        any_codes(slim::ternary_quantizer({.group = 16, .scale_format = number_format::fp16}).quantize(w.view(), unseen))})
    CHECK(slim::testing::same_bits(values(read(codes)->codes), values(codes)));
  CHECK_THROWS_WITH(read(any_codes(slim::companding_quantizer({.bits = 3}).quantize(w.view(), unseen))), Contains("3 bits"));
  CHECK_THROWS_WITH(read(any_codes(slim::vector_codebook_quantizer().quantize(w.view(), unseen))), Contains("8 columns"));
}
