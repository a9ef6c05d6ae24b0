#pragma once
/// @file
/// `token_sample`: some rows of a stream of tokens, chosen uniformly without knowing the length of the stream. Every token
/// draws a number from (seed, index in the text); the tokens of the lowest numbers are kept (bottom-k sampling). The choice is
/// a pure function of the tokens: it does not depend on batches, threads or the order in which parts are merged.

#include "slim/core/matrix.hpp"
#include "slim/core/random.hpp"

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// The `capacity` tokens of the lowest numbers among those it was given, in the order of the stream.
class token_sample {
public:
  struct ticket {
    std::uint64_t number; ///< drawn from (seed, index of the token in its text)
    index_t place;        ///< of the token in the stream of this calibration

    friend bool operator==(ticket const&, ticket const&) = default;
  };

  token_sample() = default;
  token_sample(std::vector<ticket> tickets, matrix<float> rows) : tickets_(std::move(tickets)), rows_(std::move(rows)) {}

  [[nodiscard]] std::vector<ticket> const& tickets() const noexcept { return tickets_; }
  /// (kept tokens, channels)
  [[nodiscard]] matrix<float> const& rows() const noexcept { return rows_; }

  /// Adds a batch X (tokens x channels), whose first token is at `place` in the stream and at `index` in its text. A batch that
  /// changes the sample copies it once: O(tokens + capacity * channels). Unchanged when it throws.
  void add(matrix_view<float const> x, index_t capacity, std::uint64_t seed, index_t place, std::uint64_t index) {
    std::vector<candidate> all = candidates(0);
    std::size_t const before = all.size();
    bool const full = static_cast<index_t>(before) == capacity;
    std::uint64_t highest = 0;
    for (candidate const& c : all) highest = std::max(highest, c.drawn.number);
    for (index_t t = 0; t < x.rows(); ++t) {
      std::uint64_t const number = random_bits(seed, index + static_cast<std::uint64_t>(t));
      if (!full || number < highest) all.push_back({{number, place + t}, x.row(t)});
    }
    if (all.size() > before) keep_lowest(std::move(all), capacity, x.cols());
  }

  /// Adds the sample of a stream that follows this one, which had `tokens` tokens. Unchanged when it throws.
  void append(token_sample const& later, index_t capacity, index_t tokens) {
    std::vector<candidate> all = candidates(0);
    std::vector<candidate> const more = later.candidates(tokens);
    all.insert(all.end(), more.begin(), more.end());
    keep_lowest(std::move(all), capacity, std::max(rows_.cols(), later.rows_.cols()));
  }

private:
  struct candidate {
    ticket drawn;
    float const* row;
  };

  [[nodiscard]] std::vector<candidate> candidates(index_t shift) const {
    std::vector<candidate> all;
    for (std::size_t k = 0; k < tickets_.size(); ++k)
      all.push_back({{tickets_[k].number, tickets_[k].place + shift}, rows_.row(static_cast<index_t>(k))});
    return all;
  }

  void keep_lowest(std::vector<candidate> all, index_t capacity, index_t channels) {
    auto const by_number = [](candidate const& a, candidate const& b) {
      return std::tie(a.drawn.number, a.drawn.place) < std::tie(b.drawn.number, b.drawn.place);
    };
    if (auto const wanted = static_cast<std::size_t>(capacity); all.size() > wanted) {
      std::nth_element(all.begin(), all.begin() + capacity, all.end(), by_number);
      all.resize(wanted);
    }
    std::sort(all.begin(), all.end(), [](candidate const& a, candidate const& b) { return a.drawn.place < b.drawn.place; });
    matrix<float> rows(static_cast<index_t>(all.size()), channels);
    std::vector<ticket> tickets;
    for (candidate const& c : all) {
      std::copy_n(c.row, channels, rows.row(static_cast<index_t>(tickets.size())));
      tickets.push_back(c.drawn);
    }
    rows_ = std::move(rows);
    tickets_ = std::move(tickets);
  }

  std::vector<ticket> tickets_;
  matrix<float> rows_;
};

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
