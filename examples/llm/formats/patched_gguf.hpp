#pragma once
/// @file
/// A GGUF file with other bytes in some of its tensors: types, shapes, metadata and all other bytes stay as they are.

#include "slim/io/gguf/reader.hpp"

#include <filesystem>
#include <map>
#include <span>
#include <string>

namespace slim_llm {

/// Writes a copy of `file` in which the tensors of these names hold these bytes, beside and renamed; then reads it again and
/// compares. @throws input_error if a tensor is not there or is not as long, or if the copy cannot be written
void write_with_tensors(slim::gguf_file const& file, std::map<std::string, std::span<std::byte const>> const& tensors,
                        std::filesystem::path const& out);

} // namespace slim_llm
