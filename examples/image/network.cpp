#include "network.hpp"

#include "input_error.hpp"

#include "slim/linalg/gemm.hpp"

#include <algorithm>

namespace slim_image {
namespace {

void add_bias_and_activate(convolution const& layer, slim::matrix<float>& pixels) {
  for (index_t p = 0; p < pixels.rows(); ++p)
    for (index_t c = 0; c < pixels.cols(); ++c) {
      float const value = pixels(p, c) + layer.bias[static_cast<std::size_t>(c)];
      pixels(p, c) = value < 0.0f ? layer.slope * value : value;
    }
}

/// Adds the kernels of all input pixels where they lie. `products`: input pixels x (kernel * kernel * outputs).
void add_kernels(convolution const& layer, feature_map const& in, slim::matrix<float> const& products, feature_map& out) {
  for (index_t y = 0; y < in.height; ++y)
    for (index_t x = 0; x < in.width; ++x)
      for (index_t ky = 0; ky < layer.kernel; ++ky)
        for (index_t kx = 0; kx < layer.kernel; ++kx) {
          index_t const to_y = y * layer.stride - layer.pad + ky, to_x = x * layer.stride - layer.pad + kx;
          if (to_y < 0 || to_y >= out.height || to_x < 0 || to_x >= out.width) continue;
          float const* const from = products.row(y * in.width + x) + (ky * layer.kernel + kx) * layer.outputs;
          float* const to = out.pixels.row(to_y * out.width + to_x);
          for (index_t c = 0; c < layer.outputs; ++c) to[c] += from[c];
        }
}

} // namespace

void for_each_patches(convolution const& layer, feature_map const& in,
                      std::function<void(index_t, slim::matrix_view<float>)> const& visit) {
  constexpr index_t rows_at_once = 4096; // 1152 columns of floats: 18 MB
  index_t const width = layer.side_of_output(in.width), pixels = layer.side_of_output(in.height) * width;
  for (index_t first = 0; first < pixels; first += rows_at_once) {
    slim::matrix<float> patches(std::min(rows_at_once, pixels - first), layer.weight.cols());
    for (index_t p = 0; p < patches.rows(); ++p)
      for (index_t ky = 0; ky < layer.kernel; ++ky)
        for (index_t kx = 0; kx < layer.kernel; ++kx) {
          index_t const y = (first + p) / width * layer.stride - layer.pad + ky;
          index_t const x = (first + p) % width * layer.stride - layer.pad + kx;
          if (y < 0 || y >= in.height || x < 0 || x >= in.width) continue; // zeros
          std::copy_n(in.pixels.row(y * in.width + x), layer.inputs, patches.row(p) + (ky * layer.kernel + kx) * layer.inputs);
        }
    visit(first, patches.view());
  }
}

feature_map forward(convolution const& layer, feature_map const& in, slim::context const& ctx,
                    std::function<void(slim::matrix_view<float>)> const& round_patches) {
  feature_map out{layer.side_of_output(in.height), layer.side_of_output(in.width), {}};
  out.pixels = slim::matrix<float>(out.height * out.width, layer.outputs);
  auto const weight = slim::transposed(slim::matrix_view<float const>(layer.weight.view()));
  if (layer.transposed) {
    slim::matrix<float> products(in.pixels.rows(), layer.weight.rows());
    slim::gemm_into(in.pixels.view(), weight, products.view(), ctx);
    add_kernels(layer, in, products, out);
  } else {
    for_each_patches(layer, in, [&](index_t first, slim::matrix_view<float> patches) {
      if (round_patches) round_patches(patches);
      slim::gemm_into(patches, weight, out.pixels.view().middle_rows(first, patches.rows()), ctx);
    });
  }
  add_bias_and_activate(layer, out.pixels);
  return out;
}

enlargement enlargement_of(std::span<convolution const> layers) {
  constexpr index_t most = 64, side = 4096; // a side on which no stride of these networks leaves a rest
  index_t scale = 1;
  for (convolution const& layer : layers)
    if (layer.transposed) scale *= layer.stride;
  for (index_t border = 0; border <= most; ++border) {
    index_t length = side + 2 * border;
    for (convolution const& layer : layers) length = layer.side_of_output(length);
    if (length >= scale * side && (length - scale * side) % 2 == 0) return {scale, border};
  }
  throw input_error(slim::message("the network does not make ", scale, " times the picture of it, whatever border up to ", most,
                                  " pixels the picture gets"));
}

} // namespace slim_image
