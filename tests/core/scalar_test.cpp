#include "slim/core/scalar.hpp"

#include <catch2/catch.hpp>
#include <cmath>

TEST_CASE("a code of a small format decodes and encodes to itself") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    auto const half = slim::fp16::from_bits(static_cast<std::uint16_t>(bits));
    auto const brain = slim::bf16::from_bits(static_cast<std::uint16_t>(bits));
    if (!std::isnan(float(half))) REQUIRE(slim::fp16(float(half)).bits == bits);
    if (!std::isnan(float(brain))) REQUIRE(slim::bf16(float(brain)).bits == bits);
  }
}
