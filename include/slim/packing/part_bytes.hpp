#pragma once
/// @file
/// `part_bytes`: the packed bytes of a matrix's parts, side by side, and the order of its columns.
/// docs/formats/column_parts.md.

#include "slim/packing/plain_numbers.hpp"
#include "slim/quantization/codes/column_parts.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// The order of the columns, then each part: how many bytes, and its bytes.
class part_bytes {
public:
  static constexpr packed_kind kind = packed_kind::column_parts;
  static constexpr index_t most_parts = 64; ///< of a matrix

  /// Parts (checked, as column_parts::check) and the packed bytes of each. @throws config_error on more than 64 parts, or none.
  [[nodiscard]] static std::vector<std::byte> pack(column_parts const& codes,
                                                   std::vector<std::vector<std::byte>> const& parts) {
    if (parts.empty() || std::ssize(parts) > most_parts)
      throw config_error(message("column_parts: ", parts.size(), " parts, possible are 1 to ", most_parts));
    std::vector<std::byte> out;
    detail::append_bytes(out,
                         detail::second_header(kind, codes.rows(), codes.cols(), 0, number_format::fp32, std::ssize(parts)));
    for (std::int32_t const column : codes.order) detail::append_column(out, column, codes.cols());
    for (auto const& part : parts) {
      detail::append_bytes(out, static_cast<std::uint64_t>(part.size()));
      out.insert(out.end(), part.begin(), part.end());
    }
    return out;
  }

  /// What bytes hold.
  struct found {
    std::vector<std::int32_t> order;               ///< of the columns; not checked
    std::vector<std::span<std::byte const>> parts; ///< their packed bytes
    index_t rows = 0;                              ///< of the matrix
  };
  /// The order, and the bytes of each part. The failure names the byte and what is wrong.
  [[nodiscard]] static result<found> unpack(std::span<std::byte const> bytes, unpack_limit limit = {}) {
    auto const h = read_packed_header(bytes, limit);
    if (!h) return failure{h.why()};
    if (h->kind != kind) return failure{message("column_parts: these bytes are ", name_of(h->kind))};
    if (h->entries < 1 || h->entries > most_parts || h->scale_format != 0 || h->block_rows != 0 || h->block_cols != 0)
      return failure{message("column_parts: ", h->entries, " parts, format ", int{h->scale_format}, ", blocks of ",
                             h->block_rows, " x ", h->block_cols)};
    detail::byte_reader reader(bytes, sizeof(packed_header));
    if (std::cmp_less(reader.left(), detail::column_bytes(h->cols) * h->cols))
      return failure{message("column_parts: ", bytes.size(), " bytes, the order of ", h->cols, " columns needs more")};
    found out{.order = {}, .parts = {}, .rows = h->rows};
    for (index_t j = 0; j < h->cols; ++j) out.order.push_back(static_cast<std::int32_t>(detail::read_column(reader, h->cols)));
    for (index_t k = 0; k < h->entries; ++k) {
      std::size_t const at = reader.position();
      auto const size = reader.read<std::uint64_t>();
      out.parts.push_back(reader.take(size));
      if (reader.failed())
        return failure{message("column_parts: byte ", at, ": part ", k, " of ", size, " bytes is not there")};
    }
    if (reader.left() != 0) return failure{message("column_parts: ", reader.left(), " bytes behind the last part")};
    return out;
  }
};

} // namespace SLIM_ABI
} // namespace slim
