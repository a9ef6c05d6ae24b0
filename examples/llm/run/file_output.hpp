#pragma once
/// @file
/// Small text files, written beside and renamed: a reader never sees half a file, and a failure leaves the old one.

#include <filesystem>
#include <string_view>

namespace slim_llm {

/// @throws std::filesystem::filesystem_error or std::runtime_error naming the file.
void write_file(std::filesystem::path const& file, std::string_view content);

} // namespace slim_llm
