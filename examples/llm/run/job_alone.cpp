// Built without MPI (SLIM_LLM_MPI): a process is alone.

#include "run/input_error.hpp"
#include "run/ranks.hpp"

#include <cstdlib>

namespace slim_llm {

std::unique_ptr<ranks> join_job() {
  char const* const started = std::getenv("OMPI_COMM_WORLD_SIZE");
  if (started && std::atoi(started) > 1)
    throw input_error("mpirun started " + std::string(started) +
                      " processes, but this program was built without MPI; configure it with -DSLIM_LLM_MPI=ON");
  return std::make_unique<ranks>();
}

} // namespace slim_llm
