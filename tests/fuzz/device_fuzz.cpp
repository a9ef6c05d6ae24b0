// libFuzzer target of unpack_device: whatever it reads must pack to the same bytes.

#include "slim/kernels/cuda/pack_device.hpp"
#include "slim/testing/hard_codes.hpp"

#include "fresh_or_mutated.hpp"

#include <cstdlib>

namespace {

/// A small layer made from a seed, in at most a kilobyte and a half.
std::vector<std::byte> packed_layer(unsigned seed) {
  auto const rows = static_cast<slim::index_t>(seed % 5), cols = static_cast<slim::index_t>(seed / 5 % 131);
  slim::scale_block const blocks[] = {slim::per_tensor, slim::per_channel, slim::per_group(32), slim::per_group(64)};
  bool const sparse = seed % 3 == 0, zeros = !sparse && seed % 2 == 0;
  slim::integer_codes const codes = slim::testing::random_codes(
      rows, cols, 2 + static_cast<int>(seed / 7 % 3), blocks[seed / 2 % 4], slim::number_format::fp16, zeros, false, seed);
  slim::mask const kept = slim::testing::random_mask24(rows, cols, seed);
  return slim::pack_device(codes, sparse ? &kept : nullptr, nullptr).bytes;
}

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  return slim_test::fresh_or_mutated(data, size, max_size, seed, sizeof(slim::device_header), packed_layer);
}

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::span<std::byte const> const bytes(reinterpret_cast<std::byte const*>(data), size);
  auto const read = slim::unpack_device(bytes);
  if (!read) {
    if (read.why().size() < 20) std::abort();
    return 0;
  }
  slim::mask const* const kept = read->mask ? &*read->mask : nullptr;
  slim::adapter const* const low_rank = read->adapter ? &*read->adapter : nullptr;
  auto const again =
      std::visit([&](auto const& codes) { return slim::pack_device(codes, kept, low_rank, read->options).bytes; }, read->codes);
  if (!std::equal(bytes.begin(), bytes.end(), again.begin(), again.end())) std::abort();
  return 0;
}
