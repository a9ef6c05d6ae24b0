#pragma once
/// @file
/// Tensors that wait in a scratch file, and a safetensors file made of them. Their bytes pass through a small buffer, so the
/// memory needed does not grow with the tensors.

#include "run/scratch_file.hpp"

#include "slim/core/matrix_view.hpp"

#include <map>
#include <string>
#include <vector>

namespace slim_llm {

struct scratch_tensor {
  std::string name;
  std::string type; ///< U8, F16, BF16 or F32
  std::vector<slim::index_t> shape;
  std::uint64_t offset = 0, size = 0; ///< in the scratch file
};

/// In the layout of slim::save_safetensors: by type, widest first, then by name. Written beside its place and renamed.
/// @throws input_error
void save_scratch_tensors(std::filesystem::path const& path, std::vector<scratch_tensor> tensors, scratch_file const& scratch,
                          std::map<std::string, std::string> const& metadata);

} // namespace slim_llm
