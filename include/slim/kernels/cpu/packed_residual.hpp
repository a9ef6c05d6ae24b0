#pragma once
/// @file
/// `packed_residual`: the sparse residual of a layer in the order that a product reads it.

#include "slim/core/aligned_bytes.hpp"
#include "slim/core/context.hpp"
#include "slim/kernels/cpu/residual_kernels.hpp"
#include "slim/quantization/codes/with_outliers.hpp"

#include <algorithm>
#include <bit>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// A sparse matrix S (d_out x d_in) of few numbers per row. Rows stand in slices of 16 with about as many entries, longest
/// first; a step of a slice has an entry of each of its rows, 16 columns in 16 bits and 16 numbers. Rows that are shorter end
/// with zeros in their last column. Made by `pack_residual`. Not a file format.
class packed_residual {
public:
  packed_residual() = default;

  [[nodiscard]] index_t rows() const noexcept { return rows_; }
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  /// All bytes that a product reads.
  [[nodiscard]] index_t byte_size() const noexcept {
    return bytes_.size() + static_cast<index_t>(row_of_.size() * sizeof(std::int32_t));
  }

  /// Parts that tasks are made of: slices with as many entries together, so that threads end together.
  [[nodiscard]] index_t tasks() const noexcept { return std::ssize(task_begin_) - 1; }

  /// Y (tokens x d_out) += X S^T for the rows of tasks [begin, end): each row is in one of them. X holds floats.
  void add_tasks(index_t begin, index_t end, matrix_view<float const> x, matrix_view<float> y, simd_level level) const {
    detail::residual_kernel const kernel = detail::residual_kernel_of(level);
    index_t const first = task_begin_[static_cast<std::size_t>(begin)], last = task_begin_[static_cast<std::size_t>(end)];
    for (index_t slice = first; slice < last; ++slice) {
      index_t const from = first_step_[static_cast<std::size_t>(slice)];
      index_t const count = first_step_[static_cast<std::size_t>(slice + 1)] - from;
      std::int32_t const* const row_of = row_of_.data() + slice * slice_rows;
      for (index_t t = 0; t < x.rows(); ++t) {
        float sums[slice_rows];
        kernel(bytes_.data() + from * detail::residual_step_bytes(format_), count, format_, x.row(t), sums);
        for (index_t r = 0; r < slice_rows && row_of[r] >= 0; ++r) y(t, row_of[r]) += sums[r];
      }
    }
  }

private:
  friend packed_residual pack_residual(sparse_residual const&, index_t, index_t);
  static constexpr index_t slice_rows = 16;
  static constexpr index_t entries_per_task = 4096;

  index_t rows_ = 0, cols_ = 0;
  number_format format_ = number_format::fp16;
  aligned_bytes bytes_;
  std::vector<index_t> first_step_{0}; ///< of slices, and the end
  std::vector<index_t> task_begin_{0}; ///< first slices of tasks, and the end
  std::vector<std::int32_t> row_of_;   ///< [slice][16], -1: none
};

/// The residual of a matrix (checked, as with_outliers::check). @throws config_error naming an entry that is no number of its
/// format, or more than 65,536 columns.
[[nodiscard]] inline packed_residual pack_residual(sparse_residual const& from, index_t rows, index_t cols) {
  if (cols > 65536) throw config_error(message("pack_residual: ", cols, " columns, possible are at most 65536"));
  for (index_t k = 0; k < from.count(); ++k)
    if (float const value = from.values[static_cast<std::size_t>(k)]; !(rounded_to(from.format, value) == value))
      throw config_error(message("pack_residual: entry ", k, " is ", value, ", which is no ", name_of(from.format), " number"));
  auto const begin_of = [&](index_t i) { return from.row_begin[static_cast<std::size_t>(i)]; };
  auto const count_of = [&](index_t i) { return begin_of(i + 1) - begin_of(i); };
  std::vector<std::int32_t> order;
  for (index_t i = 0; i < rows; ++i)
    if (count_of(i) > 0) order.push_back(static_cast<std::int32_t>(i));
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return count_of(a) > count_of(b); });
  packed_residual out;
  out.rows_ = rows;
  out.cols_ = cols;
  out.format_ = from.format;
  constexpr index_t slice_rows = packed_residual::slice_rows;
  for (index_t first = 0, since = 0; first < std::ssize(order); first += slice_rows) {
    index_t const steps = count_of(order[static_cast<std::size_t>(first)]);
    out.first_step_.push_back(out.first_step_.back() + steps);
    since += steps * slice_rows;
    if (since >= packed_residual::entries_per_task || first + slice_rows >= std::ssize(order)) {
      out.task_begin_.push_back(first / slice_rows + 1);
      since = 0;
    }
  }
  out.row_of_ = std::move(order);
  out.row_of_.resize(out.first_step_.size() * slice_rows - slice_rows, -1);
  index_t const step_bytes = detail::residual_step_bytes(from.format), size = bit_width(from.format) / 8;
  out.bytes_ = aligned_bytes(out.first_step_.back() * step_bytes);
  for (std::size_t k = 0; k < out.row_of_.size(); ++k) {
    std::size_t const slice = k / slice_rows, r = k % slice_rows;
    index_t const i = out.row_of_[k], count = i < 0 ? 0 : count_of(i);
    for (index_t s = out.first_step_[slice]; s < out.first_step_[slice + 1]; ++s) {
      auto const e = static_cast<std::size_t>(i < 0 ? 0 : begin_of(i) + std::min(s - out.first_step_[slice], count - 1));
      auto const column = static_cast<std::uint16_t>(from.columns[e]);
      float const value = s - out.first_step_[slice] < count ? from.values[e] : 0.0f;
      std::uint32_t const bits = from.format == number_format::fp32   ? std::bit_cast<std::uint32_t>(value)
                                 : from.format == number_format::fp16 ? std::uint32_t{fp16(value).bits}
                                                                      : std::uint32_t{bf16(value).bits};
      std::uint8_t* const step = out.bytes_.data() + s * step_bytes;
      std::memcpy(step + 2 * r, &column, 2);
      std::memcpy(step + 2 * slice_rows + static_cast<std::size_t>(size) * r, &bits, static_cast<std::size_t>(size));
    }
  }
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
