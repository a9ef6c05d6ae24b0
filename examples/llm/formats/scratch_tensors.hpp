#pragma once
/// @file
/// Tensors that wait in a scratch file or lie in the map of another file, and a safetensors file made of them. Their bytes pass
/// through a small buffer, so the memory needed does not grow with the tensors.

#include "run/scratch_file.hpp"

#include "slim/core/matrix_view.hpp"

#include <map>
#include <span>
#include <string>
#include <vector>

namespace slim_llm {

struct scratch_tensor {
  std::string name;
  std::string type; ///< as safetensors calls it
  std::vector<slim::index_t> shape;
  std::uint64_t offset = 0, size = 0;     ///< in the scratch file
  std::span<std::byte const> mapped = {}; ///< if not empty: the tensor lies here, in the map of another file
};

/// Puts the tensors into the order of the file and returns its header, padded: the file is its length in 8 bytes, the header,
/// and the tensors. @throws input_error on text that is not UTF-8; `path` is what it calls the file.
[[nodiscard]] std::string order_and_describe(std::vector<scratch_tensor>& tensors,
                                             std::map<std::string, std::string> const& metadata,
                                             std::filesystem::path const& path);

/// In the layout of slim::save_safetensors: by type, widest first, then by name. Written beside its place and renamed.
/// @throws input_error
void save_scratch_tensors(std::filesystem::path const& path, std::vector<scratch_tensor> tensors, scratch_file const& scratch,
                          std::map<std::string, std::string> const& metadata);

} // namespace slim_llm
