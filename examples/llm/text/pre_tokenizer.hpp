#pragma once
/// @file
/// The first step of byte-level BPE: cutting text into pieces (words, numbers, runs of punctuation, white space) that are
/// tokenized independently. Hand-written scanners for the published regular expressions, over Unicode's letter (L), number
/// (N) and White_Space classes; everything else, combining marks included, is "other".

#include "slim/core/result.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace slim_llm {

/// Which published rule cuts the text.
enum class pre_tokenizer {
  gpt2,   ///< 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  smollm, ///< every \p{N} alone, then gpt2 on what lies between
  qwen2,  ///< (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  llama3, ///< qwen2 with \p{N}{1,3}
};

/// The rule that GGUF's `tokenizer.ggml.pre` names, or a sentence with the names that are known.
[[nodiscard]] slim::result<pre_tokenizer> pre_tokenizer_of_gguf(std::string_view name);

/// The text with every maximal invalid part of UTF-8 replaced by U+FFFD, as Python's errors="replace" and Rust's
/// from_utf8_lossy do.
[[nodiscard]] std::string valid_utf8(std::string_view text);

/// Normal form C of valid UTF-8.
[[nodiscard]] std::string normal_form_c(std::string_view text);

/// Unicode White_Space at the front and at the back of valid UTF-8, in bytes.
[[nodiscard]] std::size_t leading_space(std::string_view text);
[[nodiscard]] std::size_t trailing_space(std::string_view text);

/// Whether a text ends or begins with what Unicode calls a word character (regular expression \\w); valid UTF-8.
[[nodiscard]] bool ends_with_word_character(std::string_view text);
[[nodiscard]] bool begins_with_word_character(std::string_view text);

/// Bytes of the character that begins with this byte, in valid UTF-8.
[[nodiscard]] constexpr std::size_t character_length(char first) {
  unsigned char const byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

/// Cuts valid UTF-8 into pieces; joined they are the text.
[[nodiscard]] std::vector<std::string_view> split(pre_tokenizer rule, std::string_view text);

} // namespace slim_llm
