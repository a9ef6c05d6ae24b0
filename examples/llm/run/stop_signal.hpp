#pragma once
/// @file
/// Ctrl-C and SIGTERM as a wish to stop: long work ends between two tasks, and the program says how to go on. Work that has not
/// ended after a moment is cut off, which is as harmless as a kill: no file gets its name before it is complete.

#include <exception>
#include <memory>
#include <stop_token>
#include <string>

namespace slim_llm {

/// Work was given up because the user asked for it. The program prints `what` and ends with exit code 128 + signal.
struct interrupted : std::exception {
  explicit interrupted(int number, std::string text) : signal(number), text_(std::move(text)) {}
  [[nodiscard]] char const* what() const noexcept override { return text_.c_str(); }
  int signal;

private:
  std::string text_;
};

/// Handles the two signals as long as it lives. One at a time.
class stop_signal {
public:
  stop_signal();
  ~stop_signal();
  stop_signal(stop_signal const&) = delete;
  stop_signal& operator=(stop_signal const&) = delete;

  /// For contexts of long work, which then throws slim::cancelled.
  [[nodiscard]] std::stop_token token() const;
  /// What to tell the user when a signal comes.
  void set_advice(std::string text);
  /// What to throw after slim::cancelled.
  [[nodiscard]] interrupted reason() const;

private:
  struct watcher;
  std::unique_ptr<watcher> watcher_;
};

} // namespace slim_llm
