#include "compress/recipe_parts.hpp"

#include "slim/allocation/balanced_allocation.hpp"
#include "slim/allocation/top_share.hpp"
#include "slim/joint/low_rank_residual.hpp"
#include "slim/joint/mixed_bits.hpp"
#include "slim/joint/spqr_compressor.hpp"
#include "slim/quantization/codebook_quantizer.hpp"
#include "slim/quantization/outlier_quantizer.hpp"
#include "slim/saliency/input_energy.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/saliency/obs_saliency.hpp"
#include "slim/saliency/range_curvature.hpp"
#include "slim/slim.hpp"
#include "slim/transforms/activation_order.hpp"
#include "slim/transforms/channel_scaling_search.hpp"

namespace slim_llm {
namespace {

constexpr double usual_damping = 1.0; ///< of the systems with error feedback; SpQR's command line

double damping_of(code_part const& codes) { return codes.damping > 0.0 ? codes.damping : usual_damping; }

/// Second-level numbers over 16 rows of one group, shifted.
slim::scale_storage over_sixteen_rows(int bits) {
  return {.format = slim::number_format::fp16, .bits = bits, .block = {.rows = 16, .cols = 1}, .shifted = true};
}

/// What is apart of the whole matrix.
template <slim::saliency Saliency>
auto apart_by(Saliency const& ranking, double share) {
  return slim::unstructured_pruner(ranking, {.sparsity = 1.0 - share, .scope = slim::prune_scope::matrix});
}

/// In the order of act-order, which GPTQ's recipes have: groups are made of channels of like energy.
template <class Step>
slim::any_chain by_energy(Step const& step) {
  return slim::chain(slim::in_basis(slim::activation_order{}, step));
}

/// SqueezeLLM. Without gradients the mean square of a weight's input stands for its Fisher diagonal, and Wanda's score picks
/// the sensitive weights; the largest weights are those that quartiles with a tuned reach would take.
slim::any_chain squeeze_llm(code_part const& codes) {
  slim::codebook_quantizer const dense(slim::input_energy{}, {.bits = codes.bits});
  if (!codes.apart) return slim::chain(dense);
  return slim::chain(slim::outlier_quantizer(dense, apart_by(slim::wanda{}, 0.0005), apart_by(slim::magnitude{}, 0.0040)));
}

slim::any_chain plain_kmeans(code_part const& codes) { return slim::chain(slim::codebook_quantizer({.bits = codes.bits})); }

slim::any_chain spqr(code_part const& codes) {
  slim::spqr_compressor const compressor(slim::spqr_tiles(codes.bits), {.damping = damping_of(codes), .share = 0.004});
  return by_energy(compressor);
}

/// SliM-LLM without its name: that is this program's. Two bits come with scales and offsets in a second level, so that groups
/// of one bit have a mean.
slim::any_chain balanced_bits(code_part const& codes) {
  slim::balanced_allocation const balanced({.bits = codes.bits});
  slim::mixed_bits_config const config{.damping = damping_of(codes)};
  if (codes.bits == 2) {
    slim::super_block_grid const grid{
        .bits = 2, .group = codes.block.cols, .scales = over_sixteen_rows(6), .offsets = over_sixteen_rows(4)};
    return by_energy(slim::mixed_bits(slim::obs_saliency({.damping = config.damping}), balanced, grid, config));
  }
  slim::uniform_grid const grid{.bits = codes.bits, .block = codes.block, .symmetric = false};
  return by_energy(slim::mixed_bits(slim::obs_saliency({.damping = config.damping}), balanced, grid, config));
}

slim::any_chain bits_2_4_16(code_part const& codes) {
  slim::super_block_grid const grid{
      .bits = 2, .group = codes.block.cols, .scales = over_sixteen_rows(4), .offsets = over_sixteen_rows(3)};
  return by_energy(slim::mixed_bits(slim::range_curvature({.group = codes.block.cols}), slim::top_share(), grid,
                                    {.damping = damping_of(codes), .outlier_share = 0.005}));
}

/// What SVDQuant rounds weights and inputs to.
slim::absmax_quantizer int4_weights() {
  return slim::absmax_quantizer({.bits = 4, .block = slim::per_group(64), .scale_format = slim::number_format::fp16});
}
slim::group_input int4_inputs() { return slim::group_input({.bits = 4, .group = 64}); }

slim::any_chain smooth_quant() {
  return slim::chain(slim::in_basis(slim::search_channel_scaling(int4_weights(), int4_inputs()), int4_weights()));
}

slim::any_chain svdquant() {
  constexpr slim::index_t rank = 32;
  return slim::chain(slim::in_basis(slim::search_channel_scaling(int4_weights(), int4_inputs(), {.rank = rank}),
                                    slim::low_rank_residual(int4_weights(), int4_inputs(), {.rank = {.number = rank}})));
}

} // namespace

slim::any_chain chain_of_system(code_part const& codes) {
  switch (codes.method) {
  case code_method::squeeze_llm: return squeeze_llm(codes);
  case code_method::kmeans: return plain_kmeans(codes);
  case code_method::spqr: return spqr(codes);
  case code_method::balanced_bits: return balanced_bits(codes);
  case code_method::smooth_quant: return smooth_quant();
  case code_method::svdquant: return svdquant();
  default: return bits_2_4_16(codes);
  }
}

} // namespace slim_llm
