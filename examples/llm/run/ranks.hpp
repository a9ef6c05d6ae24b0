#pragma once
/// @file
/// Processes that do one piece of work together, the ranks of a job: all run the same program on the same files, split what
/// can be split, and tell each other what came out. Nothing is added up over ranks, so that no bit depends on their number:
/// numbers are handed round as they are, or put together where all ranks but one have 0.

#include "models/model.hpp"

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace slim_llm {

/// A job of one process, and what jobs of several have in common. Every rank must make the same calls in the same order.
class ranks {
public:
  ranks() = default;
  ranks(ranks const&) = delete;
  ranks& operator=(ranks const&) = delete;
  virtual ~ranks() = default;

  [[nodiscard]] index_t rank() const noexcept { return rank_; } ///< of this process, from 0 on
  [[nodiscard]] index_t size() const noexcept { return size_; } ///< how many there are
  /// The rank that reads and writes what a job has once: files that are written, what the user sees.
  [[nodiscard]] bool first() const noexcept { return rank_ == 0; }

  /// All ranks get the bytes of rank `from`; spans are equally long.
  virtual void broadcast_bytes(std::span<std::byte> bytes, index_t from);
  /// All ranks get the bitwise or of the bytes of all; spans are equally long.
  virtual void unite(std::span<std::byte> bytes);
  /// Says why work ended before it was done, unless the text is empty or another rank says it, and ends the other ranks, too.
  /// Returns the exit code.
  [[nodiscard]] virtual int give_up(int code, std::string const& why);

  /// All ranks get the value of rank `from`.
  template <class T>
    requires std::is_trivially_copyable_v<T> && (!std::is_pointer_v<T>)
  void broadcast(T& value, index_t from) {
    broadcast_bytes(std::as_writable_bytes(std::span(&value, 1)), from);
  }
  /// The same of a vector or a string, whose lengths may differ before.
  template <class Numbers>
    requires requires(Numbers& n) {
      n.resize(1);
      n.data();
    }
  void broadcast(Numbers& numbers, index_t from) {
    auto count = static_cast<index_t>(numbers.size());
    broadcast(count, from);
    numbers.resize(static_cast<std::size_t>(count));
    broadcast_bytes(std::as_writable_bytes(std::span(numbers)), from);
  }
  /// The same of a matrix.
  void broadcast(matrix<float>& m, index_t from);

protected:
  ranks(index_t rank, index_t size) : rank_(rank), size_(size) {}

private:
  index_t rank_ = 0, size_ = 1;
};

/// The job that this process is part of: that of `mpirun`, if the program was built with MPI and was started by it. From now on
/// ranks behind the first print nothing. @throws input_error if mpirun started several processes of a program without MPI.
[[nodiscard]] std::unique_ptr<ranks> join_job();

} // namespace slim_llm
