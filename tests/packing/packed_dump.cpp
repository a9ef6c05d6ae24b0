// packed_dump: packed matrices and what they have to mean, a line each, for tests/golden/packing_oracle.py:
//   kind;bytes;codes;mask;scales;zero points;factors;code book      bytes in hex, floats as the hex of their bits
//   entropy;coded bytes;bytes
//   values;bytes;values

#include "slim/core/random.hpp"
#include "slim/packing/entropy_coded.hpp"
#include "slim/packing/pack_codes.hpp"
#include "slim/testing/hard_codes.hpp"

#include "support/system_codes.hpp"

#include <cstdio>

namespace {

int code_of_zero(slim::integer_codes const& codes, slim::index_t i, slim::index_t j) { return codes.zero_at(i, j); }
int code_of_zero(slim::codebook_codes const&, slim::index_t, slim::index_t) { return 8; }

template <class F, class Codes>
void print(slim::testing::named_codes<Codes> const& m) {
  constexpr bool table = std::is_same_v<Codes, slim::codebook_codes>; // its codes are written signed: level k is k - 8
  std::printf("%d;", static_cast<int>(F::kind));
  for (std::byte const b : F::pack(m.codes, m.kept)) std::printf("%02x", static_cast<unsigned>(b));
  auto const print_float = [](float value) { std::printf("%08x ", std::bit_cast<std::uint32_t>(value)); };
  std::printf(";");
  for (slim::index_t i = 0; i < m.codes.rows(); ++i)
    for (slim::index_t j = 0; j < m.codes.cols(); ++j)
      std::printf("%d ", (m.kept.kept(i, j) ? m.codes.codes(i, j) : code_of_zero(m.codes, i, j)) - (table ? 8 : 0));
  std::printf(";");
  for (slim::index_t i = 0; i < m.codes.rows(); ++i)
    for (slim::index_t j = 0; j < m.codes.cols(); ++j) std::printf("%d ", m.kept.kept(i, j) ? 1 : 0);
  std::printf(";");
  for (slim::index_t k = 0; k < m.codes.scales.size(); ++k) print_float(m.codes.scales.data()[k]);
  std::printf(";");
  if constexpr (!table)
    for (slim::index_t k = 0; k < m.codes.zeros.size(); ++k) std::printf("%d ", m.codes.zeros.data()[k]);
  std::printf(";");
  for (float const factor : m.codes.channel_factors) print_float(factor);
  std::printf(";");
  if constexpr (table)
    for (slim::index_t k = 0; k < 16; ++k) print_float(m.codes.books.empty() ? 0.0f : m.codes.books.data()[k]);
  std::printf("\n");
}

template <class Matrices>
void print_all(Matrices const& matrices) {
  for (auto const& m : matrices) {
    print<slim::dense_codes>(m);
    print<slim::sparse24>(m);
    print<slim::nm_bitmask>(m);
    print<slim::csr_codes>(m);
  }
}

void print_hex(std::vector<std::byte> const& bytes) {
  for (std::byte const b : bytes) std::printf("%02x", static_cast<unsigned>(b));
}

/// Bytes that are mostly small, in records of four with a plane for the first: short ones, and some with two chunks.
void print_entropy_coded(std::size_t count) {
  std::vector<std::byte> all;
  for (std::size_t k = 0; k < count; ++k) {
    double const z = slim::random_normal(4, k);
    all.push_back(static_cast<std::byte>(static_cast<int>((k % 4 == 0 ? 2 : 9) * z * z) & 255));
  }
  std::printf("entropy;");
  print_hex(slim::entropy_encode(all, {0, 1, 1, 1}));
  std::printf(";");
  print_hex(all);
  std::printf("\n");
}

/// Codes of a format of version 2.
void print_values(slim::any_codes const& codes) {
  std::printf("values;");
  print_hex(slim::pack_codes(codes));
  std::printf(";");
  slim::matrix<float> values(codes.rows(), codes.cols());
  codes.dequantize_into(values.view());
  for (slim::index_t k = 0; k < values.size(); ++k) std::printf("%08x ", std::bit_cast<std::uint32_t>(values.data()[k]));
  std::printf("\n");
}

} // namespace

int main() {
  for (std::size_t const count : {0u, 3u, 4u, 200u, 5001u, 600002u}) print_entropy_coded(count);
  print_all(slim::testing::hard_codes());
  print_all(slim::testing::hard_table_codes());
  for (slim::any_codes const& codes : slim_test::small_codes()) print_values(codes);
}
