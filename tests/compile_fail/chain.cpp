#include "slim/slim.hpp"

slim::matrix<float> W(8, 16);
slim::calibration seen(16);

struct not_a_step {};

void use() {
  using namespace slim;
#if CASE == 0
  (void)compress(W, seen, chain(slim_quantizer(), nm_pruner<2, 4>(wanda{}), slim_lora()));
#elif CASE == 1 // error: slim::compress: the chain quantizes twice; a layer has one set of codes.
  (void)compress(W, seen, chain(slim_quantizer(), absmax_quantizer()));
#elif CASE == 2 // error: slim::compress: the chain prunes twice; a layer has one mask.
  (void)compress(W, seen, chain(nm_pruner<2, 4>(wanda{}), nm_pruner<2, 4>(magnitude{})));
#elif CASE == 3 // error: slim::compress: an adapter before anything lossy has no error to repair.
  (void)compress(W, seen, chain(slim_lora(), slim_quantizer()));
#elif CASE == 4 // error: slim::compress: a pruner after the adapter would undo the repair; put the adapter last.
  (void)compress(W, seen, chain(slim_quantizer(), slim_lora(), nm_pruner<2, 4>(wanda{})));
#elif CASE == 5 // error: slim::compress: a quantizer after the adapter would undo the repair; put the adapter last.
  (void)compress(W, seen, chain(nm_pruner<2, 4>(wanda{}), slim_lora(), slim_quantizer()));
#elif CASE == 6 // error: slim::compress: the chain has two adapters; a layer has one.
  (void)compress(W, seen, chain(slim_quantizer(), slim_lora(), naive_lora()));
#elif CASE == 7 // error: slim::compress: a step of the chain is no pruner, quantizer or low-rank solver
  (void)compress(W, seen, chain(not_a_step{}));
#elif CASE == 8 // error: no member named 'rows'
  (void)compress(W, seen, chain(nm_pruner<2, 4>(wanda{}))).codes.rows(); // there is no quantizer, so there are no codes
#elif CASE == 9 // error: slim::nm_pruner<N, M>: 0 < N <= M <= 64
  (void)nm_pruner<4, 2>(wanda{});
#elif CASE == 10 // error: slim: not a matrix.
  (void)compress(not_a_step{}, seen, chain(slim_quantizer()));
#endif
}
