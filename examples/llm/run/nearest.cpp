#include "run/nearest.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

/// Insertions, removals, changes and swaps of neighbours (Damerau's distance, each place edited once).
std::size_t edits_between(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0u : 1u)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) now[j] = std::min(now[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

} // namespace

std::string did_you_mean(std::string_view wrong, std::vector<std::string> const& names) {
  std::string const* best = nullptr;
  std::size_t least = 0;
  for (std::string const& name : names) {
    std::size_t const edits = edits_between(wrong, name);
    if (edits > std::max<std::size_t>(1, name.size() / 3) || (best && edits >= least)) continue;
    best = &name;
    least = edits;
  }
  return best ? "; did you mean '" + *best + "'?" : std::string();
}

} // namespace slim_llm
