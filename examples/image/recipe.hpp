#pragma once
/// @file
/// What becomes of a convolution: the uniform grids and range searches of 2DQuant (arXiv 2406.06649), by the library.

#include "network.hpp"

#include "slim/calibration/calibration.hpp"
#include "slim/quantization/input_quantizer.hpp"
#include "slim/quantization/range_quantizer.hpp"

#include <optional>
#include <string_view>

namespace slim_image {

/// `intB` and modifiers: weights of B bits (1 to 8) between the ends of a range per output channel.
///
/// | modifier | means |
/// |---|---|
/// | `@range=minmax` | the range holds all weights (default) |
/// | `@range=99.9` | all but the outermost, a percentile on each side |
/// | `@range=dobi` | least squared error of the weights |
/// | `@range=output` | least squared error of the layer's output |
/// | `@tensor` | one range for all weights of a layer, as 2DQuant has it |
/// | `@bias` | the bias makes up for the mean of the output's error |
/// | `@inputs=B` | inputs of B bits between two bounds, found by the same rule (`output`: dobi) |
struct recipe {
  std::string name;
  slim::range_quantizer_config weights = {.block = slim::per_channel, .range = {.rule = slim::range_rule::min_max}};
  int input_bits = 0; ///< 0: as they are
  bool corrects_bias = false;
};

/// @throws input_error on a name that makes no sense.
[[nodiscard]] recipe recipe_of(std::string_view name);

/// A compressed convolution as numbers, and what it cost.
struct compressed_convolution {
  convolution layer;                         ///< with weights as the codes stand for them
  std::optional<slim::bounded_input> inputs; ///< what its inputs are rounded to
  double bits_per_weight = 0;
  double output_error = 0; ///< relative, on the calibration's tokens, inputs as they are, before the bias is corrected
};

/// The calibration has a Gram matrix and samples. @throws slim::shape_error if it is not of this layer.
[[nodiscard]] compressed_convolution compressed(convolution const& layer, slim::calibration const& calib, recipe const& by,
                                                slim::context const& ctx);

} // namespace slim_image
