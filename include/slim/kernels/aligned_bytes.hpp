#pragma once
/// @file
/// `aligned_bytes`: memory for packed weights, on cache lines, and on huge pages where the system offers them: a product reads
/// all of it once, and with small pages the walk through the page tables costs 10 to 15% of that.

#include "slim/core/large_pages.hpp"
#include "slim/core/matrix_view.hpp"

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

namespace slim::inline SLIM_ABI {

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
  struct release {
    std::size_t size;
    constexpr release() noexcept : release(0) {}
    constexpr explicit release(std::size_t bytes) noexcept : size(bytes) {}
    void operator()(std::uint8_t* p) const noexcept { detail::release_array(p, size); }
  };
  using storage = std::unique_ptr<std::uint8_t[], release>;

  [[nodiscard]] static storage allocate(index_t size) {
    if (size == 0) return storage();
    auto const padded = static_cast<std::size_t>(size + 64);
    storage bytes(static_cast<std::uint8_t*>(detail::allocate_array(padded)), release(padded));
    std::memset(bytes.get() + size, 0, 64); // for those who read there
    return bytes;
  }

  index_t size_ = 0;
  storage data_;
};

} // namespace slim::inline SLIM_ABI
