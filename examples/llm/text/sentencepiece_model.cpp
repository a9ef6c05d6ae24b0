#include "text/sentencepiece_model.hpp"

#include <bit>
#include <cstring>
#include <string_view>

namespace slim_llm {
namespace {

using slim::failure;
using slim::message;

/// One field of a protocol buffer.
struct field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;          ///< of an integer; the bits of a float
  std::span<std::byte const> bytes; ///< of a string or a message
};

/// Fields in the order of the bytes.
class field_reader {
public:
  explicit field_reader(std::span<std::byte const> bytes) : left_(bytes) {}

  /// The next field; false at the end, or if the bytes are damaged.
  bool next(field& out) {
    if (left_.empty() || damaged_) return false;
    std::uint64_t const tag = varint();
    out = {.number = tag >> 3, .value = 0, .bytes = {}};
    switch (tag & 7) {
    case 0: out.value = varint(); break;
    case 1: out.bytes = take(8); break;
    case 2: out.bytes = take(varint()); break;
    case 5:
      out.bytes = take(4);
      if (!damaged_) std::memcpy(&out.value, out.bytes.data(), 4); // little-endian, as the machines that slim runs on
      break;
    default: damaged_ = true;
    }
    return !damaged_;
  }
  [[nodiscard]] bool damaged() const { return damaged_; }

private:
  std::span<std::byte const> take(std::uint64_t count) {
    if (count > left_.size()) {
      damaged_ = true;
      return {};
    }
    auto const taken = left_.first(static_cast<std::size_t>(count));
    left_ = left_.subspan(taken.size());
    return taken;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      auto const byte = take(1);
      if (damaged_) return 0;
      value |= (std::to_integer<std::uint64_t>(byte[0]) & 0x7f) << shift;
      if ((std::to_integer<unsigned>(byte[0]) & 0x80) == 0) return value;
    }
    damaged_ = true;
    return 0;
  }

  std::span<std::byte const> left_;
  bool damaged_ = false;
};

std::string text_of(field const& f) { return {reinterpret_cast<char const*>(f.bytes.data()), f.bytes.size()}; }

/// What is not as these models have it; empty if all is.
struct settings {
  std::uint64_t model_type = 1;
  bool byte_fallback = false, suffix_spaces = false;
  std::int64_t unknown = 0, bos = 1, eos = 2;
  std::string normalization;
  bool charsmap = false, dummy_prefix = true, removes_spaces = true, escapes_spaces = true;
};

bool read_piece(std::span<std::byte const> bytes, vocabulary& words) {
  field_reader fields(bytes);
  std::string piece;
  float score = 0;
  std::uint64_t kind = 1;
  for (field f; fields.next(f);) {
    if (f.number == 1) piece = text_of(f);
    if (f.number == 2) score = std::bit_cast<float>(static_cast<std::uint32_t>(f.value));
    if (f.number == 3) kind = f.value;
  }
  if (fields.damaged() || kind < 1 || kind > 6) return false;
  words.tokens.push_back(std::move(piece));
  words.scores.push_back(score);
  words.kinds.push_back(static_cast<token_kind>(kind));
  return true;
}

bool read_trainer(std::span<std::byte const> bytes, settings& found) {
  field_reader fields(bytes);
  for (field f; fields.next(f);) switch (f.number) {
    case 3: found.model_type = f.value; break;
    case 24: found.suffix_spaces = f.value != 0; break;
    case 35: found.byte_fallback = f.value != 0; break;
    case 40: found.unknown = static_cast<std::int64_t>(f.value); break;
    case 41: found.bos = static_cast<std::int64_t>(f.value); break;
    case 42: found.eos = static_cast<std::int64_t>(f.value); break;
    default: break;
    }
  return !fields.damaged();
}

bool read_normalizer(std::span<std::byte const> bytes, settings& found) {
  field_reader fields(bytes);
  for (field f; fields.next(f);) switch (f.number) {
    case 1: found.normalization = text_of(f); break;
    case 2: found.charsmap = !f.bytes.empty(); break;
    case 3: found.dummy_prefix = f.value != 0; break;
    case 4: found.removes_spaces = f.value != 0; break;
    case 5: found.escapes_spaces = f.value != 0; break;
    default: break;
    }
  return !fields.damaged();
}

/// What we cannot do, as a sentence; empty if there is nothing.
std::string why_not(settings const& found) {
  if (found.model_type != 2)
    return message("the SentencePiece model is of type ", found.model_type, " (1 is Unigram); only 2, BPE, is read");
  if (found.charsmap)
    return message("the SentencePiece model normalizes texts by '", found.normalization, "'; only identity is read");
  if (found.removes_spaces) return "the SentencePiece model has remove_extra_whitespaces, which is not read";
  if (!found.escapes_spaces) return "the SentencePiece model has no escape_whitespaces, which is not read";
  if (found.suffix_spaces) return "the SentencePiece model has treat_whitespace_as_suffix, which is not read";
  return {};
}

std::optional<token_id> id_of(std::int64_t id, std::size_t count) {
  if (id < 0 || id >= static_cast<std::int64_t>(count)) return std::nullopt;
  return static_cast<token_id>(id);
}

} // namespace

slim::result<vocabulary> read_sentencepiece(std::span<std::byte const> bytes) {
  vocabulary words;
  words.model = tokenizer_model::sentencepiece;
  settings found;
  field_reader fields(bytes);
  bool good = true;
  for (field f; good && fields.next(f);) {
    if (f.number == 1) good = read_piece(f.bytes, words);
    if (f.number == 2) good = read_trainer(f.bytes, found);
    if (f.number == 3) good = read_normalizer(f.bytes, found);
  }
  if (!good || fields.damaged()) return failure{"is no SentencePiece model, or a damaged one"};
  if (words.tokens.empty()) return failure{"is no SentencePiece model: it has no pieces"};
  if (std::string why = why_not(found); !why.empty()) return failure{std::move(why)};
  std::size_t const count = words.tokens.size();
  words.unknown = id_of(found.unknown, count);
  words.bos = id_of(found.bos, count);
  words.eos = id_of(found.eos, count);
  words.add_bos = words.bos.has_value(); // LlamaTokenizer's default
  words.fuse_unknown = true;
  words.byte_fallback = found.byte_fallback;
  auto const place = found.dummy_prefix ? metaspace::front::first : metaspace::front::never;
  words.spaces = metaspace{.place = place, .even_before_space = true};
  words.spells_spaces_first = true;
  for (std::size_t k = 0; k < count; ++k) {
    if (words.kinds[k] == token_kind::unused) return failure{message("piece ", k, " is unused, which is not read")};
    if (words.kinds[k] == token_kind::user_defined)
      words.added.push_back({.content = words.tokens[k], .id = static_cast<token_id>(k), .normalized = true});
  }
  return words;
}

} // namespace slim_llm
