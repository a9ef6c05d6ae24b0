/// Run the library on your own thread pool: an executor is a type with one member, `for_each(count, task)`.
///
/// How work is cut into tasks depends on the problem only. So the result has the same bits as on one thread: the last line
/// checks it. The layer is synthetic.

#include <slim/slim.hpp>
#include <slim/testing/same_bits.hpp>

#include <condition_variable>
#include <cstdio>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

/// Stands for the pool of your program: a queue of jobs and some threads.
class pool {
public:
  explicit pool(int threads) {
    for (int t = 0; t < threads; ++t) threads_.emplace_back([this] { work(); });
  }
  ~pool() {
    post(static_cast<int>(threads_.size()), nullptr); // an empty job ends a thread
    for (std::thread& thread : threads_) thread.join();
  }
  void post(int times, std::function<void()> const& job) {
    std::lock_guard const lock(mutex_);
    for (int k = 0; k < times; ++k) jobs_.push_back(job);
    wake_.notify_all();
  }
  int size() const { return static_cast<int>(threads_.size()); }

private:
  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return !jobs_.empty(); });
      auto const job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      if (!job) return;
      job();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
};

/// The bridge: every thread takes tasks until none is left; for_each returns when all threads are through. Tasks never throw.
struct pool_executor {
  pool* threads;

  void for_each(slim::index_t count, slim::task_ref task) const {
    std::mutex mutex;
    std::condition_variable done;
    slim::index_t next = 0;
    int running = threads->size();
    threads->post(running, [&] {
      std::unique_lock lock(mutex);
      while (next < count) {
        slim::index_t const k = next++;
        lock.unlock();
        task(k);
        lock.lock();
      }
      if (--running == 0) done.notify_one();
    });
    std::unique_lock lock(mutex);
    done.wait(lock, [&] { return running == 0; });
  }
};

int main() {
  slim::matrix<float> W(192, 320), X(512, 320);
  for (slim::index_t k = 0; k < W.size(); ++k)
    W.data()[k] = static_cast<float>(0.02 * slim::random_normal(1, static_cast<std::uint64_t>(k)));
  for (slim::index_t k = 0; k < X.size(); ++k)
    X.data()[k] = static_cast<float>(slim::random_normal(2, static_cast<std::uint64_t>(k)));
  auto const recipe = slim::chain(slim::slim_quantizer(), slim::nm_pruner<2, 4>(slim::wanda{}), slim::slim_lora());

  auto const run_on = [&](slim::context const& ctx) {
    slim::calibration calib(X.cols(), {.gram = true});
    calib.observe(X, ctx);
    return slim::compress(W, calib, recipe, ctx);
  };
  pool threads(3);
  pool_executor const mine{&threads}; // the context refers to it: keep it alive
  slim::serial_executor const alone;
  auto const here = run_on({.where = mine});
  auto const there = run_on({.where = alone});

  bool const same =
      slim::testing::same_bits(here.weight.codes, there.weight.codes) && slim::testing::same_bits(here.adapter, there.adapter);
  std::printf("output error %.4f; bit-identical on %d threads and on one: %s\n", here.report.last().output_error,
              threads.size(), same ? "yes" : "NO");
  return same ? 0 : 1;
}
