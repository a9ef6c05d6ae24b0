#include "slim/core/context.hpp"

#include <catch2/catch.hpp>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

using slim::index_t;

constexpr slim::serial_executor serial;

/// An embedder's own thread pool, as one would write it without knowing this library, and the four lines that hook it in.
class thread_pool {
public:
  explicit thread_pool(int threads) {
    for (int k = 0; k < threads; ++k) threads_.emplace_back([this] { work(); });
  }
  ~thread_pool() {
    {
      std::lock_guard const lock(mutex_);
      closing_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  void submit(std::function<void()> job) {
    {
      std::lock_guard const lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    wake_.notify_one();
  }

private:
  void work() {
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return closing_ || !jobs_.empty(); });
        if (jobs_.empty()) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      job();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
  bool closing_ = false;
};

struct pool_executor {
  thread_pool* pool;

  void for_each(index_t count, slim::task_ref task) const {
    std::mutex mutex;
    std::condition_variable done;
    index_t left = count;
    for (index_t k = 0; k < count; ++k)
      pool->submit([&, k] {
        task(k);
        std::lock_guard const lock(mutex); // notified inside the lock: the waiting side may leave, and take `done` with it
        if (--left == 0) done.notify_all();
      });
    std::unique_lock lock(mutex);
    done.wait(lock, [&] { return left == 0; });
  }
};

/// Last task first: the order that a careless implementation does not expect.
struct backwards_executor {
  void for_each(index_t count, slim::task_ref task) const {
    for (index_t k = count; k-- > 0;) task(k);
  }
};

static_assert(slim::executor<pool_executor>);
static_assert(slim::executor<backwards_executor>);
static_assert(!slim::executor<thread_pool>);

using blocks = std::set<std::pair<index_t, index_t>>;

blocks blocks_of(slim::executor_ref where, index_t n, index_t grain) {
  std::mutex mutex;
  blocks calib;
  slim::parallel_for(where, n, grain, [&](index_t begin, index_t end) {
    std::lock_guard const lock(mutex);
    if (!calib.emplace(begin, end).second) throw std::logic_error("a block ran twice");
  });
  return calib;
}

/// Runs a check on every executor there is.
template <class Check>
void on_every_executor(Check const& check) {
  check(slim::serial_executor{}, "serial");
  check(backwards_executor{}, "backwards");
  for (int threads : {1, 2, 5}) {
#if defined(_OPENMP)
    check(slim::openmp_executor{threads}, "openmp");
#endif
    thread_pool pool(threads);
    check(pool_executor{&pool}, "a user's pool");
  }
}

} // namespace

TEST_CASE("blocks cover 0 to n - 1 once, and depend on n and grain only") {
  for (index_t const n : {1, 2, 7, 64, 65, 1000})
    for (index_t const grain : {1, 3, 64, 5000}) {
      blocks expected;
      for (index_t begin = 0; begin < n; begin += grain) expected.emplace(begin, std::min(n, begin + grain));
      on_every_executor([&](auto const& where, char const* name) {
        INFO(name << ", n " << n << ", grain " << grain);
        CHECK(blocks_of(where, n, grain) == expected);
      });
    }
}

TEST_CASE("nothing to do is nothing done") {
  for (index_t const n : {0, -1, -1000}) CHECK(blocks_of(serial, n, 8).empty());
}

TEST_CASE("a grain below one counts as one") {
  for (index_t const grain : {0, -5}) CHECK(blocks_of(serial, 3, grain) == blocks{{0, 1}, {1, 2}, {2, 3}});
}

TEST_CASE("the largest sizes do not overflow the number of blocks") {
  index_t const n = std::numeric_limits<index_t>::max();
  CHECK(blocks_of(serial, n, n) == blocks{{0, n}});
  CHECK(blocks_of(serial, n, n - 1) == blocks{{0, n - 1}, {n - 1, n}});
}

TEST_CASE("the exception of the lowest block comes out, after all blocks have run") {
  on_every_executor([&](auto const& where, char const* name) {
    INFO(name);
    std::atomic<int> ran = 0;
    auto const run = [&] {
      slim::parallel_for(where, 100, 10, [&](index_t begin, index_t) {
        ++ran;
        if (begin >= 30) throw std::runtime_error(std::to_string(begin));
      });
    };
    CHECK_THROWS_WITH(run(), "30");
    CHECK(ran == 10);
  });
}

TEST_CASE("loops in turn: the second starts after the first, and not at all if the first threw") {
  on_every_executor([&](auto const& where, char const* name) {
    INFO(name);
    std::atomic<int> first = 0, second = 0, early = 0;
    auto const count = [&](index_t begin, index_t end) { first += static_cast<int>(end - begin); };
    slim::run_in_turn(where, 20, count, 30, [&](index_t begin, index_t end) {
      if (first != 20) ++early;
      second += static_cast<int>(end - begin);
    });
    CHECK(first == 20);
    CHECK(second == 30);
    CHECK(early == 0);
    auto const fail = [&](index_t begin, index_t end) {
      for (index_t k = begin; k < end; ++k)
        if (k >= 7) throw std::runtime_error(std::to_string(k));
    };
    second = 0;
    CHECK_THROWS_WITH(slim::run_in_turn(where, 20, fail, 30, [&](index_t, index_t) { ++second; }), "7");
    CHECK(second == 0);
    CHECK_THROWS_WITH(slim::run_in_turn(where, 20, count, 30, fail), "7");
    CHECK_THROWS_WITH(slim::run_in_turn(where, 0, count, 30, fail), "7");
    slim::run_in_turn(where, 0, fail, 0, fail);
  });
}

TEST_CASE("the exception of a single block comes out as it is") {
  CHECK_THROWS_AS(slim::parallel_for(serial, 5, 10, [](index_t, index_t) { throw slim::shape_error("no"); }),
                  slim::shape_error);
}

TEST_CASE("a context runs where it is told to") {
  std::vector<index_t> order;
  backwards_executor const where;
  slim::context const ctx{.where = where};
  ctx.parallel_for(3, 1, [&](index_t begin, index_t) { order.push_back(begin); });
  CHECK(order == std::vector<index_t>{2, 1, 0});
}

TEST_CASE("an executor that would be gone before it is used is refused") {
  STATIC_REQUIRE(std::is_constructible_v<slim::executor_ref, slim::serial_executor const&>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<slim::executor_ref, slim::serial_executor>);
}

TEST_CASE("a default context covers everything") {
  std::vector<int> hits(1000);
  slim::context{}.parallel_for(1000, 7, [&](index_t begin, index_t end) {
    for (index_t k = begin; k < end; ++k) ++hits[static_cast<std::size_t>(k)];
  });
  CHECK(hits == std::vector<int>(1000, 1));
}

TEST_CASE("a pool that is really parallel runs tasks on several threads") {
  thread_pool pool(3);
  pool_executor const executor{&pool};
  std::mutex mutex;
  std::condition_variable all_here;
  int inside = 0; // three tasks wait for each other: possible on three threads only
  slim::parallel_for(executor, 3, 1, [&](index_t, index_t) {
    std::unique_lock lock(mutex);
    ++inside;
    all_here.notify_all();
    if (!all_here.wait_for(lock, std::chrono::seconds(20), [&] { return inside == 3; })) throw std::runtime_error("alone");
  });
  CHECK(inside == 3);
}

#if defined(_OPENMP)
TEST_CASE("tasks of a team: all of them once whoever comes, and neighbours for whoever works alone") {
  for (index_t const count : {0, 1, 2, 7, 16, 1000})
    for (int const team : {1, 2, 3, 5})
      for (int const missing : {0, 1, team - 1})
        for (bool const ranges : {false, true}) {
          INFO(count << " tasks, team of " << team << ", " << missing << " do not come, ranges " << ranges);
          slim::detail::task_shares shares(count, team, ranges);
          std::vector<std::atomic<int>> ran(static_cast<std::size_t>(count));
          auto const tasks = [&](index_t begin, index_t end) {
            for (index_t k = begin; k < end; ++k) ++ran[static_cast<std::size_t>(k)];
          };
          std::vector<std::thread> members;
          for (int who = std::min(missing, team - 1); who < team; ++who)
            members.emplace_back([&, who] { shares.work(who, tasks); });
          for (std::thread& member : members) member.join();
          for (auto const& times : ran) CHECK(times == 1);
        }
  std::vector<std::pair<index_t, index_t>> order;
  auto const remember = [&](index_t begin, index_t end) { order.emplace_back(begin, end); };
  slim::detail::task_shares one_by_one(12, 4, false);
  one_by_one.work(1, remember);
  REQUIRE(order.size() == 12);
  CHECK(order[0] == std::pair<index_t, index_t>{3, 4});
  CHECK(order[1] == std::pair<index_t, index_t>{4, 5});
  CHECK(order[2] == std::pair<index_t, index_t>{5, 6});
  order.clear();
  slim::detail::task_shares by_halves(64, 2, true); // its own half, half of the rest at a time, then from the other member
  by_halves.work(1, remember);
  REQUIRE(order.size() > 7);
  CHECK(order[0] == std::pair<index_t, index_t>{32, 48});
  CHECK(order[1] == std::pair<index_t, index_t>{48, 56});
  CHECK(order[5] == std::pair<index_t, index_t>{63, 64});
  CHECK(order[6] == std::pair<index_t, index_t>{16, 24});
}
#endif
