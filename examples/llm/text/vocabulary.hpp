#pragma once
/// @file
/// What a tokenizer is made of, as data: the same for all files that it may come from.

#include "text/normalizer.hpp"
#include "text/pre_tokenizer.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace slim_llm {

using token_id = std::int32_t;

/// What a token is, with the numbers of `tokenizer.ggml.token_type`.
enum class token_kind : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

/// How ids are found in a piece of text.
enum class tokenizer_model {
  byte_bpe,      ///< bytes, joined by the pair of lowest rank (GPT-2)
  character_bpe, ///< characters, joined by the pair of lowest rank; a character without a token becomes its bytes
                 ///< (SentencePiece models in a tokenizer.json)
  sentencepiece, ///< characters, joined by the pair whose union has the highest score
};

/// A token that is found in the text before everything else.
struct added_token {
  std::string content;
  token_id id = 0;
  bool special = false;     ///< only found if special tokens are asked for
  bool normalized = false;  ///< looked for in the normalized text, by its normalized content; else in the text as it is
  bool lstrip = false;      ///< swallows white space before it
  bool rstrip = false;      ///< ... and behind it
  bool single_word = false; ///< not found inside a word
};

/// Everything a tokenizer is made of. Ids are positions in `tokens`.
struct vocabulary {
  tokenizer_model model = tokenizer_model::byte_bpe;
  pre_tokenizer rule = pre_tokenizer::gpt2; ///< byte_bpe
  std::vector<std::string> tokens;          ///< byte_bpe: in GPT-2's printable form of bytes; added tokens as they are
  std::vector<token_kind> kinds;            ///< one per token, or none: all normal
  std::vector<std::string> merges;          ///< "left right" in order of rank; a NUL between them if one has a space
  std::vector<float> scores;                ///< sentencepiece: one per token
  /// Beside these, tokens of the kinds control, unknown (both special) and user_defined are looked for in the text as it is.
  std::vector<added_token> added;
  std::optional<token_id> bos;
  std::optional<token_id> eos;
  std::optional<token_id> unknown;     ///< what a byte or character without a token becomes; none: it is dropped
  bool fuse_unknown = false;           ///< neighbours that are unknown are one token
  bool byte_fallback = false;          ///< character_bpe: a character without a token becomes the tokens of its bytes
  bool add_bos = false;                ///< the model was trained with bos in front of every text
  bool add_eos = false;                ///< ... and eos behind it
  bool whole_piece_first = false;      ///< BPE: a piece that is a token needs no merges (Llama 3)
  bool space_before_piece = false;     ///< byte_bpe: a text between added tokens that begins with no space gets one
  std::vector<normal_step> normalizer; ///< done to what lies between added tokens
  bool spells_spaces_first = false;    ///< `normalized` tokens are looked for behind that, spelled with its symbols
  std::optional<metaspace> spaces;     ///< how spaces are spelled, where the normalizer does not say it
};

} // namespace slim_llm
