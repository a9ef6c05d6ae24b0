#pragma once
/// @file
/// Fields of a few bits, one after the other, the first in the lowest bits of the first byte. A row of fields starts on a
/// byte; the bits that its last byte has left are zero.

#include "slim/core/byte_stream.hpp"

#include <cstring>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Bytes of a row of `count` fields.
[[nodiscard]] constexpr std::int64_t field_bytes(std::int64_t count, int bits) noexcept {
  return count / 8 * bits + (count % 8 * bits + 7) / 8; // count * bits may overflow where this does not
}

/// Writes rows of fields of 1 to 8 bits where there is room for them.
class field_writer {
public:
  explicit field_writer(std::byte* at) noexcept : at_(at) {}

  void put(unsigned field, int bits) noexcept {
    pending_ |= field << filled_;
    filled_ += bits;
    if (filled_ >= 8) {
      *at_++ = static_cast<std::byte>(pending_ & 0xffu);
      pending_ >>= 8;
      filled_ -= 8;
    }
  }

  void end_row() noexcept {
    if (filled_ > 0) *at_++ = static_cast<std::byte>(pending_);
    pending_ = 0;
    filled_ = 0;
  }

private:
  std::byte* at_;
  unsigned pending_ = 0;
  int filled_ = 0;
};

/// Signed codes as unsigned fields: the lowest code, -2^(bits-1), is 0.
[[nodiscard]] constexpr unsigned field_of(int code, int bits) noexcept {
  return static_cast<unsigned>(code + (1 << (bits - 1)));
}
[[nodiscard]] constexpr std::int8_t code_of(unsigned field, int bits) noexcept {
  return static_cast<std::int8_t>(static_cast<int>(field) - (1 << (bits - 1)));
}

/// Reads rows of fields of 1 to 8 bits. Behind the end there are zeros.
class field_reader {
public:
  explicit field_reader(std::span<std::byte const> bytes) noexcept : bytes_(bytes) {}

  [[nodiscard]] unsigned get(int bits) noexcept {
    if (filled_ < bits) {
      if (position_ < bytes_.size()) pending_ |= static_cast<unsigned>(bytes_[position_++]) << filled_;
      filled_ += 8;
    }
    unsigned const field = pending_ & ((1u << bits) - 1u);
    pending_ >>= bits;
    filled_ -= bits;
    return field;
  }

  /// The next codes. At the beginning of a row eight of them, which are whole bytes, come at a time.
  void get_codes(int bits, index_t count, std::int8_t* out) noexcept {
    index_t k = 0;
    std::uint64_t word;
    if (filled_ == 0)
      for (; k + 8 <= count && position_ + sizeof word <= bytes_.size(); k += 8, position_ += static_cast<std::size_t>(bits)) {
        std::memcpy(&word, bytes_.data() + position_, sizeof word);
        for (int field = 0; field < 8; ++field)
          out[k + field] = code_of(static_cast<unsigned>(word >> (field * bits)) & ((1u << bits) - 1u), bits);
      }
    for (; k < count; ++k) out[k] = code_of(get(bits), bits);
  }

  /// Goes on with the next byte. False if a bit that is left in this one is set.
  [[nodiscard]] bool end_row() noexcept {
    bool const clean = pending_ == 0;
    pending_ = 0;
    filled_ = 0;
    return clean;
  }

private:
  std::span<std::byte const> bytes_;
  std::size_t position_ = 0;
  unsigned pending_ = 0;
  int filled_ = 0;
};

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
