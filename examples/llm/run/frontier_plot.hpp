#pragma once
/// @file
/// A picture of what bits buy: excess NLL against bits per weight, with the frontier drawn.

#include <string>
#include <vector>

namespace slim_llm {

struct frontier_point {
  std::string label;
  double bits = 0;          ///< per weight, everything counted
  double excess = 0;        ///< NLL over the dense model, nats per token
  double low = 0, high = 0; ///< interval, equal if unknown
  bool ours = true;         ///< false: a point to compare with, from elsewhere
};

/// An SVG: linear bits, logarithmic excess, a bar per interval, hollow marks for points from elsewhere, and a staircase through
/// our points that no other of ours beats in both. Points without positive excess are left out.
[[nodiscard]] std::string frontier_svg(std::vector<frontier_point> const& points, std::string const& title);

} // namespace slim_llm
