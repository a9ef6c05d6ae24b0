// Layers as bytes: what is saved comes back, and no bytes do harm.

#include "slim/pipeline/layer_bytes.hpp"

#include "slim/adapters/quantized_adapter.hpp"
#include "slim/adapters/saliency_lora.hpp"
#include "slim/adapters/sparse_adapter.hpp"
#include "slim/allocation/balanced_allocation.hpp"
#include "slim/joint/gptq.hpp"
#include "slim/joint/mixed_bits.hpp"
#include "slim/joint/sparsegpt.hpp"
#include "slim/joint/spqr_compressor.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/pruning/unstructured_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/codebook_quantizer.hpp"
#include "slim/quantization/grids/codebook_grid.hpp"
#include "slim/quantization/grids/super_block_grid.hpp"
#include "slim/quantization/outlier_quantizer.hpp"
#include "slim/saliency/obs_saliency.hpp"
#include "slim/saliency/wanda.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include "support/allocation_watch.hpp"
#include "support/counting_new.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

namespace {

using bytes_t = std::vector<std::byte>;

struct named_layer {
  std::string name;
  any_layer layer;
};

/// A codes object as a layer without anything else.
template <class Codes>
any_layer bare(Codes codes, std::optional<mask> kept = {}) {
  layer_report report;
  report.rows = codes.rows();
  report.cols = codes.cols();
  return {{std::move(kept), any_codes(std::move(codes))}, std::nullopt, report};
}

/// Every kind of codes, mask and adapter, at ragged shapes.
std::vector<named_layer> layers() {
  matrix<float> const w = normal_matrix(7, 37, 1, 0.05f), x = normal_matrix(60, 37, 2);
  calibration const calib = observed(x, {.gram = true});
  auto const half = nm_pruner<2, 4>(wanda{});
  absmax_quantizer const int4({.bits = 4, .block = per_group(8), .scale_format = number_format::fp16});
  absmax_quantizer const shifted({.bits = 3, .block = per_group(16), .symmetric = false});
  absmax_quantizer const columns({.bits = 4, .block = per_column_group(16), .scale_format = number_format::bf16});
  std::vector<named_layer> all;
  auto const add = [&](std::string name, auto const& recipe) {
    all.push_back({std::move(name), to_any(compress(w, calib, recipe))});
  };
  add("pruned only", chain(half));
  add("unstructured, zero points", chain(unstructured_pruner(wanda{}, {.sparsity = 0.6}), shifted));
  add("2:4 int4, bf16 adapter", chain(int4, half, slim_lora({.rank = {.number = 3}, .format = number_format::bf16})));
  add("int4, adapter in codes", chain(int4, quantized_adapter(slim_lora({.rank = {.number = 3}}), columns)));
  add("int4, pruned adapter", chain(int4, sparse_adapter(slim_lora({.rank = {.number = 3}}), half)));
  add("K-quant", chain(gptq(k_quant_grid(4))));
  add("SpQR's grid, 2:4", chain(sparsegpt(nm<2, 4>{}, spqr_grid(3))));
  add("NF4, 2:4", chain(sparsegpt(nm<2, 4>{}, codebook_grid{.block = per_group(16)})));
  add("SpQR", chain(spqr_compressor(spqr_tiles(3), {.share = 0.02})));
  super_block_grid tiles = spqr_tiles(2);
  tiles.group = 8;
  add("bits by salience", chain(mixed_bits(obs_saliency(), balanced_allocation(), tiles)));
  add("SqueezeLLM",
      chain(outlier_quantizer(codebook_quantizer({.bits = 2}), unstructured_pruner(wanda{}, {.sparsity = 0.95}))));
  add("nothing", chain());

  integer_codes mixed(5, 20, 4, per_group(8), number_format::fp16);
  mixed.group_bits = {4, 1, 3};
  for (index_t k = 0; k < mixed.scales.size(); ++k) mixed.scales.data()[k] = 0.25f * static_cast<float>(k % 5);
  mixed.channel_factors.assign(20, 1.0f);
  mixed.channel_factors[7] = 3.3f;
  matrix<float> const some = normal_matrix(5, 20, 3);
  mixed.encode(some.view());
  all.push_back({"bits per group, factors", bare(mixed)});
  mask outliers(5, 20);
  outliers.keep(1, 3);
  outliers.keep(4, 19);
  all.push_back({"outliers", bare(keep_outliers(mixed, some.view(), outliers))});
  codebook_codes vectors(5, 20, 3, per_channel, 4);
  for (index_t k = 0; k < vectors.books.size(); ++k) vectors.books.data()[k] = 0.5f * static_cast<float>(k % 11) - 2.0f;
  for (index_t k = 0; k < vectors.codes.size(); ++k) vectors.codes.data()[k] = static_cast<std::uint8_t>(k % 8);
  mask kept(5, 20);
  for (index_t i = 0; i < 5; ++i)
    for (index_t j = 0; j < 20; ++j) kept.keep(i, j, (i + j / 4) % 3 == 0);
  all.push_back({"books of vectors", bare(vectors)});
  all.push_back(
      {"books of vectors on a mask, outliers", bare(keep_outliers(vectors, some.view(), outliers, number_format::bf16), kept)});
  all.push_back({"no rows", bare(integer_codes(0, 5, 4, per_channel, number_format::fp16))});
  all.push_back({"no columns", bare(plain_values{matrix<float>(4, 0)})});
  return all;
}

bool same_report(layer_report const& a, layer_report const& b) {
  bool same = a.rows == b.rows && a.cols == b.cols && a.notes == b.notes && a.objective == b.objective &&
              a.exact_output_error == b.exact_output_error && a.steps.size() == b.steps.size();
  for (std::size_t k = 0; same && k < a.steps.size(); ++k)
    same = a.steps[k].step == b.steps[k].step && a.steps[k].output_error == b.steps[k].output_error &&
           a.steps[k].bits_per_weight == b.steps[k].bits_per_weight && a.steps[k].rank == b.steps[k].rank &&
           a.steps[k].notes == b.steps[k].notes && a.steps[k].seconds == b.steps[k].seconds;
  return same;
}

constexpr unpack_limit small{.weights = 4096, .weights_per_byte = 16};

/// Whether the bytes are a layer; if they are, it saves to the same bytes, and if not, there is a sentence.
bool reads(bytes_t const& bytes) {
  slim_test::allocation_watch const watch;
  auto const read = load_layer(bytes, small);
  REQUIRE(watch.peak() < 16384 + 64 * bytes.size() + 16 * static_cast<std::size_t>(small.weights));
  if (!read) {
    REQUIRE(read.why().size() > 20);
    return false;
  }
  REQUIRE(save(*read) == bytes);
  return true;
}

} // namespace

TEST_CASE("a layer comes back from its bytes, whatever it is made of") {
  for (auto const& [name, layer] : layers()) {
    INFO(name);
    bytes_t const bytes = save(layer);
    auto const read = load_layer(bytes);
    REQUIRE(read.why() == "");
    CHECK(same_bits(read->weight.values(), layer.weight.values()));
    CHECK(read->weight.mask == layer.weight.mask);
    CHECK(read->weight.stored_bits() == layer.weight.stored_bits());
    CHECK(same_bits(read->adapter, layer.adapter));
    CHECK(same_bits(decompress(*read), decompress(layer)));
    CHECK(same_report(read->report, layer.report));
    CHECK(save(*read) == bytes);
  }
}

TEST_CASE("a saved layer is as large as its report says, and the words around it") {
  matrix<float> const w = normal_matrix(64, 512, 1, 0.05f);
  calibration const calib = observed(normal_matrix(100, 512, 2), {.gram = true});
  auto const layer =
      compress(w, calib,
               chain(absmax_quantizer({.bits = 4, .block = per_group(128), .scale_format = number_format::fp16}),
                     nm_pruner<2, 4>(wanda{}), slim_lora({.rank = {.number = 4}, .format = number_format::bf16})));
  auto const said = layer.report.last().bits_per_weight * 64 * 512 / 8;
  auto const bytes = static_cast<double>(save(layer).size());
  CHECK(bytes >= said);
  CHECK(bytes <= said + 1024);
}

TEST_CASE("codes of one's own, numbers that are none and parts that do not fit are not saved") {
  struct own_codes {
    index_t rows() const { return 1; }
    index_t cols() const { return 1; }
    double stored_bits(mask const*) const { return 1.0; }
    void dequantize_into(matrix_view<float>, context const& = {}) const {}
  };
  CHECK_THROWS_AS(save(bare(own_codes{})), config_error);
  integer_codes codes(1, 2, 4, per_tensor, number_format::fp32);
  codes.scales(0, 0) = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(save(bare(codes)), nonfinite_error);
  codes.scales(0, 0) = 1.0f;
  codes.codes(0, 1) = 8;
  CHECK_THROWS_AS(save(bare(codes)), config_error);
  codes.codes(0, 1) = 7;
  CHECK_THROWS_AS(save(bare(codes, mask(1, 3))), shape_error);
  any_layer layer = bare(codes);
  layer.adapter = empty_adapter(3, 1);
  CHECK_THROWS_AS(save(layer), shape_error);
}

TEST_CASE("bytes that are cut off, lengthened or changed are refused, or are another layer") {
  for (auto const& [name, layer] : layers()) {
    INFO(name);
    bytes_t const bytes = save(layer);
    REQUIRE(reads(bytes));
    for (std::size_t size = 0; size < bytes.size(); ++size)
      REQUIRE_FALSE(reads(bytes_t(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size))));
    bytes_t longer = bytes;
    longer.push_back(std::byte{0});
    REQUIRE_FALSE(reads(longer));
    for (std::size_t at = 0; at < bytes.size(); ++at)
      for (int const flip : {1, 0x80, 0xff}) {
        bytes_t changed = bytes;
        changed[at] ^= static_cast<std::byte>(flip);
        (void)reads(changed);
      }
    for (std::size_t at = 0; at + 8 <= bytes.size(); ++at)
      for (std::int64_t const hostile : {std::int64_t{-1}, std::numeric_limits<std::int64_t>::max(), std::int64_t{1} << 31}) {
        bytes_t changed = bytes;
        std::memcpy(changed.data() + at, &hostile, 8);
        (void)reads(changed);
      }
  }
}
