#pragma once
/// @file
/// How long a compression will take, from one measured linear of every shape in the first block and one measured window.

#include "compress/compress_model.hpp"
#include "text/calibration_text.hpp"

namespace slim_llm {

/// Seconds of a whole run on this machine as it is now.
struct time_estimate {
  double solving = 0;    ///< compressing linears
  double observing = 0;  ///< statistics of their inputs
  double running = 0;    ///< windows through blocks, for calibration and evaluation
  double predicting = 0; ///< the head and the likelihood of tokens

  [[nodiscard]] double total() const { return solving + observing + running + predicting; }
};

/// Measures on the first block and the first window of the calibration text; a few seconds, because of large linears only the
/// first rows are compressed. `evaluations`: of the compressed model; the dense one is evaluated besides if there are any.
[[nodiscard]] time_estimate estimate_time(model const& m, recipe const& how, text_tokens const& tokens, index_t context_tokens,
                                          index_t evaluations, context const& ctx = {});

} // namespace slim_llm
