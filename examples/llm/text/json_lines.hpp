#pragma once
/// @file
/// Texts as JSON lines: an object per line with "text", or with "ids" of tokens. Conversations ("messages") are refused: how a
/// model wants them written is its chat template's to say, which is not read.

#include "text/tokenizer.hpp"

#include "slim/core/result.hpp"

namespace slim_llm {

/// "text.jsonl": the name decides.
[[nodiscard]] bool is_json_lines(std::filesystem::path const& file);

/// Ids of all lines, one behind the other; every text is tokenized by itself, and control tokens that are spelled out are
/// ordinary text. Empty lines are passed over. The failure names `file`, the line and the reason.
[[nodiscard]] slim::result<std::vector<token_id>> tokens_of_json_lines(tokenizer const& words, std::string_view content,
                                                                       std::filesystem::path const& file);

} // namespace slim_llm
