#pragma once
/// @file
/// Executors that expose wrong assumptions: a team of threads that take tasks in any order, and one that runs them backwards.
/// Components must give the same bits on all of them.

#include "slim/core/context.hpp"

#include <atomic>
#include <thread>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// Starts `threads` threads for every parallel region; each takes the next task. A stand-in for an embedder's pool.
struct thread_team_executor {
  int threads = 3;

  void for_each(index_t count, task_ref task) const {
    std::atomic<index_t> next{0};
    auto const work = [&] {
      for (index_t k = next.fetch_add(1); k < count; k = next.fetch_add(1)) task(k);
    };
    std::vector<std::thread> team;
    auto const wanted = static_cast<int>(std::min<index_t>(threads, count));
    for (int t = 1; t < wanted; ++t) team.emplace_back(work);
    work();
    for (std::thread& member : team) member.join();
  }
};

/// One thread, last task first.
struct backwards_executor {
  void for_each(index_t count, task_ref task) const {
    for (index_t k = count - 1; k >= 0; --k) task(k);
  }
};

static_assert(executor<thread_team_executor> && executor<backwards_executor>);

/// `base` on another executor, which must outlive the result.
template <executor E>
[[nodiscard]] context on(E const& where, context base = {}) {
  base.where = where;
  return base;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
