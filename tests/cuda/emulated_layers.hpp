// Layers in the device format, their products on the emulated GPU, and the same products by the definition.
#pragma once

#include "host_warp.hpp"

#include "slim/core/random.hpp"
#include "slim/kernels/cuda/forward_plan.cuh"
#include "slim/kernels/cuda/pack_device.hpp"
#include "slim/kernels/packed_linear.hpp"
#include "slim/testing/hard_codes.hpp"
#include "slim/testing/reference_linear.hpp"

#include <optional>
#include <string>
#include <vector>

namespace slim_test {

/// A layer to be made: its weight and its adapter.
struct layer_case {
  slim::index_t rows = 16, cols = 128, rank = 0;
  int bits = 4;                                ///< 16: numbers
  bool sparse = false;                         ///< 2:4
  slim::scale_block block = slim::per_channel; ///< of the weight
  bool zeros = false;
  int left_bits = 4, right_bits = 4; ///< of the adapter; 16: numbers
  bool left_sparse = false;
  slim::index_t left_group = 128, right_group = 128;
  bool arbitrary = false; ///< arbitrary scales instead of powers of two
};

struct made_layer {
  std::variant<slim::integer_codes, slim::plain_values> codes;
  std::optional<slim::mask> kept;
  std::optional<slim::adapter> adapter;

  [[nodiscard]] slim::mask const* mask_or_null() const { return kept ? &*kept : nullptr; }
  [[nodiscard]] slim::adapter const* adapter_or_null() const { return adapter ? &*adapter : nullptr; }
  [[nodiscard]] slim::device_bytes packed(slim::number_format numbers) const {
    return std::visit(
        [&](auto const& c) { return slim::pack_device(c, mask_or_null(), adapter_or_null(), {.numbers = numbers}); }, codes);
  }
};

/// Random numbers from a seed.
struct draws {
  std::uint64_t seed, counter = 0;
  std::uint64_t operator()(std::uint64_t below) { return slim::random_bits(seed, counter++) % below; }
};

/// Codes with scales 1/2, 1 and 2 (some 0), so that sums of products with small integers are exact.
inline slim::integer_codes exact_codes(slim::index_t rows, slim::index_t cols, int bits, slim::scale_block block, bool zeros,
                                       bool arbitrary, std::uint64_t seed) {
  slim::integer_codes made =
      slim::testing::random_codes(rows, cols, bits, block, slim::number_format::fp16, zeros, false, seed);
  draws next{seed + 17};
  float const scales[] = {0.5f, 1.0f, 2.0f, 0.0f};
  for (slim::index_t k = 0; k < made.scales.size(); ++k)
    if (!arbitrary) made.scales.data()[k] = scales[next(16) == 0 ? 3 : next(3)];
  for (slim::index_t k = 0; k < made.zeros.size(); ++k)
    if (next(8) == 0)
      made.zeros.data()[k] = static_cast<std::int8_t>(1 << (bits - 1)); // one above the highest code, as GPTQ has
  return made;
}

inline slim::matrix<float> small_integers(slim::index_t rows, slim::index_t cols, int most, std::uint64_t seed) {
  slim::matrix<float> out(rows, cols);
  draws next{seed};
  for (slim::index_t k = 0; k < out.size(); ++k)
    out.data()[k] = static_cast<float>(static_cast<int>(next(static_cast<std::uint64_t>(2 * most + 1))) - most);
  return out;
}

inline made_layer make_layer(layer_case const& c, std::uint64_t seed) {
  made_layer out;
  if (c.bits == 16)
    out.codes = slim::plain_values{small_integers(c.rows, c.cols, 8, seed), slim::number_format::fp16};
  else
    out.codes = exact_codes(c.rows, c.cols, c.bits, c.block, c.zeros, c.arbitrary, seed);
  if (c.sparse) out.kept = slim::testing::random_mask24(c.rows, c.cols, seed);
  if (c.rank == 0) return out;
  slim::adapter& a = out.adapter.emplace();
  a.format = slim::number_format::fp16;
  auto const factor = [&](slim::index_t rows, slim::index_t cols, int bits, slim::index_t group, slim::matrix<float>& values,
                          std::optional<slim::integer_codes>& codes, std::uint64_t at) {
    values = slim::matrix<float>(slim::transposed(small_integers(rows, cols, 2, at).view()));
    if (bits == 16) return;
    codes = slim::transposed(exact_codes(rows, cols, bits, slim::per_group(group), false, c.arbitrary, at));
    codes->dequantize_into(values.view());
  };
  factor(c.rank, c.cols, c.left_bits, c.left_group, a.left, a.left_codes, seed + 1);
  factor(c.rows, c.rank, c.right_bits, c.right_group, a.right, a.right_codes, seed + 2);
  if (c.left_sparse) {
    a.left_mask = slim::testing::random_mask24(c.rank, c.cols, seed + 3);
    for (slim::index_t i = 0; i < c.rank; ++i)
      for (slim::index_t j = 0; j < c.cols; ++j)
        if (!a.left_mask->kept(i, j)) a.left(j, i) = 0.0f;
  }
  return out;
}

/// A matrix of 16-bit numbers with rows of `stride`, NaN behind their ends.
struct half_rows {
  slim::index_t rows, cols, stride;
  std::vector<std::uint16_t> bits;

  half_rows(slim::index_t tokens, slim::index_t length, slim::index_t distance)
      : rows(tokens), cols(length), stride(distance), bits(static_cast<std::size_t>(tokens * distance), std::uint16_t{0x7fff}) {
  }
  std::uint16_t& operator()(slim::index_t i, slim::index_t j) { return bits[static_cast<std::size_t>(i * stride + j)]; }
};

template <slim::number_format N>
half_rows in_halves(slim::matrix<float> const& values, slim::index_t stride) {
  half_rows out(values.rows(), values.cols(), stride);
  for (slim::index_t i = 0; i < values.rows(); ++i)
    for (slim::index_t j = 0; j < values.cols(); ++j) out(i, j) = bits_of<N>(values(i, j));
  return out;
}

/// Y = X W^T + (X L) R by the definition: one weight at a time in double, X L rounded to the type of X. Not rounded at the end.
template <slim::number_format N>
slim::matrix<double> product_by_definition(made_layer const& layer, slim::matrix<float> const& x) {
  slim::packed_linear const packed = std::visit(
      [&](auto const& c) { return slim::pack_linear(c, layer.mask_or_null(), layer.adapter_or_null()); }, layer.codes);
  slim::matrix<double> y(x.rows(), packed.weight.rows());
  slim::reference_linear_into(packed.weight, x.view(), y.view());
  if (!packed.left) return y;
  slim::matrix<double> inner(x.rows(), packed.rank()), more(y.rows(), y.cols());
  slim::reference_linear_into(*packed.left, x.view(), inner.view());
  slim::matrix<float> rounded(inner.rows(), inner.cols());
  for (slim::index_t k = 0; k < inner.size(); ++k)
    rounded.data()[k] = value_of<N>(bits_of<N>(static_cast<float>(inner.data()[k])));
  slim::reference_linear_into(*packed.right, rounded.view(), more.view());
  for (slim::index_t k = 0; k < y.size(); ++k) y.data()[k] += more.data()[k];
  return y;
}

/// What a product on the emulated GPU gave.
template <slim::number_format N>
emulated emulate(std::vector<slim::device_bytes> const& layers, half_rows const& x, std::vector<half_rows>& y, bool add,
                 int ctas, emulation const& how) {
  namespace cuda = slim::cuda;
  std::vector<cuda::layer_call> calls;
  for (std::size_t k = 0; k < layers.size(); ++k) {
    auto const header = slim::read_device_header(layers[k].bytes);
    calls.push_back(
        {reinterpret_cast<std::uint8_t const*>(layers[k].bytes.data()), header.value(), y[k].bits.data(), y[k].stride});
  }
  int const tokens = static_cast<int>(x.rows);
  std::vector<std::uint16_t> inner(static_cast<std::size_t>(cuda::inner_size(calls, tokens)), std::uint16_t{0x7fff});
  cuda::forward_plans plans = cuda::plan_forward(calls, {x.bits.data(), x.stride, tokens}, inner.data(), add,
                                                 {.ctas = ctas, .shared_bytes = 99 * 1024});
  emulated all;
  for (cuda::kernel_plan* p : {&plans.left, &plans.outputs}) {
    if (p->count == 0) continue;
    int const tiles = cuda::tiles_of(tokens);
    std::vector<float> slots(static_cast<std::size_t>(2 * p->ctas * cuda::slot_size(tiles)),
                             std::numeric_limits<float>::quiet_NaN());
    std::vector<std::uint32_t> arrived(
        static_cast<std::size_t>(p->jobs[p->count - 1].first_pair + p->jobs[p->count - 1].pairs));
    p->slots = slots.data();
    p->arrived = arrived.data();
    emulated const one = tiles == 1   ? run_launch<N, 1>(*p, how)
                         : tiles == 2 ? run_launch<N, 2>(*p, how)
                         : tiles == 4 ? run_launch<N, 4>(*p, how)
                                      : run_launch<N, 8>(*p, how);
    if (!one.complaint.empty()) all.complaint = one.complaint;
    all.bank_conflicts += one.bank_conflicts;
    for (std::uint32_t const counter : arrived)
      if (counter != 0) all.complaint = "a counter of arrivals is not 0 at the end";
  }
  return all;
}

} // namespace slim_test
