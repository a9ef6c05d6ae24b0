#pragma once
// Executors that a user might bring, for the laws "same bits on any executor".

#include "slim/core/executor.hpp"

#include <atomic>
#include <thread>
#include <vector>

namespace test {

/// Plain std::threads, tasks handed out dynamically and from the last to the first.
struct thread_pool {
  int threads = 3;

  void for_each(slim::index_t count, slim::task_ref task) const {
    std::atomic<slim::index_t> left{count};
    auto const work = [&] {
      for (slim::index_t k = --left; k >= 0; k = --left) task(k);
    };
    std::vector<std::thread> team;
    for (int t = 1; t < threads; ++t) team.emplace_back(work);
    work();
    for (auto& thread : team) thread.join();
  }
};

} // namespace test
