#include "slim/adapters/quantized_adapter.hpp"
#include "slim/adapters/saliency_lora.hpp"
#include "slim/adapters/sparse_adapter.hpp"
#include "slim/pruning/nm_pruner.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/saliency/magnitude.hpp"
#include "slim/testing/low_rank_solver_laws.hpp"

#include <catch2/catch.hpp>

using namespace slim;
using namespace slim::testing;

TEST_CASE("solvers by saliency keep the laws") {
  lora_config const config{.rank = {.number = 3}};
  CHECK(describe(check_low_rank_solver(naive_lora(config), 3)) == "");
  CHECK(describe(check_low_rank_solver(slim_lora(config), 3)) == "");
  CHECK(describe(check_low_rank_solver(l2qer_lora(config), 3)) == "");
  CHECK(describe(check_low_rank_solver(
            saliency_lora<rms_saliency>({.rank = {.number = 3}, .method = svd_method::exact, .format = number_format::bf16}),
            3)) == "");
}

TEST_CASE("quantized adapters keep the laws") {
  quantized_adapter const rounded(slim_lora({.rank = {.number = 5}}),
                                  absmax_quantizer({.bits = 4, .block = per_column_group(8)}));
  CHECK(describe(check_low_rank_solver(rounded, 5)) == "");
}

TEST_CASE("sparse adapters keep the laws, also before and after quantization") {
  sparse_adapter const thin(slim_lora({.rank = {.number = 4}}), nm_pruner<2, 4>(magnitude()));
  CHECK(describe(check_low_rank_solver(thin, 4)) == "");
  quantized_adapter const thin_then_rounded(thin, absmax_quantizer({.bits = 4}));
  CHECK(describe(check_low_rank_solver(thin_then_rounded, 4)) == "");
  sparse_adapter const rounded_then_thin(quantized_adapter(slim_lora({.rank = {.number = 4}}), absmax_quantizer({.bits = 4})),
                                         nm_pruner<2, 4>(magnitude()));
  CHECK(describe(check_low_rank_solver(rounded_then_thin, 4)) == "");
}
