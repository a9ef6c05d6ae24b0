#pragma once
/// @file
/// Embedding and head as files of compressed models hold them: in Q8_0.

#include "models/stored_matrix.hpp"
#include "run/scratch_file.hpp"

namespace slim_llm {

/// Whether the rule for embedding and head rounds a tensor to Q8_0: it has more bits, and its rows are whole blocks.
[[nodiscard]] bool is_rounded_to_q8(slim::tensor_info const& tensor);

/// The matrix in Q8_0, in the scratch file, with a note by how much it changed; or as it is. @throws input_error if the scratch
/// file cannot be written
[[nodiscard]] stored_matrix rounded_to_q8(stored_matrix const& values, scratch_file& scratch, std::vector<std::string>& notes);

} // namespace slim_llm
