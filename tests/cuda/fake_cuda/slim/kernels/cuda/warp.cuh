// In the place of slim/kernels/cuda/warp.cuh for forward_test.cpp: kernels are functions that run the emulator.
#pragma once

#include "emulated_layers.hpp"

#include <cuda_runtime.h>

struct __half {
  std::uint16_t bits;
};
struct __nv_bfloat16 {
  std::uint16_t bits;
};

/// What the emulated launches complained about.
inline std::string fake_complaint; // NOLINT

namespace slim {
inline namespace SLIM_ABI {
namespace cuda {

inline void note_launch(slim_test::emulated const& run, int ctas, int shared_bytes) {
  bool const fits = fake_config.gridDim.x == static_cast<unsigned>(ctas) && fake_config.blockDim.x == 32 * warps_per_cta &&
                    fake_config.dynamicSmemBytes == static_cast<std::size_t>(shared_bytes);
  if (!fits) fake_complaint += "the launch is not that of the plan; ";
  fake_complaint += run.complaint;
}

template <number_format N, int TILES>
void forward_kernel(kernel_plan plan) {
  note_launch(slim_test::run_launch<N, TILES>(plan, {}), plan.ctas, stages_offset + plan.stages * plan.stage_bytes);
}

template <number_format N>
void dequantize_kernel(dequantize_plan plan) {
  note_launch(slim_test::run_dequantize<N>(plan, {}), plan.ctas, plan.shared_bytes);
}

} // namespace cuda
} // namespace SLIM_ABI
} // namespace slim
