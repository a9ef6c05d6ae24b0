#pragma once
/// @file
/// A compressed model as a GGUF file whose linears hold the codes that were packed, block by block.

#include "formats/export_report.hpp"

namespace slim_llm {

/// The linears become blocks of one type (`type` as GGUF calls it: "q4_1"), or of the smallest of Q4_0, Q4_1, Q5_0, Q5_1 and
/// Q8_0 that holds each exactly (`type` empty). Metadata and all other tensors are those of the model, or of `base`, a GGUF
/// file of the same model, which is needed if the model is a folder. Read back and compared before it gets its name. @throws
/// input_error naming the layer and what does not fit.
void export_gguf(export_source const& source, std::string const& type, std::filesystem::path const& base,
                 std::filesystem::path const& out, export_options const& options, export_report& report);

/// Bytes of a linear's blocks, before there is a file: of one type, or (`type` empty) of the smallest that holds the codes.
/// `why_not` says what no type holds; the bytes are then those of the largest. O(elements)
[[nodiscard]] double gguf_bytes_of(slim::integer_codes const& codes, std::string const& type, std::string& why_not);

/// Types for --to gguf:TYPE, in words.
[[nodiscard]] std::string gguf_types();
/// Whether `type` is one of them, or empty.
[[nodiscard]] bool is_gguf_type(std::string const& type);

} // namespace slim_llm
