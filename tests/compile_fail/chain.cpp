#include "slim/pipeline/compress.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/slim_quantizer.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/testing/archetypes.hpp"

struct nothing {};

/// A pruner and a quantizer at once.
struct two_roles : slim::absmax_quantizer {
  slim::mask select(slim::matrix_view<float const> w, slim::calibration const&, slim::context const& = {}) const { return {w.rows(), w.cols()}; }
};

void use(slim::matrix<float> const& w) {
  slim::absmax_quantizer const absmax;
  auto const prune = slim::nm_pruner<2, 4>(slim::magnitude());
  using adapter_step = slim::testing::low_rank_solver_archetype;
  using slim::chain, slim::compress;
#if CASE == 0
  (void)compress(w, chain(absmax, prune, adapter_step(0)));
  (void)compress(w, chain());
  (void)compress(w, chain(prune, [](auto state, slim::calibration const&, slim::context const&) { return state; }));
#elif CASE == 1 // error: slim::compress: the chain quantizes twice; a layer has one set of codes.
  (void)compress(w, chain(absmax, slim::slim_quantizer()));
#elif CASE == 2 // error: slim::compress: the chain prunes twice; a layer has one mask.
  (void)compress(w, chain(prune, absmax, prune));
#elif CASE == 3 // error: slim::compress: an adapter before anything lossy has no error to repair.
  (void)compress(w, chain(adapter_step(0), absmax));
#elif CASE == 4 // error: slim::compress: the chain has two adapters; a layer has one.
  (void)compress(w, chain(absmax, adapter_step(0), adapter_step(0)));
#elif CASE == 5 // error: slim::compress: a step of the chain is no pruner, quantizer, low-rank solver or joint compressor
  (void)compress(w, chain(absmax, nothing()));
#elif CASE == 6 // error: slim::compress: a quantizer after the adapter would undo the repair; put the adapter last.
  (void)compress(w, chain(prune, adapter_step(0), absmax));
#elif CASE == 7 // error: slim::compress: a pruner after the adapter would undo the repair; put the adapter last.
  (void)compress(w, chain(absmax, adapter_step(0), prune));
#elif CASE == 8 // error: slim::compress: a step plays two roles
  (void)compress(w, chain(two_roles()));
#elif CASE == 9 // error: slim::nm_pruner<N, M>: 0 < N <= M <= 64
  (void)slim::nm_pruner<4, 2>(slim::magnitude());
#elif CASE == 10 // error: none
  (void)compress(w, chain(absmax)).adapter.rank(); // a slot that is not there
#endif
}
