#pragma once
/// @file
/// The states of many windows between their turns: in memory, or in a scratch file if they are too large for it.

#include "models/family.hpp"
#include "run/scratch_file.hpp"

#include <optional>

namespace slim_llm {

class state_store {
public:
  /// In memory, or with `on_disk` in the folder for temporary files ($TMPDIR, or /tmp).
  explicit state_store(bool on_disk = false);

  void add(block_state state);
  [[nodiscard]] std::size_t size() const { return places_.size(); }
  [[nodiscard]] bool empty() const { return places_.empty(); }

  /// The state of window `w`, which is to be put back.
  [[nodiscard]] block_state take(std::size_t w);
  void put(std::size_t w, block_state state);

private:
  /// Of a state in the file: its matrices one behind the other.
  struct place {
    std::uint64_t offset = 0, capacity = 0;
    std::vector<std::pair<index_t, index_t>> shapes; ///< of hidden states and carried values
    block_state state;                               ///< in memory
  };

  std::optional<scratch_file> file_;
  std::vector<place> places_;
};

} // namespace slim_llm
