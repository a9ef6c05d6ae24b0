#include "slim/io/tensor.hpp"

#include "slim/core/random.hpp"

#include <catch2/catch.hpp>
#include <cmath>

namespace {

std::vector<std::byte> from_hex(std::string_view hex) {
  auto const digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::vector<std::byte> out;
  for (std::size_t k = 0; k + 1 < hex.size(); k += 2)
    out.push_back(static_cast<std::byte>(digit(hex[k]) * 16 + digit(hex[k + 1])));
  return out;
}

/// The weights of one block, through the public door.
std::vector<float> weights_of(slim::tensor_type type, std::string_view hex) {
  std::vector<std::byte> const bytes = from_hex(hex);
  slim::tensor_info const tensor{"block", type, std::string(name_of(type)), {slim::block_of(type).elements}, bytes};
  auto const read = slim::read_matrix(tensor);
  REQUIRE(read.why() == "");
  REQUIRE(read->rows() == 1);
  return {read->data(), read->data() + read->cols()};
}

struct expected_weight {
  std::size_t index;
  float value;
};

struct golden_block {
  slim::tensor_type type;
  std::string_view hex;
  std::vector<expected_weight> weights;
};

} // namespace

// Blocks made by ggml's own quantizers (d99724f2) from x[i] = ((i * 37) % 101 - 50) / 64, and ggml's values of them, printed
// with eight digits: enough to tell neighbouring floats of this size apart, so equality to 1e-8 is equality of bits.
TEST_CASE("blocks written by ggml hold the weights that ggml reads from them") {
  using enum slim::tensor_type;
  golden_block const blocks[] = {
      {q4_0, "402ee046acf258bd1379df358be046acf268", {{0, -0.78125f}, {1, -0.1953125f}, {2, 0.390625f}, {3, -0.5859375f}}},
      {q4_1,
       "ab2e40bad0369bf257bd1369ce258ae0469cf258",
       {{0, -0.78125f}, {1, -0.15612793f}, {2, 0.36480713f}, {3, -0.57287598f}}},
      {q5_0,
       "402aa4a52d6dc07c38f3bf6b26e2ae5a15d18d49f4c0",
       {{0, -0.78125f}, {1, -0.1953125f}, {2, 0.390625f}, {3, -0.63476562f}}},
      {q8_0,
       "4d1e81df3d9af856b41270cd2b89e745a2005ebb1977d53390ee4caa0866c3217fdc",
       {{0, -0.78144455f}, {1, -0.20305252f}, {2, 0.37533951f}, {3, -0.62761688f}}},
      {q4_k,
       "de162c22fefffffcfffdfefecfdcfffea0156bc1278cd3489e045ab0167bc2378de349ae056ab1267cd2389de459af15268ce248ad0459b0157bd13"
       "79ce348"
       "ae046ac0267bd2379df359be156ac1268c9df359be157ac1268ce248ad0459b0157bd1379ce348ae046ac0267bd2379df3156ac1268cd2489df459b"
       "0157bc1"
       "378ce348ae046ab0267bd2379de359ae156a",
       {{0, -0.75942993f},
        {1, -0.2396965f},
        {2, 0.38398361f},
        {3, -0.65548325f},
        {32, 0.32091141f},
        {128, 0.64983559f},
        {252, -0.2396965f},
        {253, 0.28003693f},
        {254, -0.65548325f},
        {255, -0.13574982f}}},
      {q6_k,
       "d158bf37be25ad048b047bf37ad159d0c941ea63eb74fb741d951ea72fc841c9bf35ad169b048df26be069d147cf38bd1a922c840d85ed77ff57d03"
       "8b04aa2"
       "2b67df58c139b22aa22b931c85fd76ee57ce5ad137b31a902c830f86ec78ff55d1c841da62eb63fc840d951ea63fb840c9d129b30b931c74fe86de6"
       "7ff47d1"
       "29b118b1c66cb11b6c861b71c61cb1c76cb22453f9248ef9138ef4538d2452f9248ed4a209d47e09a37e14a349d4ae09d77ec863be1463c9147ec92"
       "3bec463"
       "bd1463807f897a867a84877f737d7a81877c89758a",
       {{0, -0.78190613f},
        {1, -0.20178223f},
        {2, 0.37834167f},
        {3, -0.63056946f},
        {32, 0.35173953f},
        {128, 0.62564313f},
        {252, -0.28139162f},
        {253, 0.30484092f},
        {254, -0.70347905f},
        {255, -0.11724651f}}},
  };
  for (golden_block const& block : blocks) {
    INFO(name_of(block.type));
    std::vector<float> const weights = weights_of(block.type, block.hex);
    for (expected_weight const& expected : block.weights) {
      INFO("element " << expected.index);
      CHECK(weights[expected.index] == Approx(expected.value).margin(1e-8).epsilon(0));
    }
  }
}

TEST_CASE("slim's codes become a Q4_0 block exactly, zeros stay zero") {
  std::vector<float> const weights = weights_of(slim::tensor_type::q4_0, "0029887788558833881188ff88dd88bb8899");
  int const codes[16] = {0, -1, 0, -3, 0, -5, 0, -7, 0, 7, 0, 5, 0, 3, 0, 1};
  for (std::size_t j = 0; j < 32; ++j) CHECK(weights[j] == static_cast<float>(codes[j % 16]) * 0.0390625f);
}

TEST_CASE("half_to_float is fp16's conversion for all 65536 codes") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    float const expected = static_cast<float>(slim::fp16::from_bits(static_cast<std::uint16_t>(bits)));
    float const value = slim::ggml::half_to_float(static_cast<std::uint16_t>(bits));
    if (std::isnan(expected))
      REQUIRE(std::isnan(value));
    else
      REQUIRE(std::bit_cast<std::uint32_t>(value) == std::bit_cast<std::uint32_t>(expected));
  }
}
