// Broken bytes: cut off at every byte, every bit flipped, every number replaced by a hostile one. Whatever the bytes, a decoder
// gives a matrix that packs to the same bytes, or a sentence. Run under ASan and UBSan by the asan preset.

#include "slim/packing/unpack.hpp"
#include "slim/testing/packed_format_laws.hpp"

#include "support/allocation_watch.hpp"
#include "support/counting_new.hpp"

#include <catch2/catch.hpp>

namespace {

using slim::testing::named_codes;
using bytes_t = std::vector<std::byte>;

/// Whether F reads the bytes. Whatever it reads packs to the same bytes; whatever it does not read gets a sentence.
template <class F>
bool reads(bytes_t const& bytes, slim::unpack_limit limit = {}) {
  slim_test::allocation_watch const watch;
  auto const read = F::unpack(bytes, limit);
  std::size_t const taken = watch.peak();
  if (!read) {
    REQUIRE(read.why().size() > 20);
    REQUIRE(taken < 4096 + 64 * bytes.size() + 2 * static_cast<std::size_t>(limit.weights));
    return false;
  }
  auto const* const uniform = read->codes.template get_if<slim::integer_codes>();
  auto const again =
      uniform ? F::pack(*uniform, read->mask) : F::pack(*read->codes.template get_if<slim::codebook_codes>(), read->mask);
  REQUIRE(again == bytes);
  return true;
}

/// Small matrices with every part a format has.
template <class F>
std::vector<bytes_t> golden_files() {
  using namespace slim::testing;
  using slim::number_format;
  std::vector<bytes_t> files;
  files.push_back(
      F::pack(random_codes(3, 7, 4, slim::per_group(4), number_format::fp16, true, true, 1), random_mask24(3, 7, 1)));
  files.push_back(
      F::pack(random_codes(4, 9, 3, slim::per_channel, number_format::bf16, true, true, 2), random_mask(4, 9, 6, 2, 2)));
  files.push_back(F::pack(random_codes(1, 1, 8, slim::per_tensor, number_format::fp32, false, false, 3), slim::mask(1, 1)));
  files.push_back(F::pack(random_codes(0, 6, 5, slim::per_tensor, number_format::fp32, false, true, 4), slim::mask(0, 6)));
  files.push_back(F::pack(random_codes(3, 0, 4, slim::per_channel, number_format::fp16, false, false, 6), slim::mask(3, 0)));
  std::vector<float> book(16);
  book[1] = -0.5f;
  files.push_back(F::pack(in_table(random_codes(2, 6, 4, slim::per_tensor, number_format::fp32, false, false, 5), book),
                          random_mask(2, 6, 7, 2, 5)));
  return files;
}

/// Room for few weights, so that what hostile shapes take can be told from what the bytes justify.
constexpr slim::unpack_limit small{.weights = 4096, .weights_per_byte = 16};

} // namespace

TEMPLATE_TEST_CASE("cut or lengthened bytes are refused", "", slim::sparse24, slim::dense_codes, slim::nm_bitmask,
                   slim::csr_codes) {
  for (bytes_t const& good : golden_files<TestType>()) {
    REQUIRE(reads<TestType>(good));
    for (std::size_t size = 0; size < good.size(); ++size)
      REQUIRE_FALSE(reads<TestType>(bytes_t(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)), small));
    bytes_t longer = good;
    longer.push_back(std::byte{0});
    REQUIRE_FALSE(reads<TestType>(longer, small));
  }
}

TEMPLATE_TEST_CASE("every byte replaced by every other gives a matrix that packs to these bytes, or a sentence", "",
                   slim::sparse24, slim::dense_codes, slim::nm_bitmask, slim::csr_codes) {
  std::size_t read = 0, refused = 0;
  for (bytes_t const& good : golden_files<TestType>())
    for (std::size_t at = 0; at < good.size(); ++at)
      for (unsigned value = 0; value < 256; ++value) {
        bytes_t bytes = good;
        bytes[at] = static_cast<std::byte>(value);
        ++(reads<TestType>(bytes, small) ? read : refused);
      }
  CHECK(read > 5000);
  CHECK(refused > 50000);
}

TEMPLATE_TEST_CASE("hostile numbers anywhere are refused in memory proportional to the bytes", "", slim::sparse24,
                   slim::dense_codes, slim::nm_bitmask, slim::csr_codes) {
  std::uint64_t const hostile[] = {0,
                                   ~std::uint64_t{0},
                                   std::uint64_t{1} << 63,
                                   std::uint64_t{1} << 60,
                                   (std::uint64_t{1} << 31) - 1,
                                   std::uint64_t{1} << 32,
                                   std::uint64_t{1} << 24,
                                   0x7fc000007fc00000};
  std::size_t refused = 0;
  for (bytes_t const& good : golden_files<TestType>())
    for (std::size_t at = 0; at + 8 <= good.size(); ++at)
      for (std::uint64_t const number : hostile) {
        bytes_t bytes = good;
        std::memcpy(bytes.data() + at, &number, 8);
        if (!reads<TestType>(bytes, small)) ++refused;
        if (at >= 24 && at < 40) { // two extents at once
          std::memcpy(bytes.data() + 24, &number, 8);
          std::memcpy(bytes.data() + 32, &number, 8);
          (void)reads<TestType>(bytes, small);
        }
      }
  CHECK(refused > 2000);
}

TEMPLATE_TEST_CASE("several random bytes replaced", "", slim::sparse24, slim::dense_codes, slim::nm_bitmask, slim::csr_codes) {
  std::uint64_t counter = 0;
  auto const next = [&] { return slim::random_bits(11, counter++); };
  std::size_t read = 0;
  for (bytes_t const& good : golden_files<TestType>())
    for (int round = 0; round < 3000; ++round) {
      bytes_t bytes = good;
      std::size_t const first = next() % 2 == 0 && good.size() > 64 ? 64 : 0; // the header refuses most: spare it half the time
      for (std::uint64_t flips = 1 + next() % 4; flips > 0; --flips) {
        std::byte& victim = bytes[first + next() % (bytes.size() - first)];
        victim = next() % 2 ? static_cast<std::byte>(next() & 255u) : victim ^ static_cast<std::byte>(1u << (next() % 8));
      }
      if (reads<TestType>(bytes, small)) ++read;
    }
  CHECK(read > 100);
}

TEMPLATE_TEST_CASE("a format does not read another's bytes", "", slim::sparse24, slim::dense_codes, slim::nm_bitmask,
                   slim::csr_codes) {
  auto const refuse = [](auto const& files) {
    for (bytes_t const& bytes : files)
      if (static_cast<slim::packed_kind>(bytes[6]) != TestType::kind) CHECK_FALSE(reads<TestType>(bytes));
  };
  refuse(golden_files<slim::sparse24>());
  refuse(golden_files<slim::dense_codes>());
  refuse(golden_files<slim::nm_bitmask>());
  refuse(golden_files<slim::csr_codes>());
}
