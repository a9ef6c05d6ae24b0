// libFuzzer target of saved layers: whatever is read must save to the same bytes, and can be decompressed. Inputs start as
// saved layers of all kinds, so that mutations get past the head.

#include "slim/pipeline/layer_bytes.hpp"
#include "slim/quantization/grids/super_block_grid.hpp"
#include "slim/testing/hard_codes.hpp"
#include "slim/testing/hard_matrices.hpp"

#include "fresh_or_mutated.hpp"

#include <cstdlib>

namespace {

using namespace slim;
using namespace slim::testing;

/// Codes of some kind, made from a seed.
any_codes some_codes(index_t rows, index_t cols, unsigned seed) {
  integer_codes const integers = random_codes(rows, cols, 1 + static_cast<int>(seed / 3 % 8), per_group(4), number_format::fp16,
                                              seed % 3 == 0, seed % 4 == 0, seed);
  matrix<float> const w = normal_matrix(rows, cols, seed);
  switch (seed / 7 % 5) {
  case 0: return integers;
  case 1: return plain_values{w};
  case 2: {
    super_block_grid const grid = k_quant_grid(3);
    integer_codes codes = grid.empty(rows, cols);
    grid.fit(codes, w.view());
    codes.encode(w.view());
    return codes;
  }
  case 3: return keep_outliers(integers, w.view(), random_mask(rows, cols, 2, 2, seed));
  default: {
    codebook_codes codes(rows, cols, 3, per_channel, 2);
    for (index_t k = 0; k < codes.codes.size(); ++k) codes.codes.data()[k] = static_cast<std::uint8_t>(k % 8);
    return codes;
  }
  }
}

std::vector<std::byte> saved_layer(unsigned seed) {
  auto const rows = static_cast<index_t>(seed % 5), cols = static_cast<index_t>(seed / 5 % 19);
  any_layer layer{{std::nullopt, some_codes(rows, cols, seed)}, std::nullopt, {}};
  if (seed % 2 == 0) layer.weight.mask = random_mask24(rows, cols, seed);
  if (seed % 3 == 0) layer.adapter = empty_adapter(cols, rows);
  layer.report.notes = {"a note"};
  layer.report.steps.resize(seed % 3);
  return save(layer);
}

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  return slim_test::fresh_or_mutated(data, size, max_size, seed, 32, saved_layer);
}

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::span<std::byte const> const bytes(reinterpret_cast<std::byte const*>(data), size);
  auto const read = load_layer(bytes, {.weights = 1 << 16, .weights_per_byte = 16});
  if (!read) {
    if (read.why().size() < 20) std::abort();
    return 0;
  }
  std::vector<std::byte> const again = save(*read);
  if (!std::equal(bytes.begin(), bytes.end(), again.begin(), again.end())) std::abort();
  if (decompress(*read).rows() != read->weight.rows()) std::abort();
  return 0;
}
