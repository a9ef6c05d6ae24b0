#pragma once
/// @file
/// llama.cpp's importance matrix as a calibration.

#include "slim/calibration/calibration.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// The tensors of one layer in an imatrix file (GGUF): `NAME.in_sum2`, sums of squares of the inputs (experts x d_in), and
/// `NAME.counts`, rows that were summed (one number per expert). `expert` says which. What such a calibration knows: see
/// calibration::from_moments. @throws shape_error if the sums are not as many for every expert, or the expert is none;
/// config_error on a count that is no whole number; as from_moments
[[nodiscard]] inline calibration from_imatrix(std::span<float const> in_sum2, std::span<float const> counts,
                                              index_t expert = 0) {
  if (counts.empty() || expert < 0 || expert >= std::ssize(counts) || in_sum2.size() % counts.size() != 0)
    throw shape_error(message("from_imatrix: ", in_sum2.size(), " sums and ", counts.size(), " counts, expert ", expert));
  std::size_t const channels = in_sum2.size() / counts.size();
  auto const mine = in_sum2.subspan(static_cast<std::size_t>(expert) * channels, channels);
  float const count = counts[static_cast<std::size_t>(expert)];
  if (!detail::is_finite(count) || count < 0.0f || count > 0x1p62f || std::floor(count) != count)
    throw config_error(message("from_imatrix: a count of ", count, " tokens"));
  return calibration::from_moments({.sum_square = std::vector<double>(mine.begin(), mine.end())}, static_cast<index_t>(count));
}

} // namespace SLIM_ABI
} // namespace slim
