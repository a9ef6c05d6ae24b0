// What holds for every format, on shapes that end raggedly; and for which masks a format gives back the mask itself.

#include "slim/packing/unpack.hpp"
#include "slim/testing/packed_format_laws.hpp"

#include <catch2/catch.hpp>

namespace {

using slim::index_t;
using slim::integer_codes;
using slim::mask;
using integer_case = slim::testing::named_codes<integer_codes>;

/// The codes with the zero point wherever nothing is kept: what unpack gives back.
integer_codes masked(integer_codes codes, mask const& kept) {
  for (index_t i = 0; i < codes.rows(); ++i)
    for (index_t j = 0; j < codes.cols(); ++j)
      if (!kept.kept(i, j)) codes.codes(i, j) = static_cast<std::int8_t>(codes.zero_at(i, j));
  return codes;
}

/// The codes of a matrix that was packed from integer codes.
integer_codes const& integers_of(slim::unpacked_matrix const& read) { return *read.codes.get_if<integer_codes>(); }

/// Values, by another way than the laws': dequantized, then pruned.
template <class F>
void check_values(integer_case const& m) {
  auto const read = F::unpack(F::pack(m.codes, m.kept));
  REQUIRE(read.why() == "");
  slim::matrix<float> before(m.codes.rows(), m.codes.cols()), after(m.codes.rows(), m.codes.cols());
  m.codes.dequantize_into(before);
  m.kept.apply_to(before);
  read->codes.dequantize_into(after.view());
  CHECK(before == after);
}

template <class F>
void check_identity(integer_case const& m) {
  INFO(m.name);
  auto const read = F::unpack(F::pack(m.codes, m.kept));
  REQUIRE(read.why() == "");
  CHECK(read->mask == m.kept);
  CHECK(slim::testing::same_bits(integers_of(*read), masked(m.codes, m.kept)));
}

/// Masks of any density and structure.
std::vector<integer_case> codes_of_any_mask() {
  std::vector<integer_case> all;
  std::uint64_t seed = 100;
  for (auto const& [rows, cols] : {std::pair<index_t, index_t>{1, 1}, {3, 5}, {7, 130}, {4, 24}, {9, 8}})
    for (unsigned const tenths : {1u, 5u, 9u, 10u}) {
      ++seed;
      all.push_back({slim::message(rows, " x ", cols, ", ", tenths, " tenths"),
                     slim::testing::random_codes(rows, cols, 2 + static_cast<int>(seed % 7), slim::per_group(8),
                                                 slim::number_format::fp16, seed % 2 == 0, false, seed),
                     slim::testing::random_mask(rows, cols, tenths, 4, seed)});
    }
  mask three_of_eight(4, 21, {.n = 3, .m = 8}); // the last group has 5 columns and keeps ceil(5 * 3 / 8) = 2
  for (index_t i = 0; i < 4; ++i)
    for (index_t const j : {0, 3, 7, 8, 9, 15, 16, 20}) three_of_eight.keep(i, j);
  all.push_back({"3:8", slim::testing::random_codes(4, 21, 3, slim::per_channel, slim::number_format::bf16, true, true, 9),
                 three_of_eight});
  return all;
}

} // namespace

TEMPLATE_TEST_CASE("the laws of a packed format hold on hard codes and masks", "", slim::sparse24, slim::dense_codes,
                   slim::nm_bitmask, slim::csr_codes) {
  CHECK(slim::testing::describe(slim::testing::check_packed_format<TestType>()) == "");
}

TEMPLATE_TEST_CASE("the laws hold where rows are many enough for several tasks", "", slim::sparse24, slim::dense_codes,
                   slim::nm_bitmask, slim::csr_codes) {
  index_t const rows = 203, cols = 1001;
  REQUIRE(rows > 3 * slim::detail::packed_rows_per_task(cols));
  std::vector<integer_case> many;
  many.push_back({"203 x 1001, 3 bits",
                  slim::testing::random_codes(rows, cols, 3, slim::per_group(32), slim::number_format::fp16, true, true, 1),
                  slim::testing::random_mask24(rows, cols, 1)});
  many.push_back({"203 x 1001, 4 bits, no pattern",
                  slim::testing::random_codes(rows, cols, 4, slim::per_tensor, slim::number_format::fp32, false, false, 2),
                  slim::testing::random_mask(rows, cols, 4, 2, 2)});
  CHECK(slim::testing::describe(slim::testing::check_packed_format<TestType>(many)) == "");
  check_values<TestType>(many[0]);
}

TEMPLATE_TEST_CASE("bit masks and rows take any mask", "", slim::nm_bitmask, slim::csr_codes) {
  CHECK(slim::testing::describe(slim::testing::check_packed_format<TestType>(codes_of_any_mask())) == "");
  for (integer_case const& m : codes_of_any_mask()) check_identity<TestType>(m);
  for (integer_case const& m : slim::testing::hard_codes()) check_identity<TestType>(m);
}

TEST_CASE("2:4 gives back the codes and the mask, whenever two of each whole group are kept") {
  std::size_t checked = 0;
  for (integer_case const& m : slim::testing::hard_codes())
    if (m.kept.pattern().structured()) {
      check_identity<slim::sparse24>(m);
      ++checked;
    }
  CHECK(checked > 100);
  for (integer_case m : slim::testing::hard_codes()) { // the same masks without a promise: it is not invented
    if (!m.kept.pattern().structured()) continue;
    mask unpromised(m.kept.rows(), m.kept.cols());
    for (index_t i = 0; i < m.kept.rows(); ++i)
      for (index_t j = 0; j < m.kept.cols(); ++j) unpromised.keep(i, j, m.kept.kept(i, j));
    m.kept = unpromised;
    check_identity<slim::sparse24>(m);
  }
}

TEST_CASE("2:4 gives back every mask of a ragged last group, unless three columns keep none") {
  for (index_t const cols : {1, 2, 3, 5, 6, 7})
    for (unsigned bits = 0; bits < 1u << (cols % 4); ++bits) {
      index_t const width = cols % 4;
      mask kept(1, cols);
      for (index_t j = 0; j < cols - width; ++j) kept.keep(0, j, j % 4 == 1 || j % 4 == 3);
      index_t count = 0;
      for (index_t j = 0; j < width; ++j) {
        kept.keep(0, cols - width + j, (bits >> j & 1u) != 0);
        count += bits >> j & 1u;
      }
      if (count > 2) continue;
      auto const codes = slim::testing::random_codes(1, cols, 4, slim::per_tensor, slim::number_format::fp16, true, false, 3);
      auto const read = slim::sparse24::unpack(slim::sparse24::pack(codes, kept));
      CAPTURE(cols, bits);
      REQUIRE(read.why() == "");
      CHECK((read->mask == kept) == !(width == 3 && count == 0));
      CHECK(slim::testing::same_bits(integers_of(*read), masked(codes, kept)));
    }
}

TEST_CASE("dense codes without a mask come back with everything kept") {
  auto const codes = slim::testing::random_codes(7, 130, 3, slim::per_group(32), slim::number_format::fp16, true, false, 5);
  auto const bytes = slim::dense_codes::pack(codes);
  auto const read = slim::dense_codes::unpack(bytes);
  REQUIRE(read.why() == "");
  CHECK(slim::testing::same_bits(integers_of(*read), codes));
  CHECK(read->mask.count() == codes.codes.size());
  CHECK(slim::dense_codes::pack(codes, read->mask) == bytes);
}

TEST_CASE("a kept code of 0 stays kept, in every format") {
  integer_codes codes(1, 8, 4, slim::per_tensor, slim::number_format::fp32); // all codes 0
  mask kept(1, 8);
  kept.keep(0, 2);
  kept.keep(0, 3);
  kept.keep(0, 4);
  kept.keep(0, 7);
  CHECK(slim::sparse24::unpack(slim::sparse24::pack(codes, kept))->mask == kept);
  CHECK(slim::nm_bitmask::unpack(slim::nm_bitmask::pack(codes, kept))->mask == kept);
  CHECK(slim::csr_codes::unpack(slim::csr_codes::pack(codes, kept))->mask == kept);
}

TEMPLATE_TEST_CASE("a promise that does not hold is not stored, and not believed", "", slim::sparse24, slim::nm_bitmask,
                   slim::csr_codes) {
  auto const check = [](mask const& liar) {
    integer_codes const codes(1, liar.cols(), 4, slim::per_tensor, slim::number_format::fp32);
    auto bytes = TestType::pack(codes, liar);
    auto const read = TestType::unpack(bytes);
    REQUIRE(read.why() == "");
    CHECK_FALSE(read->mask.pattern().structured());
    auto const n = static_cast<std::uint32_t>(liar.pattern().n), m = static_cast<std::uint32_t>(liar.pattern().m);
    std::memcpy(bytes.data() + offsetof(slim::packed_header, n), &n, 4);
    std::memcpy(bytes.data() + offsetof(slim::packed_header, m), &m, 4);
    CHECK_THAT(TestType::unpack(bytes).why(), Catch::Contains("pattern"));
  };
  mask one_of_two(1, 8, {.n = 1, .m = 4}); // nothing in the second group
  one_of_two.keep(0, 0);
  check(one_of_two);
  mask ragged(1, 6, {.n = 2, .m = 4}); // two of the last two, where one is promised
  for (index_t const j : {0, 1, 4, 5}) ragged.keep(0, j);
  check(ragged);
}

TEST_CASE("unpack finds the format by itself") {
  auto const codes = slim::testing::random_codes(3, 9, 4, slim::per_channel, slim::number_format::fp16, false, false, 6);
  mask const kept = slim::testing::random_mask24(3, 9, 6);
  auto const dense = slim::unpack(slim::dense_codes::pack(codes));
  CHECK(slim::testing::same_bits(integers_of(dense.value()), codes));
  for (auto const& bytes :
       {slim::sparse24::pack(codes, kept), slim::nm_bitmask::pack(codes, kept), slim::csr_codes::pack(codes, kept)}) {
    auto const read = slim::unpack(bytes);
    REQUIRE(read.why() == "");
    CHECK(read->mask == kept);
    CHECK(slim::testing::same_bits(integers_of(*read), masked(codes, kept)));
  }
}
