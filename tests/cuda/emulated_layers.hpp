// Layers in the device format, their products on the emulated GPU, and the same products by the definition.
#pragma once

#include "host_warp.hpp"
#include "primitives.cuh"

#include "slim/core/random.hpp"
#include "slim/kernels/cuda/dense_plan.cuh"
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
                                                 {.ctas = ctas, .shared_bytes = (how.bulk ? 227 : 99) * 1024});
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

/// 16-bit numbers as they are.
template <slim::number_format N>
slim::matrix<double> in_double(std::uint16_t const* bits, std::int64_t rows, std::int64_t cols, std::int64_t stride) {
  slim::matrix<double> out(rows, cols);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) out(i, j) = static_cast<double>(value_of<N>(bits[i * stride + j]));
  return out;
}

/// A dense product by the definition, in double.
template <slim::number_format N>
void multiply_dense(slim::cuda::dense_product const& p) {
  slim::matrix<double> const a = in_double<N>(p.a, p.m, p.k, p.lda), c = in_double<N>(p.c, p.m, p.n, p.ldc),
                             b = in_double<N>(p.b, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, p.ldb);
  for (std::int64_t i = 0; i < p.m; ++i)
    for (std::int64_t j = 0; j < p.n; ++j) {
      double sum = p.add ? c(i, j) : 0.0;
      for (std::int64_t k = 0; k < p.k; ++k) sum += a(i, k) * (p.transpose_b ? b(j, k) : b(k, j));
      p.c[i * p.ldc + j] = bits_of<N>(static_cast<float>(sum));
    }
}

/// Y of a layer by its dense matrices, which the emulated GPU writes out, behind them a word that has to stay.
template <slim::number_format N>
emulated emulate_dense(slim::device_bytes const& layer, half_rows const& x, half_rows& y, bool add, emulation const& how) {
  namespace cuda = slim::cuda;
  cuda::layer_call const call{reinterpret_cast<std::uint8_t const*>(layer.bytes.data()),
                              slim::read_device_header(layer.bytes).value(), y.bits.data(), y.stride};
  std::vector<std::uint32_t> dense(static_cast<std::size_t>(cuda::dense_size(call.header)) + 1, 0x7fff7fffu);
  cuda::dense_plan const plan =
      cuda::plan_dense(call, {x.bits.data(), x.stride, static_cast<int>(x.rows)}, dense.data(), add, N);
  emulated out = run_dequantize<N>(plan.matrices, how);
  if (dense.back() != 0x7fff7fffu) out.complaint = "a word behind the dense matrices was written";
  for (int k = 0; k < plan.count; ++k) multiply_dense<N>(plan.products[k]);
  return out;
}

/// A product to be checked: layers that read one X, and how it is run.
struct product_case {
  std::vector<layer_case> layers;
  slim::number_format numbers = slim::number_format::fp16;
  slim::index_t tokens = 1;
  int ctas = 1;
  emulation how;
  std::uint64_t seed = 1;
  bool add = false;      ///< Y += instead of Y =
  slim::index_t odd = 0; ///< numbers between the rows of X that keep them from beginning on 16 bytes

  [[nodiscard]] slim::matrix<float> x() const { return small_integers(tokens, layers.front().cols, 2, seed + 5); }
  [[nodiscard]] slim::index_t x_stride() const {
    slim::index_t const cols = layers.front().cols;
    return odd != 0 ? cols + odd : (cols + 7) / 8 * 8;
  }
  [[nodiscard]] made_layer layer(std::size_t k) const { return make_layer(layers[k], seed + 100 * k); }
  /// What Y of a layer holds before: NaN, or numbers to be added to.
  template <slim::number_format N>
  [[nodiscard]] half_rows before(std::size_t k) const {
    slim::index_t const rows = layers[k].rows;
    return add ? in_halves<N>(small_integers(tokens, rows, 8, seed + 9), rows + 3) : half_rows(tokens, rows, rows + 3);
  }
  /// What it holds behind where it is computed with W + R^T L^T: all three, and then the sum, rounded to the type of X.
  template <slim::number_format N>
  [[nodiscard]] half_rows expected_by_dense(std::size_t k) const {
    half_rows y = before<N>(k);
    made_layer const made = layer(k);
    auto const rounded = [](auto v) { return static_cast<double>(value_of<N>(bits_of<N>(static_cast<float>(v)))); };
    slim::matrix<float> const inputs = x();
    slim::matrix<float> w(y.cols, layers[k].cols);
    std::visit([&](auto const& codes) { codes.dequantize_into(w.view()); }, made.codes);
    if (made.kept) made.kept->apply_to(w.view());
    slim::matrix<float> left, right;
    if (made.adapter) {
      left = made.adapter->left;
      right = made.adapter->right;
      for (slim::matrix<float>* m : {&left, &right})
        for (slim::index_t e = 0; e < m->size(); ++e) m->data()[e] = static_cast<float>(rounded(m->data()[e]));
    }
    for (slim::index_t i = 0; i < w.rows(); ++i) {
      std::vector<double> row(static_cast<std::size_t>(w.cols()));
      for (slim::index_t j = 0; j < w.cols(); ++j) {
        double sum = rounded(w(i, j));
        for (slim::index_t r = 0; r < left.cols(); ++r)
          sum += static_cast<double>(left(j, r)) * static_cast<double>(right(r, i));
        row[static_cast<std::size_t>(j)] = rounded(sum);
      }
      for (slim::index_t t = 0; t < tokens; ++t) {
        double sum = add ? static_cast<double>(value_of<N>(y(t, i))) : 0.0;
        for (slim::index_t j = 0; j < w.cols(); ++j)
          sum += row[static_cast<std::size_t>(j)] * static_cast<double>(inputs(t, j));
        y(t, i) = bits_of<N>(static_cast<float>(sum));
      }
    }
    return y;
  }
  /// What it holds behind: the definition's product, rounded once.
  template <slim::number_format N>
  [[nodiscard]] half_rows expected(std::size_t k) const {
    half_rows y = before<N>(k);
    slim::matrix<double> const sums = product_by_definition<N>(layer(k), x());
    for (slim::index_t t = 0; t < tokens; ++t)
      for (slim::index_t i = 0; i < sums.cols(); ++i)
        y(t, i) = bits_of<N>(static_cast<float>(sums(t, i) + (add ? static_cast<double>(value_of<N>(y(t, i))) : 0.0)));
    return y;
  }
};

/// Every format, scale kind and number type on shapes that fit no atom, with adapters of every kind, on 1, 3 and 7 CTAs;
/// several layers at once.
inline std::vector<product_case> hard_products() {
  using slim::index_t, slim::number_format, slim::per_group;
  index_t const rows[] = {16, 80, 1, 129, 64}, cols[] = {128, 136, 384, 5, 300}, ranks[] = {0, 64, 1, 130},
                tokens[] = {1, 7, 8, 9, 16, 17, 33};
  int const ctas[] = {1, 3, 7};
  slim::scale_block const blocks[] = {slim::per_channel, per_group(32),  slim::per_tensor,
                                      per_group(64),     per_group(128), per_group(256)};
  std::vector<product_case> all;
  std::uint64_t seed = 1;
  for (int const width : {2, 3, 4, 16})
    for (bool const sparse : {false, true})
      for (slim::scale_block const block : blocks)
        for (bool const zeros : {false, true}) {
          if (width == 16 && (sparse || zeros || block != slim::per_channel)) continue;
          if (sparse && (zeros || width == 2)) continue;
          for (number_format const numbers : {number_format::fp16, number_format::bf16}) {
            layer_case const c{.rows = rows[seed % 5],
                               .cols = block.cols == 256 ? 384 : cols[seed / 2 % 5],
                               .rank = ranks[seed % 4],
                               .bits = width,
                               .sparse = sparse,
                               .block = block,
                               .zeros = zeros,
                               .left_bits = seed % 3 == 0 ? 16 : 4,
                               .right_bits = seed % 5 == 0 ? 16 : 4,
                               .left_sparse = seed % 7 == 0 && seed % 3 != 0};
            all.push_back({.layers = {c},
                           .numbers = numbers,
                           .tokens = tokens[seed % 7],
                           .ctas = ctas[seed % 3],
                           .how = {.bulk = seed % 2 == 0, .early = seed % 5 == 1},
                           .seed = seed});
            ++seed;
          }
        }
  layer_case const q{.rows = 144, .cols = 300, .rank = 64, .bits = 3, .block = per_group(128), .zeros = true};
  layer_case const k{.rows = 16, .cols = 300, .bits = 4, .sparse = true};
  layer_case const v{.rows = 40, .cols = 300, .rank = 130, .bits = 2, .block = per_group(32), .left_bits = 16};
  layer_case const none{.rows = 0, .cols = 300};
  for (int const count : ctas)
    for (bool const bulk : {false, true}) {
      all.push_back({.layers = {q, k, none, v}, .tokens = 9, .ctas = count, .how = {.bulk = bulk}, .seed = 3});
      all.push_back({.layers = {q, k, v}, .tokens = 9, .ctas = count, .how = {.bulk = bulk}, .seed = 4, .add = true});
      all.push_back({.layers = {v, q},
                     .numbers = number_format::bf16,
                     .tokens = 3,
                     .ctas = count,
                     .how = {.bulk = bulk},
                     .seed = 5,
                     .add = true,
                     .odd = 1});
    }
  return all;
}

inline std::string name_of(product_case const& p) {
  std::string out =
      slim::message(slim::name_of(p.numbers), ", ", p.tokens, " tokens", p.add ? ", added" : "", ", seed ", p.seed);
  for (layer_case const& c : p.layers)
    out += slim::message("; ", c.rows, " x ", c.cols, ", ", c.bits, " bits", c.sparse ? " 2:4" : "", ", ",
                         slim::describe(c.block), c.zeros ? ", zero points" : "", ", rank ", c.rank);
  return out;
}

/// Bytes of shared memory for a trial of primitives.cuh.
template <slim::number_format N>
std::vector<std::uint8_t> trial_input(std::uint64_t seed) {
  std::vector<std::uint8_t> bytes(trial_bytes);
  draws next{seed};
  for (int k = 0; k < trial_inputs; ++k) bytes[static_cast<std::size_t>(k)] = static_cast<std::uint8_t>(next(256));
  auto const put = [&](int at, float value) {
    std::uint16_t const half = bits_of<N>(value);
    std::memcpy(bytes.data() + at, &half, 2);
  };
  for (int at = trial_inputs; at < trial_scales; at += 2) put(at, static_cast<float>(static_cast<int>(next(17)) - 8));
  for (int r = 0; r < 16; ++r) {
    std::uint16_t const scale = slim::fp16(static_cast<float>(next(1000)) / 8.0f).bits;
    std::memcpy(bytes.data() + trial_scales + 2 * r, &scale, 2);
  }
  for (int r = 0; r < 32; ++r) bytes[static_cast<std::size_t>(trial_zeros + r)] = static_cast<std::uint8_t>(next(5));
  unsigned const legal[] = {4, 8, 9, 12, 13, 14}; // low + 4 high, low < high
  for (int k = trial_metadata; k < trial_bytes; ++k)
    bytes[static_cast<std::size_t>(k)] = static_cast<std::uint8_t>(legal[next(6)] | legal[next(6)] << 4);
  return bytes;
}

/// What the host warp makes of it: trial_words words of 32 lanes.
template <slim::number_format N>
void run_trial(std::vector<std::uint8_t> const& bytes, std::vector<std::uint32_t>& found) {
  found.assign(std::size_t{32} * trial_words, 0xdeadbeefu);
  host_cta cta(trial_bytes, {});
  for (int at = 0; at < trial_bytes; at += 16) cta.shared.write(at, bytes.data() + at, 16);
  host_warp w(cta, 0);
  auto const put = [&](int number, int lane, std::uint32_t value) {
    found.at(static_cast<std::size_t>(32 * number + lane)) = value;
  };
  primitives<N, host_warp, decltype(put)>(w, put).run();
}

} // namespace slim_test
