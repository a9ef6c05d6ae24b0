#pragma once
/// @file
/// First step of a chain: the layer is compressed towards the outputs its calibration observed, not towards W.

#include "slim/calibration/output_target.hpp"
#include "slim/pipeline/chain.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Replaces W by target_weight(W). Errors in the report are then relative to the target. A calibration without outputs leaves
/// W as it is, with a note.
struct toward_target {
  double damping = 0.5; ///< of the mean diagonal of H; less follows the noise of few tokens

  template <class State>
  [[nodiscard]] State operator()(State state, calibration const& calib, context const& ctx) const {
    if (calib.cross().cols() == 0) {
      state.report.notes.push_back("no targets were observed: the layer is compressed towards W");
      return state;
    }
    state.original = target_weight<float>(matrix_view<float const>(state.original.view()), calib, damping, ctx);
    state.current = state.original;
    return state;
  }

  [[nodiscard]] std::string describe() const { return message("towards the observed outputs, damping ", damping); }
};

} // namespace SLIM_ABI
} // namespace slim
