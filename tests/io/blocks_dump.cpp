// blocks_dump FOLDER: random weights on the grid of each ggml type, as the blocks that encode_blocks makes (TYPE.CASE.raw) and
// as the values of the codes (TYPE.CASE.f32). For tests/golden/io_oracle.py, which decodes the blocks by another
// implementation.
#include "slim/core/random.hpp"
#include "slim/io/gguf/encode_blocks.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/grids/codebook_grid.hpp"
#include "slim/quantization/grids/super_block_grid.hpp"
#include "slim/saliency/magnitude.hpp"

#include <cstdio>
#include <fstream>
#include <string>

using namespace slim;

namespace {

void write(std::string const& path, void const* data, std::size_t size) {
  std::ofstream(path, std::ios::binary).write(static_cast<char const*>(data), static_cast<std::streamsize>(size));
}

/// False, with a sentence, if the type refuses the codes.
template <class Codes>
bool dump(std::string const& folder, tensor_type type, std::string const& name, Codes const& codes,
          mask const* kept = nullptr) {
  auto const made = encode_blocks(type, codes, kept);
  if (!made) {
    std::fprintf(stderr, "%s.%s: %s\n", std::string(name_of(type)).c_str(), name.c_str(), made.why().c_str());
    return false;
  }
  matrix<float> values(codes.rows(), codes.cols());
  codes.dequantize_into(values.view());
  if (kept) kept->apply_to(values.view());
  std::string const path = folder + "/" + std::string(name_of(type)) + "." + name;
  write(path + ".raw", made->data(), made->size());
  write(path + ".f32", values.data(), static_cast<std::size_t>(values.size()) * sizeof(float));
  return true;
}

/// Codes with random levels, for the types whose grids no quantizer of ours fits.
integer_codes random_levels(index_t rows, index_t cols, int bits, index_t group, scale_storage stored, std::uint64_t seed) {
  integer_codes codes(rows, cols, bits, per_group(group), stored);
  for (index_t k = 0; k < codes.codes.size(); ++k)
    codes.codes.data()[k] = static_cast<std::int8_t>(
        codes.lowest() + static_cast<int>(random_uniform(seed, static_cast<std::uint64_t>(k)) * (1 << bits)));
  for (index_t k = 0; k < codes.scales.size(); ++k)
    codes.scales.data()[k] = static_cast<float>(0.01 + random_uniform(seed + 1, static_cast<std::uint64_t>(k)));
  codes.scales.store(true);
  return codes;
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::string const folder = argv[1];
  using enum tensor_type;
  index_t const rows = 5, cols = 512;
  matrix<float> w(rows, cols);
  for (index_t k = 0; k < w.size(); ++k) w.data()[k] = static_cast<float>(random_normal(7, static_cast<std::uint64_t>(k)));
  for (index_t j = 0; j < 32; ++j) w(2, j) = 0.0f; // a block of zeros
  calibration const none_seen(cols);
  auto const absmax = [&](int bits, index_t group, bool symmetric) {
    return absmax_quantizer(
               {.bits = bits, .block = per_group(group), .symmetric = symmetric, .scale_format = number_format::fp16})
        .quantize(w.view(), none_seen);
  };
  mask const kept = nm_pruner<2, 4>(magnitude{}).select(w.view(), none_seen);
  bool good = true;
  good &= dump(folder, q4_0, "int4", absmax(4, 32, true)) && dump(folder, q4_0, "int4_24", absmax(4, 128, true), &kept);
  good &= dump(folder, q4_0, "int3", absmax(3, 64, true)) && dump(folder, q5_0, "int5", absmax(5, 32, true));
  good &= dump(folder, q8_0, "int8", absmax(8, 32, true)) && dump(folder, q8_0, "int4_zero", absmax(4, 32, false), &kept);
  // 8 significant bits: then scale * zero point is a number of fp16 at 3 bits, and the codes need no other minimum.
  auto few_bits = [](integer_codes codes) {
    for (index_t k = 0; k < codes.scales.size(); ++k) {
      int exponent = 0;
      float const part = std::frexp(codes.scales.data()[k], &exponent);
      codes.scales.data()[k] = std::ldexp(std::nearbyint(std::ldexp(part, 8)), exponent - 8);
    }
    return codes;
  };
  good &= dump(folder, q4_1, "int3_zero", few_bits(absmax(3, 128, false)));
  good &= dump(folder, q4_1, "int3_zero_24", few_bits(absmax(3, 128, false)), &kept);
  good &= dump(folder, q5_1, "int3_zero", few_bits(absmax(3, 32, false)));
  auto const k_quant = [&](int bits, super_block_grid grid) {
    grid.bits = bits;
    integer_codes codes = grid.empty(rows, cols);
    grid.fit(codes, w.view());
    codes.encode(w.view());
    return codes;
  };
  good &= dump(folder, q4_k, "grid", k_quant(4, k_quant_grid(4))) && dump(folder, q5_k, "grid", k_quant(5, k_quant_grid(5)));
  scale_storage const second{.format = number_format::fp16, .bits = 4, .block = {.rows = 1, .cols = 16}};
  good &= dump(folder, q2_k, "grid", k_quant(2, {.bits = 2, .group = 16, .scales = second, .offsets = second}));
  auto const storage = [](int bits, index_t groups) {
    return scale_storage{.format = number_format::fp16, .bits = bits, .block = {.rows = 1, .cols = groups}};
  };
  good &= dump(folder, q3_k, "levels", random_levels(rows, cols, 3, 16, storage(5, 16), 3));
  good &= dump(folder, q6_k, "levels", random_levels(rows, cols, 6, 16, storage(7, 16), 4), &kept);
  good &= dump(folder, q4_k, "symmetric", random_levels(rows, cols, 4, 32, storage(6, 8), 5), &kept);
  std::vector<float> const book(ggml::iq4_levels.begin(), ggml::iq4_levels.end());
  codebook_codes nl(rows, cols, book, per_group(32), {.format = number_format::fp16}),
      xs(rows, cols, std::vector<float>(book.rbegin(), book.rend()), per_group(32), storage(5, 8));
  for (codebook_codes* codes : {&nl, &xs}) {
    for (index_t k = 0; k < codes->codes.size(); ++k)
      codes->codes.data()[k] = static_cast<std::uint8_t>(random_uniform(11, static_cast<std::uint64_t>(k)) * 16);
    for (index_t k = 0; k < codes->scales.size(); ++k)
      codes->scales.data()[k] = static_cast<float>(0.001 + 0.01 * random_uniform(12, static_cast<std::uint64_t>(k)));
    codes->scales.store(true);
  }
  good &= dump(folder, iq4_nl, "book", nl) && dump(folder, iq4_xs, "reversed_book", xs);
  return good ? 0 : 1;
}
