// SVDQuant's parts on inputs with outlier channels: what each is worth, and what they are without the others.

#include "slim/joint/low_rank_residual.hpp"
#include "slim/pipeline/in_basis.hpp"
#include "slim/pipeline/stacked_rows.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/testing/joint_laws.hpp"
#include "slim/transforms/channel_scaling_search.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;
using Catch::Contains;

namespace {

/// Correlated inputs with five channels twenty times as large, weights with some large entries.
struct layer {
  matrix<float> w = normal_matrix(48, 96, 1, 0.05f), x = normal_matrix(256, 96, 2);
  calibration calib = calibration(96);

  explicit layer(float unit = 1.0f) {
    for (index_t k = 0; k < w.size(); k += 301) w.data()[k] *= 8.0f;
    for (index_t t = 0; t < x.rows(); ++t)
      for (index_t j = 0; j < 96; ++j) x(t, j) = (j > 0 ? 0.5f * x(t, j - 1) / (j % 19 == 5 ? 20.0f : 1.0f) : 0.0f) + x(t, j);
    for (index_t t = 0; t < x.rows(); ++t)
      for (index_t j = 4; j < 96; j += 19) x(t, j) *= 20.0f;
    for (index_t k = 0; k < x.size(); ++k) x.data()[k] *= unit;
    calib = observed(x, {.gram = true, .samples = 256});
  }
};

absmax_quantizer int4() { return absmax_quantizer({.bits = 4, .block = per_group(32)}); }
group_input inputs4() { return group_input({.bits = 4, .group = 32}); }

matrix<float> product(matrix<float> const& x, matrix<float> const& w) {
  matrix<float> y(x.rows(), w.rows());
  gemm_into(x.view(), transposed(w.view()), y.view());
  return y;
}

double relative(matrix<float> const& made, matrix<float> const& target) {
  double off = 0, all = 0;
  for (index_t k = 0; k < made.size(); ++k) {
    off += std::pow(static_cast<double>(made.data()[k] - target.data()[k]), 2.0);
    all += std::pow(static_cast<double>(target.data()[k]), 2.0);
  }
  return std::sqrt(off / all);
}

/// What a layer computes whose codes read inputs rounded on the codes' scales, and whose adapter reads them as they come.
template <class Codes>
double error_of(layer const& l, Codes const& codes, adapter const* branch) {
  matrix<float> values(48, 96), rounded = l.x;
  codes.dequantize_into(values.view());
  for (index_t t = 0; t < rounded.rows(); ++t)
    for (index_t j = 0; j < 96; ++j) rounded(t, j) /= codes.factor_at(j);
  inputs4().round_inplace(rounded.view());
  for (index_t t = 0; t < rounded.rows(); ++t)
    for (index_t j = 0; j < 96; ++j) rounded(t, j) *= codes.factor_at(j);
  matrix<float> made = product(rounded, values);
  if (branch) {
    matrix<float> inner(l.x.rows(), branch->rank());
    gemm_into(l.x.view(), branch->left.view(), inner.view());
    gemm_into(inner.view(), branch->right.view(), made.view(), destination::add);
  }
  return relative(made, product(l.x, l.w));
}

low_rank_residual_config of_rank(index_t rank) { return {.rank = {.number = rank}, .format = number_format::fp32}; }

} // namespace

TEST_CASE("rounding alone, scaling, a branch, and both") {
  layer const l;
  double const rtn = error_of(l, int4().quantize(l.w.view(), l.calib), nullptr);
  auto const smooth = compress(l.w, l.calib, chain(in_basis(search_channel_scaling(int4(), inputs4()), int4())));
  double const scaled = error_of(l, smooth.weight.codes, nullptr);
  low_rank_residual const branch(int4(), inputs4(), of_rank(12));
  auto const beside = compress(l.w, l.calib, chain(branch));
  double const svd = error_of(l, beside.weight.codes, &beside.adapter);
  auto const both = compress(l.w, l.calib, chain(in_basis(search_channel_scaling(int4(), inputs4(), {.rank = 12}), branch)));
  double const all = error_of(l, both.weight.codes, &both.adapter);
  CHECK(rtn > scaled);
  CHECK(rtn > svd);
  CHECK(svd > all);
  CHECK(scaled > all);
  CHECK(all < 0.7 * scaled);
}

TEST_CASE("inputs in units of millions, or millionths, cost a branch in fp16 nothing") {
  auto const error = [](float unit) {
    layer const l(unit);
    low_rank_residual const branch(int4(), inputs4(), {.rank = {.number = 12}});
    auto const both = compress(l.w, l.calib, chain(in_basis(search_channel_scaling(int4(), inputs4(), {.rank = 12}), branch)));
    return error_of(l, both.weight.codes, &both.adapter);
  };
  double const usual = error(1.0f);
  CHECK(error(0x1p24f) == Approx(usual).epsilon(0.1));
  CHECK(error(0x1p-24f) == Approx(usual).epsilon(0.1));
}

TEST_CASE("the branch of a scaled weight, taken back, works on inputs as they come") {
  layer const l;
  std::vector<float> factors;
  for (index_t j = 0; j < 96; ++j) factors.push_back(j % 19 == 4 ? 8.0f : 1.0f);
  channel_scaling const scaling(factors);
  low_rank_residual const branch(int4(), of_rank(6));
  auto const made = compress(l.w, l.calib, chain(in_basis(scaling, branch)));
  auto const there = branch.compress(matrix_view<float const>(scaling.apply(l.w.view()).view()), scaling.apply_to(l.calib));
  matrix<float> const x_there = scaling.invert(l.x.view());
  matrix<float> inner(256, 6), y(256, 48);
  gemm_into(x_there.view(), there.adapter.left.view(), inner.view());
  gemm_into(inner.view(), there.adapter.right.view(), y.view());
  matrix<float> inner_here(256, 6), y_here(256, 48);
  gemm_into(l.x.view(), made.adapter.left.view(), inner_here.view());
  gemm_into(inner_here.view(), made.adapter.right.view(), y_here.view());
  CHECK(relative(y_here, y) < 1e-5);
  CHECK(made.weight.codes.channel_factors == factors);
}

TEST_CASE("the turn of least error is kept, and the first one is the plain method") {
  layer const l;
  low_rank_residual_config config = of_rank(8);
  config.patience = 5;
  config.iterations = 12;
  auto const found = low_rank_residual(int4(), config).compress(matrix_view<float const>(l.w.view()), l.calib);
  config.iterations = 1;
  auto const plain = low_rank_residual(int4(), config).compress(matrix_view<float const>(l.w.view()), l.calib);
  CHECK(plain.objective.size() == 1);
  CHECK(found.objective.front() == plain.objective.front());
  double const least = *std::min_element(found.objective.begin(), found.objective.end());
  CHECK(least < plain.objective.front());
  matrix<float> values = found.weight.values();
  found.adapter.add_to(values.view());
  CHECK(relative(product(l.x, values), product(l.x, l.w)) == Approx(least).epsilon(1e-3));
  // the plain branch is the truncated decomposition: what is left has the energy of the other singular values
  matrix<float> rest = l.w;
  plain.adapter.subtract_from(rest.view());
  auto const whole = exact_low_rank<double>(matrix<double>(l.w.view()).view(), 48);
  double tail = 0, left = 0;
  for (std::size_t k = 8; k < whole.singular_values.size(); ++k) tail += whole.singular_values[k] * whole.singular_values[k];
  for (index_t k = 0; k < rest.size(); ++k) left += std::pow(static_cast<double>(rest.data()[k]), 2.0);
  CHECK(left == Approx(tail).epsilon(0.01));
  CHECK(plain.weight.codes == int4().quantize(rest.view(), l.calib));
}

TEST_CASE("rank 0 is the quantizer alone, full rank leaves nothing") {
  layer const l;
  auto const none_left = low_rank_residual(int4(), of_rank(0)).compress(matrix_view<float const>(l.w.view()), l.calib);
  CHECK(none_left.weight.codes == int4().quantize(l.w.view(), l.calib));
  CHECK(none_left.adapter.rank() == 0);
  auto const smooth = compress(l.w, l.calib, chain(in_basis(search_channel_scaling(int4(), inputs4()), int4())));
  auto const branchless =
      compress(l.w, l.calib, chain(in_basis(search_channel_scaling(int4(), inputs4()), low_rank_residual(int4(), of_rank(0)))));
  CHECK(smooth.weight.codes == branchless.weight.codes);
  auto const full = low_rank_residual(int4(), of_rank(48)).compress(matrix_view<float const>(l.w.view()), l.calib);
  CHECK(full.objective.front() < 1e-4);
}

TEST_CASE("the search takes no scaling unless one is better, and the best of those it tries") {
  layer const l;
  search_channel_scaling const search(int4(), inputs4(), {.grids = 5});
  channel_scaling const found = search(matrix_view<float const>(l.w.view()), l.calib);
  auto const judged = [&](channel_scaling const& s) {
    matrix<float> values = s.apply(l.w.view()), x = s.invert(l.x.view());
    int4().quantize(values.view(), l.calib).dequantize_into(values.view());
    inputs4().round_inplace(x.view());
    return relative(product(x, values), product(l.x, l.w));
  };
  std::vector<double> largest_w(96);
  for (index_t i = 0; i < 48; ++i)
    for (index_t j = 0; j < 96; ++j)
      largest_w[static_cast<std::size_t>(j)] =
          std::max(largest_w[static_cast<std::size_t>(j)], std::abs(static_cast<double>(l.w(i, j))));
  double const ours = judged(found);
  for (int k = 0; k < 5; ++k)
    for (bool const by_weight : {false, true}) {
      std::vector<float> factors;
      for (std::size_t j = 0; j < 96; ++j)
        factors.push_back(static_cast<float>(std::pow(static_cast<double>(l.calib.max_abs()[j]), k / 5.0) /
                                             (by_weight && k > 0 ? std::pow(largest_w[j], 1 - k / 5.0) : 1.0)));
      CHECK(ours <= judged(channel_scaling(factors)) * (1 + 1e-5));
    }
  layer dead = l; // a channel that never moved keeps its scale
  for (index_t t = 0; t < 256; ++t) dead.x(t, 9) = 0.0f;
  channel_scaling const with_dead = search(matrix_view<float const>(l.w.view()), observed(dead.x, {.samples = 64}));
  CHECK(with_dead.factors()[9] == 1.0f);
  calibration const even = observed(mapped(l.x, [](float) { return 1.0f; }), {.samples = 8});
  CHECK(search_channel_scaling(absmax_quantizer({.bits = 8}), group_input({.bits = 8}),
                               {.grids = 1})(matrix_view<float const>(l.w.view()), even)
            .factors() == std::vector<float>(96, 1.0f));
  CHECK_THROWS_WITH(search(matrix_view<float const>(l.w.view()), calibration(96, {.gram = true})),
                    Contains("needs activations"));
  CHECK_THROWS_WITH(search(matrix_view<float const>(l.w.view()), observed(l.x)), Contains("sample of the inputs"));
}

TEST_CASE("low_rank_residual keeps the laws of joint compressors") {
  CHECK(describe(check_joint_compressor(low_rank_residual(int4(), {.rank = {.number = 3}, .iterations = 3}))) == "");
  CHECK(describe(check_joint_compressor(low_rank_residual(int4(), inputs4(), {.rank = {.number = 2}, .iterations = 2}))) == "");
  CHECK_THROWS_WITH(low_rank_residual(int4(), {.iterations = 0}), Contains("0 iterations"));
}

TEST_CASE("q, k and v as one matrix share a scaling and the branch's left factor, and come apart as they were") {
  layer const l;
  index_t const rows[] = {24, 16, 8};
  std::vector<matrix<float>> parts;
  std::vector<matrix_view<float const>> views;
  index_t first = 0;
  for (index_t const count : rows) {
    parts.push_back(slim::detail::rows_of(l.w, first, count));
    first += count;
  }
  for (auto const& part : parts) views.emplace_back(part.view());
  matrix<float> const stacked = stack_rows(views);
  CHECK(stacked == l.w);
  auto const made = compress(stacked, l.calib,
                             chain(in_basis(search_channel_scaling(int4(), inputs4(), {.grids = 3, .rank = 4}),
                                            low_rank_residual(int4(), inputs4(), of_rank(4)))));
  auto const codes = split_rows(made.weight.codes, rows);
  auto const adapters = split_rows(made.adapter, rows);
  matrix<float> const whole = decompress(made);
  first = 0;
  for (std::size_t k = 0; k < 3; ++k) {
    CHECK(codes[k].channel_factors == made.weight.codes.channel_factors);
    CHECK(adapters[k].left == made.adapter.left);
    matrix<float> values(rows[k], 96);
    codes[k].dequantize_into(values.view());
    adapters[k].add_to(values.view());
    for (index_t i = 0; i < rows[k]; ++i)
      for (index_t j = 0; j < 96; ++j) CHECK(values(i, j) == Approx(whole(first + i, j)).margin(1e-6));
    first += rows[k];
  }
  integer_codes const tensor =
      absmax_quantizer({.bits = 4, .block = per_tensor, .symmetric = false}).quantize(l.w.view(), l.calib);
  auto const of_tensor = split_rows(tensor, rows);
  matrix<float> values(16, 96), all(48, 96);
  of_tensor[1].dequantize_into(values.view());
  tensor.dequantize_into(all.view());
  CHECK(values == slim::detail::rows_of(all, 24, 16));
  integer_codes const blocks = absmax_quantizer({.bits = 4, .block = {.rows = 8, .cols = 32}}).quantize(l.w.view(), l.calib);
  CHECK(split_rows(blocks, rows)[2].scales.rows() == 1);
  index_t const crooked[] = {20, 28}, short_of[] = {20, 20};
  CHECK_THROWS_WITH(split_rows(blocks, crooked), Contains("begins at row 20, inside a scale of 8 rows"));
  CHECK_THROWS_WITH(split_rows(tensor, short_of), Contains("40 rows in all, there are 48"));
}
