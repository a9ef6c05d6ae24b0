// Fields of a few bits: against sums of powers of two, and at the end of the bytes.

#include "slim/core/random.hpp"
#include "slim/packing/bit_fields.hpp"

#include <catch2/catch.hpp>

TEST_CASE("a row of fields is one number, the first field in its lowest bits") {
  for (int bits = 1; bits <= 7; ++bits) {
    std::uint64_t expected = 0;
    int const count = 56 / bits;
    std::vector<std::byte> bytes(2, std::byte{0xaa});
    slim::detail::field_writer fields(slim::detail::append_room(bytes, slim::detail::field_bytes(count, bits)));
    for (int k = 0; k < count; ++k) {
      auto const field = static_cast<unsigned>(slim::random_bits(7, static_cast<std::uint64_t>(k)) % (1u << bits));
      expected += std::uint64_t{field} << (k * bits);
      fields.put(field, bits);
    }
    fields.end_row();
    std::uint64_t number = 0;
    for (std::size_t b = 2; b < bytes.size(); ++b) number += static_cast<std::uint64_t>(bytes[b]) << (8 * (b - 2));
    CHECK(bytes[1] == std::byte{0xaa});
    CHECK(number == expected);
  }
}

TEST_CASE("fields of every width come back, and every row starts on a byte") {
  for (int bits = 1; bits <= 8; ++bits)
    for (std::int64_t count = 0; count < 20; ++count) {
      std::vector<std::byte> bytes;
      slim::detail::field_writer writer(slim::detail::append_room(bytes, 3 * slim::detail::field_bytes(count, bits)));
      auto const field = [&](std::int64_t row, std::int64_t k) {
        return static_cast<unsigned>(slim::random_bits(static_cast<std::uint64_t>(row), static_cast<std::uint64_t>(k)) &
                                     ((1u << bits) - 1u));
      };
      for (int row = 0; row < 3; ++row) {
        for (std::int64_t k = 0; k < count; ++k) writer.put(field(row, k), bits);
        writer.end_row();
      }
      slim::detail::field_reader reader(bytes);
      for (int row = 0; row < 3; ++row) {
        for (std::int64_t k = 0; k < count; ++k) REQUIRE(reader.get(bits) == field(row, k));
        CHECK(reader.end_row());
      }
      CHECK(reader.get(bits) == 0); // behind the end
    }
}

TEST_CASE("codes that are read many at a time are the fields, from any place in a row") {
  for (int bits = 1; bits <= 8; ++bits)
    for (std::int64_t count = 0; count < 40; ++count)
      for (std::int64_t const before : {0, 1, 3}) { // read one by one first
        std::vector<std::byte> bytes;
        slim::detail::field_writer writer(slim::detail::append_room(bytes, slim::detail::field_bytes(before + count, bits)));
        auto const code = [&](std::int64_t k) {
          int const drawn = static_cast<int>(slim::random_bits(5, static_cast<std::uint64_t>(k)) % (1u << bits));
          return drawn - (1 << (bits - 1));
        };
        for (std::int64_t k = 0; k < before + count; ++k) writer.put(slim::detail::field_of(code(k), bits), bits);
        writer.end_row();
        slim::detail::field_reader reader(bytes);
        for (std::int64_t k = 0; k < before; ++k) REQUIRE(slim::detail::code_of(reader.get(bits), bits) == code(k));
        std::vector<std::int8_t> found(static_cast<std::size_t>(count) + 1, 77);
        reader.get_codes(bits, count, found.data());
        for (std::int64_t k = 0; k < count; ++k) REQUIRE(found[static_cast<std::size_t>(k)] == code(before + k));
        CHECK(found.back() == 77);
        CHECK(reader.end_row());
      }
}

TEST_CASE("a bit that is set behind the last field of a row is seen") {
  std::vector<std::byte> const bytes = {std::byte{0x80}, std::byte{0x07}};
  slim::detail::field_reader reader(bytes);
  CHECK(reader.get(3) == 0);
  CHECK_FALSE(reader.end_row());
  CHECK(reader.get(3) == 7);
  CHECK(reader.end_row());
}

TEST_CASE("bytes of fields are counted without overflow") {
  CHECK(slim::detail::field_bytes(0, 3) == 0);
  CHECK(slim::detail::field_bytes(1, 3) == 1);
  CHECK(slim::detail::field_bytes(3, 3) == 2);
  CHECK(slim::detail::field_bytes(8, 3) == 3);
  CHECK(slim::detail::field_bytes(std::int64_t{1} << 60, 7) == (std::int64_t{1} << 57) * 7);
}

TEST_CASE("a read that does not fit gives zero, and so do all after it") {
  std::vector<std::byte> const bytes(6, std::byte{0xff});
  slim::detail::byte_reader reader(bytes);
  CHECK(reader.read<std::uint32_t>() == 0xffffffffu);
  CHECK(reader.read<std::uint32_t>() == 0);
  CHECK(reader.failed());
  CHECK(reader.take(1).empty());
  CHECK(reader.left() == 2);
  slim::detail::byte_reader other(bytes, 100);
  CHECK(other.left() == 0);
  CHECK(other.take(-1).empty());
  CHECK(other.failed());
}
