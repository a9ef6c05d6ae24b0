// systems_dump FOLDER: a 64 x 96 layer, and what SqueezeLLM, SpQR, SliM-LLM, 2/4/16, SVDQuant and a range search make of it, as
// files of floats for tests/golden/systems_oracle.py; a line "NAME ROWS COLS" each.

#include "slim/allocation/balanced_allocation.hpp"
#include "slim/allocation/top_share.hpp"
#include "slim/joint/low_rank_residual.hpp"
#include "slim/joint/mixed_bits.hpp"
#include "slim/joint/spqr_compressor.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/quantization/codebook_quantizer.hpp"
#include "slim/quantization/outlier_quantizer.hpp"
#include "slim/quantization/range_quantizer.hpp"
#include "slim/saliency/input_energy.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/obs_saliency.hpp"
#include "slim/saliency/range_curvature.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <cstdio>
#include <cstdlib>
#include <fstream>

using namespace slim;

namespace {

constexpr index_t d_out = 64, d_in = 96, tokens = 400;

std::string folder;

void write(std::string const& name, matrix<float> const& m) {
  std::ofstream out(folder + "/" + name, std::ios::binary);
  out.write(reinterpret_cast<char const*>(m.data()), m.size() * static_cast<index_t>(sizeof(float)));
  if (!out.flush()) {
    std::fprintf(stderr, "systems_dump: cannot write %s in %s\n", name.c_str(), folder.c_str());
    std::exit(1);
  }
  std::printf("%s %td %td\n", name.c_str(), m.rows(), m.cols());
}

template <class Codes>
matrix<float> decoded(Codes const& codes) {
  matrix<float> out(codes.rows(), codes.cols());
  codes.dequantize_into(out.view());
  return out;
}

/// Values, which of them are apart, and stored bits.
template <class Codes>
void write_dense_and_sparse(std::string const& name, with_outliers<Codes> const& codes) {
  write(name + ".values", decoded(codes));
  matrix<float> apart(d_out, d_in), bits(1, 1);
  for (index_t i = 0; i < d_out; ++i)
    for (index_t k = codes.outliers.row_begin[static_cast<std::size_t>(i)];
         k < codes.outliers.row_begin[static_cast<std::size_t>(i + 1)]; ++k)
      apart(i, codes.outliers.columns[static_cast<std::size_t>(k)]) = 1.0f;
  write(name + ".apart", apart);
  bits(0, 0) = static_cast<float>(codes.stored_bits());
  write(name + ".bits", bits);
}

void write_group_bits(std::string const& name, integer_codes const& codes) {
  matrix<float> bits(1, std::ssize(codes.group_bits));
  for (index_t g = 0; g < bits.cols(); ++g) bits(0, g) = codes.group_bits[static_cast<std::size_t>(g)];
  write(name + ".widths", bits);
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: systems_dump FOLDER\n");
    return 2;
  }
  folder = argv[1];
  matrix<float> x = testing::normal_matrix(tokens, d_in, 1), w = testing::normal_matrix(d_out, d_in, 2, 0.05f);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < d_in; ++j) x(t, j) = (j > 0 ? 0.6f * x(t, j - 1) : 0.0f) + x(t, j);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < d_in; ++j)
      x(t, j) *= static_cast<float>(std::exp(random_normal(3, static_cast<std::uint64_t>(j / 16))));
  for (index_t k = 0; k < w.size(); k += 211) w.data()[k] *= 7.0f;
  write("w", w);
  write("x", x);
  calibration const calib = testing::observed(x, {.gram = true});
  matrix_view<float const> const view = w.view();

  write("kmeans.values", decoded(codebook_quantizer(input_energy{}, {.bits = 3}).quantize(view, calib)));
  auto const largest = unstructured_pruner(magnitude{}, {.sparsity = 0.99, .scope = prune_scope::matrix});
  write_dense_and_sparse("squeeze", outlier_quantizer(codebook_quantizer({.bits = 2}), largest).quantize(view, calib));

  write_dense_and_sparse(
      "spqr", spqr_compressor(spqr_tiles(3), {.damping = 0.1, .relative_threshold = 0.2}).compress(view, calib).weight.codes);

  super_block_grid grid = spqr_tiles(2);
  auto const balanced =
      mixed_bits(obs_saliency(), balanced_allocation({.bits = 2}), grid, {.damping = 0.1}).compress(view, calib);
  write_dense_and_sparse("balanced", balanced.weight.codes);
  write_group_bits("balanced", balanced.weight.codes.base);
  auto const wide =
      mixed_bits(range_curvature({.group = 16}), top_share({.share = 0.34}), grid, {.damping = 0.1, .outlier_share = 0.01})
          .compress(view, calib);
  write_dense_and_sparse("wide", wide.weight.codes);
  write_group_bits("wide", wide.weight.codes.base);

  absmax_quantizer const int4({.bits = 4, .block = per_group(32), .scale_format = number_format::fp16});
  auto const branch = low_rank_residual(int4, {.rank = {.number = 8}, .iterations = 1}).compress(view, calib);
  matrix<float> values = branch.weight.values();
  branch.adapter.add_to(values.view());
  write("svd.values", values);

  write("range.values", decoded(range_quantizer({.bits = 3, .block = per_channel, .by_output = true}).quantize(view, calib)));
}
