#pragma once
/// @file
/// Laws of an executor.

#include "slim/core/executor.hpp"
#include "slim/testing/violation.hpp"

#include <atomic>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace testing {

/// Every task runs exactly once, for_each returns after the last one, and through slim::parallel_for blocks cover the range
/// and the exception of the lowest block arrives.
template <executor E>
[[nodiscard]] violations check_executor(E const& e) {
  violations broken;
  for (index_t const count : {0, 1, 2, 3, 7, 64, 1000}) {
    detail::collector judge(broken, message(count, " tasks"));
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
    std::atomic<index_t> outside{0}, finished{0};
    auto const task = [&](index_t k) {
      if (k < 0 || k >= count)
        ++outside;
      else
        ++runs[static_cast<std::size_t>(k)];
      ++finished;
    };
    e.for_each(count, task_ref(task));
    index_t const after_return = finished;
    judge.expect(outside == 0, "no task runs that was not asked for", message(index_t{outside}, " outside"));
    judge.expect(after_return == count, "for_each returns after the last task", message(after_return, " had finished"));
    for (std::size_t k = 0; k < runs.size(); ++k)
      if (!judge.expect(runs[k] == 1, "every task runs exactly once", message("task ", k, " ran ", int{runs[k]}, " times")))
        break;

    if constexpr (in_turn_executor<E>) {
      std::atomic<index_t> early{0}, first_done{0}, empty{0};
      std::vector<std::atomic<int>> in_turn(static_cast<std::size_t>(3 * count)); // runs of the first loop, of the second
      auto const first_tasks = [&](index_t begin, index_t end) {
        if (begin >= end) ++empty;
        for (index_t k = std::max(begin, index_t{0}); k < std::min(end, count); ++k) ++in_turn[static_cast<std::size_t>(k)];
        first_done += end - begin;
      };
      auto const second_tasks = [&](index_t begin, index_t end) {
        if (first_done != count) ++early;
        if (begin >= end) ++empty;
        for (index_t k = std::max(begin, index_t{0}); k < std::min(end, 2 * count); ++k)
          ++in_turn[static_cast<std::size_t>(count + k)];
      };
      task_loop const loops[] = {{count, task_range_ref(first_tasks)}, {2 * count, task_range_ref(second_tasks)}};
      e.for_each_in_turn(loops);
      judge.expect(std::all_of(in_turn.begin(), in_turn.end(), [](auto const& n) { return n == 1; }),
                   "in turn, every task runs exactly once");
      judge.expect(empty == 0, "in turn, no range is empty", message(index_t{empty}, " were"));
      judge.expect(early == 0, "in turn, a loop starts after the one before", message(index_t{early}, " tasks were early"));
    }

    std::vector<int> visits(static_cast<std::size_t>(count));
    slim::parallel_for(e, count, 3, [&](index_t begin, index_t end) {
      for (index_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
    });
    judge.expect(std::all_of(visits.begin(), visits.end(), [](int n) { return n == 1; }), "parallel_for covers the range once");

    std::string caught;
    try {
      slim::parallel_for(e, count, 2, [](index_t begin, index_t) {
        if (begin >= 2) throw error(message("block at ", begin));
      });
    } catch (error const& thrown) {
      caught = thrown.what();
    }
    judge.expect(caught == (count > 2 ? "block at 2" : ""), "the exception of the lowest block arrives", caught);
  }
  return broken;
}

} // namespace testing
} // namespace SLIM_ABI
} // namespace slim
