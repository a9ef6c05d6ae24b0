// slim::cuda::forward_into, workspace and device_linear as they are, on a CUDA runtime that runs the emulated kernels
// (fake_cuda/): which launches a call makes, what a workspace keeps, and what is refused.

#include "slim/kernels/cuda/forward.cuh"

#include <catch2/catch.hpp>

// Compiled in emulation_test.cpp.
#define SLIM_EMULATED(N)                                                                                                       \
  extern template slim_test::emulated slim_test::run_launch<N, 1>(slim::cuda::kernel_plan const&,                              \
                                                                  slim_test::emulation const&);                                \
  extern template slim_test::emulated slim_test::run_launch<N, 2>(slim::cuda::kernel_plan const&,                              \
                                                                  slim_test::emulation const&);                                \
  extern template slim_test::emulated slim_test::run_launch<N, 4>(slim::cuda::kernel_plan const&,                              \
                                                                  slim_test::emulation const&);                                \
  extern template slim_test::emulated slim_test::run_launch<N, 8>(slim::cuda::kernel_plan const&,                              \
                                                                  slim_test::emulation const&);                                \
  extern template slim_test::emulated slim_test::run_dequantize<N>(slim::cuda::dequantize_plan const&,                         \
                                                                   slim_test::emulation const&);
SLIM_EMULATED(slim::number_format::fp16)
SLIM_EMULATED(slim::number_format::bf16)

namespace {

using namespace slim_test;
using slim::number_format;
using slim::cuda::device_linear;
using slim::cuda::workspace;

layer_case const three_bits{.rows = 144, .cols = 300, .rank = 20, .bits = 3, .block = slim::per_group(128), .zeros = true};
layer_case const sparse{.rows = 20, .cols = 300, .bits = 4, .sparse = true};
layer_case const none{.rows = 0, .cols = 300};

/// A product's layers, X and Y in the memory of the device.
template <class T>
struct on_device {
  static constexpr number_format numbers = slim::cuda::detail::format_of<T>;
  product_case product;
  std::vector<device_linear> layers;
  half_rows x;
  std::vector<half_rows> y;

  explicit on_device(product_case const& p) : product(p), x(in_halves<numbers>(p.x(), p.x_stride())) {
    for (std::size_t k = 0; k < p.layers.size(); ++k) layers.emplace_back(p.layer(k).packed(numbers).bytes);
  }
  slim::matrix_view<T const> inputs() const { return {reinterpret_cast<T const*>(x.bits.data()), x.rows, x.cols, x.stride}; }
  void run(workspace& room) {
    y.clear();
    for (std::size_t k = 0; k < layers.size(); ++k) y.push_back(product.before<numbers>(k));
    std::vector<slim::cuda::layer_output<T>> outputs;
    for (std::size_t k = 0; k < layers.size(); ++k)
      outputs.push_back(
          {&layers[k], slim::matrix_view<T>(reinterpret_cast<T*>(y[k].bits.data()), y[k].rows, y[k].cols, y[k].stride)});
    slim::cuda::forward_into(std::span<slim::cuda::layer_output<T> const>(outputs), inputs(), room, {.add = product.add});
    CHECK(fake_complaint == "");
  }
  /// Outputs that differ from the definition, or from W + R^T L^T.
  int wrong(bool by_dense = false) const {
    int count = 0;
    for (std::size_t k = 0; k < layers.size(); ++k) {
      half_rows const want = by_dense ? product.expected_by_dense<numbers>(k) : product.expected<numbers>(k);
      for (std::size_t i = 0; i < want.bits.size(); ++i) count += y[k].bits[i] == want.bits[i] ? 0 : 1;
    }
    return count;
  }
};

template <class F>
int launches_during(F const& f) {
  int const before = fake_launches;
  f();
  return fake_launches - before;
}

template <class E = slim::error, class F>
std::string refusal(F const& f) {
  try {
    f();
  } catch (E const& e) {
    return e.what();
  }
  return "";
}

/// A gemm that counts its products.
void count_and_multiply(void* state, void* stream, slim::cuda::dense_product const& p) {
  *static_cast<int*>(state) += stream == nullptr ? 1 : 100;
  p.numbers == number_format::fp16 ? multiply_dense<number_format::fp16>(p) : multiply_dense<number_format::bf16>(p);
}

} // namespace

TEST_CASE("layers that read one X take two launches for 64 tokens and 8 layers, one without adapters") {
  workspace room(nullptr); // of all calls: its counters have to be 0 behind each
  on_device<__half> joint({.layers = {three_bits, sparse, none, three_bits}, .tokens = 9, .how = {}});
  CHECK(launches_during([&] { joint.run(room); }) == 2);
  CHECK(joint.wrong() == 0);
  on_device<__nv_bfloat16> added(
      {.layers = {sparse, sparse}, .numbers = number_format::bf16, .tokens = 17, .how = {}, .add = true});
  CHECK(launches_during([&] { added.run(room); }) == 1);
  CHECK(added.wrong() == 0);
  on_device<__half> many({.layers = {three_bits}, .tokens = 70, .how = {}});
  CHECK(launches_during([&] { many.run(room); }) == 4);
  CHECK(many.wrong() == 0);
  on_device<__half> nine({.layers = std::vector<layer_case>(9, sparse), .tokens = 2, .how = {}});
  CHECK(launches_during([&] { nine.run(room); }) == 2);
  CHECK(nine.wrong() == 0);
  workspace fresh(nullptr);
  on_device<__half> nothing({.layers = {none}, .tokens = 3, .how = {}});
  CHECK(launches_during([&] { nothing.run(fresh); }) == 0);
}

TEST_CASE("launches depend on each other from compute capability 9.0 on, and 8.0 is the least") {
  on_device<__half> product({.layers = {sparse}, .tokens = 1, .how = {}});
  for (int const major : {8, 9}) {
    fake_major = major;
    workspace room(nullptr);
    int const before = fake_dependent_launches;
    product.run(room);
    CHECK(product.wrong() == 0);
    CHECK(fake_dependent_launches - before == major - 8);
  }
  fake_major = 7;
  CHECK(refusal([] { workspace room(nullptr); }) == "cuda::workspace: compute capability 7.x, needed is 8.0");
  fake_major = 9;
}

TEST_CASE("a workspace with a gemm gives it many tokens, each layer as a dense matrix") {
  int products = 0;
  workspace room(nullptr);
  room.set_gemm({.multiply = count_and_multiply, .state = &products, .least_tokens = 10});
  on_device<__half> few({.layers = {three_bits, sparse}, .tokens = 9, .how = {}});
  few.run(room);
  CHECK(few.wrong() == 0);
  CHECK(products == 0);
  on_device<__half> many({.layers = {three_bits, none, sparse}, .tokens = 10, .how = {}, .add = true});
  CHECK(launches_during([&] { many.run(room); }) == 2);
  CHECK(many.wrong(true) == 0);
  CHECK(products == 3); // the adapter of one layer, and both layers
  on_device<__nv_bfloat16> other({.layers = {three_bits}, .numbers = number_format::bf16, .tokens = 33, .how = {}});
  other.run(room);
  CHECK(other.wrong(true) == 0);
  CHECK(refusal([&] { room.set_gemm({.least_tokens = 0}); }) ==
        "cuda::workspace: a gemm from 0 tokens on, possible is 1 or more");
}

TEST_CASE("a workspace grows outside of graphs only") {
  on_device<__half> product({.layers = {three_bits}, .tokens = 12, .how = {}});
  workspace room(nullptr);
  fake_capturing = true;
  std::string const said = refusal<slim::config_error>([&] { product.run(room); });
  fake_capturing = false;
  CHECK(said.starts_with("cuda::workspace: a larger one is needed, and a graph that is being captured cannot allocate"));
  product.run(room);
  float const* const slots = room.slots();
  fake_capturing = true;
  product.run(room);
  fake_capturing = false;
  CHECK(product.wrong() == 0);
  CHECK(room.slots() == slots);
}

TEST_CASE("what forward_into refuses, and how a failure of CUDA is called") {
  workspace room(nullptr);
  on_device<__half> product({.layers = {sparse}, .tokens = 3, .how = {}});
  std::vector<std::uint16_t> out(3 * 21);
  auto const forward = [&](device_linear const& layer, slim::index_t rows, slim::index_t cols) {
    slim::cuda::forward_into(layer, product.inputs(),
                             slim::matrix_view<__half>(reinterpret_cast<__half*>(out.data()), rows, cols), room);
  };
  CHECK(refusal<slim::shape_error>([&] { forward(product.layers[0], 3, 21); }) ==
        "cuda::forward_into: X 3 x 300, W 20 x 300, Y 3 x 21");
  device_linear const bf16(make_layer({.rows = 20, .cols = 300, .bits = 16}, 1).packed(number_format::bf16).bytes);
  CHECK(refusal<slim::config_error>([&] { forward(bf16, 3, 20); }) ==
        "cuda::forward_into: X is fp16, and the layer holds numbers of the other 16-bit format; pack it with "
        "device_options::numbers");
  room.set_limits({.ctas = 3, .shared_bytes = 4096});
  CHECK(refusal<slim::config_error>([&] { forward(product.layers[0], 3, 20); }).find("of shared memory, two stages of") !=
        std::string::npos);
  std::vector<std::byte> bytes = make_layer(sparse, 1).packed(number_format::fp16).bytes;
  fake_cuda_is_full = true;
  try {
    device_linear const full(bytes);
    CHECK(false);
  } catch (slim::cuda::error const& e) {
    CHECK(e.code == cudaErrorMemoryAllocation);
    CHECK(std::string(e.what()) == "cudaMalloc: cudaErrorMemoryAllocation, out of memory");
  }
  fake_cuda_is_full = false;
  bytes.pop_back();
  CHECK(refusal([&] { device_linear const cut(bytes); }).starts_with("device layer: "));
}
