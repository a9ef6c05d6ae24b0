#pragma once
/// @file
/// `aligned_bytes`: memory for packed weights, on cache lines, and on huge pages where the system offers them: a product reads
/// all of it once, and from small pages that takes up to four times as long. Layers share huge pages: most are smaller than
/// one, or end inside one.

#include "slim/core/large_pages.hpp"
#include "slim/core/matrix_view.hpp"

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

namespace slim {
inline namespace SLIM_ABI {

/// Bytes with value semantics, uninitialised: whoever fills them touches them first. 64 bytes behind the end may be read.
class aligned_bytes {
public:
  aligned_bytes() = default;
  explicit aligned_bytes(index_t size) : size_(size), data_(allocate(size)) {}
  aligned_bytes(aligned_bytes const& other) : aligned_bytes(other.size_) {
    if (size_ > 0) std::memcpy(data_.get(), other.data_.get(), static_cast<std::size_t>(size_));
  }
  aligned_bytes(aligned_bytes&& other) noexcept : size_(std::exchange(other.size_, 0)), data_(std::move(other.data_)) {}
  aligned_bytes& operator=(aligned_bytes other) noexcept {
    std::swap(size_, other.size_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~aligned_bytes() = default;

  [[nodiscard]] index_t size() const noexcept { return size_; }
  [[nodiscard]] std::uint8_t* data() noexcept { return data_.get(); }
  [[nodiscard]] std::uint8_t const* data() const noexcept { return data_.get(); }

private:
  [[nodiscard]] static std::shared_ptr<std::uint8_t[]> allocate(index_t size) {
    if (size == 0) return nullptr;
    constexpr std::size_t small = std::size_t{1} << 16;
    auto const padded = (static_cast<std::size_t>(size) + 127) / 64 * 64;
    auto bytes = padded < small ? detail::own_array(padded) : detail::array_in_slab(padded);
    std::memset(bytes.get() + size, 0, 64); // for those who read there
    return bytes;
  }

  index_t size_ = 0;
  std::shared_ptr<std::uint8_t[]> data_; // ours alone: shared_ptr for its deleter
};

} // namespace SLIM_ABI
} // namespace slim
