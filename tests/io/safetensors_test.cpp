#include "slim/io/safetensors/writer.hpp"

#include "slim/core/random.hpp"
#include "support/temporary_folder.hpp"

#include <catch2/catch.hpp>

namespace {

using slim::index_t;
using slim::tensor_type;
using slim_test::temporary_folder;
using slim_test::write_file;

std::string with_header(std::string_view header, std::size_t data) {
  std::uint64_t const length = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out.append(header).append(data, '\0');
}

std::string why_refused(std::string const& bytes) {
  temporary_folder const folder;
  write_file(folder / "bad.safetensors", bytes);
  std::string const why = slim::safetensors_file::open(folder / "bad.safetensors").why();
  if (!why.empty()) CHECK_THAT(why, Catch::Contains("bad.safetensors: "));
  return why;
}

std::string why_refused(std::string_view header, std::size_t data) { return why_refused(with_header(header, data)); }

} // namespace

TEST_CASE("what save_safetensors writes is what the reader reads, laid out as the reference does") {
  temporary_folder const folder;
  slim::matrix<float> a(3, 5);
  for (index_t k = 0; k < a.size(); ++k)
    a.data()[k] = static_cast<float>(slim::random_normal(1, static_cast<std::uint64_t>(k)));
  std::vector<std::byte> const ints(8, std::byte{1});
  std::vector<slim::outgoing_tensor> tensors;
  tensors.push_back(slim::outgoing_matrix("b.half", tensor_type::f16, a));
  tensors.push_back(slim::outgoing_matrix("a.brain", tensor_type::bf16, a));
  tensors.push_back(slim::outgoing_matrix("z.full", tensor_type::f32, a));
  tensors.push_back(slim::outgoing_matrix("none", tensor_type::f32, slim::matrix<float>(0, 4).view()));
  tensors.push_back({"codes \"quoted\"", tensor_type::other, "I32", {2}, std::span<std::byte const>(ints)});
  REQUIRE(slim::save_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}, {"by", "slim"}}).why() == "");

  auto const file = slim::safetensors_file::open(folder / "model.safetensors");
  REQUIRE(file.why() == "");
  CHECK(file->metadata().at("by") == "slim");
  REQUIRE(file->tensors().size() == 5);
  CHECK(file->tensors()[0].name == "none"); // 4-byte floats first, by name; an empty tensor takes no room
  CHECK(file->tensors()[1].name == "z.full");
  CHECK(file->tensors()[2].name == "codes \"quoted\"");
  CHECK(file->tensors()[3].name == "a.brain");
  CHECK(file->tensors()[4].name == "b.half");
  CHECK(*slim::read_matrix(*file->find("z.full")) == a);
  auto const half = *slim::read_matrix(*file->find("b.half"));
  for (index_t k = 0; k < a.size(); ++k) REQUIRE(half.data()[k] == static_cast<float>(slim::fp16(a.data()[k])));
  CHECK(slim::read_matrix(*file->find("none"))->cols() == 4);
  CHECK_THAT(slim::read_matrix(*file->find("codes \"quoted\"")).why(), Catch::Contains("I32"));
  std::uint64_t length = 0;
  std::memcpy(&length, slim_test::read_file(folder / "model.safetensors").data(), 8);
  CHECK((length + 8) % 8 == 0);
}

TEST_CASE("save_safetensors refuses names and types the format does not have") {
  temporary_folder const folder;
  slim::matrix<float> const a(1, 2);
  auto const save = [&](std::vector<slim::outgoing_tensor> tensors) {
    (void)slim::save_safetensors(folder / "m", std::move(tensors));
  };
  auto const good = slim::outgoing_matrix("a", tensor_type::f32, a);
  CHECK_THROWS_AS(save({good, good}), slim::config_error);
  CHECK_THROWS_AS(save({slim::outgoing_matrix("__metadata__", tensor_type::f32, a)}), slim::config_error);
  CHECK_THROWS_AS(save({slim::outgoing_matrix("\xff", tensor_type::f32, a)}), slim::config_error);
  CHECK_THROWS_AS(save({slim::outgoing_matrix("a", tensor_type::q8_0, a)}), slim::config_error);
  std::vector<std::byte> const four(4);
  CHECK_THROWS_AS(save({{"i", tensor_type::other, "I32", {2}, std::span<std::byte const>(four)}}), slim::shape_error);
  CHECK_THROWS_AS(save({{"i", tensor_type::other, "Q9", {1}, std::span<std::byte const>(four)}}), slim::config_error);
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("every rule of the reference reader of safetensors is enforced") {
  auto const says = [](std::string const& text) { return Catch::Contains(text); };
  CHECK(why_refused(R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", 12) == "");
  CHECK(
      why_refused(
          R"({"t":{"shape":[],"data_offsets":[0,8],"dtype":"F64"},"e":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]}}   )",
          8) == "");
  CHECK(why_refused("{}", 0) == "");
  CHECK(why_refused(R"({"__metadata__":null,"t":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", 12) == "");
  CHECK_THAT(why_refused(R"({"__metadata__":null,"t":null})", 0), says("null in a wrong place"));
  CHECK_THAT(why_refused(R"({"__metadata__":{"a":null}})", 0), says("null in a wrong place"));
  CHECK_THAT(why_refused("1234567"), says("too small"));
  CHECK_THAT(why_refused(std::string(8, '\xff')), says("claims a header"));
  CHECK_THAT(why_refused(std::string("\x03\0\0\0\0\0\0\0{}", 10)), says("more than the file has"));
  CHECK_THAT(why_refused(" {}", 0), says("does not begin with '{'"));
  CHECK_THAT(why_refused("{", 0), says("no valid JSON"));
  CHECK_THAT(why_refused("{}x", 0), says("no valid JSON"));
  CHECK_THAT(why_refused("{\"\xff\":1}", 0), says("no valid JSON"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[4,16]}})", 16),
             says("begins at byte 4, where 0 is expected"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[12,0]}})", 12), says("ends before it begins"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", 11), says("beyond the end"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", 13),
             says("1 bytes that belong to no tensor"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,12]}})", 12), says("need 64 bits"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1), says("need 12 bits"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
             says("can be counted"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F64","shape":[288230376151711744],"data_offsets":[0,0]}})", 0),
             says("can be counted"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"Q4","shape":[3],"data_offsets":[0,12]}})", 12), says("dtype 'Q4'"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[3]}})", 12), says("lacks dtype, shape or data_offsets"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,12,0]}})", 12), says("too many numbers"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[-3],"data_offsets":[0,12]}})", 12), says("negative"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[3.0],"data_offsets":[0,12]}})", 12), says("no integer"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","shape":[[3]],"data_offsets":[0,12]}})", 12), says("array in a wrong place"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":{"a":1},"shape":[3],"data_offsets":[0,12]}})", 12), says("too deep"));
  CHECK_THAT(why_refused(R"({"t":{"dtype":"F32","dtype":"F32","shape":[3],"data_offsets":[0,12]}})", 12),
             says("two fields 'dtype'"));
  CHECK_THAT(
      why_refused(
          R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"t":{"dtype":"F32","shape":[0],"data_offsets":[12,12]}})",
          12),
      says("'t' occurs twice"));
  CHECK_THAT(why_refused(R"({"__metadata__":{"a":1}})", 0), says("number in a wrong place"));
  CHECK_THAT(why_refused(R"({"__metadata__":{"a":"1","a":"2"}})", 0), says("'a' occurs twice"));
  CHECK_THAT(why_refused(R"({"__metadata__":["a"]})", 0), says("array in a wrong place"));
  CHECK_THAT(why_refused(R"({"t":"F32"})", 0), says("string in a wrong place"));
  CHECK_THAT(why_refused(std::string(100000, '['), 0), says("does not begin"));
  CHECK_THAT(why_refused("{\"t\":" + std::string(100000, '['), 0), says("wrong place"));
}

TEST_CASE("a sharded folder is its index: same tensors, plain file names, each tensor where the index says") {
  temporary_folder const folder;
  slim::matrix<float> one(2, 2);
  one(1, 1) = 5;
  auto const save = [&](std::string_view file, std::vector<std::string> const& names) {
    std::vector<slim::outgoing_tensor> tensors;
    for (std::string const& name : names) tensors.push_back(slim::outgoing_matrix(name, tensor_type::f32, one));
    REQUIRE(slim::save_safetensors(folder / file, tensors).why() == "");
  };
  auto const why = [&](std::string_view index) {
    write_file(folder / "model.safetensors.index.json", index);
    return slim::safetensors_folder::open(folder.path()).why();
  };
  CHECK_THAT(slim::safetensors_folder::open(folder.path()).why(), Catch::Contains("has neither"));
  save("m-1.safetensors", {"a", "b"});
  save("m-2.safetensors", {"c"});
  std::string const good =
      R"({"metadata":{"total_size":48},"weight_map":{"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}})";
  write_file(folder / "model.safetensors.index.json", good);
  auto const model = slim::safetensors_folder::open(folder.path());
  REQUIRE(model.why() == "");
  CHECK(model->tensors().size() == 3);
  CHECK((*slim::read_matrix(*model->find("c")))(1, 1) == 5.f);
  CHECK_THAT(model->require("d").why(), Catch::Contains("'d'"));

  CHECK_THAT(why("[]"), Catch::Contains("no object 'weight_map'"));
  CHECK_THAT(why("{"), Catch::Contains("not valid JSON"));
  CHECK_THAT(why(R"({"weight_map":{"a":1}})"), Catch::Contains("not mapped to a file name"));
  CHECK_THAT(why(R"({"weight_map":{"a":"../m-1.safetensors"}})"), Catch::Contains("not a plain file name"));
  CHECK_THAT(why(R"({"weight_map":{"a":"/etc/passwd"}})"), Catch::Contains("not a plain file name"));
  CHECK_THAT(why(R"({"weight_map":{"a":"m-1.safetensors"}})"),
             Catch::Contains("maps 1 tensors to m-1.safetensors, which holds 2"));
  CHECK_THAT(why(R"({"weight_map":{"a":"m-1.safetensors","z":"m-1.safetensors"}})"), Catch::Contains("'b'"));
  CHECK_THAT(why(R"({"weight_map":{"a":"m-3.safetensors"}})"), Catch::Contains("m-3.safetensors: cannot be opened"));
  CHECK_THAT(why(R"({"weight_map":{"a":"m-1.safetensors","a":"m-1.safetensors"}})"), Catch::Contains("'a' occurs twice"));
  save("m-2.safetensors", {"a"});
  CHECK_THAT(why(R"({"weight_map":{"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}})"),
             Catch::Contains("another shard too"));

  CHECK_FALSE(model->has_unread_index());
  save("model.safetensors", {"d"}); // transformers looks for it first
  auto const single = slim::safetensors_folder::open(folder.path());
  REQUIRE(single.why() == "");
  CHECK(single->tensors().size() == 1);
  CHECK(single->find("d"));
  CHECK(single->has_unread_index());
}

TEST_CASE("Python's NaN and Infinity become strings, and an error of JSON has its line") {
  auto const read =
      slim::parse_json(R"({"a": NaN, "b": [Infinity, -Infinity, 1], "c": "NaN, \"Infinity\" \\", "d": "x"})", "x");
  REQUIRE(read.why() == "");
  CHECK(*read == nlohmann::json{{"a", "NaN"}, {"b", {"Infinity", "-Infinity", 1}}, {"c", "NaN, \"Infinity\" \\"}, {"d", "x"}});
  CHECK_THAT(slim::parse_json("{\"a\": 1,\n\"b\": NaN,\n\"c\": nan}", "x").why(), Catch::Contains("line 3"));
  CHECK_THAT(slim::parse_json("{\"a\": NaN, \"a\": 1}", "x").why(), Catch::Contains("'a' occurs twice"));
  CHECK_THAT(slim::parse_json("[1e999]", "x").why(), Catch::Contains("out of range"));
  CHECK_THAT(slim::parse_json("[NaN", "x").why(), Catch::Contains("line 1"));
  CHECK_THAT(slim::parse_json("NaNInfinity", "x").why(), Catch::Contains("not valid JSON"));
}

TEST_CASE("JSON that is too deep, too long, broken or repeats a key is refused without an exception") {
  CHECK(slim::parse_json(R"({"a":[1,{"b":"[[[["}]})", "x").has_value());
  CHECK_THAT(slim::parse_json(std::string(100, '['), "x").why(), Catch::Contains("x: JSON nested deeper than 64"));
  CHECK_THAT(slim::parse_json("[1,2,3]", "x", {.bytes = 3}).why(), Catch::Contains("at most 3"));
  CHECK_THAT(slim::parse_json("{\"a\":\xff}", "x").why(), Catch::Contains("not valid JSON"));
  CHECK_THAT(slim::parse_json("", "x").why(), Catch::Contains("not valid JSON"));
  CHECK_THAT(slim::parse_json(R"({"a":{"b":1,"b":2}})", "x").why(), Catch::Contains("'b' occurs twice"));
  CHECK(slim::parse_json(R"([{"b":1},{"b":2}])", "x").has_value());
}
