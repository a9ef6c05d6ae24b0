#pragma once
/// @file
/// What is done to a text before it is cut into pieces, as the steps of tokenizer.json say it.

#include <string>
#include <string_view>
#include <vector>

namespace slim_llm {

/// One step. Names: the normalizers of the `tokenizers` package.
struct normal_step {
  enum class kind {
    nfc,     ///< normal form C
    prepend, ///< `content` in front of a text that is not empty
    replace, ///< every `pattern` becomes `content`
  };
  kind what = kind::nfc;
  std::string pattern, content;
};

/// Spaces become `symbol`, and one stands in front of the text.
struct metaspace {
  enum class front {
    never,
    first,  ///< in front of the text
    always, ///< in front of every stretch between added tokens
  };
  std::string symbol = "\xe2\x96\x81"; ///< U+2581
  front place = front::always;
  bool even_before_space = false; ///< also if the stretch begins with a space (SentencePiece's dummy prefix)
  bool cuts = false;              ///< pieces begin at symbols
};

/// Valid UTF-8 in, valid UTF-8 out.
[[nodiscard]] std::string normalized(std::vector<normal_step> const& steps, std::string_view text);

/// A stretch of text with its spaces spelled; `at_front`: the text begins with it.
[[nodiscard]] std::string with_spaces_spelled(metaspace const& how, std::string_view stretch, bool at_front);

/// Pieces that begin at each `symbol`. Joined they are the text.
[[nodiscard]] std::vector<std::string_view> cut_before(std::string_view symbol, std::string_view text);

} // namespace slim_llm
