// The passes over the weights of one layer: histogram, 2:4 mask, rounding, packing, beside what one would write plainly. All
// take turns in one run; medians. GB/s of float weights read.
// Usage: bench_elementwise [--quick] [--only TEXT] [threads = 1] [rounds = 9] [simd level: 0 automatic, 1 scalar, 2 AVX2,
// 3 AVX-512]. --quick takes 512 x 1024 instead of 4096 x 11008, --only the passes whose names begin with the text.
#include "slim/pipeline/quantize_and_pack.hpp"
#include "slim/quantization/weight_histogram.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/hard_matrices.hpp"

#include "../timing.hpp"

#include <Eigen/Core>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

namespace {

using slim::index_t;

/// One line of the table.
struct contestant {
  std::string name;
  std::function<double()> run; ///< what it returns keeps the compiler honest
  std::vector<double> seconds = {};
};

double sink = 0;

/// All bits of the matrix, as fast as a plain loop gets them.
double read_all(slim::matrix<float> const& w, slim::context const& ctx) {
  constexpr index_t rows_per_task = 64;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(w.rows() / rows_per_task + 1));
  ctx.parallel_for(w.rows(), rows_per_task, [&](index_t begin, index_t end) {
    std::uint64_t lane[16] = {};
    for (index_t i = begin; i < end; ++i) {
      auto const* const row = reinterpret_cast<unsigned char const*>(w.row(i));
      for (index_t at = 0; at + 128 <= w.cols() * 4; at += 128) {
        std::uint64_t x[16];
        std::memcpy(x, row + at, sizeof(x));
        for (int l = 0; l < 16; ++l) lane[l] ^= x[l];
      }
    }
    sums[static_cast<std::size_t>(begin / rows_per_task)] = std::accumulate(lane, lane + 16, std::uint64_t{0});
  });
  return static_cast<double>(std::accumulate(sums.begin(), sums.end(), std::uint64_t{0}));
}

double eigen_absmax(slim::matrix<float> const& w) {
  return static_cast<double>(Eigen::Map<Eigen::ArrayXf const>(w.data(), w.size()).abs().maxCoeff());
}

double plain_histogram(slim::matrix<float> const& w, float largest, index_t bins) {
  std::vector<std::uint32_t> counts(static_cast<std::size_t>(2 * bins));
  float const per_unit = static_cast<float>(bins) / largest;
  for (index_t k = 0; k < w.size(); ++k)
    ++counts[static_cast<std::size_t>(
        std::clamp(static_cast<index_t>(w.data()[k] * per_unit) + bins, index_t{0}, 2 * bins - 1))];
  return counts[static_cast<std::size_t>(bins)];
}

/// 2:4 as one would write it: sort every group by score.
double plain_mask(slim::matrix<float> const& w, std::vector<float> const& norm, slim::matrix<std::uint8_t>& kept) {
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t first = 0; first + 4 <= w.cols(); first += 4) {
      index_t order[4] = {first, first + 1, first + 2, first + 3};
      std::stable_sort(order, order + 4, [&](index_t a, index_t b) {
        return std::abs(w(i, a)) * norm[static_cast<std::size_t>(a)] > std::abs(w(i, b)) * norm[static_cast<std::size_t>(b)];
      });
      for (index_t k = 0; k < 4; ++k) kept(i, order[k]) = k < 2;
    }
  return kept(0, 0);
}

/// Groups of 128, a byte per code, with Eigen.
double eigen_rounding(slim::matrix<float> const& w, slim::matrix<std::int8_t>& codes) {
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t first = 0; first < w.cols(); first += 128) {
      index_t const width = std::min<index_t>(128, w.cols() - first);
      Eigen::Map<Eigen::ArrayXf const> const group(w.row(i) + first, width);
      float const scale = group.abs().maxCoeff() / 7.0f;
      Eigen::Map<Eigen::Array<std::int8_t, Eigen::Dynamic, 1>>(codes.row(i) + first, width) =
          (group / scale).round().max(-8.0f).min(7.0f).cast<std::int8_t>();
    }
  return codes(0, 0);
}

double plain_rounding(slim::matrix<float> const& w, slim::matrix<std::int8_t>& codes) {
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t first = 0; first < w.cols(); first += 128) {
      index_t const last = std::min(w.cols(), first + 128);
      float largest = 0;
      for (index_t j = first; j < last; ++j) largest = std::max(largest, std::abs(w(i, j)));
      float const scale = largest / 7.0f;
      for (index_t j = first; j < last; ++j)
        codes(i, j) = static_cast<std::int8_t>(std::clamp(std::nearbyint(w(i, j) / scale), -8.0f, 7.0f));
    }
  return codes(0, 0);
}

/// The packed bytes, all of them touched before.
double first_byte(slim::r16_matrix const& packed) { return packed.byte_size() > 0 ? packed.data()[0] : 0; }

void print(std::vector<contestant> const& table, double gigabytes) {
  auto const speed = [&](std::size_t k) { return gigabytes / bench::median(table[k].seconds); };
  std::printf("| %-52s | %7s | %-13s | %9s | %9s |\n", "pass", "GB/s", "quartiles", "of absmax", "of read");
  for (std::size_t k = 0; k < table.size(); ++k) {
    auto sorted = table[k].seconds;
    std::sort(sorted.begin(), sorted.end());
    double const slow = gigabytes / sorted[sorted.size() * 3 / 4], fast = gigabytes / sorted[sorted.size() / 4];
    std::printf("| %-52s | %7.2f | %5.1f .. %5.1f | %9.2f | %9.2f |\n", table[k].name.c_str(), speed(k), slow, fast,
                speed(k) / speed(1), speed(k) / speed(0));
  }
}

} // namespace

int main(int argc, char** argv) {
  bool quick = false;
  std::string only;
  std::vector<int> numbers;
  for (int k = 1; k < argc; ++k) {
    if (std::strcmp(argv[k], "--quick") == 0)
      quick = true;
    else if (std::strcmp(argv[k], "--only") == 0 && k + 1 < argc)
      only = argv[++k];
    else
      numbers.push_back(std::atoi(argv[k]));
  }
  int const threads = !numbers.empty() ? numbers[0] : 1, rounds = numbers.size() > 1 ? numbers[1] : 9;
  auto const level = static_cast<slim::simd_level>(numbers.size() > 2 ? numbers[2] : 0);
  index_t const rows = quick ? 512 : 4096, cols = quick ? 1024 : 11008;
#if defined(_OPENMP)
  slim::openmp_executor const where{threads};
#else
  slim::serial_executor const where;
#endif
  slim::context ctx;
  ctx.where = where;
  ctx.simd = level;

  slim::matrix<float> const w = slim::testing::normal_matrix(rows, cols, 1, 0.02f);
  slim::matrix<float> const bf16_w = slim::testing::mapped(w, [](float x) { return static_cast<float>(slim::bf16(x)); });
  slim::calibration const calib = slim::testing::observed(slim::testing::normal_matrix(64, cols, 2));
  std::vector<float> norm;
  for (double const square : calib.mean_square()) norm.push_back(static_cast<float>(std::sqrt(square)));
  slim::matrix<std::uint8_t> kept(rows, cols);
  slim::matrix<std::int8_t> codes(rows, cols);
  float const largest = slim::largest_magnitude(w.view(), ctx);
  auto const histogram = [&](slim::matrix<float> const& of, index_t bins) {
    return slim::histogram_moments(of.view(), largest, bins, {}, ctx).value(0);
  };
  slim::absmax_config const grouped{.bits = 4, .block = slim::per_group(128), .scale_format = slim::number_format::fp16};
  slim::absmax_config const by_row{.bits = 4, .block = slim::per_channel};
  auto const ranking = slim::wanda{};
  auto const score = ranking.prepare(w, calib);
  slim::mask old_mask(rows, cols, {2, 4});
  slim::absmax_quantizer const rounding(grouped);
  slim::integer_codes old_codes = rounding.zero_codes(rows, cols);
  auto const mask_again = [&] { // without fresh pages for the result
    auto const& kernels = slim::detail::selection_kernels_of(level);
    ctx.parallel_for(rows, 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) slim::detail::select_row<2, 4>(kernels, score, i, w, old_mask.row(i));
    });
    return static_cast<double>(old_mask.kept(0, 0));
  };
  auto const codes_again = [&] {
    auto const& kernels = slim::detail::rounding_kernels_of(level);
    ctx.parallel_for(rows, 16, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) rounding.quantize_row(kernels, w.row(i), old_codes, i);
    });
    return static_cast<double>(old_codes.codes(0, 0));
  };

  std::vector<contestant> table = {
      {"read loop", [&] { return read_all(w, ctx); }},
      {"absmax", [&] { return static_cast<double>(slim::largest_magnitude(w.view(), ctx)); }},
      {"histogram, 512 bins", [&] { return histogram(w, 512); }},
      {"histogram, 4096 bins", [&] { return histogram(w, 4096); }},
      {"histogram, 20000 bins", [&] { return histogram(w, 20000); }},
      {"histogram of bf16 weights, exact", [&] { return histogram(bf16_w, 4096); }},
      {"2:4 mask by wanda",
       [&] { return static_cast<double>(slim::nm_pruner<2, 4>(ranking).select(w, calib, ctx).kept(0, 0)); }},
      {"2:4 mask by wanda, into an old mask", mask_again},
      {"2:4 mask, int4 by row, pack: one walk",
       [&] { return first_byte(slim::prune_and_pack(w, calib, ranking, by_row, ctx)); }},
      {"2:4 mask, int4 by 128, pack: one walk",
       [&] { return first_byte(slim::prune_and_pack(w, calib, ranking, grouped, ctx)); }},
      {"int4 by 128: codes",
       [&] { return static_cast<double>(slim::absmax_quantizer(grouped).quantize(w, calib, ctx).codes(0, 0)); }},
      {"int4 by 128: codes, into old codes", codes_again},
      {"int4 by 128, pack: one walk", [&] { return first_byte(slim::quantize_and_pack(w, grouped, ctx)); }},
      {"int4 by 128, pack: codes first",
       [&] { return first_byte(slim::pack_r16(slim::absmax_quantizer(grouped).quantize(w, calib, ctx), ctx)); }},
      {"peer: absmax, Eigen, 1 thread", [&] { return eigen_absmax(w); }},
      {"peer: histogram, 4096 bins, plain loop, 1 thread", [&] { return plain_histogram(w, largest, 4096); }},
      {"peer: 2:4 mask, stable_sort, 1 thread", [&] { return plain_mask(w, norm, kept); }},
      {"peer: int4 by 128, codes, Eigen, 1 thread", [&] { return eigen_rounding(w, codes); }},
      {"peer: int4 by 128, codes, plain loop, 1 thread", [&] { return plain_rounding(w, codes); }},
  };
  table.erase(std::remove_if(table.begin() + 2, table.end(), [&](contestant const& c) { return !c.name.starts_with(only); }),
              table.end());
  for (int round = 0; round <= rounds; ++round) // the first warms up
    for (contestant& c : table) {
      bool const slow = c.name.find("stable_sort") != std::string::npos && round > 2;
      if (slow) continue;
      double const seconds = bench::seconds_of([&] { sink += c.run(); });
      if (round > 0) c.seconds.push_back(seconds);
    }
  std::printf("%td x %td floats, %d threads, %d rounds, simd level %d%s\n", rows, cols, threads, rounds,
              static_cast<int>(level), sink == 0.125 ? " " : "");
  print(table, static_cast<double>(w.size()) * 4e-9);
}
