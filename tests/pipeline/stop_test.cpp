// Stopping real components: in the middle, from another thread, at every task; and what is left behind.

#include "slim/pipeline/compress.hpp"

#include "slim/adapters/saliency_lora.hpp"
#include "slim/calibration/calibration_bytes.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

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
}

/// Magnitude that says when it is first asked, and finishes no row before it is asked to stop.
struct slow_saliency {
  std::atomic<bool>* begun;
  std::stop_token stop;

  struct scorer {
    matrix_view<float const> w;
    slow_saliency const* owner;
    float operator()(index_t i, index_t j) const {
      *owner->begun = true;
      for (int k = 0; k < 20000 && j == 0 && !owner->stop.stop_requested(); ++k) // 20 s at most
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return std::abs(w(i, j));
    }
  };
  scorer prepare(matrix_view<float const> w, calibration const&, context const&) const { return {w, this}; }
  std::string describe() const { return "slow"; }
};

/// Runs tasks in order and asks for a stop after `left` of them.
struct stopping_executor {
  std::stop_source* source;
  index_t* left;

  void for_each(index_t count, task_ref task) const {
    for (index_t k = 0; k < count; ++k) {
      if ((*left)-- == 0) source->request_stop();
      task(k);
    }
  }
};

auto const recipe = chain(nm_pruner<2, 4>(wanda{}), slim_quantizer(), slim_lora({.rank = {.number = 3}}));

} // namespace

TEST_CASE("pruning a large matrix is stopped from another thread") {
  on_every_executor([](auto const& where, char const* name) {
    INFO(name);
    matrix<float> const w = normal_matrix(4096, 64, 1);
    std::stop_source source;
    std::atomic<bool> begun = false;
    context ctx = on(where);
    ctx.stop = source.get_token();
    std::thread watcher([&] {
      while (!begun) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      source.request_stop();
    });
    auto const pruner = nm_pruner<2, 4>(slow_saliency{&begun, source.get_token()});
    CHECK_THROWS_AS(pruner.select(w.view(), calibration(64), ctx), cancelled);
    watcher.join();
    // The component is as it was.
    mask const again = pruner.select(w.view(), calibration(64), on(where));
    CHECK(again == nm_pruner<2, 4>(magnitude()).select(w.view(), calibration(64)));
  });
}

TEST_CASE("a compress stopped at any task throws cancelled, or was done; and the next gives the same bits as ever") {
  matrix<float> const w = normal_matrix(70, 50, 2, 0.02f);
  calibration const calib = observed(normal_matrix(64, 50, 3), {.gram = true});
  std::vector<std::byte> const before = save(calib);
  auto const whole = compress(w, calib, recipe);
  index_t total = 0;
  index_t stopped = 0, done = 0;
  for (index_t after = 0; done == 0; after = after < 20 ? after + 1 : after + after / 7) {
    std::stop_source source;
    index_t left = after;
    stopping_executor const where{&source, &left};
    context ctx = on(where);
    ctx.stop = source.get_token();
    try {
      auto const layer = compress(w, calib, recipe, ctx);
      ++done;
      CHECK(same_bits(layer.weight.values(), whole.weight.values()));
    } catch (cancelled const&) {
      ++stopped;
      REQUIRE(source.stop_requested());
    }
    ++total;
    if (total > 500) break;
  }
  CHECK(done == 1);
  CHECK(stopped > 20);
  CHECK(save(calib) == before);
  CHECK(same_bits(compress(w, calib, recipe).weight.values(), whole.weight.values()));
}

TEST_CASE("results do not depend on a stop that nobody asks for") {
  matrix<float> const w = normal_matrix(70, 50, 4, 0.02f);
  calibration const calib = observed(normal_matrix(64, 50, 5), {.gram = true});
  auto const plain = compress(w, calib, recipe);
  on_every_executor([&](auto const& where, char const* name) {
    INFO(name);
    std::stop_source source;
    context ctx = on(where);
    ctx.stop = source.get_token();
    CHECK(same_bits(compress(w, calib, recipe, ctx).weight.values(), plain.weight.values()));
  });
}

TEST_CASE("a compress stopped at a random moment by another thread throws cancelled or was done") {
  matrix<float> const w = normal_matrix(200, 160, 6, 0.02f);
  calibration const calib = observed(normal_matrix(64, 160, 7), {.gram = true});
  auto const whole = compress(w, calib, recipe);
  for (int k = 0; k < 12; ++k) {
    std::stop_source source;
    context ctx;
    ctx.stop = source.get_token();
    std::thread killer([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(300 * k));
      source.request_stop();
    });
    try {
      auto const layer = compress(w, calib, recipe, ctx);
      CHECK(same_bits(layer.weight.values(), whole.weight.values()));
    } catch (cancelled const&) {
      CHECK(source.stop_requested());
    }
    killer.join();
  }
}

TEST_CASE("a batch of activations is added whole or not at all") {
  matrix<float> const x = normal_matrix(300, 150, 8);
  for (index_t const after : {0, 1, 4, 5, 9, 10, 11, 12}) {
    std::stop_source source;
    index_t left = after;
    stopping_executor const where{&source, &left};
    context ctx = on(where);
    ctx.stop = source.get_token();
    calibration calib(150, {.gram = true, .samples = 10});
    std::vector<std::byte> const before = save(calib);
    bool added = true;
    try {
      calib.observe(x.view(), ctx);
    } catch (cancelled const&) {
      added = false;
    }
    CHECK(save(calib) == (added ? save(observed(x, {.gram = true, .samples = 10})) : before));
    CHECK(added == (after >= 10)); // ten tasks look for NaN first
    CHECK_THROWS_AS(calib.observe(x.view(), ctx), cancelled);
  }
}
