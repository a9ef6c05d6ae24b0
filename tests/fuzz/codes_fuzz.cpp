// libFuzzer target of the formats of version 2 (books per row, second level, parts of columns, residuals): whatever unpack
// reads must pack to the same bytes.

#include "slim/packing/pack_codes.hpp"

#include "fresh_or_mutated.hpp"
#include "support/system_codes.hpp"

#include <cstdlib>

namespace {

/// A small packed matrix made from a seed.
std::vector<std::byte> packed_matrix(unsigned seed) {
  auto const all = slim_test::small_codes();
  return slim::pack_codes(all[seed % all.size()]);
}

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  return slim_test::fresh_or_mutated(data, size, max_size, seed, sizeof(slim::packed_header), packed_matrix);
}

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::span<std::byte const> const bytes(reinterpret_cast<std::byte const*>(data), size);
  auto const read = slim::unpack(bytes, {.weights = 1 << 16, .weights_per_byte = 16});
  if (!read) {
    if (read.why().size() < 20) std::abort();
    return 0;
  }
  if (static_cast<slim::packed_kind>(data[6]) < slim::packed_kind::residuals) return 0; // fuzzed by themselves
  std::vector<std::byte> const again = slim::pack_codes(read->codes);
  if (!std::equal(bytes.begin(), bytes.end(), again.begin(), again.end())) std::abort();
  return 0;
}
