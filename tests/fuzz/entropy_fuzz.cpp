// libFuzzer target of entropy-coded bytes and matrices: whatever is read comes back from what it is coded as. (Bytes have more
// than one code: frequencies need not be the best.)

#include "slim/packing/dense_codes.hpp"
#include "slim/packing/entropy_coded_matrix.hpp"

#include "fresh_or_mutated.hpp"

#include "slim/core/random.hpp"

#include <cstdlib>

namespace {

std::vector<std::byte> fresh_bytes(unsigned seed) {
  std::vector<std::byte> all;
  for (unsigned k = 0; k < seed % 700; ++k) all.push_back(static_cast<std::byte>(slim::random_bits(seed, k) % (1 + seed % 5)));
  if (seed % 4 == 3) { // a matrix
    slim::integer_codes codes(1 + seed % 5, 1 + seed % 37, static_cast<int>(2 + seed % 7), slim::per_group(8),
                              slim::number_format::fp16);
    for (slim::index_t k = 0; k < codes.codes.size(); ++k)
      codes.codes.data()[k] = static_cast<std::int8_t>(slim::random_bits(seed, static_cast<unsigned>(k)) % 2);
    return slim::entropy_encode_matrix(slim::dense_codes::pack(codes));
  }
  slim::record_planes const planes[] = {{0}, {0, 1}, {0, 1, 1}};
  return slim::entropy_encode(all, planes[seed % 3]);
}

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  return slim_test::fresh_or_mutated(data, size, max_size, seed, 24, fresh_bytes);
}

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  constexpr std::uint64_t most = 1 << 16;
  auto const bytes = std::as_bytes(std::span(data, size));
  if (slim::is_coded_matrix(bytes)) {
    auto const packed = slim::entropy_decode_matrix(bytes, {.weights = most, .weights_per_byte = 1});
    if (!packed) return packed.why().size() < 20 ? (std::abort(), 0) : 0;
    if (!slim::read_packed_header(*packed, {.weights = most})) std::abort();
    return 0;
  }
  auto const read = slim::entropy_decode(bytes, most);
  if (!read) {
    if (read.why().size() < 20) std::abort();
    return 0;
  }
  if (read->size() > most) std::abort();
  auto const again = slim::entropy_decode(slim::entropy_encode(*read, {0, 1}), most);
  if (!again || *again != *read) std::abort();
  return 0;
}
