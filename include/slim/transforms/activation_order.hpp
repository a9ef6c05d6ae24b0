#pragma once
/// @file
/// Input channels by their energy: GPTQ's act-order as a basis, so that groups of columns are made of channels of like energy,
/// as SpQR's code has it (arXiv 2306.03078).

#include "slim/transforms/channel_permutation.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Makes the permutation that puts channels with the largest mean square first; ties keep their order. For in_basis:
/// `chain(in_basis(activation_order{}, spqr_compressor()))`.
struct activation_order {
  /// @throws shape_error if W (d_out x d_in) and the calibration disagree on d_in; config_error before the first token.
  [[nodiscard]] channel_permutation operator()(matrix_view<float const> w, calibration const& calib,
                                               context const& = {}) const {
    require_channels(calib, w.cols(), "activation_order");
    require_observed(calib, "activation_order");
    std::vector<double> const energy = calib.mean_square();
    std::vector<index_t> order(energy.size());
    std::iota(order.begin(), order.end(), index_t{0});
    std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) {
      return energy[static_cast<std::size_t>(a)] > energy[static_cast<std::size_t>(b)];
    });
    return channel_permutation(std::move(order));
  }
  [[nodiscard]] std::string describe() const { return "channels by energy"; }
};

} // namespace SLIM_ABI
} // namespace slim
