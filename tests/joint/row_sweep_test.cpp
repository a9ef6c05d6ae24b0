// Error feedback and descent against unblocked float64 versions written from the papers.
#include "slim/joint/row_sweep.hpp"

#include "slim/calibration/hessian.hpp"
#include "slim/joint/error_feedback.hpp"
#include "slim/linalg/feedback_factor.hpp"
#include "slim/quantization/grids/uniform_grid.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include <Eigen/Cholesky>
#include <Eigen/LU>

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

using square = Eigen::MatrixXd;

square to_eigen(matrix_view<float const> a) {
  square out(a.rows(), a.cols());
  for (index_t i = 0; i < a.rows(); ++i)
    for (index_t j = 0; j < a.cols(); ++j) out(i, j) = static_cast<double>(a(i, j));
  return out;
}

/// Correlated activations with uneven channels.
matrix<float> correlated_hessian(index_t n, std::uint64_t seed, double damping = 0.01) {
  matrix<float> const mix = normal_matrix(n, n, seed, 0.3f);
  matrix<float> x = normal_matrix(3 * n + 5, n, seed + 1), y(x.rows(), n);
  gemm_into(x.view(), mix.view(), y.view());
  for (index_t t = 0; t < y.rows(); ++t)
    for (index_t j = 0; j < n; ++j)
      y(t, j) = (y(t, j) + x(t, j)) * static_cast<float>(std::exp(0.5 * random_normal(seed, static_cast<std::uint64_t>(j))));
  return hessian(observed(y, {.gram = true}), damping);
}

struct reference_result {
  square weights;
  /// How close each choice was: the distance to the next rounding tie in steps, or the gap between the gains of the last weight
  /// kept and the first one pruned over the largest gain of the group, the smaller of the two.
  square margin;
};

/// GPTQ and SparseGPT column by column with an explicit inverse, as in their papers (no factor, no blocks), in double.
/// `kept` is read, or with n of m chosen by (w^2 - (w - q)^2) / [H^-1]_jj.
reference_result reference_feedback(square w, square const& h, integer_codes const* codes, std::vector<index_t> const& order,
                                    index_t n, index_t m, std::vector<std::vector<bool>>& kept,
                                    mask const* unrounded = nullptr) {
  auto const d = static_cast<index_t>(order.size());
  auto const rounded = [&](index_t i, index_t j, double x) {
    if (!codes) return x;
    double const step = static_cast<double>(codes->scale_at(i, j));
    if (unrounded && unrounded->kept(i, j)) return x;
    double const zero = codes->zero_at(i, j);
    int const bits =
        codes->group_bits.empty() ? codes->bits : codes->group_bits[static_cast<std::size_t>(j / codes->block.cols)];
    double const low = -std::exp2(bits - 1) - zero, high = std::exp2(bits - 1) - 1 - zero;
    return step == 0.0 ? 0.0 : step * std::clamp(std::nearbyint(x / step), low, high);
  };
  square inverse = h.inverse(), margin = square::Ones(w.rows(), w.cols());
  for (index_t at = 0; at < d; ++at) {
    index_t const j = order[static_cast<std::size_t>(at)];
    if (m > 0 && at % m == 0) { // pivots of the columns of the group after those before them are gone
      index_t const width = std::min(m, d - at);
      std::vector<double> pivots;
      square copy = inverse;
      for (index_t k = 0; k < width; ++k) {
        index_t const c = order[static_cast<std::size_t>(at + k)];
        pivots.push_back(copy(c, c));
        copy -= copy.col(c) * copy.row(c) / copy(c, c);
      }
      for (index_t i = 0; i < w.rows(); ++i) {
        std::vector<std::pair<double, index_t>> gain;
        for (index_t k = 0; k < width; ++k) {
          index_t const c = order[static_cast<std::size_t>(at + k)];
          double const x = w(i, c), error = codes ? x - rounded(i, c, x) : 0.0;
          gain.push_back({-(x * x - error * error) / pivots[static_cast<std::size_t>(k)], k});
        }
        std::sort(gain.begin(), gain.end());
        for (index_t k = 0; k < width; ++k)
          kept[static_cast<std::size_t>(i)]
              [static_cast<std::size_t>(order[static_cast<std::size_t>(at + gain[static_cast<std::size_t>(k)].second)])] =
                  k < (width * n + m - 1) / m;
        auto const last_kept = static_cast<std::size_t>((width * n + m - 1) / m);
        double const gap = last_kept < gain.size() ? gain[last_kept].first - gain[last_kept - 1].first : 1.0;
        for (index_t k = 0; k < width; ++k)
          margin(i, order[static_cast<std::size_t>(at + k)]) = gap / std::max(-gain[0].first, 1e-300);
      }
    }
    for (index_t i = 0; i < w.rows(); ++i) {
      double const x = w(i, j);
      double const q = kept[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] ? rounded(i, j, x) : 0.0;
      if (codes && codes->scale_at(i, j) > 0.0f) {
        double const level = x / static_cast<double>(codes->scale_at(i, j));
        margin(i, j) = std::min(margin(i, j), std::abs(level - std::floor(level) - 0.5));
      }
      double const error = (x - q) / inverse(j, j);
      for (index_t later = at + 1; later < d; ++later) {
        index_t const c = order[static_cast<std::size_t>(later)];
        w(i, c) -= error * inverse(j, c);
      }
      w(i, j) = q;
    }
    inverse -= inverse.col(j) * inverse.row(j) / inverse(j, j);
  }
  return {std::move(w), std::move(margin)};
}

double loss(square const& w, square const& q, square const& h) { return ((w - q) * h * (w - q).transpose()).trace(); }

std::vector<index_t> identity(index_t n) {
  std::vector<index_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), index_t{0});
  return order;
}

struct sweep_case {
  index_t rows, cols;
  scale_block block;
  int bits;
  bool symmetric;
};

uniform_grid grid_of(sweep_case const& c) { return {.bits = c.bits, .block = c.block, .symmetric = c.symmetric}; }

integer_codes fitted(matrix<float> const& w, sweep_case const& c) {
  integer_codes codes = grid_of(c).empty(c.rows, c.cols);
  grid_of(c).fit(codes, w.view());
  return codes;
}

} // namespace

TEST_CASE("the feedback factor is upper triangular and U^T U is the inverse of H") {
  index_t const n = GENERATE(0, 1, 2, 5, 127, 128, 129, 300);
  matrix<float> const h = n == 0 ? matrix<float>(0, 0) : correlated_hessian(n, 7);
  auto const found = factor_for_feedback(h.view());
  CHECK(found.damping == 0.0);
  square const u = to_eigen(found.upper.view());
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < i; ++j) REQUIRE(u(i, j) == 0.0);
  if (n > 0)
    CHECK((u.transpose() * u * to_eigen(h.view()) - square::Identity(n, n)).norm() < 2e-4 * std::sqrt(static_cast<double>(n)));
}

TEST_CASE("a Hessian that is not positive definite is damped until it is, and the factor says so; NaN throws") {
  matrix<float> h(6, 6);
  for (index_t i = 0; i < 6; ++i)
    for (index_t j = 0; j < 6; ++j) h(i, j) = i == j ? 1.0f : 1.001f;
  auto const found = factor_for_feedback(h.view());
  CHECK(found.damping > 0.0);
  CHECK(found.damping <= 0.1);
  h(2, 2) = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(factor_for_feedback(h.view()), nonfinite_error);
  CHECK_THROWS_AS(factor_for_feedback(matrix<float>(2, 3).view()), shape_error);
}

TEST_CASE("the down-dated Hessian is the least error over all multiples of the directions") {
  index_t const n = GENERATE(3, 40, 150), r = GENERATE(0, 1, 3);
  matrix<float> const h = correlated_hessian(n, 11);
  matrix<float> p = normal_matrix(n, r, 12);
  if (r == 3) // dependent directions, very different lengths
    for (index_t j = 0; j < n; ++j) {
      p(j, 2) = 2 * p(j, 0) - p(j, 1);
      p(j, 1) *= 1e4f;
    }
  square const hd = to_eigen(h.view());
  square expected = hd;
  if (r > 0) {
    square const q = to_eigen(p.view()).leftCols(std::min<index_t>(r, 2));
    expected -= hd * q * (q.transpose() * hd * q).inverse() * q.transpose() * hd;
  }
  square const found = to_eigen(without_directions(h.view(), p.view()).view());
  CHECK((found - expected).norm() <= 2e-4 * hd.norm());
}

TEST_CASE("error feedback picks the codes of the unblocked float64 version and loses the same, but for ties") {
  auto const c = GENERATE(sweep_case{37, 150, per_channel, 4, true}, sweep_case{17, 300, per_group(32), 3, false},
                          sweep_case{100, 64, per_tensor, 4, true}, sweep_case{1, 9, per_channel, 2, true},
                          sweep_case{20, 131, per_group(128), 4, false});
  index_t const m = GENERATE(0, 4, 3, 8);
  bool const act_order = GENERATE(false, true);
  index_t const n = m / 2;
  matrix<float> const h = correlated_hessian(c.cols, 21), w = normal_matrix(c.rows, c.cols, 22, 0.02f);
  integer_codes codes = fitted(w, c);
  auto const order = act_order ? slim::detail::activation_order(h.view(), std::max<index_t>(m, 1)) : identity(c.cols);
  std::vector<std::vector<bool>> kept(static_cast<std::size_t>(c.rows),
                                      std::vector<bool>(static_cast<std::size_t>(c.cols), true));
  reference_result const reference = reference_feedback(to_eigen(w.view()), to_eigen(h.view()), &codes, order, n, m, kept);
  square const &expected = reference.weights, &margin = reference.margin;

  matrix<float> found = w;
  mask chosen(c.rows, c.cols, {n, m});
  auto const factor = factor_for_feedback(slim::detail::permuted(h.view(), order).view());
  feedback_options options{.choose = {n, m}};
  if (act_order) options.order = order;
  feed_back(found.view(), factor.upper.view(), grid_of(c), codes, m > 0 ? &chosen : nullptr, options);

  square const q = to_eigen(found.view()), hd = to_eigen(h.view()), original = to_eigen(w.view());
  // A float and a double may break a tie differently, and the rest of that row then follows another path.
  index_t parted = 0;
  for (index_t i = 0; i < c.rows; ++i) {
    auto const differs = [&](index_t j) { return std::abs(q(i, j) - expected(i, j)) > 1e-6; };
    auto const first = std::find_if(order.begin(), order.end(), differs);
    if (first == order.end()) {
      REQUIRE(loss(original.row(i), q.row(i), hd) == Approx(loss(original.row(i), expected.row(i), hd)).epsilon(1e-4));
    } else {
      REQUIRE(margin(i, *first) < 2e-3);
      ++parted;
    }
  }
  CHECK(5 * parted <= c.rows);
  for (index_t i = 0; i < c.rows; ++i)
    for (index_t j = 0; j < c.cols; ++j) REQUIRE(codes.value(i, j) == found(i, j));
}

TEST_CASE("pruning alone with feedback is SparseGPT: the unblocked float64 loss to 1e-4") {
  index_t const rows = 23, cols = 140;
  matrix<float> const h = correlated_hessian(cols, 31), w = normal_matrix(rows, cols, 32);
  std::vector<std::vector<bool>> kept(rows, std::vector<bool>(cols, true));
  square const expected =
      reference_feedback(to_eigen(w.view()), to_eigen(h.view()), nullptr, identity(cols), 2, 4, kept).weights;
  matrix<float> found = w;
  mask chosen(rows, cols, {2, 4});
  feed_back(found.view(), factor_for_feedback(h.view()).upper.view(), chosen, {.choose = {2, 4}});
  square const hd = to_eigen(h.view()), original = to_eigen(w.view());
  CHECK(loss(original, to_eigen(found.view()), hd) == Approx(loss(original, expected, hd)).epsilon(1e-4));
  index_t different = 0;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j)
      different += chosen.kept(i, j) != kept[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)];
  CHECK(different == 0);
}

TEST_CASE("a share pruned on the way leaves the least harmful of every block of every row") {
  index_t const rows = 5, cols = 200;
  matrix<float> const h = correlated_hessian(cols, 41), w = normal_matrix(rows, cols, 42);
  matrix<float> found = w;
  mask chosen(rows, cols);
  auto const u = factor_for_feedback(h.view()).upper;
  feed_back(found.view(), u.view(), chosen, {.prune_share = 0.25});
  for (index_t i = 0; i < rows; ++i) {
    index_t first = 0, second = 0;
    for (index_t j = 0; j < cols; ++j) (j < 128 ? first : second) += chosen.kept(i, j);
    CHECK(first == 96);
    CHECK(second == 54);
    float worst_kept = 1e30f, best_pruned = 0; // the first block is judged on W itself
    for (index_t j = 0; j < 128; ++j) {
      float const harm = std::abs(w(i, j) / u(j, j));
      if (chosen.kept(i, j))
        worst_kept = std::min(worst_kept, harm);
      else
        best_pruned = std::max(best_pruned, harm);
    }
    CHECK(best_pruned <= worst_kept);
  }
}

TEST_CASE("every instruction set and executor gives the sweep the same result, lanes of ragged tiles included") {
  index_t const rows = GENERATE(1, 15, 16, 17, 113);
  sweep_case const c{rows, 70, per_group(32), 4, true};
  matrix<float> const h = correlated_hessian(70, 51), w = normal_matrix(rows, 70, 52);
  auto const u = factor_for_feedback(h.view()).upper;
  auto const run = [&](context const& ctx) {
    integer_codes codes = fitted(w, c);
    mask kept(rows, 70, {2, 4});
    matrix<float> values = w;
    feed_back(values.view(), u.view(), grid_of(c), codes, &kept, {.choose = {2, 4}}, ctx);
    return std::pair(values, kept);
  };
  auto const serial = run(on(serial_executor{}));
  CHECK(same_bits(serial.first, run(on(thread_team_executor{})).first));
  CHECK(same_bits(serial.first, run(on(backwards_executor{})).first));
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < 68; j += 4) {
      int count = 0;
      for (index_t k = 0; k < 4; ++k) count += serial.second.kept(i, j + k);
      REQUIRE(count == 2);
    }
  context scalar;
  scalar.simd = simd_level::scalar; // sums in another order: the loss agrees, single codes need not
  square const original = to_eigen(w.view()), hd = to_eigen(h.view());
  CHECK(loss(original, to_eigen(run(scalar).first.view()), hd) ==
        Approx(loss(original, to_eigen(serial.first.view()), hd)).epsilon(0.02));
}

TEST_CASE("descent on single groups of 2:4 finds what trying everything finds, when columns hardly interact") {
  index_t const rows = 40;
  matrix<float> h(4, 4);
  for (index_t i = 0; i < 4; ++i)
    for (index_t j = 0; j < 4; ++j) h(i, j) = i == j ? 1.0f + 0.5f * static_cast<float>(i) : 0.02f;
  matrix<float> const v = normal_matrix(rows, 4, 61);
  integer_codes codes(rows, 4, 3, per_channel, number_format::fp32);
  mask kept(rows, 4, {2, 4});
  for (index_t i = 0; i < rows; ++i) {
    codes.scales(i, 0) = 0.4f;
    kept.keep(i, 0);
    kept.keep(i, 3);
  }
  matrix<float> gradient(rows, 4);
  gemm_into(v.view(), h.view(), gradient.view());
  descend_codes(gradient.view(), h.view(), uniform_grid{.bits = 3, .block = per_channel}, codes, &kept);
  auto const energy = [&](index_t i, double const* s) {
    double sum = 0;
    for (index_t a = 0; a < 4; ++a)
      for (index_t b = 0; b < 4; ++b)
        sum += (static_cast<double>(v(i, a)) - s[a]) * static_cast<double>(h(a, b)) * (static_cast<double>(v(i, b)) - s[b]);
    return sum;
  };
  for (index_t i = 0; i < rows; ++i) {
    double best = 1e30;
    for (int a = 0; a < 4; ++a)
      for (int b = a + 1; b < 4; ++b)
        for (int ca = -4; ca < 4; ++ca)
          for (int cb = -4; cb < 4; ++cb) {
            double s[4] = {};
            s[a] = static_cast<double>(0.4f) * ca;
            s[b] = static_cast<double>(0.4f) * cb;
            best = std::min(best, energy(i, s));
          }
    double const found[4] = {static_cast<double>(codes.value(i, 0)), static_cast<double>(codes.value(i, 1)),
                             static_cast<double>(codes.value(i, 2)), static_cast<double>(codes.value(i, 3))};
    CHECK(energy(i, found) <= best * (1 + 1e-5) + 1e-9);
    CHECK(kept.kept(i, 0) + kept.kept(i, 1) + kept.kept(i, 2) + kept.kept(i, 3) == 2);
  }
}

TEST_CASE("descent never raises the loss, and returns the gradient of where it ended") {
  index_t const m = GENERATE(0, 4, 8); // 8: the mask stays
  index_t const rows = 50, cols = 150;
  matrix<float> const h = correlated_hessian(cols, 71), w = normal_matrix(rows, cols, 72);
  sweep_case const c{rows, cols, per_group(32), 4, false};
  integer_codes codes = fitted(w, c);
  mask kept(rows, cols, {m / 2, m});
  matrix<float> values = w;
  feed_back(values.view(), factor_for_feedback(h.view()).upper.view(), grid_of(c), codes, m > 0 ? &kept : nullptr,
            {.choose = {m / 2, m}});
  square const original = to_eigen(w.view()), hd = to_eigen(h.view());
  double before = loss(original, to_eigen(values.view()), hd);
  for (int sweep = 0; sweep < 3; ++sweep) {
    matrix<float> rest = w, gradient(rows, cols);
    for (index_t k = 0; k < rest.size(); ++k) rest.data()[k] -= values.data()[k];
    gemm_into(rest.view(), h.view(), gradient.view());
    descend_codes(gradient.view(), h.view(), grid_of(c), codes, m > 0 ? &kept : nullptr);
    codes.dequantize_into(values.view());
    double const now = loss(original, to_eigen(values.view()), hd);
    CHECK(now <= before * (1 + 1e-6));
    if (sweep == 0) CHECK(now < 0.99 * before);
    before = now;
    square const expected = (original - to_eigen(values.view())) * hd;
    CHECK((to_eigen(gradient.view()) - expected).norm() <= 1e-4 * (original * hd).norm());
  }
}

TEST_CASE("fitted scales are the best of their candidates, by trying all in double") {
  bool const symmetric = GENERATE(true, false);
  sweep_case const c{19, 70, per_group(32), 3, symmetric};
  matrix<float> const w = normal_matrix(c.rows, c.cols, 81);
  integer_codes const codes = fitted(w, c);
  auto const fractions = scale_fractions(scale_rule::least_error, symmetric);
  double const top = symmetric ? codes.highest() : codes.highest() - codes.lowest();
  for (index_t i = 0; i < c.rows; ++i)
    for (index_t g = 0; g < 3; ++g) {
      index_t const first = 32 * g, last = std::min<index_t>(70, first + 32);
      double low = 0, high = 0;
      for (index_t j = first; j < last; ++j) {
        low = std::min(low, static_cast<double>(w(i, j)));
        high = std::max(high, static_cast<double>(w(i, j)));
      }
      auto const error = [&](double step, double zero) {
        double sum = 0;
        for (index_t j = first; j < last; ++j) {
          double const x = static_cast<double>(w(i, j));
          double const level = symmetric ? std::clamp(std::nearbyint(x / step), -top - 1, top)
                                         : std::clamp(std::nearbyint(x / step), -zero, top - zero);
          sum += (x - level * step) * (x - level * step);
        }
        return sum;
      };
      double best = 1e30;
      for (float const f : fractions) {
        double const step = (symmetric ? std::max(-low, high) : high - low) * static_cast<double>(f) / top;
        best = std::min(best, error(step, std::clamp(std::nearbyint(-low * static_cast<double>(f) / step), 0.0, top)));
      }
      double const zero = symmetric ? 0.0 : codes.zeros(i, g) - codes.lowest();
      CHECK(error(static_cast<double>(codes.scales(i, g)), zero) <= best * 1.01);
    }
}

TEST_CASE("refitted scales are the closed-form optimum for one scale, and never raise the loss for many") {
  scale_block const block = GENERATE(scale_block(per_tensor), per_channel, per_group(32), per_group(128));
  index_t const rows = 21, cols = 150;
  matrix<float> const h = correlated_hessian(cols, 91), w = normal_matrix(rows, cols, 92);
  uniform_grid const grid{.bits = 4, .block = block, .scale_format = number_format::fp32};
  integer_codes codes = grid.empty(rows, cols);
  grid.fit(codes, w.view());
  codes.encode(w.view());
  for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] *= 1.1f; // away from the optimum
  square const original = to_eigen(w.view()), hd = to_eigen(h.view());
  auto const values = [&] {
    matrix<float> out(rows, cols);
    codes.dequantize_into(out.view());
    return to_eigen(out.view());
  };
  double const before = loss(original, values(), hd);
  square const start = values();
  slim::sparse_codes<slim::none, integer_codes> p{{}, codes};
  matrix<float> gradient = slim::error_gradient(w.view(), p, h.view());
  grid.refit(codes, nullptr, gradient.view(), h.view());
  double const after = loss(original, values(), hd);
  CHECK(after < before);
  if (block == per_tensor) {
    double const factor = (start * hd * original.transpose()).trace() / (start * hd * start.transpose()).trace();
    CHECK(after == Approx(loss(original, factor * start, hd)).epsilon(1e-5));
  }
}

TEST_CASE("a sweep refuses shapes that disagree and options that cannot be met") {
  index_t const rows = 3, cols = 600;
  matrix<float> w = normal_matrix(rows, cols, 1);
  matrix<float> unit(cols, cols);
  for (index_t j = 0; j < cols; ++j) unit(j, j) = 1.0f;
  uniform_grid const grid{.bits = 4, .block = per_group(520)};
  integer_codes codes = grid.empty(rows, cols), fewer = grid.empty(rows, 8);
  mask kept(rows, cols), narrow(rows, 8);
  std::vector<index_t> const order = {0, 1};
  auto const rounds = [&](integer_codes& c, mask* k, feedback_options const& options) {
    feed_back(w.view(), unit.view(), grid, c, k, options);
  };
  auto const prunes = [&](mask& k, feedback_options const& options) { feed_back(w.view(), unit.view(), k, options); };
  CHECK_THROWS_AS(prunes(narrow, {}), shape_error);
  CHECK_THROWS_AS(rounds(codes, nullptr, {.order = order}), shape_error);
  CHECK_THROWS_AS(rounds(fewer, nullptr, {}), shape_error);
  CHECK_THROWS_AS(rounds(codes, nullptr, {.choose = {2, 4}}), config_error);
  CHECK_THROWS_AS(prunes(kept, {.choose = {64, 128}}), config_error);
  CHECK_THROWS_AS(prunes(kept, {.prune_share = 1.5}), config_error);
  CHECK_THROWS_AS(prunes(kept, {.refit_groups = true}), config_error);           // no grid
  CHECK_THROWS_AS(rounds(codes, nullptr, {.refit_groups = true}), config_error); // groups too wide
  CHECK_THROWS_AS(rounds(codes, nullptr, {.outlier_threshold = -1.0f}), config_error);
}

TEST_CASE("scales refitted on the way are those of the weights as they are when the sweep arrives") {
  index_t const rows = 20, cols = 96;
  matrix<float> const h = correlated_hessian(cols, 101), w = normal_matrix(rows, cols, 102);
  auto const u = factor_for_feedback(h.view()).upper;
  uniform_grid const grid{.bits = 4, .block = per_group(32), .rule = scale_rule::absmax};
  integer_codes codes = grid.empty(rows, cols);
  grid.fit(codes, w.view());
  matrix<float> found = w;
  feed_back(found.view(), u.view(), grid, codes, nullptr, {.refit_groups = true});
  // Column by column in double; a group's step is its largest weight / 7, taken when its first column is reached.
  for (index_t i = 0; i < rows; ++i) {
    std::vector<double> x(cols);
    for (index_t j = 0; j < cols; ++j) x[static_cast<std::size_t>(j)] = static_cast<double>(w(i, j));
    double step = 0;
    for (index_t j = 0; j < cols; ++j) {
      if (j % 32 == 0) {
        double largest = 0;
        for (index_t k = j; k < j + 32; ++k) largest = std::max(largest, std::abs(x[static_cast<std::size_t>(k)]));
        step = largest / 7;
        REQUIRE(static_cast<double>(codes.scales(i, j / 32)) == Approx(step).epsilon(2e-3)); // fp16
        step = static_cast<double>(codes.scales(i, j / 32));
      }
      double const error = (x[static_cast<std::size_t>(j)] - static_cast<double>(found(i, j))) / static_cast<double>(u(j, j));
      double const level = x[static_cast<std::size_t>(j)] / step;
      if (std::abs(level - std::floor(level) - 0.5) > 1e-3) // no tie to float rounding
        REQUIRE(static_cast<double>(found(i, j)) == Approx(step * std::clamp(std::nearbyint(level), -8.0, 7.0)).margin(1e-5));
      for (index_t k = j + 1; k < cols; ++k) x[static_cast<std::size_t>(k)] -= error * static_cast<double>(u(j, k));
    }
  }
}

TEST_CASE("groups may have bits of their own, and outliers may stay unrounded: as the unblocked float64 version has it") {
  index_t const rows = 31, cols = 200;
  matrix<float> const h = correlated_hessian(cols, 111);
  matrix<float> w = normal_matrix(rows, cols, 112);
  uniform_grid const grid{.bits = 4, .block = per_group(40)};
  integer_codes codes = fitted(w, {rows, cols, per_group(40), 4, true});
  std::vector<std::uint8_t> const bits = {4, 2, 3, 4, 1};
  codes.group_bits = bits;
  for (index_t i = 0; i < rows; ++i)
    for (index_t g = 0; g < 5; ++g)
      codes.scales(i, g) *= std::exp2f(0.5f * static_cast<float>(4 - bits[static_cast<std::size_t>(g)]));
  mask outliers(rows, cols);
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) outliers.keep(i, j, std::abs(w(i, j)) > 2.0f);
  std::vector<std::vector<bool>> kept(rows, std::vector<bool>(cols, true));
  auto const [expected, margin] =
      reference_feedback(to_eigen(w.view()), to_eigen(h.view()), &codes, identity(cols), 0, 0, kept, &outliers);
  matrix<float> found = w;
  feed_back(found.view(), factor_for_feedback(h.view()).upper.view(), grid, codes, nullptr, {.unrounded = &outliers});
  index_t parted = 0;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < cols; ++j) {
      if (std::abs(static_cast<double>(found(i, j)) - expected(i, j)) > 1e-4) {
        REQUIRE(margin(i, j) < 2e-3);
        ++parted;
        break;
      }
      int const spread = 1 << (bits[static_cast<std::size_t>(j / 40)] - 1);
      REQUIRE(codes.codes(i, j) >= -spread);
      REQUIRE(codes.codes(i, j) < spread);
    }
  CHECK(5 * parted <= rows);

  std::vector<std::uint8_t> const few = {4}, wide = {4, 4, 5, 4, 4};
  auto const u = factor_for_feedback(h.view()).upper;
  auto const run = [&](feedback_options const& options, mask* chosen = nullptr) {
    feed_back(w.view(), u.view(), grid, codes, chosen, options);
  };
  CHECK_THROWS_AS((uniform_grid{.bits = 4, .block = per_group(40), .group_bits = few}.empty(rows, cols)), shape_error);
  CHECK_THROWS_AS((uniform_grid{.bits = 4, .block = per_group(40), .group_bits = wide}.empty(rows, cols)), config_error);
  mask chosen(rows, cols), narrow(rows, 3);
  CHECK_THROWS_AS(run({.choose = {2, 4}, .unrounded = &outliers}, &chosen), config_error);
  CHECK_THROWS_AS(run({.unrounded = &narrow}), shape_error);
}

TEST_CASE("scales refitted on the way to groups of fewer bits reach the largest weight with the codes they have") {
  index_t const rows = 7, cols = 64;
  matrix<float> unit(cols, cols);
  for (index_t j = 0; j < cols; ++j) unit(j, j) = 1.0f; // nothing spreads
  matrix<float> const w = normal_matrix(rows, cols, 121);
  std::vector<std::uint8_t> const bits = {4, 2};
  bool const symmetric = GENERATE(true, false);
  uniform_grid const grid{
      .bits = 4, .block = per_group(32), .symmetric = symmetric, .rule = scale_rule::absmax, .group_bits = bits};
  integer_codes codes = grid.empty(rows, cols);
  grid.fit(codes, w.view());
  matrix<float> found = w;
  feed_back(found.view(), unit.view(), grid, codes, nullptr, {.refit_groups = true});
  for (index_t i = 0; i < rows; ++i)
    for (index_t g = 0; g < 2; ++g) {
      auto const part = w.view().block(i, 32 * g, 1, 32);
      float low = 0, high = 0;
      for (index_t j = 0; j < 32; ++j) {
        low = std::min(low, part(0, j));
        high = std::max(high, part(0, j));
      }
      int const levels = 1 << bits[static_cast<std::size_t>(g)];
      float const expected =
          symmetric ? std::max(-low, high) / static_cast<float>(levels / 2 - 1) : (high - low) / static_cast<float>(levels - 1);
      REQUIRE(codes.scales(i, g) == Approx(expected).epsilon(2e-3));
      for (index_t j = 32 * g; j < 32 * (g + 1); ++j)
        REQUIRE(std::abs(found(i, j) - w(i, j)) <=
                0.5f * codes.scales(i, g) * 1.01f + (symmetric ? 0.0f : 0.5f * codes.scales(i, g)));
    }
}
