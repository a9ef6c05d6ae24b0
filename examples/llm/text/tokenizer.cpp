#include "text/tokenizer.hpp"

#include <algorithm>
#include <queue>

namespace slim_llm {
namespace {

using slim::failure;
using slim::message;

constexpr std::string_view space_symbol = "\xe2\x96\x81"; // U+2581, how SentencePiece writes a space

/// GPT-2's printable form of bytes: printable Latin-1 stands for itself, the other bytes in order for U+0100, U+0101, ...
std::array<std::uint16_t, 256> printable_codes() {
  std::array<std::uint16_t, 256> codes{};
  std::uint16_t next = 256;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    bool const itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    codes[byte] = itself ? static_cast<std::uint16_t>(byte) : next++;
  }
  return codes;
}

/// The printable character of each byte, in UTF-8.
std::array<std::string, 256> const& printable_bytes() {
  static std::array<std::string, 256> const table = [] {
    std::array<std::string, 256> out;
    auto const codes = printable_codes();
    for (std::size_t byte = 0; byte < 256; ++byte) {
      unsigned const code = codes[byte];
      if (code >= 0x80) out[byte].push_back(static_cast<char>(0xc0 | (code >> 6)));
      out[byte].push_back(static_cast<char>(code < 0x80 ? code : 0x80 | (code & 0x3f)));
    }
    return out;
  }();
  return table;
}

/// The bytes a printable token stands for; nothing if it holds a character that stands for none.
std::optional<std::string> from_printable(std::string_view token) {
  static std::unordered_map<std::string_view, char> const bytes = [] {
    std::unordered_map<std::string_view, char> out;
    for (std::size_t byte = 0; byte < 256; ++byte) out.emplace(printable_bytes()[byte], static_cast<char>(byte));
    return out;
  }();
  std::string out;
  for (std::size_t at = 0; at < token.size();) {
    std::size_t const length = character_length(token[at]);
    auto const found = bytes.find(token.substr(at, length));
    if (found == bytes.end()) return std::nullopt;
    out += found->second;
    at += length;
  }
  return out;
}

/// The byte of a token "<0x0A>".
std::optional<unsigned char> byte_of_name(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned value = 0;
  for (char const c : token.substr(3, 2)) {
    unsigned const digit = c >= '0' && c <= '9'   ? static_cast<unsigned>(c - '0')
                           : c >= 'A' && c <= 'F' ? static_cast<unsigned>(c - 'A' + 10)
                                                  : 16;
    if (digit > 15) return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<unsigned char>(value);
}

std::uint64_t pair_key(token_id left, token_id right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
}

} // namespace

slim::result<tokenizer> tokenizer::build(vocabulary words) {
  tokenizer out;
  out.words_ = std::move(words);
  if (std::string why = out.index_tokens(); !why.empty()) return failure{std::move(why)};
  if (std::string why = out.index_merges(); !why.empty()) return failure{std::move(why)};
  out.index_bytes();
  out.index_added_tokens();
  return out;
}

std::string tokenizer::index_tokens() {
  std::size_t const count = words_.tokens.size();
  if (count == 0) return "the vocabulary is empty";
  if (count > (std::size_t{1} << 30)) return message("the vocabulary has ", count, " tokens; at most 2^30 are read");
  if (words_.kinds.empty()) words_.kinds.assign(count, token_kind::normal);
  if (words_.kinds.size() != count)
    return message("the vocabulary has ", count, " tokens and ", words_.kinds.size(), " token types");
  if (words_.spells_spaces_first && !words_.spaces) return "spaces are to be spelled, and nothing says how";
  if (words_.model == tokenizer_model::sentencepiece && words_.scores.size() != count)
    return message("the vocabulary has ", count, " tokens and ", words_.scores.size(), " scores");
  for (auto const& [id, role] :
       {std::pair{words_.bos, "bos"}, std::pair{words_.eos, "eos"}, std::pair{words_.unknown, "unknown"}})
    if (id && (*id < 0 || *id >= size()))
      return message("the ", role, " token has id ", *id, ", outside of the ", count, " tokens");
  for (added_token const& token : words_.added)
    if (token.id < 0 || token.id >= size())
      return message("the added token '", token.content, "' has id ", token.id, ", outside of the ", count, " tokens");
  ids_.reserve(count);
  for (std::size_t k = 0; k < count; ++k) ids_[words_.tokens[k]] = static_cast<token_id>(k); // repeated spelling: the last id
  return {};
}

std::string tokenizer::index_merges() {
  if (words_.model == tokenizer_model::sentencepiece) return {};
  merges_.reserve(words_.merges.size());
  for (std::size_t rank = 0; rank < words_.merges.size(); ++rank) {
    std::string_view const text = words_.merges[rank];
    std::size_t const nul = text.find('\0'), gap = nul != std::string_view::npos ? nul : text.find(' ', 1);
    if (gap == std::string_view::npos || gap + 1 == text.size())
      return message("merge ", rank, " ('", text, "') is not two tokens");
    auto const left = ids_.find(text.substr(0, gap));
    auto const right = ids_.find(text.substr(gap + 1));
    if (left == ids_.end() || right == ids_.end())
      return message("merge ", rank, " ('", text, "') joins a token that does not exist");
    auto const joined = ids_.find(message(text.substr(0, gap), text.substr(gap + 1)));
    if (joined == ids_.end()) return message("merge ", rank, " ('", text, "') makes a token that does not exist");
    merges_.emplace(pair_key(left->second, right->second), merge{static_cast<std::int32_t>(rank), joined->second});
  }
  return {};
}

void tokenizer::index_bytes() {
  byte_ids_.fill(-1);
  if (words_.model == tokenizer_model::byte_bpe) {
    for (std::size_t byte = 0; byte < 256; ++byte)
      if (auto const found = ids_.find(printable_bytes()[byte]); found != ids_.end()) byte_ids_[byte] = found->second;
    if (!words_.whole_piece_first) return;
    for (auto const& [token, id] : ids_)
      if (words_.kinds[static_cast<std::size_t>(id)] == token_kind::normal)
        if (auto const bytes = from_printable(token)) byte_strings_.emplace(*bytes, id);
  } else {
    for (auto const& [token, id] : ids_)
      if (auto const byte = byte_of_name(token)) byte_ids_[*byte] = id;
  }
}

void tokenizer::index_added_tokens() {
  std::vector<bool> listed(words_.tokens.size());
  for (added_token const& token : words_.added) {
    listed[static_cast<std::size_t>(token.id)] = true;
    if (token.normalized)
      normalized_.add(token, words_.spells_spaces_first ? token.content : normalized(words_.normalizer, token.content));
    else
      added_.add(token, token.content);
  }
  for (std::size_t k = 0; k < words_.tokens.size(); ++k) {
    token_kind const kind = words_.kinds[k];
    bool const special = kind == token_kind::control || kind == token_kind::unknown;
    if (!listed[k] && (special || kind == token_kind::user_defined))
      added_.add({.content = words_.tokens[k], .id = static_cast<token_id>(k), .special = special}, words_.tokens[k]);
  }
}

std::optional<token_id> tokenizer::find(std::string_view token) const {
  auto const found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::vector<token_id> tokenizer::encode(std::string_view text, encode_options options) const {
  std::vector<token_id> out;
  if (options.add_bos && words_.bos) out.push_back(*words_.bos);
  std::string const valid = valid_utf8(text);
  for (text_part const& part : added_.cut(valid, options.special)) {
    if (part.id) {
      out.push_back(*part.id);
      continue;
    }
    bool at_front = part.text.data() == valid.data();
    std::string normal = normalized(words_.normalizer, part.text);
    if (words_.spells_spaces_first) normal = with_spaces_spelled(*words_.spaces, normal, at_front);
    for (text_part const& stretch : normalized_.cut(normal, options.special)) {
      if (stretch.id)
        out.push_back(*stretch.id);
      else
        encode_stretch(stretch.text, at_front, out);
      at_front = false;
    }
  }
  return out;
}

/// Text without added tokens, normalized.
void tokenizer::encode_stretch(std::string_view text, bool at_front, std::vector<token_id>& out) const {
  std::string spelled;
  if (words_.spaces && !words_.spells_spaces_first) text = spelled = with_spaces_spelled(*words_.spaces, text, at_front);
  if (words_.model == tokenizer_model::sentencepiece) return append_by_score(text, out);
  if (words_.model == tokenizer_model::character_bpe)
    return append_pieces(words_.spaces && words_.spaces->cuts ? cut_before(words_.spaces->symbol, text) : std::vector{text},
                         out);
  if (words_.space_before_piece && !text.starts_with(' ')) text = spelled = message(" ", text);
  append_pieces(split(words_.rule, text), out);
}

/// A word that occurred before takes its ids from there: most words of a text do.
void tokenizer::append_pieces(std::vector<std::string_view> const& pieces, std::vector<token_id>& out) const {
  struct span_of_ids {
    std::size_t begin;
    std::size_t count;
  };
  std::unordered_map<std::string_view, span_of_ids> seen;
  for (std::string_view const piece : pieces) {
    std::size_t const begin = out.size();
    if (auto const found = seen.find(piece); found != seen.end()) {
      for (std::size_t k = 0; k < found->second.count; ++k) out.push_back(token_id{out[found->second.begin + k]});
      continue;
    }
    auto const whole = byte_strings_.find(piece);
    if (whole != byte_strings_.end())
      out.push_back(whole->second);
    else
      append_merged(symbols_of(piece), out);
    seen.emplace(piece, span_of_ids{begin, out.size() - begin});
  }
}

bool tokenizer::bytes_have_tokens(std::string_view text) const {
  return std::ranges::all_of(text, [&](char c) { return byte_ids_[static_cast<unsigned char>(c)] >= 0; });
}

/// The bytes or characters of a piece as tokens, before anything is joined.
std::vector<token_id> tokenizer::symbols_of(std::string_view piece) const {
  std::vector<token_id> symbols;
  bool const bytewise = words_.model == tokenizer_model::byte_bpe;
  bool after_unknown = false;
  for (std::size_t at = 0; at < piece.size();) {
    std::string_view const part = piece.substr(at, bytewise ? 1 : character_length(piece[at]));
    at += part.size();
    bool known = true;
    if (bytewise && bytes_have_tokens(part))
      symbols.push_back(byte_ids_[static_cast<unsigned char>(part[0])]);
    else if (auto const found = ids_.find(part); !bytewise && found != ids_.end())
      symbols.push_back(found->second);
    else if (!bytewise && words_.byte_fallback && bytes_have_tokens(part))
      for (char const c : part) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    else {
      known = false;
      if (words_.unknown && !(words_.fuse_unknown && after_unknown)) symbols.push_back(*words_.unknown);
    }
    after_unknown = !known;
  }
  return symbols;
}

/// Joins the neighbours of lowest rank, the leftmost first, until no pair has a rank. A linked list of what is left and a
/// heap of the pairs that once stood side by side; a pair that has changed since is recognised by its ids.
void tokenizer::append_merged(std::vector<token_id> const& first, std::vector<token_id>& out) const {
  struct symbol {
    token_id id;
    std::int64_t previous;
    std::int64_t next; // -1: none
  };
  struct candidate {
    std::int32_t rank;
    std::int64_t position;
    token_id left;
    token_id right;
    token_id joined;
    bool operator<(candidate const& other) const { // of a heap whose top is the greatest
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  std::int64_t const count = std::ssize(first);
  std::vector<symbol> symbols;
  for (std::int64_t k = 0; k < count; ++k)
    symbols.push_back({first[static_cast<std::size_t>(k)], k - 1, k + 1 < count ? k + 1 : -1});
  auto const at = [&](std::int64_t k) -> symbol& { return symbols[static_cast<std::size_t>(k)]; };
  std::priority_queue<candidate> queue;
  auto const propose = [&](std::int64_t left) {
    if (left < 0 || at(left).next < 0) return;
    token_id const a = at(left).id;
    token_id const b = at(at(left).next).id;
    if (auto const found = merges_.find(pair_key(a, b)); found != merges_.end())
      queue.push({found->second.rank, left, a, b, found->second.joined});
  };
  for (std::int64_t k = 0; k + 1 < count; ++k) propose(k);
  while (!queue.empty()) {
    candidate const top = queue.top();
    queue.pop();
    symbol& left = at(top.position);
    if (left.id != top.left || left.next < 0 || at(left.next).id != top.right) continue;
    symbol& right = at(left.next);
    left.id = top.joined;
    right.id = -1; // gone
    left.next = right.next;
    if (left.next >= 0) at(left.next).previous = top.position;
    propose(left.previous);
    propose(top.position);
  }
  for (symbol const& left : symbols)
    if (left.id >= 0) out.push_back(left.id);
}

/// A token that characters may be joined to: control tokens and bytes are none, though their names could be spelled out.
std::optional<token_id> tokenizer::find_piece(std::string_view text) const {
  auto const id = find(text);
  if (!id) return std::nullopt;
  token_kind const kind = words_.kinds[static_cast<std::size_t>(*id)];
  return kind == token_kind::control || kind == token_kind::unknown || kind == token_kind::byte ? std::nullopt : id;
}

/// As SentencePiece and llama.cpp: characters, joined pair by pair by the highest score, the leftmost first; what is no token
/// at the end becomes tokens of its bytes, or the unknown token.
void tokenizer::append_by_score(std::string_view spelled, std::vector<token_id>& out) const {
  struct symbol {
    std::string_view text; // empty: gone
    std::int64_t previous;
    std::int64_t next;
  };
  struct candidate {
    float score;
    std::int64_t position;
    std::int64_t right;
    std::size_t length;
    bool operator<(candidate const& other) const {
      return score != other.score ? score < other.score : position > other.position;
    }
  };
  std::vector<symbol> symbols;
  for (std::size_t k = 0; k < spelled.size(); k += character_length(spelled[k])) {
    std::int64_t const index = std::ssize(symbols);
    symbols.push_back({spelled.substr(k, character_length(spelled[k])), index - 1, index + 1});
  }
  if (!symbols.empty()) symbols.back().next = -1;
  auto const at = [&](std::int64_t k) -> symbol& { return symbols[static_cast<std::size_t>(k)]; };
  auto const joined_text = [&](symbol const& a, symbol const& b) {
    return std::string_view(a.text.data(), a.text.size() + b.text.size());
  };
  std::priority_queue<candidate> queue;
  auto const propose = [&](std::int64_t left, std::int64_t right) {
    if (left < 0 || right < 0) return;
    std::string_view const joined = joined_text(at(left), at(right));
    if (auto const id = find_piece(joined))
      queue.push({words_.scores[static_cast<std::size_t>(*id)], left, right, joined.size()});
  };
  for (std::int64_t k = 0; k + 1 < std::ssize(symbols); ++k) propose(k, k + 1);
  while (!queue.empty()) {
    candidate const top = queue.top();
    queue.pop();
    symbol& left = at(top.position);
    symbol& right = at(top.right);
    if (left.text.empty() || right.text.empty() || left.text.size() + right.text.size() != top.length) continue;
    left.text = joined_text(left, right);
    right.text = {};
    left.next = right.next;
    if (left.next >= 0) at(left.next).previous = top.position;
    propose(left.previous, top.position);
    propose(top.position, left.next);
  }
  bool after_unknown = false;
  for (symbol const& left : symbols) {
    if (left.text.empty()) continue;
    auto const piece = find_piece(left.text);
    bool const known = piece.has_value(), in_bytes = !known && bytes_have_tokens(left.text);
    if (known) out.push_back(*piece);
    if (in_bytes)
      for (char const c : left.text) out.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    if (!known && !in_bytes && words_.unknown && !(words_.fuse_unknown && after_unknown)) out.push_back(*words_.unknown);
    after_unknown = !known && !in_bytes;
  }
}

std::string tokenizer::bytes_of(token_id id) const {
  std::string const& token = words_.tokens[static_cast<std::size_t>(id)];
  token_kind const kind = words_.kinds[static_cast<std::size_t>(id)];
  if (kind == token_kind::control || kind == token_kind::unknown) return token;
  if (kind == token_kind::user_defined && !words_.spells_spaces_first) return token;
  if (words_.model == tokenizer_model::byte_bpe) return from_printable(token).value_or(token);
  if (auto const byte = byte_of_name(token)) return {static_cast<char>(*byte)};
  std::string out;
  for (std::size_t at = 0; at < token.size();) {
    bool const space = std::string_view(token).substr(at).starts_with(space_symbol);
    out += space ? ' ' : token[at];
    at += space ? space_symbol.size() : 1;
  }
  return out;
}

std::string tokenizer::decode(std::span<token_id const> ids) const {
  std::string out;
  for (token_id const id : ids)
    if (id >= 0 && id < size()) out += bytes_of(id);
  bool const prefixed =
      (words_.spaces && words_.spaces->place != metaspace::front::never) ||
      std::ranges::any_of(words_.normalizer, [](auto const& step) { return step.what == normal_step::kind::prepend; });
  if (words_.model != tokenizer_model::byte_bpe && prefixed && out.starts_with(' ')) out.erase(0, 1);
  return out;
}

slim::result<tokenizer> tokenizer::from_gguf(slim::gguf_file const& file) {
  vocabulary words;
  auto const bad = [&](std::string const& why) { return failure{message(file.path().string(), ": ", why)}; };
  auto const model = file.get<std::string>("tokenizer.ggml.model");
  if (!model) return failure{model.why()};
  if (*model != "gpt2" && *model != "llama")
    return bad(message("the tokenizer model '", *model, "' is not read; gpt2 (byte-level BPE) and llama (SentencePiece) are"));
  bool const sentencepiece = *model == "llama";
  words.model = sentencepiece ? tokenizer_model::sentencepiece : tokenizer_model::byte_bpe;

  auto tokens = file.get<std::vector<std::string>>("tokenizer.ggml.tokens");
  auto const kinds = file.get_or<std::vector<std::int32_t>>("tokenizer.ggml.token_type", {});
  auto merges = file.get_or<std::vector<std::string>>("tokenizer.ggml.merges", {});
  auto scores = file.get_or<std::vector<float>>("tokenizer.ggml.scores", {});
  for (std::string const& why : {tokens.why(), kinds.why(), merges.why(), scores.why()})
    if (!why.empty()) return failure{why};
  std::string pre;
  words.tokens = std::move(*tokens);
  for (std::int32_t const kind : *kinds) words.kinds.push_back(static_cast<token_kind>(kind));
  if (!sentencepiece) {
    words.merges = std::move(*merges);
    auto const name = file.get<std::string>("tokenizer.ggml.pre");
    if (!name) return failure{name.why()};
    pre = *name;
    auto const rule = pre_tokenizer_of_gguf(pre);
    if (!rule) return bad(rule.why());
    words.rule = *rule;
  } else {
    words.scores = std::move(*scores);
  }
  bool const llama3 = !sentencepiece && words.rule == pre_tokenizer::llama3 && pre != "dbrx" && pre != "smaug-bpe";
  words.whole_piece_first = llama3;
  auto const add_bos = file.get_or<bool>("tokenizer.ggml.add_bos_token", sentencepiece || llama3); // llama.cpp's defaults
  auto const add_eos = file.get_or<bool>("tokenizer.ggml.add_eos_token", false);
  auto const prefix = file.get_or<bool>("tokenizer.ggml.add_space_prefix", sentencepiece);
  if (!add_bos) return failure{add_bos.why()};
  if (!prefix) return failure{prefix.why()};
  if (!add_eos) return failure{add_eos.why()};
  words.add_bos = *add_bos;
  words.add_eos = *add_eos;
  if (sentencepiece) { // llama.cpp puts the space in front of every stretch between control tokens
    auto const place = *prefix ? metaspace::front::always : metaspace::front::never;
    words.spaces = metaspace{.place = place, .even_before_space = true};
  }

  for (auto const& [key, id] :
       {std::pair{"tokenizer.ggml.bos_token_id", &words.bos}, std::pair{"tokenizer.ggml.eos_token_id", &words.eos},
        std::pair{"tokenizer.ggml.unknown_token_id", &words.unknown}}) {
    if (!file.has(key)) continue;
    auto const value = file.get<token_id>(key);
    if (!value) return failure{value.why()};
    *id = *value;
  }
  if (!sentencepiece) words.unknown.reset(); // byte-level BPE drops a byte without a token, as the tokenizers package does
  auto out = build(std::move(words));
  if (!out) return bad(out.why());
  return out;
}

} // namespace slim_llm
