#pragma once
/// @file
/// Range asymmetric numeral systems (Duda, arXiv 1311.2540), 32 coders side by side: bytes to as many bits as their
/// frequencies say, and back. Shares are of 4096, states have 32 bits and take words of 16 (docs/formats/entropy_coded.md).

#include "slim/core/byte_stream.hpp"
#include "slim/core/error.hpp"
#include "slim/packing/rans_kernels.hpp"

#include <array>
#include <bit>
#include <optional>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// How often each byte is expected, in shares of 4096.
class rans_model {
public:
  static constexpr int bits = 12;
  static constexpr std::uint32_t total = 1u << bits;
  using counts = std::array<std::uint64_t, 256>;

  /// Of bytes that were counted: every byte that occurs gets a share, shares are as near to the counts as whole numbers come.
  [[nodiscard]] static rans_model of(counts const& count) {
    rans_model model;
    std::uint64_t all = 0;
    for (std::uint64_t const c : count) all += c;
    if (all == 0) {
      model.share_[0] = total;
      return model;
    }
    std::int64_t left = total;
    for (std::size_t s = 0; s < 256; ++s) {
      if (count[s] == 0) continue;
      auto const exact = static_cast<double>(count[s]) / static_cast<double>(all) * total;
      model.share_[s] = std::max<std::uint32_t>(1, static_cast<std::uint32_t>(exact));
      left -= model.share_[s];
    }
    for (; left > 0; --left) ++model.share_[model.worth_most(count)];
    for (; left < 0; ++left) --model.share_[model.worth_least(count)];
    return model;
  }

  /// From shares that were stored; nothing unless they are of 4096 in all.
  [[nodiscard]] static std::optional<rans_model> from_shares(std::array<std::uint32_t, 256> const& shares) {
    std::uint64_t all = 0;
    for (std::uint32_t const share : shares) all += share;
    if (all != total) return std::nullopt;
    rans_model model;
    model.share_ = shares;
    return model;
  }

  [[nodiscard]] std::array<std::uint32_t, 256> const& shares() const noexcept { return share_; }

  /// Where the share of each byte begins.
  [[nodiscard]] std::array<std::uint32_t, 256> starts() const {
    std::array<std::uint32_t, 256> first{};
    for (std::size_t s = 1; s < 256; ++s) first[s] = first[s - 1] + share_[s - 1];
    return first;
  }

  /// For each of 4096 places in bits 0 to 7 its byte, in 8 to 19 how far it lies inside the share, in 20 to 31 the share
  /// less 1.
  [[nodiscard]] std::vector<std::uint32_t> table() const {
    std::vector<std::uint32_t> entries;
    entries.reserve(total);
    for (std::uint32_t s = 0; s < 256; ++s)
      for (std::uint32_t k = 0; k < share_[s]; ++k) entries.push_back((share_[s] - 1) << 20 | k << 8 | s);
    return entries;
  }

private:
  /// The byte that gains most by one share more, and the one that loses least by one less; the lowest of equal ones.
  [[nodiscard]] std::size_t worth_most(counts const& count) const {
    std::size_t best = 0;
    double most = -1;
    for (std::size_t s = 0; s < 256; ++s)
      if (share_[s] > 0 && static_cast<double>(count[s]) / share_[s] > most) {
        most = static_cast<double>(count[s]) / share_[s];
        best = s;
      }
    return best;
  }
  [[nodiscard]] std::size_t worth_least(counts const& count) const {
    std::size_t best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t s = 0; s < 256; ++s)
      if (share_[s] > 1 && static_cast<double>(count[s]) / (share_[s] - 1) < least) {
        least = static_cast<double>(count[s]) / (share_[s] - 1);
        best = s;
      }
    return best;
  }

  std::array<std::uint32_t, 256> share_{};
};

inline constexpr std::uint32_t rans_lowest = 1u << 16; ///< states lie in [2^16, 2^32)
inline constexpr std::size_t rans_head = static_cast<std::size_t>(rans_lanes) * sizeof(std::uint32_t);

/// The states that decoding begins with, and the words that it takes, in order. Every byte must have a share.
[[nodiscard]] inline std::vector<std::byte> rans_encode(std::span<std::uint8_t const> symbols, rans_model const& model) {
  auto const start = model.starts();
  auto const& share = model.shares();
  std::array<std::uint32_t, rans_lanes> states;
  states.fill(rans_lowest);
  std::vector<std::uint16_t> words; // the last one is taken first
  for (std::size_t k = symbols.size(); k-- > 0;) {
    std::uint32_t& x = states[k % states.size()];
    std::uint32_t const wide = share[symbols[k]];
    if (x >= static_cast<std::uint64_t>(wide) << (32 - rans_model::bits)) {
      words.push_back(static_cast<std::uint16_t>(x));
      x >>= 16;
    }
    x = (x / wide << rans_model::bits) + x % wide + start[symbols[k]];
  }
  std::vector<std::byte> out;
  out.reserve(rans_head + words.size() * 2);
  for (std::uint32_t const x : states) append_bytes(out, x);
  for (auto word = words.rbegin(); word != words.rend(); ++word) append_bytes(out, *word);
  return out;
}

/// Fills `symbols` from what rans_encode returned. False if the bytes are not those of so many symbols. `table`: of the model.
[[nodiscard]] inline bool rans_decode(std::span<std::byte const> bytes, std::uint32_t const* table,
                                      std::span<std::uint8_t> symbols, simd_level level) {
  if (bytes.size() < rans_head || (bytes.size() - rans_head) % 2 != 0) return false;
  std::array<std::uint32_t, rans_lanes> states;
  std::memcpy(states.data(), bytes.data(), rans_head);
  for (std::uint32_t const x : states)
    if (x < rans_lowest) return false;
  std::vector<std::uint16_t> stored((bytes.size() - rans_head) / 2);
  if (!stored.empty()) std::memcpy(stored.data(), bytes.data() + rans_head, stored.size() * 2);
  std::uint16_t const *next = stored.data(), *const last = next + stored.size();
  std::size_t k = 0;
  if (auto const decode = rans_kernels_of(level).decode)
    k = states.size() * static_cast<std::size_t>(decode(table, states.data(), next, last, symbols.data(),
                                                        static_cast<index_t>(symbols.size() / states.size())));
  for (; k < symbols.size(); ++k) {
    std::uint32_t& x = states[k % states.size()];
    std::uint32_t const entry = table[x & (rans_model::total - 1)];
    symbols[k] = static_cast<std::uint8_t>(entry);
    x = ((entry >> 20) + 1) * (x >> rans_model::bits) + (entry >> 8 & (rans_model::total - 1));
    if (x >= rans_lowest) continue;
    if (next == last) return false;
    x = x << 16 | *next++;
  }
  for (std::uint32_t const x : states)
    if (x != rans_lowest) return false;
  return next == last;
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
