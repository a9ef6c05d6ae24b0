#include "formats/packed_weights.hpp"

#include "compress/compress_model.hpp"
#include "evaluate/generate.hpp"
#include "random_model.hpp"
#include "run/workspace.hpp"

#include "slim/testing/hard_matrices.hpp"

#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

compress_config const packed_windows_of_8{.context = 8, .calib_tokens = 40, .keep_packed = true};

/// A file that is gone when the test is over.
struct temporary_file {
  std::filesystem::path path;
  explicit temporary_file(char const* name) : path(std::filesystem::temp_directory_path() / name) {}
  ~temporary_file() { std::filesystem::remove(path); }
};

model named_model() {
  model m = random_llama();
  name_linears(m);
  return m;
}

packed_weights compressed(model& m, char const* recipe) {
  packed_weights packed;
  (void)compress_in_place(m, random_tokens(40, 61), find_recipe(recipe).value(), packed_windows_of_8, 32, {}, &packed);
  return packed;
}

} // namespace

TEST_CASE("packed linears come back from their file with the values they had, and run on their codes") {
  for (char const* name : {"slim@g32", "slim-q@g32", "joint-q@g32", "int3-lr@g32@r2", "gptq-int4@g32", "slim@channel"}) {
    temporary_file const file("slim_packed_weights_test.safetensors");
    model original = named_model(), loaded = named_model();
    write_packed(file.path, compressed(original, name));
    auto const layers = packed_file(file.path).all();
    for (block& b : loaded.blocks) use_packed(b, layers, slim::input_precision::exact);
    auto const expected = all_linears(original), found = all_linears(loaded);
    REQUIRE(found.size() == 14);
    for (std::size_t k = 0; k < found.size(); ++k) {
      REQUIRE(found[k]->weight == expected[k]->weight);
      REQUIRE(found[k]->packed);
      auto const x = slim::testing::normal_matrix(5, found[k]->d_in(), 1);
      auto const y = apply(*expected[k], x);
      auto const distance = [&](matrix<float> const& other) {
        float largest = 0, size = 0;
        for (index_t i = 0; i < y.size(); ++i) {
          largest = std::max(largest, std::abs(other.data()[i] - y.data()[i]));
          size = std::max(size, std::abs(y.data()[i]));
        }
        return largest / size;
      };
      CHECK(distance(apply(*found[k], x)) < 2e-5f);
      found[k]->packed_inputs = slim::input_precision::int8;
      CHECK(distance(apply(*found[k], x)) < 0.03f);
    }
  }
}

TEST_CASE("packed weights that do not fit the model are refused with the tensor's name") {
  model m = named_model();
  packed_weights const weights = compressed(m, "slim-q@g32");
  packed_weights swapped = weights, broken = weights;
  std::swap(swapped.at("linear.0"), swapped.at("linear.1"));
  broken.at("linear.5").weight.resize(70);
  auto const refusal = [&](packed_weights const& w) -> std::string {
    try {
      for (block& b : m.blocks) use_packed(b, w, slim::input_precision::int8);
    } catch (input_error const& e) {
      return e.what();
    }
    return "";
  };
  CHECK(refusal(swapped).find("linear.0: packed as 12 x 24, the model has 24 x 24") == 0);
  CHECK(refusal(broken).find("linear.5: ") == 0);
  CHECK_THROWS_AS(compressed(m, "wanda-24"), slim::config_error); // no codes
  CHECK_THROWS_AS(packed_precision("fp8"), input_error);
  temporary_file const file("slim_packed_weights_test.safetensors");
  std::ofstream(file.path) << "nothing of the kind";
  CHECK_THROWS_AS(packed_file(file.path), input_error);
}

TEST_CASE("a text that grows token by token, or by pieces, has the logits of the whole text at once") {
  for (rope_style const style : {rope_style::rotate_half, rope_style::adjacent_pairs}) {
    model const m = random_llama(61, style);
    auto const ids = random_tokens(150, 61);
    auto const expected = all_logits(m, ids, 150);
    generation const engine(m, 150, {.kv_cache = slim::number_format::fp32});
    growing_text by_one = engine.begin(), by_pieces = engine.begin(), short_one = engine.begin(5);
    auto const check = [&](matrix<float> const& logits, index_t t) {
      for (index_t j = 0; j < 61; ++j) REQUIRE(logits(0, j) == Approx(expected(t, j)).margin(1e-4));
    };
    for (index_t t = 0; t < 140; ++t) check(engine.append(by_one, std::span(ids).subspan(static_cast<std::size_t>(t), 1)), t);
    check(engine.append(by_one, std::span(ids).subspan(140)), 149);
    index_t done = 0;
    for (index_t const piece : {7, 130, 13}) {
      auto const logits =
          engine.append(by_pieces, std::span(ids).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(piece)));
      done += piece;
      check(logits, done - 1);
    }
    CHECK(by_pieces.size() == 150);
    CHECK_THROWS_AS(engine.append(by_pieces, std::span(ids).first(1)), slim::config_error);
    CHECK_THROWS_AS(engine.append(short_one, std::span(ids).first(6)), slim::config_error);
    CHECK_THROWS_AS(engine.append(short_one, {}), slim::shape_error);
  }
}

TEST_CASE("texts that grow side by side have the logits that each has alone, bit for bit, on codes with fp16 keys and values") {
  model m = random_llama(61, rope_style::adjacent_pairs, 16);
  name_linears(m);
  packed_weights packed;
  (void)compress_in_place(m, random_tokens(40, 61), find_recipe("slim-q@g32").value(), packed_windows_of_8, 32, {}, &packed);
  for (block& b : m.blocks) use_packed(b, packed, slim::input_precision::int8);
  generation const engine(m, 90, {.packed_head = true});
  auto const ids = random_tokens(200, 61);
  auto const piece = [&](std::size_t first, std::size_t count) { return std::span(ids).subspan(first, count); };
  std::vector<growing_text> together(5), alone(5);
  for (std::size_t n = 0; n < 5; ++n) {
    together[n] = engine.begin();
    alone[n] = engine.begin();
  }
  for (std::size_t round = 0; round < 4;
       ++round) { // prompts of different lengths, then single tokens, one text fewer each time
    std::vector<appended_tokens> parts;
    for (std::size_t n = 0; n + round < 5; ++n)
      parts.push_back({&together[n], piece(40 * n + (round > 0 ? 30 + round : 0), round > 0 ? 1 : 3 + 5 * n)});
    auto const logits = engine.append(parts);
    for (std::size_t n = 0; n < parts.size(); ++n) {
      auto const row = engine.append(alone[n], parts[n].tokens);
      CAPTURE(round, n);
      CHECK(std::equal(row.data(), row.data() + row.cols(), logits.row(static_cast<index_t>(n))));
    }
  }
}

TEST_CASE("keys and values of 16 bits change logits a little") {
  model const m = random_llama();
  auto const ids = random_tokens(150, 61);
  generation const half(m, 150, {}), whole(m, 150, {.kv_cache = slim::number_format::fp32});
  growing_text a = half.begin(), b = whole.begin();
  auto const x = half.append(a, ids), y = whole.append(b, ids);
  double wrong = 0, size = 0;
  for (index_t j = 0; j < 61; ++j) {
    wrong = std::max(wrong, std::abs(double(x(0, j)) - double(y(0, j))));
    size = std::max(size, std::abs(double(y(0, j))));
  }
  CHECK(wrong < 2e-3 * size);
  CHECK(wrong > 0);
}

TEST_CASE("an output head of 8 bits is close to that of floats") {
  model const m = random_llama();
  auto const ids = random_tokens(12, 61);
  generation const of_floats(m, 12, {}), of_codes(m, 12, {.packed_head = true});
  growing_text a = of_floats.begin(), b = of_codes.begin();
  auto const exact = of_floats.append(a, ids), rounded = of_codes.append(b, ids);
  double wrong = 0, size = 0;
  for (index_t j = 0; j < exact.cols(); ++j) {
    wrong += std::pow(static_cast<double>(exact(0, j) - rounded(0, j)), 2);
    size += std::pow(static_cast<double>(exact(0, j)), 2);
  }
  CHECK(wrong < 1e-3 * size);
  CHECK(wrong > 0);
}

TEST_CASE(
    "greedy takes the likeliest token; with a temperature tokens come as often as the softmax says, the same for a seed") {
  std::vector<float> const logits = {0.0f, 1.0f, -1.0f, 2.0f};
  CHECK(choose_token(logits, {}, 0) == 3);
  std::vector<double> counts(4);
  constexpr int draws = 20000;
  for (int k = 0; k < draws; ++k)
    counts[static_cast<std::size_t>(choose_token(logits, {.temperature = 0.5, .seed = 7}, static_cast<std::uint64_t>(k)))] += 1;
  double sum = 0;
  for (float const l : logits) sum += std::exp(2.0 * static_cast<double>(l));
  for (std::size_t k = 0; k < 4; ++k)
    CHECK(counts[k] / draws == Approx(std::exp(2.0 * static_cast<double>(logits[k])) / sum).margin(0.01));
  CHECK(choose_token(logits, {.temperature = 2, .seed = 9}, 4) == choose_token(logits, {.temperature = 2, .seed = 9}, 4));
}
