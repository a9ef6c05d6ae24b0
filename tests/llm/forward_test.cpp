#include "models/forward.hpp"

#include "llm/random_model.hpp"
#include "models/attention.hpp"
#include "models/elementwise.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <limits>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

/// Largest difference between rows of two matrices, relative to the largest entry of b.
double relative_difference(matrix_view<float const> a, matrix_view<float const> b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  double difference = 0, largest = 0;
  for (index_t i = 0; i < a.rows(); ++i)
    for (index_t j = 0; j < a.cols(); ++j) {
      difference = std::max(difference, std::abs(double(a(i, j)) - double(b(i, j))));
      largest = std::max(largest, std::abs(double(b(i, j))));
    }
  return difference / largest;
}

} // namespace

TEST_CASE("exponentials, maxima and SiLU of every instruction set agree with float64, at every length around the lanes") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (slim::simd_level level : {slim::simd_level::scalar, slim::simd_level::avx2, slim::simd_level::avx512}) {
    if (level > slim::best_simd_level()) continue;
    double worst = 0;
    for (double x = -87; x <= 88; x += 0.0137) {
      float e = float(x);
      exp_inplace(&e, 1, 0.0f, 1.0f, level);
      worst = std::max(worst, std::abs(double(e) / std::exp(double(float(x))) - 1));
    }
    CHECK(worst < 3e-7);
    for (index_t n = 1; n < 70; ++n) {
      auto const x = random_matrix(1, n, 77);
      auto e = x, u = random_matrix(1, n, 78);
      auto const up = u;
      CHECK(max_of(x.data(), n, level) == *std::max_element(x.data(), x.data() + n));
      float const sum = exp_inplace(e.data(), n, 0.5f, 0.7f, level);
      multiply_by_silu(u.data(), x.data(), n, level);
      double want_sum = 0;
      for (index_t j = 0; j < n; ++j) {
        double const y = std::exp((double(x(0, j)) - 0.5) * double(0.7f));
        want_sum += y;
        CHECK(double(e(0, j)) == Approx(y).epsilon(1e-6));
        CHECK(double(u(0, j)) == Approx(double(up(0, j)) * double(x(0, j)) / (1 + std::exp(-double(x(0, j))))).epsilon(2e-6));
      }
      CHECK(double(sum) == Approx(want_sum).epsilon(1e-6));
    }
    std::vector<float> odd = {-infinity, infinity, -1e30f, 1e30f, std::numeric_limits<float>::quiet_NaN(), 0.0f};
    exp_inplace(odd.data(), 6, 0.0f, 1.0f, level);
    CHECK(odd[0] == odd[2]);
    CHECK((odd[0] > 0 && odd[0] < 1e-37f));
    CHECK(odd[1] == odd[3]);
    CHECK((odd[1] > 1e38f && odd[1] < infinity));
    CHECK(std::isnan(odd[4]));
    CHECK(odd[5] == 1.0f);
  }
}

TEST_CASE("sums in lanes agree with plain loops for every length around the number of lanes") {
  for (index_t n = 0; n < 70; ++n) {
    auto const x = random_matrix(1, n, 77);
    double sum = 0, squares = 0;
    for (index_t j = 0; j < n; ++j) {
      sum += double(x(0, j));
      squares += (double(x(0, j)) - 0.5) * (double(x(0, j)) - 0.5);
    }
    CHECK(sum_of(x.data(), n) == Approx(sum).margin(1e-12));
    CHECK(sum_of_squares(x.data(), n, 0.5) == Approx(squares).margin(1e-12));
  }
}

TEST_CASE("attention over a cache agrees with float64, in either format, on every instruction set, around blocks and spans") {
  constexpr index_t kv_heads = 2, shared = 3, heads = kv_heads * shared;
  struct shape {
    index_t dim, before, tokens, reach;
    float soft_cap;
  };
  for (slim::simd_level level : {slim::simd_level::scalar, slim::simd_level::avx2, slim::simd_level::avx512}) {
    if (level > slim::best_simd_level()) continue;
    for (slim::number_format const format : {slim::number_format::fp32, slim::number_format::fp16})
      for (shape const& s :
           {shape{4, 0, 1, 0, 0}, shape{64, 62, 1, 0, 0}, shape{4, 63, 2, 0, 0}, shape{80, 64, 1, 0, 0}, shape{4, 255, 3, 0, 5},
            shape{4, 500, 50, 0, 0}, shape{64, 240, 40, 7, 0}, shape{4, 590, 1, 300, 0}}) {
        index_t const dim = s.dim, all = s.before + s.tokens;
        auto const k = random_matrix(all, kv_heads * dim, 1, 0.3), v = random_matrix(all, kv_heads * dim, 2);
        auto const q = random_matrix(s.tokens, heads * dim, 3, 4.0 / std::sqrt(double(dim)));
        context ctx;
        ctx.simd = level;
        attention_cache cache(all, kv_heads, dim, format);
        index_t const first_piece = all / 3; // put in two pieces
        cache.put(0, k.view().middle_rows(0, first_piece), v.view().middle_rows(0, first_piece), ctx);
        cache.put(first_piece, k.view().middle_rows(first_piece, all - first_piece),
                  v.view().middle_rows(first_piece, all - first_piece), ctx);
        attention_rule const rule{s.reach, 0.5f, s.soft_cap};
        slim::matrix<float> out(s.tokens, heads * dim), alone(1, heads * dim);
        grown_text const text{&cache, s.tokens, s.before}, last{&cache, 1, all - 1};
        attend(q, heads, kv_heads, {&text, 1}, rule, out, ctx);
        attend(q.view().middle_rows(s.tokens - 1, 1), heads, kv_heads, {&last, 1}, rule, alone, ctx);
        CAPTURE(dim, s.before, s.tokens, s.reach, static_cast<int>(level), static_cast<int>(format));
        CHECK(std::equal(alone.data(), alone.data() + heads * dim, out.row(s.tokens - 1)));
        double worst = 0;
        for (index_t t = 0; t < s.tokens; ++t)
          for (index_t h = 0; h < heads; ++h) {
            std::vector<double> mixed(std::size_t(dim), 0.0);
            double sum = 0;
            index_t const kv = h / shared * dim, at = s.before + t;
            for (index_t p = s.reach > 0 ? std::max<index_t>(0, at - s.reach + 1) : 0; p <= at; ++p) {
              double score = 0;
              for (index_t d = 0; d < dim; ++d)
                score += double(q(t, h * dim + d)) * double(slim::rounded_to(format, k(p, kv + d)));
              score *= 0.5;
              if (s.soft_cap > 0) score = double(s.soft_cap) * std::tanh(score / double(s.soft_cap));
              double const weight = std::exp(score);
              sum += weight;
              for (index_t d = 0; d < dim; ++d)
                mixed[std::size_t(d)] += weight * double(slim::rounded_to(format, v(p, kv + d)));
            }
            for (index_t d = 0; d < dim; ++d)
              worst = std::max(worst, std::abs(double(out(t, h * dim + d)) - mixed[std::size_t(d)] / sum));
          }
        CHECK(worst < 1e-5);
      }
  }
}

TEST_CASE("keys and values that fp16 does not hold are refused by position") {
  slim::matrix<float> k(3, 8), v(3, 8);
  v(1, 7) = 65519.0f; // the largest number that is rounded to a finite one
  attention_cache cache(20, 2, 4, slim::number_format::fp16);
  cache.put(5, k, v);
  for (float const beyond : {65520.0f, -1e30f, std::numeric_limits<float>::quiet_NaN()}) {
    k(2, 3) = beyond;
    CHECK_THROWS_WITH(cache.put(5, k, v),
                      Catch::Contains("at position 7 is NaN or beyond") && Catch::Contains("--kv-cache fp32"));
  }
  attention_cache(20, 2, 4, slim::number_format::fp32).put(5, k, v);
  CHECK_THROWS_AS(attention_cache(20, 2, 4, slim::number_format::bf16), slim::config_error);
}

TEST_CASE("logits are bit-identical for any number of threads") {
  auto const m = random_llama();
  auto const ids = random_tokens(3 * 150, m.config.vocab); // 150: two blocks of queries, the second one ragged
  slim::serial_executor const one;
  context ctx;
  ctx.where = one;
  auto const serial = all_logits(m, ids, 150, ctx);
  CHECK(all_logits(m, ids, 150) == serial);
#if defined(_OPENMP)
  for (int threads : {2, 3, 5}) {
    slim::openmp_executor const several{threads};
    ctx.where = several;
    CHECK(all_logits(m, ids, 150, ctx) == serial);
  }
#endif
}

TEST_CASE("a token changes nothing before itself and nothing in other windows") {
  auto const m = random_llama();
  auto ids = random_tokens(2 * 140, m.config.vocab);
  auto const before = all_logits(m, ids, 140);
  ids[135] = (ids[135] + 1) % 61;
  auto const after = all_logits(m, ids, 140);
  CHECK(relative_difference(after.view().middle_rows(0, 135), before.view().middle_rows(0, 135)) == 0.0);
  CHECK(relative_difference(after.view().middle_rows(140, 140), before.view().middle_rows(140, 140)) == 0.0);
  for (index_t t = 135; t < 140; ++t)
    CHECK(relative_difference(after.view().middle_rows(t, 1), before.view().middle_rows(t, 1)) > 1e-3);
}

TEST_CASE("adjacent-pair rotation of permuted rows equals rotate-half of the original rows") {
  auto half = random_llama(61, rope_style::rotate_half);
  auto pairs = random_llama(61, rope_style::adjacent_pairs);
  index_t const dim = half.config.head_dim;
  for (std::size_t n = 0; n < half.blocks.size(); ++n)
    for (char const* role : {"q", "k"}) {
      auto const& from = half.blocks[n][role].weight;
      auto& to = pairs.blocks[n][role].weight;
      for (index_t i = 0; i < from.rows(); ++i) { // gguf_row[h d + 2j + p] = hf_row[h d + p d/2 + j]
        index_t const h = i / dim, j = i % dim / 2, p = i % 2;
        std::copy_n(from.row(h * dim + p * dim / 2 + j), from.cols(), to.row(i));
      }
    }
  auto const ids = random_tokens(30, 61);
  CHECK(relative_difference(all_logits(pairs, ids, 30), all_logits(half, ids, 30)) < 1e-6);
}

TEST_CASE("run_block hands every stage the input that its linears multiply, and computes the same") {
  for (auto const& m : {random_llama(), random_opt()}) {
    auto const ids = random_tokens(20, m.config.vocab);
    forward_pass const pass(m, 10);
    auto plain = pass.embed(ids);
    auto observed = plain;
    pass.run_block(m.blocks[0], plain);
    std::vector<std::string> order;
    index_t weights = 0;
    pass.run_block(m.blocks[0], observed, [&](stage const& s, matrix_view<float const> x) {
      CHECK(x.rows() == 20);
      for (std::string const& role : s.linears) {
        CHECK(x.cols() == m.blocks[0][role].d_in());
        order.push_back(role);
        weights += m.blocks[0][role].weight.size();
      }
    });
    CHECK(order == linear_roles(m.config));
    CHECK(observed == plain);
    CHECK(2 * weights == linear_weight_count(m));
  }
}

TEST_CASE("a linear that the observer changes is used as changed") {
  auto m = random_llama();
  auto const ids = random_tokens(20, m.config.vocab);
  forward_pass const pass(m, 20);
  auto const start = pass.embed(ids);
  auto hidden = start;
  auto const erase = [&](stage const& s, matrix_view<float const>) {
    if (!s.ends_residual_branch()) return;
    linear& l = m.blocks[0][s.linears.front()];
    l.weight = matrix<float>(l.d_out(), l.d_in());
  };
  pass.run_block(m.blocks[0], hidden, erase);
  CHECK(hidden == start); // without o and down a block adds nothing
}

TEST_CASE("adapters stand for the weight (L R)^T") {
  auto plain = random_linear("w", 13, 24, 3);
  auto adapted = plain;
  adapted.L = random_matrix(24, 3, 8);
  adapted.R = random_matrix(3, 13, 9);
  adapted.bias = plain.bias = std::vector<float>(13, 0.25f);
  for (index_t i = 0; i < 13; ++i)
    for (index_t j = 0; j < 24; ++j)
      for (index_t k = 0; k < 3; ++k) plain.weight(i, j) += adapted.L(j, k) * adapted.R(k, i);
  auto const x = random_matrix(7, 24, 10);
  CHECK(relative_difference(apply(adapted, x), apply(plain, x)) < 1e-6);
  matrix<float> y(7, 13);
  apply_into(plain, x, y);
  apply_into(plain, x, y, slim::destination::add);
  auto const once = apply(plain, x);
  for (index_t k = 0; k < y.size(); ++k) CHECK(y.data()[k] == Approx(2 * once.data()[k]).margin(1e-5));
}

TEST_CASE("round_input rounds what is multiplied, not the caller's X") {
  auto l = random_linear("w", 5, 8, 3);
  l.L = random_matrix(8, 2, 8);
  l.R = random_matrix(2, 5, 9);
  auto const x = random_matrix(4, 8, 11);
  auto const copy = x;
  auto const round = [](matrix_view<float> m) {
    for (index_t i = 0; i < m.rows(); ++i)
      for (index_t j = 0; j < m.cols(); ++j) m(i, j) = std::round(m(i, j) * 2) / 2;
  };
  auto rounded = x;
  round(rounded);
  auto const want = apply(l, rounded);
  l.round_input = round;
  CHECK(apply(l, x) == want);
  CHECK(x == copy);
}

TEST_CASE("token_nll is the float64 cross entropy, with a vocabulary of more than one slab") {
  auto const m = random_llama(9001);
  auto const ids = random_tokens(12, m.config.vocab);
  auto const logits = all_logits(m, ids, 12);
  forward_pass const pass(m, 12);
  auto hidden = pass.embed(ids);
  for (block const& b : m.blocks) pass.run_block(b, hidden);
  std::vector<int> targets = random_tokens(12, 9001, 99);
  targets[0] = 0;
  targets[1] = 4095;
  targets[2] = 4096;
  targets[3] = 9000;
  auto const nll = pass.token_nll(pass.head_input(hidden), targets);
  for (index_t i = 0; i < 12; ++i) {
    double sum = 0;
    for (index_t j = 0; j < 9001; ++j) sum += std::exp(double(logits(i, j)));
    double const want = std::log(sum) - double(logits(i, targets[std::size_t(i)]));
    CHECK(nll[std::size_t(i)] == Approx(want).margin(2e-6)); // float exponentials: 3e-7 relative in the sum
  }
}

TEST_CASE("mistakes of the caller are refused with both numbers") {
  auto m = random_llama();
  CHECK_THROWS_AS(forward_pass(m, 0), slim::config_error);
  forward_pass const pass(m, 8);
  CHECK_THROWS_WITH(pass.embed(random_tokens(12, 61)), Catch::Contains("12") && Catch::Contains("8"));
  CHECK_THROWS_WITH(pass.embed(std::vector<int>(8, 61)), Catch::Contains("61"));
  CHECK_THROWS_AS(apply(m.blocks[0]["q"], random_matrix(2, 23, 1)), slim::shape_error);
}
