// Training on the blocks of GGUF files: what trains is linear, against values decoded with other scales; files keep all else.

#include "formats/patched_gguf.hpp"
#include "run/input_error.hpp"
#include "support/temporary_folder.hpp"
#include "tiny_gguf.hpp"
#include "training/block_scales.hpp"

#include "slim/testing/executors.hpp"

#include <catch2/catch.hpp>

#include <random>

using namespace slim_llm;
using namespace slim_llm::testing;
using Catch::Matchers::Contains;

namespace {

using slim::tensor_type;

struct block_type {
  tensor_type type;
  std::vector<std::size_t> numbers; ///< where ggml-common.h puts the fp16 numbers
};

std::vector<block_type> const block_types = {
    {tensor_type::q4_0, {0}},    {tensor_type::q4_1, {0, 2}},   {tensor_type::q5_0, {0}},   {tensor_type::q5_1, {0, 2}},
    {tensor_type::q8_0, {0}},    {tensor_type::q2_k, {80, 82}}, {tensor_type::q3_k, {108}}, {tensor_type::q4_k, {0, 2}},
    {tensor_type::q5_k, {0, 2}}, {tensor_type::q6_k, {208}},    {tensor_type::iq4_nl, {0}}, {tensor_type::iq4_xs, {0}},
};

/// A matrix of blocks with random codes and scales of 0.01 to 0.03, of both signs.
struct random_blocks {
  std::vector<std::byte> bytes;
  slim::tensor_info tensor;

  random_blocks(block_type const& of, index_t rows, index_t per_row, unsigned seed) {
    auto const layout = slim::block_of(of.type);
    std::mt19937 random(seed);
    for (index_t k = 0; k < rows * per_row * layout.bytes; ++k) bytes.push_back(static_cast<std::byte>(random() & 255u));
    for (index_t b = 0; b < rows * per_row; ++b)
      for (std::size_t const at : of.numbers) {
        float const size = 0.01f + 0.02f * static_cast<float>(random() % 1000) / 1000.0f;
        std::uint16_t const bits = slim::fp16(random() % 2 ? size : -size).bits;
        std::memcpy(&bytes[static_cast<std::size_t>(b * layout.bytes) + at], &bits, 2);
      }
    tensor = {"w", of.type, std::string(slim::name_of(of.type)), {rows, per_row * layout.elements}, bytes};
  }
};

matrix<float> values_of(block_scales const& blocks) {
  matrix<float> w(blocks.rows(), blocks.cols());
  blocks.values_into(w.view());
  return w;
}

} // namespace

TEST_CASE("scales of blocks: the start is the file, and gradients are differences of what ggml's decoder reads") {
  slim::testing::backwards_executor const backwards;
  for (block_type const& of : block_types) {
    CAPTURE(slim::name_of(of.type));
    random_blocks const given(of, 3, 2, 7);
    block_scales blocks(given.tensor);
    REQUIRE(blocks.count() == 6 * std::ssize(of.numbers));
    std::vector<float> factors(static_cast<std::size_t>(blocks.count()), 1.0f);
    blocks.set(factors);
    CHECK(std::equal(blocks.bytes().begin(), blocks.bytes().end(), given.bytes.begin(), given.bytes.end()));
    matrix<float> const start = values_of(blocks), want = slim::read_matrix(given.tensor).value();
    CHECK(std::equal(start.data(), start.data() + start.size(), want.data()));

    matrix<float> const dw = random_matrix(blocks.rows(), blocks.cols(), 9);
    std::vector<float> gradient(factors.size());
    blocks.add_gradient(dw.view(), gradient);
    for (std::size_t k = 0; k < factors.size(); ++k) {
      factors[k] = 2.0f; // exact in fp16, and W is linear
      blocks.set(factors);
      factors[k] = 1.0f;
      matrix<float> const moved = values_of(blocks);
      double difference = 0, size = 0;
      for (index_t j = 0; j < moved.size(); ++j) {
        double const term = static_cast<double>(dw.data()[j]) * static_cast<double>(moved.data()[j] - start.data()[j]);
        difference += term;
        size += std::abs(term);
      }
      CHECK(std::abs(static_cast<double>(gradient[k]) - difference) <= 1e-5 * size);
    }
    std::vector<float> same(gradient.size());
    blocks.add_gradient(dw.view(), same, slim::testing::on(backwards));
    CHECK(same == gradient);
  }
}

TEST_CASE("scales of blocks keep their sign and stay in fp16; what has none is refused by name") {
  random_blocks const given({tensor_type::q4_0, {0}}, 2, 1, 3);
  block_scales blocks(given.tensor);
  auto const scale = [&](index_t b) {
    std::uint16_t bits;
    std::memcpy(&bits, blocks.bytes().data() + b * 18, 2);
    return slim::ggml::half_to_float(bits);
  };
  float const first = scale(0), second = scale(1);
  blocks.set(std::vector<float>{-3.0f, 1e9f});
  CHECK(scale(0) == slim::rounded_to(slim::number_format::fp16, first * 1e-3f));
  CHECK(scale(1) == std::copysign(65504.0f, second));
  blocks.set(std::vector<float>{1.0f, 1.0f});
  CHECK((scale(0) == first && scale(1) == second)); // nothing was lost on the way
  CHECK_THROWS_AS(blocks.set(std::vector<float>(3)), slim::shape_error);
  CHECK_THROWS_AS(blocks.values_into(matrix<float>(2, 31).view()), slim::shape_error);
  std::vector<float> gradient(2);
  CHECK_THROWS_AS(blocks.add_gradient(matrix<float>(1, 32).view(), gradient), slim::shape_error);
  std::vector<std::byte> const bytes(8);
  CHECK_THROWS_WITH(block_scales({"f", tensor_type::f16, "F16", {2, 2}, bytes}), Contains("'f'") && Contains("F16"));
  CHECK_THROWS_WITH(block_scales({"q", tensor_type::q8_0, "Q8_0", {2, 32}, bytes}), Contains("'q'"));
}

TEST_CASE("a GGUF file gets other bytes in some tensors and keeps all else") {
  slim_test::temporary_folder const folder;
  model m = random_llama();
  write_tiny_gguf(folder / "a.gguf", m);
  auto const file = slim::gguf_file::open(folder / "a.gguf").value();
  auto const* const k = file.find("blk.1.attn_k.weight");
  auto const* const q = file.find("blk.0.attn_q.weight");
  REQUIRE((k && q));
  std::vector<std::byte> const zeros(k->bytes.size()), ones(q->bytes.size(), std::byte{1});
  write_with_tensors(file, {{k->name, zeros}, {q->name, ones}}, folder / "b.gguf");
  auto want = slim_test::read_file(folder / "a.gguf");
  auto const put = [&](slim::tensor_info const& tensor, char value) {
    std::fill_n(want.begin() + (tensor.bytes.data() - file.bytes().data()), tensor.bytes.size(), value);
  };
  put(*k, 0);
  put(*q, 1);
  CHECK(slim_test::read_file(folder / "b.gguf") == want);
  CHECK_THROWS_WITH(write_with_tensors(file, {{k->name, std::span(zeros).first(4)}}, folder / "c.gguf"), Contains(k->name));
  CHECK_THROWS_WITH(write_with_tensors(file, {{"none", zeros}}, folder / "c.gguf"), Contains("'none'"));
  CHECK_FALSE(std::filesystem::exists(folder / "c.gguf"));
}
