#pragma once
/// @file
/// The linears of a compressed model as packed bytes, and the file they are kept in: safetensors with one U8 tensor per
/// weight in a format of slim/packing, under the weight's name; factors of its adapter under the name + ".left" and ".right",
/// packed too if they have codes, else as matrices. Everything else of the model stays in the file it came from; metadata
/// "source" holds its fingerprint (checkpoint::fingerprint).

#include "formats/scratch_tensors.hpp"
#include "models/model.hpp"

#include "slim/io/safetensors/reader.hpp"
#include "slim/pipeline/any.hpp"

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>

namespace slim_llm {

class checkpoint;

/// One compressed linear.
struct packed_layer {
  std::vector<std::byte> weight;
  std::vector<std::byte> left, right;                     ///< of the adapter (d_in x r, r x d_out), if it has codes
  matrix<float> left_values, right_values;                ///< ... if it has none
  slim::number_format format = slim::number_format::bf16; ///< of those
  std::optional<slim::tensor_type> blocks = {};           ///< `weight` is blocks of this type of ggml, in no packed format

  [[nodiscard]] double bytes() const;
};

/// By tensor name.
using packed_weights = std::map<std::string, packed_layer>;

/// 2:4 codes, dense codes, those of another mask; or what slim::pack_codes makes of books, outliers, a second level, parts.
/// @throws slim::config_error naming the layer and what no format holds.
[[nodiscard]] packed_layer pack(std::string const& name, slim::any_layer const& layer, context const& ctx = {});
/// The same of a layer's parts.
[[nodiscard]] packed_layer pack(slim::integer_codes const& codes, slim::mask const* kept, slim::adapter const* low_rank,
                                context const& ctx = {});
/// The blocks of a ggml type. @throws slim::config_error naming the layer if the type does not hold the codes exactly.
[[nodiscard]] packed_layer pack_blocks(std::string const& name, slim::tensor_type type, slim::any_layer const& layer,
                                       context const& ctx = {});

/// Collects packed layers outside of memory and writes them to one file.
class packed_writer {
public:
  /// Layers wait in a scratch file in the folder of `path`. @throws input_error
  packed_writer(std::filesystem::path path, std::string recipe, std::string source);

  void add(packed_weights const& layers);
  /// Bytes of the layers so far.
  [[nodiscard]] double bytes() const { return bytes_; }
  /// Writes the file beside its place and renames it. @throws input_error if it cannot be written.
  void finish();

private:
  void add_tensor(std::string name, std::string type, std::vector<index_t> shape, std::span<std::byte const> bytes);
  void add_factor(std::string const& name, matrix<float> const& values, slim::number_format format);

  std::filesystem::path path_;
  std::string recipe_, source_;
  scratch_file scratch_;
  std::vector<scratch_tensor> tensors_;
  double bytes_ = 0;
};

/// Packed layers in a safetensors file, read layer by layer.
class packed_file {
public:
  /// A file of packed layers alone. @throws input_error naming file, tensor and reason.
  explicit packed_file(std::filesystem::path const& path);
  /// Those tensors of a file that `names` lists, and the factors of their adapters.
  packed_file(std::shared_ptr<slim::safetensors_file const> file, std::set<std::string> names)
      : file_(std::move(file)), names_(std::move(names)) {}

  /// @throws input_error if the file has no such layer.
  void require(std::string const& name) const;
  /// @throws input_error if there is no such layer, or if it is not complete.
  [[nodiscard]] packed_layer layer(std::string const& name) const;
  [[nodiscard]] packed_weights all() const;
  /// Fingerprint of the model that it was made of; empty if it does not say.
  [[nodiscard]] std::string source() const;
  [[nodiscard]] std::filesystem::path const& path() const { return file_->path(); }
  /// Names of the layers.
  [[nodiscard]] std::set<std::string> const& names() const { return names_; }

private:
  std::shared_ptr<slim::safetensors_file const> file_;
  std::set<std::string> names_;
};

/// The packed bytes of a tensor of a file, decoded if they are entropy coded. @throws input_error naming file and tensor if
/// they do not decode.
[[nodiscard]] std::vector<std::byte> packed_in(slim::safetensors_file const& file, slim::tensor_info const& tensor);

/// How safetensors calls a number format: "F32", "BF16", "F16"; and a matrix in its bytes.
[[nodiscard]] char const* stored_type_of(slim::number_format format);
[[nodiscard]] std::vector<std::byte> stored_numbers(matrix<float> const& values, slim::number_format format);

/// Opens a packed file for use beside a model, `m` of `source`. A file that does not say what it was made of gets a note on
/// standard error. @throws input_error as packed_file, if it was made of another model, and if a linear has no layer there.
[[nodiscard]] std::shared_ptr<packed_file const> packed_beside(checkpoint const& source, model const& m,
                                                               std::filesystem::path const& path);

/// A packed layer as what it stands for.
struct decoded_layer {
  slim::mask kept;
  slim::integer_codes codes;
  slim::adapter adapter; ///< of rank 0 if there is none
};

/// @throws input_error naming the layer if its bytes do not decode, or are not codes of d_out x d_in with an adapter that fits.
[[nodiscard]] decoded_layer decode(linear_info const& l, packed_layer const& layer, context const& ctx = {});
/// The adapter alone.
[[nodiscard]] slim::adapter decode_adapter(linear_info const& l, packed_layer const& layer, context const& ctx = {});

/// "int8" (or nothing), "int16" or "float". @throws input_error
[[nodiscard]] slim::input_precision packed_precision(std::string const& inputs);

/// A linear gets the values of its packed layer, and runs on its codes with inputs of a precision, or on the values if that is
/// empty. @throws input_error if the layer is of another shape, or if its bytes do not decode; slim::config_error if no kernel
/// runs its format.
void use_packed(linear& l, packed_layer const& layer, std::optional<slim::input_precision> inputs, context const& ctx = {});
/// The same for all linears of a block. @throws input_error also if a linear has no layer.
void use_packed(block& b, packed_weights const& layers, std::optional<slim::input_precision> inputs, context const& ctx = {});
/// Blocks that are read from the model's file from now on have the linears that a packed file holds. `inputs` as above, but
/// linears that run on their codes have no values.
void read_packed(model& m, std::shared_ptr<packed_file const> layers, std::optional<slim::input_precision> inputs);

} // namespace slim_llm
