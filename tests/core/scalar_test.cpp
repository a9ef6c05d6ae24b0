#include "slim/core/scalar.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

// What a format means, written a second time from its definition: exponent bits, mantissa bits, does the top exponent mean
// infinity and NaN.
struct definition {
  int exponent_bits, mantissa_bits;
  bool ieee;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  std::uint32_t codes() const { return 1u << (exponent_bits + mantissa_bits); } // without the sign
  std::uint32_t finite_codes() const { return ieee ? codes() - (1u << mantissa_bits) : codes() - 1u; }

  double value(std::uint32_t code) const {
    int const exponent = static_cast<int>(code >> mantissa_bits);
    double const fraction = std::ldexp(static_cast<double>(code & ((1u << mantissa_bits) - 1u)), -mantissa_bits);
    return exponent == 0 ? std::ldexp(fraction, 1 - bias()) : std::ldexp(1.0 + fraction, exponent - bias());
  }

  // The first number too large to be the format's largest: half a step beyond it. It rounds up, to even.
  double overflow() const { return 1.5 * value(finite_codes() - 1) - 0.5 * value(finite_codes() - 2); }
};

// The code nearest to a non-negative finite number below overflow, found by search in the table of all values.
std::uint32_t nearest_code(std::vector<double> const& values, double x) {
  auto const above = static_cast<std::size_t>(std::lower_bound(values.begin(), values.end(), x) - values.begin());
  if (above == 0) return 0;
  if (above == values.size()) return static_cast<std::uint32_t>(above - 1);
  double const to_below = x - values[above - 1], to_above = values[above] - x; // exact: the numbers are neighbours
  std::size_t const even = above % 2 == 0 ? above : above - 1;
  return static_cast<std::uint32_t>(to_below < to_above ? above - 1 : to_above < to_below ? above : even);
}

template <class Format>
constexpr definition definition_of() {
  if constexpr (std::is_same_v<Format, slim::fp16>) return {5, 10, true};
  if constexpr (std::is_same_v<Format, slim::bf16>) return {8, 7, true};
  if constexpr (std::is_same_v<Format, slim::fp8_e4m3>) return {4, 3, false};
  return {5, 2, true};
}

template <class Format>
Format from_bits(std::uint32_t bits) {
  Format format;
  format.bits = static_cast<decltype(format.bits)>(bits);
  return format;
}

template <class Format>
std::vector<double> finite_values() {
  auto const format = definition_of<Format>();
  std::vector<double> values;
  for (std::uint32_t code = 0; code < format.finite_codes(); ++code) values.push_back(format.value(code));
  return values;
}

} // namespace

TEMPLATE_TEST_CASE("every code of a small format means what the format's definition says", "", slim::fp16, slim::bf16,
                   slim::fp8_e4m3, slim::fp8_e5m2) {
  auto const format = definition_of<TestType>();
  std::uint32_t wrong = 0;
  for (std::uint32_t code = 0; code < format.codes(); ++code) {
    float const plus = from_bits<TestType>(code), minus = from_bits<TestType>(code + format.codes());
    if (code < format.finite_codes())
      wrong +=
          !(static_cast<double>(plus) == format.value(code) && minus == -plus && std::signbit(minus) && !std::signbit(plus));
    else if (format.ieee && code == format.finite_codes())
      wrong += !(std::isinf(plus) && plus > 0 && std::isinf(minus) && minus < 0);
    else
      wrong += !(std::isnan(plus) && std::isnan(minus));
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("a number of a small format encodes to its own code", "", slim::fp16, slim::bf16, slim::fp8_e4m3,
                   slim::fp8_e5m2) {
  auto const format = definition_of<TestType>();
  std::uint32_t wrong = 0;
  for (std::uint32_t bits = 0; bits < 2 * format.codes(); ++bits) {
    float const value = from_bits<TestType>(bits);
    TestType const again(value);
    wrong += std::isnan(value) ? !std::isnan(float(again)) : again.bits != bits;
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("between neighbours the middle rounds to the even code, and a hair beside it to the nearer one", "",
                   slim::fp16, slim::bf16, slim::fp8_e4m3, slim::fp8_e5m2) {
  auto const values = finite_values<TestType>();
  auto const sign = static_cast<std::uint32_t>(definition_of<TestType>().codes());
  std::uint32_t wrong = 0;
  for (std::uint32_t code = 0; code + 1 < values.size(); ++code) {
    auto const middle = static_cast<float>((values[code] + values[code + 1]) / 2); // exact: one more bit than the format
    REQUIRE(static_cast<double>(middle) * 2 == values[code] + values[code + 1]);
    wrong += TestType(middle).bits != code + code % 2;
    wrong += TestType(-middle).bits != sign + code + code % 2;
    wrong += TestType(std::nextafter(middle, 0.0f)).bits != code;
    wrong += TestType(std::nextafter(middle, INFINITY)).bits != code + 1;
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("any float rounds to the nearest number of a small format", "", slim::fp16, slim::bf16, slim::fp8_e4m3,
                   slim::fp8_e5m2) {
  auto const values = finite_values<TestType>();
  double const overflow = definition_of<TestType>().overflow();
  std::uint32_t wrong = 0, tried = 0;
  for (std::uint64_t bits = 0; bits < 0x7f800000u; bits += 10007) { // prime step: all exponents, all kinds of mantissas
    auto const x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (static_cast<double>(x) >= overflow) break;
    wrong += TestType(x).bits != nearest_code(values, static_cast<double>(x));
    ++tried;
  }
  CHECK(tried > 90000); // the smallest range, that of fp8_e4m3, is more than half of all positive floats
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("IEEE-like formats overflow to infinity from half a step beyond their largest number", "", slim::fp16,
                   slim::bf16, slim::fp8_e5m2) {
  auto const format = definition_of<TestType>();
  auto const first_too_large = static_cast<float>(format.overflow());
  CHECK(TestType(std::nextafter(first_too_large, 0.0f)).bits == format.finite_codes() - 1);
  for (float const x : {first_too_large, std::numeric_limits<float>::max(), std::numeric_limits<float>::infinity()}) {
    CHECK(TestType(x).bits == format.finite_codes());
    CHECK(TestType(-x).bits == format.finite_codes() + format.codes());
  }
}

TEST_CASE("fp8_e4m3 has no infinity: it saturates at 448") {
  CHECK(float(slim::fp8_e4m3(448.0f)) == 448.0f);
  for (float const x : {449.0f, 464.0f, 480.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    CHECK(float(slim::fp8_e4m3(x)) == 448.0f);
    CHECK(float(slim::fp8_e4m3(-x)) == -448.0f);
  }
}

TEMPLATE_TEST_CASE("NaN stays NaN with its sign, whatever its payload", "", slim::fp16, slim::bf16, slim::fp8_e4m3,
                   slim::fp8_e5m2) {
  for (std::uint32_t const payload : {0x7f800001u, 0x7f80ffffu, 0x7fc00000u, 0x7fffffffu}) {
    TestType const plus(std::bit_cast<float>(payload)), minus(std::bit_cast<float>(payload | 0x80000000u));
    CHECK(std::isnan(float(plus)));
    CHECK(std::isnan(float(minus)));
    CHECK(plus.bits < definition_of<TestType>().codes());
    CHECK(minus.bits == plus.bits + definition_of<TestType>().codes());
  }
}

TEMPLATE_TEST_CASE("zero keeps its sign, and the smallest floats vanish into it", "", slim::fp16, slim::fp8_e4m3,
                   slim::fp8_e5m2) {
  CHECK(TestType(0.0f).bits == 0);
  CHECK(TestType(-0.0f).bits == definition_of<TestType>().codes());
  CHECK(TestType(std::numeric_limits<float>::denorm_min()).bits == 0);
  CHECK(TestType(-std::numeric_limits<float>::denorm_min()).bits == definition_of<TestType>().codes());
}

TEST_CASE("conversions are constant expressions") {
  STATIC_REQUIRE(slim::fp16(1.0f).bits == 0x3c00);
  STATIC_REQUIRE(slim::bf16(1.0f).bits == 0x3f80);
  STATIC_REQUIRE(slim::fp8_e4m3(1.0f).bits == 0x38);
  STATIC_REQUIRE(slim::fp8_e5m2(1.0f).bits == 0x3c);
  STATIC_REQUIRE(float(slim::fp8_e4m3(240.0f)) == 240.0f);
}

TEST_CASE("rounded_to is what storing and reading back gives") {
  using slim::number_format;
  CHECK(slim::rounded_to(number_format::fp32, 0.1f) == 0.1f);
  CHECK(slim::rounded_to(number_format::fp16, 0.1f) == 0.0999755859375f);
  CHECK(slim::rounded_to(number_format::bf16, 0.1f) == 0.10009765625f);
  CHECK(slim::bit_width(number_format::fp32) == 32);
  CHECK(slim::bit_width(number_format::bf16) == 16);
  CHECK(slim::bit_width(number_format::fp16) == 16);
}
