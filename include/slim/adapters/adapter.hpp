#pragma once
/// @file
/// `adapter`: the low-rank part of a compressed layer, and the concept of what computes it.

#include "slim/calibration/calibration.hpp"
#include "slim/core/finite.hpp"
#include "slim/core/scalar.hpp"
#include "slim/linalg/gemm.hpp"
#include "slim/pruning/mask.hpp"
#include "slim/quantization/codes/integer_codes.hpp"

#include <optional>
#include <string>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Storage of an adapter.
struct adapter_format {
  number_format format = number_format::bf16; ///< of the factors, if bits is 0
  int bits = 0;                               ///< 0, or 2 to 8: codes
  index_t group = 128;                        ///< entries along the dimension a product sums over that share a scale
  number_format scale_format = number_format::fp16;

  friend bool operator==(adapter_format const&, adapter_format const&) = default;
};

/// The format in words, for reports.
[[nodiscard]] inline std::string describe(adapter_format const& f) {
  return f.bits == 0 ? std::string(name_of(f.format)) : message(f.bits, " bit in groups of ", f.group);
}

/// Y += (X left) right, with left (d_in x r) and right (r x d_out): the weight it stands for is (left right)^T.
struct adapter {
  matrix<float> left;                         ///< d_in x r, as stored: already rounded to its format or codes
  matrix<float> right;                        ///< r x d_out, likewise
  number_format format = number_format::fp32; ///< of the factors that have no codes
  std::optional<integer_codes> left_codes;    ///< set if left is quantized
  std::optional<integer_codes> right_codes;   ///< set if right is quantized
  std::optional<mask> left_mask;              ///< r x d_in, kept entries of left^T, if left is pruned
  std::vector<std::string> notes;             ///< what did not go as asked: reduced rank, fallbacks

  [[nodiscard]] index_t rank() const noexcept { return left.cols(); }

  /// @throws shape_error, config_error unless factors, their codes and the mask fit each other and a layer of d_in inputs and
  /// d_out outputs. `who` begins the message.
  void check(std::string_view who, index_t d_out, index_t d_in) const {
    if (left.rows() != d_in || right.cols() != d_out || left.cols() != right.rows())
      throw shape_error(message(who, ": adapter of left ", left.rows(), " x ", left.cols(), " and right ", right.rows(), " x ",
                                right.cols(), ", needed are ", d_in, " x r and r x ", d_out));
    auto const require_codes = [&](std::optional<integer_codes> const& codes, matrix<float> const& factor, char const* which) {
      if (!codes) return;
      codes->check(who);
      if (codes->rows() != factor.rows() || codes->cols() != factor.cols())
        throw shape_error(message(who, ": ", which, " codes of the adapter are ", codes->rows(), " x ", codes->cols(),
                                  ", the factor is ", factor.rows(), " x ", factor.cols()));
    };
    require_codes(left_codes, left, "left");
    require_codes(right_codes, right, "right");
    if (left_mask) left_mask->check(message(who, ": left factor of the adapter, transposed"), rank(), d_in);
  }

  /// Stored bits of both factors, scales included, and of which entries are kept where that is less than all. @throws as check
  [[nodiscard]] double bits() const {
    check("adapter::bits", right.cols(), left.rows());
    auto const stored = [&](matrix<float> const& factor, std::optional<integer_codes> const& codes) {
      return codes ? codes->stored_bits() : static_cast<double>(factor.size()) * bit_width(format);
    };
    double left_bits = stored(left, left_codes);
    if (left_mask) {
      double const kept = left_codes ? transposed(*left_codes).stored_bits(&*left_mask)
                                     : static_cast<double>(left_mask->count()) * bit_width(format);
      left_bits = std::min(left_bits, kept + left_mask->index_bits());
    }
    return left_bits + stored(right, right_codes);
  }

  /// w += (left right)^T, w (d_out x d_in). @throws shape_error
  void add_to(matrix_view<float> w, context const& ctx = {}) const { merge(w, destination::add, ctx); }
  /// w -= (left right)^T. @throws shape_error
  void subtract_from(matrix_view<float> w, context const& ctx = {}) const { merge(w, destination::subtract, ctx); }

private:
  void merge(matrix_view<float> w, destination mode, context const& ctx) const {
    check("adapter", w.rows(), w.cols());
    if (rank() > 0) gemm_into(transposed(right.view()), transposed(left.view()), w, mode, ctx.in_fp32());
  }
};

/// No adapter: rank 0 for a layer d_in -> d_out.
[[nodiscard]] inline adapter empty_adapter(index_t d_in, index_t d_out) {
  adapter none;
  none.left = matrix<float>(d_in, 0);
  none.right = matrix<float>(0, d_out);
  return none;
}

/// `solve(E, calibration, ctx)` returns an adapter that repairs the error E = W - W_c (d_out x d_in);
/// `energy(D, calibration, ctx)` is the squared norm of a (d_out x d_in) error that it minimises. Laws: the energy of
/// E - (L R)^T is never above that of E, the zero adapter's; the rank is at most the rank asked for.
///
/// `solve` may be a template, so that its linear algebra is compiled only where it is used.
template <class S>
concept low_rank_solver = requires(S const& s, matrix_view<float const> e, calibration const& calib, context const& ctx) {
  { s.solve(e, calib, ctx) } -> std::same_as<adapter>;
  { s.energy(e, calib, ctx) } -> std::same_as<double>;
  { s.describe() } -> std::convertible_to<std::string>;
};

/// The law of low_rank_solver, kept where rounding could break it: an adapter that leaves more energy than none is replaced
/// by none, with a note. `energy(D)` is the solver's.
template <class Energy>
[[nodiscard]] adapter unless_worse_than_none(adapter found, matrix_view<float const> e, context const& ctx,
                                             Energy const& energy) {
  matrix<float> rest(e);
  found.subtract_from(rest.view(), ctx);
  if (energy(matrix_view<float const>(rest.view())) <= energy(e)) return found;
  adapter none = empty_adapter(e.cols(), e.rows());
  none.notes = std::move(found.notes);
  none.notes.push_back("adapter dropped: after rounding it left more error than no adapter");
  return none;
}

/// How large an adapter may be.
struct adapter_rank {
  double ratio = 0.1;   ///< of min(d_in, d_out), rounded down, at least 1 unless the ratio is 0
  index_t number = -1;  ///< the rank itself; overrides the ratio unless negative
  index_t multiple = 1; ///< rounded up to a multiple of this (SLiM's code: 128), then clipped to min(d_in, d_out)

  /// The rank for a layer. @throws config_error on a ratio that is not in [0, 1], or a multiple below 1.
  [[nodiscard]] index_t of(index_t d_out, index_t d_in) const {
    if (!detail::is_finite(ratio) || ratio < 0.0 || ratio > 1.0)
      throw config_error(message("adapter_rank: ratio ", ratio, ", possible are 0 to 1 of min(d_in, d_out)"));
    if (multiple < 1) throw config_error(message("adapter_rank: multiple ", multiple, " is below 1"));
    index_t const largest = std::min(d_out, d_in);
    double const share = ratio * static_cast<double>(largest);
    index_t rank = number >= 0 ? number : static_cast<index_t>(share);
    if (number < 0 && ratio > 0.0) rank = std::max<index_t>(rank, 1);
    rank = std::min(rank, largest); // before rounding up: the result is the same, and nothing overflows
    if (rank > 0) rank = ((rank - 1) / multiple + 1) * multiple;
    return std::min(rank, largest);
  }

  friend bool operator==(adapter_rank const&, adapter_rank const&) = default;
};

/// The rank in words, for reports.
[[nodiscard]] inline std::string describe(adapter_rank const& rank) {
  return rank.number >= 0 ? message("rank ", rank.number) : message("rank ratio ", rank.ratio);
}

} // namespace SLIM_ABI
} // namespace slim
