// Checks a GPU against what make_cases.cpp wrote, bit for bit: device_test CASES [small] [FILE]. With `small` the first 40
// products on few CTAs, for compute-sanitizer. FILE: where the results of the trials go as the GPU gave them. Exit code 1 if
// anything differs.

#include "../../tests/cuda/primitives.cuh"
#include "slim/kernels/cuda/forward.cuh"

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

using slim::number_format;

class reader {
public:
  explicit reader(char const* path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }
  [[nodiscard]] char const* take(std::size_t count) {
    char const* const at = bytes_.data() + position_;
    position_ += (count + 15) / 16 * 16;
    if (position_ > bytes_.size()) throw slim::error("device_test: the file of cases ends too early");
    return at;
  }
  template <std::size_t Count>
  void words(unsigned (&into)[Count]) {
    std::memcpy(into, take(sizeof into), sizeof into);
  }

private:
  std::vector<char> bytes_;
  std::size_t position_ = 0;
};

template <class T>
class device_array {
public:
  device_array(void const* from, std::size_t count)
      : count_(count), memory_(slim::cuda::detail::allocate(sizeof(T) * (count + 1))) {
    set(from);
  }
  void set(void const* from) const {
    slim::cuda::detail::require(cudaMemcpy(memory_.get(), from, sizeof(T) * count_, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  [[nodiscard]] T* data() const { return reinterpret_cast<T*>(memory_.get()); }
  [[nodiscard]] std::vector<T> host() const {
    std::vector<T> out(count_);
    slim::cuda::detail::require(cudaMemcpy(out.data(), memory_.get(), sizeof(T) * count_, cudaMemcpyDeviceToHost),
                                "cudaMemcpy");
    return out;
  }

private:
  std::size_t count_;
  slim::cuda::detail::device_memory memory_;
};

/// A dense product without cuBLAS: what the kernels that write matrices out are checked with.
template <number_format N>
__global__ void multiply_dense(slim::cuda::dense_product const p) {
  using warp = slim::cuda::device_warp;
  long long const at = blockIdx.x * 256ll + threadIdx.x, i = at / p.n, j = at % p.n;
  if (i >= p.m) return;
  std::uint16_t* const c = p.c + i * p.ldc + j;
  float sum = p.add ? warp::value_of<N>(*c) : 0.0f;
  for (long long k = 0; k < p.k; ++k)
    sum += warp::value_of<N>(p.a[i * p.lda + k]) * warp::value_of<N>(p.transpose_b ? p.b[j * p.ldb + k] : p.b[k * p.ldb + j]);
  *c = warp::bits_of<N>(sum);
}

void simple_gemm(void*, void* stream, slim::cuda::dense_product const& p) {
  auto const blocks = static_cast<unsigned>((p.m * p.n + 255) / 256);
  if (p.numbers == number_format::fp16)
    multiply_dense<number_format::fp16><<<blocks, 256, 0, static_cast<cudaStream_t>(stream)>>>(p);
  else
    multiply_dense<number_format::bf16><<<blocks, 256, 0, static_cast<cudaStream_t>(stream)>>>(p);
  slim::cuda::detail::require(cudaGetLastError(), "multiply_dense");
}

/// How a product is computed: by a call, by a graph that a call was captured in, by dense matrices.
enum class way { call, graph, dense };

/// One product, read from the file; outputs that differ on `ctas` CTAs (0: as the workspace has it).
struct stored_product {
  unsigned head[6] = {}; // type, tokens, layers, add, columns and stride of X
  char const* x = nullptr;
  struct layer {
    unsigned head[3] = {}; // bytes, rows, stride of Y
    char const *bytes = nullptr, *before = nullptr, *behind = nullptr, *by_dense = nullptr;
  };
  std::vector<layer> layers;

  explicit stored_product(reader& from) {
    from.words(head);
    x = from.take(2ull * head[1] * head[5]);
    for (unsigned k = 0; k < head[2]; ++k) {
      layer& l = layers.emplace_back();
      from.words(l.head);
      l.bytes = from.take(l.head[0]);
      l.before = from.take(2ull * head[1] * l.head[2]);
      l.behind = from.take(2ull * head[1] * l.head[2]);
      l.by_dense = from.take(2ull * head[1] * l.head[2]);
    }
  }

  template <class T>
  [[nodiscard]] std::size_t wrong(way how, int ctas, bool dependent, cudaStream_t stream) const {
    slim::cuda::workspace room(stream);
    if (how == way::dense) room.set_gemm({.multiply = simple_gemm, .least_tokens = 1});
    if (ctas > 0) room.set_limits({ctas, room.limits().shared_bytes});
    room.set_dependent_launch(dependent && room.dependent_launch());
    auto const tokens = static_cast<slim::index_t>(head[1]);
    device_array<T> const inputs(x, std::size_t{head[1]} * head[5]);
    std::vector<slim::cuda::device_linear> linears;
    std::vector<device_array<T>> y;
    for (layer const& l : layers) {
      linears.emplace_back(std::span(reinterpret_cast<std::byte const*>(l.bytes), l.head[0]), stream);
      y.emplace_back(l.before, std::size_t{head[1]} * l.head[2]);
    }
    std::vector<slim::cuda::layer_output<T>> outputs;
    for (std::size_t k = 0; k < layers.size(); ++k)
      outputs.push_back({&linears[k], slim::matrix_view<T>(y[k].data(), tokens, layers[k].head[1], layers[k].head[2])});
    auto const forward = [&] {
      slim::cuda::forward_into(std::span<slim::cuda::layer_output<T> const>(outputs),
                               slim::matrix_view<T const>(inputs.data(), tokens, head[4], head[5]), room,
                               {.add = head[3] != 0});
    };
    forward();
    slim::cuda::detail::require(cudaStreamSynchronize(stream), "the kernels");
    if (how == way::graph) {
      for (std::size_t k = 0; k < layers.size(); ++k) y[k].set(layers[k].before);
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t runnable = nullptr;
      slim::cuda::detail::require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
      forward();
      slim::cuda::detail::require(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
      slim::cuda::detail::require(cudaGraphInstantiate(&runnable, graph, 0), "cudaGraphInstantiate");
      slim::cuda::detail::require(cudaGraphLaunch(runnable, stream), "cudaGraphLaunch");
      slim::cuda::detail::require(cudaStreamSynchronize(stream), "the graph");
      slim::cuda::detail::require(cudaGraphExecDestroy(runnable), "cudaGraphExecDestroy");
      slim::cuda::detail::require(cudaGraphDestroy(graph), "cudaGraphDestroy");
    }
    std::size_t different = 0;
    for (std::size_t k = 0; k < layers.size(); ++k) {
      std::vector<T> const found = y[k].host();
      for (std::size_t i = 0; i < found.size(); ++i)
        different +=
            std::memcmp(&found[i], (how == way::dense ? layers[k].by_dense : layers[k].behind) + 2 * i, 2) != 0 ? 1 : 0;
    }
    return different;
  }
};

template <number_format N>
__global__ void run_trial(unsigned char const* bytes, slim::cuda::u32* found) {
  __shared__ __align__(128) unsigned char shared[slim_test::trial_bytes];
  for (int k = static_cast<int>(threadIdx.x); k < slim_test::trial_bytes; k += 32) shared[k] = bytes[k];
  __syncthreads();
  slim::cuda::device_warp warp(shared);
  auto const put = [&](int number, int lane, slim::cuda::u32 value) { found[32 * number + lane] = value; };
  slim_test::primitives<N, slim::cuda::device_warp, decltype(put)>(warp, put).run();
}

int check_trials(reader& from, char const* into) {
  unsigned count[1] = {};
  from.words(count);
  std::ofstream out;
  if (into) out.open(into, std::ios::binary);
  int wrong = 0;
  for (unsigned k = 0; k < count[0]; ++k) {
    unsigned type[1] = {};
    from.words(type);
    device_array<unsigned char> const bytes(from.take(slim_test::trial_bytes), slim_test::trial_bytes);
    char const* const want = from.take(4ull * 32 * slim_test::trial_words);
    device_array<slim::cuda::u32> const found(want, 32 * slim_test::trial_words);
    slim::cuda::detail::require(cudaMemset(found.data(), 0xff, 4ull * 32 * slim_test::trial_words), "cudaMemset");
    if (static_cast<number_format>(type[0]) == number_format::fp16)
      run_trial<number_format::fp16><<<1, 32>>>(bytes.data(), found.data());
    else
      run_trial<number_format::bf16><<<1, 32>>>(bytes.data(), found.data());
    slim::cuda::detail::require(cudaGetLastError(), "run_trial");
    std::vector<slim::cuda::u32> const words = found.host();
    for (int w = 0; w < slim_test::trial_words; ++w)
      if (std::memcmp(words.data() + 32 * w, want + 128 * w, 128) != 0) {
        ++wrong;
        std::printf("trial %u: word %d of primitives.cuh differs\n", k, w);
      }
    out.write(reinterpret_cast<char const*>(words.data()), static_cast<std::streamsize>(4 * words.size()));
  }
  std::printf("primitives: %u trials of %d words, %d words differ\n", count[0], slim_test::trial_words, wrong);
  return wrong;
}

int check(int argc, char** argv) {
  bool const small = argc > 2 && std::string(argv[2]) == "small";
  char const* const into = argc > 2 && !small ? argv[2] : nullptr;
  reader from(argv[1]);
  cudaStream_t stream = nullptr;
  slim::cuda::detail::require(cudaStreamCreate(&stream), "cudaStreamCreate");
  unsigned count[1] = {};
  from.words(count);
  std::size_t wrong = 0;
  int runs = 0;
  for (unsigned k = 0; k < count[0]; ++k) {
    stored_product const p(from);
    if (small && k >= 40) continue;
    bool const half = static_cast<number_format>(p.head[0]) == number_format::fp16, dependent = k % 2 == 0;
    auto const run = [&](way how, int ctas) {
      std::size_t const different =
          half ? p.wrong<__half>(how, ctas, dependent, stream) : p.wrong<__nv_bfloat16>(how, ctas, dependent, stream);
      char const* const names[] = {"", ", in a graph", ", by dense matrices"};
      if (different != 0)
        std::printf("product %u (%s, %u tokens, %u layers) on %d CTAs%s: %zu outputs differ\n", k, half ? "fp16" : "bf16",
                    p.head[1], p.head[2], ctas, names[static_cast<int>(how)], different);
      wrong += different;
      ++runs;
    };
    for (int const ctas : {0, 1, 3, 7})
      if (!small || ctas == 3) run(way::call, ctas);
    if (!small) run(way::graph, 0);
    run(way::dense, 0);
  }
  std::printf("products: %d runs, %zu outputs differ\n", runs, wrong);
  return wrong != 0 || check_trials(from, into) != 0 ? 1 : 0;
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: device_test CASES [small | FILE]\n");
    return 2;
  }
  try {
    return check(argc, argv);
  } catch (std::exception const& e) {
    std::printf("device_test: %s\n", e.what());
    return 1;
  }
}
