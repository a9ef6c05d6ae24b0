#include "run/help_text.hpp"

#include <algorithm>
#include <sys/ioctl.h>
#include <unistd.h>

namespace slim_llm {
namespace {

/// Where a line that is too long ends; it goes on at the same place, without the spaces there.
std::size_t break_of(std::string const& line, std::size_t width, std::size_t begin) {
  if (std::size_t const space = line.rfind(' ', width); space != std::string::npos && space > begin) return space;
  if (std::size_t const comma = line.rfind(',', width - 1); comma != std::string::npos && comma > begin) return comma + 1;
  return std::min(line.find_first_of(" ,", width), line.size());
}

} // namespace

std::size_t help_width() {
  constexpr std::size_t most = 100, least = 40;
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return most;
  return std::clamp<std::size_t>(size.ws_col, least, most);
}

std::string wrapped(std::string const& text, std::size_t width, std::size_t indent) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t const end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    std::size_t const margin = line.starts_with(' ') ? std::min(indent, width / 2) : 0;
    std::size_t begin = line.find_first_not_of(' ');
    while (line.size() > width) {
      std::size_t const stop = break_of(line, width, begin);
      if (stop >= line.size()) break; // nothing to break at
      out += line.substr(0, stop) + "\n";
      std::size_t const next = line.find_first_not_of(' ', stop);
      if (next == std::string::npos) {
        line.clear();
        break;
      }
      line = std::string(margin, ' ') + line.substr(next);
      begin = margin;
    }
    out += line;
    if (end < text.size()) out += '\n';
    at = end + 1;
  }
  return out;
}

std::string shell_quoted(std::string const& text) {
  constexpr char const* plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+,:@%=";
  if (!text.empty() && text.find_first_not_of(plain) == std::string::npos) return text;
  std::string in_quotes = "'";
  for (char const c : text)
    if (c == '\'')
      in_quotes += "'\\''";
    else
      in_quotes += c;
  return in_quotes + "'";
}

} // namespace slim_llm
