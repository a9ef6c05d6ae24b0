#include "text/json_lines.hpp"

#include "slim/io/json.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

/// Appends the tokens of a line; what is wrong with it, or nothing.
std::string add_line(tokenizer const& words, nlohmann::json const& line, std::vector<token_id>& ids) {
  if (!line.is_object()) return "is not an object";
  if (line.contains("text") == line.contains("ids"))
    return line.contains("messages")
               ? "holds 'messages': chat templates are not read; write the conversation as 'text', or its tokens as 'ids'"
               : "needs 'text' or 'ids', and not both";
  if (auto const text = line.find("text"); text != line.end()) {
    if (!text->is_string()) return "'text' is not a text";
    auto const found = words.encode(text->get_ref<std::string const&>(), {.special = false});
    ids.insert(ids.end(), found.begin(), found.end());
    return {};
  }
  nlohmann::json const& list = line.at("ids");
  if (!list.is_array()) return "'ids' is not a list";
  for (nlohmann::json const& id : list) {
    if (!id.is_number_integer() || id < 0 || id >= words.size())
      return slim::message("'ids' holds ", id.dump().substr(0, 40), "; the vocabulary has ", words.size(), " tokens");
    ids.push_back(id.get<token_id>());
  }
  return {};
}

/// Lines as JSON. `visit` says what is wrong with one, or nothing.
template <class Visit>
std::string visit_json_lines(std::string_view content, std::filesystem::path const& file, Visit const& visit) {
  return visit_lines(content, [&](int number, std::string_view text) -> std::string {
    std::string const place = slim::message(file.string(), ": line ", number);
    auto const line = slim::parse_json(text, place);
    if (!line) return line.why();
    std::string const why = visit(*line);
    return why.empty() ? why : place + ": " + why;
  });
}

} // namespace

bool is_json_lines(std::filesystem::path const& file) { return file.extension() == ".jsonl"; }

std::string visit_lines(std::string_view content, std::function<std::string(int number, std::string_view line)> const& visit) {
  int number = 0;
  for (std::size_t at = 0; at < content.size();) {
    std::size_t const end = std::min(content.find('\n', at), content.size());
    std::string_view const line = content.substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    if (std::string why = visit(number, line); !why.empty()) return why;
  }
  return {};
}

slim::result<std::vector<token_id>> tokens_of_json_lines(tokenizer const& words, std::string_view content,
                                                         std::filesystem::path const& file) {
  std::vector<token_id> ids;
  std::string const why =
      visit_json_lines(content, file, [&](nlohmann::json const& line) { return add_line(words, line, ids); });
  if (!why.empty()) return slim::failure{why};
  return ids;
}

slim::result<std::vector<std::string>> prompts_of_json_lines(std::string_view content, std::filesystem::path const& file) {
  std::vector<std::string> prompts;
  std::string const why = visit_json_lines(content, file, [&](nlohmann::json const& line) -> std::string {
    if (!line.is_object()) return "is not an object";
    auto const prompt = line.find("prompt");
    if (prompt == line.end() || !prompt->is_string())
      return line.contains("messages") ? "holds 'messages': chat templates are not read; write the conversation as 'prompt'"
                                       : "needs 'prompt', a text";
    prompts.push_back(prompt->get<std::string>());
    return {};
  });
  if (!why.empty()) return slim::failure{why};
  return prompts;
}

} // namespace slim_llm
