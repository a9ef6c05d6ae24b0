// 2:4 choice at every instruction set against sorting.
#include "slim/pruning/nm_pruner.hpp"

#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "support/simd_levels.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;
using slim_test::at;
using slim_test::simd_levels;

namespace {

/// Whatever it is given: the scores themselves.
struct given {
  matrix<float> const* scores;
  auto prepare(matrix_view<float const>, calibration const&, context const&) const {
    return [all = scores](index_t i, index_t j) { return (*all)(i, j); };
  }
  [[nodiscard]] std::string describe() const { return "given"; }
};

/// Few different values, so that groups are full of ties, and all that floats have to offer.
matrix<float> hard_scores(index_t rows, index_t cols, std::uint64_t seed) {
  constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  float const odd[] = {nan, -nan, infinity, -infinity, 0.0f, -0.0f, 1e-42f, -1e-42f, 1.0f, -1.0f, 1.0f, 2.0f, 3e38f, -3e38f};
  matrix<float> m(rows, cols);
  for (index_t k = 0; k < m.size(); ++k) m.data()[k] = odd[random_bits(seed, static_cast<std::uint64_t>(k)) % 14];
  return m;
}

/// By sorting pairs of score and column; NaN counts as -infinity.
mask sorted_choice(matrix<float> const& scores, index_t n, index_t m) {
  mask kept(scores.rows(), scores.cols(), {n, m});
  for (index_t i = 0; i < scores.rows(); ++i)
    for (index_t first = 0; first < scores.cols(); first += m) {
      std::vector<std::pair<double, index_t>> group;
      for (index_t j = first; j < std::min(first + m, scores.cols()); ++j) {
        auto const s = static_cast<double>(scores(i, j));
        group.emplace_back(std::isnan(s) ? std::numeric_limits<double>::infinity() : -s, j);
      }
      std::sort(group.begin(), group.end());
      for (index_t k = 0; k < (static_cast<index_t>(group.size()) * n + m - 1) / m; ++k)
        kept.keep(i, group[static_cast<std::size_t>(k)].second);
    }
  return kept;
}

} // namespace

TEST_CASE("2:4 keeps what sorting keeps at every level: ties, NaN, zeros of both signs, infinities, any width") {
  thread_team_executor const team;
  for (index_t const cols : {0, 1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 19, 20, 31, 36, 64, 66, 1023, 1024, 1030, 2050}) {
    matrix<float> const scores = hard_scores(21, cols, 5), w = normal_matrix(21, cols, 6);
    mask const expected = sorted_choice(scores, 2, 4);
    for (simd_level const level : simd_levels()) {
      INFO(cols << " columns, level " << static_cast<int>(level));
      CHECK(nm_pruner<2, 4>(given{&scores}).select(w.view(), calibration(cols), at(level)) == expected);
      CHECK(nm_pruner<2, 4>(given{&scores}).select(w.view(), calibration(cols), on(team, at(level))) == expected);
    }
  }
}

TEST_CASE("other patterns keep what sorting keeps, across panels too") {
  matrix<float> const scores = hard_scores(3, 2100, 7);
  matrix<float> const w = normal_matrix(3, 2100, 8);
  CHECK(nm_pruner<1, 4>(given{&scores}).select(w.view(), calibration(2100)) == sorted_choice(scores, 1, 4));
  CHECK(nm_pruner<3, 7>(given{&scores}).select(w.view(), calibration(2100)) == sorted_choice(scores, 3, 7));
  CHECK(nm_pruner<30, 64>(given{&scores}).select(w.view(), calibration(2100)) == sorted_choice(scores, 30, 64));
}

TEST_CASE("gathered are the two kept of every four, in order, with their places, and nothing is written behind them") {
  for (simd_level const level : simd_levels())
    for (index_t const cols : {0, 4, 8, 12, 16, 20, 60, 64, 68, 1028})
      for (bool const by_factors : {false, true}) {
        matrix<float> const w = hard_scores(1, cols, 10), factors = normal_matrix(1, cols, 11);
        matrix<float> scores = hard_scores(1, cols, 9);
        if (by_factors)
          for (index_t j = 0; j < cols; ++j) scores(0, j) = std::abs(w(0, j)) * factors(0, j);
        mask const expected = sorted_choice(scores, 2, 4);
        std::vector<float> kept(static_cast<std::size_t>(cols / 2) + 1, 77.0f);
        std::vector<std::uint8_t> places(static_cast<std::size_t>(cols / 2) + 1, 99);
        slim::detail::selection_kernels_of(level).gather_two_of_four(w.data(), by_factors ? nullptr : scores.data(),
                                                                     by_factors ? factors.data() : nullptr, cols, kept.data(),
                                                                     places.data());
        std::size_t slot = 0;
        for (index_t j = 0; j < cols; ++j)
          if (expected.kept(0, j)) {
            REQUIRE(std::bit_cast<std::uint32_t>(kept[slot]) == std::bit_cast<std::uint32_t>(w(0, j)));
            REQUIRE(int{places[slot]} == (j % 4 << 4 | 8));
            ++slot;
          }
        REQUIRE(slot == static_cast<std::size_t>(cols / 2));
        REQUIRE((kept.back() == 77.0f && places.back() == 99));
      }
}
