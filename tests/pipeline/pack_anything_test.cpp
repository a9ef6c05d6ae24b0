// pack(layer) takes whatever compress gives, or says why not in one sentence; what it packs computes what decompress(layer)
// says.

#include "slim/adapters/quantized_adapter.hpp"
#include "slim/adapters/saliency_lora.hpp"
#include "slim/adapters/sparse_adapter.hpp"
#include "slim/allocation/balanced_allocation.hpp"
#include "slim/allocation/top_share.hpp"
#include "slim/joint/gptq.hpp"
#include "slim/joint/mixed_bits.hpp"
#include "slim/joint/sparsegpt.hpp"
#include "slim/joint/spqr_compressor.hpp"
#include "slim/kernels/packed_linear.hpp"
#include "slim/packing/pack_codes.hpp"
#include "slim/pipeline/any.hpp"
#include "slim/pipeline/in_basis.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/codebook_quantizer.hpp"
#include "slim/quantization/codes/with_outliers.hpp"
#include "slim/quantization/grids/codebook_grid.hpp"
#include "slim/quantization/grids/super_block_grid.hpp"
#include "slim/quantization/outlier_quantizer.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/saliency/input_energy.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/obs_saliency.hpp"
#include "slim/saliency/range_curvature.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"
#include "slim/transforms/activation_order.hpp"

#include <catch2/catch.hpp>

namespace {

using Catch::Contains;
using namespace slim;
using slim::testing::normal_matrix;

constexpr index_t d_out = 24, d_in = 320;

calibration observed() {
  calibration calib(d_in, {.gram = true});
  calib.observe(normal_matrix(400, d_in, 3));
  return calib;
}

/// Largest difference of the packed layer's outputs from the dense weight's, with exact inputs, relative to the largest output.
double packed_error(packed_linear const& packed, matrix<float> const& dense) {
  matrix<float> const x = normal_matrix(5, dense.cols(), 7);
  matrix<float> y(5, dense.rows());
  forward_into(packed, x.view(), y.view(), {.inputs = input_precision::exact});
  double error = 0, size = 0;
  for (index_t t = 0; t < 5; ++t)
    for (index_t i = 0; i < dense.rows(); ++i) {
      double sum = 0;
      for (index_t j = 0; j < dense.cols(); ++j) sum += static_cast<double>(x(t, j)) * static_cast<double>(dense(i, j));
      error = std::max(error, std::abs(static_cast<double>(y(t, i)) - sum));
      size = std::max(size, std::abs(sum));
    }
  return error / size;
}

/// Packs a layer with types known and erased; both must compute what decompress says.
template <class Layer>
packed_linear packs(Layer const& layer, double tolerance = 2e-6) {
  matrix<float> const dense = decompress(layer);
  packed_linear packed = pack(layer);
  CHECK(packed_error(packed, dense) < tolerance);
  packed_linear const erased = pack(to_any(layer));
  CHECK(packed_error(erased, dense) < tolerance);
  CHECK(erased.notes == packed.notes);
  return packed;
}

} // namespace

TEST_CASE("scales are packed as they are: the default quantizer's fp32 ones, and those of a second level") {
  matrix<float> const w = normal_matrix(d_out, d_in, 1);
  for (bool const symmetric : {true, false}) {
    packed_linear const packed = packs(compress(w, chain(absmax_quantizer({.symmetric = symmetric}))));
    CHECK(packed.weight.layout().wide_scales);
    CHECK(packed.notes.empty());
  }
  packs(compress(w, chain(absmax_quantizer({.bits = 3, .block = per_group(32)}), nm_pruner<2, 4>(magnitude{}), naive_lora())));
  packs(compress(w, chain(absmax_quantizer({.bits = 8, .block = per_group(64), .scale_format = number_format::bf16}))));
  integer_codes codes(d_out, d_in, 4, per_group(32), scale_storage{.format = number_format::fp16, .bits = 6});
  for (index_t k = 0; k < codes.scales.size(); ++k) codes.scales.data()[k] = 0.01f * static_cast<float>(k % 7 + 1);
  codes.scales.store(true);
  codes.encode(w.view());
  packs(compressed_layer<none, integer_codes, none>{{{}, codes}, {}, {}});
}

TEST_CASE("masks that no kernel leaves out run dense, with zeros, and a note says so") {
  matrix<float> const w = normal_matrix(d_out, d_in, 2);
  absmax_quantizer const int4({.scale_format = number_format::fp16});
  auto const noted = [](packed_linear const& packed, char const* sentence) {
    REQUIRE(packed.notes.size() == 1);
    CHECK_THAT(packed.notes[0], Contains(sentence));
  };
  noted(packs(compress(w, chain(int4, nm_pruner<4, 8>(magnitude{})))), "the weight runs dense, with zeros where it is pruned");
  noted(packs(compress(w, chain(unstructured_pruner(magnitude{}), int4))), "2:4 only");
  noted(packs(compress(w, chain(nm_pruner<2, 4>(magnitude{}), absmax_quantizer({.bits = 8})))),
        "at most 4 bits, its codes have 8");
  noted(packs(compress(w, chain(nm_pruner<2, 4>(magnitude{}), absmax_quantizer({.symmetric = false})))), "without zero points");
  CHECK(packs(compress(w, chain(nm_pruner<1, 4>(magnitude{}), int4))).notes.empty()); // at most two of four: runs as 2:4
  CHECK(is_sparse(pack(compress(w, chain(nm_pruner<1, 4>(magnitude{}), int4))).weight.layout().kind));
  packs(compress(w, chain(int4, unstructured_pruner(magnitude{}),
                          sparse_adapter(quantized_adapter(naive_lora(), absmax_quantizer({.block = per_column_group(32)})),
                                         nm_pruner<4, 8>(magnitude{})))));
}

TEST_CASE("weights without codes run as numbers") {
  matrix<float> const w = normal_matrix(d_out, d_in, 4);
  auto const layer = compress(w, chain(nm_pruner<2, 4>(magnitude{}), naive_lora()));
  packed_linear const packed = packs(layer, 5e-3); // bf16
  REQUIRE(packed.notes.size() == 2);
  CHECK_THAT(packed.notes[0], Contains("the weight runs dense, with zeros where it is pruned"));
  CHECK_THAT(packed.notes[1], Contains("rounded to bf16"));
  auto exact = compress(w, chain(nm_pruner<2, 4>(magnitude{})));
  exact.weight.codes.format = number_format::fp32;
  CHECK(packs(exact).notes.size() == 1);
}

TEST_CASE("layers of books are packed as books, whatever type they come in") {
  matrix<float> const w = normal_matrix(d_out, d_in, 5);
  codebook_grid const nf4{.levels = rounded_levels(nf4_levels()), .block = per_group(64)};
  auto const calib = observed();
  auto const dense = compress(w, calib, chain(gptq(nf4)));
  CHECK(packs(dense).weight.layout().kind == r16_kind::dense4_book);
  CHECK(packs(compress(w, calib, chain(sparsegpt(nm<2, 4>{}, nf4)))).weight.layout().kind == r16_kind::sparse24_book);
  CHECK(packs(compress(w, calib, chain(sparsegpt(unstructured_pattern{.sparsity = 0.4}, nf4)))).notes.size() == 1);
  any_layer const erased = any_chain(chain(gptq(nf4))).compress(w.view(), calib);
  CHECK(packed_error(pack(erased), decompress(dense)) < 2e-6);
}

/// A layer's bytes and its packed form are what it stands for.
template <class Chain>
packed_linear stores_and_runs(Chain const& how, double tolerance = 2e-6) {
  auto const layer = to_any(compress(normal_matrix(d_out, d_in, 6), observed(), how));
  matrix<float> const dense = decompress(layer);
  auto const bytes = pack_codes(in_parts(layer.weight.codes));
  auto const read = unpack(bytes);
  REQUIRE(read.why() == "");
  CHECK(slim::testing::same_bits(read->values(), dense));
  CHECK(pack_codes(read->codes) == bytes);
  CHECK(8.0 * static_cast<double>(bytes.size()) <= layer.weight.stored_bits() + 8 * 600); // headers
  CHECK(packed_error(pack_linear(read->codes, nullptr, nullptr), dense) < tolerance);
  return packs(compress(normal_matrix(d_out, d_in, 6), observed(), how), tolerance);
}

TEST_CASE("what the related systems make is stored, and runs as it is stored") {
  scale_storage const second{.format = number_format::fp16, .bits = 6, .block = {.rows = 16, .cols = 1}, .shifted = true};
  CHECK(stores_and_runs(chain(spqr_compressor(spqr_tiles(3), {.share = 0.004}))).residual); // by itself
  packed_linear const spqr =
      stores_and_runs(chain(in_basis(activation_order{}, spqr_compressor(spqr_tiles(3), {.share = 0.004}))));
  REQUIRE(spqr.parts.size() == 1);
  CHECK((spqr.residual && spqr.parts[0].weight.layout().kind == r16_kind::dense3_tiles));
  codebook_quantizer const books(input_energy{}, {.bits = 3});
  auto const apart = unstructured_pruner(magnitude{}, {.sparsity = 0.995, .scope = prune_scope::matrix});
  packed_linear const squeeze = stores_and_runs(chain(outlier_quantizer(books, apart)), 2e-2);
  CHECK((squeeze.residual && squeeze.weight.layout().kind == r16_kind::dense3_books && squeeze.notes.size() == 1));
  uniform_grid const even{.bits = 3, .block = per_group(64), .symmetric = false};
  super_block_grid const super{.bits = 2, .group = 64, .scales = second, .offsets = second};
  balanced_allocation const threes({.bits = 3}), twos({.bits = 2});
  stores_and_runs(
      chain(in_basis(activation_order{}, mixed_bits(obs_saliency({.damping = 1.0}), threes, even, {.damping = 1.0}))));
  stores_and_runs(
      chain(in_basis(activation_order{}, mixed_bits(obs_saliency({.damping = 1.0}), twos, super, {.damping = 1.0}))));
  super_block_grid groups = super;
  groups.group = 32;
  packed_linear const mixed =
      stores_and_runs(chain(in_basis(activation_order{}, mixed_bits(range_curvature({.group = 32}), top_share(), groups,
                                                                    {.damping = 1.0, .outlier_share = 0.005}))));
  CHECK((mixed.residual && mixed.parts.size() == 2));
}

TEST_CASE("what no kernel reads is refused in one sentence") {
  matrix<float> const w = normal_matrix(d_out, d_in, 6);
  auto const calib = observed();
  CHECK_THROWS_WITH(pack(compress(w, calib, chain(gptq(k_quant_grid())))), Contains("real offsets have no place in R16"));
  CHECK_THROWS_WITH(pack(compress(w, chain(absmax_quantizer({.block = per_group(20)})))), Contains("multiples of 32"));
  auto const plain = absmax_quantizer({.block = per_group(32)}).quantize(w.view(), calibration(d_in));
  mask some(d_out, d_in);
  some.keep(3, 5);
  any_layer const outliers{{some, any_codes(keep_outliers(plain, w.view(), some))}, std::nullopt, {}};
  CHECK_THROWS_WITH(pack(outliers), Contains("outliers or parts of columns that are pruned"));
  auto const by_tens = absmax_quantizer({.block = per_group(20)});
  CHECK_THROWS_WITH(pack(compress(w, calib, chain(in_basis(activation_order{}, by_tens)))), Contains("multiples of 32"));
  integer_codes far = plain; // GPTQ's zero point of 16
  far.zeros = matrix<std::int8_t>(far.scales.rows(), far.scales.cols());
  far.zeros(3, 2) = 8;
  CHECK_FALSE(far.has_zero());
  CHECK_THROWS_WITH(pack_linear(far, &some, nullptr), Contains("its codes have no 0"));
  far.prune(some);
  CHECK_NOTHROW(far.check_codes("test"));
  codebook_codes no_zero(d_out, d_in,
                         {-1.0f, -0.5f, 0.5f, 1.0f, 1.5f, 2.0f, 2.5f, 3.0f, 3.5f, 4.0f, 4.5f, 5.0f, 5.5f, 6.0f, 6.5f, 7.0f},
                         per_group(32), {.format = number_format::fp16});
  CHECK_THROWS_WITH(pack_linear(no_zero, &some, nullptr), Contains("no code") || Contains("no 0"));
}

TEST_CASE("codes that are handed out are 0 where the mask is") {
  matrix<float> const w = normal_matrix(d_out, d_in, 8);
  auto const calib = observed();
  auto const cannot_come_back = [](auto const& layer) {
    matrix<float> values(d_out, d_in);
    layer.weight.codes.dequantize_into(values.view());
    CHECK(values == layer.weight.values());
  };
  codebook_grid const nf4{.block = per_group(64)};
  absmax_quantizer const offset({.symmetric = false});
  cannot_come_back(compress(w, chain(absmax_quantizer(), nm_pruner<2, 4>(magnitude{}))));
  cannot_come_back(compress(w, chain(offset, unstructured_pruner(magnitude{}))));
  cannot_come_back(compress(w, chain(unstructured_pruner(magnitude{}), offset)));
  cannot_come_back(compress(w, calib, chain(slim_quantizer({.outlier_share = 0.01}), nm_pruner<2, 4>(magnitude{}))));
  cannot_come_back(compress(w, calib, chain(sparsegpt(nm<2, 4>{}, uniform_grid{.block = per_group(64), .symmetric = false}))));
  cannot_come_back(compress(w, calib, chain(sparsegpt(nm<2, 4>{}, nf4, {.descents = 1}))));
  cannot_come_back(compress(w, chain(nm_pruner<2, 4>(magnitude{}))));
  any_layer const erased = any_chain(chain(any_quantizer(offset), nm_pruner<2, 4>(magnitude{}))).compress(w.view(), calib);
  cannot_come_back(erased);
  auto const layer = compress(w, chain(absmax_quantizer({.scale_format = number_format::fp16}), nm_pruner<2, 4>(magnitude{})));
  CHECK(packed_error(pack_linear(layer.weight.codes, nullptr, nullptr), decompress(layer)) < 2e-6);
}

namespace {

/// Sizes of a layer's codes in all formats that take them, in bits, without headers and padding (at most `slack` bits).
template <class Codes>
double cheapest_bits(Codes const& codes, mask const& kept) {
  double best = std::numeric_limits<double>::infinity();
  auto const ask = [&](auto format) {
    try {
      best = std::min(best, 8.0 * static_cast<double>(decltype(format)::byte_size(codes, kept)) - 8.0 * sizeof(packed_header));
      (void)decltype(format)::pack(codes, kept); // whatever can be packed
    } catch (config_error const&) {
    }
  };
  ask(dense_codes{});
  ask(nm_bitmask{});
  ask(csr_codes{});
  return best;
}

} // namespace

TEST_CASE("the report's bits per weight are those of the cheapest format, for every pattern") {
  matrix<float> const w = normal_matrix(d_out, d_in, 9);
  auto const agrees = [](auto const& layer) {
    double const reported = layer.report.last().bits_per_weight * static_cast<double>(d_out * d_in);
    double const stored = cheapest_bits(layer.weight.codes, layer.weight.mask);
    INFO(layer.report.last().step << ": reported " << reported << ", stored " << stored);
    CHECK(reported <= stored + 1e-6);
    CHECK(stored <= reported + 2 * 7 * d_out); // rows of the mask and of the codes end on a byte
  };
  for (int const bits : {2, 3, 4, 8}) {
    absmax_quantizer const quantizer({.bits = bits, .block = per_group(128), .scale_format = number_format::fp16});
    auto const with = [&](auto const& pruner) { agrees(compress(w, chain(quantizer, pruner))); };
    with(nm_pruner<2, 4>(magnitude{}));
    with(nm_pruner<1, 4>(magnitude{}));
    with(nm_pruner<4, 8>(magnitude{}));
    with(nm_pruner<6, 8>(magnitude{}));
    with(nm_pruner<7, 8>(magnitude{}));
    with(nm_pruner<32, 64>(magnitude{}));
    with(nm_pruner<3, 3>(magnitude{}));
    for (double const sparsity : {0.0, 0.02, 0.5, 0.9, 0.95, 0.99, 1.0})
      with(unstructured_pruner(magnitude{}, {.sparsity = sparsity}));
  }
  // The table of faults: 4:8 was 3.50 bits, 6:8 5.25, 32:64 5.00.
  auto const bits_of = [&](auto const& pruner) {
    return compress(w, chain(absmax_quantizer({.block = per_channel, .scale_format = number_format::fp16}), pruner))
        .report.last()
        .bits_per_weight;
  };
  double const scale = 16.0 / d_in;
  CHECK(bits_of(nm_pruner<2, 4>(magnitude{})) == Approx(3.0 + scale));
  CHECK(bits_of(nm_pruner<4, 8>(magnitude{})) == Approx(3.0 + scale));
  CHECK(bits_of(nm_pruner<6, 8>(magnitude{})) == Approx(4.0 + scale));
  CHECK(bits_of(nm_pruner<32, 64>(magnitude{})) == Approx(3.0 + scale));
}
