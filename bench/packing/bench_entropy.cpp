// Entropy coding of a GGUF file, tensor by tensor, on one thread: bytes, and how fast they come back at each level of
// instructions. Medians of rounds; GB/s of decoded bytes. zstd on the same file: zstd -b3 -b19 FILE.
// Usage: bench_entropy FILE.gguf [rounds = 5]
#include "slim/io/gguf/reader.hpp"
#include "slim/io/gguf/record_planes.hpp"

#include "../timing.hpp"

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

} // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: bench_entropy FILE.gguf [rounds]\n"), 2;
  int const rounds = argc > 2 ? std::max(1, std::atoi(argv[2])) : 5;
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
