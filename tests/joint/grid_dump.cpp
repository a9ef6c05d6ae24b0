// grid_dump FOLDER: a 256 x 512 layer, and what GPTQ, SparseGPT and the joint solver make of it on a second-level grid and on
// NF4, as .npy files for tests/golden/grid_oracle.py: W and X, and NAME.PART of every case.

#include "slim/calibration/output_error.hpp"
#include "slim/joint/gptq.hpp"
#include "slim/joint/joint_slr.hpp"
#include "slim/joint/sparsegpt.hpp"
#include "slim/quantization/grids/codebook_grid.hpp"
#include "slim/quantization/grids/super_block_grid.hpp"
#include "slim/testing/hard_matrices.hpp"

#include <cstdio>
#include <cstdlib>
#include <fstream>

using namespace slim;

namespace {

constexpr index_t d_out = 256, d_in = 512, tokens = 1500;

class folder {
public:
  explicit folder(std::string path) : path_(std::move(path)) {}

  template <class T>
  void write(std::string const& name, char const* type, T const* data, index_t rows, index_t cols) const {
    std::string header = message("{'descr': '", type, "', 'fortran_order': False, 'shape': (", rows, ", ", cols, "), }");
    header.resize((header.size() + 11) / 64 * 64 + 53, ' '); // 10 bytes before it, a new line behind
    header += '\n';
    std::ofstream out(path_ + "/" + name + ".npy", std::ios::binary);
    char const begin[10] = {
        '\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
    out.write(begin, 10);
    out.write(header.data(), std::ssize(header));
    out.write(reinterpret_cast<char const*>(data), rows * cols * static_cast<index_t>(sizeof(T)));
    if (!out.flush()) {
      std::fprintf(stderr, "grid_dump: cannot write %s in %s\n", name.c_str(), path_.c_str());
      std::exit(1);
    }
  }
  void write(std::string const& name, matrix<float> const& m) const { write(name, "<f4", m.data(), m.rows(), m.cols()); }
  void write(std::string const& name, matrix<std::int8_t> const& m) const { write(name, "|i1", m.data(), m.rows(), m.cols()); }
  void write(std::string const& name, matrix<std::uint8_t> const& m) const { write(name, "|u1", m.data(), m.rows(), m.cols()); }
  void write(std::string const& name, std::vector<double> const& v) const { write(name, "<f8", v.data(), 1, std::ssize(v)); }

  void write(std::string const& name, scale_table const& table) const {
    write(name, table.values());
    if (!table.has_second_level()) return;
    write(name + ".codes", table.codes());
    write(name + ".steps", table.steps());
    if (table.stored().shifted) write(name + ".offsets", table.offsets());
  }
  void write(std::string const& name, integer_codes const& codes) const {
    write(name + ".codes", codes.codes);
    write(name + ".scales", codes.scales);
    write(name + ".offsets", codes.offsets);
  }
  void write(std::string const& name, codebook_codes const& codes) const {
    write(name + ".codes", codes.codes);
    write(name + ".scales", codes.scales);
    write(name + ".book", codes.books);
  }

private:
  std::string path_;
};

struct layer {
  matrix<float> w, x;
  calibration calib;
};

/// Activations of correlated channels, some of them loud; weights with some outliers.
layer make_layer() {
  matrix<float> x = testing::normal_matrix(tokens, d_in, 1);
  matrix<float> const hidden = testing::normal_matrix(tokens, 64, 2), mix = testing::normal_matrix(64, d_in, 3, 0.2f);
  gemm_into(hidden.view(), mix.view(), x.view(), destination::add);
  for (index_t t = 0; t < tokens; ++t)
    for (index_t j = 0; j < d_in; ++j)
      x(t, j) *=
          static_cast<float>((j % 97 == 5 ? 6.0 : 1.0) * std::exp(0.5 * random_normal(4, static_cast<std::uint64_t>(j))));
  matrix<float> w = testing::normal_matrix(d_out, d_in, 5, 0.02f);
  for (index_t k = 0; k < w.size(); ++k)
    if (random_uniform(6, static_cast<std::uint64_t>(k)) < 1e-3) w.data()[k] *= 6.0f;
  calibration calib = testing::observed(x, {.gram = true});
  return {std::move(w), std::move(x), std::move(calib)};
}

template <class Method>
void dump(folder const& to, std::string const& name, layer const& one, Method const& method) {
  auto const found = method.compress(matrix_view<float const>(one.w.view()), one.calib);
  matrix<float> const values = found.weight.values();
  to.write(name + ".values", values);
  to.write(name, found.weight.codes);
  if (auto const* const kept = found.weight.mask_or_null()) {
    matrix<std::uint8_t> m(d_out, d_in);
    for (index_t i = 0; i < d_out; ++i) std::copy_n(kept->row(i), d_in, m.row(i));
    to.write(name + ".mask", m);
  }
  matrix<float> rest = one.w;
  for (index_t k = 0; k < rest.size(); ++k) rest.data()[k] -= values.data()[k];
  double bits = found.weight.stored_bits();
  if constexpr (!is_none<std::remove_cvref_t<decltype(found.adapter)>>) {
    to.write(name + ".left", found.adapter.left);
    to.write(name + ".right", found.adapter.right);
    found.adapter.subtract_from(rest.view());
    bits += found.adapter.bits();
    to.write(name + ".objective", found.objective);
  }
  double const error = std::sqrt(output_energy(rest.view(), one.calib) / output_energy(one.w.view(), one.calib));
  to.write(name + ".summary", std::vector<double>{error, bits, static_cast<double>(found.notes.size())});
}

template <class Grid>
void dump_gptq(folder const& to, std::string const& name, layer const& one, Grid const& grid) {
  dump(to, "gptq." + name, one, gptq(grid));
  dump(to, "gptq_refit." + name, one, gptq(grid, {.refit_groups = true}));
  dump(to, "gptq_descent." + name, one, gptq(grid, {.descents = 1}));
}

template <class Grid>
void dump_sparse(folder const& to, std::string const& name, layer const& one, Grid const& grid, number_format format) {
  dump(to, "sparse." + name, one, sparsegpt(nm<2, 4>{}, grid));
  dump(to, "sparse_descent." + name, one, sparsegpt(nm<2, 4>{}, grid, {.descents = 1}));
  joint_config const config{
      .rank = {.number = 16}, .stored = {.format = format}, .iterations = 3, .tolerance = 0.0, .descents = 1, .guard = false};
  dump(to, "joint." + name, one, joint_slr(quantized_set<Grid, nm<2, 4>>(grid), config));
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: grid_dump FOLDER\n");
    return 2;
  }
  folder const to(argv[1]);
  layer const one = make_layer();
  to.write("W", one.w);
  to.write("X", one.x);
  to.write("H", hessian(one.calib, 0.01));
  dump_gptq(to, "k4", one, k_quant_grid(4));
  dump_gptq(to, "spqr3", one, spqr_grid(3));
  dump_gptq(to, "nf4", one, codebook_grid{});
  dump_sparse(to, "k4", one, k_quant_grid(4), number_format::fp32);
  dump_sparse(to, "nf4", one, codebook_grid{}, number_format::bf16);
}
