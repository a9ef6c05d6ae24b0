#include "models/elementwise.hpp"

#include "slim/core/scalar.hpp"

namespace slim_llm {
namespace {

namespace baseline {
#define SLIM_LLM_LANES 4
#include "models/elementwise_kernels.inc"
#undef SLIM_LLM_LANES
} // namespace baseline

#if SLIM_SIMD_X86
SLIM_SIMD_BEGIN_AVX2
namespace avx2 {
#define SLIM_LLM_LANES 8
#include "models/elementwise_kernels.inc"
#undef SLIM_LLM_LANES
} // namespace avx2
SLIM_SIMD_END
SLIM_SIMD_BEGIN_AVX512
namespace avx512 {
#define SLIM_LLM_LANES 16
#include "models/elementwise_kernels.inc"
#undef SLIM_LLM_LANES
} // namespace avx512
SLIM_SIMD_END
#endif

} // namespace

// Dispatch once per row: hundreds of elements.
#if SLIM_SIMD_X86
#define SLIM_LLM_DISPATCH(level, call)                                                                                         \
  switch (slim::resolve(level)) {                                                                                              \
  case slim::simd_level::avx512: return avx512::call;                                                                          \
  case slim::simd_level::avx2: return avx2::call;                                                                              \
  default: return baseline::call;                                                                                              \
  }
#else
#define SLIM_LLM_DISPATCH(level, call)                                                                                         \
  (void)slim::resolve(level);                                                                                                  \
  return baseline::call;
#endif

float max_of(float const* x, index_t n, slim::simd_level level) { SLIM_LLM_DISPATCH(level, max_of(x, n)) }

float exp_inplace(float* x, index_t n, float shift, float scale, slim::simd_level level) {
  SLIM_LLM_DISPATCH(level, exp_inplace(x, n, shift, scale))
}

void multiply_panels(panel_product const& p, slim::simd_level level) { SLIM_LLM_DISPATCH(level, multiply_panels(p)) }

void to_fp16(float const* x, index_t n, std::uint16_t* out, slim::simd_level level) {
  SLIM_LLM_DISPATCH(level, to_fp16(x, n, out))
}

void from_fp16(std::uint16_t const* x, index_t n, float* out, slim::simd_level level) {
  SLIM_LLM_DISPATCH(level, from_fp16(x, n, out))
}

void multiply_by_silu(float* up, float const* gate, index_t n, slim::simd_level level) {
  SLIM_LLM_DISPATCH(level, multiply_by_silu(up, gate, n))
}

} // namespace slim_llm
