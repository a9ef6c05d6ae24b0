#pragma once
/// @file
/// A chain of convolutions as linear layers on patches.

#include "picture.hpp"

#include "slim/core/context.hpp"

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace slim_image {

/// A convolution is the linear layer Y = X W^T whose tokens are pixels: a row of X is the patch of kernel x kernel pixels that
/// an output pixel sees, pixel after pixel (im2col). A transposed convolution multiplies every input pixel by its own kernel,
/// and adds what overlaps.
struct convolution {
  std::string name;
  bool transposed = false;
  index_t inputs = 0; ///< channels
  index_t outputs = 0;
  index_t kernel = 1;
  index_t stride = 1;
  index_t pad = 0;    ///< zeros around the input; transposed: pixels cut from the output
  float slope = 1.0f; ///< negative outputs are multiplied by it: LeakyReLU
  /// outputs x (kernel * kernel * inputs), channels of a pixel together; transposed: (kernel * kernel * outputs) x inputs.
  slim::matrix<float> weight;
  std::vector<float> bias;

  /// Pixels of the output along a side; not positive if there are none.
  [[nodiscard]] index_t side_of_output(index_t side) const {
    return transposed ? (side - 1) * stride + kernel - 2 * pad
                      : (side + 2 * pad - kernel) / stride + (side + 2 * pad >= kernel);
  }
};

/// The patches of a map, a few thousand rows at a time, with the number of the first. The convolution is not transposed.
void for_each_patches(convolution const& layer, feature_map const& in,
                      std::function<void(index_t, slim::matrix_view<float>)> const& visit);

/// What a layer makes of a map. `round_patches`, if there is one, changes the inputs that the product sees.
[[nodiscard]] feature_map forward(convolution const& layer, feature_map const& in, slim::context const& ctx,
                                  std::function<void(slim::matrix_view<float>)> const& round_patches = {});

/// The border that a picture gets so that `layers` make scale times its sides of it, or more by an even number of pixels.
struct enlargement {
  index_t scale = 1;
  index_t border = 0;
};

/// @throws input_error if no border up to 64 pixels will do.
[[nodiscard]] enlargement enlargement_of(std::span<convolution const> layers);

} // namespace slim_image
