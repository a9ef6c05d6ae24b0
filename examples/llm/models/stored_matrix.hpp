#pragma once
/// @file
/// A matrix that stays as a file stores it, in the file's memory map: rows become floats when they are asked for. Or a matrix
/// of floats in memory.

#include "slim/core/context.hpp"
#include "slim/core/matrix.hpp"
#include "slim/io/tensor.hpp"

#include <memory>

namespace slim_llm {

using slim::context;
using slim::index_t;
using slim::matrix;
using slim::matrix_view;

class stored_matrix {
public:
  stored_matrix() = default;
  stored_matrix(matrix<float> values) : values_(std::move(values)) {} // NOLINT: implicit on purpose
  /// A tensor that slim::read_matrix can read, and what keeps its file open.
  stored_matrix(slim::tensor_info tensor, std::shared_ptr<void const> file)
      : tensor_(std::move(tensor)), file_(std::move(file)) {}

  [[nodiscard]] index_t rows() const { return file_ ? tensor_.rows() : values_.rows(); }
  [[nodiscard]] index_t cols() const { return file_ ? tensor_.cols() : values_.cols(); }
  [[nodiscard]] bool empty() const { return rows() == 0; }

  /// Row `first` and on, as many as `out` has.
  void rows_into(index_t first, matrix_view<float> out, context const& ctx = {}) const;
  [[nodiscard]] matrix<float> to_float(context const& ctx = {}) const;
  /// The floats if they are in memory, else null.
  [[nodiscard]] matrix<float> const* in_memory() const { return file_ ? nullptr : &values_; }
  /// The tensor in a file, or null.
  [[nodiscard]] slim::tensor_info const* tensor() const { return file_ ? &tensor_ : nullptr; }
  /// Bytes as they are stored.
  [[nodiscard]] double stored_bytes() const;
  /// Gives back the memory of the file's pages.
  void drop_pages() const;

private:
  matrix<float> values_;
  slim::tensor_info tensor_;
  std::shared_ptr<void const> file_;
};

/// The whole tensor, which slim::read_matrix can read, in parallel; its file's pages are given back.
[[nodiscard]] matrix<float> read_parallel(slim::tensor_info const& tensor, context const& ctx);

} // namespace slim_llm
