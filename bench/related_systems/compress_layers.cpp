// compress_layers RECIPE IN.safetensors OUT.safetensors: layers of any network, for scripts that have its forward pass.
//
// IN has NAME.weight (d_out x d_in) and NAME.inputs (tokens x d_in); inputs without a weight are an operand of a product of
// activations. OUT has, as far as the recipe makes them,
//   NAME.weight   the weight without its branch, as codes, scales and factors stand for it
//   NAME.branch   the low-rank branch as a weight; it reads inputs as they come
//   NAME.factors  inputs are divided by them before they are rounded, and multiplied afterwards
//   NAME.bounds   between which inputs are rounded, where the recipe has none per token
//   NAME.bits     bits per weight
//   NAME.output   outputs of the first tokens with rounded inputs, for the script to check itself
// RECIPE, all of 4 bits for weights and inputs: rtn-w4a4, smoothquant-w4a4, svdquant (groups of 64; rank 32); minmax, 99.9, 99,
// dobi (2DQuant's bounds per tensor, percentiles), with -rows one range per row for weights; output-rows, dobi for inputs.

#include "slim/io/safetensors/writer.hpp"
#include "slim/joint/low_rank_residual.hpp"
#include "slim/pipeline/compress.hpp"
#include "slim/pipeline/in_basis.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/range_quantizer.hpp"
#include "slim/transforms/channel_scaling_search.hpp"

#include <cstdio>
#include <deque>
#include <exception>
#include <stdexcept>

using namespace slim;

namespace {

constexpr index_t checked_tokens = 8;

template <class T>
T required(result<T> found) {
  if (!found) throw std::runtime_error(found.why());
  return std::move(found).value();
}

/// Tensors to write, and the memory that they lie in.
struct outgoing {
  std::deque<matrix<float>> memory;
  std::vector<outgoing_tensor> tensors;

  void add(std::string name, matrix<float> values) {
    memory.push_back(std::move(values));
    tensors.push_back(outgoing_matrix(std::move(name), tensor_type::f32, memory.back().view()));
  }
};

void product_into(matrix_view<float const> x, matrix<float> const& w, matrix<float>& y, destination mode) {
  gemm_into(x, transposed(w.view()), y.view(), mode);
}

/// Weight, branch and factors of a layer, and its output with inputs that `inputs` rounds.
template <class Layer, class Inputs>
void write_layer(std::string const& name, Layer const& layer, Inputs const& inputs, matrix<float> const& x, outgoing& out) {
  matrix<float> const weight = layer.weight.values();
  matrix<float> some(x.view().middle_rows(0, std::min(checked_tokens, x.rows()))), y(some.rows(), weight.rows());
  if constexpr (requires { layer.adapter.left; }) {
    matrix<float> branch(weight.rows(), weight.cols());
    layer.adapter.add_to(branch.view());
    product_into(some.view(), branch, y, destination::overwrite);
    out.add(name + ".branch", std::move(branch));
  }
  std::vector<float> const& s = layer.weight.codes.channel_factors;
  matrix<float> factors(1, x.cols());
  for (index_t j = 0; j < x.cols(); ++j) factors(0, j) = s.empty() ? 1.0f : s[static_cast<std::size_t>(j)];
  for (index_t t = 0; t < some.rows(); ++t)
    for (index_t j = 0; j < x.cols(); ++j) some(t, j) /= factors(0, j);
  inputs.round_inplace(some.view());
  for (index_t t = 0; t < some.rows(); ++t)
    for (index_t j = 0; j < x.cols(); ++j) some(t, j) *= factors(0, j);
  product_into(some.view(), weight, y, destination::add);
  matrix<float> bits(1, 1);
  bits(0, 0) = static_cast<float>(layer.report.last().bits_per_weight);
  if (!s.empty()) out.add(name + ".factors", std::move(factors));
  out.add(name + ".weight", weight);
  out.add(name + ".bits", std::move(bits));
  out.add(name + ".output", std::move(y));
}

absmax_quantizer int4_weights() {
  return absmax_quantizer({.bits = 4, .block = per_group(64), .scale_format = number_format::fp16});
}

/// W4A4 in groups of 64. @throws std::runtime_error on a name that is not known
void compress_in_groups(std::string const& recipe, std::string const& name, matrix<float> const& w, matrix<float> const& x,
                        calibration const& calib, outgoing& out) {
  group_input const inputs({.bits = 4, .group = 64});
  if (recipe == "rtn-w4a4") return write_layer(name, compress(w, calib, chain(int4_weights())), inputs, x, out);
  if (recipe == "smoothquant-w4a4")
    return write_layer(name,
                       compress(w, calib, chain(in_basis(search_channel_scaling(int4_weights(), inputs), int4_weights()))),
                       inputs, x, out);
  if (recipe == "svdquant")
    return write_layer(name,
                       compress(w, calib,
                                chain(in_basis(search_channel_scaling(int4_weights(), inputs, {.rank = 32}),
                                               low_rank_residual(int4_weights(), inputs)))),
                       inputs, x, out);
  throw std::runtime_error(message("recipe '", recipe, "' is not known"));
}

/// The range of a recipe that has bounds.
std::optional<range_quantizer_config> bounds_of(std::string recipe) {
  range_quantizer_config config;
  if (recipe.ends_with("-rows")) {
    config.block = per_channel;
    recipe.resize(recipe.size() - 5);
  }
  if (recipe == "minmax")
    config.range.rule = range_rule::min_max;
  else if (recipe == "99.9" || recipe == "99")
    config.range = {.rule = range_rule::percentile, .percentile = recipe == "99" ? 99.0 : 99.9};
  else if (recipe != "dobi" && recipe != "output")
    return {};
  config.by_output = recipe == "output";
  return config;
}

void compress_one(std::string const& recipe, std::string const& name, tensor_info const* weight, matrix<float> const& x,
                  outgoing& out) {
  auto const bounds = bounds_of(recipe);
  calibration calib(x.cols(), {.gram = bounds && bounds->by_output, .samples = 512});
  calib.observe(x);
  if (!bounds) {
    if (!weight) throw std::runtime_error(message(name, ".inputs has no weight, and recipe '", recipe, "' has no bounds"));
    return compress_in_groups(recipe, name, required(read_matrix(*weight)), x, calib, out);
  }
  auto const inputs = bounded_input::fitted(calib.samples(), 4, bounds->range);
  matrix<float> ends(1, 2);
  ends(0, 0) = inputs.range().low;
  ends(0, 1) = inputs.range().high;
  out.add(name + ".bounds", std::move(ends));
  if (weight)
    write_layer(name, compress(required(read_matrix(*weight)), calib, chain(range_quantizer(*bounds))), inputs, x, out);
}

void run(std::string const& recipe, char const* from, char const* to) {
  auto const file = required(safetensors_file::open(from));
  outgoing out;
  for (tensor_info const& tensor : file.tensors()) {
    if (!tensor.name.ends_with(".inputs")) continue;
    std::string const name = tensor.name.substr(0, tensor.name.size() - 7);
    compress_one(recipe, name, file.find(name + ".weight"), required(read_matrix(tensor)), out);
    std::fprintf(stderr, "%s %s\n", recipe.c_str(), name.c_str());
  }
  if (auto const saved = save_safetensors(to, std::move(out.tensors)); !saved) throw std::runtime_error(saved.why());
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: compress_layers RECIPE IN.safetensors OUT.safetensors\n");
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3]);
  } catch (std::exception const& problem) {
    std::fprintf(stderr, "compress_layers: %s: %s\n", argv[2], problem.what());
    return 1;
  }
  return 0;
}
