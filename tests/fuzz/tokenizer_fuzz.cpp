// libFuzzer target of the tokenizer readers: tokenizer.json (the first byte is '{') or tokenizer.model. Whatever the bytes,
// they give a sentence, or a tokenizer that encodes any text to ids of its vocabulary. Inputs start as small vocabularies of
// the kinds that are read.

#include "text/sentencepiece_model.hpp"
#include "text/tokenizer.hpp"

#include "fresh_or_mutated.hpp"
#include "memory_file.hpp"

#include <nlohmann/json.hpp>

#include <bit>
#include <cstdlib>

namespace {

using nlohmann::json;
using namespace slim_llm;

json added_token(int id, char const* content, bool special) {
  return {{"id", id},          {"content", content},     {"single_word", false}, {"lstrip", false},
          {"rstrip", id == 3}, {"normalized", !special}, {"special", special}};
}

/// GPT-2's kind: letters stand for bytes.
json byte_level(bool qwen2) {
  json const split = {
      {"type", "Split"},
      {"pattern",
       {{"Regex",
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}}},
      {"behavior", "Isolated"},
      {"invert", false}};
  json const bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", !qwen2}};
  return {{"version", "1.0"},
          {"added_tokens", {added_token(5, "<|end|>", true), added_token(6, "lala", false)}},
          {"normalizer", qwen2 ? json{{"type", "NFC"}} : json()},
          {"pre_tokenizer", qwen2 ? json{{"type", "Sequence"}, {"pretokenizers", {split, bytes}}} : bytes},
          {"post_processor", nullptr},
          {"decoder", bytes},
          {"model",
           {{"type", "BPE"},
            {"vocab", {{"a", 0}, {"l", 1}, {"la", 2}, {"\xc4\xa0", 3}, {"\xc4\xa0la", 4}}},
            {"merges", {"l a", "\xc4\xa0 la"}}}}};
}

/// Llama's kind: pieces of text, bytes as a last resort.
json with_byte_fallback() {
  json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    vocab[name] = 3 + byte;
  }
  int id = 259;
  for (char const* const piece : {"\xe2\x96\x81", "l", "a", "la", "\xe2\x96\x81la"}) vocab[piece] = id++;
  return {{"added_tokens", {added_token(0, "<unk>", true), added_token(1, "<s>", true), added_token(2, "</s>", true)}},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers",
             {{{"type", "Prepend"}, {"prepend", "\xe2\x96\x81"}},
              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xe2\x96\x81"}}}}}},
          {"pre_tokenizer", nullptr},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
            {"pair", json::array()},
            {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges", {{"l", "a"}, {"\xe2\x96\x81", "la"}}}}}};
}

/// A field of a protocol buffer, its length below 128.
std::string field(int number, std::string const& bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}
std::string varint(int number, int value) {
  std::string head(1, static_cast<char>((number << 3 | 0) & 0x7f));
  if (number > 15) head = {static_cast<char>(0x80 | (number << 3 & 0x7f)), static_cast<char>(number >> 4)};
  return head + static_cast<char>(value);
}
std::string piece(std::string const& text, float score, int kind) {
  auto const bits = std::bit_cast<std::array<char, 4>>(score);
  return field(1, field(1, text) + static_cast<char>(2 << 3 | 5) + std::string(bits.data(), 4) + varint(3, kind));
}

std::string sentencepiece(bool fallback) {
  std::string all = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3);
  if (fallback)
    for (int byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", byte);
      all += piece(name, 0, 6);
    }
  all += piece("la", -1, 1) + piece("\xe2\x96\x81la", -2, 1) + piece("\xe2\x96\x81", -3, 1) + piece("l", -4, 1) +
         piece("a", -5, 1) + piece("user", 0, 4);
  return all + field(2, varint(3, 2) + varint(35, fallback ? 1 : 0)) +
         field(3, field(1, "identity") + varint(3, 1) + varint(4, 0) + varint(5, 1));
}

std::string fresh_tokenizer(unsigned seed) {
  switch (seed % 5) {
  case 0: return byte_level(false).dump();
  case 1: return byte_level(true).dump();
  case 2: return with_byte_fallback().dump();
  case 3: return sentencepiece(false);
  default: return sentencepiece(true);
  }
}

void use(tokenizer const& words, std::string_view text) {
  for (bool const special : {false, true}) {
    auto const ids = words.encode(text, {.special = special, .add_bos = words.adds_bos()});
    for (token_id const id : ids)
      if (id < 0 || id >= words.size()) std::abort();
    (void)words.decode(ids);
  }
}

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  return slim_test::fresh_or_mutated(data, size, max_size, seed, 8, fresh_tokenizer);
}

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  auto words = [&]() -> slim::result<tokenizer> {
    if (size > 0 && data[0] == '{') return tokenizer::from_json(slim_test::memory_file(data, size).path());
    auto read = read_sentencepiece(std::as_bytes(std::span(data, size)));
    if (!read) return slim::failure{read.why()};
    return tokenizer::build(std::move(*read));
  }();
  if (!words) {
    if (words.why().size() < 10) std::abort();
    return 0;
  }
  use(*words, "la la\nlala  <s> <|end|> \xe2\x96\x81 <0x41> caf\xc3\xa9 12 user\xff");
  use(*words, std::string_view(reinterpret_cast<char const*>(data), std::min<std::size_t>(size, 64)));
  return 0;
}
