#pragma once
/// @file
/// `aligned_bytes`: memory for packed weights, on cache lines, and on huge pages where the system offers them: a product reads
/// all of it once, and with small pages the walk through the page tables costs 10 to 15% of that.

#include "slim/core/matrix_view.hpp"

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace slim::inline SLIM_ABI {

/// Zero-initialised bytes with value semantics; 64 bytes behind the end may be read.
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
  static constexpr index_t huge_page = index_t{1} << 21;

  [[nodiscard]] static constexpr std::align_val_t alignment_of(index_t size) {
    return static_cast<std::align_val_t>(size >= huge_page ? huge_page : 64);
  }

  struct release {
    std::align_val_t alignment;
    constexpr release() noexcept : release(std::align_val_t{64}) {}
    constexpr explicit release(std::align_val_t a) noexcept : alignment(a) {}
    void operator()(std::uint8_t* p) const noexcept { ::operator delete(p, alignment); }
  };
  using storage = std::unique_ptr<std::uint8_t[], release>;

  [[nodiscard]] static storage allocate(index_t size) {
    if (size == 0) return storage();
    auto const alignment = alignment_of(size);
    auto const padded = static_cast<std::size_t>(size + 64);
    storage bytes(static_cast<std::uint8_t*>(::operator new(padded, alignment)), release(alignment));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (size >= huge_page) (void)::madvise(bytes.get(), padded / huge_page * huge_page, MADV_HUGEPAGE); // a wish: may fail
#endif
    std::memset(bytes.get(), 0, padded);
    return bytes;
  }

  index_t size_ = 0;
  storage data_;
};

} // namespace slim::inline SLIM_ABI
