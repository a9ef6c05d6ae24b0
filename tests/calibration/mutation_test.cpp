// Broken bytes: cut off at every byte, every byte replaced by every other, numbers replaced by hostile ones. Whatever the
// bytes, they are read as a calibration that saves to the same bytes, or refused with a sentence, in memory proportional to
// them. Run under ASan and UBSan by the asan preset.

#include "slim/calibration/calibration_bytes.hpp"

#include "calibration/small_calibrations.hpp"
#include "support/allocation_watch.hpp"
#include "support/counting_new.hpp"

#include <catch2/catch.hpp>

namespace {

using bytes_t = std::vector<std::byte>;

bool reads(bytes_t const& bytes) {
  slim_test::allocation_watch const watch;
  auto const read = slim::load_calibration(bytes);
  REQUIRE(watch.peak() < 8192 + 8 * bytes.size());
  if (!read) {
    REQUIRE(read.why().size() > 40);
    return false;
  }
  REQUIRE(slim::save(*read) == bytes);
  return true;
}

std::vector<bytes_t> good_bytes() {
  std::vector<bytes_t> all;
  for (auto const& c : slim_test::small_calibrations()) all.push_back(slim::save(c.calib));
  return all;
}

} // namespace

TEST_CASE("saved calibrations that are cut or lengthened are refused") {
  for (bytes_t const& good : good_bytes()) {
    REQUIRE(reads(good));
    for (std::size_t size = 0; size < good.size(); ++size)
      REQUIRE_FALSE(reads(bytes_t(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size))));
    bytes_t longer = good;
    longer.push_back(std::byte{0});
    REQUIRE_FALSE(reads(longer));
  }
}

TEST_CASE("every byte of a saved calibration replaced by every other") {
  std::size_t read = 0, refused = 0;
  for (bytes_t const& good : good_bytes())
    for (std::size_t at = 0; at < good.size(); ++at)
      for (unsigned value = 0; value < 256; ++value) {
        bytes_t bytes = good;
        bytes[at] = static_cast<std::byte>(value);
        ++(reads(bytes) ? read : refused);
      }
  CHECK(read > 50000);
  CHECK(refused > 50000);
}

TEST_CASE("hostile numbers anywhere in a saved calibration") {
  std::uint64_t const hostile[] = {0,
                                   ~std::uint64_t{0},
                                   std::uint64_t{1} << 63,
                                   (std::uint64_t{1} << 63) - 1,
                                   std::uint64_t{1} << 60,
                                   std::uint64_t{1} << 32,
                                   (std::uint64_t{1} << 31) - 1,
                                   std::uint64_t{1} << 20,
                                   0x7ff8000000000000, // NaN
                                   0x7ff0000000000000, // infinity
                                   0xbff0000000000000, // -1
                                   0x7fc000007fc00000};
  std::size_t refused = 0;
  for (bytes_t const& good : good_bytes())
    for (std::size_t at = 0; at + 8 <= good.size(); at += 4)
      for (std::uint64_t const number : hostile) {
        bytes_t bytes = good;
        std::memcpy(bytes.data() + at, &number, 8);
        if (!reads(bytes)) ++refused;
        if (at >= 24 && at < 64) // two sizes at once
          for (std::size_t other = 24; other < 64; other += 8) {
            bytes_t both = bytes;
            std::memcpy(both.data() + other, &number, 8);
            (void)reads(both);
          }
      }
  CHECK(refused > 2000);
}

TEST_CASE("several random bytes of a saved calibration replaced") {
  std::uint64_t counter = 0;
  auto const next = [&] { return slim::random_bits(12, counter++); };
  std::size_t read = 0, refused = 0;
  for (bytes_t const& good : good_bytes())
    for (int round = 0; round < 3000; ++round) {
      bytes_t bytes = good;
      std::size_t const first =
          next() % 2 == 0 && good.size() > 90 ? 80 : 0; // heads refuse most: spare the first half the time
      for (std::uint64_t flips = 1 + next() % 4; flips > 0; --flips) {
        std::byte& victim = bytes[first + next() % (bytes.size() - first)];
        victim = next() % 2 ? static_cast<std::byte>(next() & 255u) : victim ^ static_cast<std::byte>(1u << (next() % 8));
      }
      ++(reads(bytes) ? read : refused);
    }
  CHECK(read > 1000);
  CHECK(refused > 1000);
}

TEST_CASE("a record of tokens held out in a record held out is refused, however deep") {
  auto const& all = good_bytes();
  bytes_t deep = all[2];
  bytes_t const record(all[2].begin() + 16, all[2].end());
  constexpr std::byte holds_out{32};
  for (int k = 0; k < 1000; ++k) {
    deep[deep.size() - record.size()] |= holds_out;
    deep.insert(deep.end(), record.begin(), record.end());
  }
  CHECK_FALSE(reads(deep));
  bytes_t once = all[2];
  once[16] |= holds_out;
  once.insert(once.end(), record.begin(), record.end());
  CHECK(reads(once));
}
