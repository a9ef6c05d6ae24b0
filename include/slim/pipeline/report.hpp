#pragma once
/// @file
/// What compressing a layer cost, as data. The library prints nothing.

#include "slim/core/finite.hpp"
#include "slim/core/matrix_view.hpp"

#include <charconv>
#include <limits>
#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// State of the layer after one step.
struct step_report {
  std::string step;          ///< the component and its configuration
  double relative_error = 0; ///< ||W - W'||_F / ||W||_F, W' = all that the layer computes with, adapter included
  /// ||X (W - W')^T||_F / ||X W^T||_F over the calibration tokens. NaN, as every error here, if it could not be measured: no
  /// tokens were seen, or the numbers are none (context::on_nonfinite == propagate).
  double output_error = std::numeric_limits<double>::quiet_NaN();
  /// The same over tokens that nothing was fitted to (calibration::hold_out); NaN without.
  double held_out_error = std::numeric_limits<double>::quiet_NaN();
  double sparsity = 0;            ///< share of weights pruned so far
  double bits_per_weight = 0;     ///< stored bits / (d_out d_in): codes or 16-bit weights, scales, positions, adapter
  index_t rank = 0;               ///< of the adapter
  double seconds = 0;             ///< of this step, measuring excluded
  std::vector<std::string> notes; ///< fallbacks and other things that did not go as asked; empty if all went well
};

/// Reports of all steps, in order of execution.
struct layer_report {
  index_t rows = 0;                ///< d_out
  index_t cols = 0;                ///< d_in
  bool exact_output_error = false; ///< true: from the Gram matrix; false: channels taken as uncorrelated
  std::vector<std::string> notes;  ///< about the input: dead channels, zeroed weights
  std::vector<double> objective;   ///< of a joint compressor, per iteration: see joint_result
  std::vector<step_report> steps;

  /// The state after the last step. An empty chain reports the dense layer: no error, 16 bits per weight.
  [[nodiscard]] step_report last() const {
    if (!steps.empty()) return steps.back();
    step_report dense;
    dense.step = "dense";
    dense.output_error = dense.held_out_error = 0; // whatever the tokens are
    dense.bits_per_weight = rows > 0 && cols > 0 ? 16.0 : 0.0;
    return dense;
  }
};

/// The report in words: a line per step, and its notes below. A number with four digits behind the point; "-" was not measured.
[[nodiscard]] inline std::string to_string(layer_report const& report) {
  auto const number = [](double x) {
    if (!detail::is_finite(x)) return std::string("-");
    char digits[64];
    return std::string(digits, std::to_chars(digits, digits + sizeof digits, x, std::chars_format::fixed, 4).ptr);
  };
  std::string out = message("layer ", report.rows, " x ", report.cols, "\n");
  auto const add_notes = [&](std::vector<std::string> const& notes) {
    for (std::string const& note : notes) out += message("    note: ", note, "\n");
  };
  add_notes(report.notes);
  for (step_report const& s : report.steps) {
    out += message("  ", s.step, ": relative error ", number(s.relative_error), ", output error ", number(s.output_error),
                   report.exact_output_error ? "" : " (channels taken as uncorrelated)",
                   detail::is_finite(s.held_out_error) ? message(", held out ", number(s.held_out_error)) : "", ", sparsity ",
                   number(s.sparsity), ", rank ", s.rank, ", ", number(s.bits_per_weight), " bits per weight\n");
    add_notes(s.notes);
  }
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
