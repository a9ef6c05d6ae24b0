// Built with MPI (SLIM_LLM_MPI): the only file that knows of it.

#include "run/input_error.hpp"
#include "run/ranks.hpp"

#define OMPI_SKIP_MPICXX
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <thread>
#include <unistd.h>

namespace slim_llm {
namespace {

constexpr std::size_t most_bytes = std::size_t{1} << 30; ///< of a call: MPI counts in int

/// Calls `f` with parts of the bytes that a call of MPI can take.
template <class F>
void in_parts(std::span<std::byte> bytes, F const& f) {
  for (std::size_t done = 0; done < bytes.size(); done += most_bytes)
    f(bytes.subspan(done, std::min(most_bytes, bytes.size() - done)));
}

int rank_in_world() {
  int number = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &number);
  return number;
}

int ranks_in_world() {
  int count = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &count);
  return count;
}

/// MPI ends the whole job if one of its calls fails, which is its default.
class mpi_ranks final : public ranks {
public:
  mpi_ranks() : ranks(rank_in_world(), ranks_in_world()) {
    if (first()) return;
    errors_ = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3); // for what ends the job; all else is said by the first rank
    int const nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    for (int const stream : {STDOUT_FILENO, STDERR_FILENO}) ::dup2(nowhere, stream);
    ::close(nowhere);
  }
  ~mpi_ranks() override { MPI_Finalize(); }

  void broadcast_bytes(std::span<std::byte> bytes, index_t from) override {
    in_parts(bytes, [&](std::span<std::byte> part) {
      MPI_Bcast(part.data(), static_cast<int>(part.size()), MPI_BYTE, static_cast<int>(from), MPI_COMM_WORLD);
    });
  }

  void unite(std::span<std::byte> bytes) override {
    in_parts(bytes, [&](std::span<std::byte> part) {
      MPI_Allreduce(MPI_IN_PLACE, part.data(), static_cast<int>(part.size()), MPI_BYTE, MPI_BOR, MPI_COMM_WORLD);
    });
  }

  /// What is wrong with a file or an option all ranks find at about the same time: the first one says it, and ends the others
  /// while they wait. What one of them finds alone it says after that wait; ranks wait for different times, so that one speaks.
  int give_up(int code, std::string const& why) override {
    if (!first()) std::this_thread::sleep_for(std::chrono::milliseconds(1000 + 100 * std::min<index_t>(rank(), 20)));
    if (first() && !why.empty()) std::fprintf(stderr, "slim-llm: %s\n", why.c_str());
    if (!first() && !why.empty()) ::dprintf(errors_, "slim-llm: rank %td: %s\n", rank(), why.c_str());
    MPI_Abort(MPI_COMM_WORLD, code);
    ::_exit(code);
  }

private:
  int errors_ = STDERR_FILENO;
};

/// Set by launchers: Open MPI's mpirun, PMIx (srun), and the PMI of MPICH's and Intel's.
bool started_as_rank() {
  for (char const* const name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE"})
    if (std::getenv(name)) return true;
  return false;
}

} // namespace

std::unique_ptr<ranks> join_job() {
  if (!started_as_rank()) return std::make_unique<ranks>();
  int provided = 0; // the thread that waits for signals calls nothing of MPI
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  if (provided < MPI_THREAD_FUNNELED) throw input_error("this MPI has no MPI_THREAD_FUNNELED, which slim-llm needs");
  return std::make_unique<mpi_ranks>();
}

} // namespace slim_llm
