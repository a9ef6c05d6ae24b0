#pragma once
/// @file
/// Finds added tokens in a text, as the `tokenizers` package does: the leftmost, of those the longest; then the search goes on
/// behind it.

#include "text/vocabulary.hpp"

#include <array>
#include <optional>
#include <string_view>
#include <vector>

namespace slim_llm {

/// A token, or what lies between two.
struct text_part {
  std::string_view text;
  std::optional<token_id> id;
};

class added_token_finder {
public:
  /// `spelling`: what is looked for. Tokens without one are never found; of equal spellings the first counts.
  void add(added_token token, std::string spelling);

  /// Cuts the text. Stretches between tokens that are empty are left out. `special`: special tokens are found too.
  [[nodiscard]] std::vector<text_part> cut(std::string_view text, bool special) const;

private:
  struct entry {
    added_token token;
    std::string spelling;
  };
  [[nodiscard]] entry const* at(std::string_view text, bool special) const;

  std::array<std::vector<entry>, 256> by_first_; ///< by first byte, longest first
};

} // namespace slim_llm
