#pragma once
/// @file
/// A compressed layer ready to run: packed weights and the adapter beside them.

#include "slim/adapters/adapter.hpp"
#include "slim/core/matrix_traits.hpp"
#include "slim/core/none.hpp"
#include "slim/kernels/cpu/pack_r16.hpp"
#include "slim/kernels/cpu/packed_residual.hpp"
#include "slim/kernels/linear.hpp"
#include "slim/quantization/codes/column_parts.hpp"
#include "slim/quantization/codes/plain_values.hpp"

#include <atomic>
#include <deque>
#include <optional>
#include <span>

namespace slim {
inline namespace SLIM_ABI {

/// Some columns of a weight: d_out x as many, and which of the inputs they multiply, in their order.
struct packed_part {
  r16_matrix weight;
  std::vector<std::int32_t> columns;
};

/// Y = X W^T + (X L) R. d_in -> d_out. Made by `pack`, or `pack_linear` from its parts.
struct packed_linear {
  r16_matrix weight;                   ///< d_out x d_in; nothing if the weight is in parts
  std::optional<r16_matrix> left;      ///< L^T, r x d_in: codes, or numbers in the adapter's format
  std::optional<r16_matrix> right;     ///< R^T, d_out x r
  std::vector<std::string> notes = {}; ///< what the kernels run otherwise than it was compressed: pruned weights as zeros, say
  std::vector<packed_part> parts = {};       ///< of the weight, instead of `weight`; each column in one of them
  std::optional<packed_residual> residual = {}; ///< d_out x d_in, added to the weight: outliers

  [[nodiscard]] index_t rank() const noexcept { return left ? left->rows() : 0; }
  [[nodiscard]] index_t rows() const noexcept { return parts.empty() ? weight.rows() : parts.front().weight.rows(); }
  [[nodiscard]] index_t cols() const noexcept {
    index_t total = parts.empty() ? weight.cols() : 0;
    for (packed_part const& part : parts) total += part.weight.cols();
    return total;
  }

  /// Bytes that a product reads.
  [[nodiscard]] index_t byte_size() const noexcept {
    index_t total = weight.byte_size() + (left ? left->byte_size() : 0) + (right ? right->byte_size() : 0);
    if (residual) total += residual->byte_size();
    for (packed_part const& part : parts)
      total += part.weight.byte_size() + std::ssize(part.columns) * static_cast<index_t>(sizeof(std::int32_t));
    return total;
  }

  /// @throws shape_error unless the factors are there together and all parts fit each other. `who` begins the message.
  void check(std::string_view who) const {
    if (left.has_value() != right.has_value())
      throw shape_error(message(who, ": a packed layer has one factor of an adapter without the other"));
    if (left && (left->cols() != cols() || right->rows() != rows() || left->rows() != right->cols()))
      throw shape_error(message(who, ": the packed weight is ", rows(), " x ", cols(), ", L^T ", left->rows(), " x ",
                                left->cols(), ", R^T ", right->rows(), " x ", right->cols()));
    if (residual && (residual->rows() != rows() || residual->cols() != cols()))
      throw shape_error(message(who, ": the packed weight is ", rows(), " x ", cols(), ", its residual ", residual->rows(),
                                " x ", residual->cols()));
    for (packed_part const& part : parts) {
      if (part.weight.rows() != rows() || part.weight.cols() != std::ssize(part.columns) || weight.rows() > 0)
        throw shape_error(message(who, ": a part of ", part.weight.rows(), " x ", part.weight.cols(), " with ",
                                  part.columns.size(), " columns beside ", rows(), " rows"));
      for (std::int32_t const column : part.columns)
        if (column < 0 || column >= cols()) throw shape_error(message(who, ": a part has column ", column, " of ", cols()));
    }
  }
};

namespace detail {

/// Whether no four consecutive columns of a row keep more than two: what the 2:4 kernels can run.
[[nodiscard]] inline bool keeps_two_of_four(mask const& kept) {
  for (index_t i = 0; i < kept.rows(); ++i)
    for (index_t first = 0; first < kept.cols(); first += 4) {
      int count = 0;
      for (index_t j = first; j < std::min(kept.cols(), first + 4); ++j) count += kept.kept(i, j) ? 1 : 0;
      if (count > 2) return false;
    }
  return true;
}

/// Codes on a mask: as 2:4 where the kernels of that can hold them, else dense with zeros, which is noted.
template <class Codes>
[[nodiscard]] r16_matrix pack_on_mask(Codes const& codes, mask const& kept, std::string_view what,
                                      std::vector<std::string>& notes, context const& ctx) {
  codes.check(what);
  kept.check(what, codes.rows(), codes.cols());
  bool symmetric = true;
  if constexpr (std::same_as<Codes, integer_codes>) symmetric = codes.symmetric();
  bool const two_of_four = keeps_two_of_four(kept);
  if (two_of_four && codes.bits <= 4 && symmetric) return pack_r16(codes, kept, ctx);
  if (!codes.has_zero())
    throw config_error(message("slim::pack: the ", what,
                               " is pruned to no 2:4 pattern, and its codes have no 0 that pruned "
                               "weights could be stored as"));
  Codes dense = codes;
  dense.prune(kept);
  notes.push_back(message("the ", what, " runs dense, with zeros where it is pruned: ",
                          !two_of_four     ? std::string("the kernels leave out pruned weights of 2:4 only")
                          : codes.bits > 4 ? message("the kernels have 2:4 of at most 4 bits, its codes have ", codes.bits)
                                           : std::string("the kernels have 2:4 without zero points only")));
  return pack_r16(dense, ctx);
}

/// Levels of rows are rounded to what kernels multiply, which is noted.
inline void note_levels(integer_codes const&, std::vector<std::string>&) {}
inline void note_levels(codebook_codes const& codes, std::vector<std::string>& notes) {
  if (codes.book_block != per_channel || codes.dim != 1) return;
  if (double const error = row_level_error(codes); error > 0)
    notes.push_back(message("the levels of rows are rounded to multiples of 1/127 of the largest: relative error ", error));
}

/// L^T and R^T beside a packed weight. A left factor that is pruned 2:4 runs as 2:4.
inline void pack_adapter(packed_linear& packed, adapter const* low_rank, context const& ctx) {
  if (!low_rank) return;
  adapter const& a = *low_rank;
  a.check("slim::pack", packed.rows(), packed.cols());
  if (a.rank() == 0) return;
  if (!a.left_codes)
    packed.left = pack_r16(matrix<float>(transposed(a.left.view())).view(), a.format, ctx);
  else
    packed.left = a.left_mask
                      ? pack_on_mask(transposed(*a.left_codes), *a.left_mask, "adapter's left factor", packed.notes, ctx)
                      : pack_r16(transposed(*a.left_codes), ctx);
  packed.right = a.right_codes ? pack_r16(transposed(*a.right_codes), ctx)
                               : pack_r16(matrix<float>(transposed(a.right.view())).view(), a.format, ctx);
}

} // namespace detail

/// Packs codes, on a mask unless `kept` is null, and an adapter unless `low_rank` is null. What the 2:4 kernels can hold (at
/// most two of every four columns kept, at most 4 bits, no zero points) runs as 2:4; other masks run dense with zeros, and a
/// note says so. @throws shape_error, config_error if parts do not fit each other; as pack_r16; config_error if pruned weights
/// have no code that is 0.
template <class Codes>
  requires std::same_as<Codes, integer_codes> || std::same_as<Codes, codebook_codes>
[[nodiscard]] packed_linear pack_linear(Codes const& codes, mask const* kept, adapter const* low_rank,
                                        context const& ctx = {}) {
  packed_linear packed;
  packed.weight = kept ? detail::pack_on_mask(codes, *kept, "weight", packed.notes, ctx) : pack_r16(codes, ctx);
  detail::note_levels(codes, packed.notes);
  detail::pack_adapter(packed, low_rank, ctx);
  return packed;
}

/// The same of weights that are not quantized: numbers in their format, pruned ones as zeros, both noted where they change
/// something.
[[nodiscard]] inline packed_linear pack_linear(plain_values const& codes, mask const* kept, adapter const* low_rank,
                                               context const& ctx = {}) {
  packed_linear packed;
  plain_values pruned = codes;
  if (kept) {
    pruned.prune(*kept);
    if (kept->count() < pruned.values.size())
      packed.notes.emplace_back("the weight runs dense, with zeros where it is pruned: the kernels leave out pruned weights of "
                                "codes only");
  }
  float const* const first = pruned.values.data();
  if (std::any_of(first, first + pruned.values.size(), [&](float x) { return rounded_to(codes.format, x) != x; }))
    packed.notes.push_back(message("the weight is rounded to ", name_of(codes.format), ", as which it counts"));
  packed.weight = pack_r16(pruned.values.view(), codes.format, ctx);
  detail::pack_adapter(packed, low_rank, ctx);
  return packed;
}

/// Codes of any kind of the library, with all that in_parts makes of them: outliers become a residual, groups of unequal bits
/// and permuted channels parts of columns. @throws as above; config_error if no kernel reads codes of this kind, or if outliers
/// or parts come with a mask
[[nodiscard]] inline packed_linear pack_linear(any_codes const& codes, mask const* kept, adapter const* low_rank,
                                               context const& ctx = {}) {
  any_codes const known = in_parts(codes);
  if (auto const* const c = known.get_if<integer_codes>()) return pack_linear(*c, kept, low_rank, ctx);
  if (auto const* const c = known.get_if<codebook_codes>()) return pack_linear(*c, kept, low_rank, ctx);
  if (auto const* const c = known.get_if<plain_values>()) return pack_linear(*c, kept, low_rank, ctx);
  auto const* const apart = known.get_if<with_outliers<any_codes>>();
  auto const* const parts = (apart ? apart->base : known).get_if<column_parts>();
  if (!apart && !parts)
    throw config_error(
        "slim::pack: no kernel reads codes of this kind (a basis of their own that is no permutation, a type that "
        "the library does not know); run the layer as decompress(layer)");
  if (kept) throw config_error("slim::pack: no kernel runs codes with outliers or parts of columns that are pruned");
  known.check("slim::pack");
  packed_linear packed;
  if (parts) {
    std::int32_t const* column = parts->order.data();
    for (any_codes const& part : parts->parts) {
      packed_linear one = pack_linear(part, nullptr, nullptr, ctx);
      for (std::string& note : one.notes) packed.notes.push_back(std::move(note));
      packed.parts.push_back({std::move(one.weight), {column, column + part.cols()}});
      column += part.cols();
    }
  } else {
    packed = pack_linear(apart->base, nullptr, nullptr, ctx);
  }
  if (apart) packed.residual = pack_residual(apart->outliers, apart->rows(), apart->cols());
  detail::pack_adapter(packed, low_rank, ctx);
  packed.check("slim::pack");
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

/// A compressed layer in the layout that runs it, in the bits of its codes, with its adapter: as pack_linear says. Takes what
/// `compress` returns, with types known or erased. @throws as pack_linear; config_error if the layer's codes are of a kind that
/// no kernel reads (a basis of their own that is no permutation, a type of yours).
template <class Layer>
  requires requires(Layer const& layer) {
    layer.weight.codes;
    layer.weight.mask_or_null();
    layer.adapter;
  }
[[nodiscard]] packed_linear pack(Layer const& layer, context const& ctx = {}) {
  return pack_linear(layer.weight.codes, layer.weight.mask_or_null(), detail::part_or_null(layer.adapter), ctx);
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
    index_t of_left = 0, of_weight = 0, of_right = 0, of_both = 0;
    for (member& m : members_) {
      m.begin(x, first, members_.front(), ctx_);
      of_left += tasks(m.left);
      of_weight += m.weight.front().tasks();
      of_right += tasks(m.right);
      (m.right ? of_both : of_right) += m.residual_tasks();
    }
    auto const inputs_first = [&](index_t begin, index_t end) {
      index_t at = 0; // where the tasks of a product begin
      for (member& m : members_) {
        in_range(at, tasks(m.left), begin, end, [&](index_t from, index_t to) { run_left(m, from, to); });
        at += tasks(m.left);
      }
      for (member& m : members_) {
        in_range(at, m.weight.front().tasks(), begin, end,
                 [&](index_t from, index_t to) { m.run_weight(from, to, options_.add); });
        at += m.weight.front().tasks();
      }
    };
    // Residuals are added to what W has left: beside those of R where R adds to other layers, else in turn.
    auto const residuals = [&](bool beside_right, index_t at, index_t begin, index_t end) {
      for (member& m : members_) {
        if (m.right.has_value() == beside_right) continue;
        in_range(at, m.residual_tasks(), begin, end,
                 [&](index_t from, index_t to) { m.residual->add_tasks(from, to, x, m.now, ctx_.simd); });
        at += m.residual_tasks();
      }
    };
    auto const right = [&](index_t begin, index_t end) {
      index_t at = 0;
      for (member& m : members_) {
        in_range(at, tasks(m.right), begin, end, [&](index_t from, index_t to) { m.right->run_tasks(from, to, m.now, true); });
        at += tasks(m.right);
      }
      residuals(true, at, begin, end);
    };
    ctx_.run_in_turn(of_left + of_weight, inputs_first, of_right, right);
    if (of_both > 0) ctx_.run_in_turn(of_both, [&](index_t begin, index_t end) { residuals(false, 0, begin, end); });
  }

private:
  struct member {
    member(layer_output const& o, input_precision inputs, simd_level level)
        : parts(&o.layer->parts), residual(o.layer->residual ? &*o.layer->residual : nullptr), y(o.y), rank(o.layer->rank()) {
      if (parts->empty()) weight.emplace_back(o.layer->weight, inputs, level);
      for (packed_part const& part : *parts) weight.emplace_back(part.weight, inputs, level);
      if (!o.layer->left) return;
      left.emplace(*o.layer->left, inputs, level);
      right.emplace(*o.layer->right, inputs, level);
    }

    void begin(matrix_view<float const> x, index_t first, member const& before, context const& ctx) {
      if (!parts->empty())
        prepare_parts(x, before, ctx);
      else if (&before == this || !before.parts->empty())
        weight.front().prepare(x, ctx);
      else
        weight.front().prepare_beside(before.weight.front(), x, ctx);
      if (left && parts->empty()) left->prepare_beside(weight.front(), x, ctx);
      if (left && !parts->empty()) left->prepare(x, ctx);
      now = y.middle_rows(first, x.rows());
      inner = matrix<float>(x.rows(), rank);
      missing = tasks(left);
    }

    /// Each part gets the inputs of its columns; a layer whose parts have the same ones as those of the first shares them.
    void prepare_parts(matrix_view<float const> x, member const& before, context const& ctx) {
      for (std::size_t k = 0; k < parts->size(); ++k) {
        auto const& columns = (*parts)[k].columns;
        matrix<float> gathered(x.rows(), std::ssize(columns));
        for (index_t t = 0; t < x.rows(); ++t)
          for (std::size_t j = 0; j < columns.size(); ++j) gathered(t, static_cast<index_t>(j)) = x(t, columns[j]);
        bool const shared = &before != this && k < before.parts->size() && (*before.parts)[k].columns == columns;
        if (shared)
          weight[k].prepare_beside(before.weight[k], gathered.view(), ctx);
        else
          weight[k].prepare(gathered.view(), ctx);
      }
    }

    void run_weight(index_t from, index_t to, bool add) const {
      for (std::size_t k = 0; k < weight.size(); ++k) weight[k].run_tasks(from, to, now, add || k > 0);
    }

    [[nodiscard]] index_t residual_tasks() const noexcept { return residual ? residual->tasks() : 0; }

    std::vector<packed_part> const* parts;
    packed_residual const* residual;   ///< or null
    std::deque<packed_product> weight; ///< of each part
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
    if (!o.layer) throw config_error("forward_into: an output has no layer");
    o.layer->check("forward_into");
    packed_linear const& w = *o.layer;
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

/// The same for any matrix types: X is read as floats, Y (tokens x d_out) is written in its own type of real numbers and
/// strides. Integers are refused at compile time: outputs would be cut off.
template <class Packed, class X, class Y>
  requires matrix_like<X const> && matrix_like<Y>
void forward_into(Packed const& packed, X const& x, Y&& y, product_options const& options = {}, context const& ctx = {}) {
  auto const out = as_matrix_view(y);
  using value = typename decltype(out)::value_type;
  static_assert(!std::is_integral_v<value>,
                "slim: forward_into writes real numbers, and Y holds integers; give a matrix of floats.");
  detail::float_rows<X> const in(x);
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
