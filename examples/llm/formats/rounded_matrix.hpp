#pragma once
/// @file
/// Embedding and head as files of compressed models hold them: in Q8_0, or in another type that a recipe names.

#include "models/model.hpp"
#include "run/scratch_file.hpp"

#include <map>

namespace slim_llm {

/// Types of embedding and head by tensor name; one that is not listed stays as the source has it.
using side_types = std::map<std::string, slim::tensor_type>;

/// Q8_0, if the source has more bits and rows are whole blocks.
[[nodiscard]] side_types default_side_types(model const& m);

/// Whether a matrix can be rounded to a type: F16, BF16, and block types with evenly spaced levels.
[[nodiscard]] bool can_round_to(slim::tensor_type type);

/// Bytes of a matrix in a type. @throws input_error naming the tensor if its rows are no whole blocks
[[nodiscard]] std::uint64_t bytes_in(slim::tensor_info const& tensor, slim::tensor_type type);

/// The matrix in the type that `types` has for it, in the scratch file, with a note by how much it changed; or as it is.
/// Nearest codes: of Q8_0 with the scale of the largest number, as ggml has it; of other block types with searched scales.
/// @throws input_error if the scratch file cannot be written, or if rows are no whole blocks
[[nodiscard]] stored_matrix rounded_to(stored_matrix const& values, side_types const& types, scratch_file& scratch,
                                       std::vector<std::string>& notes);

} // namespace slim_llm
