#pragma once
/// @file
/// Writes a model that was solved on ggml's grids as the GGUF file that stock software loads.

#include "formats/packed_weights.hpp"
#include "formats/rounded_matrix.hpp"
#include "run/workspace.hpp"

namespace slim_llm {

/// Gets the blocks of a model one after the other and writes the GGUF file at the end: linears in their ggml types, embedding
/// and head in Q8_0, all else as it is in the source. Until then bytes wait in a scratch file in the folder of `out`.
class blocks_writer {
public:
  /// `source` and `m`, which is of it, must live as long as the writer. Embedding and head are rounded to the types of `sides`
  /// now. @throws input_error if the source is no GGUF file, or if the folder of `out` cannot be written.
  blocks_writer(checkpoint const& source, model const& m, std::filesystem::path out, std::string recipe,
                std::uint32_t file_type, side_types const& sides);

  /// The model with embedding and head as they are written, without compressed blocks: what an evaluation should compute with.
  [[nodiscard]] model const& written() const { return written_; }
  /// What was rounded that is no linear, and by how much: a sentence each.
  [[nodiscard]] std::vector<std::string> const& notes() const { return notes_; }

  /// The block as it is evaluated, and the ggml blocks of its linears. @throws input_error if a linear has none.
  void add(block const& b, packed_weights const& layers);
  /// Writes the file beside its place, reads every linear and compares it with what was added; then the file gets its name.
  /// Returns its size. @throws input_error if it cannot be written, or if a weight that is read differs.
  [[nodiscard]] double finish();

private:
  /// A linear, or a slice of a stacked tensor.
  struct stored_linear {
    linear_info info;
    slim::tensor_type type;
    std::uint64_t offset, bytes;
    std::uint64_t hash; ///< of the floats that were evaluated
  };

  checkpoint const& source_;
  model written_;
  std::filesystem::path out_;
  std::string recipe_;
  std::uint32_t file_type_;
  scratch_file scratch_;
  std::map<std::string, std::vector<stored_linear>> tensors_; ///< by tensor; slices in their order
  std::vector<std::string> notes_;
};

} // namespace slim_llm
