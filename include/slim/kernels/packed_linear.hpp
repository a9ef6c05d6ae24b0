#pragma once
/// @file
/// A compressed layer ready to run: packed weights and the adapter beside them.

#include "slim/adapters/adapter.hpp"
#include "slim/core/matrix_traits.hpp"
#include "slim/core/none.hpp"
#include "slim/kernels/cpu/pack_r16.hpp"
#include "slim/kernels/linear.hpp"

#include <atomic>
#include <deque>
#include <optional>
#include <span>

namespace slim {
inline namespace SLIM_ABI {

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

/// Packs codes, on a 2:4 mask unless `kept` is null, and an adapter unless `low_rank` is null. A left factor that is pruned 2:4
/// runs as 2:4. @throws as pack_r16.
template <class Codes>
  requires std::same_as<Codes, integer_codes> || std::same_as<Codes, codebook_codes>
[[nodiscard]] packed_linear pack_linear(Codes const& codes, mask const* kept, adapter const* low_rank,
                                        context const& ctx = {}) {
  packed_linear packed{kept ? pack_r16(codes, *kept, ctx) : pack_r16(codes, ctx), {}, {}};
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

namespace detail {

/// A part of a layer by its address; null where it is not there (`none`, an empty optional).
template <class Part>
[[nodiscard]] Part const* part_or_null(Part const& part) noexcept {
  return &part;
}
template <class Part>
[[nodiscard]] Part const* part_or_null(std::optional<Part> const& part) noexcept {
  return part ? &*part : nullptr;
}
[[nodiscard]] inline adapter const* part_or_null(none) noexcept { return nullptr; }

} // namespace detail

/// A compressed layer in the layout that runs it: 2:4 if that is its mask, else dense, in the bits of its codes, with its
/// adapter. Takes what `compress` returns, with types known or erased. @throws as pack_r16; config_error if the layer's codes
/// are of a kind that no kernel reads.
template <class Layer>
  requires requires(Layer const& layer) {
    layer.weight.codes;
    layer.weight.mask_or_null();
    layer.adapter;
  }
[[nodiscard]] packed_linear pack(Layer const& layer, context const& ctx = {}) {
  auto const& codes = layer.weight.codes;
  mask const* const kept = layer.weight.mask_or_null();
  adapter const* const low_rank = detail::part_or_null(layer.adapter);
  if constexpr (requires { pack_linear(codes, kept, low_rank, ctx); }) {
    return pack_linear(codes, kept, low_rank, ctx);
  } else {
    if constexpr (requires { codes.template get_if<integer_codes>(); }) {
      if (auto const* const uniform = codes.template get_if<integer_codes>()) return pack_linear(*uniform, kept, low_rank, ctx);
      if (auto const* const table = codes.template get_if<codebook_codes>()) return pack_linear(*table, kept, low_rank, ctx);
    }
    throw config_error(
        "slim::pack: the layer's weights are neither integer_codes nor codebook_codes; quantize it first, or keep it dense");
  }
}

/// A layer of a joint product and where its outputs go, Y (tokens x d_out).
struct layer_output {
  packed_linear const* layer;
  matrix_view<float> y;
};

namespace detail {

/// Layers that read the same X, up to most_tokens tokens of it, in one parallel region: the row blocks of all L and W, then,
/// when all are done, those of R. Whoever finishes the last block of an L rounds its X L for R. (The inputs of many tokens are
/// rounded in regions before it.)
class joint_product {
public:
  joint_product(std::span<layer_output const> outputs, product_options const& options, context const& ctx)
      : options_(options), ctx_(ctx) {
    for (layer_output const& o : outputs) members_.emplace_back(o, options.inputs, ctx.simd);
  }

  /// Tokens first .. first + x.rows() - 1, which are x.
  void run(matrix_view<float const> x, index_t first) {
    index_t of_left = 0, of_weight = 0, of_right = 0;
    for (member& m : members_) {
      m.begin(x, first, members_.front().weight, ctx_);
      of_left += tasks(m.left);
      of_weight += m.weight.tasks();
      of_right += tasks(m.right);
    }
    auto const inputs_first = [&](index_t begin, index_t end) {
      index_t at = 0; // where the tasks of a product begin
      for (member& m : members_) {
        in_range(at, tasks(m.left), begin, end, [&](index_t from, index_t to) { run_left(m, from, to); });
        at += tasks(m.left);
      }
      for (member& m : members_) {
        in_range(at, m.weight.tasks(), begin, end,
                 [&](index_t from, index_t to) { m.weight.run_tasks(from, to, m.now, options_.add); });
        at += m.weight.tasks();
      }
    };
    auto const right = [&](index_t begin, index_t end) {
      index_t at = 0;
      for (member& m : members_) {
        in_range(at, tasks(m.right), begin, end, [&](index_t from, index_t to) { m.right->run_tasks(from, to, m.now, true); });
        at += tasks(m.right);
      }
    };
    ctx_.run_in_turn(of_left + of_weight, inputs_first, of_right, right);
  }

private:
  struct member {
    member(layer_output const& o, input_precision inputs, simd_level level)
        : weight(o.layer->weight, inputs, level), y(o.y), rank(o.layer->rank()) {
      if (!o.layer->left) return;
      left.emplace(*o.layer->left, inputs, level);
      right.emplace(*o.layer->right, inputs, level);
    }

    void begin(matrix_view<float const> x, index_t first, packed_product const& rounded, context const& ctx) {
      if (&rounded == &weight)
        weight.prepare(x, ctx);
      else
        weight.prepare_beside(rounded, x, ctx);
      if (left) left->prepare_beside(rounded, x, ctx);
      now = y.middle_rows(first, x.rows());
      inner = matrix<float>(x.rows(), rank);
      missing = tasks(left);
    }

    packed_product weight;
    std::optional<packed_product> left, right;
    matrix_view<float> y, now; ///< of all tokens, of those that run
    index_t rank;
    matrix<float> inner;             ///< X L
    std::atomic<index_t> missing{0}; ///< tasks of L
  };

  [[nodiscard]] static index_t tasks(std::optional<packed_product> const& product) { return product ? product->tasks() : 0; }

  /// Calls `run` for the part of tasks [begin, end) that belongs to a product whose `count` tasks begin at `at`.
  template <class F>
  static void in_range(index_t at, index_t count, index_t begin, index_t end, F const& run) {
    index_t const from = std::max(begin - at, index_t{0}), to = std::min(end - at, count);
    if (from < to) run(from, to);
  }

  void run_left(member& m, index_t begin, index_t end) const {
    m.left->run_tasks(begin, end, m.inner.view(), false);
    if (m.missing.fetch_sub(end - begin) == end - begin)
      m.right->prepare(matrix_view<float const>(m.inner.view()), ctx_.inside_task());
  }

  product_options options_;
  context const& ctx_;
  std::deque<member> members_; ///< which cannot be moved
};

} // namespace detail

/// Y = X W^T + (X L) R, or Y +=, of several layers that read the same X (tokens x d_in): queries, keys and values, say. X is
/// rounded once, threads meet twice instead of twice a layer; the bits are those of the layers one by one. X L is rounded like
/// X. @throws shape_error
inline void forward_into(std::span<layer_output const> outputs, matrix_view<float const> x, product_options const& options = {},
                         context const& ctx = {}) {
  if (outputs.empty()) return;
  for (layer_output const& o : outputs) {
    r16_matrix const& w = o.layer->weight;
    if (x.cols() != w.cols() || o.y.cols() != w.rows() || x.rows() != o.y.rows())
      throw shape_error(message("forward_into: X ", x.rows(), " x ", x.cols(), ", W ", w.rows(), " x ", w.cols(), ", Y ",
                                o.y.rows(), " x ", o.y.cols()));
  }
  detail::joint_product product(outputs, options, ctx);
  constexpr index_t most = detail::packed_product::most_tokens;
  for (index_t first = 0; first < x.rows(); first += most)
    product.run(x.middle_rows(first, std::min(most, x.rows() - first)), first);
}

/// The same of one layer.
inline void forward_into(packed_linear const& layer, matrix_view<float const> x, matrix_view<float> y,
                         product_options const& options = {}, context const& ctx = {}) {
  layer_output const output{&layer, y};
  forward_into(std::span(&output, 1), x, options, ctx);
}

/// The same for any matrix types: X is read as floats, Y (tokens x d_out) is written in its own type and strides.
template <class Packed, class X, class Y>
  requires matrix_like<X const> && matrix_like<Y>
void forward_into(Packed const& packed, X const& x, Y&& y, product_options const& options = {}, context const& ctx = {}) {
  auto const out = as_matrix_view(y);
  using value = typename decltype(out)::value_type;
  matrix<float> const in = to_float(x);
  matrix<float> result(out.rows(), out.cols());
  if (options.add)
    for (index_t t = 0; t < out.rows(); ++t)
      for (index_t j = 0; j < out.cols(); ++j) result(t, j) = static_cast<float>(out(t, j));
  forward_into(packed, in.view(), result.view(), options, ctx);
  for (index_t t = 0; t < out.rows(); ++t)
    for (index_t j = 0; j < out.cols(); ++j) out(t, j) = static_cast<value>(result(t, j));
}

} // namespace SLIM_ABI
} // namespace slim
