// Nothing public trusts shapes: codes, masks, books, adapters and layers that somebody made by hand are refused with a sentence
// by every function that takes them, before a byte out of bounds is read. Each field is wrong once; the preset asan runs this,
// too.

#include "slim/joint/gptq.hpp"
#include "slim/joint/joint_slr.hpp"
#include "slim/kernels/packed_linear.hpp"
#include "slim/packing/unpack.hpp"
#include "slim/pipeline/layer_bytes.hpp"
#include "slim/quantization/grids/codebook_grid.hpp"
#include "slim/quantization/grids/super_block_grid.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <catch2/catch.hpp>

#include <functional>

namespace {

using Catch::Contains;
using namespace slim;

constexpr index_t d_out = 6, d_in = 64;

integer_codes sound_codes() {
  integer_codes codes(d_out, d_in, 4, per_group(32), number_format::fp16);
  for (index_t k = 0; k < codes.codes.size(); ++k) codes.codes.data()[k] = static_cast<std::int8_t>(k % 16 - 8);
  for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] = 0.25f;
  return codes;
}

codebook_codes sound_book() {
  codebook_codes codes(d_out, d_in, rounded_levels(nf4_levels()), per_group(32), {.format = number_format::fp16});
  for (index_t k = 0; k < codes.codes.size(); ++k) codes.codes.data()[k] = static_cast<std::uint8_t>(k % 16);
  for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] = 0.25f;
  return codes;
}

mask two_of_four(index_t rows = d_out, index_t cols = d_in) {
  mask kept(rows, cols, {2, 4});
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) kept.keep(i, j, j % 4 < 2);
  return kept;
}

adapter sound_adapter() {
  adapter a;
  a.left = matrix<float>(d_in, 2);
  a.right = matrix<float>(2, d_out);
  a.left_codes = integer_codes(d_in, 2, 4, per_column_group(32), number_format::fp16);
  a.right_codes = integer_codes(2, d_out, 4, per_tensor, number_format::fp16);
  a.left_mask = two_of_four(2, d_in);
  return a;
}

/// Every door that takes codes and a mask; all must refuse.
template <class Codes>
void refused_everywhere(Codes const& codes, mask const& kept, bool at_every_door = true) {
  std::vector<std::function<void()>> const doors{
      [&] { (void)dense_codes::pack(codes, kept); },
      [&] { (void)sparse24::pack(codes, kept); },
      [&] { (void)nm_bitmask::pack(codes, kept); },
      [&] { (void)csr_codes::pack(codes, kept); },
      [&] { (void)pack_r16(codes, kept); },
      [&] { (void)pack_linear(codes, &kept, nullptr); },
      [&] { (void)save(compressed_layer<mask, Codes, none>{{kept, codes}, {}, {}}); },
      [&] { (void)pack(any_layer{{kept, any_codes(codes)}, std::nullopt, {}}); },
      [&] { (void)sparse_codes<mask, Codes>{kept, codes}.values(); },
      [&] { (void)dense_codes::byte_size(codes, kept); },
      [&] { (void)nm_bitmask::byte_size(codes, kept); },
      [&] { (void)sparse_codes<mask, Codes>{kept, codes}.stored_bits(); },
  };
  std::size_t const asked = at_every_door ? doors.size() : 9; // sizes do not depend on what codes are
  for (std::size_t k = 0; k < asked; ++k) {
    INFO("door " << k);
    CHECK_THROWS_AS(doors[k](), slim::error);
  }
}

} // namespace

TEST_CASE("integer codes made by hand: each field that is wrong is refused at every door") {
  mask const kept = two_of_four();
  CHECK_NOTHROW(sound_codes().check_codes("test"));
  CHECK_NOTHROW(pack_r16(sound_codes(), kept));
  auto const refused = [&](std::string const& sentence, std::function<void(integer_codes&)> const& spoil, bool sizes = true) {
    integer_codes codes = sound_codes();
    spoil(codes);
    INFO(sentence);
    CHECK_THROWS_WITH(codes.check_codes("test"), Contains("test: " + sentence));
    refused_everywhere(codes, kept, sizes);
  };
  refused("1 x 1 scales where 6 x 2 are needed", [](auto& c) { c.scales = scale_table(1, 1); });
  refused("1 x 2 zero points where 6 x 2", [](auto& c) { c.zeros = matrix<std::int8_t>(1, 2); });
  refused("6 x 1 offsets where 6 x 2", [](auto& c) { c.offsets = scale_table(6, 1); });
  refused("63 channel factors for 64 channels", [](auto& c) { c.channel_factors.assign(63, 1.0f); });
  refused("channel factor 3 is 0", [](auto& c) {
    c.channel_factors.assign(64, 1.0f);
    c.channel_factors[3] = 0.0f;
  });
  refused("channel factor 3 is nan", [](auto& c) {
    c.channel_factors.assign(64, 1.0f);
    c.channel_factors[3] = std::numeric_limits<float>::quiet_NaN();
  });
  refused("1 x 1 bits of groups where", [](auto& c) { c.group_bits = {4}; });
  refused("a group of 5 bits, possible are 1 to 4", [](auto& c) { c.group_bits = {4, 5}; });
  refused("codes of 9 bits, possible are 1 to 8", [](auto& c) { c.bits = 9; });
  refused("scale block of -1 x 32", [](auto& c) { c.block.rows = -1; });
  refused("codes have zero points and offsets", [](auto& c) {
    c.zeros = matrix<std::int8_t>(6, 2);
    c.offsets = scale_table(6, 2);
  });
  // Codes that count from 0, as GPTQ and AWQ store them.
  refused(
      "code (0, 0) is 15 in 4 bits, possible are -8 to 7; codes that count from 0 are shifted by 8",
      [](auto& c) { c.codes(0, 0) = 15; }, false);
  refused_everywhere(sound_codes(), two_of_four(d_out, d_in - 1));
  refused_everywhere(sound_codes(), two_of_four(d_out + 1, d_in));
}

TEST_CASE("a mask whose bytes are neither 0 nor 1 is refused, and counts right all the same") {
  mask kept = two_of_four();
  kept.row(1)[4] = 255;
  CHECK(kept.count() == d_out * d_in / 2);
  CHECK_THROWS_WITH(kept.check("test", d_out, d_in), Contains("the mask holds 255 at (1, 4)"));
  refused_everywhere(sound_codes(), kept);
  refused_everywhere(sound_book(), kept);
}

TEST_CASE("a pruned code may be anything: it is not read") {
  integer_codes codes = sound_codes();
  mask const kept = two_of_four();
  codes.codes(0, 3) = 99;
  CHECK_NOTHROW(pack_r16(codes, kept));
  CHECK_NOTHROW(nm_bitmask::pack(codes, kept));
  CHECK_THROWS_AS(pack_r16(codes), config_error);
}

TEST_CASE("code books made by hand: each field that is wrong is refused at every door") {
  mask const kept = two_of_four();
  CHECK_NOTHROW(pack_r16(sound_book(), kept));
  auto const refused = [&](std::string const& sentence, std::function<void(codebook_codes&)> const& spoil) {
    codebook_codes codes = sound_book();
    spoil(codes);
    INFO(sentence);
    CHECK_THROWS_WITH(codes.check("test"), Contains("test: " + sentence));
    refused_everywhere(codes, kept);
  };
  refused("codes of 0 bits", [](auto& c) { c.bits = 0; });
  refused("codes of 4 bits for 0 of 64", [](auto& c) { c.dim = 0; });
  refused("codes of 4 bits for 1 of -64", [](auto& c) { c.columns = -64; });
  refused("64 codes of 1 columns for 65 columns", [](auto& c) { c.columns = 65; });
  refused("1 books of 15 numbers where 1 of 16", [](auto& c) { c.books = matrix<float>(1, 15); });
  refused("1 books of 16 numbers where 6 of 16", [](auto& c) { c.book_block = per_channel; });
  refused("scale block of 1 x -32", [](auto& c) { c.block.cols = -32; });
  refused("2 x 2 scales where 6 x 2", [](auto& c) { c.scales = scale_table(2, 2); });
  refused("3 channel factors for 64", [](auto& c) { c.channel_factors.assign(3, 1.0f); });
  refused("channel factor 0 is inf", [](auto& c) { c.channel_factors.assign(64, std::numeric_limits<float>::infinity()); });
  refused("code 16 in 4 bits", [](auto& c) { c.codes(5, 63) = 16; });
  refused_everywhere(sound_book(), two_of_four(d_out, d_in + 4));
}

TEST_CASE("outliers made by hand are refused where they do not fit their codes") {
  auto const sound = [] {
    return with_outliers<integer_codes>{sound_codes(),
                                        {.row_begin = {0, 1, 1, 1, 1, 1, 2}, .columns = {3, 63}, .values = {1, 2}}};
  };
  matrix<float> out(d_out, d_in);
  auto const refused = [&](std::function<void(with_outliers<integer_codes>&)> const& spoil) {
    auto codes = sound();
    spoil(codes);
    CHECK_THROWS_AS(codes.dequantize_into(out.view()), slim::error);
    CHECK_THROWS_AS(codes.stored_bits(), slim::error);
    CHECK_THROWS_AS(save(compressed_layer<none, with_outliers<integer_codes>, none>{{{}, codes}, {}, {}}), slim::error);
  };
  CHECK_NOTHROW(sound().dequantize_into(out.view()));
  refused([](auto& c) { c.outliers.row_begin = {}; });
  refused([](auto& c) { c.outliers.row_begin[3] = 2; });
  refused([](auto& c) { c.outliers.row_begin.back() = 3; });
  refused([](auto& c) { c.outliers.columns[1] = 64; });
  refused([](auto& c) { c.outliers.columns.pop_back(); });
  refused([](auto& c) { c.outliers.values.pop_back(); });
  refused([](auto& c) { c.base.scales = scale_table(1, 2); });
}

TEST_CASE("adapters made by hand are refused where they do not fit their layer") {
  mask const kept = two_of_four();
  auto const refused = [&](std::string const& sentence, std::function<void(adapter&)> const& spoil) {
    adapter a = sound_adapter();
    spoil(a);
    INFO(sentence);
    matrix<float> w(d_out, d_in);
    CHECK_THROWS_WITH(a.check("test", d_out, d_in), Contains(sentence));
    CHECK_THROWS_AS(pack_linear(sound_codes(), &kept, &a), slim::error);
    CHECK_THROWS_AS(save(any_layer{{kept, any_codes(sound_codes())}, a, {}}), slim::error);
    CHECK_THROWS_AS(a.add_to(w.view()), slim::error);
  };
  adapter const sound = sound_adapter();
  CHECK_NOTHROW(pack_linear(sound_codes(), &kept, &sound));
  refused("left 63 x 2 and right 2 x 6, needed are 64 x r and r x 6", [](auto& a) { a.left = matrix<float>(d_in - 1, 2); });
  refused("right 2 x 7", [](auto& a) { a.right = matrix<float>(2, d_out + 1); });
  refused("left 64 x 2 and right 3 x 6", [](auto& a) { a.right = matrix<float>(3, d_out); });
  refused("left codes of the adapter are 64 x 1",
          [](auto& a) { a.left_codes = integer_codes(d_in, 1, 4, per_tensor, number_format::fp16); });
  refused("right codes of the adapter are 2 x 5",
          [](auto& a) { a.right_codes = integer_codes(2, 5, 4, per_tensor, number_format::fp16); });
  refused("3 x 1 scales where", [](auto& a) { a.left_codes->scales = scale_table(3, 1); });
  refused("a 2 x 63 mask on a 2 x 64 matrix", [](auto& a) { a.left_mask = two_of_four(2, 63); });
}

TEST_CASE("packed layers made by hand are refused where their parts do not fit") {
  adapter const a = sound_adapter();
  packed_linear const sound = pack_linear(sound_codes(), nullptr, &a);
  matrix<float> const x(3, d_in);
  matrix<float> y(3, d_out);
  CHECK_NOTHROW(forward_into(sound, x.view(), y.view()));
  packed_linear alone = sound;
  alone.right.reset();
  CHECK_THROWS_AS(forward_into(alone, x.view(), y.view()), shape_error);
  CHECK(alone.byte_size() > alone.weight.byte_size());
  packed_linear turned = sound;
  std::swap(turned.left, turned.right);
  CHECK_THROWS_AS(forward_into(turned, x.view(), y.view()), shape_error);
  layer_output const nothing{nullptr, y.view()};
  CHECK_THROWS_AS(forward_into(std::span(&nothing, 1), x.view()), config_error);
}

TEST_CASE("grids and sets refuse codes that are not theirs") {
  matrix<float> const v = slim::testing::normal_matrix(d_out, d_in, 1), h = slim::testing::normal_matrix(d_in, d_in, 2);
  matrix<float> gradient = v;
  auto const set = quantized_set(uniform_grid{.block = per_group(32)}, nm<2, 4>{});
  using element = decltype(set)::element;
  auto const refused = [&](std::function<void(element&)> const& spoil) {
    element p{two_of_four(), sound_codes()};
    spoil(p);
    CHECK_THROWS_AS(set.sweep(v.view(), h.view(), p), slim::error);
    CHECK_THROWS_AS(set.refine(gradient.view(), h.view(), p), slim::error);
    CHECK_THROWS_AS(set.refit(gradient.view(), h.view(), p), slim::error);
  };
  refused([](element& p) { p.codes.scales = scale_table(1, 1); });
  refused([](element& p) { p.codes.zeros = matrix<std::int8_t>(1, 1); });
  refused([](element& p) { p.codes.channel_factors = {1.0f}; });
  refused([](element& p) { p.mask = two_of_four(d_out, d_in - 4); });
  refused([](element& p) { p.codes = integer_codes(d_out, d_in - 1, 4, per_group(32), number_format::fp16); });
  matrix<float> unit(d_in, d_in), w(v.view());
  for (index_t j = 0; j < d_in; ++j) unit(j, j) = 1.0f;
  integer_codes broken = sound_codes();
  broken.scales = scale_table(1, 1);
  uniform_grid const own{.block = per_group(32)};
  CHECK_THROWS_AS(feed_back(w.view(), unit.view(), own, broken, nullptr), shape_error);
  CHECK_THROWS_AS(descend_codes(w.view(), unit.view(), own, broken, nullptr), shape_error);
  codebook_codes book = sound_book();
  codebook_grid const table{.levels = rounded_levels(nf4_levels()), .block = per_group(32)};
  CHECK_NOTHROW(table.fit(book, v.view()));
  book.scales = scale_table(2, 1);
  CHECK_THROWS_AS(table.fit(book, v.view()), shape_error);
  CHECK_THROWS_AS(feed_back(w.view(), unit.view(), table, book, nullptr), shape_error);
  super_block_grid const super = k_quant_grid();
  integer_codes k_codes = super.empty(d_out, d_in);
  CHECK_NOTHROW(super.fit(k_codes, v.view()));
  k_codes.offsets = {};
  CHECK_THROWS_AS(super.fit(k_codes, v.view()), config_error);
  integer_codes without = sound_codes(); // a grid with zero points would write them
  uniform_grid const asymmetric{.block = per_group(32), .symmetric = false};
  CHECK_THROWS_AS(asymmetric.fit(without, v.view()), config_error);
  without.scales = scale_table(2, 2);
  CHECK_THROWS_AS(uniform_grid{.block = per_group(32)}.fit(without, v.view()), shape_error);
  CHECK_THROWS_AS(uniform_grid{.block = per_group(32)}.fit_weighted(without, v.view(), std::vector<float>(d_in, 1.0f)),
                  shape_error);
}

TEST_CASE("parts of a layer have a state without a layer") {
  joint_result<none, integer_codes, adapter> uniform;
  joint_result<mask, codebook_codes, adapter> table;
  CHECK((uniform.weight.rows() == 0 && table.weight.cols() == 0 && table.weight.mask.rows() == 0));
  CHECK(uniform.weight.stored_bits() == 0.0);
}
