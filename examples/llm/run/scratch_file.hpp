#pragma once
/// @file
/// A file for what does not fit into memory. It has no name and is gone when the program ends, however it ends. POSIX.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace slim_llm {

/// The folder that a file is in, or a folder, with or without a slash at its end.
[[nodiscard]] std::filesystem::path folder_of(std::filesystem::path const& file);

/// Bytes in a memory map, and what keeps it.
struct mapped_bytes {
  std::span<std::byte const> bytes;
  std::shared_ptr<void const> keeps;
};

class scratch_file {
public:
  /// @throws input_error if no file can be made in the folder.
  explicit scratch_file(std::filesystem::path const& folder);
  scratch_file(scratch_file&& other) noexcept;
  scratch_file& operator=(scratch_file&& other) noexcept;
  ~scratch_file();

  /// Reserves so many bytes at the end and returns where they begin.
  [[nodiscard]] std::uint64_t reserve(std::uint64_t bytes);
  /// @throws input_error if the disk is full or fails.
  void write(std::uint64_t offset, std::span<std::byte const> bytes);
  void read(std::uint64_t offset, std::span<std::byte> bytes) const;
  /// Bytes that were written, in a map that outlives this object. @throws input_error
  [[nodiscard]] mapped_bytes map(std::uint64_t offset, std::uint64_t size) const;

private:
  std::filesystem::path folder_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

} // namespace slim_llm
