#pragma once
/// @file
/// `mask`: which weights are kept, and the stored bits of their positions.

#include "slim/core/matrix.hpp"

#include <cstdint>

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
    for (index_t k = 0; k < kept_.size(); ++k) total += kept_.data()[k];
    return total;
  }

  /// Share of weights that are not kept; 0 for an empty matrix.
  [[nodiscard]] double sparsity() const noexcept {
    return kept_.empty() ? 0.0 : 1.0 - static_cast<double>(count()) / static_cast<double>(kept_.size());
  }

  /// Stored bits that say which weights are kept: log2(m) rounded up per kept weight for n:m (2:4: 2 bits for each of two,
  /// as NVIDIA stores it: 1 bit per weight), a bit per weight without structure.
  [[nodiscard]] double index_bits() const noexcept {
    if (!pattern_.structured()) return static_cast<double>(kept_.size());
    int position_bits = 0;
    while ((index_t{1} << position_bits) < pattern_.m) ++position_bits;
    return static_cast<double>(position_bits) * static_cast<double>(count());
  }

  /// Sets pruned weights to exactly 0. @throws shape_error
  void apply_to(matrix_view<float> w) const {
    if (w.rows() != rows() || w.cols() != cols())
      throw shape_error(
          message("mask::apply_to: a ", rows(), " x ", cols(), " mask on a ", w.rows(), " x ", w.cols(), " matrix"));
    for (index_t i = 0; i < rows(); ++i)
      for (index_t j = 0; j < cols(); ++j)
        if (!kept(i, j)) w(i, j) = 0.0f;
  }

  friend bool operator==(mask const&, mask const&) = default;

private:
  matrix<std::uint8_t> kept_;
  sparsity_pattern pattern_;
};

} // namespace SLIM_ABI
} // namespace slim
