#pragma once
/// @file
/// A compressed model on trained layers.

#include "training/trained_layers.hpp"

#include "slim/io/gguf/reader.hpp"

namespace slim_llm {

/// A copy of a model whose linears train, in memory.
class student {
public:
  /// Of linears without a layer nothing trains. @throws input_error naming a linear whose layer does not fit;
  /// slim::config_error if nothing trains: no linear has an adapter, say.
  student(model const& compressed, packed_weights const& layers, trained_parts const& parts, context const& ctx = {});

  /// A copy of the model of a GGUF file, of whose linears the scales of the blocks train; those of F32, F16 or BF16 stay as
  /// they are. @throws input_error naming a linear that is no tensor of its own; slim::config_error if no linear has blocks
  student(model const& compressed, slim::gguf_file const& file, context const& ctx = {});

  /// The model as it would be stored now; linears hold W_c and, apart, the factors of the adapter.
  [[nodiscard]] model const& weights() const { return model_; }
  /// Its linears: what trains, and its gradients.
  [[nodiscard]] trained_layers const& trained() const { return trained_; }
  /// Changes the numbers; weights() follows.
  void set(tensor_numbers values, context const& ctx = {});
  /// The layers as they are stored now.
  [[nodiscard]] packed_weights layers(context const& ctx = {}) const { return trained_.layers(ctx); }

private:
  model model_;
  trained_layers trained_;
};

} // namespace slim_llm
