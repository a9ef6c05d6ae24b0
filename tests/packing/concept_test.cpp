// Near misses of the concept, and broken formats that the law suite has to find.

#include "slim/packing/unpack.hpp"
#include "slim/testing/archetypes.hpp"
#include "slim/testing/packed_format_laws.hpp"

#include <catch2/catch.hpp>

namespace {

using slim::code_book;
using slim::integer_codes;
using slim::mask;
using slim::result;
using slim::unpack_limit;
using slim::unpacked_matrix;
using bytes_t = std::vector<std::byte>;

struct without_kind : slim::nm_bitmask {
private:
  static constexpr int kind = 0;
};
struct without_code_book : slim::nm_bitmask {
  static bytes_t pack(integer_codes const&, mask const&);
};
struct unpack_throws_instead : slim::nm_bitmask {
  static unpacked_matrix unpack(std::span<std::byte const>, unpack_limit = {}, slim::context const& = {});
};
struct without_limit : slim::nm_bitmask {
  static result<unpacked_matrix> unpack(std::span<std::byte const>);
};
struct serial_only : slim::nm_bitmask {
  static bytes_t pack(integer_codes const&, mask const&, std::optional<code_book> const& = {});
};
struct size_in_words : slim::nm_bitmask {
  static float byte_size(integer_codes const&, mask const&, std::optional<code_book> const& = {});
};
static_assert(!slim::packed_format<without_kind> && !slim::packed_format<without_code_book> &&
              !slim::packed_format<unpack_throws_instead> && !slim::packed_format<without_limit> &&
              !slim::packed_format<size_in_words> && !slim::packed_format<serial_only> && !slim::packed_format<int>);

struct wrong_size : slim::nm_bitmask {
  static std::int64_t byte_size(integer_codes const& codes, mask const& kept, std::optional<code_book> const& book = {}) {
    return slim::nm_bitmask::byte_size(codes, kept, book) + (codes.rows() == 7 ? 1 : 0);
  }
};

/// Takes what is not the zero point for kept, and so reads the codes of pruned weights.
struct packs_by_value : slim::nm_bitmask {
  static bytes_t pack(integer_codes const& codes, mask const& kept, std::optional<code_book> const& book = {},
                      slim::context const& ctx = {}) {
    mask nonzero(kept.rows(), kept.cols());
    for (slim::index_t i = 0; i < kept.rows(); ++i)
      for (slim::index_t j = 0; j < kept.cols(); ++j) nonzero.keep(i, j, codes.codes(i, j) != codes.zero_at(i, j));
    return slim::nm_bitmask::pack(codes, nonzero, book, ctx);
  }
  static std::int64_t byte_size(integer_codes const& codes, mask const& kept, std::optional<code_book> const& book = {}) {
    return std::ssize(pack(codes, kept, book));
  }
};

struct forgets_factors : slim::nm_bitmask {
  static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                        slim::context const& ctx = {}) {
    auto read = slim::nm_bitmask::unpack(bytes, limit, ctx);
    if (read) read->codes.channel_factors.clear();
    return read;
  }
};

struct leaves_pruned_codes_at_0 : slim::nm_bitmask {
  static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                        slim::context const& ctx = {}) {
    auto read = slim::nm_bitmask::unpack(bytes, limit, ctx);
    if (read)
      for (slim::index_t i = 0; i < read->kept.rows(); ++i)
        for (slim::index_t j = 0; j < read->kept.cols(); ++j)
          if (!read->kept.kept(i, j)) read->codes.codes(i, j) = 0;
    return read;
  }
};

struct takes_more_bytes : slim::dense_codes {
  static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                        slim::context const& ctx = {}) {
    auto read = slim::dense_codes::unpack(bytes, limit, ctx);
    return read || bytes.empty() ? std::move(read) : slim::dense_codes::unpack(bytes.first(bytes.size() - 1), limit, ctx);
  }
};

template <class F>
std::string found() {
  return slim::testing::describe(slim::testing::check_packed_format<F>());
}

} // namespace

TEST_CASE("the law suite finds formats that are wrong") {
  using Catch::Contains;
  CHECK(found<slim::nm_bitmask>() == "");
  CHECK_THAT(found<wrong_size>(), Contains("byte_size is the size of what pack returns [7 x 130"));
  CHECK_THAT(found<packs_by_value>(), Contains("the others are the zero point"));
  CHECK_THAT(found<forgets_factors>(), Contains("factors come back bit for bit"));
  CHECK_THAT(found<leaves_pruned_codes_at_0>(), Contains("the others are the zero point"));
  CHECK_THAT(found<takes_more_bytes>(), Contains("a byte too many is refused"));
  CHECK_THAT(found<slim::testing::packed_format_archetype>(), Contains("what was packed can be unpacked"));
}
