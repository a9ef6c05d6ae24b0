#pragma once
/// @file
/// A compressed model whose codes stay as they are while what stands beside them trains: the scales of the codes and the
/// adapters. The model computes at any time with what would be stored: scales rounded to their format, adapters to theirs.

#include "formats/packed_weights.hpp"

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

/// A copy of a model on packed layers, in memory.
class student {
public:
  /// @throws input_error naming a linear that has no layer, or whose layer does not fit; slim::config_error if nothing trains:
  /// no linear has an adapter, say.
  student(model const& dense, packed_weights const& layers, trained_parts const& parts, context const& ctx = {});

  /// The model as it would be stored now; linears hold W_c and, apart, the factors of the adapter.
  [[nodiscard]] model const& weights() const { return model_; }
  [[nodiscard]] std::vector<trained_tensor> const& tensors() const { return tensors_; }
  /// Changes the numbers; weights() follows.
  void set(std::vector<std::vector<float>> values, context const& ctx = {});
  [[nodiscard]] std::vector<std::vector<float>> values() const;

  /// Adds what a linear's X and dY (tokens, d_in; tokens, d_out) say to `gradients`, which are as tensors() one vector each.
  /// Rounding of scales and factors is passed straight through.
  void add_gradients(linear const& l, matrix_view<float const> x, matrix_view<float const> dy,
                     std::vector<std::vector<float>>& gradients, context const& ctx = {}) const;

  /// The layers as they are stored now.
  [[nodiscard]] packed_weights layers(context const& ctx = {}) const;

private:
  struct trained_layer {
    decoded_layer stored;
    slim::scale_table first_scales;
    int scales = -1, left = -1, right = -1; ///< numbers of tensors; -1: does not train
  };

  void follow(linear& l, trained_layer& layer, context const& ctx) const;
  [[nodiscard]] int add_tensor(std::string const& linear, trained_tensor::kind what, std::vector<float> values);

  model model_;
  std::map<std::string, trained_layer> layers_;
  std::vector<trained_tensor> tensors_;
};

} // namespace slim_llm
