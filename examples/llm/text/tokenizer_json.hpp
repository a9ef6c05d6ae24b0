#pragma once
/// @file
/// tokenizer.json of the `tokenizers` package, as a vocabulary.

#include "text/vocabulary.hpp"

#include <nlohmann/json.hpp>

namespace slim_llm {

/// A file does not describe what we can do. Thrown by the readers of tokenizer files, caught where a file is opened.
struct unusable {
  std::string why;
};

/// The member of an object, null if it is not there.
[[nodiscard]] nlohmann::json const& member(nlohmann::json const& object, char const* name);
/// The string, or an empty one.
[[nodiscard]] std::string text_in(nlohmann::json const& value);
/// Whether the member is true.
[[nodiscard]] bool flag_in(nlohmann::json const& object, char const* name);
/// @throws unusable
void require(bool condition, std::string const& why);

/// Puts a token at its id, below `most`; the list grows as needed. @throws unusable
void place_token(vocabulary& words, std::string const& token, nlohmann::json const& id, std::size_t most, token_kind kind);
/// Adds an added token with the settings of its object ("content", "special", ...), and takes the place of one of that id.
/// @throws unusable
void place_added_token(vocabulary& words, nlohmann::json const& token, nlohmann::json const& id, std::size_t most);
/// Id of the token of that spelling.
[[nodiscard]] std::optional<token_id> id_of_token(vocabulary const& words, std::string const& token);
/// Room for ids: every token its own, and some that nobody uses.
[[nodiscard]] constexpr std::size_t most_ids(std::size_t tokens) { return tokens + 65536; }

/// The whole document. Every part of it that decides about ids is known or refused by name. @throws unusable
[[nodiscard]] vocabulary read_tokenizer_json(nlohmann::json const& document);

} // namespace slim_llm
