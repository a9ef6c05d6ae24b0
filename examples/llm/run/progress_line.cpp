#include "run/progress_line.hpp"

#include <cstdio>
#include <unistd.h>

namespace slim_llm {

progress_line::progress_line(std::string what, std::string unit)
    : what_(std::move(what)), unit_(std::move(unit)), terminal_(isatty(STDERR_FILENO) != 0) {}

progress_line::~progress_line() {
  if (open_) std::fputc('\n', stderr);
}

void progress_line::show(std::ptrdiff_t done, std::ptrdiff_t total) {
  if (total <= 0 || (!terminal_ && done * 10 < next_tenth_ * total)) return;
  next_tenth_ = done * 10 / total + 1;
  double const passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  double const left = done > 0 ? passed * static_cast<double>(total - done) / static_cast<double>(done) : 0.0;
  std::fprintf(stderr, "%s%s: %s %td of %td, %.0f s, %.0f s left%s", terminal_ ? "\r" : "", what_.c_str(), unit_.c_str(), done,
               total, passed, left, terminal_ ? "   " : "\n");
  std::fflush(stderr);
  open_ = terminal_;
}

} // namespace slim_llm
