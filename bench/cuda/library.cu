// The kernels as C functions on raw pointers, for table.py: layers are bytes of the device format in host memory, X and Y
// addresses in the memory of the device. Functions return null, or a sentence that stays valid until the next call.

#include "slim/kernels/cuda/forward.cuh"

#include <string>
#include <vector>

namespace {

std::string& last_error() {
  static std::string text;
  return text;
}

template <class F>
char const* guarded(F const& f) {
  try {
    f();
    return nullptr;
  } catch (std::exception const& e) {
    last_error() = e.what();
    return last_error().c_str();
  }
}

template <class T>
void forward(slim::cuda::workspace& room, void* const* layers, void* const* y, int count, void const* x, int tokens, int cols) {
  std::vector<slim::cuda::layer_output<T>> outputs;
  for (int k = 0; k < count; ++k) {
    auto const* const layer = static_cast<slim::cuda::device_linear const*>(layers[k]);
    outputs.push_back({layer, slim::matrix_view<T>(static_cast<T*>(y[k]), tokens, layer->header().rows)});
  }
  slim::cuda::forward_into(std::span<slim::cuda::layer_output<T> const>(outputs),
                           slim::matrix_view<T const>(static_cast<T const*>(x), tokens, cols), room);
}

} // namespace

extern "C" {
char const* slim_bench_layer(void const* bytes, std::size_t count, void** layer) {
  return guarded([&] { *layer = new slim::cuda::device_linear(std::span(static_cast<std::byte const*>(bytes), count)); });
}
void slim_bench_free_layer(void* layer) { delete static_cast<slim::cuda::device_linear*>(layer); }
char const* slim_bench_workspace(void* stream, void** room) {
  return guarded([&] { *room = new slim::cuda::workspace(static_cast<cudaStream_t>(stream)); });
}
/// CTAs per multiprocessor, and dependent launches or not.
char const* slim_bench_set(void* room, int ctas_per_multiprocessor, int dependent) {
  return guarded([&] {
    auto& w = *static_cast<slim::cuda::workspace*>(room);
    int const ctas = slim::cuda::detail::attribute(cudaDevAttrMultiProcessorCount) * ctas_per_multiprocessor;
    int const shared = slim::cuda::detail::attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) / ctas_per_multiprocessor;
    w.set_limits({ctas, shared - 1024 * (ctas_per_multiprocessor - 1)});
    w.set_dependent_launch(dependent != 0);
  });
}
char const* slim_bench_forward(void* room, void* const* layers, void* const* y, int count, void const* x, int tokens, int cols,
                               int bf16) {
  return guarded([&] {
    auto& w = *static_cast<slim::cuda::workspace*>(room);
    if (bf16 != 0)
      forward<__nv_bfloat16>(w, layers, y, count, x, tokens, cols);
    else
      forward<__half>(w, layers, y, count, x, tokens, cols);
  });
}
/// W, L^T and R^T of a layer as dense fp16 matrices, one behind the other: forward_into's way with many tokens but for the
/// products, which table.py leaves to torch's cuBLAS.
char const* slim_bench_dequantize(void* room, void const* layer, void* out) {
  return guarded([&] {
    auto const& l = *static_cast<slim::cuda::device_linear const*>(layer);
    slim::cuda::detail::dequantize<slim::number_format::fp16>(
        slim::cuda::detail::plan_dequantize(l.data(), l.header(), static_cast<slim::cuda::u32*>(out)),
        *static_cast<slim::cuda::workspace const*>(room));
  });
}
}
