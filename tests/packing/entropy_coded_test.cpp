// Entropy-coded bytes: what comes back, how few bytes it takes, and what damage does.

#include "slim/packing/entropy_coded_matrix.hpp"

#include "slim/core/random.hpp"
#include "slim/io/gguf/record_planes.hpp"
#include "slim/packing/unpack.hpp"
#include "slim/testing/executors.hpp"
#include "support/simd_levels.hpp"

#include <catch2/catch.hpp>

#include <cmath>

namespace {

using slim::entropy_decode;
using slim::entropy_encode;
using byte_list = std::vector<std::byte>;

/// Bytes of a bell around 128, as wide as `width`: an entropy of log2(width * 4.13) bits.
byte_list bell(std::size_t count, double width, std::uint64_t seed) {
  byte_list all;
  for (std::size_t k = 0; k < count; ++k) {
    double const x = 128 + width * slim::random_normal(seed, k);
    all.push_back(static_cast<std::byte>(std::clamp(std::lround(x), 0L, 255L)));
  }
  return all;
}

double entropy(byte_list const& all) {
  std::array<double, 256> count{};
  for (std::byte const b : all) ++count[static_cast<std::size_t>(b)];
  double bits = 0;
  for (double const c : count)
    if (c > 0) bits -= c * std::log2(c / static_cast<double>(all.size()));
  return bits / 8;
}

byte_list decoded(byte_list const& coded, std::size_t most, slim::context const& ctx = {}) {
  auto read = entropy_decode(coded, most, ctx);
  INFO(read.why());
  REQUIRE(read);
  return std::move(*read);
}

} // namespace

namespace {

/// Codes of a bell, as quantizers leave them: 1.4 steps wide for 3 bits.
slim::integer_codes bell_codes(slim::index_t rows, slim::index_t cols, int bits, bool zeros, slim::number_format scales) {
  slim::integer_codes codes(rows, cols, bits, slim::per_group(16), scales);
  if (zeros) codes.zeros = slim::matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
  double const width = 0.175 * (1 << bits);
  for (slim::index_t k = 0; k < codes.codes.size(); ++k) {
    double const x = std::floor(width * slim::random_normal(7, static_cast<std::uint64_t>(k)));
    codes.codes.data()[k] = static_cast<std::int8_t>(std::clamp(x, double(codes.lowest()), double(codes.highest())));
  }
  for (slim::index_t k = 0; k < codes.scales.size(); ++k) {
    codes.scales.data()[k] = 0.25f * static_cast<float>(1 + k % 3);
    if (zeros) codes.zeros.data()[k] = static_cast<std::int8_t>(k % 5 == 0 ? 1 : -1);
  }
  return codes;
}

slim::mask half_kept(slim::index_t rows, slim::index_t cols, slim::sparsity_pattern pattern) {
  slim::mask kept(rows, cols, pattern);
  for (slim::index_t i = 0; i < rows; ++i)
    for (slim::index_t j = 0; j < cols; ++j) kept.keep(i, j, j % 4 == i % 2 || j % 4 == 2 + i % 2);
  return kept;
}

} // namespace

TEST_CASE(
    "an entropy-coded matrix is the packed matrix, of every kind, width and shape, and smaller where its codes are a bell") {
  int const bits = GENERATE(2, 3, 4, 5, 6, 7, 8);
  bool const zeros = GENERATE(false, true);
  slim::index_t const rows = GENERATE(1, 33, 96), cols = rows == 96 ? 400 : 2 * rows + 1;
  auto const codes = bell_codes(rows, cols, bits, zeros, zeros ? slim::number_format::fp32 : slim::number_format::fp16);
  auto const kept = half_kept(rows, cols, {}), of_four = half_kept(rows, cols, {.n = 2, .m = 4});
  slim::testing::backwards_executor const backwards;
  slim::context on;
  on.where = backwards;
  for (byte_list const& packed : {byte_list(slim::dense_codes::pack(codes)), slim::sparse24::pack(codes, of_four),
                                  slim::nm_bitmask::pack(codes, kept), slim::csr_codes::pack(codes, kept)}) {
    INFO(bits << " bits, " << rows << " x " << cols << ", kind " << std::to_integer<int>(packed[6]));
    byte_list const coded = slim::entropy_encode_matrix(packed);
    CHECK(slim::entropy_encode_matrix(packed, on) == coded);
    CHECK(slim::is_coded_matrix(coded));
    CHECK(!slim::is_coded_matrix(packed));
    CHECK(slim::read_coded_header(coded).value() == slim::read_packed_header(packed).value());
    auto const read = slim::entropy_decode_matrix(coded, {}, on);
    INFO(read.why());
    REQUIRE(read);
    CHECK(*read == packed);
    if (rows == 96) CHECK(coded.size() < packed.size());
  }
}

TEST_CASE("codes of three bits cost their entropy, though they cross bytes") {
  auto const codes = bell_codes(256, 1024, 3, false, slim::number_format::fp16);
  std::array<double, 8> count{};
  for (slim::index_t k = 0; k < codes.codes.size(); ++k) ++count[static_cast<std::size_t>(codes.codes.data()[k] + 4)];
  double bits = 0;
  for (double const c : count) bits -= c * std::log2(c / static_cast<double>(codes.codes.size()));
  byte_list const packed = slim::dense_codes::pack(codes), coded = slim::entropy_encode_matrix(packed);
  double const scales = 2.0 * static_cast<double>(codes.scales.size());
  CHECK(static_cast<double>(coded.size()) < bits / 8 * 1.002 + scales / 4 + 1500); // scales of three values
  CHECK(static_cast<double>(coded.size()) > bits / 8);
  CHECK(bits < 2.9 * static_cast<double>(codes.codes.size()));
}

TEST_CASE("an entropy-coded matrix that is damaged, cut off, or promises too much is refused, and nothing outside is touched") {
  byte_list const packed = slim::dense_codes::pack(bell_codes(6, 40, 3, true, slim::number_format::fp16));
  byte_list const coded = slim::entropy_encode_matrix(packed);
  for (std::size_t size = 0; size < coded.size(); ++size) CHECK(!slim::entropy_decode_matrix(std::span(coded.data(), size)));
  for (std::size_t at = 0; at < coded.size(); ++at)
    for (int const flip : {1, 0x80, 0xff}) {
      byte_list other = coded;
      other[at] ^= static_cast<std::byte>(flip);
      auto const read = slim::entropy_decode_matrix(other); // a scale may be another number: that is for hashes to find
      if (read)
        CHECK(read->size() == packed.size());
      else
        CHECK(read.why().find("entropy-coded") == 0);
    }
  byte_list longer = coded;
  longer.push_back(std::byte{});
  CHECK(slim::entropy_decode_matrix(longer).why().find("1 bytes too many") != std::string::npos);
  byte_list promised = coded;
  promised[15] = std::byte{1}; // 2^56 bytes
  CHECK(slim::entropy_decode_matrix(promised).why().find("are promised for 6 x 40") != std::string::npos);
  CHECK_THROWS_AS(slim::entropy_encode_matrix(byte_list(70)), slim::config_error);
}

TEST_CASE("entropy-coded bytes come back, at every level and on every executor") {
  std::size_t const count = GENERATE(as<std::size_t>{}, 0, 1, 2, 31, 32, 33, 63, 64, 1000, 4097, 100000, 1200001);
  double const width = GENERATE(0.0, 0.3, 9.0, 70.0);
  slim::record_planes const planes =
      GENERATE(slim::record_planes{0}, slim::record_planes{0, 1, 2, 2, 2, 2, 2, 2}, slim::record_planes{1, 0, 1});
  byte_list const all = bell(count, width, count);
  byte_list const coded = entropy_encode(all, planes);
  for (slim::simd_level const level : slim_test::simd_levels()) CHECK(decoded(coded, count, slim_test::at(level)) == all);
  slim::testing::backwards_executor const backwards;
  slim::testing::thread_team_executor const team;
  slim::context on;
  on.where = backwards;
  CHECK(entropy_encode(all, planes, on) == coded);
  on.where = team;
  CHECK(entropy_encode(all, planes, on) == coded);
  CHECK(decoded(coded, count, on) == all);
}

TEST_CASE("entropy-coded bytes take what their frequencies say") {
  double const width = GENERATE(0.2, 1.0, 5.0, 30.0);
  byte_list const all = bell(400000, width, 3);
  double const size = static_cast<double>(entropy_encode(all, {0}).size());
  CHECK(size > entropy(all));
  CHECK(size < 1.01 * entropy(all) + 1000);
  byte_list noise; // has no slack, and is stored as it is
  for (std::size_t k = 0; k < 100000; ++k) noise.push_back(static_cast<std::byte>(slim::random_bits(1, k)));
  CHECK(entropy_encode(noise, {0}).size() < noise.size() + 700);
}

TEST_CASE("planes keep apart what does not belong together") {
  byte_list all; // an even byte of few values, an odd one of all
  byte_list const even = bell(50000, 0.5, 1), odd = bell(50000, 60, 2);
  for (std::size_t k = 0; k < even.size(); ++k) all.insert(all.end(), {even[k], odd[k]});
  CHECK(static_cast<double>(entropy_encode(all, {0, 1}).size()) < 1.01 * (entropy(even) + entropy(odd)) + 2000);
  CHECK(entropy_encode(all, {0, 1}).size() < entropy_encode(all, {0}).size());
}

TEST_CASE("damaged entropy-coded bytes are a sentence or other bytes, never more than allowed") {
  byte_list const all = bell(3000, 3, 9);
  byte_list const good = entropy_encode(all, {0, 1, 1, 1});
  for (std::size_t length = 0; length < good.size(); ++length)
    REQUIRE_FALSE(entropy_decode(std::span(good).first(length), all.size()));
  for (std::size_t k = 0; k < good.size(); ++k) {
    byte_list bad = good;
    bad[k] ^= static_cast<std::byte>(1 + slim::random_bits(5, k) % 255);
    auto const read = entropy_decode(bad, all.size());
    if (read)
      REQUIRE(read->size() <= all.size());
    else
      REQUIRE(read.why().size() > 20);
  }
  CHECK_THAT(entropy_decode(good, all.size() - 1).why(), Catch::Contains("are allowed"));
  byte_list longer = good;
  longer.push_back({});
  CHECK_FALSE(entropy_decode(longer, all.size()));
}

TEST_CASE("planes that cannot be are refused") {
  byte_list const some(10);
  CHECK_THROWS_AS(entropy_encode(some, {}), slim::config_error);
  CHECK_THROWS_AS(entropy_encode(some, {0, 2}), slim::config_error);
  CHECK_THROWS_AS(entropy_encode(some, slim::record_planes(65537, 0)), slim::config_error);
}

TEST_CASE("the planes of a type cover its blocks") {
  for (int k = 0; k < static_cast<int>(slim::tensor_type::other); ++k) {
    auto const type = static_cast<slim::tensor_type>(k);
    INFO(slim::name_of(type));
    CHECK(static_cast<slim::index_t>(slim::planes_of(type).size()) == slim::block_of(type).bytes);
    CHECK_NOTHROW(entropy_encode(byte_list(1000), slim::planes_of(type)));
  }
}
