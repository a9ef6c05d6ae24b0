#pragma once
/// @file
/// Numbers to bytes and back: little-endian, without alignment, and never past the end. Everything that the library reads from
/// outside as binary numbers (packed matrices, saved calibrations, GGUF) goes through `byte_reader`.

#include "slim/core/matrix_view.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

static_assert(std::endian::native == std::endian::little, "slim: stored bytes are little-endian; this machine is not");

/// Appends the bytes of a number, or of a struct of numbers without padding.
template <class T>
  requires std::is_trivially_copyable_v<T>
void append_bytes(std::vector<std::byte>& out, T const& value) {
  auto const* const first = reinterpret_cast<std::byte const*>(&value);
  out.insert(out.end(), first, first + sizeof(T));
}

/// Appends zeros, to be written over. Where they begin.
[[nodiscard]] inline std::byte* append_room(std::vector<std::byte>& out, std::int64_t bytes) {
  out.resize(out.size() + static_cast<std::size_t>(bytes));
  return out.data() + out.size() - bytes;
}

/// Reads forward through bytes. A read that does not fit gives zero, and so do all after it; `failed()` says so.
class byte_reader {
public:
  explicit byte_reader(std::span<std::byte const> bytes, std::size_t position = 0) noexcept
      : bytes_(bytes), position_(std::min(position, bytes.size())) {}

  [[nodiscard]] std::size_t position() const noexcept { return position_; }
  [[nodiscard]] std::size_t left() const noexcept { return bytes_.size() - position_; }
  [[nodiscard]] bool failed() const noexcept { return failed_; }

  /// The next `count` bytes; none if there are fewer, or if the count is negative.
  template <std::integral Count>
  [[nodiscard]] std::span<std::byte const> take(Count count) noexcept {
    failed_ = failed_ || std::cmp_less(count, 0) || std::cmp_greater(count, left());
    if (failed_) return {};
    auto const part = bytes_.subspan(position_, static_cast<std::size_t>(count));
    position_ += part.size();
    return part;
  }

  template <class T>
    requires std::is_trivially_copyable_v<T>
  [[nodiscard]] T read() noexcept {
    T value{};
    if (auto const part = take(sizeof(T)); !part.empty()) std::memcpy(&value, part.data(), sizeof(T));
    return value;
  }

private:
  std::span<std::byte const> bytes_;
  std::size_t position_ = 0;
  bool failed_ = false;
};

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
