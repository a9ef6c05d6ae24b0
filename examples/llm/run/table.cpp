#include "run/table.hpp"

#include <algorithm>
#include <cstdio>

namespace slim_llm {
namespace {

std::string padded(std::string const& cell, std::size_t width, bool left) {
  std::string const space(width - cell.size(), ' ');
  return left ? cell + space : space + cell;
}

std::string csv_cell(std::string const& cell) {
  if (cell.find_first_of(",\"\n\r") == std::string::npos) return cell;
  std::string quoted = "\"";
  for (char const c : cell) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

} // namespace

std::string table::text() const {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < header_.size(); ++c) {
    std::size_t width = header_[c].size();
    for (auto const& row : rows_) width = std::max(width, row[c].size());
    widths.push_back(width);
  }
  std::string out;
  auto const add_line = [&](std::vector<std::string> const& cells) {
    for (std::size_t c = 0; c < cells.size(); ++c) {
      out += c == 0 ? "| " : " | ";
      out += padded(cells[c], widths[c], c == 0);
    }
    out += " |\n";
  };
  add_line(header_);
  for (std::size_t c = 0; c < widths.size(); ++c) { // a colon on the side that cells are aligned to
    out += c == 0 ? "|:" : "|-";
    out.append(widths[c], '-');
    out += c == 0 ? "-" : ":";
  }
  out += "|\n";
  for (auto const& row : rows_) add_line(row);
  return out;
}

std::string table::csv() const {
  std::string out;
  auto const add_line = [&](std::vector<std::string> const& cells) {
    for (std::size_t c = 0; c < cells.size(); ++c) {
      if (c > 0) out += ',';
      out += csv_cell(cells[c]);
    }
    out += '\n';
  };
  add_line(header_);
  for (auto const& row : rows_) add_line(row);
  return out;
}

std::string fixed(double value, int decimals) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%.*f", decimals, value);
  return buffer;
}

std::string readable_bytes(double bytes) {
  char const* const units[] = {"B", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  for (; bytes >= 1000.0 && unit < 4; ++unit) bytes /= 1000.0;
  return fixed(bytes, unit < 2 ? 0 : bytes < 10.0 ? 2 : bytes < 100.0 ? 1 : 0) + " " + units[unit];
}

} // namespace slim_llm
