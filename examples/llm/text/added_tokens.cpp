#include "text/added_tokens.hpp"

#include <algorithm>

namespace slim_llm {

void added_token_finder::add(added_token token, std::string spelling) {
  if (spelling.empty()) return;
  auto& list = by_first_[static_cast<unsigned char>(spelling.front())];
  auto const place = std::ranges::find_if(list, [&](entry const& other) { return other.spelling.size() < spelling.size(); });
  list.insert(place, {std::move(token), std::move(spelling)});
}

added_token_finder::entry const* added_token_finder::at(std::string_view text, bool special) const {
  for (entry const& candidate : by_first_[static_cast<unsigned char>(text.front())])
    if ((special || !candidate.token.special) && text.starts_with(candidate.spelling)) return &candidate;
  return nullptr;
}

std::vector<text_part> added_token_finder::cut(std::string_view text, bool special) const {
  std::vector<text_part> parts;
  std::size_t done = 0;
  for (std::size_t at_byte = 0; at_byte < text.size();) {
    entry const* const found = at(text.substr(at_byte), special);
    if (!found) {
      ++at_byte;
      continue;
    }
    std::size_t begin = at_byte, end = at_byte + found->spelling.size();
    at_byte = end;
    bool const in_word = ends_with_word_character(text.substr(0, begin)) || begins_with_word_character(text.substr(end));
    if (found->token.single_word && in_word) continue;
    if (found->token.lstrip) begin = std::max(done, begin - trailing_space(text.substr(0, begin)));
    if (found->token.rstrip) end += leading_space(text.substr(end));
    if (begin > done) parts.push_back({text.substr(done, begin - done), {}});
    parts.push_back({text.substr(begin, end - begin), found->token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), {}});
  return parts;
}

} // namespace slim_llm
