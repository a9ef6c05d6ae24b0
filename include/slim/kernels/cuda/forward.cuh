#pragma once
/// @file
/// Compressed layers on NVIDIA GPUs, for .cu files. Reaches core/ only: nvcc cannot read slim.hpp, and the two meet in bytes.
///
///     // a .cpp file, any C++20 compiler            // a .cu file, nvcc -std=c++20
///     #include "slim/slim.hpp"                      #include "slim/kernels/cuda/forward.cuh"
///     auto packed = slim::pack_device(layer);       slim::cuda::device_linear w(packed.bytes, stream);
///                                                   slim::cuda::workspace room(stream);
///                                                   slim::cuda::forward_into(w, x, y, room);
///
/// **No GPU has run these kernels yet**: docs/benchmarks-gpu.md.

#include "slim/core/matrix_view.hpp"
#include "slim/kernels/cuda/dense_plan.cuh"
#include "slim/kernels/cuda/forward_plan.cuh"
#include "slim/kernels/cuda/warp.cuh"

#include <cuda_runtime.h>

#include <concepts>
#include <memory>
#include <utility>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {
namespace cuda {

/// A call of the CUDA runtime failed. The message names it, and the runtime's reason.
struct error : slim::error {
  error(cudaError_t reason, char const* call)
      : slim::error(message(call, ": ", cudaGetErrorName(reason), ", ", cudaGetErrorString(reason))), code(reason) {}
  cudaError_t code;
};

/// Types of X and Y.
template <class T>
concept device_number = std::same_as<T, __half> || std::same_as<T, __nv_bfloat16>;

namespace detail {

inline void require(cudaError_t code, char const* call) {
  if (code != cudaSuccess) throw error(code, call);
}

struct free_device_memory {
  void operator()(std::uint8_t* p) const noexcept { static_cast<void>(cudaFree(p)); }
};
using device_memory = std::unique_ptr<std::uint8_t, free_device_memory>;

[[nodiscard]] inline device_memory allocate(std::size_t bytes) {
  void* p = nullptr;
  require(cudaMalloc(&p, bytes), "cudaMalloc");
  return device_memory(static_cast<std::uint8_t*>(p));
}

[[nodiscard]] inline int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  require(cudaGetDevice(&device), "cudaGetDevice");
  require(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

} // namespace detail

/// A layer in the memory of the current device. Made of the bytes of pack_device, which may go away after it.
class device_linear {
public:
  /// One allocation, one copy. The header is checked, the rest is trusted: unpack_device reads bytes from strangers.
  /// @throws slim::error if these are no bytes of a layer; config_error if it is too large; cuda::error
  explicit device_linear(std::span<std::byte const> bytes, cudaStream_t stream = nullptr) {
    header_ = read_device_header(bytes).value();
    if (units_of(header_) > 0x7fffffff)
      throw config_error(message("cuda::device_linear: ", header_.rows, " x ", header_.cols, " is too large"));
    memory_ = detail::allocate(bytes.size());
    detail::require(cudaMemcpyAsync(memory_.get(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream),
                    "cudaMemcpyAsync");
    detail::require(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }

  [[nodiscard]] device_header const& header() const noexcept { return header_; }
  /// In the memory of the device.
  [[nodiscard]] std::uint8_t const* data() const noexcept { return memory_.get(); }

private:
  device_header header_;
  detail::device_memory memory_;
};

/// What a product needs of a workspace: floats, counters, 16-bit numbers of X L, words of dense matrices.
struct workspace_size {
  std::int64_t slots = 0, counters = 0, inner = 0, dense = 0;
};

/// What the kernels of one stream need beside layers: sums of parts, counters, X L; dense matrices where it has a gemm. It
/// grows when a product needs more than all before it, never while a graph is captured, and keeps what it had, since graphs may
/// hold it: call forward_into, or reserve, once with the largest shapes first.
class workspace {
public:
  /// @throws config_error on a device below compute capability 8.0; cuda::error
  explicit workspace(cudaStream_t stream) : stream_(stream) {
    int const major = detail::attribute(cudaDevAttrComputeCapabilityMajor);
    if (major < 8) throw config_error(message("cuda::workspace: compute capability ", major, ".x, needed is 8.0"));
    limits_ = {.ctas = detail::attribute(cudaDevAttrMultiProcessorCount),
               .shared_bytes = detail::attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
    dependent_launch_ = major >= 9;
  }

  [[nodiscard]] cudaStream_t stream() const noexcept { return stream_; }
  /// CTAs of a launch and their shared memory; by default one CTA per multiprocessor, and all of it.
  [[nodiscard]] launch_limits const& limits() const noexcept { return limits_; }
  void set_limits(launch_limits const& limits) { limits_ = limits; }
  /// Whether kernels may begin to load weights before the kernel in front of them ends (programmatic dependent launch).
  [[nodiscard]] bool dependent_launch() const noexcept { return dependent_launch_; }
  void set_dependent_launch(bool on) { dependent_launch_ = on; }

  /// Dense products for many tokens (interop/cublas_dense.hpp); without one, kernels take them 64 at a time.
  [[nodiscard]] dense_gemm const& gemm() const noexcept { return gemm_; }
  /// @throws config_error if it is to be used from less than one token on
  void set_gemm(dense_gemm const& gemm) {
    if (gemm.least_tokens < 1)
      throw config_error(message("cuda::workspace: a gemm from ", gemm.least_tokens, " tokens on, possible is 1 or more"));
    gemm_ = gemm;
  }

  /// Room for a product; counters are 0. @throws config_error where it had to grow while its stream is captured; cuda::error
  void reserve(workspace_size const& needed) {
    if (needed.slots <= size_.slots && needed.counters <= size_.counters && needed.inner <= size_.inner &&
        needed.dense <= size_.dense)
      return;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    detail::require(cudaStreamIsCapturing(stream_, &capture), "cudaStreamIsCapturing");
    if (capture != cudaStreamCaptureStatusNone)
      throw config_error(
          "cuda::workspace: a larger one is needed, and a graph that is being captured cannot allocate; call forward_into "
          "with these layers and tokens once before the capture");
    size_ = {std::max(needed.slots, size_.slots), std::max(needed.counters, size_.counters),
             std::max(needed.inner, size_.inner), std::max(needed.dense, size_.dense)};
    memory_.push_back(detail::allocate(static_cast<std::size_t>(dense_at() + 4 * size_.dense)));
    detail::require(
        cudaMemsetAsync(memory_.back().get() + counters_at(), 0, static_cast<std::size_t>(4 * size_.counters), stream_),
        "cudaMemsetAsync");
  }

  [[nodiscard]] float* slots() const noexcept { return reinterpret_cast<float*>(memory_.back().get()); }
  [[nodiscard]] u32* counters() const noexcept { return reinterpret_cast<u32*>(memory_.back().get() + counters_at()); }
  [[nodiscard]] std::uint16_t* inner() const noexcept {
    return reinterpret_cast<std::uint16_t*>(memory_.back().get() + inner_at());
  }
  [[nodiscard]] u32* dense() const noexcept { return reinterpret_cast<u32*>(memory_.back().get() + dense_at()); }

private:
  [[nodiscard]] static std::int64_t whole(std::int64_t bytes) noexcept { return (bytes + 255) / 256 * 256; }
  [[nodiscard]] std::int64_t counters_at() const noexcept { return 4 * size_.slots; }
  [[nodiscard]] std::int64_t inner_at() const noexcept { return whole(counters_at() + 4 * size_.counters); }
  [[nodiscard]] std::int64_t dense_at() const noexcept { return whole(inner_at() + 2 * size_.inner); }

  cudaStream_t stream_;
  launch_limits limits_;
  bool dependent_launch_ = false;
  dense_gemm gemm_;
  workspace_size size_;
  std::vector<detail::device_memory> memory_;
};

/// A layer of a joint product and where its outputs go, Y (tokens x d_out).
template <device_number T>
struct layer_output {
  device_linear const* layer;
  matrix_view<T> y;
};

/// What becomes of Y.
struct forward_options {
  bool add = false; ///< Y += instead of Y =
};

namespace detail {

template <device_number T>
inline constexpr number_format format_of = std::same_as<T, __half> ? number_format::fp16 : number_format::bf16;

template <number_format N, int TILES>
void launch_tiles(kernel_plan const& plan, workspace const& room) {
  auto const kernel = forward_kernel<N, TILES>;
  int const shared = stages_offset + plan.stages * plan.stage_bytes;
  require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "cudaFuncSetAttribute");
  cudaLaunchAttribute dependent = {};
  dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  dependent.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(plan.ctas));
  config.blockDim = dim3(32 * warps_per_cta);
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = room.stream();
  config.attrs = &dependent;
  config.numAttrs = room.dependent_launch() ? 1 : 0;
  require(cudaLaunchKernelEx(&config, kernel, plan), "cudaLaunchKernelEx");
}

template <number_format N>
void launch(kernel_plan const& plan, workspace const& room) {
  switch (tiles_of(plan.tokens)) {
  case 1: return launch_tiles<N, 1>(plan, room);
  case 2: return launch_tiles<N, 2>(plan, room);
  case 4: return launch_tiles<N, 4>(plan, room);
  default: return launch_tiles<N, most_tiles>(plan, room);
  }
}

/// Why a layer cannot multiply numbers of this format; empty if it can.
[[nodiscard]] inline std::string why_not(device_header const& h, number_format x) {
  device_kind const other = x == number_format::fp16 ? device_kind::bf16 : device_kind::fp16;
  if (h.left.kind != other && h.weight.kind != other && h.right.kind != other) return {};
  return message("X is ", name_of(x),
                 ", and the layer holds numbers of the other 16-bit format; pack it with device_options::numbers");
}

/// At most most_jobs layers, at most 8 most_tiles tokens.
template <number_format N>
void forward_some(std::span<layer_call const> calls, input_rows const& x, bool add, workspace& room) {
  forward_plans plans = plan_forward(calls, x, nullptr, add, room.limits());
  if (plans.outputs.count == 0) return; // no layer has outputs
  std::int64_t slots = 0, counters = 0;
  for (kernel_plan const* p : {&plans.left, &plans.outputs}) {
    if (p->count == 0) continue;
    slots = std::max<std::int64_t>(slots, 2 * std::int64_t{p->ctas} * slot_size(tiles_of(x.tokens)));
    counters = std::max<std::int64_t>(counters, p->jobs[p->count - 1].first_pair + p->jobs[p->count - 1].pairs);
    if (p->stages < 2)
      throw config_error(message("cuda::forward_into: ", room.limits().shared_bytes, " bytes of shared memory, two stages of ",
                                 p->stage_bytes, " are needed"));
  }
  room.reserve({.slots = slots, .counters = counters, .inner = inner_size(calls, x.tokens)});
  plans = plan_forward(calls, x, room.inner(), add, room.limits());
  for (kernel_plan* p : {&plans.left, &plans.outputs}) {
    if (p->count == 0) continue;
    p->slots = room.slots();
    p->arrived = room.counters();
    launch<N>(*p, room);
  }
}

/// W, L^T and R^T as dense numbers, in the workspace's stream.
template <number_format N>
void dequantize(dequantize_plan const& plan, workspace const& room) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(plan.ctas));
  config.blockDim = dim3(32 * warps_per_cta);
  config.dynamicSmemBytes = static_cast<std::size_t>(plan.shared_bytes);
  config.stream = room.stream();
  require(cudaLaunchKernelEx(&config, dequantize_kernel<N>, plan), "cudaLaunchKernelEx");
}

/// A layer by the workspace's gemm.
template <number_format N>
void forward_dense(layer_call const& call, input_rows const& x, bool add, workspace& room) {
  room.reserve({.dense = dense_size(call.header)});
  dense_plan const plan = plan_dense(call, x, room.dense(), add, N);
  dequantize<N>(plan.matrices, room);
  for (int k = 0; k < plan.count; ++k) room.gemm().multiply(room.gemm().state, room.stream(), plan.products[k]);
}

/// The kernel that takes 64 tokens at a time, for any number of layers and tokens.
template <device_number T>
void forward_tiles(std::span<layer_output<T> const> outputs, matrix_view<T const> x, bool add, workspace& room) {
  constexpr index_t most_tokens = 8 * most_tiles;
  for (index_t first = 0; first < x.rows(); first += most_tokens)
    for (std::size_t layer = 0; layer < outputs.size(); layer += most_jobs) {
      layer_call calls[most_jobs];
      std::size_t const count = std::min<std::size_t>(most_jobs, outputs.size() - layer);
      for (std::size_t k = 0; k < count; ++k) {
        layer_output<T> const& o = outputs[layer + k];
        calls[k] = {o.layer->data(), o.layer->header(), reinterpret_cast<std::uint16_t*>(o.y.row(first)), o.y.row_stride()};
      }
      input_rows const rows{reinterpret_cast<std::uint16_t const*>(x.row(first)), x.row_stride(),
                            static_cast<int>(std::min(most_tokens, x.rows() - first))};
      forward_some<format_of<T>>({calls, count}, rows, add, room);
    }
}

} // namespace detail

/// Y = X W^T + (X L) R, or Y +=, of several layers that read the same X (tokens x d_in): queries, keys and values, say. Two
/// launches, one for all X L (none without adapters) and one for all outputs, for every 64 tokens and 8 layers. X, Y and the
/// layers are in the memory of the current device; the call returns when the kernels are in the workspace's stream. A graph can
/// capture it. Many tokens go to the workspace's gemm, if it has one and the distances of rows fit an int: each layer is then
/// written out with its adapter added to the weight, and multiplied by it.
///
/// **Numerics** Codes are exact in the type of X, sums and scales are float; X L is rounded to the type of X, Y once at the
/// end. By a gemm W, L and R are rounded to the type of X, and their sum again; what fp16 cannot hold becomes infinite.
/// The same card and shapes give the same bits. The CPU's forward_into rounds X to int8 unless asked otherwise: its results
/// differ.
/// @throws shape_error; config_error if a layer holds numbers of the other 16-bit type, or the workspace would have to grow in
/// a capture; cuda::error; what the gemm throws
template <device_number T>
void forward_into(std::span<layer_output<T> const> outputs, matrix_view<T const> x, workspace& room,
                  forward_options const& options = {}) {
  constexpr number_format format = detail::format_of<T>;
  for (layer_output<T> const& o : outputs) {
    if (!o.layer) throw config_error("cuda::forward_into: an output has no layer");
    device_header const& h = o.layer->header();
    if (x.cols() != index_t{h.cols} || o.y.cols() != index_t{h.rows} || x.rows() != o.y.rows())
      throw shape_error(message("cuda::forward_into: X ", x.rows(), " x ", x.cols(), ", W ", h.rows, " x ", h.cols, ", Y ",
                                o.y.rows(), " x ", o.y.cols()));
    if (std::string const why = detail::why_not(h, format); !why.empty())
      throw config_error(message("cuda::forward_into: ", why));
  }
  if (!room.gemm().multiply || x.rows() < room.gemm().least_tokens) return detail::forward_tiles(outputs, x, options.add, room);
  for (layer_output<T> const& o : outputs) {
    if (!fits_dense_product(o.layer->header(), x.rows(), x.row_stride(), o.y.row_stride())) {
      detail::forward_tiles(std::span(&o, 1), x, options.add, room);
      continue;
    }
    layer_call const call{o.layer->data(), o.layer->header(), reinterpret_cast<std::uint16_t*>(o.y.row(0)), o.y.row_stride()};
    detail::forward_dense<format>(
        call, {reinterpret_cast<std::uint16_t const*>(x.row(0)), x.row_stride(), static_cast<int>(x.rows())}, options.add,
        room);
  }
}

/// The same of one layer.
template <device_number T>
void forward_into(device_linear const& layer, matrix_view<T const> x, matrix_view<T> y, workspace& room,
                  forward_options const& options = {}) {
  layer_output<T> const output{&layer, y};
  forward_into(std::span<layer_output<T> const>(&output, 1), x, room, options);
}

} // namespace cuda
} // namespace SLIM_ABI
} // namespace slim
