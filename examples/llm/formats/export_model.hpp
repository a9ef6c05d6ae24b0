#pragma once
/// @file
/// Writes a compressed model that stock software loads: the linears as F16 with adapters merged, all else copied.

#include "run/scratch_file.hpp"
#include "run/workspace.hpp"

namespace slim_llm {

/// Gets the blocks of a model one after the other, so that only one needs to be in memory, and writes the model at the end.
/// Until then the linears wait as F16 in a scratch file in the folder of `out`.
class model_writer {
public:
  /// @param source must live as long as the writer. @throws input_error if the folder of `out` cannot be written.
  model_writer(checkpoint const& source, std::filesystem::path out, std::string recipe);

  /// Rounds the linears of `b` to F16, as they are written: what is done with the block afterwards sees the written weights.
  /// Returns a sentence for every layer that lost more than rounding: weights beyond the range of F16 (written as its largest
  /// number), or too small for it.
  [[nodiscard]] std::vector<std::string> add(block& b);
  /// From a GGUF file a GGUF file, from a Hugging Face folder a folder (model.safetensors and the small files beside it).
  /// Written beside and renamed. Returns the bytes of the tensors' file. @throws input_error if it cannot be written.
  [[nodiscard]] double finish() const;

private:
  void write_gguf(slim::gguf_file const& source) const;
  void write_folder() const;
  using stored_linear = std::pair<linear_info, std::uint64_t>; ///< and where it begins in the scratch file
  /// In a stacked tensor linears lie in the order in which they were added.
  [[nodiscard]] std::map<std::string, std::vector<stored_linear const*>> by_tensor() const;
  [[nodiscard]] matrix<float> read(linear_info const& l, std::uint64_t offset) const;
  [[nodiscard]] matrix<float> read_below_each_other(std::vector<stored_linear const*> const& slices) const;

  checkpoint const& source_;
  std::filesystem::path out_;
  std::string recipe_;
  scratch_file scratch_;
  std::vector<stored_linear> linears_;
};

} // namespace slim_llm
