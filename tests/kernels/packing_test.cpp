// Packed bytes against a writer that puts one code at a time where the comment in kernels/cpu/r16.hpp says, and one walk over
// the weights against the components one after the other.
#include "slim/pipeline/quantize_and_pack.hpp"

#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"
#include "support/simd_levels.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;
using slim_test::at;
using slim_test::simd_levels;

namespace {

/// Any codes of the bits, scales that fp16 holds.
integer_codes random_codes(index_t rows, index_t cols, int bits, scale_block block, bool zero_points, std::uint64_t seed) {
  integer_codes codes(rows, cols, bits, block, number_format::fp16);
  auto const draw = [&](index_t k, std::uint64_t salt) {
    return static_cast<int>(random_bits(seed + salt, static_cast<std::uint64_t>(k)) % (1u << bits)) + codes.lowest();
  };
  for (index_t k = 0; k < codes.codes.size(); ++k) codes.codes.data()[k] = static_cast<std::int8_t>(draw(k, 0));
  for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] = 0.25f + static_cast<float>(k % 97) / 64.0f;
  if (zero_points) {
    codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
    for (index_t k = 0; k < codes.zeros.size(); ++k) codes.zeros.data()[k] = static_cast<std::int8_t>(draw(k, 1));
  }
  return codes;
}

/// At most two of every four, often fewer.
mask random_mask(index_t rows, index_t cols, std::uint64_t seed) {
  mask kept(rows, cols, {2, 4});
  for (index_t i = 0; i < rows; ++i)
    for (index_t first = 0; first < cols; first += 4)
      for (int k = 0; k < 2; ++k) {
        auto const draw = random_bits(seed, static_cast<std::uint64_t>((i * cols + first) * 2 + k));
        index_t const j = first + static_cast<index_t>(draw % 4);
        if (draw / 4 % 4 != 0 && j < cols) kept.keep(i, j);
      }
  return kept;
}

/// The bytes of a row block's stages, bit field by bit field.
std::vector<std::uint8_t> stages_of(r16_layout const& layout, integer_codes const& codes, mask const* kept, index_t row_block) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(layout.stages() * stage_bytes(layout.kind)));
  auto const put = [&](index_t at, index_t shift, int value) {
    auto& byte = bytes[static_cast<std::size_t>(at)];
    byte = static_cast<std::uint8_t>(byte | value << shift);
  };
  int const bias = 1 << (code_bits(layout.kind) - 1);
  for (index_t r = 0; r < 16 && row_block * 16 + r < layout.rows; ++r) {
    index_t const i = row_block * 16 + r;
    for (index_t j = 0; j < layout.cols && !kept; ++j) {
      index_t const stage = j / 32 * stage_bytes(layout.kind), step = j % 32 / 4, byte = stage + 4 * r + j % 4;
      int const code = codes.codes(i, j) + bias;
      if (layout.kind == r16_kind::dense8) put(byte + 64 * step, 0, code);
      if (layout.kind == r16_kind::dense4) put(byte + 64 * (step / 2), 4 * (step % 2), code);
      if (layout.kind == r16_kind::dense2) put(byte + 64 * (step / 4), 2 * (step % 4), code);
      if (layout.kind == r16_kind::dense3 && step < 6) put(byte + 64 * (step / 2), 3 * (step % 2), code);
      if (layout.kind == r16_kind::dense3 && step == 6) {
        put(byte, 6, code & 3);
        put(byte + 64, 6, code >> 2);
      }
      if (layout.kind == r16_kind::dense3 && step == 7) {
        put(byte + 64, 7, code & 1);
        put(byte + 128, 6, code >> 1);
      }
    }
    for (index_t group = 0; group < layout.stages() * 8 && kept; ++group) {
      std::vector<std::pair<int, int>> pair; // column, stored code
      for (int c = 0; c < 4; ++c)
        if (4 * group + c < layout.cols && kept->kept(i, 4 * group + c))
          pair.emplace_back(c, codes.codes(i, 4 * group + c) + 8);
      for (int c = 0; pair.size() < 2; ++c) // code 0 at the lowest columns that are free
        if (std::none_of(pair.begin(), pair.end(), [&](auto const& p) { return p.first == c; })) pair.emplace_back(c, 8);
      std::sort(pair.begin(), pair.end());
      index_t const stage = group / 8 * 192, step = group % 8 / 2;
      for (int slot = 0; slot < 2; ++slot) {
        index_t const byte = stage + 4 * r + 2 * (group % 2) + slot;
        put(byte + 64 + 64 * (step / 2), 4 * (step % 2), pair[static_cast<std::size_t>(slot)].second);
        put(byte, 2 * step, pair[static_cast<std::size_t>(slot)].first);
      }
    }
  }
  return bytes;
}

/// Where the stages of a row block stand: two sets of scales, or four with zero points, then their stages.
std::vector<index_t> stage_places(r16_layout const& layout) {
  std::vector<index_t> places;
  index_t const set_cols = layout.scale_cols, at_a_time = layout.zero_points ? 4 : 2;
  index_t place = 0;
  for (index_t j = 0; j < layout.cols; j += 32, place += stage_bytes(layout.kind)) {
    if (set_cols > 0 && j % (at_a_time * set_cols) == 0) {
      index_t const sets = std::min(at_a_time, (layout.cols - j + set_cols - 1) / set_cols);
      place += (sets * (layout.zero_points ? 48 : 32) + 63) / 64 * 64;
    }
    places.push_back(place);
  }
  return places;
}

void check_stages(integer_codes const& codes, mask const* kept) {
  for (simd_level const level : simd_levels()) {
    r16_matrix const packed = kept ? pack_r16(codes, *kept, at(level)) : pack_r16(codes, at(level));
    r16_layout const& layout = packed.layout();
    INFO(codes.rows() << " x " << codes.cols() << ", " << name_of(layout.kind) << ", level " << static_cast<int>(level));
    for (index_t b = 0; b < layout.row_blocks(); ++b) {
      auto const* const row_block = packed.data() + b * layout.row_block_bytes();
      auto const expected = stages_of(layout, codes, kept, b);
      auto const places = stage_places(layout);
      for (std::size_t s = 0; s < places.size(); ++s) {
        auto const from = expected.begin() + static_cast<std::ptrdiff_t>(s) * stage_bytes(layout.kind);
        REQUIRE(std::equal(from, from + stage_bytes(layout.kind), row_block + places[s]));
      }
    }
    for (index_t i = 0; i < codes.rows(); ++i)
      for (index_t j = 0; j < codes.cols(); ++j) REQUIRE(packed.scale(i, j) == codes.scale_at(i, j));
  }
}

bool same_packed(r16_matrix const& a, r16_matrix const& b) {
  return a.layout() == b.layout() && std::equal(a.data(), a.data() + a.layout().byte_size(), b.data()) &&
         same_bits(a.row_scales(), b.row_scales()) && same_bits(a.row_zeros(), b.row_zeros()) &&
         same_bits(a.input_factors(), b.input_factors());
}

std::vector<std::pair<index_t, index_t>> const shapes = {{1, 1},    {3, 5},   {16, 32}, {17, 33},  {15, 64},
                                                         {20, 96},  {33, 65}, {64, 31}, {18, 576}, {5, 1030},
                                                         {66, 129}, {0, 40},  {4, 0}};

/// Weights with NaN, rows and columns of zeros, ties.
matrix<float> hard_weights(index_t rows, index_t cols) {
  matrix<float> w = normal_matrix(rows, cols, 9);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      if (i % 7 == 3 || j % 11 == 5) w(i, j) = 0.0f;
      if ((i + 3 * j) % 23 == 1) w(i, j) = std::numeric_limits<float>::quiet_NaN();
      if (j % 5 == 2) w(i, j) = std::round(w(i, j));
    }
  return w;
}

/// What f gives, or the kind of error.
template <class F>
std::pair<r16_matrix, int> outcome(F const& f) {
  try {
    return {f(), 0};
  } catch (config_error const&) {
    return {r16_matrix(), 1};
  } catch (shape_error const&) {
    return {r16_matrix(), 2};
  }
}

} // namespace

TEST_CASE("scales of groups are stored as the fp16 numbers they are, or else all in fp32, at every level") {
  for (simd_level const level : simd_levels()) {
    std::vector<float> all;
    for (std::uint32_t half = 0; half < 0x8000; ++half)
      if (half < 0x7c00) all.push_back(static_cast<float>(fp16::from_bits(static_cast<std::uint16_t>(half))));
    all.push_back(-0.5f);
    integer_codes codes(1, 32 * static_cast<index_t>(all.size()), 4, per_group(32), number_format::fp16);
    std::copy(all.begin(), all.end(), codes.scales.data());
    r16_matrix const packed = pack_r16(codes, at(level));
    index_t wrong = 0;
    for (std::size_t g = 0; g < all.size(); ++g) wrong += packed.scale(0, 32 * static_cast<index_t>(g)) != all[g];
    CHECK(wrong == 0);
    CHECK_FALSE(packed.layout().wide_scales);
    for (float const other : {1.0f + 0x1p-11f, 65505.0f, 0x1p-25f, 0x1p-24f + 0x1p-30f}) {
      codes.scales(0, 70) = other;
      r16_matrix const wide = pack_r16(codes, at(level));
      CHECK(wide.layout().wide_scales);
      CHECK((wide.scale(0, 32 * 70) == other && wide.scale(0, 32 * 71) == all[71]));
    }
    for (float const bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      codes.scales(0, 70) = bad;
      CHECK_THROWS_AS(pack_r16(codes, at(level)), slim::nonfinite_error);
    }
  }
}

TEST_CASE("dense codes lie where the layout says, at every level") {
  for (auto const& [rows, cols] : shapes)
    for (int const bits : {2, 3, 4, 5, 8})
      for (scale_block const block : {per_channel, per_group(32), per_group(96)})
        check_stages(random_codes(rows, cols, bits, block, bits != 5, 3), nullptr);
}

TEST_CASE("2:4 codes lie where the layout says, fewer than two kept included, at every level") {
  for (auto const& [rows, cols] : shapes)
    for (int const bits : {2, 3, 4}) {
      mask const kept = random_mask(rows, cols, 5);
      check_stages(random_codes(rows, cols, bits, per_group(64), false, 4), &kept);
    }
}

TEST_CASE("a group that keeps more than two is refused by row and columns, wherever it is, at every level") {
  for (simd_level const level : simd_levels())
    for (index_t const column : {0, 4, 60, 64, 508, 512, 600, 604}) {
      mask kept = random_mask(19, 606, 6);
      for (index_t j = column; j < std::min<index_t>(column + 4, 606); ++j) kept.keep(17, j, j != column + 1 || column == 64);
      bool const crowded = column != 604; // the last group has two columns
      integer_codes const codes = random_codes(19, 606, 4, per_channel, false, 7);
      if (crowded)
        CHECK_THROWS_WITH(pack_r16(codes, kept, at(level)),
                          Catch::Contains(message("row 17 keeps more than two of columns ", column, " to ", column + 3)));
      else
        CHECK_NOTHROW(pack_r16(codes, kept, at(level)));
    }
}

TEST_CASE("quantize_and_pack gives the bytes of quantizing, then packing") {
  thread_team_executor const team;
  backwards_executor const backwards;
  for (auto const& [rows, cols] : shapes)
    for (scale_block const block : {per_tensor, per_channel, per_group(32), per_group(128), per_group(40), per_column_group(8)})
      for (auto const& [bits, symmetric] :
           std::vector<std::pair<int, bool>>{{4, true}, {4, false}, {2, true}, {3, false}, {8, true}})
        for (number_format const format : {number_format::fp16, number_format::fp32}) {
          matrix<float> const w = hard_weights(rows, cols);
          absmax_config const how{.bits = bits, .block = block, .symmetric = symmetric, .scale_format = format};
          auto const expected = outcome([&, n = cols] {
            return pack_r16(absmax_quantizer(how).quantize(w.view(), calibration(n), at(simd_level::scalar)));
          });
          INFO(rows << " x " << cols << ", " << absmax_quantizer(how).describe());
          for (simd_level const level : simd_levels())
            for (context const& ctx : {at(level), on(team, at(level)), on(backwards, at(level))}) {
              auto const found = outcome([&] { return quantize_and_pack(w.view(), how, ctx); });
              REQUIRE(found.second == expected.second);
              REQUIRE(same_packed(found.first, expected.first));
            }
        }
}

TEST_CASE("prune_and_pack gives the bytes of pruning, quantizing, then packing") {
  thread_team_executor const team;
  for (auto const& [rows, cols] : shapes)
    for (scale_block const block : {per_tensor, per_channel, per_group(32), per_group(128), per_group(40)})
      for (int const bits : {2, 4, 5}) {
        matrix<float> const w = hard_weights(rows, cols);
        calibration const calib = observed(normal_matrix(9, cols, 12));
        absmax_config const how{.bits = bits, .block = block, .scale_format = number_format::fp16};
        auto const expect = [&, n = cols](auto const& ranking) {
          return outcome([&] {
            context const ctx = at(simd_level::scalar);
            mask const kept = nm_pruner<2, 4>(ranking).select(w.view(), calib, ctx);
            matrix<float> pruned = w;
            kept.apply_to(pruned.view());
            return pack_r16(absmax_quantizer(how).quantize(pruned.view(), calibration(n), ctx), kept, ctx);
          });
        };
        auto const by_wanda = expect(wanda{}), by_magnitude = expect(magnitude{});
        INFO(rows << " x " << cols << ", " << absmax_quantizer(how).describe());
        for (simd_level const level : simd_levels())
          for (context const& ctx : {at(level), on(team, at(level))}) {
            auto const a = outcome([&] { return prune_and_pack(w.view(), calib, wanda{}, how, ctx); });
            auto const b = outcome([&] { return prune_and_pack(w.view(), calib, magnitude{}, how, ctx); });
            REQUIRE((a.second == by_wanda.second && b.second == by_magnitude.second));
            REQUIRE((same_packed(a.first, by_wanda.first) && same_packed(b.first, by_magnitude.first)));
          }
      }
}
