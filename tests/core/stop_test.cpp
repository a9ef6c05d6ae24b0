// context::stop and context::progress: what runs, what does not, what is thrown.

#include "slim/testing/executors.hpp"

#include <catch2/catch.hpp>

#include <chrono>

using namespace slim;
using namespace slim::testing;

namespace {

template <class Test>
void on_every_executor(Test const& test) {
  test(serial_executor{}, "serial");
  test(backwards_executor{}, "backwards");
  test(thread_team_executor{4}, "team");
  test(default_executor{}, "default");
#if defined(_OPENMP)
  test(openmp_executor{4}, "OpenMP, 4 threads");
#endif
}

context stopping(executor_ref where, std::stop_source const& source) {
  context ctx;
  ctx.where = where;
  ctx.stop = source.get_token();
  return ctx;
}

} // namespace

TEST_CASE("nothing begins after a request to stop, whatever the executor") {
  on_every_executor([](auto const& where, char const* name) {
    INFO(name);
    std::stop_source source;
    source.request_stop();
    context const ctx = stopping(where, source);
    std::atomic<int> ran = 0;
    auto const count = [&](index_t, index_t) { ++ran; };
    CHECK_THROWS_AS(ctx.parallel_for(100, 10, count), cancelled);
    CHECK_THROWS_AS(ctx.parallel_for(5, 10, count), cancelled); // one block
    CHECK_THROWS_AS(ctx.run_in_turn(20, count), cancelled);
    CHECK_THROWS_AS(ctx.run_in_turn(20, count, 30, count), cancelled);
    CHECK_THROWS_AS(ctx.run_in_turn(0, count, 30, count), cancelled);
    CHECK_THROWS_AS(ctx.throw_if_stopped(), cancelled);
    CHECK(ran == 0);
    ctx.parallel_for(0, 1, count); // nothing to do is done
    ctx.run_in_turn(0, count);
    ctx.to_the_end().parallel_for(100, 10, count);
    CHECK(ran == 10);
    CHECK_THROWS_AS(ctx.inside_task().parallel_for(100, 10, count), cancelled);
  });
}

TEST_CASE("a request from a task lets running tasks end and no other begin") {
  on_every_executor([](auto const& where, char const* name) {
    INFO(name);
    std::stop_source source;
    context const ctx = stopping(where, source);
    std::atomic<int> begun = 0, ended = 0;
    auto const work = [&](index_t, index_t) {
      if (++begun == 7) source.request_stop();
      ++ended;
    };
    CHECK_THROWS_AS(ctx.parallel_for(10000, 1, work), cancelled);
    CHECK(begun == ended);
    CHECK(begun >= 7);
    CHECK(begun <= 7 + 64); // a thread may have asked before the request
  });
}

TEST_CASE("loops in turn stop inside a loop that is handed over whole, and the second does not begin") {
  on_every_executor([](auto const& where, char const* name) {
    INFO(name);
    std::stop_source source;
    context const ctx = stopping(where, source);
    std::atomic<index_t> done = 0, second = 0;
    auto const first = [&](index_t begin, index_t end) {
      done += end - begin;
      source.request_stop();
    };
    CHECK_THROWS_AS(ctx.run_in_turn(6400, first, 10, [&](index_t, index_t) { ++second; }), cancelled);
    CHECK(done > 0);
    CHECK(done < 6400);
    CHECK(second == 0);
  });
}

TEST_CASE("what a task throws comes out even if the work is stopped") {
  on_every_executor([](auto const& where, char const* name) {
    INFO(name);
    std::stop_source source;
    context const ctx = stopping(where, source);
    auto const fail = [&](index_t begin, index_t) {
      source.request_stop();
      throw config_error(message("at ", begin));
    };
    CHECK_THROWS_AS(ctx.parallel_for(100, 1, fail), config_error);
    CHECK_THROWS_AS(ctx.to_the_end().run_in_turn(100, fail), config_error);
  });
}

TEST_CASE("a task stopped inside itself stops the whole") {
  std::stop_source source;
  context ctx;
  ctx.stop = source.get_token();
  std::atomic<int> inner = 0;
  auto const outer = [&](index_t, index_t) {
    context const here = ctx.inside_task();
    here.parallel_for(50, 1, [&](index_t, index_t) {
      if (++inner == 5) source.request_stop();
    });
  };
  CHECK_THROWS_AS(ctx.parallel_for(4, 1, outer), cancelled);
  CHECK(inner < 200); // the task that asks ends there, the others at the latest when they have run
}

TEST_CASE("a request that comes too late changes nothing") {
  on_every_executor([](auto const& where, char const* name) {
    INFO(name);
    std::stop_source source;
    context const ctx = stopping(where, source);
    std::vector<int> visits(101);
    std::atomic<int> done = 0;
    auto const visit = [&](index_t begin, index_t end) {
      for (index_t k = begin; k < end; ++k) ++visits[static_cast<std::size_t>(k)];
      if (++done == 11) source.request_stop(); // the last of 11 blocks
    };
    CHECK_NOTHROW(ctx.parallel_for(101, 10, visit));
    CHECK(visits == std::vector<int>(101, 1));
  });
  std::stop_source source; // a loop in pieces covers its range once
  std::vector<int> visits(1001), others(7);
  auto const count_in = [](std::vector<int>& v) {
    return [&v](index_t begin, index_t end) {
      for (index_t k = begin; k < end; ++k) ++v[static_cast<std::size_t>(k)];
    };
  };
  default_executor const where;
  stopping(where, source).run_in_turn(1001, count_in(visits), 7, count_in(others));
  CHECK(visits == std::vector<int>(1001, 1));
  CHECK(others == std::vector<int>(7, 1));
}

TEST_CASE("cancelled is no error of the caller's") {
  STATIC_REQUIRE_FALSE(std::is_base_of_v<error, cancelled>);
  STATIC_REQUIRE_FALSE(std::is_base_of_v<std::logic_error, cancelled>);
  STATIC_REQUIRE(std::is_base_of_v<std::exception, cancelled>);
  CHECK(std::string(cancelled().what()).find("stop") != std::string::npos);
}

TEST_CASE("progress is told between steps, and stopped there") {
  std::vector<std::string> told;
  auto const show = [&](progress_report const& r) { told.push_back(message(r.done, "/", r.total, " ", r.next)); };
  std::stop_source source;
  context ctx{.stop = source.get_token(), .progress = show};
  ctx.between_steps("prune", 0, 2);
  ctx.between_steps("quantize", 1, 2);
  source.request_stop();
  ctx.between_steps("", 2, 2);
  CHECK(told == std::vector<std::string>{"0/2 prune", "1/2 quantize", "2/2 "});
  CHECK_THROWS_AS(ctx.between_steps("quantize", 1, 2), cancelled);
  CHECK(told.size() == 3);
  CHECK_FALSE(ctx.inside_task().progress);
  CHECK(ctx.progress);
  context{}.between_steps("nobody listens", 0, 1);
}

TEST_CASE("a progress callable may change itself, and may not be a temporary") {
  struct counter {
    int calls = 0;
    void operator()(progress_report const&) { ++calls; }
  } count;
  progress_ref const ref = count, copy = ref;
  ref({});
  copy({});
  CHECK(count.calls == 2);
  progress_ref{}({});
  struct can_only_be_called {
    void operator()(progress_report const&) const {}
  };
  STATIC_REQUIRE(std::is_constructible_v<progress_ref, can_only_be_called const&>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<progress_ref, can_only_be_called>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<progress_ref, counter>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<progress_ref, int&>);
}
