#pragma once
/// @file
/// A job whose ranks are threads of one process, to test what is split over ranks without MPI.

#include "run/ranks.hpp"

#include <barrier>
#include <thread>

namespace slim_llm::testing {

/// What the ranks of a job have in common.
struct thread_job {
  explicit thread_job(index_t size) : spans(static_cast<std::size_t>(size)), everybody(size) {}

  std::vector<std::span<std::byte>> spans; ///< of the call that is made, by rank
  std::barrier<> everybody;
};

class thread_rank final : public ranks {
public:
  thread_rank(thread_job& job, index_t rank) : ranks(rank, std::ssize(job.spans)), job_(job) {}

  void broadcast_bytes(std::span<std::byte> bytes, index_t from) override {
    auto const& source = show(bytes)[static_cast<std::size_t>(from)];
    if (rank() != from) std::copy(source.begin(), source.end(), bytes.begin());
    job_.everybody.arrive_and_wait();
  }

  void unite(std::span<std::byte> bytes) override {
    std::vector<std::byte> all(bytes.size());
    for (auto const& part : show(bytes))
      for (std::size_t k = 0; k < all.size(); ++k) all[k] |= part[k];
    job_.everybody.arrive_and_wait();
    std::copy(all.begin(), all.end(), bytes.begin());
  }

private:
  std::vector<std::span<std::byte>> const& show(std::span<std::byte> bytes) {
    job_.spans[static_cast<std::size_t>(rank())] = bytes;
    job_.everybody.arrive_and_wait();
    for (auto const& other : job_.spans)
      if (other.size() != bytes.size()) std::terminate(); // ranks do not make the same calls
    return job_.spans;
  }

  thread_job& job_;
};

/// Calls `f` in every rank of a job of `size`.
template <class F>
void in_ranks(index_t size, F const& f) {
  thread_job job(size);
  std::vector<std::thread> threads;
  for (index_t k = 0; k < size; ++k)
    threads.emplace_back([&job, &f, k] {
      thread_rank rank(job, k);
      f(rank);
    });
  for (std::thread& thread : threads) thread.join();
}

} // namespace slim_llm::testing
