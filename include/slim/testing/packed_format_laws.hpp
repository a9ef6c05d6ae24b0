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

/// What stands for 0 where a weight is pruned: the zero point, or the level 0 of a table.
[[nodiscard]] inline int code_of_zero(integer_codes const& codes, index_t i, index_t j) { return codes.zero_at(i, j); }
[[nodiscard]] inline int code_of_zero(codebook_codes const&, index_t, index_t) { return 8; }

/// The first weight that stands for something else after unpacking, as a sentence; empty if there is none.
template <class Codes>
[[nodiscard]] std::string changed_weight(named_codes<Codes> const& before, Codes const& codes, mask const& mask_after) {
  for (index_t i = 0; i < before.codes.rows(); ++i)
    for (index_t j = 0; j < before.codes.cols(); ++j) {
      bool const kept = before.kept.kept(i, j);
      int const code = kept ? int{before.codes.codes(i, j)} : code_of_zero(before.codes, i, j);
      if (codes.codes(i, j) != code || (kept && !mask_after.kept(i, j)))
        return message("(", i, ", ", j, ") ", kept ? "kept" : "pruned", ": code ", code, " became ", int{codes.codes(i, j)});
    }
  return {};
}

template <packed_format F, class Codes>
void judge_packed(violations& broken, named_codes<Codes> const& m) {
  collector judge(broken, m.name);
  std::vector<std::byte> const bytes = F::pack(m.codes, m.kept);
  judge.expect(F::byte_size(m.codes, m.kept) == static_cast<std::int64_t>(bytes.size()),
               "byte_size is the size of what pack returns", message(bytes.size()));
  result<unpacked_matrix> const read = F::unpack(bytes);
  if (!judge.expect(read.has_value(), "what was packed can be unpacked", read.why())) return;
  auto const* const codes = read->codes.template get_if<Codes>();
  if (!judge.expect(codes != nullptr, "the codes are of the same kind")) return;
  mask const& kept = read->mask;
  if (!judge.expect(codes->rows() == m.codes.rows() && codes->cols() == m.codes.cols() && kept.rows() == m.codes.rows() &&
                        kept.cols() == m.codes.cols(),
                    "codes and mask keep their shape"))
    return;
  Codes same_sides = *codes;
  same_sides.codes = m.codes.codes;
  judge.expect(same_bits(same_sides, m.codes), "bits, scales, zero points, levels and factors come back bit for bit");
  std::string const changed = changed_weight(m, *codes, kept);
  judge.expect(changed.empty(), "kept codes come back, the others stand for 0", changed);
  judge.expect(F::pack(*codes, kept) == bytes, "packing again gives the same bytes");
  auto const packs_and_reads_on = [&](auto const& where) {
    auto const other = F::unpack(bytes, {}, on(where));
    return F::pack(m.codes, m.kept, on(where)) == bytes && other && other->mask == kept &&
           same_bits(*other->codes.template get_if<Codes>(), *codes);
  };
  judge.expect(packs_and_reads_on(backwards_executor{}), "the same when tasks run backwards");
  judge.expect(packs_and_reads_on(thread_team_executor{}), "the same on several threads");
  std::vector<std::byte> longer = bytes;
  longer.push_back(std::byte{0});
  judge.expect(!F::unpack(longer).has_value(), "a byte too many is refused");
  std::span<std::byte const> const shorter = std::span(bytes).first(bytes.empty() ? 0 : bytes.size() - 1);
  judge.expect(!F::unpack(shorter).has_value(), "a byte too few is refused");
}

} // namespace detail

/// `byte_size` is the size of what `pack` returns; `unpack` gives back every kept code, what stands for 0 for the others, and
/// the side data bit for bit; packing that again gives the same bytes; every executor gives the same; a byte less or more is
/// refused. For integer codes and for codes in a table.
template <packed_format F>
[[nodiscard]] violations check_packed_format(std::vector<named_codes<integer_codes>> const& matrices = hard_codes(),
                                             std::vector<named_codes<codebook_codes>> const& tables = hard_table_codes()) {
  violations broken;
  for (auto const& m : matrices) detail::judge_packed<F>(broken, m);
  for (auto const& m : tables) detail::judge_packed<F>(broken, m);
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
