#pragma once
/// @file
/// `linear_into`: products with packed matrices on the CPU. Row blocks are shared out, every output is computed by one task in
/// one order, so that the bits do not depend on the number of threads.

#include "slim/kernels/cpu/exact_product.hpp"
#include "slim/kernels/cpu/integer_product.hpp"

#include <variant>

namespace slim {
inline namespace SLIM_ABI {

/// How a product is computed, and what becomes of Y.
struct product_options {
  input_precision inputs = input_precision::int8;
  bool add = false; ///< Y += instead of Y =
};

namespace detail {

/// Either product; matrices of numbers take float inputs whatever is asked for.
class packed_product {
public:
  static constexpr index_t most_tokens = std::min(integer_product::most_tokens, exact_product::most_tokens);

  packed_product(r16_matrix const& w, input_precision inputs, simd_level level)
      : product_(made(w, inputs, level)), parts_(std::visit([](auto const& p) { return p.parts(); }, product_)) {}

  void prepare(matrix_view<float const> x, context const& ctx) {
    std::visit([&](auto& p) { p.prepare(x, ctx); }, product_);
  }

  /// `prepare(x)` where another product is prepared for the same x, which need not be rounded twice.
  void prepare_beside(packed_product const& other, matrix_view<float const> x, context const& ctx) {
    auto* const mine = std::get_if<integer_product>(&product_);
    auto const* const theirs = std::get_if<integer_product>(&other.product_);
    if (!mine || !theirs || !mine->prepare_as(*theirs)) prepare(x, ctx);
  }

  [[nodiscard]] index_t tasks() const noexcept { return (parts_ + parts_per_task() - 1) / parts_per_task(); }

  void run_tasks(index_t begin, index_t end, matrix_view<float> y, bool add) const {
    index_t const first = begin * parts_per_task(), last = std::min(parts_, end * parts_per_task());
    std::visit([&](auto const& p) { p.multiply(first, last, y, add); }, product_);
  }

private:
  using either = std::variant<integer_product, exact_product>;

  /// Enough tasks for threads to end together. Depends on the matrix only.
  [[nodiscard]] index_t parts_per_task() const noexcept { return std::max<index_t>(parts_ / 64, 1); }

  static either made(r16_matrix const& w, input_precision inputs, simd_level level) {
    if (inputs == input_precision::exact || !has_codes(w.layout().kind)) return exact_product(w, level);
    return integer_product(w, inputs, w.kernels_of_books_ ? w.kernels_of_books_(level) : r16_kernels_of_codes(level));
  }

  either product_;
  index_t parts_;
};

} // namespace detail

/// Y = X W^T, or Y +=, with W (d_out x d_in) packed, X (tokens x d_in), Y (tokens x d_out). Integer inputs are rounded per
/// token and 32 or 128 channels; see input_precision. Matrices of numbers take floats.
///
/// **Numerics** Integer products are exact, sums over stages of 32 (128) channels are float. Bits depend on the simd level, not
/// on the executor nor on the other tokens of the batch. NaN and infinity in X reach the outputs of their token: all of them
/// with integer inputs, those of kept weights with exact ones. @throws shape_error
inline void linear_into(r16_matrix const& w, matrix_view<float const> x, matrix_view<float> y,
                        product_options const& options = {}, context const& ctx = {}) {
  if (x.cols() != w.cols() || y.cols() != w.rows() || x.rows() != y.rows())
    throw shape_error(message("linear_into: X ", x.rows(), " x ", x.cols(), ", W ", w.rows(), " x ", w.cols(), ", Y ", y.rows(),
                              " x ", y.cols()));
  detail::packed_product product(w, options.inputs, ctx.simd);
  for (index_t first = 0; first < x.rows(); first += detail::packed_product::most_tokens) {
    index_t const count = std::min(detail::packed_product::most_tokens, x.rows() - first);
    product.prepare(x.middle_rows(first, count), ctx);
    matrix_view<float> const part = y.middle_rows(first, count);
    ctx.run_in_turn(product.tasks(), [&](index_t begin, index_t end) { product.run_tasks(begin, end, part, options.add); });
  }
}

} // namespace SLIM_ABI
} // namespace slim
