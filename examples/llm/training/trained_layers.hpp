#pragma once
/// @file
/// Linears whose codes stay as they are while what stands beside them trains: the scales of the codes and the adapters. They
/// compute at any time with what would be stored: scales rounded to their format, adapters to theirs.

#include "formats/packed_weights.hpp"
#include "training/block_scales.hpp"

#include "slim/training/optimizer.hpp"

namespace slim_llm {

/// What trains.
struct trained_parts {
  bool scales = true;
  bool adapters = true;
};

/// "scales", "adapters" or both, separated by commas. @throws input_error
[[nodiscard]] trained_parts parse_trained_parts(std::string const& names);

/// Numbers that train, and what they are.
struct trained_tensor {
  enum class kind { scales, left, right };
  std::string linear; ///< name
  kind what = kind::scales;
  std::vector<float> values; ///< scales: factors of the scales it began with, 1 at first; factors of the adapter: themselves
  double size = 1;           ///< root mean square of the values at first: what a learning rate is relative to
};

/// One vector for each trained_tensor.
using tensor_numbers = std::vector<std::vector<float>>;

class trained_layers {
public:
  explicit trained_layers(trained_parts const& parts = {}) : parts_(parts) {}

  /// A linear trains from now on, and computes with its packed layer: W_c and, apart, the factors of the adapter.
  /// @throws input_error naming the linear if its layer does not fit
  void add(linear& l, packed_layer const& layer, context const& ctx = {});
  /// The same with the blocks of a GGUF file, whose scales train. @throws input_error naming the tensor if they cannot, or if
  /// it does not fit
  void add(linear& l, slim::tensor_info const& blocks, context const& ctx = {});

  [[nodiscard]] std::vector<trained_tensor> const& tensors() const { return tensors_; }
  [[nodiscard]] tensor_numbers values() const;
  /// Changes the numbers. The linears compute as before until each is told to follow. @throws slim::shape_error
  void set(tensor_numbers values);
  /// A linear that was added computes with the numbers as they would be stored now; any other stays as it is.
  void follow(linear& l, context const& ctx = {});

  /// As many zeros as there are numbers.
  [[nodiscard]] tensor_numbers no_gradients() const;
  /// Adds what a linear's X and dY (tokens, d_in; tokens, d_out) say to `gradients`, which are as tensors() one vector each.
  /// Rounding of scales and factors is passed straight through. A linear that was not added says nothing.
  void add_gradients(linear const& l, matrix_view<float const> x, matrix_view<float const> dy, tensor_numbers& gradients,
                     context const& ctx = {}) const;
  /// Turns gradients into those by numbers relative to their size, so that one rate and one longest norm suit all; shortens
  /// them together to the longest norm, and returns the norm before that.
  double shorten(tensor_numbers& gradients, double longest) const;
  /// The numbers after a step of an optimizer that knows the tensors by their order. The rate is relative to their size.
  [[nodiscard]] tensor_numbers stepped(slim::adamw& optimizer, tensor_numbers const& gradients, double rate) const;

  /// The layers as they are stored now.
  [[nodiscard]] packed_weights layers(context const& ctx = {}) const;
  /// The bytes of the linears that train on blocks, as they are stored now.
  [[nodiscard]] std::map<std::string, std::span<std::byte const>> blocks() const;

private:
  struct trained_layer {
    decoded_layer stored;
    slim::scale_table first_scales;
    int scales = -1, left = -1, right = -1; ///< numbers of tensors; -1: does not train
  };

  struct trained_blocks {
    block_scales stored;
    int scales = -1; ///< number of the tensor
  };

  [[nodiscard]] int add_tensor(std::string const& linear, trained_tensor::kind what, std::vector<float> values);

  trained_parts parts_;
  std::map<std::string, trained_layer> layers_; ///< a linear is here or there
  std::map<std::string, trained_blocks> blocks_;
  std::vector<trained_tensor> tensors_;
};

} // namespace slim_llm
