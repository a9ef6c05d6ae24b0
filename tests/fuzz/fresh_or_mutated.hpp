// What every fuzz target does with an input: now and then a new valid one, otherwise what libFuzzer does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace slim_test {

/// One time in 16, and whenever the input is shorter than `head`, it becomes `make(seed)`, bytes that a reader accepts.
template <class Make>
std::size_t fresh_or_mutated(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed, std::size_t head,
                             Make const& make) {
  if (size < head || seed % 16 == 0) {
    auto const fresh = make(seed / 16);
    if (fresh.size() <= max_size) {
      std::memcpy(data, fresh.data(), fresh.size());
      size = fresh.size();
    }
    if (seed % 32 == 0) return size;
  }
  return LLVMFuzzerMutate(data, size, max_size);
}

} // namespace slim_test
