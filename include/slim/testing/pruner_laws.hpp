#pragma once
/// @file
/// Laws of a pruner.

#include "slim/pruning/pruner.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"
#include "slim/testing/violation.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

namespace detail {

/// The first group that does not keep what the pattern promises, as a sentence; empty if all do.
[[nodiscard]] inline std::string broken_group(mask const& kept) {
  sparsity_pattern const pattern = kept.pattern();
  if (!pattern.structured()) return {};
  if (pattern.n < 0 || pattern.n > pattern.m) return message("pattern ", pattern.n, ":", pattern.m);
  for (index_t i = 0; i < kept.rows(); ++i)
    for (index_t first = 0; first < kept.cols(); first += pattern.m) {
      index_t const width = std::min(pattern.m, kept.cols() - first);
      index_t const promised = width == pattern.m ? pattern.n : (width * pattern.n + pattern.m - 1) / pattern.m;
      index_t count = 0;
      for (index_t j = first; j < first + width; ++j) count += kept.kept(i, j) ? 1 : 0;
      if (count != promised)
        return message("row ", i, " keeps ", count, " of the ", width, " columns from ", first, ", promised ", promised);
    }
  return {};
}

} // namespace detail

/// The mask has W's shape; a promised pattern holds in every group, ragged ends included (ceil(t n / m) of t); the same mask
/// every time and on every executor; W is not changed.
template <pruner P>
[[nodiscard]] violations check_pruner(P const& p, std::vector<named_matrix> const& matrices = hard_matrices()) {
  violations broken;
  for (named_matrix const& w : matrices)
    for (named_calibration const& c : hard_calibrations(w.values.cols())) {
      detail::collector judge(broken, message(w.name, "; ", c.name));
      matrix<float> const before = w.values;
      auto const select = [&](auto const& where) { return p.select(w.values.view(), c.calib, on(where)); };
      mask const kept = select(serial_executor{});
      judge.expect(same_bits(w.values, before), "W is not changed");
      if (!judge.expect(kept.rows() == w.values.rows() && kept.cols() == w.values.cols(), "the mask has the shape of W",
                        message(kept.rows(), " x ", kept.cols())))
        continue;
      std::string const group = detail::broken_group(kept);
      judge.expect(group.empty(), "the promised pattern holds in every group", group);
      judge.expect(kept == select(serial_executor{}), "the same twice");
      judge.expect(kept == select(backwards_executor{}), "the same when tasks run backwards");
      judge.expect(kept == select(thread_team_executor{}), "the same on several threads");
    }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
