// Entropy coding of a GGUF file, tensor by tensor, on one thread: bytes, and how fast they come back at each level of
// instructions. Medians of rounds; GB/s of decoded bytes. zstd on the same file: zstd -b3 -b19 FILE.
// Usage: bench_entropy FILE.gguf [rounds = 5]
//        bench_entropy --load [rounds = 5]   one block of a 7B (4096, 11008; 3-bit codes of a bell, groups of 128 with zero
//        points)
//                                            from packed bytes to what kernels run on, as they are and entropy coded; all
//                                            threads
#include "slim/io/gguf/reader.hpp"
#include "slim/io/gguf/record_planes.hpp"
#include "slim/kernels/packed_linear.hpp"
#include "slim/packing/entropy_coded_matrix.hpp"
#include "slim/packing/unpack.hpp"

#include "slim/core/random.hpp"

#include "../timing.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

using slim::index_t;

struct coded_tensor {
  std::span<std::byte const> bytes;
  std::vector<std::byte> coded;
};

slim::integer_codes bell_codes(index_t rows, index_t cols, std::uint64_t seed) {
  slim::integer_codes codes(rows, cols, 3, slim::per_group(128), slim::number_format::fp16);
  codes.zeros = slim::matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
  slim::context().parallel_for(rows, 1, [&](index_t begin, index_t end) {
    for (index_t k = begin * cols; k < end * cols; ++k) {
      double const x = std::floor(1.6 * slim::random_normal(seed, static_cast<std::uint64_t>(k)));
      codes.codes.data()[k] = static_cast<std::int8_t>(std::clamp(x, -4.0, 3.0));
    }
  });
  for (index_t k = 0; k < codes.scales.size(); ++k)
    codes.scales.data()[k] = static_cast<float>(slim::fp16(0.01f + 0.0001f * static_cast<float>(k % 97)));
  return codes;
}

int measure_loading(int rounds) {
  std::vector<std::vector<std::byte>> packed, coded;
  std::size_t before = 0, after = 0;
  for (auto const& [rows, cols, count] : {std::array<index_t, 3>{4096, 4096, 4}, {11008, 4096, 2}, {4096, 11008, 1}})
    for (index_t k = 0; k < count; ++k) {
      packed.push_back(slim::dense_codes::pack(bell_codes(rows, cols, packed.size())));
      coded.push_back(slim::entropy_encode_matrix(packed.back()));
      before += packed.back().size();
      after += coded.back().size();
    }
  auto const load = [](std::vector<std::byte> const& bytes) {
    auto const read = slim::unpack(bytes);
    if (!read) std::abort();
    (void)slim::pack_linear(*read->codes.get_if<slim::integer_codes>(), nullptr, nullptr);
  };
  std::vector<double> raw, decoding, alone;
  for (int round = 0; round < rounds; ++round) {
    raw.push_back(bench::seconds_of([&] {
      for (auto const& bytes : packed) load(bytes);
    }));
    decoding.push_back(bench::seconds_of([&] {
      for (auto const& bytes : coded) load(slim::entropy_decode_matrix(bytes).value());
    }));
    alone.push_back(bench::seconds_of([&] {
      for (auto const& bytes : coded) (void)slim::entropy_decode_matrix(bytes).value();
    }));
  }
  double const a = bench::median(raw), b = bench::median(decoding), c = bench::median(alone);
  std::printf(
      "%zu packed bytes, %zu entropy coded (%.4f)\nloaded raw in %.3f s, with decoding in %.3f s (%.2f times); decoding "
      "alone %.3f s, %.3f GB/s\n",
      before, after, static_cast<double>(after) / static_cast<double>(before), a, b, b / a, c,
      static_cast<double>(before) / c / 1e9);
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: bench_entropy FILE.gguf [rounds]\n"), 2;
  int const rounds = argc > 2 ? std::max(1, std::atoi(argv[2])) : 5;
  if (std::string(argv[1]) == "--load") return measure_loading(rounds);
  auto const file = slim::gguf_file::open(argv[1]);
  if (!file) return std::fprintf(stderr, "%s\n", file.why().c_str()), 1;
  slim::serial_executor const one_thread;
  std::vector<coded_tensor> tensors;
  std::size_t before = 0, after = 0;
  double const encoding = bench::seconds_of([&] {
    for (auto const& tensor : file->tensors()) {
      tensors.push_back({tensor.bytes, slim::entropy_encode(tensor.bytes, slim::planes_of(tensor.type))});
      before += tensor.bytes.size();
      after += tensors.back().coded.size();
    }
  });
  std::printf("%zu bytes of tensors -> %zu, %.4f of them; encoded at %.3f GB/s on all threads\n", before, after,
              static_cast<double>(after) / static_cast<double>(before), static_cast<double>(before) / encoding / 1e9);
  slim::simd_level const levels[] = {slim::simd_level::scalar, slim::simd_level::avx2, slim::simd_level::avx512};
  char const* const names[] = {"scalar", "AVX2", "AVX-512"};
  std::vector<std::vector<double>> seconds(std::size(levels));
  for (int round = 0; round < rounds; ++round)
    for (std::size_t k = 0; k < std::size(levels); ++k) {
      if (levels[k] > slim::best_simd_level()) continue;
      slim::context ctx;
      ctx.where = one_thread;
      ctx.simd = levels[k];
      seconds[k].push_back(bench::seconds_of([&] {
        for (coded_tensor const& tensor : tensors)
          if (!slim::entropy_decode(tensor.coded, tensor.bytes.size(), ctx)) std::abort();
      }));
    }
  for (std::size_t k = 0; k < std::size(levels); ++k)
    if (!seconds[k].empty())
      std::printf("%-8s decoded at %.3f GB/s on one thread\n", names[k],
                  static_cast<double>(before) / bench::median(seconds[k]) / 1e9);
  return 0;
}
