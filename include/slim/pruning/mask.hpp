#pragma once
/// @file
/// `mask`: which weights are kept, and the stored bits of their positions.

#include "slim/core/matrix.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

namespace slim {
inline namespace SLIM_ABI {

/// Structure that the maker of a mask promises. `n of m`: in every m consecutive columns of a row n are kept; a ragged last
/// group of t columns keeps ceil(t n / m). `m == 0`: no structure.
struct sparsity_pattern {
  index_t n = 0;
  index_t m = 0;

  [[nodiscard]] constexpr bool structured() const noexcept { return m > 0; }
  /// Kept columns of a group of `width` (= m, or fewer at the end of a row).
  [[nodiscard]] constexpr index_t kept_of(index_t width) const noexcept { return (width * n + m - 1) / m; }

  friend constexpr bool operator==(sparsity_pattern const&, sparsity_pattern const&) = default;
};

/// Kept weights of a (rows x cols) matrix.
class mask {
public:
  /// 0 x 0.
  mask() : mask(0, 0) {}
  /// Nothing kept.
  mask(index_t rows, index_t cols, sparsity_pattern pattern = {}) : kept_(rows, cols), pattern_(pattern) {}

  [[nodiscard]] index_t rows() const noexcept { return kept_.rows(); }
  [[nodiscard]] index_t cols() const noexcept { return kept_.cols(); }
  [[nodiscard]] sparsity_pattern pattern() const noexcept { return pattern_; }
  [[nodiscard]] bool kept(index_t i, index_t j) const noexcept { return kept_(i, j) != 0; }
  /// A byte per weight of row i: 1 where it is kept, else 0.
  [[nodiscard]] std::uint8_t const* row(index_t i) const noexcept { return kept_.row(i); }
  [[nodiscard]] std::uint8_t* row(index_t i) noexcept { return kept_.row(i); }
  void keep(index_t i, index_t j, bool value = true) noexcept { kept_(i, j) = value ? 1 : 0; }

  [[nodiscard]] index_t count() const noexcept {
    index_t total = 0;
    for (index_t k = 0; k < kept_.size(); ++k) total += kept_.data()[k] != 0 ? 1 : 0;
    return total;
  }

  /// Share of weights that are not kept; 0 for an empty matrix.
  [[nodiscard]] double sparsity() const noexcept {
    return kept_.empty() ? 0.0 : 1.0 - static_cast<double>(count()) / static_cast<double>(kept_.size());
  }

  /// Stored bits that say which weights are kept, in the cheaper of the formats that leave pruned weights out: a bit per
  /// weight (nm_bitmask; sparse24's two positions of 2 bits for every four weights are as many), or, where few are kept, a
  /// column of 16 bits (32 above 65,536 columns) per kept weight and 32 bits per row (csr_codes).
  [[nodiscard]] double index_bits() const noexcept {
    double const columns = static_cast<double>(count()) * (cols() > 65536 ? 32 : 16) + 32.0 * static_cast<double>(rows() + 1);
    return std::min(static_cast<double>(kept_.size()), columns);
  }

  /// @throws shape_error unless the mask is of a rows x cols matrix; config_error naming the first byte that is neither 0
  /// nor 1. What every function that takes a mask calls first; `who` begins the message.
  void check(std::string_view who, index_t of_rows, index_t of_cols) const {
    if (rows() != of_rows || cols() != of_cols)
      throw shape_error(message(who, ": a ", rows(), " x ", cols(), " mask on a ", of_rows, " x ", of_cols, " matrix"));
    std::uint8_t all = 0;
    for (index_t k = 0; k < kept_.size(); ++k) all = static_cast<std::uint8_t>(all | kept_.data()[k]);
    if (all <= 1) return;
    index_t k = 0;
    while (kept_.data()[k] <= 1) ++k;
    throw config_error(message(who, ": the mask holds ", int{kept_.data()[k]}, " at (", k / cols(), ", ", k % cols(),
                               "), possible are 0 and 1"));
  }

  /// Sets pruned weights to exactly 0. @throws shape_error
  void apply_to(matrix_view<float> w) const {
    check("mask::apply_to", w.rows(), w.cols());
    for (index_t i = 0; i < rows(); ++i)
      for (index_t j = 0; j < cols(); ++j)
        if (!kept(i, j)) w(i, j) = 0.0f;
  }

  friend bool operator==(mask const&, mask const&) = default;

private:
  matrix<std::uint8_t> kept_;
  sparsity_pattern pattern_;
};

/// The mask in words: "mask 64 x 256, 2:4, 50% pruned".
[[nodiscard]] inline std::string to_string(mask const& m) {
  std::string const pattern = m.pattern().structured() ? message(", ", m.pattern().n, ":", m.pattern().m) : "";
  double const tenths = std::floor(1000.0 * m.sparsity() + 0.5);
  return message("mask ", m.rows(), " x ", m.cols(), pattern, ", ", tenths / 10.0, "% pruned");
}

} // namespace SLIM_ABI
} // namespace slim
