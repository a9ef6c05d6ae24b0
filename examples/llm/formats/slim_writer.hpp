#pragma once
/// @file
/// Writes a `.slim` file (formats/slim_container.hpp).

#include "formats/packed_weights.hpp"
#include "formats/rounded_matrix.hpp"
#include "formats/scratch_tensors.hpp"
#include "formats/slim_container.hpp"
#include "run/workspace.hpp"

namespace slim_llm {

/// How a `.slim` file holds what is no code, and its codes.
struct slim_options {
  side_types sides;           ///< types of embedding and head
  bool entropy_coded = false; ///< codes in as few bits as their frequencies say, decoded when the file is loaded
};

/// Bytes of the packed linears with their adapters.
struct linear_bytes {
  double resident = 0; ///< as they are packed, and held in memory
  double in_file = 0;  ///< as they are written
};

/// What a `.slim` file takes over from the model that it is made of.
struct slim_source {
  std::vector<slim::tensor_info> tensors;   ///< of the model, in order; of linears that will be codes the names alone count
  std::map<std::string, std::string> files; ///< small files by name, among them slim_format::gguf_name or "config.json"
  std::function<std::string()> fingerprint; ///< of that model, empty if it is not known; called once, at the end
};

/// A model as it is; or, of a `.slim` file, what that was made of. `file` must live as long. @throws input_error
[[nodiscard]] slim_source slim_source_of(checkpoint const& file);

/// Gets the blocks of a compressed model one after the other and writes the `.slim` file at the end. Until then their bytes
/// wait in a scratch file in the folder of `out`.
class slim_writer {
public:
  /// `m`, which is of `source`, and the bytes of its tensors must live as long as the writer. Embedding and head are rounded to
  /// their types now. @throws input_error if the folder of `out` cannot be written, or if their rows are no whole blocks.
  slim_writer(slim_source source, model const& m, std::filesystem::path out, nlohmann::json recipe,
              slim_options const& options);

  /// The model with embedding and head as they are written, without compressed blocks: what an evaluation should compute with.
  [[nodiscard]] model const& written() const { return written_; }
  /// What was rounded that is no linear, and by how much: a sentence each.
  [[nodiscard]] std::vector<std::string> const& notes() const { return notes_; }

  /// Of the linears so far.
  [[nodiscard]] linear_bytes const& bytes() const { return bytes_; }
  /// The block as it is evaluated, adapters merged, and its packed linears. A linear without codes (an expert that no token was
  /// sent to) is stored as in the source. @throws input_error if the scratch file cannot be written.
  void add(block const& b, packed_weights const& layers);
  /// Writes the file beside its place, opens it, decodes every linear and compares it with what was added, and all other bytes
  /// with their source; then the file gets its name. Returns its size. @throws input_error if it cannot be written, or if a
  /// weight that is read differs from the one that was added.
  [[nodiscard]] double finish();

private:
  void add_scratch(std::string name, std::string type, std::vector<index_t> shape, std::span<std::byte const> bytes);
  void add_plain(slim::tensor_info const& tensor);
  void add_source_slice(linear const& l);
  /// The tensor of the source that a linear is in.
  [[nodiscard]] std::string source_name(std::string const& linear) const;
  void verify(std::filesystem::path const& written) const;

  slim_source source_;
  std::set<std::string> source_names_;
  model written_;
  std::filesystem::path out_;
  nlohmann::json recipe_;
  std::string repeated_head_;
  bool entropy_coded_;
  linear_bytes bytes_;
  scratch_file scratch_;
  std::vector<scratch_tensor> tensors_;
  std::map<std::string, nlohmann::json> listed_;                         ///< entries of the list of tensors by name
  std::map<std::string, std::vector<std::string>> linears_;              ///< of each tensor of the source, in order
  std::map<std::string, std::string> hashes_;                            ///< of stored bytes by tensor
  std::map<std::string, std::pair<std::uint64_t, linear_info>> weights_; ///< hashes of the linears' floats by name
  std::vector<std::string> notes_;
};

/// Bytes that a `.slim` file of `m`, which is of `source`, will have, to the byte, if `layer_of` gives packed layers of the
/// right sizes. Nothing is written; O(tensors).
[[nodiscard]] double slim_file_bytes(slim_source const& source, model const& m, nlohmann::json const& recipe,
                                     slim_options const& options,
                                     std::function<packed_layer const&(linear_info const&)> const& layer_of);

/// The same model with its codes entropy coded, or not, every byte of its linears read back and compared. @throws input_error
linear_bytes recode_slim(slim_container const& file, std::filesystem::path const& out, bool entropy_coded);

} // namespace slim_llm
