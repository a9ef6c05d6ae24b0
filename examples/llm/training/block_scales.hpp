#pragma once
/// @file
/// Training on the blocks of a GGUF file: the fp16 numbers by which a block multiplies its codes (d, and m or dmin) train,
/// codes and the integer scales of a super-block stay as they are. Every type of ggml that has blocks is linear in these
/// numbers, so what one of them contributes is what ggml's decoder makes of the block with the others at 0.

#include "slim/core/context.hpp"
#include "slim/core/matrix.hpp"
#include "slim/io/tensor.hpp"

#include <span>
#include <vector>

namespace slim_llm {

using slim::context;
using slim::index_t;
using slim::matrix_view;

class block_scales {
public:
  /// Whether blocks of this type have such numbers; F32, F16 and BF16 have no blocks.
  [[nodiscard]] static bool train(slim::tensor_type type);

  /// Copies the bytes of a matrix. @throws input_error naming the tensor if its type has no such numbers or if it is no matrix
  explicit block_scales(slim::tensor_info const& tensor);

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] index_t cols() const { return cols_; }
  /// How many numbers train: one or two per block, blocks in the order of the file.
  [[nodiscard]] index_t count() const;
  /// The bytes as they are stored now.
  [[nodiscard]] std::span<std::byte const> bytes() const { return bytes_; }

  /// Each number becomes its first value times its factor, rounded to fp16. None changes its sign: a factor below 0.001 counts
  /// as 0.001, and a product beyond fp16 becomes its largest number. @throws slim::shape_error
  void set(std::span<float const> factors, context const& ctx = {});
  /// What ggml decodes. @throws slim::shape_error
  void values_into(matrix_view<float> w, context const& ctx = {}) const;
  /// Adds the gradient by the factors, of dW (rows, cols); rounding is passed straight through. @throws slim::shape_error
  void add_gradient(matrix_view<float const> dw, std::span<float> gradient, context const& ctx = {}) const;

private:
  [[nodiscard]] index_t blocks_per_row() const;

  std::string name_;
  slim::tensor_type type_;
  index_t rows_, cols_;
  std::vector<std::byte> first_, bytes_;
};

} // namespace slim_llm
