#include "text/pre_tokenizer.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utf8proc.h>

namespace slim_llm {
namespace {

enum class letter_class : std::uint8_t { other, letter, number, space };

struct character {
  char32_t code;
  letter_class kind;
  std::size_t offset; // of its first byte
};

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

letter_class class_of(char32_t c) {
  if (is_white_space(c)) return letter_class::space;
  utf8proc_category_t const category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) return letter_class::letter;
  if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO) return letter_class::number;
  return letter_class::other;
}

char32_t decode_valid(std::string_view text, std::size_t at) {
  auto const byte = [&](std::size_t k) { return static_cast<char32_t>(static_cast<unsigned char>(text[at + k])); };
  switch (character_length(text[at])) {
  case 1: return byte(0);
  case 2: return ((byte(0) & 0x1f) << 6) | (byte(1) & 0x3f);
  case 3: return ((byte(0) & 0x0f) << 12) | ((byte(1) & 0x3f) << 6) | (byte(2) & 0x3f);
  default: return ((byte(0) & 0x07) << 18) | ((byte(1) & 0x3f) << 12) | ((byte(2) & 0x3f) << 6) | (byte(3) & 0x3f);
  }
}

/// Unicode's \w: letters, marks, decimal and letter numbers, connecting punctuation, joiners, and letters in circles and
/// squares.
bool is_word(char32_t c) {
  if (c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
      (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189))
    return true;
  utf8proc_category_t const category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC;
}

/// Where the last character begins.
std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

/// Bytes of the longest prefix at `at` that could begin a character, and whether it is one (Unicode 15, table 3-7).
struct utf8_step {
  std::size_t length;
  bool valid;
};

utf8_step next_character(std::string_view text, std::size_t at) {
  auto const byte = [&](std::size_t k) { return static_cast<unsigned char>(text[at + k]); };
  unsigned const first = byte(0);
  if (first < 0x80) return {1, true};
  if (first < 0xc2 || first > 0xf4) return {1, false};
  std::size_t const wanted = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  unsigned const low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  unsigned const high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t k = 1; k < wanted; ++k) {
    if (at + k >= text.size()) return {k, false};
    bool const fits = k == 1 ? byte(k) >= low && byte(k) <= high : byte(k) >= 0x80 && byte(k) <= 0xbf;
    if (!fits) return {k, false};
  }
  return {wanted, true};
}

std::vector<character> characters_of(std::string_view text) {
  static std::array<letter_class, 128> const ascii = [] {
    std::array<letter_class, 128> classes{};
    for (std::size_t c = 0; c < classes.size(); ++c) classes[c] = class_of(static_cast<char32_t>(c));
    return classes;
  }();
  std::vector<character> out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size(); at += character_length(text[at])) {
    char32_t const c = decode_valid(text, at);
    out.push_back({c, c < 128 ? ascii[c] : class_of(c), at});
  }
  return out;
}

/// Reads one part of the text; every rule is a function from a position to the end of the piece that begins there.
class scanner {
public:
  scanner(pre_tokenizer rule, std::string_view text) : rule_(rule), text_(text), at_(characters_of(text)) {}

  void append_pieces(std::vector<std::string_view>& out) const {
    if (rule_ != pre_tokenizer::smollm) return append_part(0, at_.size(), out);
    for (std::size_t i = 0; i < at_.size();) { // a number stands alone, and what lies between numbers is a text of its own
      std::size_t end = i;
      while (end < at_.size() && at_[end].kind != letter_class::number) ++end;
      append_part(i, end, out);
      if (end < at_.size()) out.push_back(bytes_of(end, end + 1));
      i = end + 1;
    }
  }

private:
  std::string_view bytes_of(std::size_t i, std::size_t end) const {
    std::size_t const last = end < at_.size() ? at_[end].offset : text_.size();
    return text_.substr(at_[i].offset, last - at_[i].offset);
  }

  void append_part(std::size_t i, std::size_t part_end, std::vector<std::string_view>& out) const {
    while (i < part_end) {
      std::size_t const end = piece_end(i, part_end);
      out.push_back(bytes_of(i, end));
      i = end;
    }
  }

  std::size_t piece_end(std::size_t i, std::size_t end) const {
    switch (rule_) {
    case pre_tokenizer::gpt2:
    case pre_tokenizer::smollm: break;
    case pre_tokenizer::qwen2: return newline_aware_end(i, end, 1);
    case pre_tokenizer::llama3: return newline_aware_end(i, end, 3);
    }
    return gpt2_end(i, end);
  }

  bool is(std::size_t i, letter_class kind) const { return i < at_.size() && at_[i].kind == kind; }
  bool is_newline(std::size_t i) const { return i < at_.size() && (at_[i].code == '\r' || at_[i].code == '\n'); }

  std::size_t run_end(std::size_t i, std::size_t end, letter_class kind) const {
    while (i < end && at_[i].kind == kind) ++i;
    return i;
  }

  /// End of 's, 't, 'm, 'd, 're, 've, 'll at i; i if there is none.
  std::size_t contraction_end(std::size_t i, std::size_t end, bool any_case) const {
    if (at_[i].code != '\'' || i + 1 >= end) return i;
    auto const letter = [&](std::size_t k) -> char32_t {
      if (k >= end) return 0;
      char32_t const c = at_[k].code;
      if (any_case && c == 0x17f) return 's'; // the long s is an s when case does not matter
      return any_case && c >= 'A' && c <= 'Z' ? c + 32 : c;
    };
    char32_t const a = letter(i + 1);
    char32_t const b = letter(i + 2);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
    return i;
  }

  /// \s+(?!\S)|\s+: the run of white space, but for its last character if something follows and that is not all of it.
  std::size_t space_end(std::size_t i, std::size_t end) const {
    std::size_t const run = run_end(i, end, letter_class::space);
    return run == end || run - i == 1 ? run : run - 1;
  }

  std::size_t gpt2_end(std::size_t i, std::size_t end) const {
    if (std::size_t const contraction = contraction_end(i, end, false); contraction > i) return contraction;
    std::size_t const start = at_[i].code == ' ' && i + 1 < end ? i + 1 : i;
    letter_class const kind = at_[start].kind;
    if (kind == letter_class::space) return space_end(i, end);
    return run_end(start, end, kind);
  }

  std::size_t newline_aware_end(std::size_t i, std::size_t end, std::size_t digits) const {
    if (std::size_t const contraction = contraction_end(i, end, true); contraction > i) return contraction;
    letter_class const kind = at_[i].kind;
    if (kind == letter_class::letter) return run_end(i, end, kind);
    if (kind == letter_class::number) return run_end(i, std::min(end, i + digits), kind);
    if (!is_newline(i) && is(i + 1, letter_class::letter)) return run_end(i + 1, end, letter_class::letter);
    std::size_t const start = at_[i].code == ' ' ? i + 1 : i;
    if (is(start, letter_class::other)) {
      std::size_t after = run_end(start, end, letter_class::other);
      while (is_newline(after)) ++after;
      return after;
    }
    std::size_t const run = run_end(i, end, letter_class::space);
    for (std::size_t k = run; k > i; --k) // \s*[\r\n]+: up to the last line break of the run
      if (is_newline(k - 1)) return k;
    return space_end(i, end);
  }

  pre_tokenizer rule_;
  std::string_view text_;
  std::vector<character> at_;
};

} // namespace

slim::result<pre_tokenizer> pre_tokenizer_of_gguf(std::string_view name) {
  if (name == "gpt-2" || name == "gpt2" || name == "olmo" || name == "mpt") return pre_tokenizer::gpt2;
  if (name == "smollm" || name == "starcoder" || name == "refact" || name == "command-r") return pre_tokenizer::smollm;
  if (name == "qwen2" || name == "stablelm2" || name == "deepseek-r1-qwen" || name == "megrez") return pre_tokenizer::qwen2;
  if (name == "llama-bpe" || name == "llama3" || name == "llama-v3" || name == "dbrx" || name == "smaug-bpe")
    return pre_tokenizer::llama3;
  return slim::failure{slim::message("pre-tokenizer '", name, "' is not known; known are gpt-2, smollm, qwen2, llama-bpe")};
}

std::string valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    utf8_step const step = next_character(text, at);
    if (step.valid)
      out.append(text, at, step.length);
    else
      out += "\xef\xbf\xbd";
    at += step.length;
  }
  return out;
}

std::string normal_form_c(std::string_view text) {
  utf8proc_uint8_t* composed = nullptr;
  auto const options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  utf8proc_ssize_t const length = utf8proc_map(reinterpret_cast<utf8proc_uint8_t const*>(text.data()),
                                               static_cast<utf8proc_ssize_t>(text.size()), &composed, options);
  std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> const owner(composed, &std::free);
  if (length < 0) return std::string(text); // not reached for valid UTF-8 below 2 GiB
  return {reinterpret_cast<char const*>(composed), static_cast<std::size_t>(length)};
}

std::size_t leading_space(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && is_white_space(decode_valid(text, at))) at += character_length(text[at]);
  return at;
}

std::size_t trailing_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t const at = last_character(text.substr(0, end));
    if (!is_white_space(decode_valid(text, at))) break;
    end = at;
  }
  return text.size() - end;
}

bool ends_with_word_character(std::string_view text) {
  return !text.empty() && is_word(decode_valid(text, last_character(text)));
}

bool begins_with_word_character(std::string_view text) { return !text.empty() && is_word(decode_valid(text, 0)); }

std::vector<std::string_view> split(pre_tokenizer rule, std::string_view text) {
  std::vector<std::string_view> out;
  out.reserve(text.size() / 4);
  scanner(rule, text).append_pieces(out);
  return out;
}

} // namespace slim_llm
