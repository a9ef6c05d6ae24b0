#pragma once
/// @file
/// Laws of a packed format.

#include "slim/testing/executors.hpp"
#include "slim/testing/hard_codes.hpp"
#include "slim/testing/same_bits.hpp"
#include "slim/testing/violation.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

namespace detail {

/// The first weight that stands for something else after unpacking, as a sentence; empty if there is none.
[[nodiscard]] inline std::string changed_weight(named_codes const& before, unpacked_matrix const& after) {
  for (index_t i = 0; i < before.codes.rows(); ++i)
    for (index_t j = 0; j < before.codes.cols(); ++j) {
      bool const kept = before.kept.kept(i, j);
      int const code = kept ? before.codes.codes(i, j) : before.codes.zero_at(i, j);
      if (after.codes.codes(i, j) != code || (kept && !after.kept.kept(i, j)))
        return message("(", i, ", ", j, ") ", kept ? "kept" : "pruned", ": code ", code, " became ",
                       static_cast<int>(after.codes.codes(i, j)));
    }
  return {};
}

[[nodiscard]] inline bool same_book(std::optional<code_book> const& a, std::optional<code_book> const& b) noexcept {
  return a.has_value() == b.has_value() &&
         (!a || std::equal(a->begin(), a->end(), b->begin(), [](float x, float y) { return same_bits(x, y); }));
}

} // namespace detail

/// `byte_size` is the size of what `pack` returns; `unpack` gives back every kept code, the zero point for the others, and the
/// side data bit for bit; packing that again gives the same bytes; every executor gives the same; a byte less or more is
/// refused.
template <packed_format F>
[[nodiscard]] violations check_packed_format(std::vector<named_codes> const& matrices = hard_codes()) {
  violations broken;
  for (named_codes const& m : matrices) {
    detail::collector judge(broken, m.name);
    std::vector<std::byte> const bytes = F::pack(m.codes, m.kept, m.book);
    judge.expect(F::byte_size(m.codes, m.kept, m.book) == static_cast<std::int64_t>(bytes.size()),
                 "byte_size is the size of what pack returns", message(bytes.size()));
    result<unpacked_matrix> const read = F::unpack(bytes);
    if (!judge.expect(read.has_value(), "what was packed can be unpacked", read.why())) continue;
    if (!judge.expect(read->codes.rows() == m.codes.rows() && read->codes.cols() == m.codes.cols() &&
                          read->kept.rows() == m.codes.rows() && read->kept.cols() == m.codes.cols(),
                      "codes and mask keep their shape"))
      continue;
    integer_codes same_sides = read->codes;
    same_sides.codes = m.codes.codes;
    judge.expect(same_bits(same_sides, m.codes), "bits, scales, zero points and factors come back bit for bit");
    judge.expect(detail::same_book(read->book, m.book), "the code book comes back bit for bit");
    std::string const changed = detail::changed_weight(m, *read);
    judge.expect(changed.empty(), "kept codes come back, the others are the zero point", changed);
    judge.expect(F::pack(read->codes, read->kept, read->book) == bytes, "packing again gives the same bytes");
    auto const packs_and_reads_on = [&](auto const& where) {
      auto const other = F::unpack(bytes, {}, on(where));
      return F::pack(m.codes, m.kept, m.book, on(where)) == bytes && other && other->kept == read->kept &&
             same_bits(other->codes, read->codes);
    };
    judge.expect(packs_and_reads_on(backwards_executor{}), "the same when tasks run backwards");
    judge.expect(packs_and_reads_on(thread_team_executor{}), "the same on several threads");
    std::vector<std::byte> longer = bytes;
    longer.push_back(std::byte{0});
    judge.expect(!F::unpack(longer).has_value(), "a byte too many is refused");
    std::span<std::byte const> const shorter = std::span(bytes).first(bytes.empty() ? 0 : bytes.size() - 1);
    judge.expect(!F::unpack(shorter).has_value(), "a byte too few is refused");
  }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
