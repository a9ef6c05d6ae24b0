// Gradients of layers and losses against the same in double, and what they say of tokens and weights.

#include "slim/adapters/exact_lora.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/training.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;
using Catch::Matchers::Contains;

namespace {

/// A B or with a transpose, in double.
template <class A, class B>
matrix<double> product(A const& a, B const& b) {
  matrix<double> c(a.rows(), b.cols());
  for (index_t i = 0; i < a.rows(); ++i)
    for (index_t j = 0; j < b.cols(); ++j)
      for (index_t k = 0; k < a.cols(); ++k) c(i, j) += static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
  return c;
}

void require_close(matrix<float> const& have, matrix<double> const& want, double tolerance = 1e-5) {
  REQUIRE(have.rows() == want.rows());
  REQUIRE(have.cols() == want.cols());
  double error = 0, size = 0;
  for (index_t k = 0; k < want.size(); ++k) {
    error += std::pow(static_cast<double>(have.data()[k]) - want.data()[k], 2);
    size += want.data()[k] * want.data()[k];
  }
  CHECK(std::sqrt(error) <= tolerance * std::sqrt(size));
}

/// Loss of every row, in double, from logits in double: what z becomes by the soft cap is part of it.
matrix<double> double_logits(matrix<float> const& h, matrix<float> const& head, double cap) {
  matrix<double> z = product(h, transposed(head.view()));
  for (index_t k = 0; k < z.size(); ++k)
    if (cap > 0) z.data()[k] = cap * std::tanh(z.data()[k] / cap);
  return z;
}

double log_sum(matrix<double> const& z, index_t t) {
  double sum = 0;
  for (index_t j = 0; j < z.cols(); ++j) sum += std::exp(z(t, j));
  return std::log(sum);
}

/// dH of weight * sum over tokens, from dZ (behind the cap).
matrix<double> through_head(matrix<double> dz, matrix<double> const& z, matrix<float> const& head, double cap) {
  for (index_t k = 0; k < dz.size(); ++k)
    if (cap > 0) dz.data()[k] *= 1 - std::pow(z.data()[k] / cap, 2);
  return product(dz, head);
}

} // namespace

TEST_CASE("gradients of a linear layer are those of double loops, and are added") {
  index_t const rank = GENERATE(0, 3);
  matrix<float> const w = normal_matrix(7, 9, 1), left = normal_matrix(9, rank, 2), right = normal_matrix(rank, 7, 3);
  matrix<float> const x = normal_matrix(11, 9, 4), dy = normal_matrix(11, 7, 5);
  matrix<float> dx(11, 9), dw(7, 9), dl(9, rank), dr(rank, 7);
  std::vector<double> db(7);
  linear_weights const layer{w.view(), left.view(), right.view()};
  linear_gradients const to{dx.view(), dw.view(), dl.view(), dr.view(), db};
  add_linear_gradients(layer, x, dy, to);
  matrix<double> const inner = product(dy, transposed(right.view()));
  matrix<double> want_x = product(dy, w), adapter = product(inner, transposed(left.view()));
  for (index_t k = 0; k < want_x.size(); ++k) want_x.data()[k] += adapter.data()[k];
  require_close(dx, want_x);
  require_close(dw, product(transposed(dy.view()), x));
  require_close(dl, product(transposed(x.view()), inner));
  matrix<double> const mixed = product(x, left);
  require_close(dr, product(transposed(mixed.view()), dy));
  for (index_t i = 0; i < 7; ++i) {
    double sum = 0;
    for (index_t t = 0; t < 11; ++t) sum += static_cast<double>(dy(t, i));
    CHECK(db[static_cast<std::size_t>(i)] == Approx(sum));
  }
  add_linear_gradients(layer, x, dy, to);
  for (index_t k = 0; k < want_x.size(); ++k) want_x.data()[k] *= 2;
  require_close(dx, want_x);
}

TEST_CASE("gradients of a linear layer refuse what does not fit, naming it") {
  matrix<float> const w(3, 4), x(5, 4), dy(5, 3), left(4, 2), right(1, 3);
  matrix<float> narrow(5, 3);
  CHECK_THROWS_WITH(add_linear_gradients({w.view(), left.view(), right.view()}, x, dy, {}), Contains("right 1 x 3"));
  CHECK_THROWS_WITH(add_linear_gradients({w.view(), {}, {}}, dy, dy, {}), Contains("X is 5 x 3, needed is 5 x 4"));
  CHECK_THROWS_WITH(add_linear_gradients({w.view(), {}, {}}, x, x, {}), Contains("dY is 5 x 4"));
  CHECK_THROWS_WITH(
      add_linear_gradients({w.view(), {}, {}}, x, dy, {.x = narrow.view(), .weight = {}, .left = {}, .right = {}}),
      Contains("dX is 5 x 3"));
}

TEST_CASE("cross entropy and its gradient are those of doubles, with and without a soft cap") {
  float const cap = GENERATE(0.0f, 2.5f);
  matrix<float> const h = normal_matrix(6, 5, 1), head = normal_matrix(13, 5, 2);
  std::vector<int> const targets = {3, 0, -1, 12, 3, 7};
  matrix<float> dh(6, 5);
  auto const losses = cross_entropy_into({head.view(), cap}, h, targets, dh.view(), 0.5f);
  matrix<double> const z = double_logits(h, head, static_cast<double>(cap));
  matrix<double> dz(6, 13);
  for (index_t t = 0; t < 6; ++t) {
    int const target = targets[static_cast<std::size_t>(t)];
    double const loss = target < 0 ? 0 : log_sum(z, t) - z(t, target);
    CHECK(losses[static_cast<std::size_t>(t)] == Approx(loss).epsilon(1e-5));
    for (index_t j = 0; target >= 0 && j < 13; ++j)
      dz(t, j) = 0.5 * (std::exp(z(t, j) - log_sum(z, t)) - (j == target ? 1 : 0));
  }
  require_close(dh, through_head(dz, z, head, static_cast<double>(cap)));
  for (index_t j = 0; j < 5; ++j) CHECK(dh(2, j) == 0.0f);
}

TEST_CASE("the divergence from a teacher and its gradient are those of doubles") {
  float const cap = GENERATE(0.0f, 2.5f);
  matrix<float> const h = normal_matrix(6, 5, 1), head = normal_matrix(13, 5, 2);
  matrix<float> const teacher_h = normal_matrix(6, 4, 3), teacher = normal_matrix(13, 4, 4);
  matrix<float> dh(6, 5);
  auto const losses = divergence_into({head.view(), cap}, h, {teacher.view(), 0}, teacher_h, dh.view(), 2.0f);
  matrix<double> const z = double_logits(h, head, static_cast<double>(cap)), wanted = double_logits(teacher_h, teacher, 0);
  matrix<double> dz(6, 13);
  for (index_t t = 0; t < 6; ++t) {
    double loss = 0;
    for (index_t j = 0; j < 13; ++j) {
      double const p = std::exp(wanted(t, j) - log_sum(wanted, t)), q = std::exp(z(t, j) - log_sum(z, t));
      loss += p * std::log(p / q);
      dz(t, j) = 2 * (q - p);
    }
    CHECK(losses[static_cast<std::size_t>(t)] == Approx(loss).epsilon(1e-4));
  }
  require_close(dh, through_head(dz, z, head, static_cast<double>(cap)));
  auto const same = divergence_into({head.view()}, h, {head.view()}, h, dh.view(), 1.0f);
  for (double const loss : same) CHECK(loss == 0.0);
  for (index_t k = 0; k < dh.size(); ++k) CHECK(dh.data()[k] == 0.0f);
}

TEST_CASE("losses of more tokens than one slice holds are those of each token alone, on any executor") {
  index_t const vocabulary = index_t{1} << 21, tokens = 9; // eight tokens fit into a slice
  matrix<float> const head = normal_matrix(vocabulary, 1, 1), h = normal_matrix(tokens, 1, 2);
  std::vector<int> targets;
  for (index_t t = 0; t < tokens; ++t) targets.push_back(static_cast<int>(100000 * t));
  matrix<float> dh(tokens, 1), again(tokens, 1), one(1, 1);
  auto const losses = cross_entropy_into({head.view()}, h, targets, dh.view(), 1.0f);
  thread_team_executor const team{3};
  CHECK(cross_entropy_into({head.view()}, h, targets, again.view(), 1.0f, on(team)) == losses);
  CHECK(again == dh);
  for (index_t const t : {index_t{7}, index_t{8}}) {
    auto const at = static_cast<std::size_t>(t);
    CHECK(cross_entropy_into({head.view()}, h.view().middle_rows(t, 1), std::span(targets).subspan(at, 1), one.view(),
                             1.0f)[0] == losses[at]);
    CHECK(one(0, 0) == dh(t, 0));
  }
}

TEST_CASE("errors relative to the wanted rows and their gradient are those of doubles") {
  matrix<float> const y = normal_matrix(5, 6, 1);
  matrix<float> wanted = normal_matrix(5, 6, 2, 3.0f), dy(5, 6);
  for (index_t j = 0; j < 6; ++j) wanted(2, j) = 0;
  auto const losses = relative_error_into(y, wanted, dy.view(), 0.5f);
  matrix<double> want(5, 6);
  for (index_t t = 0; t < 5; ++t) {
    double error = 0, size = 0;
    for (index_t j = 0; j < 6; ++j) {
      want(t, j) = static_cast<double>(y(t, j)) - static_cast<double>(wanted(t, j));
      error += want(t, j) * want(t, j);
      size += static_cast<double>(wanted(t, j)) * static_cast<double>(wanted(t, j));
    }
    for (index_t j = 0; j < 6; ++j) want(t, j) = t == 2 ? 0 : want(t, j) / size; // 0.5 times 2
    CHECK(losses[static_cast<std::size_t>(t)] == Approx(t == 2 ? 0 : error / size));
  }
  require_close(dy, want);
  thread_team_executor const team{3};
  matrix<float> again(5, 6);
  CHECK(relative_error_into(y, wanted, again.view(), 0.5f, on(team)) == losses);
  CHECK(again == dy);
  CHECK_THROWS_WITH(relative_error_into(y, matrix<float>(5, 5), dy.view(), 1.0f), Contains("wanted is 5 x 5"));
}

TEST_CASE("losses refuse what does not fit, naming it") {
  matrix<float> const h(2, 3), head(5, 3), narrow(5, 2);
  matrix<float> dh(2, 3);
  std::vector<int> const targets = {1, 5}, few = {1};
  CHECK_THROWS_WITH(cross_entropy_into({head.view()}, h, targets, dh.view(), 1.0f), Contains("target 5 of a vocabulary of 5"));
  CHECK_THROWS_WITH(cross_entropy_into({head.view()}, h, few, dh.view(), 1.0f), Contains("1 targets"));
  CHECK_THROWS_WITH(cross_entropy_into({narrow.view()}, h, targets, dh.view(), 1.0f), Contains("3 channels, the head reads 2"));
  CHECK_THROWS_WITH(divergence_into({head.view()}, h, {narrow.view()}, h, dh.view(), 1.0f), Contains("teacher"));
}

TEST_CASE("energies of tokens are mean squares, weights of tokens are clipped, of mean 1 and not too few") {
  matrix<float> const dy = normal_matrix(4000, 3, 1);
  auto energy = token_energy(dy);
  CHECK(static_cast<double>(energy[5]) == Approx((std::pow(dy(5, 0), 2) + std::pow(dy(5, 1), 2) + std::pow(dy(5, 2), 2)) / 3));
  energy[17] = 1e9f; // one token that would count for all
  auto const free = token_weights(energy, 10, {.clip_share = 0.999, .tokens_per_channel = 4});
  double sum = 0;
  for (float const w : free) sum += static_cast<double>(w);
  CHECK(sum / 4000 == Approx(1).epsilon(1e-5));
  CHECK(free[17] == *std::max_element(free.begin(), free.end()));
  CHECK(free[17] < 20);
  CHECK(free[1] / free[2] == Approx(energy[1] / energy[2]).epsilon(1e-4)); // enough tokens: no blend

  double const natural = effective_tokens(free);
  auto const blended = token_weights(energy, 900, {.clip_share = 0.999, .tokens_per_channel = 4});
  REQUIRE(natural < 3600);
  CHECK(effective_tokens(blended) == Approx(3600).epsilon(1e-4)); // the least blend that is enough
  double const b = 1 - (static_cast<double>(blended[1]) - 1) / (static_cast<double>(free[1]) - 1);
  for (std::size_t const k : {std::size_t{2}, std::size_t{3}, std::size_t{17}})
    CHECK(static_cast<double>(blended[k]) == Approx((1 - b) * static_cast<double>(free[k]) + b).epsilon(1e-4));

  for (float const w : token_weights(energy, 1001)) CHECK(w == 1.0f); // fewer tokens than four per channel
  for (float const w : token_weights(std::vector<float>(5, 0.0f), 1)) CHECK(w == 1.0f);
  CHECK(token_weights({}, 3).empty());
  CHECK_THROWS_WITH(token_weights(std::vector<float>{1, -2}, 1), Contains("-2"));
  CHECK_THROWS_WITH(token_weights(energy, 1, {.clip_share = 0}), Contains("clip share 0"));
}

TEST_CASE("the Fisher diagonal is the sum over sequences of squared gradients") {
  fisher_diagonal fisher(3, 4);
  matrix<double> want(3, 4);
  for (std::uint64_t s = 0; s < 3; ++s) {
    matrix<float> const x = normal_matrix(6, 4, 10 + s), dy = normal_matrix(6, 3, 20 + s);
    fisher.observe(x, dy);
    auto const g = product(transposed(dy.view()), x);
    for (index_t k = 0; k < want.size(); ++k) want.data()[k] += g.data()[k] * g.data()[k];
  }
  CHECK(fisher.sequences() == 3);
  for (index_t k = 0; k < want.size(); ++k) CHECK(fisher.sum().data()[k] == Approx(want.data()[k]).epsilon(1e-5));
  CHECK_THROWS_WITH(fisher.observe(matrix<float>(2, 4), matrix<float>(3, 3)), Contains("X is 2 x 4"));
}

TEST_CASE("gradients of scales are what a scale's own change does to the loss") {
  matrix<float> const w = normal_matrix(6, 10, 1), dw = normal_matrix(6, 10, 2);
  bool const pruned = GENERATE(false, true);
  mask kept(6, 10);
  for (index_t i = 0; i < 6; ++i)
    for (index_t j = i % 2; j < 10; j += 2) kept.keep(i, j);
  integer_codes codes =
      absmax_quantizer({.bits = 3, .block = per_group(4), .symmetric = false}).quantize(w.view(), calibration(10));
  codes.channel_factors = {1, 2, 1, 1, 0.5f, 1, 1, 1, 1, 3};
  auto const loss = [&](integer_codes const& c) {
    double sum = 0;
    for (index_t i = 0; i < 6; ++i)
      for (index_t j = 0; j < 10; ++j)
        if (!pruned || kept.kept(i, j)) sum += static_cast<double>(dw(i, j)) * static_cast<double>(c.value(i, j));
    return sum;
  };
  auto const gradient = scale_gradient(codes, pruned ? &kept : nullptr, dw);
  for (index_t k = 0; k < gradient.size(); ++k) {
    integer_codes moved = codes;
    moved.scales.data()[k] += 1.0f; // values are linear in their scale
    CHECK(static_cast<double>(gradient.data()[k]) == Approx(loss(moved) - loss(codes)).epsilon(1e-4).margin(1e-5));
  }
  CHECK_THROWS_WITH(scale_gradient(codes, nullptr, matrix<float>(6, 9)), Contains("6 x 9"));
}

TEST_CASE("an adapter trained on a layer's squared output error comes to the exact solver's error") {
  index_t const d_out = 8, d_in = 10, rank = 2, tokens = 60;
  matrix<float> const error = normal_matrix(d_out, d_in, 1), x = normal_matrix(tokens, d_in, 2);
  calibration calib(d_in, {.gram = true});
  calib.observe(x);
  exact_lora const solver({.rank = {.number = rank}, .format = number_format::fp32});
  matrix<float> rest = error;
  solver.solve(error.view(), calib).subtract_from(rest.view());
  matrix<float> left_over(tokens, d_out);
  gemm_into(x.view(), transposed(rest.view()), left_over.view());
  double best = 0;
  for (index_t k = 0; k < left_over.size(); ++k)
    best += static_cast<double>(left_over.data()[k]) * static_cast<double>(left_over.data()[k]);

  matrix<float> left = normal_matrix(d_in, rank, 3, 0.1f), right = normal_matrix(rank, d_out, 4, 0.1f);
  matrix<float> const nothing(d_out, d_in);
  adamw optimizer;
  (void)optimizer.add(left.size());
  (void)optimizer.add(right.size());
  schedule const rates({.peak = 0.05, .steps = 1500});
  double energy = 0;
  for (index_t step = 0; step < 1500; ++step) {
    matrix<float> y(tokens, d_out), mixed(tokens, rank), dl(d_in, rank), dr(rank, d_out);
    gemm_into(x.view(), left.view(), mixed.view());
    gemm_into(matrix_view<float const>(mixed), right.view(), y.view());
    gemm_into(x.view(), transposed(error.view()), y.view(), destination::subtract); // dY, up to a factor
    energy = 0;
    for (index_t k = 0; k < y.size(); ++k) energy += static_cast<double>(y.data()[k]) * static_cast<double>(y.data()[k]);
    add_linear_gradients({nothing.view(), left.view(), right.view()}, x, y,
                         {.x = {}, .weight = {}, .left = dl.view(), .right = dr.view()});
    auto const span_of = [](matrix<float>& m) { return std::span(m.data(), static_cast<std::size_t>(m.size())); };
    optimizer.step(0, span_of(left), span_of(dl), rates.at(step));
    optimizer.step(1, span_of(right), span_of(dr), rates.at(step));
  }
  CHECK(energy < 1.01 * best);
  CHECK(energy > 0.99 * best);
}
