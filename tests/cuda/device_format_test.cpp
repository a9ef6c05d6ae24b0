// The device format: places of bits are bijections, round trips, one spelling, refusals, broken bytes, and atoms worked out by
// hand.

#include "emulated_layers.hpp"

#include "slim/pipeline/compress.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"
#include "slim/saliency/magnitude.hpp"

#include <catch2/catch.hpp>

namespace {

using namespace slim_test;
using slim::device_kind;
using slim::index_t;
using slim::number_format;
using bytes_t = std::vector<std::byte>;

/// Whether a field of every weight lies in words of the atom, and no bit belongs to two.
template <device_kind K>
constexpr bool places_are_a_bijection() {
  std::uint32_t used[slim::word_bytes(K) / 4] = {};
  bool once = true;
  auto const take = [&](slim::device_place place, std::uint32_t bits) {
    std::uint32_t& word = used[place.offset / 4];
    once = once && (word & bits << place.bit) == 0;
    word |= bits << place.bit;
  };
  for (int row = 0; row < 16; ++row)
    if (K == device_kind::sparse24) {
      for (int group = 0; group < 32; ++group) {
        take(slim::sparse_code_place(row, group, 0), 15);
        take(slim::sparse_code_place(row, group, 1), 15);
        take(slim::sparse_position_place(row, group), 15);
      }
    } else {
      for (int col = 0; col < 128; ++col)
        if (K == device_kind::dense3)
          for (int b = 0; b < 3; ++b) take(slim::dense_place(K, row, col, b), 1);
        else
          take(slim::dense_place(K, row, col, 0), (1u << slim::stored_bits(K)) - 1u);
    }
  for (std::uint32_t const word : used) once = once && word == 0xffffffffu;
  return once;
}

static_assert(places_are_a_bijection<device_kind::sparse24>());
static_assert(places_are_a_bijection<device_kind::dense2>());
static_assert(places_are_a_bijection<device_kind::dense3>());
static_assert(places_are_a_bijection<device_kind::dense4>());
static_assert(places_are_a_bijection<device_kind::fp16>());
/// Whether units of 16 bytes of eight tokens' inputs lie in places of their own.
constexpr bool inputs_are_a_bijection() {
  bool used[128] = {};
  for (int token = 0; token < 8; ++token)
    for (int unit = 0; unit < 16; ++unit) used[slim::cuda::input_offset(token, unit) / 16] = true;
  for (bool const u : used)
    if (!u) return false;
  return true;
}

static_assert(inputs_are_a_bijection());
static_assert(slim::word_bytes(device_kind::sparse24) == 768 && slim::word_bytes(device_kind::dense3) == 768);
static_assert(slim::word_bytes(device_kind::dense2) == 512 && slim::word_bytes(device_kind::dense4) == 1024);

bytes_t packed_again(slim::unpacked_device_layer const& layer) {
  slim::mask const* const kept = layer.mask ? &*layer.mask : nullptr;
  slim::adapter const* const low_rank = layer.adapter ? &*layer.adapter : nullptr;
  return std::visit([&](auto const& codes) { return slim::pack_device(codes, kept, low_rank, layer.options).bytes; },
                    layer.codes);
}

/// Whether bytes are read. What is read packs to the same bytes, what is not gets a sentence.
bool reads(bytes_t const& bytes) {
  auto const read = slim::unpack_device(bytes);
  if (!read) {
    REQUIRE(read.why().size() > 20);
    return false;
  }
  REQUIRE(packed_again(*read) == bytes);
  return true;
}

std::vector<bytes_t> small_files() {
  using slim::per_group;
  layer_case const cases[] = {
      {.rows = 3, .cols = 7, .bits = 3, .zeros = true},
      {.rows = 17, .cols = 130, .bits = 3, .block = per_group(64), .zeros = true},
      {.rows = 2, .cols = 9, .bits = 4, .sparse = true},
      {.rows = 5, .cols = 40, .rank = 3, .bits = 2, .block = per_group(32), .left_bits = 16},
      {.rows = 2,
       .cols = 300,
       .rank = 2,
       .bits = 4,
       .block = per_group(256),
       .zeros = true,
       .right_bits = 16,
       .left_sparse = true},
      {.rows = 2, .cols = 5, .bits = 16},
  };
  std::vector<bytes_t> out;
  for (std::size_t k = 0; k < std::size(cases); ++k)
    out.push_back(make_layer(cases[k], k + 1).packed(number_format::fp16).bytes);
  out.push_back(slim::pack_device(slim::integer_codes(0, 5, 4, slim::per_tensor, number_format::fp32), nullptr, nullptr).bytes);
  out.push_back(slim::pack_device(slim::integer_codes(5, 0, 4, slim::per_tensor, number_format::fp32), nullptr, nullptr).bytes);
  return out;
}

/// The sentence that pack_device refuses with.
template <class F>
std::string refusal(F const& f) {
  try {
    f();
  } catch (slim::error const& e) {
    return e.what();
  }
  return "";
}

} // namespace

TEST_CASE("a layer comes back from its bytes as it was") {
  layer_case const c{.rows = 21, .cols = 300, .rank = 5, .bits = 3, .block = slim::per_group(256), .zeros = true};
  made_layer const layer = make_layer(c, 3);
  auto const read = slim::unpack_device(layer.packed(number_format::fp16).bytes).value();
  auto const& codes = std::get<slim::integer_codes>(layer.codes);
  auto const& again = std::get<slim::integer_codes>(read.codes);
  CHECK(again.codes == codes.codes);
  CHECK(again.scales.values() == codes.scales.values());
  CHECK(again.zeros == codes.zeros);
  CHECK_FALSE(read.mask.has_value());
  CHECK(read.adapter->left == layer.adapter->left);
  CHECK(read.adapter->right == layer.adapter->right);

  made_layer const sparse = make_layer({.rows = 21, .cols = 300, .bits = 3, .sparse = true}, 4);
  auto const same = slim::unpack_device(sparse.packed(number_format::fp16).bytes).value();
  auto const& kept_codes = std::get<slim::integer_codes>(sparse.codes);
  CHECK(same.mask->count() >= sparse.kept->count());
  for (index_t i = 0; i < 21; ++i)
    for (index_t j = 0; j < 300; ++j)
      if (sparse.kept->kept(i, j)) {
        REQUIRE(same.mask->kept(i, j));
        REQUIRE(std::get<slim::integer_codes>(same.codes).codes(i, j) == kept_codes.codes(i, j));
      }
}

TEST_CASE("bytes have one spelling: what is read packs to the same bytes") {
  for (bytes_t const& bytes : small_files()) REQUIRE(reads(bytes));
}

TEST_CASE("atoms of the device format, worked out by hand") {
  // docs/formats/device.md, "Example": one row of codes; the lane and the bits of its columns 0, 1, 8 and 16.
  slim::integer_codes codes(1, 128, 4, slim::per_channel, number_format::fp32);
  codes.scales(0, 0) = 0.5f;
  codes.codes(0, 0) = -7;  // stored 1: lane 0, word 0, bits 0 to 3
  codes.codes(0, 1) = -6;  // stored 2: bits 16 to 19
  codes.codes(0, 8) = -5;  // stored 3: register 2, bits 8 to 11
  codes.codes(0, 16) = -4; // stored 4: word 1
  bytes_t const bytes = slim::pack_device(codes, nullptr, nullptr).bytes;
  REQUIRE(bytes.size() == 64 + 1024 + 64);
  std::uint32_t words[2];
  std::memcpy(words, bytes.data() + 64, 8);
  CHECK(words[0] == 0x08020301u);
  CHECK((words[1] & 15u) == 4u);
  float scale;
  std::memcpy(&scale, bytes.data() + 64 + 1024, 4);
  CHECK(scale == 0.5f);
}

TEST_CASE("sizes: 3.125 bits per weight for 2:4 int4 and dense int3 in groups of 128") {
  for (bool const sparse : {false, true}) {
    layer_case const c{.rows = 128, .cols = 256, .bits = sparse ? 4 : 3, .sparse = sparse, .block = slim::per_group(128)};
    CHECK(make_layer(c, 1).packed(number_format::fp16).bytes.size() == 64 + 128 * 256 * 25 / 64);
  }
}

TEST_CASE("what has no atom is refused with a sentence") {
  auto const pack = [](slim::integer_codes const& codes) {
    return refusal([&] { (void)slim::pack_device(codes, nullptr, nullptr); });
  };
  auto const codes = [](int bits, slim::scale_block block) {
    return slim::integer_codes(4, 200, bits, block, number_format::fp32);
  };
  CHECK(pack(codes(5, slim::per_channel)) ==
        "slim::pack_device: the weight has codes of 5 bits, the GPU's kernels have at most 4");
  CHECK(pack(codes(4, slim::per_group(96))) ==
        "slim::pack_device: the weight has groups of 96 columns, possible are 32, 64 and multiples of 128");
  auto bad = codes(4, slim::per_group(64));
  bad.scales(1, 2) = 0.1f;
  CHECK(pack(bad) ==
        "slim::pack_device: the scale 0.1 of row 1, group 2 of the weight is no fp16 number; quantize with scale_format fp16");
  bad.scales(1, 2) = 1e6f;
  CHECK(pack(bad).find("no fp16 number") != std::string::npos);
  bad = codes(4, slim::per_channel);
  bad.channel_factors.assign(200, 2.0f);
  CHECK(pack(bad) == "slim::pack_device: the weight has channel factors, the GPU's kernels have none");
  bad = codes(4, slim::per_channel);
  bad.offsets = slim::scale_table(4, 1);
  CHECK(pack(bad) == "slim::pack_device: the weight has real offsets, the GPU's kernels have integer zero points only");
  bad = codes(3, slim::per_channel);
  bad.zeros = slim::matrix<std::int8_t>(4, 1);
  bad.zeros(2, 0) = 5;
  CHECK(pack(bad) == "slim::pack_device: zero point 5 of the weight (block 2, 0), possible are -4 to 4 with 3 bits");

  slim::plain_values plain{slim::matrix<float>(2, 2), number_format::bf16};
  plain.values(1, 0) = 70000.0f;
  CHECK(refusal([&] { (void)slim::pack_device(plain, nullptr, nullptr); }) ==
        "slim::pack_device: number (1, 0) of the weight is 70000, above the largest of fp16");
  CHECK(slim::pack_device(plain, nullptr, nullptr, {.numbers = number_format::bf16}).notes.front() ==
        "the weight is rounded to bf16");
  CHECK(refusal([&] { (void)slim::pack_device(plain, nullptr, nullptr, {.numbers = number_format::fp32}); }) ==
        "slim::pack_device: numbers in fp32, the kernels have fp16 and bf16");
}

TEST_CASE("layers with a code book are refused with a sentence") {
  struct {
    struct {
      slim::codebook_codes codes;
      [[nodiscard]] slim::mask const* mask_or_null() const { return nullptr; }
    } weight;
    std::optional<slim::adapter> adapter;
  } const layer;
  CHECK(
      refusal([&] { (void)slim::pack_device(layer); }).starts_with("slim::pack_device: the GPU's kernels read uniform codes"));
}

TEST_CASE("a mask that is not 2:4 runs dense with zeros, and a note says so") {
  slim::integer_codes codes = slim::testing::random_codes(3, 8, 4, slim::per_channel, number_format::fp16, true, false, 1);
  slim::mask const kept = slim::testing::random_mask(3, 8, 5, 4, 1);
  auto const packed = slim::pack_device(codes, &kept, nullptr);
  REQUIRE(packed.notes.size() == 1);
  CHECK(packed.notes.front() ==
        "the weight runs dense, with zeros where it is pruned: the kernels have 2:4 without zero points only");
  codes.prune(kept);
  CHECK(std::get<slim::integer_codes>(slim::unpack_device(packed.bytes).value().codes).codes == codes.codes);
}

TEST_CASE("layers of compress pack with types known and erased") {
  slim::matrix<float> w = small_integers(20, 64, 8, 1);
  slim::calibration calib(64);
  calib.observe(small_integers(30, 64, 4, 2).view());
  auto const layer = slim::compress(w, calib,
                                    slim::chain(slim::nm_pruner<2, 4>(slim::magnitude()),
                                                slim::absmax_quantizer({.bits = 4, .scale_format = number_format::fp16})));
  auto const direct = slim::pack_device(layer.weight.codes, layer.weight.mask_or_null(), nullptr);
  CHECK(slim::pack_device(layer).bytes == direct.bytes);
  CHECK(slim::read_device_header(direct.bytes)->weight.kind == device_kind::sparse24);
}

TEST_CASE("cut, lengthened and broken bytes of the device format are refused or spelled the same") {
  std::size_t read = 0, refused = 0;
  for (bytes_t const& good : small_files()) {
    for (std::size_t size = 0; size < good.size(); size += size < 80 ? 1 : 97)
      REQUIRE_FALSE(reads(bytes_t(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size))));
    bytes_t longer = good;
    longer.push_back(std::byte{0});
    REQUIRE_FALSE(reads(longer));
    draws next{good.size()};
    for (std::size_t at = 0; at < 64; ++at) // the header, every byte
      for (unsigned const value : {0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u, 31u, 32u, 64u, 127u, 128u, 255u}) {
        bytes_t bytes = good;
        bytes[at] = static_cast<std::byte>(value);
        ++(reads(bytes) ? read : refused);
      }
    for (int round = 0; good.size() > 64 && round < 300; ++round) { // the body
      bytes_t bytes = good;
      for (std::uint64_t k = 0; k <= next(2); ++k) bytes[64 + next(good.size() - 64)] ^= static_cast<std::byte>(1u << next(8));
      ++(reads(bytes) ? read : refused);
    }
  }
  CHECK(read > 100);
  CHECK(refused > 1000);
}

TEST_CASE("sentences of the reader of device bytes") {
  bytes_t const good = small_files()[4];
  auto const broken = [&](std::size_t at, unsigned value) {
    bytes_t bytes = good;
    bytes[at] = static_cast<std::byte>(value);
    return slim::unpack_device(bytes).why();
  };
  CHECK(slim::unpack_device(bytes_t(10)).why() == "device layer: 10 bytes, the header alone has 64");
  CHECK(broken(0, 'X') == "device layer: header: the first four bytes are not SLDV");
  CHECK(broken(4, 2) == "device layer: header: format version 2, this reader knows 1");
  CHECK(broken(32, 9) == "device layer: header: weight: kind 9, known are 1 to 6");
  CHECK(broken(36, 3) ==
        "device layer: header: weight: groups of 259 of 300 columns, possible are 32, 64 and multiples of 128 below them");
  slim::device_layer_layout const layout(slim::read_device_header(good).value());
  auto const weight = static_cast<std::size_t>(layout.weight_offset());
  auto const second = weight + static_cast<std::size_t>(layout.weight.atom_offset(0, 1) + layout.weight.scales_offset(0));
  CHECK(broken(second, 0xff).find("weight: row 0, columns from 128: another scale or zero point than in the atom before") !=
        std::string::npos);
  auto const row_behind = weight + static_cast<std::size_t>(layout.weight.scales_offset(0) + 2 * 5);
  CHECK(broken(row_behind, 1) == "device layer: weight: scale or zero point of row 5, group 0, which pads, is set");
}
