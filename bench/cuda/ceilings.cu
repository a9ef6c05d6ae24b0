// What this card can do at most: ceilings. Prints "name,value,unit" lines. Each kernel runs in a graph, the median of several.

#include "slim/kernels/cuda/warp.cuh"

#include "slim/kernels/cuda/forward.cuh"

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

namespace {

using slim::cuda::detail::require;

/// Microseconds of one of `repeats` runs that `work` puts into the stream, the median of 15 graphs.
template <class Work>
double microseconds(cudaStream_t stream, int repeats, Work const& work) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t runnable = nullptr;
  work(); // what has to be loaded is
  require(cudaStreamSynchronize(stream), "warm up");
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int k = 0; k < repeats; ++k) work();
  require(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  require(cudaGraphInstantiate(&runnable, graph, 0), "cudaGraphInstantiate");
  cudaEvent_t begin = nullptr, end = nullptr;
  require(cudaEventCreate(&begin), "cudaEventCreate");
  require(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> times;
  for (int k = 0; k < 17; ++k) {
    require(cudaEventRecord(begin, stream), "cudaEventRecord");
    require(cudaGraphLaunch(runnable, stream), "cudaGraphLaunch");
    require(cudaEventRecord(end, stream), "cudaEventRecord");
    require(cudaEventSynchronize(end), "cudaEventSynchronize");
    float ms = 0;
    require(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    if (k >= 2) times.push_back(ms);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  require(cudaGraphExecDestroy(runnable), "cudaGraphExecDestroy");
  require(cudaGraphDestroy(graph), "cudaGraphDestroy");
  return 1000.0 * static_cast<double>(times[times.size() / 2]) / repeats;
}

__global__ void read_all(uint4 const* from, std::size_t count, unsigned* out) {
  unsigned sum = 0;
  std::size_t const step = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    uint4 const v = __ldcs(from + i);
    sum += v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) *out = sum; // so that nothing is left out
}

__global__ void empty_kernel() {
#if SLIM_CUDA_BULK
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// `count` products of four independent accumulators per warp.
template <bool SPARSE>
__global__ void multiply_only(int count, float* out) {
  float c[4][4] = {};
  slim::cuda::u32 const a[4] = {0x3c003c00u, 0, 0x3c003c00u, 0}, b[4] = {threadIdx.x, 0x3c003c00u, threadIdx.x, 0};
  for (int k = 0; k < count; ++k)
#pragma unroll
    for (int n = 0; n < 4; ++n)
      if constexpr (SPARSE)
        slim::cuda::device_warp::mma_sp<slim::number_format::fp16, 0>(c[n], a, b, 0x44444444u);
      else
        slim::cuda::device_warp::mma<slim::number_format::fp16>(c[n], a, b[0], b[1]);
  for (int n = 0; n < 4; ++n)
    for (int k = 0; k < 4; ++k)
      if (c[n][k] == 1.25f) *out = c[n][k];
}

/// The ring of the forward kernel without arithmetic: stages of `bytes` bytes, as copy_chunks brings them.
__global__ void ring_only(unsigned char const* from, int units, int stages, int bytes) {
  extern __shared__ __align__(128) unsigned char shared[];
  slim::cuda::device_warp w(shared);
  int const first = static_cast<int>(static_cast<long long>(units) * blockIdx.x / gridDim.x),
            last = static_cast<int>(static_cast<long long>(units) * (blockIdx.x + 1) / gridDim.x);
  auto const copy = [&](int unit) {
    if (!w.copies_chunks()) return;
    unsigned char const* const at = from + static_cast<std::size_t>(unit) * static_cast<std::size_t>(bytes);
    int const stage = (unit - first) % stages;
    w.copy_chunks(stage, slim::cuda::stages_offset + stage * bytes, at, bytes / 2, at + bytes / 2, bytes / 2);
  };
  w.init_barriers(stages);
  for (int k = 0; k + 1 < stages; ++k) {
    if (first + k < last) copy(first + k);
    w.commit();
  }
  for (int unit = first; unit < last; ++unit) {
    w.wait_copies(stages - 2);
    w.wait_bulk((unit - first) % stages, (unit - first) / stages);
    w.sync();
    if (unit + stages - 1 < last) copy(unit + stages - 1);
    w.commit();
  }
}

void print(std::string const& name, double value, char const* unit) { std::printf("%s,%.5g,%s\n", name.c_str(), value, unit); }

void run() {
  cudaStream_t stream = nullptr;
  require(cudaStreamCreate(&stream), "cudaStreamCreate");
  int const processors = slim::cuda::detail::attribute(cudaDevAttrMultiProcessorCount);
  print("multiprocessors", processors, "");
  constexpr std::size_t size = std::size_t{1} << 31;
  auto const from = slim::cuda::detail::allocate(size), to = slim::cuda::detail::allocate(size);
  require(cudaMemset(from.get(), 1, size), "cudaMemset");

  double us = microseconds(
      stream, 2, [&] { require(cudaMemcpyAsync(to.get(), from.get(), size, cudaMemcpyDeviceToDevice, stream), "copy"); });
  print("copy bandwidth (read + written)", 2e-6 * static_cast<double>(size) / us, "TB/s");
  us = microseconds(stream, 2, [&] {
    read_all<<<4 * processors, 512, 0, stream>>>(reinterpret_cast<uint4 const*>(from.get()), size / 16,
                                                 reinterpret_cast<unsigned*>(to.get()));
  });
  double const read = 1e-6 * static_cast<double>(size) / us;
  print("read bandwidth", read, "TB/s");

  for (bool const dependent : {false, true}) {
    us = microseconds(stream, 50, [&] {
      cudaLaunchAttribute attribute = {};
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(static_cast<unsigned>(processors));
      config.blockDim = dim3(256);
      config.stream = stream;
      config.attrs = &attribute;
      config.numAttrs = dependent ? 1 : 0;
      require(cudaLaunchKernelEx(&config, empty_kernel), "cudaLaunchKernelEx");
    });
    print(dependent ? "empty kernel, dependent launch" : "empty kernel", us, "us");
  }

  constexpr int count = 20000;
  auto* const out = reinterpret_cast<float*>(to.get());
  // A product of 16 x 8 x 16; with 2:4 weights it stands for twice as many columns.
  double const flops = 2.0 * 16 * 8 * 16 * 4 * 8 * count * processors * 2;
  us = microseconds(stream, 1, [&] { multiply_only<false><<<2 * processors, 256, 0, stream>>>(count, out); });
  print("mma m16n8k16", flops / us * 1e-6, "TFLOP/s");
  us = microseconds(stream, 1, [&] { multiply_only<true><<<2 * processors, 256, 0, stream>>>(count, out); });
  print("mma.sp m16n8k32 (zeros counted)", 2 * flops / us * 1e-6, "TFLOP/s");

  constexpr int bytes = 6400; // two chunks of 3-bit codes in groups of 128
  constexpr int units = static_cast<int>((size / 4) / bytes);
  require(cudaFuncSetAttribute(ring_only, cudaFuncAttributeMaxDynamicSharedMemorySize, slim::cuda::stages_offset + 8 * bytes),
          "ring_only");
  for (int const ctas : {1, 2})
    for (int const stages : {2, 4, 6, 8}) {
      us = microseconds(stream, 1, [&] {
        ring_only<<<ctas * processors, 256, slim::cuda::stages_offset + stages * bytes, stream>>>(from.get(), units, stages,
                                                                                                  bytes);
      });
      print("ring of " + std::to_string(stages) + " stages, " + std::to_string(ctas) +
                " CTAs per multiprocessor, no arithmetic",
            1e-6 * units * static_cast<double>(bytes) / us, "TB/s");
    }
}

} // namespace

int main() {
  try {
    run();
  } catch (std::exception const& e) {
    std::printf("ceilings: %s\n", e.what());
    return 1;
  }
}
