#include "compress/recipe_file.hpp"

#include "compress/compress_model.hpp"
#include "compress/side_rules.hpp"
#include "random_model.hpp"
#include "support/temporary_folder.hpp"

#include <catch2/catch.hpp>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

slim::result<recipe> recipe_in(std::string const& document) {
  slim_test::temporary_folder const folder;
  slim_test::write_file(folder / "r.json", document);
  return find_recipe((folder / "r.json").string());
}

} // namespace

TEST_CASE("rules of a recipe file decide tensor by tensor: bits, groups, rank, pattern, another recipe, or nothing") {
  auto const how = recipe_in(R"json({"recipe": "int3-lr@g16@r2", "rules": [
      {"match": "linear\\.0", "skip": true},
      {"match": "linear\\.1", "bits": 5, "rank": 4},
      {"match": "linear\\.(2|3)", "recipe": "gptq-int4", "group": 8},
      {"match": "linear\\.4", "symmetric": true, "pattern": "2:4", "rank": 0},
      {"match": "linear.*", "bits": 2}]})json")
                       .value();
  model m = random_llama();
  name_linears(m);
  auto const before = all_linears(m)[0]->weight;
  packed_weights packed;
  auto const cost = compress_in_place(m, random_tokens(40, 61), how, {.context = 8, .calib_tokens = 40, .keep_packed = true},
                                      32, {}, &packed);
  CHECK(all_linears(m)[0]->weight == before);
  CHECK(!packed.contains("linear.0"));
  CHECK(packed.size() == 13);
  REQUIRE(cost.layers.size() == 14);
  CHECK(cost.layers[0].report.notes.at(0).find("the recipe says so") != std::string::npos);
  auto const header = [&](char const* name) { return slim::read_packed_header(packed.at(name).weight).value(); };
  CHECK(header("linear.1").bits == 5);
  CHECK(cost.layers[1].report.last().rank == 4);
  CHECK(header("linear.2").bits == 4);
  CHECK(header("linear.2").block_cols == 8);
  CHECK(!header("linear.2").has(slim::packed_has_zeros));
  CHECK(cost.layers[2].report.last().rank == 0);
  CHECK((header("linear.4").n == 2 && header("linear.4").m == 4));
  CHECK(!header("linear.4").has(slim::packed_has_zeros));
  CHECK(header("linear.5").bits == 2);
  CHECK(header("linear.5").has(slim::packed_has_zeros));
  CHECK(cost.layers[5].report.last().rank == 2);
}

TEST_CASE("a recipe file that says something unknown is refused with the rule, the key and what was probably meant") {
  auto const why = [](std::string const& document) { return recipe_in(document).why(); };
  auto const rule = [&](std::string const& inside) {
    return why(R"({"recipe": "int3-lr", "rules": [{"match": "a"}, )" + inside + "]}");
  };
  CHECK(why(R"({"recipe": "int3-lr"})").empty());
  CHECK(why(R"({"recipe": "int3-l"})").find("did you mean 'int3-lr'?") != std::string::npos);
  CHECK(why(R"({"rules": []})").find("has no 'recipe'") != std::string::npos);
  CHECK(why(R"({"recipe": "wanda-24"})").find("makes no codes") != std::string::npos);
  CHECK(why("[1]").find("is not an object") != std::string::npos);
  CHECK(why("{").find("is not valid JSON") != std::string::npos);
  CHECK(rule(R"({"match": "b", "bit": 4})").find("rule 2: key 'bit' is not known; did you mean 'bits'?") != std::string::npos);
  CHECK(rule(R"({"bits": 4})").find("rule 2: has no 'match'") != std::string::npos);
  CHECK(rule(R"({"match": "b", "bits": 9})").find("'bits' is 9; possible are 2 to 8") != std::string::npos);
  CHECK(rule(R"({"match": "b", "bits": "4"})").find("'bits' is \"4\"") != std::string::npos);
  CHECK(rule(R"({"match": "(", "bits": 4})").find("is no regular expression") != std::string::npos);
  CHECK(rule(R"({"match": "b", "skip": true, "bits": 4})").find("it can do one of them") != std::string::npos);
  CHECK(rule(R"({"match": "b", "pattern": "4:8"})").find("possible are dense, 2:4, 50%") != std::string::npos);
  CHECK(rule(R"({"match": "b", "recipe": "gptq-int4", "rank": 3})").find("the recipe has no adapter") != std::string::npos);
  CHECK(rule(R"({"match": "b", "rank": 1.5})").find("rank '1.5'") != std::string::npos);
  CHECK(rule(R"({"match": "b", "type": "q8_1"})").find("rule 2: 'type' is 'q8_1'; did you mean 'q8_0'?") != std::string::npos);
  CHECK(rule(R"({"match": "b", "type": "q8_0", "bits": 4})").find("keys for linears") != std::string::npos);
}

TEST_CASE("rules of a recipe file give embedding and head their types, and only them") {
  slim_test::temporary_folder const folder;
  scratch_file scratch(folder / "");
  matrix<float> const values = random_matrix(300, 64, 3, 0.1);
  auto const bytes = std::as_bytes(std::span(values.data(), std::size_t(values.size())));
  auto const stored = [&](char const* name) { // in a file, as always: its pages may be dropped
    auto const begin = scratch.reserve(bytes.size());
    scratch.write(begin, bytes);
    auto const mapped = scratch.map(begin, bytes.size());
    return stored_matrix({name, slim::tensor_type::f32, "F32", {300, 64}, mapped.bytes}, mapped.keeps);
  };
  model m = random_llama();
  m.embedding = stored("token_embd.weight");
  m.head = stored("output.weight");
  auto const sides = [&](std::string const& rules) {
    auto const how = recipe_in(R"({"recipe": "int3-lr", "rules": [)" + rules + "]}");
    REQUIRE(how.why() == "");
    CHECK(how->of("blk.0.attn_q.weight") != nullptr);
    return side_types_of(*how, m);
  };
  using slim::tensor_type;
  CHECK(sides("") == side_types{{"token_embd.weight", tensor_type::q8_0}, {"output.weight", tensor_type::q8_0}});
  CHECK(sides(R"({"match": "token.*", "skip": true})") == side_types{{"output.weight", tensor_type::q8_0}});
  CHECK(
      sides(R"({"match": ".*attn_k.*", "bits": 2}, {"match": "output.*", "type": "bf16"}, {"match": ".*", "type": "q5_1"})") ==
      side_types{{"token_embd.weight", tensor_type::q5_1}, {"output.weight", tensor_type::bf16}});
  CHECK_THROWS_WITH(sides(R"({"match": "blk.*", "type": "q4_0"})"),
                    Catch::Contains("'blk.*'") && Catch::Contains("token_embd.weight") && Catch::Contains("fits neither"));
  CHECK_THROWS_WITH(sides(R"({"match": ".*", "type": "q6_k"})"),
                    Catch::Contains("token_embd.weight: rows of 64") && Catch::Contains("256"));

  double last = 1;
  for (auto const type :
       {tensor_type::q4_0, tensor_type::q4_1, tensor_type::q5_1, tensor_type::q8_0, tensor_type::bf16, tensor_type::f16}) {
    INFO(slim::name_of(type));
    std::vector<std::string> notes;
    stored_matrix const rounded = rounded_to(m.embedding, {{"token_embd.weight", type}}, scratch, notes);
    REQUIRE(rounded.tensor());
    CHECK(rounded.tensor()->type == type);
    CHECK(rounded.tensor()->bytes.size() == bytes_in(*m.embedding.tensor(), type));
    matrix<float> const read = rounded.to_float();
    double change = 0, all = 0;
    for (index_t k = 0; k < read.size(); ++k) {
      change += std::pow(double(read.data()[k]) - double(values.data()[k]), 2.0);
      all += std::pow(double(values.data()[k]), 2.0);
    }
    double const error = std::sqrt(change / all);
    REQUIRE(notes.size() == 1);
    CHECK(notes[0] ==
          slim::message("token_embd.weight: written as ", slim::name_of(type), " in place of F32, relative error ", error));
    CHECK(error < last);
    CHECK(error > 0);
    last = error;
  }
}
