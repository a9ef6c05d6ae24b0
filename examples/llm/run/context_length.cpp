#include "run/context_length.hpp"

#include "run/input_error.hpp"

#include <cstdio>

namespace slim_llm {

void require_context(index_t context) {
  if (context < 2 || context > largest_context)
    throw input_error(slim::message("--context ", context, ": possible are 2 to ", largest_context, " tokens per window"));
}

void note_long_context(index_t context, model_config const& config) {
  if (config.max_positions > 0 && context > config.max_positions)
    std::fprintf(stderr, "note: --context %td is longer than the %td tokens that the model was made for\n", context,
                 config.max_positions);
}

} // namespace slim_llm
