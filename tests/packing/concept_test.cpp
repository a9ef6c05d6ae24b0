// Near misses of the concept, and broken formats that the law suite has to find.

#include "slim/packing/unpack.hpp"
#include "slim/testing/archetypes.hpp"
#include "slim/testing/packed_format_laws.hpp"

#include <catch2/catch.hpp>

namespace {

using slim::codebook_codes;
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
  static bytes_t pack(integer_codes const&, mask const&, slim::context const& = {});
};
struct unpack_throws_instead : slim::nm_bitmask {
  static unpacked_matrix unpack(std::span<std::byte const>, unpack_limit = {}, slim::context const& = {});
};
struct without_limit : slim::nm_bitmask {
  static result<unpacked_matrix> unpack(std::span<std::byte const>);
};
struct serial_only : slim::nm_bitmask {
  static bytes_t pack(integer_codes const&, mask const&);
  static bytes_t pack(codebook_codes const&, mask const&);
};
struct size_in_words : slim::nm_bitmask {
  static float byte_size(integer_codes const&, mask const&);
  static float byte_size(codebook_codes const&, mask const&);
};
static_assert(!slim::packed_format<without_kind> && !slim::packed_format<without_code_book> &&
              !slim::packed_format<unpack_throws_instead> && !slim::packed_format<without_limit> &&
              !slim::packed_format<size_in_words> && !slim::packed_format<serial_only> && !slim::packed_format<int>);

struct wrong_size : slim::nm_bitmask {
  template <class Codes>
  static std::int64_t byte_size(Codes const& codes, mask const& kept) {
    return slim::nm_bitmask::byte_size(codes, kept) + (codes.rows() == 7 ? 1 : 0);
  }
};

/// Takes what is not the zero point for kept, and so reads the codes of pruned weights.
struct packs_by_value : slim::nm_bitmask {
  static bytes_t pack(codebook_codes const& codes, mask const& kept, slim::context const& ctx = {}) {
    return slim::nm_bitmask::pack(codes, kept, ctx);
  }
  static bytes_t pack(integer_codes const& codes, mask const& kept, slim::context const& ctx = {}) {
    mask nonzero(kept.rows(), kept.cols());
    for (slim::index_t i = 0; i < kept.rows(); ++i)
      for (slim::index_t j = 0; j < kept.cols(); ++j) nonzero.keep(i, j, codes.codes(i, j) != codes.zero_at(i, j));
    return slim::nm_bitmask::pack(codes, nonzero, ctx);
  }
  template <class Codes>
  static std::int64_t byte_size(Codes const& codes, mask const& kept) {
    return std::ssize(pack(codes, kept));
  }
};

struct forgets_factors : slim::nm_bitmask {
  static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                        slim::context const& ctx = {}) {
    auto read = slim::nm_bitmask::unpack(bytes, limit, ctx);
    if (!read || !read->codes.get_if<integer_codes>()) return read;
    integer_codes codes = *read->codes.get_if<integer_codes>();
    codes.channel_factors.clear();
    return unpacked_matrix{read->mask, std::move(codes)};
  }
};

struct leaves_pruned_codes_at_0 : slim::nm_bitmask {
  static result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                        slim::context const& ctx = {}) {
    auto read = slim::nm_bitmask::unpack(bytes, limit, ctx);
    if (!read || !read->codes.get_if<integer_codes>()) return read;
    integer_codes codes = *read->codes.get_if<integer_codes>();
    for (slim::index_t i = 0; i < codes.rows(); ++i)
      for (slim::index_t j = 0; j < codes.cols(); ++j)
        if (!read->mask.kept(i, j)) codes.codes(i, j) = 0;
    return unpacked_matrix{read->mask, std::move(codes)};
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
  CHECK_THAT(found<packs_by_value>(), Contains("the others stand for 0"));
  CHECK_THAT(found<forgets_factors>(), Contains("factors come back bit for bit"));
  CHECK_THAT(found<leaves_pruned_codes_at_0>(), Contains("the others stand for 0"));
  CHECK_THAT(found<takes_more_bytes>(), Contains("a byte too many is refused"));
  CHECK_THAT(found<slim::testing::packed_format_archetype>(), Contains("what was packed can be unpacked"));
}
