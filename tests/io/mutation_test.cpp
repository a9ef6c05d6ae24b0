// Broken files: cut off at every byte, bits flipped, counts and extents replaced by huge ones. Whatever the bytes, the
// readers give a value or a sentence, and never allocate out of proportion to the file. Run under ASan and UBSan by the
// asan preset, which is where reads out of bounds would show.

#include "slim/io/gguf/writer.hpp"
#include "slim/io/safetensors/writer.hpp"

#include "slim/core/random.hpp"
#include "support/allocation_watch.hpp"
#include "support/counting_new.hpp"
#include "support/temporary_folder.hpp"

#include <catch2/catch.hpp>

namespace {

using slim::tensor_type;
using slim_test::read_file;
using slim_test::temporary_folder;
using slim_test::write_file;

/// What reading one file did.
struct outcome {
  bool read = false;
  std::size_t allocated = 0; // by the reader itself, at its peak
  double sum = 0;            // of what was read: the bytes are really touched
};

/// Opens with `open`, then reads every tensor that can be read. Values are only touched, so that ASan sees every byte.
template <class Open>
outcome outcome_of(Open const& open) {
  slim_test::allocation_watch const watch;
  auto const file = open();
  outcome result{file.has_value(), watch.peak(), 0};
  if (!file) {
    REQUIRE(file.why().size() > 10);
    return result;
  }
  double sum = 0;
  for (slim::tensor_info const& tensor : file->tensors()) {
    for (std::byte const byte : tensor.bytes) sum += static_cast<double>(byte);
    auto const values = slim::read_matrix(tensor);
    if (values && !values->empty()) sum += static_cast<double>(values->data()[values->size() - 1]);
    REQUIRE(values.has_value() == values.why().empty());
  }
  result.sum = sum;
  return result;
}

/// A reader may take this much memory for a file of that size: directories take more room in memory than in the file.
std::size_t allowed_bytes(std::size_t file_bytes) { return 4096 + 48 * file_bytes; }

/// Calls `check(bytes)` for a good file with 1 to 6 random bytes replaced, `count` times.
template <class Check>
void with_random_damage(std::string const& good, std::size_t count, std::uint64_t seed, Check const& check) {
  std::uint64_t counter = 0;
  auto const next = [&] { return slim::random_bits(seed, counter++); };
  for (std::size_t k = 0; k < count; ++k) {
    std::string bytes = good;
    for (std::uint64_t flips = 1 + next() % 6; flips > 0; --flips) {
      char& victim = bytes[next() % bytes.size()];
      victim = next() % 2 ? static_cast<char>(next()) : static_cast<char>(victim ^ (1 << (next() % 8)));
    }
    check(bytes);
  }
}

/// Calls `check(bytes)` with each 8 bytes in `[0, end)` replaced by numbers that break counts, offsets and extents.
template <class Check>
void with_hostile_numbers(std::string const& good, std::size_t end, std::size_t step, Check const& check) {
  std::uint64_t const hostile[] = {
      0, ~std::uint64_t{0}, std::uint64_t{1} << 63, std::uint64_t{1} << 60, std::uint64_t{1} << 32, 0x7fffffff};
  for (std::size_t at = 0; at + 8 <= end; at += step)
    for (std::uint64_t const number : hostile) {
      std::string bytes = good;
      std::memcpy(bytes.data() + at, &number, 8);
      check(bytes);
    }
}

/// A small GGUF file with every kind of metadata and every tensor type.
std::string good_gguf(temporary_folder const& folder) {
  slim::gguf_writer writer;
  writer.set("general.architecture", "llama");
  writer.set("general.alignment", std::uint32_t{32});
  writer.set("u8", std::uint8_t{1});
  writer.set("f64", 0.5);
  writer.set("flag", true);
  writer.set("words", std::vector<std::string>{"one", "two", "", "three"});
  writer.set("ints", std::vector<std::int32_t>{1, 2, 3});
  std::vector<std::vector<std::byte>> kept;
  for (int type = 0; type < static_cast<int>(tensor_type::other); ++type) {
    auto const kind = static_cast<tensor_type>(type);
    slim::block_layout const block = slim::block_of(kind);
    kept.emplace_back(static_cast<std::size_t>(2 * block.bytes), std::byte{0x3c});
    writer.add({std::string("blk.") + std::string(name_of(kind)),
                kind,
                {},
                {2, block.elements},
                std::span<std::byte const>(kept.back())});
  }
  REQUIRE(writer.write(folder / "good").why() == "");
  return read_file(folder / "good");
}

std::string good_safetensors(temporary_folder const& folder) {
  slim::matrix<float> const a(3, 4);
  std::vector<std::byte> const ints(8);
  std::vector<slim::outgoing_tensor> tensors;
  for (auto const type : {tensor_type::f32, tensor_type::f16, tensor_type::bf16})
    tensors.push_back(slim::outgoing_matrix("layer." + std::string(name_of(type)), type, a));
  tensors.push_back({"codes", tensor_type::other, "I32", {2}, std::span<std::byte const>(ints)});
  REQUIRE(slim::save_safetensors(folder / "good", tensors).why() == "");
  return read_file(folder / "good");
}

} // namespace

TEST_CASE("a damaged GGUF file gives a value or a sentence, in memory proportional to the file") {
  temporary_folder const folder;
  std::string const good = good_gguf(folder);
  std::filesystem::path const path = folder / "bad";
  std::size_t files = 0;
  std::size_t refused = 0;
  auto const check = [&](std::string const& bytes) {
    write_file(path, bytes);
    outcome const calib = outcome_of([&] { return slim::gguf_file::open(path); });
    REQUIRE(calib.allocated <= allowed_bytes(bytes.size()));
    ++files;
    if (!calib.read) ++refused;
    return calib.read;
  };
  CHECK(check(good));
  auto const last = *slim::gguf_file::open(folder / "good")->tensors().back().bytes.rbegin();
  CHECK(last == std::byte{0x3c});
  std::size_t const padding = 32 - (2 * 136) % 32; // behind the last tensor, IQ4_XS: may be missing
  for (std::size_t size = 0; size < good.size(); ++size)
    REQUIRE(check(good.substr(0, size)) == (size >= good.size() - padding));
  std::size_t const directory_end = good.find(std::string(8, '\x3c'));
  with_hostile_numbers(good, directory_end, 1, check);
  with_random_damage(good.substr(0, directory_end + 16), 300, 1, check);
  with_random_damage(good, 700, 2, check);
  CHECK(files > 4000);
  CHECK(refused > files / 2);
}

TEST_CASE("a damaged safetensors file gives a value or a sentence, in memory proportional to the file") {
  temporary_folder const folder;
  std::string const good = good_safetensors(folder);
  std::filesystem::path const path = folder / "bad";
  std::size_t files = 0;
  auto const check = [&](std::string const& bytes) {
    write_file(path, bytes);
    outcome const calib = outcome_of([&] { return slim::safetensors_file::open(path); });
    REQUIRE(calib.allocated <= allowed_bytes(bytes.size()));
    ++files;
    return calib.read;
  };
  CHECK(check(good));
  for (std::size_t size = 0; size < good.size(); ++size) REQUIRE_FALSE(check(good.substr(0, size)));
  REQUIRE_FALSE(check(good + '\0'));
  with_hostile_numbers(good, 16, 1, check);
  with_random_damage(good, 1000, 3, check);
  std::size_t const header_end = good.find_last_of('}') + 1;
  // Digits replaced inside the header: shapes and offsets that do not fit each other.
  for (std::size_t at = 8; at < header_end; ++at)
    for (char const c : {'9', '0', ',', '{', '[', '"', '-', 'e'}) {
      std::string bytes = good;
      bytes[at] = c;
      check(bytes);
    }
  CHECK(files > 2000);
}

TEST_CASE("a damaged index of shards gives a value or a sentence") {
  temporary_folder const folder;
  slim::matrix<float> const a(1, 2);
  REQUIRE(slim::save_safetensors(folder / "m-1.safetensors", {slim::outgoing_matrix("a", tensor_type::f32, a)}).why() == "");
  std::string const good = R"({"metadata":{"total_size":8},"weight_map":{"a":"m-1.safetensors"}})";
  std::size_t files = 0;
  auto const check = [&](std::string const& bytes) {
    write_file(folder / "model.safetensors.index.json", bytes);
    outcome const calib = outcome_of([&] { return slim::safetensors_folder::open(folder.path()); });
    REQUIRE(calib.allocated <= allowed_bytes(bytes.size() + 200));
    ++files;
    return calib.read;
  };
  CHECK(check(good));
  for (std::size_t size = 0; size < good.size(); ++size) REQUIRE_FALSE(check(good.substr(0, size)));
  with_random_damage(good, 700, 4, check);
  CHECK(files > 700);
}

TEST_CASE("a number of 200000 digits is refused in memory proportional to the file") {
  temporary_folder const folder;
  std::filesystem::path const path = folder / "bad";
  std::string bytes(8, '\0');
  bytes += "{\"t\":{\"dtype\":\"F32\",\"shape\":[" + std::string(200000, '1') + "],\"data_offsets\":[0,4]}}";
  std::uint64_t const length = bytes.size() - 8;
  std::memcpy(bytes.data(), &length, 8);
  write_file(path, bytes);
  outcome const calib = outcome_of([&] { return slim::safetensors_file::open(path); });
  CHECK_FALSE(calib.read);
  CHECK(calib.allocated <= allowed_bytes(bytes.size()));
}
