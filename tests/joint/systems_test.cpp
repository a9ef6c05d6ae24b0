// SpQR, SliM-LLM and 2/4/16-bit weights: identities with the parts that they are made of, and orders that must hold on a layer
// with channels of different energy.

#include "slim/allocation/balanced_allocation.hpp"
#include "slim/allocation/top_share.hpp"
#include "slim/calibration/output_error.hpp"
#include "slim/joint/gptq.hpp"
#include "slim/joint/mixed_bits.hpp"
#include "slim/joint/spqr_compressor.hpp"
#include "slim/pipeline/in_basis.hpp"
#include "slim/saliency/obs_saliency.hpp"
#include "slim/saliency/range_curvature.hpp"
#include "slim/testing/joint_laws.hpp"
#include "slim/testing/saliency_laws.hpp"
#include "slim/transforms/activation_order.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;
using Catch::Contains;

namespace {

/// Inputs with correlated channels; groups of `group` columns have energies e^(2 normal), five channels are loud.
matrix<float> uneven_inputs(index_t tokens, index_t channels, index_t group, std::uint64_t seed) {
  matrix<float> x = normal_matrix(tokens, channels, seed);
  matrix<float> const hidden = normal_matrix(tokens, 16, seed + 1), mix = normal_matrix(16, channels, seed + 2, 0.3f);
  gemm_into(hidden.view(), mix.view(), x.view(), destination::add);
  for (index_t j = 0; j < channels; ++j) {
    auto const energy = static_cast<float>(std::exp(random_normal(seed + 3, static_cast<std::uint64_t>(j / group))));
    for (index_t t = 0; t < tokens; ++t) x(t, j) *= energy * (j % 37 == 5 ? 5.0f : 1.0f);
  }
  return x;
}

matrix<float> weights_with_outliers(index_t rows, index_t cols, std::uint64_t seed) {
  matrix<float> w = normal_matrix(rows, cols, seed, 0.05f);
  for (index_t k = 0; k < w.size(); k += 499) w.data()[k] *= 8.0f;
  return w;
}

struct outlier_layer {
  matrix<float> w = weights_with_outliers(64, 192, 1);
  calibration calib = observed(uneven_inputs(600, 192, 16, 2), {.gram = true});
};

template <class Codes>
matrix<float> decoded(Codes const& codes) {
  matrix<float> out(codes.rows(), codes.cols());
  codes.dequantize_into(out.view());
  return out;
}

double output_error(outlier_layer const& l, matrix<float> const& values) {
  matrix<float> e(l.w.rows(), l.w.cols());
  subtract_into(l.w.view(), values.view(), e.view());
  return std::sqrt(output_energy(e.view(), l.calib) / output_energy(l.w.view(), l.calib));
}

template <class Compressor>
auto codes_of(Compressor const& c, outlier_layer const& l) {
  return c.compress(l.w.view(), l.calib).weight.codes;
}

/// Salience the wrong way round.
struct reversed {
  obs_saliency ranking;
  struct scorer {
    obs_saliency::scorer scores;
    float operator()(index_t i, index_t j) const { return -scores(i, j); }
  };
  scorer prepare(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    return {ranking.prepare(w, calib, ctx)};
  }
  std::string describe() const { return "reversed"; }
};

/// The same number of pairs as another allocation, without asking whether it is any good.
struct pairs {
  index_t count;
  std::vector<double> widths() const { return {2, 3, 4}; }
  std::vector<index_t> allocate(bit_offers const& offers) const {
    std::vector<index_t> order(offers.sizes.size()), chosen(offers.sizes.size(), 1);
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
      return offers.scores[static_cast<std::size_t>(a)] < offers.scores[static_cast<std::size_t>(b)];
    });
    for (index_t p = 0; p < count; ++p) {
      chosen[static_cast<std::size_t>(order[static_cast<std::size_t>(p)])] = 0;
      chosen[static_cast<std::size_t>(order[order.size() - 1 - static_cast<std::size_t>(p)])] = 2;
    }
    return chosen;
  }
  std::string describe() const { return "pairs"; }
};
static_assert(bit_allocator<pairs>);
static_assert(joint_compressor<mixed_bits<obs_saliency, balanced_allocation>> &&
              joint_compressor<mixed_bits<range_curvature, top_share, uniform_grid>>);

super_block_grid groups_of(index_t size) {
  scale_storage const stored{.format = number_format::fp16, .bits = 4, .block = {.rows = 16, .cols = 1}, .shifted = true};
  return {.bits = 2, .group = size, .scales = stored, .offsets = stored};
}

} // namespace

TEST_CASE("SpQR without threshold and second level is error feedback with groups refitted, bit for bit") {
  outlier_layer const l;
  uniform_grid const grid{.bits = 3, .block = per_group(16), .symmetric = false};
  auto const ours = codes_of(spqr_compressor(grid, {.damping = 0.1, .share = 0.0}), l);
  auto const gptq_codes = codes_of(gptq(grid, {.damping = 0.1, .refit_groups = true}), l);
  CHECK(ours.base == gptq_codes);
  CHECK(ours.outliers.count() == 0);
  CHECK(ours.stored_bits() == gptq_codes.stored_bits());
}

TEST_CASE("SpQR's outliers are what its threshold says, and decode to what the sweep kept") {
  outlier_layer const l;
  spqr_config const config{.damping = 0.1, .relative_threshold = 0.05};
  auto const codes = codes_of(spqr_compressor(spqr_tiles(3), config), l);
  // The same by hand: variance of the columns, a sweep with the threshold.
  auto const factor = factor_for_feedback(hessian(l.calib, 0.1).view());
  double mean = 0;
  for (index_t j = 0; j < 192; ++j) {
    double sum = 0, square = 0;
    for (index_t i = 0; i < 64; ++i) {
      sum += static_cast<double>(l.w(i, j));
      square += std::pow(static_cast<double>(l.w(i, j)), 2.0);
    }
    mean += (square - sum * sum / 64) / 63 / std::pow(static_cast<double>(factor.upper(j, j)), 2.0) / 192;
  }
  auto const threshold = static_cast<float>(0.05 * mean);
  matrix<float> swept = l.w;
  mask outliers(64, 192);
  integer_codes base = spqr_tiles(3).empty(64, 192);
  spqr_tiles(3).fit(base, l.w.view());
  feed_back(swept.view(), factor.upper.view(),
            slim::detail::leave_one_out<super_block_grid>(spqr_tiles(3), factor.upper.view(), threshold), base, nullptr,
            {.refit_groups = true, .outlier_threshold = threshold, .outliers = &outliers});
  CHECK(codes.outliers.count() == outliers.count());
  CHECK(outliers.count() > 20);
  CHECK(outliers.count() < 1000);
  matrix<float> const values = decoded(codes), dense = decoded(codes.base);
  for (index_t i = 0; i < 64; ++i)
    for (index_t j = 0; j < 192; ++j)
      CHECK(std::abs(values(i, j) - swept(i, j)) <=
            (outliers.kept(i, j) ? 0x1p-11f * std::abs(swept(i, j) - dense(i, j)) + 1e-9f : 0.0f));
  double const tile_bits = 3 + 6.0 / 16 + 64.0 / 256;
  CHECK(codes.stored_bits() == 64 * 192 * tile_bits + 65 * 32 + 32.0 * static_cast<double>(codes.outliers.count()));
}

TEST_CASE("fewer weights in the grid, less error: SpQR's thresholds and shares") {
  outlier_layer const l;
  double before = 1;
  index_t count = -1;
  for (double const share : {0.0, 0.005, 0.02}) {
    auto const codes = codes_of(spqr_compressor(spqr_tiles(3), {.damping = 0.1, .share = share}), l);
    double const error = output_error(l, decoded(codes));
    CHECK(error < before);
    CHECK(codes.outliers.count() > count);
    CHECK(codes.outliers.count() <= static_cast<index_t>(share * 64 * 192));
    CHECK(codes.outliers.count() >= static_cast<index_t>(0.85 * share * 64 * 192));
    before = error;
    count = codes.outliers.count();
  }
  CHECK(codes_of(spqr_compressor(spqr_tiles(3), {.share = 1.0}), l).outliers.count() > 12000); // all but exact hits
  double const nearest = output_error(
      l, decoded(absmax_quantizer({.bits = 3, .block = per_group(16), .symmetric = false}).quantize(l.w.view(), l.calib)));
  double const feedback =
      output_error(l, decoded(codes_of(gptq(uniform_grid{.bits = 3, .block = per_group(16), .symmetric = false},
                                            {.damping = 0.1, .refit_groups = true}),
                                       l)));
  CHECK(feedback < nearest);
  CHECK(before < 0.7 * feedback);
}

TEST_CASE("leaving one out: the weight that stretches its group, and no other") {
  matrix<float> upper(16, 16);
  for (index_t j = 0; j < 16; ++j) upper(j, j) = 1.0f;
  super_block_grid const grid{
      .bits = 3, .group = 16, .scales = {.bits = 0}, .offsets = {.bits = 0}, .rule = scale_rule::absmax};
  matrix<float> w(1, 16);
  for (index_t j = 0; j < 16; ++j) w(0, j) = 0.1f * static_cast<float>(j % 8) - 0.35f; // on the levels of its own range
  w(0, 6) = 40.0f;
  auto const fitted_scale = [&](float threshold) {
    integer_codes codes = grid.empty(1, 32);
    std::vector<float> tile(16 * grid_lanes);
    for (index_t j = 0; j < 16; ++j)
      for (index_t lane = 0; lane < grid_lanes; ++lane) tile[static_cast<std::size_t>(j * grid_lanes + lane)] = w(0, j);
    slim::detail::leave_one_out<super_block_grid>(grid, upper.view(), threshold).fit_tile(codes, tile.data(), 0, 1, 0, 16);
    return codes.scales(0, 0);
  };
  CHECK(fitted_scale(1.0f) == Approx(0.1f).epsilon(1e-3));         // the range of the others
  CHECK(fitted_scale(100.0f) == Approx(40.35f / 7).epsilon(1e-3)); // nothing is gained by as much
  w(0, 6) = 0.25f;
  CHECK(fitted_scale(1e-6f) == Approx(0.1f).epsilon(1e-3));
}

TEST_CASE("SpQR in the order of energy is SpQR on permuted columns") {
  outlier_layer const l;
  spqr_compressor const spqr(spqr_tiles(3), {.damping = 0.1, .share = 0.01});
  auto const made = compress(l.w, l.calib, chain(in_basis(activation_order{}, spqr)));
  channel_permutation const order = activation_order{}(l.w.view(), l.calib);
  outlier_layer const permuted{order.apply(l.w.view()), order.apply_to(l.calib)};
  CHECK(made.weight.values() == order.invert(decoded(codes_of(spqr, permuted)).view()));
  std::vector<double> const energy = permuted.calib.mean_square();
  CHECK(std::is_sorted(energy.rbegin(), energy.rend()));
  CHECK(made.report.last().bits_per_weight == Approx((made.weight.codes.weight.codes.stored_bits() + 32 * 192) / (64 * 192)));
}

TEST_CASE("the errors of a sweep follow from what it left") {
  outlier_layer const l;
  auto const factor = factor_for_feedback(hessian(l.calib, 0.1).view());
  uniform_grid const grid{.bits = 3, .block = per_group(16), .symmetric = false};
  integer_codes codes = grid.empty(64, 192);
  grid.fit(codes, l.w.view());
  matrix<float> q = l.w;
  feed_back(q.view(), factor.upper.view(), grid, codes, nullptr);
  matrix<float> const e = slim::detail::sweep_errors(l.w.view(), q.view(), factor.upper.view(), {});
  // column by column in double
  matrix<double> now(64, 192);
  double most = 0, largest = 0;
  for (index_t i = 0; i < 64; ++i) {
    for (index_t j = 0; j < 192; ++j) now(i, j) = static_cast<double>(l.w(i, j));
    for (index_t j = 0; j < 192; ++j) {
      double const error = (now(i, j) - static_cast<double>(q(i, j))) / static_cast<double>(factor.upper(j, j));
      most = std::max(most, std::abs(error - static_cast<double>(e(i, j))));
      largest = std::max(largest, std::abs(error));
      for (index_t k = j; k < 192; ++k) now(i, k) -= error * static_cast<double>(factor.upper(j, k));
    }
  }
  CHECK(most < 1e-3 * largest);
  mask odd(64, 192);
  for (index_t i = 0; i < 64; ++i)
    for (index_t j = 1; j < 192; j += 2) odd.keep(i, j);
  mask const top = slim::detail::largest_errors(e.view(), 0.01, &odd);
  CHECK(top.count() == 122);
  float least_chosen = 1e30f, most_left = 0;
  for (index_t i = 0; i < 64; ++i)
    for (index_t j = 0; j < 192; ++j) {
      if (top.kept(i, j)) least_chosen = std::min(least_chosen, std::abs(e(i, j)));
      if (top.kept(i, j)) CHECK(odd.kept(i, j));
      if (!top.kept(i, j) && odd.kept(i, j)) most_left = std::max(most_left, std::abs(e(i, j)));
    }
  CHECK(least_chosen >= most_left);
}

TEST_CASE("saliencies of groups: their formulas, and their laws") {
  outlier_layer const l;
  auto const factor = factor_for_feedback(hessian(l.calib, 0.01).view());
  auto const obs = obs_saliency().prepare(l.w.view(), l.calib);
  auto const range = range_curvature({.group = 16}).prepare(l.w.view(), l.calib);
  std::vector<double> const squares = l.calib.mean_square();
  auto const by_hand = [&](index_t i, index_t j) {
    float low = 1e9f, high = -1e9f;
    for (index_t k = j / 16 * 16; k < j / 16 * 16 + 16; ++k) {
      low = std::min(low, l.w(i, k));
      high = std::max(high, l.w(i, k));
    }
    return std::pow(static_cast<double>(high - low), 2.0) * squares[static_cast<std::size_t>(j)];
  };
  double const obs_unit = static_cast<double>(obs(0, 0)) / std::pow(static_cast<double>(l.w(0, 0) / factor.upper(0, 0)), 2.0);
  double const range_unit = static_cast<double>(range(0, 0)) / by_hand(0, 0);
  for (index_t i = 0; i < 64; i += 7)
    for (index_t j = 0; j < 192; ++j) {
      CHECK(static_cast<double>(obs(i, j)) ==
            Approx(obs_unit * std::pow(static_cast<double>(l.w(i, j) / factor.upper(j, j)), 2.0)).epsilon(1e-4));
      CHECK(static_cast<double>(range(i, j)) == Approx(range_unit * by_hand(i, j)).epsilon(1e-4));
    }
  CHECK(describe(check_saliency(obs_saliency())) == "");
  CHECK(describe(check_saliency(range_curvature())) == "");
}

TEST_CASE("equal bits in mixed_bits are error feedback with groups refitted, bit for bit") {
  outlier_layer const l;
  for (bool const by_offsets : {false, true}) {
    auto const judge = [&](auto const& grid) {
      auto const ours = codes_of(mixed_bits(obs_saliency(), pairs{0}, grid), l);
      auto three = grid;
      three.bits = 3;
      auto const plain = codes_of(gptq(three, {.refit_groups = true}), l);
      CHECK(decoded(ours) == decoded(plain));
      CHECK(ours.stored_bits() == plain.stored_bits());
    };
    if (by_offsets)
      judge(groups_of(16));
    else
      judge(uniform_grid{.bits = 3, .block = per_group(16), .symmetric = false});
  }
}

TEST_CASE("salient groups deserve more bits: balanced, equal, reversed") {
  outlier_layer const l;
  uniform_grid const grid{.bits = 3, .block = per_group(16), .symmetric = false};
  auto const balanced = codes_of(mixed_bits(obs_saliency(), balanced_allocation({.bits = 3}), grid), l);
  index_t const more = std::count(balanced.base.group_bits.begin(), balanced.base.group_bits.end(), std::uint8_t{4});
  CHECK(more > 0);
  CHECK(more == std::count(balanced.base.group_bits.begin(), balanced.base.group_bits.end(), std::uint8_t{2}));
  double const by_salience = output_error(l, decoded(balanced));
  double const equal = output_error(l, decoded(codes_of(mixed_bits(obs_saliency(), pairs{0}, grid), l)));
  double const wrong = output_error(l, decoded(codes_of(mixed_bits(reversed{obs_saliency()}, pairs{more}, grid), l)));
  CHECK(by_salience < 0.8 * equal);
  CHECK(equal < wrong);
  CHECK(balanced.stored_bits() == codes_of(mixed_bits(obs_saliency(), pairs{0}, grid), l).stored_bits());
}

TEST_CASE("a group of one bit is its mean and the mean distance from it") {
  matrix<float> w(2, 8);
  float const numbers[] = {1, 2, 3, 6, 0, 0, 0, 0, /**/ -1, -1, 1, 1, 5, 5, 5, 5};
  std::copy_n(numbers, 16, w.data());
  super_block_grid grid{.bits = 1, .group = 4, .scales = {.bits = 0}, .offsets = {.bits = 0}};
  integer_codes codes = grid.empty(2, 8);
  grid.fit(codes, w.view());
  codes.encode(w.view());
  matrix<float> const values = decoded(codes);
  float const expected[] = {1.5f,    1.5f, 4.5f, 4.5f, 0, 0, 0, 0,
                            /**/ -1, -1,   1,    1,    5, 5, 5, 5}; // mean 3, distance 1.5; a tie goes to the even code
  for (index_t k = 0; k < 16; ++k) {
    if (k == 2) continue; // 3 is as far from both
    CHECK(values.data()[k] == expected[k]);
  }
}

TEST_CASE("2/4/16: wide codes for the groups that matter, outliers in the others only") {
  outlier_layer const l;
  super_block_grid const grid = groups_of(16);
  auto const codes =
      codes_of(mixed_bits(range_curvature({.group = 16}), top_share({.share = 0.25}), grid, {.outlier_share = 0.01}), l);
  CHECK(std::count(codes.base.group_bits.begin(), codes.base.group_bits.end(), std::uint8_t{4}) == 3);
  CHECK(codes.outliers.count() == 122);
  for (std::int32_t const column : codes.outliers.columns) CHECK(codes.base.bits_of(column / 16) == 2);
  auto const error_of = [&](auto const& compressor) { return output_error(l, decoded(codes_of(compressor, l))); };
  double const without = error_of(mixed_bits(range_curvature({.group = 16}), top_share({.share = 0.25}), grid));
  double const two = error_of(mixed_bits(range_curvature({.group = 16}), top_share({.share = 0.0}), grid));
  double const four = error_of(mixed_bits(range_curvature({.group = 16}), top_share({.share = 1.0}), grid));
  double const wrong = error_of(mixed_bits(reversed{obs_saliency()}, top_share({.share = 0.25}), grid));
  CHECK(output_error(l, decoded(codes)) < without);
  CHECK(without < 0.7 * two);
  CHECK(without < 0.8 * wrong);
  CHECK(four < without);
  CHECK(codes.base.stored_bits() == 64 * 192 * (2.5 + 8.0 / 16 + 64.0 / 256));
}

TEST_CASE("the systems keep the laws of joint compressors") {
  CHECK(describe(check_joint_compressor(spqr_compressor(spqr_tiles(3), {.share = 0.01}))) == "");
  CHECK(describe(check_joint_compressor(spqr_compressor(spqr_tiles(2), {.relative_threshold = 0.2}))) == "");
  CHECK(describe(check_joint_compressor(
            mixed_bits(obs_saliency(), balanced_allocation(), groups_of(8), {.outlier_share = 0.01}))) == "");
  CHECK(describe(check_joint_compressor(mixed_bits(range_curvature({.group = 8}), top_share(), groups_of(8)))) == "");
}

TEST_CASE("what the systems refuse") {
  CHECK_THROWS_WITH(spqr_compressor(spqr_tiles(), {.damping = 0.0}), Contains("damping 0"));
  CHECK_THROWS_WITH(spqr_compressor(spqr_tiles(), {.relative_threshold = -1.0}), Contains("relative_threshold -1"));
  CHECK_THROWS_WITH(spqr_compressor(spqr_tiles(), {.share = 1.5}), Contains("share 1.5"));
  CHECK_THROWS_WITH(spqr_compressor(spqr_tiles(9)), Contains("9 bits"));
  CHECK_THROWS_WITH(mixed_bits(obs_saliency(), balanced_allocation(), groups_of(8), {.outlier_share = 2.0}),
                    Contains("outlier_share 2"));
  CHECK_THROWS_WITH(balanced_allocation({.bits = 1}), Contains("1 bits"));
  CHECK_THROWS_WITH(obs_saliency({.damping = -1.0}), Contains("damping -1"));
  CHECK_THROWS_WITH(range_curvature({.group = 0}), Contains("groups of 0"));
  outlier_layer const l;
  CHECK_THROWS_AS(spqr_compressor().compress(l.w.view(), calibration(192, {.gram = true})), config_error); // no tokens
}
