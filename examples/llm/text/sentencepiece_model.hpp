#pragma once
/// @file
/// Reader of `tokenizer.model`, SentencePiece's model file: a protocol buffer (sentencepiece_model.proto), of which only what
/// decides about ids is read.

#include "text/vocabulary.hpp"

#include "slim/core/result.hpp"

#include <cstddef>
#include <span>

namespace slim_llm {

/// The vocabulary of a BPE model without a normalization of its own, as Llama's and Mistral's. The failure says what is
/// damaged, or which setting is not known. Takes memory in proportion to the bytes.
[[nodiscard]] slim::result<vocabulary> read_sentencepiece(std::span<std::byte const> bytes);

} // namespace slim_llm
