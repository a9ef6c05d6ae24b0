#pragma once
/// @file
/// Where parallel work runs. An executor offers one thing, `for_each(count, task)`: call `task(k)` once for every k in
/// [0, count), in any order, on any threads, and return when all are done. How work is cut into tasks depends on the
/// problem only, never on the executor: that is why results are bit-identical for any number of threads. It may offer a second,
/// `for_each_in_turn(loops)`: several such loops, each after all tasks of the one before, without letting the threads go, whose
/// tasks may be called several neighbours at a time.

#include "slim/core/matrix_view.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <limits>
#include <mutex>
#include <span>
#include <stop_token>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace slim {
inline namespace SLIM_ABI {

/// Non-owning reference to a callable `void(index_t)`; two words. Valid as long as the callable lives.
class task_ref {
public:
  template <class F>
    requires(!std::same_as<std::remove_cvref_t<F>, task_ref>) && std::is_invocable_v<F&, index_t>
  task_ref(F&& f) noexcept // NOLINT: implicit on purpose, as for std::function_ref
      : object_(const_cast<void*>(static_cast<void const*>(std::addressof(f)))),
        call_([](void* object, index_t k) { (*static_cast<std::remove_reference_t<F>*>(object))(k); }) {}

  void operator()(index_t k) const { call_(object_, k); }

private:
  void* object_;
  void (*call_)(void*, index_t);
};

/// The same to a callable `void(index_t begin, index_t end)`: tasks begin .. end - 1, one after the other.
class task_range_ref {
public:
  template <class F>
    requires(!std::same_as<std::remove_cvref_t<F>, task_range_ref>) && std::is_invocable_v<F&, index_t, index_t>
  task_range_ref(F&& f) noexcept // NOLINT: implicit on purpose
      : object_(const_cast<void*>(static_cast<void const*>(std::addressof(f)))),
        call_([](void* object, index_t begin, index_t end) {
          (*static_cast<std::remove_reference_t<F>*>(object))(begin, end);
        }) {}

  void operator()(index_t begin, index_t end) const { call_(object_, begin, end); }

private:
  void* object_;
  void (*call_)(void*, index_t, index_t);
};

/// Every task in [0, count) once, in ranges of any lengths.
struct task_loop {
  index_t count;
  task_range_ref tasks;
};

/// Runs tasks. Laws: every k in [0, count) runs exactly once; `for_each` returns after the last one. Tasks handed over by
/// the library never throw (see context::parallel_for) and never start parallel work of their own.
template <class E>
concept executor = requires(E const& e, index_t count, task_ref task) { e.for_each(count, task); };

/// Runs loops in turn in one parallel region, where opening a region for each would cost more than the work.
template <class E>
concept in_turn_executor = executor<E> && requires(E const& e, std::span<task_loop const> loops) { e.for_each_in_turn(loops); };

/// Everything on the calling thread, in order.
struct serial_executor {
  void for_each(index_t count, task_ref task) const {
    for (index_t k = 0; k < count; ++k) task(k);
  }

  void for_each_in_turn(std::span<task_loop const> loops) const {
    for (task_loop const& loop : loops)
      if (loop.count > 0) loop.tasks(0, loop.count);
  }
};

static_assert(in_turn_executor<serial_executor>);

#if defined(_OPENMP)
namespace detail {

/// The tasks of a loop, handed out to a team: every member begins with a share of neighbours, for then it reads on where its
/// last task stopped; whoever has done its share takes the second half of what another one has left.
class task_shares {
public:
  /// `ranges`: tasks are worth calling together; a member takes half of what it has left at a time, and calls fewer and fewer.
  task_shares(index_t count, int team, bool ranges)
      : count_(count), grain_(count / most_grains + 1), ranges_(ranges), shares_(static_cast<std::size_t>(team)) {
    index_t const grains = (count + grain_ - 1) / grain_;
    for (int k = 0; k < team; ++k)
      shares_[static_cast<std::size_t>(k)].left.store(
          {.next = static_cast<std::uint32_t>(grains * k / team), .end = static_cast<std::uint32_t>(grains * (k + 1) / team)});
  }

  /// What member `who` does; members that do not come are stood in for.
  void work(int who, task_range_ref tasks) {
    share& mine = shares_[static_cast<std::size_t>(who)];
    do
      for (range all = mine.left.load(); all.next < all.end;) {
        std::uint32_t const end = all.next + (ranges_ ? (all.end - all.next + 1) / 2 : 1);
        if (!mine.left.compare_exchange_weak(all, {end, all.end})) continue;
        tasks(all.next * grain_, std::min(count_, end * grain_));
        all = mine.left.load();
      }
    while (take_over(mine, who));
  }

private:
  static constexpr index_t most_grains = index_t{1} << 31;

  struct alignas(8) range { // as one word: clang asks for a lock otherwise
    std::uint32_t next, end;
  };
  struct alignas(64) share {
    std::atomic<range> left;
  };

  /// Whether there was something. Nobody but its member fills a share that is empty.
  bool take_over(share& mine, int who) {
    for (std::size_t k = 1; k < shares_.size(); ++k) {
      share& other = shares_[(static_cast<std::size_t>(who) + k) % shares_.size()];
      for (range all = other.left.load(); all.next < all.end;) {
        std::uint32_t const middle = all.next + (all.end - all.next) / 2;
        if (!other.left.compare_exchange_weak(all, {all.next, middle})) continue;
        mine.left.store({middle, all.end});
        return true;
      }
    }
    return false;
  }

  index_t count_, grain_;
  bool ranges_;
  std::vector<share> shares_;
};

} // namespace detail

/// OpenMP threads; `threads == 0` takes OpenMP's own default. Each begins with neighbouring tasks, then takes over from others.
struct openmp_executor {
  int threads = 0;

  void for_each(index_t count, task_ref task) const {
    auto const one_by_one = [&](index_t begin, index_t end) {
      for (index_t k = begin; k < end; ++k) task(k);
    };
    task_loop const loop{count, one_by_one};
    run({&loop, 1}, false);
  }

  void for_each_in_turn(std::span<task_loop const> loops) const { run(loops, true); }

private:
  void run(std::span<task_loop const> loops, bool ranges) const {
    index_t most = 0;
    for (task_loop const& loop : loops) most = std::max(most, loop.count);
    int const wanted = threads > 0 ? threads : omp_get_max_threads();
    int const team = static_cast<int>(std::min<index_t>(wanted, most));
    if (team <= 1) {
      serial_executor{}.for_each_in_turn(loops);
      return;
    }
    std::vector<detail::task_shares> shares;
    shares.reserve(loops.size());
    for (task_loop const& loop : loops) shares.emplace_back(loop.count, team, ranges);
#pragma omp parallel num_threads(team)
    for (std::size_t k = 0; k < loops.size(); ++k) {
      shares[k].work(omp_get_thread_num(), loops[k].tasks);
#pragma omp barrier
    }
  }
};

static_assert(in_turn_executor<openmp_executor>);

/// What a context uses unless told otherwise.
using default_executor = openmp_executor;
#else
/// What a context uses unless told otherwise.
using default_executor = serial_executor;
#endif

/// Non-owning reference to any executor; one indirect call per parallel region.
class executor_ref {
public:
  template <class E>
    requires executor<E> && (!std::same_as<E, executor_ref>)
  executor_ref(E const& e) noexcept // NOLINT: implicit on purpose
      : object_(std::addressof(e)),
        call_([](void const* object, index_t count, task_ref task) { static_cast<E const*>(object)->for_each(count, task); }),
        call_in_turn_([](void const* object, std::span<task_loop const> loops) {
          E const& where = *static_cast<E const*>(object);
          if constexpr (in_turn_executor<E>)
            where.for_each_in_turn(loops);
          else
            for (task_loop const& loop : loops) where.for_each(loop.count, [&loop](index_t k) { loop.tasks(k, k + 1); });
        }) {}

  /// A temporary executor would be gone before it is used.
  template <class E>
    requires executor<E> && (!std::same_as<E, executor_ref>)
  executor_ref(E const&&) = delete;

  void for_each(index_t count, task_ref task) const { call_(object_, count, task); }
  void for_each_in_turn(std::span<task_loop const> loops) const { call_in_turn_(object_, loops); }

private:
  void const* object_;
  void (*call_)(void const*, index_t, task_ref);
  void (*call_in_turn_)(void const*, std::span<task_loop const>);
};

namespace detail {

/// The exception of the lowest task that threw one.
class first_exception {
public:
  /// Runs f; what it throws is kept if no lower task threw.
  template <class F>
  void guard(index_t task, F const& f) noexcept {
    try {
      f();
    } catch (...) {
      std::lock_guard const lock(mutex_);
      if (task >= lowest_) return;
      lowest_ = task;
      thrown_ = std::current_exception();
    }
  }
  /// Whether a task below `end` threw; asked when those are done.
  [[nodiscard]] bool any_below(index_t end) noexcept {
    std::lock_guard const lock(mutex_);
    return lowest_ < end;
  }
  void rethrow() const {
    if (thrown_) std::rethrow_exception(thrown_);
  }

private:
  std::mutex mutex_;
  std::exception_ptr thrown_;
  index_t lowest_ = std::numeric_limits<index_t>::max();
};

} // namespace detail

namespace detail {

/// slim::parallel_for of a reference to f: compiled once, not for every f.
inline void parallel_blocks(executor_ref where, index_t n, index_t grain, task_range_ref f, std::stop_token const& stop) {
  if (n <= 0) return;
  grain = std::max<index_t>(grain, 1);
  index_t const blocks = (n - 1) / grain + 1;
  if (blocks == 1) {
    if (stop.stop_requested()) throw cancelled();
    return f(index_t{0}, n);
  }
  first_exception failed;
  std::atomic<bool> left_out = false;
  where.for_each(blocks, [&](index_t k) noexcept {
    if (stop.stop_requested()) {
      left_out.store(true, std::memory_order_relaxed);
      return;
    }
    failed.guard(k, [&] {
      index_t const begin = k * grain;
      f(begin, begin + std::min(grain, n - begin));
    });
  });
  failed.rethrow();
  if (left_out) throw cancelled();
}

} // namespace detail

/// Runs `f(begin, end)` over the blocks [k * grain, min(n, (k + 1) * grain)). Block bounds depend on n and grain only.
/// An exception of f is caught; after all blocks have run, the one of the lowest block is thrown again.
///
/// Blocks that have not begun when `stop` is requested do not run. @throws cancelled if there are any, and no f threw.
template <class F>
void parallel_for(executor_ref where, index_t n, index_t grain, F const& f, std::stop_token const& stop = {}) {
  detail::parallel_blocks(where, n, grain, f, stop);
}

namespace detail {

/// Calls `run(from, to)` for all of [begin, end), in pieces if it can be stopped between them: an executor may hand over a
/// whole loop as one range. False if it was stopped.
inline bool run_until_stopped(index_t begin, index_t end, index_t piece, std::stop_token const& stop, task_range_ref run) {
  if (!stop.stop_possible()) piece = end - begin;
  for (index_t from = begin; from < end; from += piece) {
    if (stop.stop_requested()) return false;
    run(from, std::min(from + piece, end));
  }
  return true;
}

/// slim::run_in_turn of references to f and g: compiled once.
inline void run_loops_in_turn(executor_ref where, index_t n, task_range_ref f, index_t m, task_range_ref g,
                              std::stop_token const& stop) {
  first_exception failed;
  std::atomic<bool> left_out = false;
  constexpr index_t pieces = 16; // of a loop that is handed over whole
  auto const first = [&](index_t begin, index_t end) noexcept {
    failed.guard(begin, [&] {
      if (!run_until_stopped(begin, end, n / pieces + 1, stop, f)) left_out = true;
    });
  };
  auto const second = [&](index_t begin, index_t end) noexcept {
    if (failed.any_below(n)) return;
    failed.guard(n + begin, [&] {
      if (!run_until_stopped(begin, end, m / pieces + 1, stop, g)) left_out = true;
    });
  };
  task_loop const loops[] = {{n, task_range_ref(first)}, {m, task_range_ref(second)}};
  where.for_each_in_turn(std::span(loops, m > 0 ? 2 : 1));
  failed.rethrow();
  if (left_out) throw cancelled();
}

} // namespace detail

/// Runs `f(begin, end)` over ranges that cover [0, n) once, then `g(begin, end)` over [0, m), in one parallel region if the
/// executor can. How ranges are cut is the executor's choice: results must not depend on it. If an f throws, no g runs; the
/// exception of the lowest range is thrown again.
///
/// Ranges that have not begun when `stop` is requested do not run, and no g runs if an f did not. @throws cancelled if there
/// are any, and nothing else was thrown.
template <class F, class G>
void run_in_turn(executor_ref where, index_t n, F const& f, index_t m, G const& g, std::stop_token const& stop = {}) {
  detail::run_loops_in_turn(where, n, f, m, g, stop);
}

} // namespace SLIM_ABI
} // namespace slim
