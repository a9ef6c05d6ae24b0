#pragma once
/// @file
/// Memory of this process, and of the files it maps.

#include <cstddef>
#include <span>
#include <string>

namespace slim_llm {

/// Peak resident memory of this process in bytes since the last reset; 0 where the system does not say.
[[nodiscard]] double peak_memory();
void reset_peak_memory();

/// Bytes of physical memory; 0 where the system does not say.
[[nodiscard]] double physical_memory();

/// Lets the memory of freed matrices serve the next ones, up to a gigabyte each, until return_freed_memory(). Without it glibc
/// gives what is larger than 32 MB back to the system, which fills it with zeros for every matrix anew: a sixth of the time of
/// a block of a 7B's widths. Does something with glibc only.
void keep_freed_memory();

/// Gives freed memory back to the system, as is due between linears: the many sizes of a model's matrices leave gaps between
/// them. Does something with glibc only.
void return_freed_memory();

/// Gives back the memory that the pages of a mapped file take. The bytes stay valid: they are read from the file again.
/// Only for bytes of a read-only map of a file.
void drop_pages(std::span<std::byte const> mapped);

/// "800M", "5.5G", "123456": bytes, powers of 1000. @throws input_error
[[nodiscard]] double parse_bytes(std::string const& option, std::string const& text);

} // namespace slim_llm
