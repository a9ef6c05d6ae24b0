#pragma once
/// @file
/// Text to token ids and back, from GGUF metadata or the files of a Hugging Face folder: byte-level BPE (GPT-2, SmolLM, Qwen2,
/// Llama 3), and the BPE of SentencePiece (Llama 1 and 2, Mistral, Gemma), by ranks or by scores.
///
/// A text is cut at added tokens, what lies between is normalized, cut at added tokens again (those that are looked for in
/// normalized text), cut into pieces, and pieces become ids. The steps and their order are those of the `tokenizers` package.
///
/// Invalid UTF-8 in a text is replaced by U+FFFD first (see valid_utf8). A byte that has no token of its own is dropped,
/// unless the vocabulary names an unknown token for it, as the `tokenizers` package does. (SmolLM2 lacks 21 bytes: some control
/// characters, and those that only begin rare or invalid sequences.)

#include "text/added_tokens.hpp"
#include "text/vocabulary.hpp"

#include "slim/io/gguf/reader.hpp"

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace slim_llm {

class model_files;

struct encode_options {
  bool special = true;  ///< control tokens written in the text become their ids; false: they are ordinary text
  bool add_bos = false; ///< put bos first
};

/// Immutable once built; encode and decode may run on many threads.
class tokenizer {
public:
  /// Fails if a merge names a token that does not exist, or the lists do not fit each other.
  [[nodiscard]] static slim::result<tokenizer> build(vocabulary words);
  /// From the `tokenizer.ggml.*` keys.
  [[nodiscard]] static slim::result<tokenizer> from_gguf(slim::gguf_file const& file);
  /// From a tokenizer.json with a BPE model and a pre-tokenizer that is one of pre_tokenizer's, or SentencePiece's.
  [[nodiscard]] static slim::result<tokenizer> from_json(std::filesystem::path const& path);
  /// From a model folder: tokenizer.json, or else tokenizer.model (SentencePiece), or else vocab.json and merges.txt (GPT-2,
  /// OPT and Qwen2, as tokenizer_config.json or config.json say). A part that changes ids and is not known is refused by name.
  [[nodiscard]] static slim::result<tokenizer> from_folder(std::filesystem::path const& folder);
  /// The same from files that may lie inside another one.
  [[nodiscard]] static slim::result<tokenizer> from_files(model_files const& files);

  /// Ids of a text. Time grows with n log n at worst, also for one endless word.
  [[nodiscard]] std::vector<token_id> encode(std::string_view text, encode_options options = {}) const;
  /// Bytes of the tokens, control tokens by their name; ids outside the vocabulary give nothing. Not always valid UTF-8:
  /// a character may be spread over tokens.
  [[nodiscard]] std::string decode(std::span<token_id const> ids) const;

  /// Number of tokens.
  [[nodiscard]] token_id size() const noexcept { return static_cast<token_id>(words_.tokens.size()); }
  [[nodiscard]] std::optional<token_id> bos() const noexcept { return words_.bos; }
  [[nodiscard]] std::optional<token_id> eos() const noexcept { return words_.eos; }
  /// Whether texts should begin with bos: this is where the program decides it.
  [[nodiscard]] bool adds_bos() const noexcept { return words_.add_bos && words_.bos; }
  /// Whether texts should end with eos.
  [[nodiscard]] bool adds_eos() const noexcept { return words_.add_eos && words_.eos; }
  [[nodiscard]] vocabulary const& words() const noexcept { return words_; }
  /// Id of a token as the vocabulary spells it.
  [[nodiscard]] std::optional<token_id> find(std::string_view token) const;

private:
  struct merge {
    std::int32_t rank;
    token_id joined;
  };
  struct text_hash { // lets string_view look up std::string keys
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
  };
  using id_of_text = std::unordered_map<std::string, token_id, text_hash, std::equal_to<>>;

  tokenizer() = default;

  std::string index_tokens();
  std::string index_merges();
  void index_bytes();
  void index_added_tokens();

  void encode_stretch(std::string_view text, bool at_front, std::vector<token_id>& out) const;
  void append_pieces(std::vector<std::string_view> const& pieces, std::vector<token_id>& out) const;
  [[nodiscard]] std::vector<token_id> symbols_of(std::string_view piece) const;
  void append_merged(std::vector<token_id> const& symbols, std::vector<token_id>& out) const;
  void append_by_score(std::string_view text, std::vector<token_id>& out) const;
  [[nodiscard]] std::optional<token_id> find_piece(std::string_view text) const;
  [[nodiscard]] bool bytes_have_tokens(std::string_view text) const;
  [[nodiscard]] std::string bytes_of(token_id id) const;

  vocabulary words_;
  id_of_text ids_;          // by spelling
  id_of_text byte_strings_; // by the bytes a token stands for
  std::unordered_map<std::uint64_t, merge> merges_;
  std::array<token_id, 256> byte_ids_{}; // -1: no token for this byte
  added_token_finder added_;             // looked for in the text as it is
  added_token_finder normalized_;        // looked for in the normalized text
};

} // namespace slim_llm
