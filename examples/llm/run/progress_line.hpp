#pragma once
/// @file
/// Progress of long work on stderr: one line that is rewritten on a terminal, plain lines every ten percent otherwise.

#include <chrono>
#include <string>

namespace slim_llm {

/// Says what is done, how far it is, and how long it will still take at the pace so far.
class progress_line {
public:
  /// @param what e.g. "compressing slim". @param unit e.g. "block".
  progress_line(std::string what, std::string unit);
  ~progress_line();
  progress_line(progress_line const&) = delete;
  progress_line& operator=(progress_line const&) = delete;

  void show(std::ptrdiff_t done, std::ptrdiff_t total);

private:
  std::string what_, unit_;
  bool terminal_;
  bool open_ = false;
  std::ptrdiff_t next_tenth_ = 1;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

} // namespace slim_llm
