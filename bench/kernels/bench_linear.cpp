// Products with packed matrices, side by side with a plain read loop, the float products of Eigen and OpenBLAS and, where it
// was built beside the project, ggml's quantized products (repacked layouts included). All contestants take turns in one run;
// weights rotate through more than five times the last-level cache, or, with 0 megabytes, stay in it. A turn is a product with
// one copy, untimed, and one with the next, as of a model's layers one after the other. Medians, and ratios to
// the peers of the same run. Usage: bench_linear [threads = 1] [d_out = 4096] [d_in = 4096] [tokens = 1] [rounds = 25]
// [megabytes of weights = 192] [systems = 0: ours and peers; 1: the packed codes of docs/guides/related_systems.md]
#include "../timing.hpp"

#include "slim/core/random.hpp"
#include "slim/kernels/packed_linear.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/saliency/magnitude.hpp"

#ifdef SLIM_BENCH_GGML
#include "ggml_peer.hpp"
#endif

#include <Eigen/Core>
#include <cblas.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>

namespace {

using slim::index_t;
using slim::matrix;

SLIM_SIMD_BEGIN_AVX2
namespace probe {
/// The xor of a stretch of memory, eight independent loads at a time.
inline long long read(std::uint8_t const* p, index_t bytes) {
  __m256i a[8];
  for (auto& v : a) v = _mm256_setzero_si256();
  for (index_t k = 0; k + 256 <= bytes; k += 256)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      a[i] = _mm256_xor_si256(a[i], _mm256_loadu_si256(reinterpret_cast<__m256i const*>(p + k + 32 * i)));
  for (int i = 1; i < 8; ++i) a[0] = _mm256_xor_si256(a[0], a[i]);
  return _mm256_extract_epi64(a[0], 0) ^ _mm256_extract_epi64(a[0], 3);
}
} // namespace probe
SLIM_SIMD_END

struct contestant {
  std::string name;
  double bytes; ///< that one product reads
  int copies;
  std::function<void(int)> run;     ///< with one of the copies
  std::function<void()> add_copy{}; ///< where they are not there yet
  std::vector<double> seconds{};
};

struct setting {
  index_t rows, cols, tokens;
  int threads, rounds;
  double bytes;
  bool systems;

  /// Weights stay in the last-level cache: one copy, and whoever's turn it is runs several times.
  [[nodiscard]] bool resident() const { return bytes <= 0; }
  [[nodiscard]] int copies(double of) const { return resident() ? 1 : std::max(2, static_cast<int>(bytes / of) + 1); }
};

matrix<float> normal(index_t rows, index_t cols, std::uint64_t seed) {
  matrix<float> m(rows, cols);
  for (index_t k = 0; k < m.size(); ++k)
    m.data()[k] = static_cast<float>(slim::random_normal(seed, static_cast<std::uint64_t>(k)));
  return m;
}

/// A part of some columns, by itself.
struct any_part {
  std::string name;
  slim::any_codes codes;
};

std::vector<any_part> parts_of(slim::column_parts const& all) {
  std::vector<any_part> parts;
  for (slim::any_codes const& part : all.parts) parts.push_back({"  " + std::to_string(part.cols()) + " columns alone", part});
  return parts;
}

class tournament {
public:
  explicit tournament(setting const& s)
      : s_(s), w_(normal(s.rows, s.cols, 1)), x_(normal(s.tokens, s.cols, 2)), y_(s.tokens, s.rows) {}

  void add_read_loop(double bytes) {
    auto const memory = std::make_shared<std::vector<slim::aligned_bytes>>();
    auto const add = [memory, bytes] {
      slim::aligned_bytes& bytes_of_copy = memory->emplace_back(static_cast<index_t>(bytes));
      std::memset(bytes_of_copy.data(), 1, static_cast<std::size_t>(bytes_of_copy.size()));
    };
    contestants_.push_back({"read loop", bytes, s_.copies(bytes),
                            [memory, this](int copy) {
                              auto const& part = (*memory)[static_cast<std::size_t>(copy)];
                              index_t const size = part.size();
                              constexpr index_t stretch = 1 << 18;
                              std::vector<long long> found(static_cast<std::size_t>(size / stretch + 1));
                              ctx_.parallel_for(size / stretch, 1, [&](index_t begin, index_t end) {
                                found[static_cast<std::size_t>(begin)] =
                                    probe::read(part.data() + begin * stretch, (end - begin) * stretch);
                              });
                              for (long long const v : found) sink_ ^= v;
                            },
                            add});
  }

  void add_packed(std::string const& name, slim::r16_matrix const& packed, slim::product_options const& options = {},
                  slim::simd_level level = slim::simd_level::automatic) {
    auto const bytes = static_cast<double>(packed.byte_size());
    auto const all = std::make_shared<std::vector<slim::r16_matrix>>();
    slim::context ctx = ctx_;
    ctx.simd = level;
    contestants_.push_back({name, bytes, s_.copies(bytes),
                            [all, options, ctx, this](int copy) {
                              slim::linear_into((*all)[static_cast<std::size_t>(copy)], x_.view(), y_.view(), options, ctx);
                            },
                            [all, packed] { all->push_back(packed); }});
  }

  void add_with_adapter(slim::r16_matrix const& sparse) {
    index_t const rank = std::min(s_.rows, s_.cols) / 10;
    slim::absmax_quantizer const four({.bits = 4, .scale_format = slim::number_format::fp16});
    auto const factor = [&](index_t rows, index_t cols) {
      return slim::pack_r16(four.quantize(normal(rows, cols, 3).view(), slim::calibration(cols)));
    };
    slim::packed_linear const layer{sparse, factor(rank, s_.cols), factor(s_.rows, rank)};
    auto const bytes = static_cast<double>(layer.byte_size());
    auto const all = std::make_shared<std::vector<slim::packed_linear>>();
    contestants_.push_back(
        {"slim 2:4 int4 g128 + int4 adapters 0.1", bytes, s_.copies(bytes),
         [all, this](int copy) { slim::forward_into((*all)[static_cast<std::size_t>(copy)], x_.view(), y_.view(), {}, ctx_); },
         [all, layer] { all->push_back(layer); }});
  }

  void add_layer(std::string const& name, slim::packed_linear const& layer, slim::simd_level level) {
    auto const bytes = static_cast<double>(layer.byte_size());
    auto const all = std::make_shared<std::vector<slim::packed_linear>>();
    slim::context ctx = ctx_;
    ctx.simd = level;
    auto const x = std::make_shared<matrix<float>>(s_.tokens, layer.cols()); // of a part alone fewer
    for (index_t t = 0; t < s_.tokens; ++t) std::copy_n(x_.row(t), layer.cols(), x->row(t));
    contestants_.push_back({name + (level == slim::simd_level::avx2 ? ", AVX2" : ""), bytes, s_.copies(bytes),
                            [all, ctx, x, this](int copy) {
                              slim::forward_into((*all)[static_cast<std::size_t>(copy)], x->view(), y_.view(), {}, ctx);
                            },
                            [all, layer] { all->push_back(layer); }});
  }

  /// Levels per row, evenly spaced: their places make no difference to a kernel.
  [[nodiscard]] slim::codebook_codes row_books(int bits) const {
    slim::codebook_codes codes(s_.rows, s_.cols, bits, slim::per_channel);
    for (index_t i = 0; i < s_.rows; ++i)
      for (index_t k = 0; k < codes.levels(); ++k)
        codes.books(i, k) = 0.5f * static_cast<float>(k) - 0.25f * static_cast<float>(codes.levels() - 1);
    codes.encode(w_.view());
    return codes;
  }

  /// Codes of some bits with zero points in groups of 64, of some of the columns.
  [[nodiscard]] slim::integer_codes columns_in(int bits, index_t count) const {
    slim::absmax_quantizer const rounding(
        {.bits = bits, .block = slim::per_group(64), .symmetric = false, .scale_format = slim::number_format::fp16});
    matrix<float> part(s_.rows, count);
    for (index_t i = 0; i < s_.rows; ++i) std::copy_n(w_.row(i), count, part.row(i));
    return rounding.quantize(part.view(), slim::calibration(count));
  }

  /// SpQR's: groups of 16, scales and offsets of 3 bits over 16 rows. Codes of 3 bits of a plain rounding, and tables that
  /// vary: what they are makes no difference to a kernel.
  [[nodiscard]] slim::integer_codes spqr_codes() const {
    slim::scale_storage const second{
        .format = slim::number_format::fp16, .bits = 3, .block = {.rows = 16, .cols = 1}, .shifted = true};
    slim::integer_codes codes(s_.rows, s_.cols, 3, slim::per_group(16), second);
    codes.offsets = slim::scale_table(codes.scales.rows(), codes.scales.cols(), second);
    for (index_t k = 0; k < codes.scales.size(); ++k) {
      codes.scales.data()[k] = 0.5f + 0.01f * static_cast<float>(k % 13);
      codes.offsets.data()[k] = -4.0f * codes.scales.data()[k];
    }
    codes.scales.store(true);
    codes.offsets.store(false);
    codes.encode(w_.view());
    return codes;
  }

  /// What the systems of docs/guides/related_systems.md store, at AVX-512 and at AVX2, beside the uniform codes of their width.
  void add_systems() {
    slim::calibration const none(s_.cols);
    slim::absmax_quantizer const four({.bits = 4, .scale_format = slim::number_format::fp16}),
        three({.bits = 3, .symmetric = false, .scale_format = slim::number_format::fp16});
    slim::integer_codes const int3 = three.quantize(w_.view(), none), int4 = four.quantize(w_.view(), none);
    auto const largest =
        slim::unstructured_pruner(slim::magnitude{}, {.sparsity = 1 - 0.0045, .scope = slim::prune_scope::matrix})
            .select(slim::matrix_view<float const>(w_.view()), none);
    slim::integer_codes const tiles = spqr_codes();
    slim::column_parts mixed; // a quarter of the columns at 2 bits, a quarter at 4, in any order
    index_t const quarter = s_.cols / 256 * 64;
    for (int const bits : {2, 3, 4}) mixed.parts.emplace_back(columns_in(bits, bits == 3 ? s_.cols - 2 * quarter : quarter));
    for (index_t k = 0; k < s_.cols; ++k) mixed.order.push_back(static_cast<std::int32_t>(k * 1021 % s_.cols));
    add_read_loop(static_cast<double>(slim::pack_r16(int3).byte_size()));
    for (slim::simd_level const level : {slim::simd_level::automatic, slim::simd_level::avx2}) {
      auto const add = [&](std::string const& name, slim::any_codes const& codes) {
        add_layer(name, slim::pack_linear(codes, nullptr, nullptr), level);
      };
      add("int3 g128", int3);
      add("int4 g128", int4);
      add("int3 g128 + 0.45% residuals", slim::keep_outliers(int3, w_.view(), largest));
      add("8 levels per row", row_books(3));
      add("16 levels per row", row_books(4));
      add("int3 in tiles of 16 x 16", tiles);
      add("int3 in tiles + 0.45% residuals", slim::keep_outliers(tiles, w_.view(), largest));
      add("columns of 2, 3, 4 bits g64", mixed);
      for (any_part const& part : parts_of(mixed)) add(part.name, part.codes);
    }
  }

  void add_ours() {
    slim::absmax_quantizer const four({.bits = 4, .scale_format = slim::number_format::fp16}),
        three({.bits = 3, .symmetric = false, .scale_format = slim::number_format::fp16});
    slim::calibration const none(s_.cols);
    auto const codes = four.quantize(w_.view(), none);
    auto const kept = slim::nm_pruner<2, 4>(slim::magnitude{}).select(slim::matrix_view<float const>(w_.view()), none);
    auto const sparse = slim::pack_r16(codes, kept);
    add_read_loop(static_cast<double>(sparse.byte_size()));
    add_packed("slim 2:4 int4 g128", sparse);
    add_with_adapter(sparse);
    add_packed("slim dense int3 g128", slim::pack_r16(three.quantize(w_.view(), none)));
    add_packed("slim dense int4 g128", slim::pack_r16(codes));
    add_packed("slim 2:4 int4 g128, 16-bit inputs", sparse, {.inputs = slim::input_precision::int16});
    if (s_.tokens > 1)
      add_packed("slim 2:4 int4 g128, a scale per 128 inputs", sparse, {.inputs = slim::input_precision::int8_128});
    add_packed("slim 2:4 int4 g128, AVX2", sparse, {}, slim::simd_level::avx2);
    if (s_.tokens >= 8) add_packed("slim 2:4 int4 g128, exact", sparse, {.inputs = slim::input_precision::exact});
  }

  void add_eigen() {
    using dense = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    auto const bytes = static_cast<double>(w_.size()) * sizeof(float);
    dense const one = Eigen::Map<dense const>(w_.data(), s_.rows, s_.cols);
    auto const all = std::make_shared<std::vector<dense>>();
    Eigen::setNbThreads(s_.threads);
    contestants_.push_back({"Eigen float", bytes, s_.copies(bytes),
                            [all, this](int copy) {
                              dense const& w = (*all)[static_cast<std::size_t>(copy)];
                              Eigen::Map<dense> y(y_.data(), s_.tokens, s_.rows);
                              Eigen::Map<dense const> const x(x_.data(), s_.tokens, s_.cols);
                              if (s_.tokens == 1)
                                y.row(0).transpose().noalias() = w * x.row(0).transpose();
                              else
                                y.noalias() = x * w.transpose();
                            },
                            [all, one] { all->push_back(one); }});
  }

  void add_openblas() {
    openblas_set_num_threads(s_.threads);
    auto const bytes = static_cast<double>(w_.size()) * sizeof(float);
    auto const all = std::make_shared<std::vector<matrix<float>>>();
    contestants_.push_back({"OpenBLAS float", bytes, s_.copies(bytes),
                            [all, this](int copy) {
                              float const* const w = (*all)[static_cast<std::size_t>(copy)].data();
                              auto const rows = static_cast<blasint>(s_.rows), cols = static_cast<blasint>(s_.cols);
                              auto const tokens = static_cast<blasint>(s_.tokens);
                              if (tokens == 1)
                                cblas_sgemv(CblasRowMajor, CblasNoTrans, rows, cols, 1, w, cols, x_.data(), 1, 0, y_.data(), 1);
                              else
                                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, tokens, rows, cols, 1, x_.data(), cols, w,
                                            cols, 0, y_.data(), rows);
                            },
                            [all, this] { all->push_back(w_); }});
  }

#ifdef SLIM_BENCH_GGML
  void add_ggml() {
    machine_ = std::make_unique<bench::ggml_machine>(s_.threads);
    struct entry {
      char const* name;
      ggml_type type;
      bool repack;
    };
    for (entry const& e : {entry{"ggml Q4_0", GGML_TYPE_Q4_0, false}, entry{"ggml Q4_0 repacked", GGML_TYPE_Q4_0, true},
                           entry{"ggml Q4_K", GGML_TYPE_Q4_K, false}, entry{"ggml Q4_K repacked", GGML_TYPE_Q4_K, true}}) {
      double const bytes = static_cast<double>(s_.rows) * static_cast<double>(ggml_row_size(e.type, s_.cols));
      auto const m = std::make_shared<bench::ggml_matrix>(*machine_, e.type, w_.data(), s_.rows, s_.cols, s_.tokens,
                                                          s_.copies(bytes), e.repack);
      if (!m->exists()) continue;
      m->set_inputs(x_.data());
      check(e.name, *m);
      contestants_.push_back({e.name, bytes, s_.copies(bytes), [m](int copy) { m->multiply(copy); }});
    }
  }

  /// A peer that computes something else is no peer.
  void check(char const* name, bench::ggml_matrix const& m) const {
    m.multiply(0);
    auto const y = m.outputs(0);
    double wrong = 0, size = 0;
    for (index_t i = 0; i < std::min<index_t>(s_.rows, 64); ++i) {
      double exact = 0;
      for (index_t j = 0; j < s_.cols; ++j) exact += static_cast<double>(w_(i, j)) * static_cast<double>(x_(0, j));
      wrong += (exact - static_cast<double>(y[static_cast<std::size_t>(i)])) *
               (exact - static_cast<double>(y[static_cast<std::size_t>(i)]));
      size += exact * exact;
    }
    if (!(wrong < 0.05 * size))
      std::printf("%s: relative error %.3f, its numbers mean nothing\n", name, std::sqrt(wrong / size));
  }
#endif

  /// Memory differs from place to place (on virtual machines by more than twice): everybody's copies are spread over all of it.
  void add_copies() {
    for (int copy = 0, missing = 1; missing > 0; ++copy) {
      missing = 0;
      for (contestant& c : contestants_)
        if (c.add_copy && copy < c.copies) {
          c.add_copy();
          ++missing;
        }
    }
  }

  void run() {
    std::vector<contestant*> order; // another one every round: who comes before makes a difference
    for (contestant& c : contestants_) order.push_back(&c);
    std::mt19937 shuffling;
    for (int round = -2; round < s_.rounds; ++round) { // two to warm up
      std::shuffle(order.begin(), order.end(), shuffling);
      for (contestant* const c : order) {
        int copy = 2 * (round + 2);
        for (int fetch = 0; fetch < (s_.resident() ? 2 : 1); ++fetch) c->run(copy++ % c->copies); // code, and resident weights
        for (int repetition = 0; repetition < (s_.resident() ? 5 : 1); ++repetition) {
          double const seconds = bench::seconds_of([&] { c->run(copy % c->copies); });
          if (round >= 0) c->seconds.push_back(seconds);
        }
      }
    }
  }

  void print() const {
    double const sparse = bench::median(contestants_[1].seconds);
    double const read = contestants_[0].bytes / bench::median(contestants_[0].seconds);
    std::printf("%td x %td, %td tokens, %d threads, %d rounds, weights %s; checksum %llx\n", s_.rows, s_.cols, s_.tokens,
                s_.threads, s_.rounds, s_.resident() ? "in the last-level cache" : "in memory",
                static_cast<unsigned long long>(sink_));
    std::printf("| %-42s | %8s | %8s | %7s | %6s | %10s |\n", "what", "ms", "quartile", "GB/s", "read",
                s_.systems ? "to int3" : "to 2:4 int4");
    for (contestant const& c : contestants_) {
      auto sorted = c.seconds;
      std::sort(sorted.begin(), sorted.end());
      double const middle = sorted[sorted.size() / 2], upper = sorted[sorted.size() * 3 / 4];
      std::printf("| %-42s | %8.3f | %8.3f | %7.1f | %5.0f%% | %10.2fx |\n", c.name.c_str(), 1e3 * middle, 1e3 * upper,
                  1e-9 * c.bytes / middle, 100 * c.bytes / middle / read, middle / sparse);
    }
  }

private:
  setting s_;
  slim::context ctx_;
  matrix<float> w_, x_, y_;
  std::vector<contestant> contestants_;
  long long sink_ = 0;
#ifdef SLIM_BENCH_GGML
  std::unique_ptr<bench::ggml_machine> machine_;
#endif
};

} // namespace

int main(int argc, char** argv) {
  auto const argument = [&](int k, long fallback) { return argc > k ? std::atol(argv[k]) : fallback; };
  setting const s{argument(2, 4096),
                  argument(3, 4096),
                  argument(4, 1),
                  static_cast<int>(argument(1, 1)),
                  static_cast<int>(argument(5, 25)),
                  static_cast<double>(argument(6, 192)) * 1e6,
                  argument(7, 0) != 0};
#ifdef _OPENMP
  omp_set_num_threads(s.threads);
#endif
  tournament t(s);
  if (s.systems)
    t.add_systems();
  else
    t.add_ours();
  if (!s.systems && !s.resident()) { // float matrices would not leave room in the cache
    t.add_eigen();
    t.add_openblas();
  }
#ifdef SLIM_BENCH_GGML
  if (!s.systems) t.add_ggml();
#else
  std::puts("ggml was not built beside the project: configure with -DSLIM_LLAMA_CPP=... for its rows");
#endif
  t.add_copies();
  t.run();
  t.print();
}
