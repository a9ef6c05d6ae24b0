#pragma once
/// @file
/// A compressed layer ready to run: packed weights and the adapter beside them.

#include "slim/adapters/adapter.hpp"
#include "slim/core/matrix_traits.hpp"
#include "slim/kernels/matmul.hpp"
#include "slim/kernels/pack_r16.hpp"

#include <atomic>
#include <optional>

namespace slim::inline SLIM_ABI {

/// Y = X W^T + (X L) R. d_in -> d_out. Made by `pack`, or `pack_linear` from its parts.
struct packed_linear {
  r16_matrix weight;               ///< d_out x d_in
  std::optional<r16_matrix> left;  ///< L^T, r x d_in: codes, or numbers in the adapter's format
  std::optional<r16_matrix> right; ///< R^T, d_out x r

  [[nodiscard]] index_t rank() const noexcept { return left ? left->rows() : 0; }

  /// Bytes that a product reads.
  [[nodiscard]] index_t byte_size() const noexcept {
    return weight.byte_size() + (left ? left->byte_size() + right->byte_size() : 0);
  }
};

/// Packs codes, on a 2:4 mask if there is one, and an adapter if there is one. A left factor that is pruned 2:4 runs as 2:4.
/// @throws as pack_r16.
[[nodiscard]] inline packed_linear pack_linear(integer_codes const& codes, mask const* kept, adapter const* low_rank,
                                               context const& ctx = {}, std::optional<code_book> const& book = {}) {
  packed_linear packed{kept ? pack_r16(codes, *kept, ctx, book) : pack_r16(codes, ctx, book), {}, {}};
  if (!low_rank || low_rank->rank() == 0) return packed;
  adapter const& a = *low_rank;
  bool const sparse = a.left_mask && a.left_mask->pattern() == sparsity_pattern{2, 4};
  if (!a.left_codes)
    packed.left = pack_r16(matrix<float>(transposed(a.left.view())).view(), a.format, ctx);
  else
    packed.left = sparse ? pack_r16(transposed(*a.left_codes), *a.left_mask, ctx) : pack_r16(transposed(*a.left_codes), ctx);
  packed.right = a.right_codes ? pack_r16(transposed(*a.right_codes), ctx)
                               : pack_r16(matrix<float>(transposed(a.right.view())).view(), a.format, ctx);
  return packed;
}

/// A compressed layer in the layout that runs it: 2:4 if that is its mask, else dense, in the bits of its codes, with its
/// adapter. @throws as pack_r16.
template <class Layer>
  requires requires(Layer const& layer) {
    { layer.codes } -> std::convertible_to<integer_codes const&>;
  }
[[nodiscard]] packed_linear pack(Layer const& layer, context const& ctx = {}) {
  mask const* kept = nullptr;
  adapter const* low_rank = nullptr;
  if constexpr (std::is_convertible_v<decltype((layer.kept)), mask const&>) kept = &layer.kept;
  if constexpr (std::is_convertible_v<decltype((layer.low_rank)), adapter const&>) low_rank = &layer.low_rank;
  return pack_linear(layer.codes, kept, low_rank, ctx);
}

namespace detail {

/// One layer for up to most_tokens tokens, in one parallel region: the row blocks of L and W, then, when all are done, those of
/// R. Whoever finishes the last block of L rounds X L for R. (The inputs of many tokens are rounded in regions before it.)
class linear_product {
public:
  linear_product(packed_linear const& layer, matmul_options const& options, context const& ctx)
      : options_(options), ctx_(ctx), weight_(layer.weight, options.inputs, ctx.simd), rank_(layer.rank()) {
    if (!layer.left) return;
    left_.emplace(*layer.left, options.inputs, ctx.simd);
    right_.emplace(*layer.right, options.inputs, ctx.simd);
  }

  void run(matrix_view<float const> x, matrix_view<float> y) {
    weight_.prepare(x, ctx_);
    matrix<float> inner(x.rows(), rank_);
    if (left_) left_->prepare_beside(weight_, x, ctx_);
    index_t const left_tasks = left_ ? left_->tasks() : 0;
    std::atomic<index_t> missing{left_tasks};
    auto const first = [&](index_t k) {
      if (k >= left_tasks) return weight_.run_task(k - left_tasks, y, options_.add);
      left_->run_task(k, inner.view(), false);
      if (missing.fetch_sub(1) == 1) right_->prepare(matrix_view<float const>(inner.view()), ctx_.inside_task());
    };
    auto const second = [&](index_t k) { right_->run_task(k, y, true); };
    ctx_.run_in_turn(left_tasks + weight_.tasks(), first, right_ ? right_->tasks() : 0, second);
  }

private:
  matmul_options options_;
  context const& ctx_;
  packed_product weight_;
  index_t rank_;
  std::optional<packed_product> left_, right_;
};

} // namespace detail

/// Y = X W^T + (X L) R, or Y +=; X (tokens x d_in), Y (tokens x d_out). X L is rounded like X. @throws shape_error
inline void matmul_into(packed_linear const& layer, matrix_view<float const> x, matrix_view<float> y,
                        matmul_options const& options = {}, context const& ctx = {}) {
  if (x.cols() != layer.weight.cols() || y.cols() != layer.weight.rows() || x.rows() != y.rows())
    throw shape_error(message("matmul_into: X ", x.rows(), " x ", x.cols(), ", W ", layer.weight.rows(), " x ",
                              layer.weight.cols(), ", Y ", y.rows(), " x ", y.cols()));
  detail::linear_product product(layer, options, ctx);
  constexpr index_t most = detail::packed_product::most_tokens;
  for (index_t first = 0; first < x.rows(); first += most) {
    index_t const count = std::min(most, x.rows() - first);
    product.run(x.middle_rows(first, count), y.middle_rows(first, count));
  }
}

/// The same for any matrix types: X is read as floats, Y (tokens x d_out) is written in its own type and strides.
template <class Packed, class X, class Y>
  requires matrix_like<X const> && matrix_like<Y>
void matmul(Packed const& packed, X const& x, Y&& y, matmul_options const& options = {}, context const& ctx = {}) {
  auto const out = as_matrix_view(y);
  using value = typename decltype(out)::value_type;
  matrix<float> const in = to_float(x);
  matrix<float> result(out.rows(), out.cols());
  if (options.add)
    for (index_t t = 0; t < out.rows(); ++t)
      for (index_t j = 0; j < out.cols(); ++j) result(t, j) = static_cast<float>(out(t, j));
  matmul_into(packed, in.view(), result.view(), options, ctx);
  for (index_t t = 0; t < out.rows(); ++t)
    for (index_t j = 0; j < out.cols(); ++j) out(t, j) = static_cast<value>(result(t, j));
}

} // namespace slim::inline SLIM_ABI
