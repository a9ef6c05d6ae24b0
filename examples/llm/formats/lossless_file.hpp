#pragma once
/// @file
/// A GGUF file without the slack of whole bits (slim/packing/entropy_coded.hpp): smaller by some percent, and back bit for bit.
///
///     "SLIMLOSS"  u32 version = 1  u32 parts  u64 bytes of the file  u64 hash of its parts (fnv_hash)
///     for each part: u64 bytes, u64 coded bytes, the coded bytes (as they are, if the two are equal)
///
/// Parts are what lies before the first tensor, then each tensor with the gap behind it.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace slim_llm {

/// Bytes of all tensors of a type, and what they became; "rest" is what lies before the first tensor.
struct lossless_share {
  std::string type;
  std::uint64_t bytes = 0, coded = 0;
};

/// Works on one part after the other, so that three copies of the largest tensor are in memory. Every part is decoded again
/// before it is written. @throws input_error naming the file that cannot be read or written.
[[nodiscard]] std::vector<lossless_share> write_lossless(std::filesystem::path const& gguf, std::filesystem::path const& out);

/// Writes the file that was packed. Returns its bytes. @throws input_error naming file and reason: damage is found before
/// anything has the name of `out`.
std::uint64_t restore_lossless(std::filesystem::path const& packed, std::filesystem::path const& out);

} // namespace slim_llm
