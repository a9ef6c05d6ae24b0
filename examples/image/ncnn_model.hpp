#pragma once
/// @file
/// Reader of ncnn's model files (Tencent, BSD-3): a text of layers and a file of weights.

#include "network.hpp"

namespace slim_image {

/// The convolutions and transposed convolutions of MODEL.param in order, with weights from MODEL.bin beside it (fp32, or fp16
/// with ncnn's tag). They must be one chain from three channels to three; anything else is refused by name: other layers,
/// branches, groups, dilation, uneven kernels or padding, activations but ReLU and LeakyReLU, weights in other numbers, weights
/// that are not finite, bytes left over. @throws input_error
[[nodiscard]] std::vector<convolution> read_ncnn_model(std::filesystem::path const& param);

} // namespace slim_image
