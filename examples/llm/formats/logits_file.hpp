#pragma once
/// @file
/// The file of llama-perplexity (llama.cpp) with the predictions of a model: `--save-all-logits` writes it, `--kl-divergence`
/// reads it. Little-endian:
///
///     8 bytes  _logits_
///     u32 i32 i32           tokens per window n, size of the vocabulary v, windows
///     i32 x n x windows     token ids
///     then for each window, for the n - 1 - n/2 positions from n/2 on, a row of 2 ceil(v/2) + 4 numbers of 16 bits:
///       f32 step, f32 lowest; u16 x v codes (a last one without meaning if v is odd)
///
/// The log-probability of a token is lowest + step * code. What is more than 16 below the likeliest token gets code 0.

#include "models/model.hpp"

#include "slim/core/result.hpp"
#include "slim/io/file.hpp"

#include <filesystem>
#include <vector>

namespace slim_llm {

/// Begins as such a file does.
[[nodiscard]] bool is_logits_file(std::filesystem::path const& path);

/// Rows of predictions, read from the file's memory map.
class logits_file {
public:
  /// The failure names the file and what does not fit.
  [[nodiscard]] static slim::result<logits_file> open(std::filesystem::path const& path);

  [[nodiscard]] index_t window() const { return window_; }
  [[nodiscard]] index_t vocab() const { return vocab_; }
  [[nodiscard]] index_t windows() const { return windows_; }
  [[nodiscard]] index_t rows_per_window() const { return window_ - 1 - window_ / 2; }
  /// Ids of all windows, one behind the other.
  [[nodiscard]] std::vector<int> const& tokens() const { return tokens_; }
  /// Log-probabilities of all tokens at row `row` of window `w`; `out` has as many elements as the vocabulary.
  void read_row(index_t w, index_t row, std::span<float> out) const;
  /// Gives back the memory of the pages of a window.
  void drop_window(index_t w) const;
  [[nodiscard]] std::filesystem::path const& path() const { return map_.path(); }

private:
  explicit logits_file(slim::mapped_file map) : map_(std::move(map)) {}
  [[nodiscard]] std::string parse();
  [[nodiscard]] std::size_t row_bytes() const { return 2 * static_cast<std::size_t>(2 * ((vocab_ + 1) / 2) + 4); }
  [[nodiscard]] std::span<std::byte const> rows_of(index_t w) const;

  slim::mapped_file map_;
  index_t window_ = 0, vocab_ = 0, windows_ = 0;
  std::vector<int> tokens_;
};

/// Writes such a file row by row; it gets its name at the end.
class logits_writer {
public:
  /// @param tokens of whole windows. @throws input_error
  logits_writer(std::filesystem::path const& path, index_t window, index_t vocab, std::span<int const> tokens);
  /// The logits of the next row, of the whole vocabulary.
  void add_row(std::span<float const> logits);
  /// @throws input_error if the file cannot be written.
  void finish();

private:
  slim::replacing_file file_;
  std::vector<std::uint16_t> codes_;
};

} // namespace slim_llm
