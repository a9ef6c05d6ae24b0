#include "run/stop_signal.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <mutex>
#include <poll.h>
#include <thread>
#include <unistd.h>

namespace slim_llm {
namespace {

constexpr int patience_in_ms = 1500; ///< for tasks that run when the signal comes

int to_watcher = -1; ///< end of a pipe: all that a handler of signals may touch

extern "C" void tell_watcher(int number) {
  int const before = errno;
  auto const byte = static_cast<unsigned char>(number);
  [[maybe_unused]] auto const written = ::write(to_watcher, &byte, 1);
  errno = before;
}

constexpr std::array<int, 2> handled = {SIGINT, SIGTERM};

} // namespace

struct stop_signal::watcher {
  std::stop_source stop;
  std::mutex guard;
  std::string advice;
  int signal = 0;
  std::array<int, 2> ends{-1, -1};
  std::array<struct sigaction, 2> before{};
  std::thread thread;

  [[nodiscard]] std::string text() {
    std::lock_guard const lock(guard);
    return std::string(signal == SIGINT ? "stopped by Ctrl-C" : "stopped by SIGTERM") + (advice.empty() ? "" : "; ") + advice;
  }

  /// Waits for the number of a signal; 0: the object goes.
  [[nodiscard]] int wait() const {
    unsigned char byte = 0;
    while (::read(ends[0], &byte, 1) < 0 && errno == EINTR) {
    }
    return byte;
  }

  void watch() {
    int const number = wait();
    if (number == 0) return;
    {
      std::lock_guard const lock(guard);
      signal = number;
    }
    stop.request_stop();
    pollfd more{ends[0], POLLIN, 0};
    if (::poll(&more, 1, patience_in_ms) > 0 && wait() == 0) return; // else it takes too long, or the user insists
    std::fprintf(stderr, "\nslim-llm: %s\n", text().c_str());
    ::_exit(128 + number);
  }
};

stop_signal::stop_signal() : watcher_(std::make_unique<watcher>()) {
  if (::pipe(watcher_->ends.data()) != 0) return; // then signals end the program as they always do
  to_watcher = watcher_->ends[1];
  watcher_->thread = std::thread([w = watcher_.get()] { w->watch(); });
  struct sigaction action {};
  action.sa_handler = tell_watcher;
  action.sa_flags = SA_RESTART;
  for (std::size_t k = 0; k < handled.size(); ++k) ::sigaction(handled[k], &action, &watcher_->before[k]);
}

stop_signal::~stop_signal() {
  if (!watcher_->thread.joinable()) return;
  for (std::size_t k = 0; k < handled.size(); ++k) ::sigaction(handled[k], &watcher_->before[k], nullptr);
  tell_watcher(0);
  watcher_->thread.join();
  for (int const end : watcher_->ends) ::close(end);
}

std::stop_token stop_signal::token() const { return watcher_->stop.get_token(); }

void stop_signal::set_advice(std::string text) {
  std::lock_guard const lock(watcher_->guard);
  watcher_->advice = std::move(text);
}

interrupted stop_signal::reason() const {
  std::string text = watcher_->text();
  std::lock_guard const lock(watcher_->guard);
  return interrupted(watcher_->signal, std::move(text));
}

} // namespace slim_llm
