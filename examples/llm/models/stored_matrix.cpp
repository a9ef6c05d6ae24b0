#include "models/stored_matrix.hpp"

#include "run/memory.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

constexpr index_t stored_rows_per_task = 64;

/// @throws slim::config_error if the tensor cannot be read, which whoever loads a model has ruled out.
void read_rows(slim::tensor_info const& tensor, index_t first, matrix_view<float> out, context const& ctx) {
  ctx.parallel_for(out.rows(), stored_rows_per_task, [&](index_t begin, index_t end) {
    auto const read = slim::dequantize_rows_into(tensor, first + begin, out.middle_rows(begin, end - begin));
    if (!read) throw slim::config_error(read.why());
  });
}

} // namespace

void stored_matrix::rows_into(index_t first, matrix_view<float> out, context const& ctx) const {
  if (file_) return read_rows(tensor_, first, out, ctx);
  for (index_t i = 0; i < out.rows(); ++i) std::copy_n(values_.row(first + i), values_.cols(), out.row(i));
}

matrix<float> stored_matrix::to_float(context const& ctx) const {
  matrix<float> all(rows(), cols());
  rows_into(0, all.view(), ctx);
  return all;
}

double stored_matrix::stored_bytes() const {
  return file_ ? static_cast<double>(tensor_.bytes.size()) : 4.0 * static_cast<double>(values_.size());
}

void stored_matrix::drop_pages() const {
  if (file_) slim_llm::drop_pages(tensor_.bytes);
}

matrix<float> read_parallel(slim::tensor_info const& tensor, context const& ctx) {
  matrix<float> values(tensor.rows(), tensor.cols());
  read_rows(tensor, 0, values.view(), ctx);
  drop_pages(tensor.bytes);
  return values;
}

} // namespace slim_llm
