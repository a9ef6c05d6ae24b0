#pragma once
/// @file
/// llama.cpp's importance matrices as files: sums of squares of what every linear reads of a text. Source: llama.cpp 0c1e57098,
/// tools/imatrix (GGUF; tensors NAME.in_sum2, experts x d_in, and NAME.counts, experts x 1, both F32).

#include "run/workspace.hpp"

#include "slim/calibration/calibration.hpp"

#include <functional>
#include <map>

namespace slim_llm {

/// Which tensor of a GGUF model a linear is, and which of its experts.
struct imatrix_place {
  std::string tensor;
  index_t expert = 0;
};

/// The places of all linears, by their names in the model. @throws input_error if GGUF knows no such model
[[nodiscard]] std::map<std::string, imatrix_place> imatrix_places(checkpoint const& file, model const& m);

/// What a text was, for the file's metadata.
struct imatrix_text {
  std::string name;
  index_t windows = 0, window = 0;
};

/// Writes the sums of all linears of a model; a linear without a calibration has none. @throws input_error
void write_imatrix(std::filesystem::path const& out, std::map<std::string, imatrix_place> const& places,
                   std::map<std::string, slim::calibration> const& sums, imatrix_text const& text);

/// Reads the statistics of a linear from a file that write_imatrix or llama-imatrix wrote: sums of squares alone.
class imatrix_reader {
public:
  /// @throws input_error if the file is none, or lacks a linear of the model
  imatrix_reader(std::filesystem::path const& path, checkpoint const& file, model const& m);

  /// @throws input_error naming the tensor if its numbers cannot be sums of squares of so many tokens
  [[nodiscard]] slim::calibration of(linear const& l) const;

private:
  slim::gguf_file file_;
  std::map<std::string, imatrix_place> places_;
};

} // namespace slim_llm
