#pragma once
/// @file
/// FNV-1a, 64 bits: tells contents apart that nobody forged, and finds damage.

#include "slim/core/matrix_view.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace slim_llm {

/// FNV-1a on words of 8 bytes: as good at telling files apart as on single bytes, and as fast as memory is read.
class fnv_hash {
public:
  /// Also how many bytes there are.
  void add(std::span<std::byte const> bytes) {
    add_word(bytes.size());
    std::size_t k = 0;
    for (; k + 8 <= bytes.size(); k += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, &bytes[k], 8);
      add_word(word);
    }
    std::uint64_t rest = 0;
    if (k < bytes.size()) std::memcpy(&rest, &bytes[k], bytes.size() - k);
    add_word(rest);
  }
  [[nodiscard]] std::uint64_t value() const { return value_; }
  [[nodiscard]] std::string text() const {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(value_));
    return digits;
  }

private:
  void add_word(std::uint64_t word) {
    value_ = (value_ ^ word) * 0x100000001b3u;
    value_ ^= value_ >> 32; // so that high bits of a word reach low bits of the sum
  }

  std::uint64_t value_ = 0xcbf29ce484222325u;
};

/// Of the numbers of a matrix; both zeros count as one.
[[nodiscard]] inline std::uint64_t hash_of_floats(slim::matrix_view<float const> values) {
  fnv_hash hash;
  std::vector<float> row(static_cast<std::size_t>(values.cols()));
  for (slim::index_t i = 0; i < values.rows(); ++i) {
    std::transform(values.row(i), values.row(i) + values.cols(), row.begin(), [](float w) { return w + 0.0f; });
    hash.add(std::as_bytes(std::span(row)));
  }
  return hash.value();
}

} // namespace slim_llm
