#pragma once
/// @file
/// Text to token ids and back: byte-level BPE (GPT-2, SmolLM, Qwen2, Llama 3) from GGUF metadata or Hugging Face files, and
/// SentencePiece-style merging by score (Llama 1 and 2, Mistral) from GGUF metadata.
///
/// Invalid UTF-8 in a text is replaced by U+FFFD first (see valid_utf8). A byte that has no token of its own is dropped,
/// unless the vocabulary names an unknown token for it, as the `tokenizers` package does. (SmolLM2 lacks 21 bytes: some control
/// characters, and those that only begin rare or invalid sequences.)

#include "slim/io/gguf/reader.hpp"
#include "text/pre_tokenizer.hpp"

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

using token_id = std::int32_t;

/// What a token is, with the numbers of `tokenizer.ggml.token_type`.
enum class token_kind : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

/// How ids are found: by merging the pair of lowest rank, or the pair whose union has the highest score.
enum class tokenizer_model { byte_bpe, sentencepiece };

/// Everything a tokenizer is made of. Ids are positions in `tokens`.
struct vocabulary {
  tokenizer_model model = tokenizer_model::byte_bpe;
  pre_tokenizer rule = pre_tokenizer::gpt2;
  std::vector<std::string> tokens; ///< byte_bpe: in GPT-2's printable form of bytes; control tokens as they are
  std::vector<token_kind> kinds;   ///< one per token, or none: all normal
  std::vector<std::string> merges; ///< byte_bpe: "left right", in order of rank
  std::vector<float> scores;       ///< sentencepiece: one per token
  std::optional<token_id> bos;
  std::optional<token_id> eos;
  std::optional<token_id> unknown;   ///< what a byte without a token becomes; none: it is dropped
  bool add_bos = false;              ///< the model was trained with bos in front of every text
  bool add_space_prefix = false;     ///< sentencepiece: a space is put before the text
  bool whole_piece_first = false;    ///< byte_bpe: a piece that is a token needs no merges (Llama 3)
  bool compose = false;              ///< normal form C before everything (Qwen2's tokenizer.json)
  std::vector<token_id> strip_left;  ///< control tokens that swallow white space before them
  std::vector<token_id> strip_right; ///< ... and behind them
};

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
  /// From a tokenizer.json with a BPE model and a pre-tokenizer that is one of pre_tokenizer's.
  [[nodiscard]] static slim::result<tokenizer> from_json(std::filesystem::path const& path);
  /// From a model folder: tokenizer.json, or else vocab.json and merges.txt (GPT-2 and OPT; rule gpt2).
  [[nodiscard]] static slim::result<tokenizer> from_folder(std::filesystem::path const& folder);

  /// Ids of a text. Time grows with n log n at worst, also for one endless word.
  [[nodiscard]] std::vector<token_id> encode(std::string_view text, encode_options options = {}) const;
  /// Bytes of the tokens, control tokens by their name; ids outside the vocabulary give nothing. Not always valid UTF-8:
  /// a character may be spread over tokens.
  [[nodiscard]] std::string decode(std::span<token_id const> ids) const;

  /// Number of tokens.
  [[nodiscard]] token_id size() const noexcept { return static_cast<token_id>(words_.tokens.size()); }
  [[nodiscard]] std::optional<token_id> bos() const noexcept { return words_.bos; }
  [[nodiscard]] std::optional<token_id> eos() const noexcept { return words_.eos; }
  [[nodiscard]] bool adds_bos() const noexcept { return words_.add_bos; }
  [[nodiscard]] vocabulary const& words() const noexcept { return words_; }
  /// Id of a token as the vocabulary spells it.
  [[nodiscard]] std::optional<token_id> find(std::string_view token) const;

private:
  struct merge {
    std::int32_t rank;
    token_id joined;
  };
  struct special_token {
    std::string text;
    token_id id;
    bool control; // not user-defined: matched only when special tokens are asked for
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
  void index_special_tokens();

  special_token const* special_at(std::string_view text, bool control) const;
  void encode_plain(std::string_view text, std::vector<token_id>& out) const;
  void encode_byte_bpe(std::string_view text, std::vector<token_id>& out) const;
  void append_merged(std::string_view piece, std::vector<token_id>& out) const;
  void append_byte(unsigned char byte, std::vector<token_id>& out) const;
  void encode_sentencepiece(std::string_view text, std::vector<token_id>& out) const;
  std::string bytes_of(token_id id) const;

  vocabulary words_;
  id_of_text ids_;          // by spelling
  id_of_text byte_strings_; // by the bytes a token stands for
  std::unordered_map<std::uint64_t, merge> merges_;
  std::array<token_id, 256> byte_ids_{};                // -1: no token for this byte
  std::array<std::vector<special_token>, 256> special_; // by first byte, longest first
};

} // namespace slim_llm
