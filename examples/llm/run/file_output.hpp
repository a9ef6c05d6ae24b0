#pragma once
/// @file
/// Small text files, written beside and renamed: a reader never sees half a file, and a failure leaves the old one.

#include <cstdio>
#include <filesystem>
#include <string_view>

namespace slim_llm {

/// For std::unique_ptr<std::FILE, close_stream>.
struct close_stream {
  void operator()(std::FILE* stream) const noexcept { std::fclose(stream); }
};

/// A device or pipe (/dev/stdout) is written as it is. @throws input_error naming the file and what the system says.
void write_file(std::filesystem::path const& file, std::string_view content);

/// Sends what was printed on its way. @throws input_error if standard output takes no more (a full disk, a closed pipe).
void flush_standard_output();

} // namespace slim_llm
