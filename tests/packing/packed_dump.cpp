// packed_dump: packed matrices and what they have to mean, a line each, for tests/golden/packing_oracle.py:
//   kind;bytes;codes;mask;scales;zero points;factors;code book      bytes in hex, floats as the hex of their bits

#include "slim/packing/unpack.hpp"
#include "slim/testing/hard_codes.hpp"

#include <cstdio>

namespace {

template <class F>
void print(slim::testing::named_codes const& m) {
  std::printf("%d;", static_cast<int>(F::kind));
  for (std::byte const b : F::pack(m.codes, m.kept, m.book)) std::printf("%02x", static_cast<unsigned>(b));
  auto const print_float = [](float value) { std::printf("%08x ", std::bit_cast<std::uint32_t>(value)); };
  std::printf(";");
  for (slim::index_t i = 0; i < m.codes.rows(); ++i)
    for (slim::index_t j = 0; j < m.codes.cols(); ++j)
      std::printf("%d ", m.kept.kept(i, j) ? m.codes.codes(i, j) : m.codes.zero_at(i, j));
  std::printf(";");
  for (slim::index_t i = 0; i < m.codes.rows(); ++i)
    for (slim::index_t j = 0; j < m.codes.cols(); ++j) std::printf("%d ", m.kept.kept(i, j) ? 1 : 0);
  std::printf(";");
  for (slim::index_t k = 0; k < m.codes.scales.size(); ++k) print_float(m.codes.scales.data()[k]);
  std::printf(";");
  for (slim::index_t k = 0; k < m.codes.zeros.size(); ++k) std::printf("%d ", m.codes.zeros.data()[k]);
  std::printf(";");
  for (float const factor : m.codes.channel_factors) print_float(factor);
  std::printf(";");
  if (m.book)
    for (float const value : *m.book) print_float(value);
  std::printf("\n");
}

} // namespace

int main() {
  for (auto const& m : slim::testing::hard_codes()) {
    print<slim::dense_codes>(m);
    print<slim::sparse24>(m);
    print<slim::nm_bitmask>(m);
    print<slim::csr_codes>(m);
  }
}
