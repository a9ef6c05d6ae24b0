#pragma once
/// @file
/// Texts as JSON lines: an object per line with "text", or with "ids" of tokens; prompts: with "prompt". Conversations
/// ("messages") are refused: how a model wants them written is its chat template's to say, which is not read.

#include "text/tokenizer.hpp"

#include "slim/core/result.hpp"

#include <functional>

namespace slim_llm {

/// "text.jsonl": the name decides.
[[nodiscard]] bool is_json_lines(std::filesystem::path const& file);

/// Ids of all lines, one behind the other; every text is tokenized by itself, and control tokens that are spelled out are
/// ordinary text. Empty lines are passed over. The failure names `file`, the line and the reason.
[[nodiscard]] slim::result<std::vector<token_id>> tokens_of_json_lines(tokenizer const& words, std::string_view content,
                                                                       std::filesystem::path const& file);

/// The "prompt" of every line. Failures as above.
[[nodiscard]] slim::result<std::vector<std::string>> prompts_of_json_lines(std::string_view content,
                                                                           std::filesystem::path const& file);

/// Lines that hold more than blanks, with their numbers from 1 on, until `visit(number, line)` says what is wrong: that, or
/// nothing.
[[nodiscard]] std::string visit_lines(std::string_view content,
                                      std::function<std::string(int number, std::string_view line)> const& visit);

} // namespace slim_llm
