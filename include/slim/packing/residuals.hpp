#pragma once
/// @file
/// `residuals`: the outliers of a matrix as compressed sparse rows, around the packed bytes of its codes (SpQR, arXiv
/// 2306.03078; SqueezeLLM, arXiv 2306.07629). docs/formats/residuals.md.

#include "slim/packing/plain_numbers.hpp"
#include "slim/quantization/codes/with_outliers.hpp"

#include <limits>

namespace slim {
inline namespace SLIM_ABI {

/// Where each row begins among the entries, their columns and numbers, then the bytes of the codes they are added to.
class residuals {
public:
  static constexpr packed_kind kind = packed_kind::residuals;

  /// A residual (checked, as with_outliers::check) around the packed codes of the same matrix. @throws config_error if it has
  /// no entries, if columns do not ascend within a row, or if numbers are not of its format; nonfinite_error
  [[nodiscard]] static std::vector<std::byte> pack(sparse_residual const& r, index_t cols,
                                                   std::vector<std::byte> const& codes) {
    index_t const rows = std::ssize(r.row_begin) - 1;
    if (r.count() == 0 || r.count() > std::numeric_limits<std::uint32_t>::max())
      throw config_error(message("residuals: ", r.count(), " entries, possible are 1 to 2^32 - 1"));
    std::vector<std::byte> out;
    out.reserve(sizeof(packed_header) + static_cast<std::size_t>(4 * (rows + 1) + 8 * r.count()) + codes.size());
    detail::append_bytes(out, detail::second_header(kind, rows, cols, 0, r.format, r.count()));
    for (index_t const begin : r.row_begin) detail::append_bytes(out, static_cast<std::uint32_t>(begin));
    for (index_t i = 0; i < rows; ++i)
      for (index_t k = r.row_begin[static_cast<std::size_t>(i)]; k < r.row_begin[static_cast<std::size_t>(i + 1)]; ++k) {
        std::int32_t const column = r.columns[static_cast<std::size_t>(k)];
        if (k > r.row_begin[static_cast<std::size_t>(i)] && column <= r.columns[static_cast<std::size_t>(k - 1)])
          throw config_error(
              message("residuals: entries of row ", i, " are not in the order of their columns, at column ", column));
        detail::append_column(out, column, cols);
      }
    detail::append_numbers(out, kind, "entry", r.values.data(), r.count(), r.format);
    out.insert(out.end(), codes.begin(), codes.end());
    return out;
  }

  /// The residual, and where the bytes of the codes begin. The failure names the byte or the row and what is wrong.
  [[nodiscard]] static result<std::pair<sparse_residual, std::size_t>> unpack(std::span<std::byte const> bytes,
                                                                              unpack_limit limit = {}) {
    auto const h = read_packed_header(bytes, limit);
    if (!h) return failure{h.why()};
    if (h->kind != kind) return failure{message("residuals: these bytes are ", name_of(h->kind))};
    if (h->entries < 1 || h->entries > std::numeric_limits<std::uint32_t>::max() || h->block_rows != 0 || h->block_cols != 0)
      return failure{message("residuals: ", h->entries, " entries, blocks of ", h->block_rows, " x ", h->block_cols)};
    std::int64_t const each = detail::column_bytes(h->cols) + bit_width(h->format()) / 8;
    detail::byte_reader reader(bytes, sizeof(packed_header));
    if (std::cmp_less(reader.left(), 4 * (h->rows + 1) + each * h->entries))
      return failure{message("residuals: ", bytes.size(), " bytes, ", h->entries, " entries in ", h->rows, " rows need more")};
    sparse_residual r{.row_begin = {}, .columns = {}, .values = {}, .format = h->format()};
    if (std::string const why = read(*h, reader, r); !why.empty()) return failure{message("residuals: ", why)};
    return std::pair(std::move(r), reader.position());
  }

private:
  static std::string read(packed_header const& h, detail::byte_reader& reader, sparse_residual& r) {
    r.row_begin.resize(static_cast<std::size_t>(h.rows + 1));
    for (index_t i = 0; i <= h.rows; ++i) {
      std::size_t const at = reader.position();
      index_t const begin = reader.read<std::uint32_t>();
      if (begin < (i == 0 ? 0 : r.row_begin[static_cast<std::size_t>(i - 1)]) || begin > h.entries || (i == 0 && begin != 0))
        return message("byte ", at, ": row ", i, " begins at entry ", begin, " of ", h.entries);
      r.row_begin[static_cast<std::size_t>(i)] = begin;
    }
    if (r.row_begin.back() != h.entries) return message("rows end at entry ", r.row_begin.back(), " of ", h.entries);
    r.columns.resize(static_cast<std::size_t>(h.entries));
    for (index_t i = 0; i < h.rows; ++i) {
      index_t before = -1;
      for (index_t k = r.row_begin[static_cast<std::size_t>(i)]; k < r.row_begin[static_cast<std::size_t>(i + 1)]; ++k) {
        std::size_t const at = reader.position();
        index_t const column = detail::read_column(reader, h.cols);
        if (column <= before || column >= h.cols) return message("byte ", at, ": row ", i, " has an entry in column ", column);
        r.columns[static_cast<std::size_t>(k)] = static_cast<std::int32_t>(before = column);
      }
    }
    r.values.resize(static_cast<std::size_t>(h.entries));
    return detail::read_numbers(reader, "entry", r.values.data(), r.count(), r.format);
  }
};

} // namespace SLIM_ABI
} // namespace slim
