#pragma once
/// @file
/// JSON from untrusted files: no exception on bad bytes, bounded size and depth, repeated keys refused. Python's `NaN`,
/// `Infinity` and `-Infinity`, which are no JSON and which its json module writes, become the strings of these names. Needs
/// nlohmann-json.

#include "slim/io/file.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Largest size and depth of a JSON text.
struct json_limits {
  std::size_t bytes = std::size_t{100} << 20;
  int depth = 64;
};

namespace detail {

/// Deepest nesting of brackets outside strings. Looks at brackets and quotes only, so that hostile nesting is refused
/// before a parser builds anything.
[[nodiscard]] inline int json_depth(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool inside_string = false;
  for (std::size_t k = 0; k < text.size(); ++k) {
    char const c = text[k];
    if (inside_string) {
      if (c == '\\') ++k;
      if (c == '"') inside_string = false;
    } else if (c == '"') {
      inside_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
      if (deepest > (1 << 20)) return deepest;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

/// The text with quotes around Python's numbers that are none. Lines stay what they are.
[[nodiscard]] inline std::string with_quoted_non_numbers(std::string_view text) {
  std::string out;
  bool inside_string = false;
  for (std::size_t k = 0; k < text.size(); ++k) {
    if (!inside_string) {
      for (std::string_view const name : {std::string_view("NaN"), std::string_view("Infinity"), std::string_view("-Infinity")})
        if (text.substr(k, name.size()) == name) {
          out.append("\"").append(name).append("\"");
          k += name.size();
          break;
        }
      if (k >= text.size()) break;
    }
    if (text[k] == '"') inside_string = !inside_string;
    out.push_back(text[k]);
    if (inside_string && text[k] == '\\' && k + 1 < text.size()) out.push_back(text[++k]);
  }
  return out;
}

/// " (line 3)" of the first byte that cannot be JSON, or what else is wrong with the text.
[[nodiscard]] inline std::string place_of_json_error(std::string_view text) {
  try {
    auto const parsed = nlohmann::json::parse(text.begin(), text.end());
  } catch (nlohmann::json::parse_error const& e) {
    std::string_view const before = text.substr(0, e.byte > 0 ? e.byte - 1 : 0);
    return message(" (line ", 1 + std::count(before.begin(), before.end(), '\n'), ")");
  } catch (nlohmann::json::out_of_range const&) {
    return " (a number is out of range)";
  }
  return {};
}

} // namespace detail

/// The document in `text`, or a sentence that begins with `source` (the file's name).
[[nodiscard]] inline result<nlohmann::json> parse_json(std::string_view text, std::string_view source,
                                                       json_limits limits = {}) {
  if (text.size() > limits.bytes)
    return failure{message(source, ": JSON of ", text.size(), " bytes; at most ", limits.bytes, " are read")};
  if (int const depth = detail::json_depth(text); depth > limits.depth)
    return failure{message(source, ": JSON nested deeper than ", limits.depth)};
  std::vector<std::set<std::string>> keys; // of the objects that are open
  std::string repeated;
  auto const watch = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using at = nlohmann::json::parse_event_t;
    if (event == at::object_start) keys.emplace_back();
    if (event == at::object_end) keys.pop_back();
    if (event == at::key && !keys.back().insert(parsed.get_ref<std::string const&>()).second)
      repeated = parsed.get_ref<std::string const&>();
    return true;
  };
  nlohmann::json document = nlohmann::json::parse(text.begin(), text.end(), watch, false);
  if (document.is_discarded()) {
    std::string const quoted = detail::with_quoted_non_numbers(text);
    keys.clear();
    repeated.clear();
    document = nlohmann::json::parse(quoted, watch, false);
    if (document.is_discarded()) return failure{message(source, ": is not valid JSON", detail::place_of_json_error(quoted))};
  }
  if (!repeated.empty()) return failure{message(source, ": JSON key '", repeated, "' occurs twice")};
  return document;
}

/// The document in a file.
[[nodiscard]] inline result<nlohmann::json> read_json(std::filesystem::path const& path, json_limits limits = {}) {
  result<mapped_file> const file = mapped_file::open(path);
  if (!file) return failure{file.why()};
  return parse_json(file->text(), path.string(), limits);
}

} // namespace SLIM_ABI
} // namespace slim
