// Writes what device_test.cu checks a GPU against: make_cases FILE. Products of tests/cuda/emulated_layers.hpp and larger ones,
// with the outputs of the definition; trials of tests/cuda/primitives.cuh, with the results of the host warp. Needs no GPU.
//
// The file is a row of 32-bit words and bytes, each part padded to 16 bytes:
//     products: count; for each: type of numbers (1 bf16, 2 fp16), tokens, layers, add, columns and stride of X; X; for each
//     layer: bytes of
//               it, rows, stride of Y, the layer, Y before, Y behind, Y behind by dense matrices
//     trials:   count; for each: type of numbers, the bytes of shared memory, the results

#include "emulated_layers.hpp"

#include <cstdio>
#include <fstream>

namespace {

using namespace slim_test;
using slim::number_format;

class writer {
public:
  explicit writer(char const* path) : file_(path, std::ios::binary) {}
  void words(std::initializer_list<std::uint32_t> values) { bytes(values.begin(), 4 * values.size()); }
  template <class T>
  void put(std::vector<T> const& values) {
    bytes(values.data(), sizeof(T) * values.size());
  }
  [[nodiscard]] bool good() const { return file_.good(); }

private:
  void bytes(void const* from, std::size_t count) {
    file_.write(static_cast<char const*>(from), static_cast<std::streamsize>(count));
    char const zeros[16] = {};
    file_.write(zeros, static_cast<std::streamsize>((16 - count % 16) % 16));
  }
  std::ofstream file_;
};

template <number_format N>
void write_product(writer& out, product_case const& p) {
  auto const u32 = [](auto value) { return static_cast<std::uint32_t>(value); };
  half_rows const x = in_halves<N>(p.x(), p.x_stride());
  out.words({u32(N), u32(p.tokens), u32(p.layers.size()), u32(p.add), u32(x.cols), u32(x.stride)});
  out.put(x.bits);
  for (std::size_t k = 0; k < p.layers.size(); ++k) {
    std::vector<std::byte> const bytes = p.layer(k).packed(N).bytes;
    half_rows const before = p.before<N>(k), behind = p.expected<N>(k), by_dense = p.expected_by_dense<N>(k);
    out.words({u32(bytes.size()), u32(behind.cols), u32(behind.stride)});
    out.put(bytes);
    out.put(before.bits);
    out.put(behind.bits);
    out.put(by_dense.bits);
  }
}

template <number_format N>
void write_trial(writer& out, std::uint64_t seed) {
  std::vector<std::uint8_t> const bytes = trial_input<N>(seed);
  std::vector<std::uint32_t> found;
  run_trial<N>(bytes, found);
  out.words({static_cast<std::uint32_t>(N)});
  out.put(bytes);
  out.put(found);
}

/// Shapes of several CTAs, and more tokens than one launch takes.
std::vector<product_case> larger_products() {
  std::vector<product_case> all;
  std::uint64_t seed = 1000;
  for (int const bits : {2, 3, 4})
    for (bool const sparse : {false, true})
      for (slim::index_t const tokens : {1, 16, 33, 64, 100}) {
        if (sparse && bits != 4) continue;
        layer_case const c{.rows = 520,
                           .cols = 1000,
                           .rank = 96,
                           .bits = bits,
                           .sparse = sparse,
                           .block = slim::per_group(128),
                           .zeros = !sparse && seed % 2 == 0};
        all.push_back({.layers = {c},
                       .numbers = seed % 3 == 0 ? number_format::bf16 : number_format::fp16,
                       .tokens = tokens,
                       .seed = seed});
        ++seed;
      }
  return all;
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_cases FILE\n");
    return 2;
  }
  writer out(argv[1]);
  std::vector<product_case> products = hard_products();
  for (product_case const& p : larger_products()) products.push_back(p);
  out.words({static_cast<std::uint32_t>(products.size())});
  for (product_case const& p : products)
    if (p.numbers == number_format::fp16)
      write_product<number_format::fp16>(out, p);
    else
      write_product<number_format::bf16>(out, p);
  constexpr std::uint32_t trials = 40;
  out.words({trials});
  for (std::uint32_t k = 0; k < trials; ++k)
    if (k % 2 == 0)
      write_trial<number_format::fp16>(out, k);
    else
      write_trial<number_format::bf16>(out, k);
  if (!out.good()) std::fprintf(stderr, "make_cases: could not write %s\n", argv[1]);
  return out.good() ? 0 : 1;
}
