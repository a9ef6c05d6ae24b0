#include "text/normalizer.hpp"

#include "text/pre_tokenizer.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

std::string replaced(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t const found = pattern.empty() ? std::string_view::npos : text.find(pattern, at);
    out += text.substr(at, found == std::string_view::npos ? found : found - at);
    if (found == std::string_view::npos) break;
    out += content;
    at = found + pattern.size();
  }
  return out;
}

} // namespace

std::string normalized(std::vector<normal_step> const& steps, std::string_view text) {
  std::string out(text);
  for (normal_step const& step : steps) switch (step.what) {
    case normal_step::kind::nfc: out = normal_form_c(out); break;
    case normal_step::kind::prepend:
      if (!out.empty()) out.insert(0, step.content);
      break;
    case normal_step::kind::replace: out = replaced(out, step.pattern, step.content); break;
    }
  return out;
}

std::string with_spaces_spelled(metaspace const& how, std::string_view stretch, bool at_front) {
  std::string spelled = replaced(stretch, " ", how.symbol);
  bool const asked = how.place == metaspace::front::always || (how.place == metaspace::front::first && at_front);
  if (asked && (how.even_before_space || !spelled.starts_with(how.symbol))) spelled.insert(0, how.symbol);
  return spelled;
}

std::vector<std::string_view> cut_before(std::string_view symbol, std::string_view text) {
  std::vector<std::string_view> pieces;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t const next = std::min(text.find(symbol, at + 1), text.size());
    pieces.push_back(text.substr(at, next - at));
    at = next;
  }
  return pieces;
}

} // namespace slim_llm
