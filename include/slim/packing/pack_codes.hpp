#pragma once
/// @file
/// `pack_codes`: codes of any kind of the library in the packed format that holds them.

#include "slim/packing/unpack.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Bytes of codes as in_parts makes them, all of whose weights are kept: dense_codes, second_level or row_books, in
/// column_parts, in residuals. @throws shape_error, config_error, nonfinite_error naming what no format holds
[[nodiscard]] inline std::vector<std::byte> pack_codes(any_codes const& codes, context const& ctx = {}) {
  codes.check("pack_codes");
  if (auto const* const c = codes.get_if<integer_codes>())
    return c->offsets.empty() ? dense_codes::pack(*c, ctx) : second_level::pack(*c, ctx);
  if (auto const* const c = codes.get_if<codebook_codes>())
    return c->book_block == per_channel ? row_books::pack(*c, ctx)
                                        : dense_codes::pack(*c, detail::all_kept(c->rows(), c->cols()), ctx);
  if (auto const* const c = codes.get_if<with_outliers<any_codes>>()) {
    if (c->base.get_if<with_outliers<any_codes>>()) throw config_error("pack_codes: outliers beside outliers");
    return residuals::pack(c->outliers, c->cols(), pack_codes(c->base, ctx));
  }
  if (auto const* const c = codes.get_if<column_parts>()) {
    std::vector<std::vector<std::byte>> parts;
    for (any_codes const& part : c->parts) {
      if (part.get_if<with_outliers<any_codes>>() || part.get_if<column_parts>())
        throw config_error("pack_codes: a part of columns has outliers or parts of its own");
      parts.push_back(pack_codes(part, ctx));
    }
    return part_bytes::pack(*c, parts);
  }
  throw config_error("pack_codes: no packed format holds codes of this kind");
}

} // namespace SLIM_ABI
} // namespace slim
