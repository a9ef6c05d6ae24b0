/// The search of SLiM's published code, against numbers made by a NumPy transcription of
/// slim/quantization/quantization.py @ ed72646 (find_optimal_quantiztion_cap, integrate=True), in float64.
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

/// Matrices that NumPy makes with the same arithmetic: a linear congruential generator, then a power (0: a heavy tail).
matrix<float> shared_matrix(index_t rows, index_t cols, std::uint32_t seed, int power) {
  matrix<float> m(rows, cols);
  std::uint32_t state = seed;
  for (index_t k = 0; k < m.size(); ++k) {
    state = state * 1664525u + 1013904223u;
    double const u = (static_cast<double>(state >> 8) + 0.5) / 16777216.0 * 2 - 1;
    double v = u;
    for (int p = 1; p < power; ++p) v *= std::abs(u);
    if (power == 0) v = u / (1.001 - std::abs(u));
    m.data()[k] = static_cast<float>(v);
  }
  return m;
}

} // namespace

TEST_CASE("reference search agrees with the published code") {
  struct golden {
    index_t rows, cols;
    std::uint32_t seed;
    int power, bits;
    double alpha;
  };
  static constexpr golden goldens[] = {
      {40, 50, 1, 1, 4, 0.938457296346},    {40, 50, 2, 3, 4, 0.938125386485},   {40, 50, 3, 5, 4, 0.901964099729},
      {40, 50, 4, 3, 2, 0.767872814147},    {40, 50, 5, 3, 3, 0.865871933893},   {40, 50, 6, 1, 8, 0.993019759888},
      {33, 77, 7, 0, 4, 612.140910433},     {50, 50, 11, 0, 3, 822.002074775},   {64, 64, 12, 0, 8, 955.93256617},
      {1, 300, 8, 2, 4, 0.930404597576},    {760, 800, 9, 4, 4, 0.921852361411}, {600, 1000, 10, 3, 4, 0.000833330800136},
      {700, 1000, 13, 0, 2, 515.966800293},
  };
  golden const g = goldens[GENERATE(range(0, 13))];
  INFO(g.rows << " x " << g.cols << " power " << g.power << " bits " << g.bits);
  matrix<float> const w = shared_matrix(g.rows, g.cols, g.seed, g.power);
  integer_codes const codes =
      slim_quantizer({.bits = g.bits, .search = scale_search::reference}).quantize(w.view(), calibration(g.cols));
  double const levels = (1 << (g.bits - 1)) - 1;
  CHECK(static_cast<double>(codes.scales(0, 0)) * levels == Approx(g.alpha).epsilon(1e-5));
}

TEST_CASE("with a multiple of 10 bins and the coarse minimum last, the reference takes the first bin, as published") {
  // All mass in the last bins: clipping costs most, so the last coarse position wins and its neighbour slot is still 0.
  std::vector<double> density(1000), centers(1000);
  for (std::size_t b = 0; b < 1000; ++b) {
    centers[b] = (static_cast<double>(b) + 0.5) / 1000;
    density[b] = b >= 990 ? 1.0 : 0.0;
  }
  CHECK(reference_search_alpha(density, centers, 4) == centers[0]);
  std::vector<double> const other_density(density.begin() + 1, density.end()),
      other_centers(centers.begin() + 1, centers.end());
  CHECK(reference_search_alpha(other_density, other_centers, 4) > 0.9); // 999 bins: 11 slots, no quirk
}

TEST_CASE("reference search on degenerate histograms") {
  CHECK(reference_search_alpha({}, {}, 4) == 0.0);
  CHECK(reference_search_alpha({1.0}, {0.5}, 4) == 0.5);
  matrix<float> const constant = mapped(matrix<float>(4, 4), [](float) { return -0.7f; });
  integer_codes const codes = slim_quantizer({.search = scale_search::reference}).quantize(constant.view(), calibration(4));
  CHECK(codes.value(2, 2) == Approx(-0.7f));
}
