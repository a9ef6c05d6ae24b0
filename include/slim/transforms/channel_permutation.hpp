#pragma once
/// @file
/// Input channels in another order. Groups of N:M sparsity and of quantization run along input channels, so the order decides
/// which weights compete. It costs nothing at run time where the layer before can write its outputs in that order.

#include "slim/transforms/transform.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Channel j of the new order is channel order()[j] of the old one. Exact: numbers move, none changes.
class channel_permutation {
public:
  /// @throws config_error unless every number of 0 .. order.size() - 1 occurs once.
  explicit channel_permutation(std::vector<index_t> order) : order_(std::move(order)), inverse_(order_.size(), -1) {
    for (std::size_t j = 0; j < order_.size(); ++j) {
      index_t const from = order_[j];
      if (from < 0 || from >= channels() || inverse_[static_cast<std::size_t>(from)] >= 0)
        throw config_error(message("channel_permutation: channel ", from, " at position ", j, " of ", order_.size(),
                                   from < 0 || from >= channels() ? " does not exist" : " occurs twice"));
      inverse_[static_cast<std::size_t>(from)] = static_cast<index_t>(j);
    }
  }

  /// The order as it is. @throws shape_error if channels < 0.
  [[nodiscard]] static channel_permutation identity(index_t channels) {
    if (channels < 0) throw shape_error(message("channel_permutation: ", channels, " channels"));
    std::vector<index_t> order(static_cast<std::size_t>(channels));
    std::iota(order.begin(), order.end(), index_t{0});
    return channel_permutation(std::move(order));
  }

  [[nodiscard]] index_t channels() const noexcept { return static_cast<index_t>(order_.size()); }
  [[nodiscard]] std::vector<index_t> const& order() const noexcept { return order_; }
  /// Where each old channel went.
  [[nodiscard]] std::vector<index_t> const& inverse() const noexcept { return inverse_; }

  /// Columns of W (d_out x d_in) in the new order, and back. @throws shape_error
  [[nodiscard]] matrix<float> apply(matrix_view<float const> w) const { return with_columns(w, order_, "apply"); }
  [[nodiscard]] matrix<float> invert(matrix_view<float const> w) const { return with_columns(w, inverse_, "invert"); }

  /// @throws shape_error
  [[nodiscard]] calibration apply_to(calibration const& calib) const {
    require_channels(calib, channels(), "channel_permutation");
    return calib.remapped(order_);
  }

  /// The layer before, made to write its outputs in the new order: rows of its W (channels x anything; for a gated MLP both up
  /// and gate, for attention the rows of v). A bias is a matrix of one column. @throws shape_error
  [[nodiscard]] matrix<float> apply_to_producer(matrix_view<float const> w) const {
    if (w.rows() != channels())
      throw shape_error(message("channel_permutation::apply_to_producer: W has ", w.rows(), " rows, expected ", channels()));
    matrix<float> out(w.rows(), w.cols());
    for (index_t j = 0; j < w.rows(); ++j) std::copy_n(w.row(order_[static_cast<std::size_t>(j)]), w.cols(), out.row(j));
    return out;
  }

  /// The number of every channel, 32 bits each.
  [[nodiscard]] double stored_bits() const noexcept { return 32.0 * static_cast<double>(order_.size()); }

  [[nodiscard]] std::string describe() const { return message("permutation of ", channels(), " channels"); }

  friend bool operator==(channel_permutation const&, channel_permutation const&) = default;

private:
  [[nodiscard]] matrix<float> with_columns(matrix_view<float const> w, std::vector<index_t> const& from,
                                           char const* what) const {
    if (w.cols() != channels())
      throw shape_error(message("channel_permutation::", what, ": W has ", w.cols(), " columns, expected ", channels()));
    matrix<float> out(w.rows(), w.cols());
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j < w.cols(); ++j) out(i, j) = w(i, from[static_cast<std::size_t>(j)]);
    return out;
  }

  std::vector<index_t> order_, inverse_;
};

static_assert(calibration_transform<channel_permutation>);

} // namespace SLIM_ABI
} // namespace slim
