#include "formats/config_dtype.hpp"

#include <cctype>

namespace slim_llm {
namespace {

/// Walks through JSON text without judging it.
class json_walker {
public:
  explicit json_walker(std::string const& text) : text_(text) {}

  [[nodiscard]] std::size_t after_space(std::size_t at) const {
    while (at < text_.size() && std::isspace(static_cast<unsigned char>(text_[at])) != 0) ++at;
    return at;
  }
  /// Behind the value (or the string of a key) that begins at `at`.
  [[nodiscard]] std::size_t after_value(std::size_t at) const {
    std::size_t depth = 0;
    for (; at < text_.size(); ++at) {
      char const c = text_[at];
      if (c == '"')
        at = end_of_string(at);
      else if (c == '{' || c == '[')
        ++depth;
      else if (depth == 0 && (c == ',' || c == '}' || c == ']' || std::isspace(static_cast<unsigned char>(c)) != 0))
        return at;
      else if (c == '}' || c == ']')
        --depth;
      if (depth == 0 && (c == '"' || c == '}' || c == ']')) return at + 1;
    }
    return text_.size();
  }

private:
  /// Position of the closing quotation mark.
  [[nodiscard]] std::size_t end_of_string(std::size_t at) const {
    for (++at; at < text_.size() && text_[at] != '"'; ++at)
      if (text_[at] == '\\') ++at;
    return at;
  }

  std::string const& text_;
};

} // namespace

std::string with_dtype(std::string config, std::string_view dtype) {
  std::string const quoted = '"' + std::string(dtype) + '"';
  std::size_t const brace = config.find('{');
  if (brace == std::string::npos) return config;
  bool found = false;
  json_walker const walk(config);
  for (std::size_t at = walk.after_space(brace + 1); at < config.size() && config[at] == '"';) {
    std::size_t const key_end = walk.after_value(at);
    std::string const key = config.substr(at, key_end - at);
    std::size_t const colon = walk.after_space(key_end);
    if (colon >= config.size() || config[colon] != ':') break;
    std::size_t const value = walk.after_space(colon + 1);
    std::size_t value_end = walk.after_value(value);
    if (key == "\"dtype\"" || key == "\"torch_dtype\"") {
      found = true;
      config.replace(value, value_end - value, quoted);
      value_end = value + quoted.size();
    }
    std::size_t const comma = walk.after_space(value_end);
    if (comma >= config.size() || config[comma] != ',') break;
    at = walk.after_space(comma + 1);
  }
  if (found) return config;
  bool const empty = config.find_first_not_of(" \t\r\n", brace + 1) == config.find('}', brace);
  return config.insert(brace + 1, "\n  \"torch_dtype\": " + quoted + (empty ? "\n" : ","));
}

} // namespace slim_llm
