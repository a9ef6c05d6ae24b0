#include "slim/io/gguf/writer.hpp"

#include "slim/core/random.hpp"
#include "support/temporary_folder.hpp"

#include <catch2/catch.hpp>
#include <cstring>

namespace {

using slim::index_t;
using slim::tensor_type;
using slim_test::read_file;
using slim_test::temporary_folder;
using slim_test::write_file;

slim::matrix<float> random_matrix(index_t rows, index_t cols, std::uint64_t seed) {
  slim::matrix<float> out(rows, cols);
  for (index_t k = 0; k < out.size(); ++k)
    out.data()[k] = static_cast<float>(slim::random_normal(seed, static_cast<std::uint64_t>(k)));
  return out;
}

/// Little-endian bytes of numbers and strings, put together by hand: an oracle that shares no code with the writer.
struct raw_file {
  std::string bytes;

  template <class T>
  raw_file& number(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    bytes.append(raw, sizeof(T));
    return *this;
  }
  raw_file& text(std::string_view value) {
    number<std::uint64_t>(value.size());
    bytes += value;
    return *this;
  }
  raw_file& header(std::uint32_t version, std::int64_t tensors, std::int64_t entries) {
    bytes += "GGUF";
    return number(version).number(tensors).number(entries);
  }
  /// One tensor of rank 1 or 2, extents innermost first.
  raw_file& tensor(std::string_view name, std::vector<std::int64_t> const& extents, std::uint32_t type, std::uint64_t offset) {
    text(name).number(static_cast<std::uint32_t>(extents.size()));
    for (std::int64_t const extent : extents) number(extent);
    return number(type).number(offset);
  }
  raw_file& pad(std::size_t alignment) {
    while (bytes.size() % alignment != 0) bytes.push_back('\0');
    return *this;
  }
};

/// Why a file of these bytes is refused; empty if it is read.
std::string why_refused(std::string const& bytes) {
  temporary_folder const folder;
  write_file(folder / "bad.gguf", bytes);
  std::string const why = slim::gguf_file::open(folder / "bad.gguf").why();
  if (!why.empty()) CHECK_THAT(why, Catch::Contains("bad.gguf: "));
  return why;
}

raw_file one_tensor(std::vector<std::int64_t> const& extents, std::uint32_t type, std::uint64_t offset, std::size_t data) {
  raw_file file;
  file.header(3, 1, 0).tensor("t", extents, type, offset).pad(32);
  file.bytes.append(data, 'x');
  return file;
}

} // namespace

TEST_CASE("a GGUF file put together by hand is read as the format says") {
  raw_file file;
  file.header(3, 2, 3);
  file.text("general.alignment").number<std::uint32_t>(4).number<std::uint32_t>(64);
  file.text("numbers")
      .number<std::uint32_t>(9)
      .number<std::uint32_t>(5)
      .number<std::uint64_t>(2)
      .number<std::int32_t>(-1)
      .number<std::int32_t>(7);
  file.text("words").number<std::uint32_t>(9).number<std::uint32_t>(8).number<std::uint64_t>(2).text("a").text("");
  file.tensor("first", {3, 2}, 0, 0).tensor("second", {2}, 30, 64).pad(64);
  for (float const value : {1.f, 2.f, 3.f, 4.f, 5.f, 6.f}) file.number(value);
  file.pad(64).number<std::uint16_t>(0x3f80).number<std::uint16_t>(0xc020); // bf16: 1, -2.5
  temporary_folder const folder;
  write_file(folder / "m.gguf", file.bytes);

  auto const read = slim::gguf_file::open(folder / "m.gguf");
  REQUIRE(read.why() == "");
  CHECK(read->alignment() == 64);
  CHECK(*read->get<std::vector<int>>("numbers") == std::vector<int>{-1, 7});
  CHECK(*read->get<std::vector<std::string>>("words") == std::vector<std::string>{"a", ""});
  REQUIRE(read->tensors().size() == 2);
  CHECK(read->find("first")->shape == std::vector<index_t>{2, 3});
  auto const first = *slim::read_matrix(*read->find("first"));
  CHECK(first(0, 2) == 3.f);
  CHECK(first(1, 0) == 4.f);
  auto const second = *slim::read_matrix(*read->find("second"));
  CHECK(second.rows() == 1);
  CHECK(second(0, 0) == 1.f);
  CHECK(second(0, 1) == -2.5f);
}

TEST_CASE("what the writer writes is what the reader reads, to the rounding of each type") {
  temporary_folder const folder;
  auto const a = random_matrix(7, 33, 1);
  auto const b = random_matrix(0, 5, 2);
  auto const c = random_matrix(1, 1, 3);
  slim::gguf_writer writer;
  writer.set("general.architecture", "test");
  writer.set("yes", true);
  writer.set("big", std::uint64_t{1} << 63);
  writer.set("small", std::int8_t{-3});
  writer.set("real", 0.25f);
  writer.set("reals", std::vector<double>{0.5, -1e300});
  writer.add(slim::outgoing_matrix("a32", tensor_type::f32, a));
  writer.add(slim::outgoing_matrix("a16", tensor_type::f16, a));
  writer.add(slim::outgoing_matrix("ab16", tensor_type::bf16, a));
  writer.add(slim::outgoing_matrix("empty", tensor_type::f32, b));
  writer.add(slim::outgoing_vector("one", tensor_type::f32, std::span(c.data(), 1)));
  REQUIRE(writer.write(folder / "m.gguf").why() == "");
  CHECK(!std::filesystem::exists(folder / "m.gguf.tmp"));

  auto const file = slim::gguf_file::open(folder / "m.gguf");
  REQUIRE(file.why() == "");
  CHECK(*file->get<std::string>("general.architecture") == "test");
  CHECK(*file->get<bool>("yes"));
  CHECK(*file->get<std::uint64_t>("big") == std::uint64_t{1} << 63);
  CHECK(*file->get<int>("small") == -3);
  CHECK(*file->get<double>("small") == -3.0);
  CHECK(*file->get<float>("real") == 0.25f);
  CHECK(*file->get<std::vector<double>>("reals") == std::vector<double>{0.5, -1e300});
  auto const a32 = *slim::read_matrix(*file->find("a32"));
  auto const a16 = *slim::read_matrix(*file->find("a16"));
  auto const ab16 = *slim::read_matrix(*file->find("ab16"));
  CHECK(a32 == a);
  for (index_t k = 0; k < a.size(); ++k) {
    REQUIRE(a16.data()[k] == static_cast<float>(slim::fp16(a.data()[k])));
    REQUIRE(ab16.data()[k] == static_cast<float>(slim::bf16(a.data()[k])));
  }
  CHECK(slim::read_matrix(*file->find("empty"))->cols() == 5);
  CHECK(file->find("one")->shape == std::vector<index_t>{1});
  CHECK(file->find("none") == nullptr);
  CHECK_THAT(file->require("none").why(), Catch::Contains("m.gguf") && Catch::Contains("'none'"));
}

TEST_CASE("a tensor of many rows without columns takes no time") {
  slim::tensor_info tensor;
  tensor.shape = {slim::index_t{1} << 40, 0};
  tensor.type = tensor_type::f32;
  auto const read = slim::read_matrix(tensor);
  REQUIRE(read);
  CHECK(read->rows() == slim::index_t{1} << 40);
}

TEST_CASE("metadata of the wrong type, out of range or missing is a sentence that names file and key") {
  temporary_folder const folder;
  slim::gguf_writer writer;
  writer.set("count", std::uint32_t{300});
  writer.set("words", std::vector<std::string>{"a"});
  writer.set("half", 0.5f);
  REQUIRE(writer.write(folder / "m.gguf").why() == "");
  auto const file = slim::gguf_file::open(folder / "m.gguf");
  REQUIRE(file.why() == "");
  CHECK(file->get<std::uint16_t>("count").has_value());
  CHECK_FALSE(file->get<std::uint8_t>("count").has_value());
  CHECK_FALSE(file->get<bool>("count").has_value());
  CHECK_FALSE(file->get<std::string>("words").has_value());
  CHECK_FALSE(file->get<std::vector<int>>("words").has_value());
  CHECK_FALSE(file->get<int>("half").has_value());
  CHECK_THAT(file->get<int>("nothing").why(), Catch::Contains("m.gguf") && Catch::Contains("'nothing'"));
  CHECK(*file->get_or<int>("nothing", 5) == 5);
  CHECK_FALSE(file->get_or<int>("words", 5).has_value());
}

TEST_CASE("a file rewritten from itself as a template is the same file byte for byte") {
  temporary_folder const folder;
  auto const a = random_matrix(3, 64, 4);
  slim::gguf_writer writer;
  writer.set("general.alignment", std::uint32_t{128});
  writer.set("tokens", std::vector<std::string>{"x", "yy", ""});
  writer.add(slim::outgoing_matrix("a", tensor_type::f32, a));
  std::vector<std::byte> const q8(3 * 2 * 34, std::byte{9});
  writer.add({"q", tensor_type::q8_0, {}, {3, 64}, std::span<std::byte const>(q8)});
  std::vector<std::byte> const mxfp4(17, std::byte{1});
  writer.add({"rare", tensor_type::other, "MXFP4", {32}, std::span<std::byte const>(mxfp4)});
  REQUIRE(writer.write(folder / "a.gguf").why() == "");
  auto const file = slim::gguf_file::open(folder / "a.gguf");
  REQUIRE(file.why() == "");
  CHECK(file->find("rare")->stored_type == "MXFP4");
  CHECK_THAT(slim::read_matrix(*file->find("rare")).why(), Catch::Contains("'rare'") && Catch::Contains("MXFP4"));
  REQUIRE(slim::gguf_writer(*file).write(folder / "b.gguf").why() == "");
  CHECK(read_file(folder / "a.gguf") == read_file(folder / "b.gguf"));

  SECTION("a replaced tensor and an overridden key keep their places, everything else is copied") {
    auto const other = random_matrix(3, 64, 5);
    slim::gguf_writer changed(*file);
    changed.replace("q", tensor_type::f16, std::function<slim::matrix<float>()>([&] { return other; }));
    changed.set("tokens", std::uint32_t{1});
    changed.set("added", "new");
    REQUIRE(changed.write(folder / "a.gguf").why() == ""); // over the mapped template itself
    auto const again = slim::gguf_file::open(folder / "a.gguf");
    REQUIRE(again.why() == "");
    CHECK(again->metadata()[1].key == "tokens");
    CHECK(*again->get<int>("tokens") == 1);
    CHECK(*again->get<std::string>("added") == "new");
    CHECK(again->tensors()[1].name == "q");
    CHECK(again->tensors()[1].type == tensor_type::f16);
    auto const replaced = *slim::read_matrix(again->tensors()[1]);
    for (index_t k = 0; k < other.size(); ++k) REQUIRE(replaced.data()[k] == static_cast<float>(slim::fp16(other.data()[k])));
    CHECK(*slim::read_matrix(*again->find("a")) == a);
    CHECK(*slim::read_matrix(*file->find("a")) == a); // the old map still shows the old file
  }
  SECTION("replacing what is not there, or by another size, is the caller's mistake") {
    slim::gguf_writer changed(*file);
    slim::matrix_view<float const> const view = a;
    CHECK_THROWS_AS(changed.replace("z", tensor_type::f16, view), slim::config_error);
    CHECK_THROWS_AS(changed.replace("a", tensor_type::q4_0, view), slim::config_error);
    CHECK_THROWS_AS(changed.replace("a", tensor_type::f16, view.middle_rows(0, 2)), slim::shape_error);
    CHECK_THROWS_AS(changed.add(slim::outgoing_matrix("a", tensor_type::f32, view)), slim::config_error);
    changed.replace("a", tensor_type::f16, std::function<slim::matrix<float>()>([] { return slim::matrix<float>(1, 1); }));
    CHECK_THROWS_AS(changed.write(folder / "c.gguf"), slim::shape_error);
    CHECK(!std::filesystem::exists(folder / "c.gguf"));
    CHECK(!std::filesystem::exists(folder / "c.gguf.tmp"));
  }
}

TEST_CASE("a file that cannot be opened, created or is no file gives a sentence") {
  temporary_folder const folder;
  CHECK_THAT(slim::gguf_file::open(folder / "none").why(), Catch::Contains("none: cannot be opened"));
  CHECK_THAT(slim::gguf_file::open(folder.path()).why(), Catch::Contains("is not a regular file"));
  write_file(folder / "empty", "");
  CHECK_THAT(slim::gguf_file::open(folder / "empty").why(), Catch::Contains("is not a GGUF file"));
  CHECK_THAT(slim::gguf_writer().write(folder / "no" / "m.gguf").why(), Catch::Contains("cannot be created"));
}

TEST_CASE("every rule of ggml's loader is enforced, with a sentence that says which") {
  auto const says = [](std::string const& text) { return Catch::Contains(text); };
  CHECK(why_refused(one_tensor({3}, 0, 0, 12).bytes) == ""); // the base of what follows is good
  CHECK_THAT(why_refused("GGML" + std::string(40, '\0')), says("not a GGUF"));
  CHECK_THAT(why_refused(raw_file().header(1, 0, 0).bytes), says("version 1"));
  CHECK_THAT(why_refused(raw_file().header(4, 0, 0).bytes), says("version 4"));
  CHECK_THAT(why_refused(raw_file().header(0x03000000u, 0, 0).bytes), says("big-endian"));
  CHECK_THAT(why_refused(raw_file().header(3, 0, std::int64_t{1} << 60).bytes + std::string(1000, '\0')),
             says("metadata entries"));
  CHECK_THAT(why_refused(raw_file().header(3, std::int64_t{1} << 60, 0).bytes + std::string(1000, '\0')), says("tensors"));
  CHECK_THAT(why_refused(raw_file().header(3, -1, 0).bytes), says("tensors"));
  CHECK_THAT(why_refused(one_tensor({3}, 0, 32, 64).bytes), says("begins at offset 32, where 0 is expected"));
  CHECK_THAT(why_refused(one_tensor({3}, 0, 0, 11).bytes), says("beyond the end"));
  CHECK_THAT(why_refused(one_tensor({-3}, 0, 0, 12).bytes), says("negative extent"));
  CHECK_THAT(why_refused(one_tensor({std::int64_t{1} << 40, std::int64_t{1} << 40}, 0, 0, 12).bytes), says("can be counted"));
  CHECK_THAT(why_refused(one_tensor({std::int64_t{1} << 62}, 0, 0, 12).bytes), says("can be counted"));
  CHECK_THAT(why_refused(one_tensor({std::int64_t{1} << 59}, 0, 0, 12).bytes), says("beyond the end"));
  CHECK_THAT(why_refused(one_tensor({33}, 2, 0, 64).bytes), says("not a multiple of the 32 of Q4_0"));
  CHECK_THAT(why_refused(one_tensor({32}, 4, 0, 64).bytes), says("type number 4"));
  CHECK_THAT(why_refused(one_tensor({1, 1, 1, 1, 1}, 0, 0, 64).bytes), says("5 dimensions"));
  CHECK_THAT(why_refused(raw_file().header(3, 2, 0).tensor("t", {1}, 0, 0).tensor("t", {1}, 0, 32).pad(32).bytes +
                         std::string(64, 'x')),
             says("'t' occurs twice"));
  CHECK_THAT(
      why_refused(raw_file().header(3, 1, 0).tensor(std::string(64, 'n'), {1}, 0, 0).pad(32).bytes + std::string(64, 'x')),
      says("name of 64 bytes"));
  auto const entry = [](std::string_view key) { return std::move(raw_file().header(3, 0, 1).text(key)); };
  CHECK_THAT(why_refused(entry("").number<std::uint32_t>(0).number<std::uint64_t>(0).bytes), says("empty key"));
  CHECK_THAT(why_refused(entry("k").number<std::uint32_t>(13).number<std::uint64_t>(0).bytes), says("type 13"));
  CHECK_THAT(why_refused(entry("k").number<std::uint32_t>(9).number<std::uint32_t>(9).number<std::uint64_t>(0).bytes),
             says("arrays of arrays"));
  CHECK_THAT(why_refused(entry("k").number<std::uint32_t>(9).number<std::uint32_t>(0).number<std::uint64_t>(1u << 31).bytes),
             says("cut off"));
  CHECK_THAT(why_refused(entry("k").number<std::uint32_t>(8).number<std::uint64_t>(~std::uint64_t{0}).bytes), says("cut off"));
  CHECK_THAT(why_refused(entry("general.alignment").number<std::uint32_t>(4).number<std::uint32_t>(24).bytes),
             says("general.alignment"));
  CHECK_THAT(why_refused(entry("general.alignment").number<std::uint32_t>(10).number<std::uint64_t>(32).bytes),
             says("general.alignment"));
  CHECK_THAT(why_refused(entry("split.count").number<std::uint32_t>(2).number<std::uint16_t>(3).bytes), says("3 parts"));
  raw_file twice;
  twice.header(3, 0, 2);
  for (int k = 0; k < 2; ++k) twice.text("same").number<std::uint32_t>(0).number<std::uint8_t>(1);
  CHECK_THAT(why_refused(twice.number<std::uint64_t>(0).bytes), says("'same' occurs twice"));
}

TEST_CASE("rows of a tensor are the rows of its matrix, and a tensor made by hand is checked") {
  std::vector<std::byte> bytes(3 * 2 * 18);
  for (std::size_t k = 0; k < bytes.size(); ++k)
    bytes[k] = static_cast<std::byte>(k % 18 == 1 ? 0x2c : slim::random_bits(7, k) & 0xff);
  slim::tensor_info tensor{"t", tensor_type::q4_0, "Q4_0", {3, 64}, bytes};
  auto const all = *slim::read_matrix(tensor);
  slim::matrix<float> part(2, 64);
  REQUIRE(slim::dequantize_rows_into(tensor, 1, part).why() == "");
  for (index_t k = 0; k < part.size(); ++k) REQUIRE(part.data()[k] == all.data()[64 + k]);
  CHECK_FALSE(slim::dequantize_rows_into(tensor, 2, part).has_value());
  CHECK_FALSE(slim::dequantize_rows_into(tensor, -1, part).has_value());
  CHECK_FALSE(slim::dequantize_into(tensor, part).has_value());
  slim::matrix<float> wide(5, 100); // a destination with a row stride of its own
  REQUIRE(slim::dequantize_into(tensor, wide.view().block(1, 10, 3, 64)).why() == "");
  CHECK(wide(3, 73) == all(2, 63));
  CHECK(wide(3, 74) == 0.f);
  tensor.shape = {3, 96};
  CHECK_THAT(slim::read_matrix(tensor).why(), Catch::Contains("108 bytes do not hold 3 x 96"));
  tensor.shape = {index_t{1} << 40, index_t{1} << 40};
  CHECK_FALSE(slim::read_matrix(tensor).has_value());
  tensor.shape = {1, 3, 64};
  CHECK_THAT(slim::read_matrix(tensor).why(), Catch::Contains("3 dimensions"));
}
