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

/// Types for --to gguf:TYPE, in words.
[[nodiscard]] std::string gguf_types();
/// Whether `type` is one of them, or empty.
[[nodiscard]] bool is_gguf_type(std::string const& type);

} // namespace slim_llm
