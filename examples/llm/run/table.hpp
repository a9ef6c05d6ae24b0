#pragma once
/// @file
/// Tables of strings: aligned text for people, CSV (RFC 4180) for programs.

#include <string>
#include <vector>

namespace slim_llm {

/// A header and rows of as many cells.
class table {
public:
  explicit table(std::vector<std::string> header) : header_(std::move(header)) {}

  /// Missing cells are empty; more than the header has are dropped.
  void add(std::vector<std::string> row) {
    row.resize(header_.size());
    rows_.push_back(std::move(row));
  }

  /// First column left-aligned, the others right-aligned, as a Markdown table that also reads well as it is.
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::string csv() const;

private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

/// A number with so many decimals.
[[nodiscard]] std::string fixed(double value, int decimals);

/// "1.2 GB", "345 MB", "12 kB": bytes for people, powers of 1000.
[[nodiscard]] std::string readable_bytes(double bytes);

} // namespace slim_llm
