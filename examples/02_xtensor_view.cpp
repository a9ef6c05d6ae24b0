/// Compress a part of an xtensor tensor in place: the key projection inside a fused (q, k, v) weight.
///
/// The library sees the slice through its strides; nothing is copied out by hand. The weights are synthetic.

#include <slim/slim.hpp>

#if __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#include <xtensor/views/xview.hpp>
#else
#include <xtensor/xtensor.hpp>
#include <xtensor/xview.hpp>
#endif

#include <cmath>
#include <cstdio>

int main() {
  constexpr slim::index_t d_out = 48, d_in = 128;
  xt::xtensor<float, 2> qkv = xt::zeros<float>({std::size_t{3 * d_out}, std::size_t{d_in}});
  for (std::size_t i = 0; i < qkv.shape()[0]; ++i)
    for (std::size_t j = 0; j < qkv.shape()[1]; ++j)
      qkv(i, j) = static_cast<float>(0.02 * slim::random_normal(1, i * qkv.shape()[1] + j));
  xt::xtensor<float, 2> const before = qkv;

  auto key = xt::view(qkv, xt::range(d_out, 2 * d_out), xt::all());
  auto const recipe =
      slim::chain(slim::absmax_quantizer({.bits = 4, .block = slim::per_group(32)}), slim::nm_pruner<2, 4>(slim::magnitude{}));
  auto const layer = slim::compress(key, recipe); // no activations needed by these two steps
  slim::matrix<float> const compressed = slim::decompress(layer);

  auto const destination = slim::as_matrix_view(key); // O(1): pointer, extents, strides
  for (slim::index_t i = 0; i < d_out; ++i)
    for (slim::index_t j = 0; j < d_in; ++j) destination(i, j) = compressed(i, j);

  auto const last = layer.report.last();
  std::printf("key projection: %td x %td, %.0f%% zeros, %.2f bits per weight, weight error %.3f\n", layer.report.rows,
              layer.report.cols, 100 * last.sparsity, last.bits_per_weight, last.relative_error);

  // Query and value are as they were, and every row of the key has 2:4 sparsity.
  slim::index_t changed = 0, broken = 0;
  for (std::size_t i = 0; i < qkv.shape()[0]; ++i)
    for (std::size_t j = 0; j < qkv.shape()[1]; j += 4) {
      bool const inside = i >= std::size_t{d_out} && i < std::size_t{2 * d_out};
      int zeros = 0;
      for (std::size_t k = j; k < j + 4; ++k) {
        changed += !inside && qkv(i, k) != before(i, k) ? 1 : 0;
        zeros += qkv(i, k) == 0.0f ? 1 : 0;
      }
      broken += inside && zeros < 2 ? 1 : 0;
    }
  std::printf("changed outside: %td, groups with more than 2 nonzeros: %td\n", changed, broken);
  return changed == 0 && broken == 0 ? 0 : 1;
}
