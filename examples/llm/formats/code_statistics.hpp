#pragma once
/// @file
/// What codes made of weights, for people to look at: how the weights lie on the codes' levels, and what is left for an
/// adapter.

#include "compress/compress_model.hpp"

#include <filesystem>

namespace slim_llm {

/// Of one linear.
struct code_statistics {
  std::string name, role;
  index_t rank = 0;             ///< of its adapter
  int lowest = 0, highest = 0;  ///< codes
  double clipped = 0;           ///< share of the weights more than half a step beyond the ends
  std::vector<double> shares;   ///< of the weights by their level, bins of `bin` from `first_level` on
  std::vector<double> singular; ///< values of what the codes leave, W - W_codes, largest first, relative to its norm

  static constexpr double bin = 0.25;        ///< steps of the codes
  static constexpr double first_level = -12; ///< what lies beyond is counted in the first and the last bin
  static constexpr index_t bins = 96;
};

/// For every role the linear with the largest output error: the weights of the source against the codes of the .slim file that
/// was made of it. @throws input_error if a file cannot be read
[[nodiscard]] std::vector<code_statistics> statistics_of_worst(std::vector<layer_result> const& layers,
                                                               std::filesystem::path const& source,
                                                               std::filesystem::path const& compressed);

} // namespace slim_llm
