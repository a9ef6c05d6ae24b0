#pragma once
/// @file
/// The linears of a compressed model as packed bytes, and how safetensors files hold them: a U8 tensor per weight in a format
/// of slim/packing, under the weight's name; factors of its adapter under the name + ".left" and ".right", packed too if they
/// have codes, else as matrices.

#include "models/model.hpp"

#include "slim/io/safetensors/reader.hpp"
#include "slim/pipeline/any.hpp"

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>

namespace slim_llm {

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

/// Writes layers, and nothing else, to a file of their own. @throws input_error if it cannot be written.
void write_packed(std::filesystem::path const& path, packed_weights const& layers);

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

/// Calls `f` with name, type, shape and bytes of every tensor that a packed layer is stored in.
template <class F>
void for_each_part(std::string const& name, packed_layer const& layer, F const& f) {
  auto const codes = [&](std::string const& part, std::vector<std::byte> const& bytes) {
    f(part, "U8", std::vector<index_t>{static_cast<index_t>(bytes.size())}, bytes);
  };
  auto const factor = [&](std::string const& part, matrix<float> const& values) {
    f(part, stored_type_of(layer.format), std::vector<index_t>{values.rows(), values.cols()},
      stored_numbers(values, layer.format));
  };
  codes(name, layer.weight);
  if (!layer.left.empty()) {
    codes(name + ".left", layer.left);
    codes(name + ".right", layer.right);
  } else if (!layer.left_values.empty()) {
    factor(name + ".left", layer.left_values);
    factor(name + ".right", layer.right_values);
  }
}

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

/// "int8", "int16" or "float". @throws input_error
[[nodiscard]] slim::input_precision packed_precision(std::string const& inputs);

/// A linear gets the values of its packed layer, and runs on its codes with inputs of a precision, or on the values if that is
/// empty. @throws input_error if the layer is of another shape, or if its bytes do not decode; slim::config_error if no kernel
/// runs its format.
void use_packed(linear& l, packed_layer const& layer, std::optional<slim::input_precision> inputs, context const& ctx = {});
/// The same for those linears of a block that have a layer; the others stay as they are.
void use_packed(block& b, packed_weights const& layers, std::optional<slim::input_precision> inputs, context const& ctx = {});
/// Blocks that are read from the model's file from now on have the linears of `layers`. `inputs` as above, but
/// linears that run on their codes have no values.
void read_packed(model& m, std::shared_ptr<packed_file const> layers, std::optional<slim::input_precision> inputs);

} // namespace slim_llm
