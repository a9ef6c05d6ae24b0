#pragma once
/// @file
/// ggml's products with quantized matrices on the CPU, as llama.cpp runs them: through its graphs, weights in its repacked
/// layout where it has one for the type. Needs ggml built beside the project; see docs/benchmarks.md.

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace bench {

/// ggml's own threads, kept between products.
class ggml_machine {
public:
  explicit ggml_machine(int threads) : backend_(ggml_backend_cpu_init()) {
    ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    pool_ = ggml_threadpool_new(&params);
    ggml_backend_cpu_set_n_threads(backend_, threads);
    ggml_backend_cpu_set_threadpool(backend_, pool_);
  }
  ggml_machine(ggml_machine const&) = delete;
  ggml_machine& operator=(ggml_machine const&) = delete;
  ~ggml_machine() {
    ggml_backend_free(backend_);
    ggml_threadpool_free(pool_);
  }

  [[nodiscard]] ggml_backend_t backend() const { return backend_; }

  /// The layout that ggml repacks weights to; null if it has none.
  [[nodiscard]] ggml_backend_buffer_type_t repacked() const {
    ggml_backend_dev_t const device = ggml_backend_get_device(backend_);
    auto const list = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
    if (!list) return nullptr;
    for (ggml_backend_buffer_type_t* type = list(device); type && *type; ++type)
      if (std::string(ggml_backend_buft_name(*type)) == "CPU_REPACK") return *type;
    return nullptr;
  }

private:
  ggml_backend_t backend_;
  ggml_threadpool_t pool_ = nullptr;
};

/// Copies of a (rows x cols) matrix of a ggml type and their products with `tokens` vectors.
class ggml_matrix {
public:
  ggml_matrix(ggml_machine const& machine, ggml_type type, float const* w, std::int64_t rows, std::int64_t cols,
              std::int64_t tokens, int copies, bool repack)
      : machine_(machine), weights_(context_of(copies)), rest_(context_of(4 * copies + 64)) {
    std::vector<std::uint8_t> bytes(ggml_row_size(type, cols) * static_cast<std::size_t>(rows));
    if (type == GGML_TYPE_F32)
      std::copy_n(reinterpret_cast<std::uint8_t const*>(w), bytes.size(), bytes.data());
    else
      ggml_quantize_chunk(type, w, bytes.data(), 0, rows, cols, nullptr);
    for (int c = 0; c < copies; ++c) matrices_.push_back(ggml_new_tensor_2d(weights_.get(), type, cols, rows));
    ggml_backend_buffer_type_t const where = repack ? machine.repacked() : ggml_backend_cpu_buffer_type();
    buffer_ = where ? ggml_backend_alloc_ctx_tensors_from_buft(weights_.get(), where) : nullptr;
    if (!buffer_) return;
    ggml_backend_buffer_set_usage(buffer_, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    for (ggml_tensor* m : matrices_) ggml_backend_tensor_set(m, bytes.data(), 0, bytes.size());
    x_ = ggml_new_tensor_2d(rest_.get(), GGML_TYPE_F32, cols, tokens);
    for (ggml_tensor* m : matrices_) {
      ggml_tensor* const y = ggml_mul_mat(rest_.get(), m, x_);
      ggml_cgraph* const graph = ggml_new_graph_custom(rest_.get(), 8, false);
      ggml_build_forward_expand(graph, y);
      outputs_.push_back(y);
      graphs_.push_back(graph);
    }
    rest_buffer_ = ggml_backend_alloc_ctx_tensors(rest_.get(), machine.backend());
    bytes_ = static_cast<double>(bytes.size());
  }
  ggml_matrix(ggml_matrix const&) = delete;
  ggml_matrix& operator=(ggml_matrix const&) = delete;
  ~ggml_matrix() {
    if (buffer_) ggml_backend_buffer_free(buffer_);
    if (rest_buffer_) ggml_backend_buffer_free(rest_buffer_);
  }

  /// False where ggml has no such layout for the type.
  [[nodiscard]] bool exists() const { return buffer_ != nullptr; }
  [[nodiscard]] double bytes() const { return bytes_; }
  void set_inputs(float const* x) const { ggml_backend_tensor_set(x_, x, 0, ggml_nbytes(x_)); }
  void multiply(int copy) const { ggml_backend_graph_compute(machine_.backend(), graphs_[static_cast<std::size_t>(copy)]); }
  [[nodiscard]] std::vector<float> outputs(int copy) const {
    ggml_tensor* const y = outputs_[static_cast<std::size_t>(copy)];
    std::vector<float> values(static_cast<std::size_t>(ggml_nelements(y)));
    ggml_backend_tensor_get(y, values.data(), 0, ggml_nbytes(y));
    return values;
  }

private:
  struct free_context {
    void operator()(ggml_context* c) const { ggml_free(c); }
  };
  using context_ptr = std::unique_ptr<ggml_context, free_context>;
  static context_ptr context_of(int tensors) {
    std::size_t const size =
        static_cast<std::size_t>(tensors) * (ggml_tensor_overhead() + ggml_graph_overhead_custom(8, false));
    return context_ptr(ggml_init({size, nullptr, true}));
  }

  ggml_machine const& machine_;
  context_ptr weights_, rest_;
  std::vector<ggml_tensor*> matrices_, outputs_;
  std::vector<ggml_cgraph*> graphs_;
  ggml_tensor* x_ = nullptr;
  ggml_backend_buffer_t buffer_ = nullptr, rest_buffer_ = nullptr;
  double bytes_ = 0;
};

} // namespace bench
