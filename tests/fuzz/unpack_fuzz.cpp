// libFuzzer target of one decoder, SLIM_FUZZ_FORMAT: whatever it reads must pack to the same bytes. Inputs start as packed
// matrices of all kinds, so that mutations get past the header.

#include "slim/packing/unpack.hpp"
#include "slim/testing/hard_codes.hpp"

#include "fresh_or_mutated.hpp"

#include <cstdlib>

namespace {

using format = slim::SLIM_FUZZ_FORMAT;

/// A small packed matrix made from a seed.
std::vector<std::byte> packed_matrix(unsigned seed) {
  auto const rows = static_cast<slim::index_t>(seed % 5);
  auto const cols = static_cast<slim::index_t>(seed / 5 % 19);
  slim::scale_block const blocks[] = {slim::per_tensor, slim::per_channel, slim::per_group(4), slim::per_column_group(2)};
  auto const width = slim::number_format{static_cast<int>(seed / 7 % 3)};
  bool const book = seed % 11 == 0;
  auto const codes = slim::testing::random_codes(rows, cols, book ? 4 : 2 + static_cast<int>(seed / 3 % 7),
                                                 blocks[seed / 2 % 4], width, !book && seed % 3 == 0, seed % 4 == 0, seed);
  slim::mask const kept =
      seed % 2 == 0 ? slim::testing::random_mask24(rows, cols, seed) : slim::testing::random_mask(rows, cols, 6, 2, seed);
  return book ? format::pack(slim::testing::in_table(codes, std::vector<float>(16)), kept) : format::pack(codes, kept);
}

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  return slim_test::fresh_or_mutated(data, size, max_size, seed, sizeof(slim::packed_header), packed_matrix);
}

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::span<std::byte const> const bytes(reinterpret_cast<std::byte const*>(data), size);
  slim::unpack_limit const limit{.weights = 1 << 16, .weights_per_byte = 16};
  auto const read = format::unpack(bytes, limit);
  if (!read) {
    if (read.why().size() < 20) std::abort();
    return 0;
  }
  auto const* const uniform = read->codes.get_if<slim::integer_codes>();
  std::vector<std::byte> const again =
      uniform ? format::pack(*uniform, read->mask) : format::pack(*read->codes.get_if<slim::codebook_codes>(), read->mask);
  if (!std::equal(bytes.begin(), bytes.end(), again.begin(), again.end())) std::abort();
  return 0;
}
