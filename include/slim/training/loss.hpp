#pragma once
/// @file
/// Losses and their gradients. Of a language model's head: cross entropy with the tokens of a text, and the divergence from the
/// distributions of a teacher; logits exist for some tokens at a time only. Of hidden states: the error relative to their size.

#include "slim/linalg/gemm.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// What turns hidden states H (tokens x d) into logits: Z = H W^T, then Z = cap tanh(Z / cap) if there is a soft cap.
struct output_head {
  matrix_view<float const> weight; ///< vocabulary x d
  float soft_cap = 0;              ///< 0: none
};

namespace detail {

/// Tokens whose logits exist at a time: at most 64 MB of them. Depends on the vocabulary alone.
[[nodiscard]] inline index_t tokens_per_slice(index_t vocabulary) {
  constexpr index_t most_logits = index_t{1} << 24;
  return std::max<index_t>(1, most_logits / std::max<index_t>(vocabulary, 1));
}

inline void logits_into(output_head const& head, matrix_view<float const> h, matrix_view<float> z, context const& ctx) {
  gemm_into(h, transposed(head.weight), z, ctx);
  if (head.soft_cap <= 0) return;
  ctx.parallel_for(z.rows(), 1, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t)
      for (index_t j = 0; j < z.cols(); ++j) z(t, j) = head.soft_cap * std::tanh(z(t, j) / head.soft_cap);
  });
}

/// log sum exp of a row, in double.
[[nodiscard]] inline double log_sum_exp(float const* z, index_t n) {
  float const largest = *std::max_element(z, z + n);
  double sum = 0;
  for (index_t j = 0; j < n; ++j) sum += static_cast<double>(std::exp(z[j] - largest));
  return static_cast<double>(largest) + std::log(sum);
}

inline void check_head(char const* who, output_head const& head, matrix_view<float const> h) {
  if (h.cols() != head.weight.cols())
    throw shape_error(message(who, ": hidden states of ", h.cols(), " channels, the head reads ", head.weight.cols()));
  if (!(head.soft_cap >= 0)) throw config_error(message(who, ": soft cap ", head.soft_cap));
}

/// dH = dZ W, slice by slice. `row(t, z)` gets the logits of token t, replaces them by their gradient and returns its loss.
template <class Row>
std::vector<double> loss_over_slices(output_head const& head, matrix_view<float const> h, matrix_view<float> dh,
                                     context const& ctx, Row const& row) {
  index_t const slice = tokens_per_slice(head.weight.rows());
  std::vector<double> losses(static_cast<std::size_t>(h.rows()));
  matrix<float> logits(std::min(slice, h.rows()), head.weight.rows());
  for (index_t first = 0; first < h.rows(); first += slice) {
    index_t const count = std::min(slice, h.rows() - first);
    matrix_view<float> const z = logits.view().middle_rows(0, count);
    logits_into(head, h.middle_rows(first, count), z, ctx);
    row.begin_slice(first, count, ctx);
    ctx.parallel_for(count, 1, [&](index_t begin, index_t end) {
      for (index_t t = begin; t < end; ++t) losses[static_cast<std::size_t>(first + t)] = row(first + t, z.row(t));
    });
    gemm_into(matrix_view<float const>(z), head.weight, dh.middle_rows(first, count), ctx);
  }
  return losses;
}

/// The factor by which a soft cap changes the gradient of a logit that it has made.
[[nodiscard]] inline float cap_slope(float z, float soft_cap) {
  if (soft_cap <= 0) return 1.0f;
  float const share = z / soft_cap;
  return 1.0f - share * share;
}

struct cross_entropy_row {
  output_head const& head;
  std::span<int const> targets;
  float weight;

  void begin_slice(index_t, index_t, context const&) const {}
  double operator()(index_t t, float* z) const {
    index_t const n = head.weight.rows();
    int const target = targets[static_cast<std::size_t>(t)];
    if (target < 0) {
      std::fill_n(z, n, 0.0f);
      return 0;
    }
    double const whole = log_sum_exp(z, n), loss = whole - static_cast<double>(z[target]);
    float const shift = static_cast<float>(whole);
    for (index_t j = 0; j < n; ++j) {
      float const share = std::exp(z[j] - shift) - (j == target ? 1.0f : 0.0f);
      z[j] = weight * share * cap_slope(z[j], head.soft_cap);
    }
    return loss;
  }
};

struct divergence_row {
  output_head const& head;
  output_head const& teacher;
  matrix_view<float const> teacher_h;
  float weight;
  matrix<float>& teacher_logits; ///< of the slice
  index_t& slice_begin;

  void begin_slice(index_t first, index_t count, context const& ctx) const {
    slice_begin = first;
    logits_into(teacher, teacher_h.middle_rows(first, count), teacher_logits.view().middle_rows(0, count), ctx);
  }
  double operator()(index_t t, float* z) const {
    index_t const n = head.weight.rows();
    float const* const wanted = teacher_logits.row(t - slice_begin);
    double const whole = log_sum_exp(z, n), teacher_whole = log_sum_exp(wanted, n);
    float const shift = static_cast<float>(whole), teacher_shift = static_cast<float>(teacher_whole);
    double loss = 0;
    for (index_t j = 0; j < n; ++j) {
      float const log_p = wanted[j] - teacher_shift, log_q = z[j] - shift, p = std::exp(log_p);
      loss += static_cast<double>(p) * static_cast<double>(log_p - log_q);
      z[j] = weight * (std::exp(log_q) - p) * cap_slope(z[j], head.soft_cap);
    }
    return loss;
  }
};

} // namespace detail

/// Cross entropy, in nats, of each row of H (tokens x d) with its target; and `dh`, the gradient of `weight` times their sum
/// by H. A negative target: the row has none, its loss and gradient are 0. Three products of the head's size.
/// Memory: 64 MB of logits, whatever the number of tokens. Bit-identical for any executor.
/// **Numerics** logits are float, sums over the vocabulary double, the gradient float.
/// @throws shape_error if sizes do not fit; config_error on a target outside the vocabulary or a negative soft cap.
inline std::vector<double> cross_entropy_into(output_head const& head, matrix_view<float const> h, std::span<int const> targets,
                                              matrix_view<float> dh, float weight, context const& ctx = {}) {
  detail::check_head("cross_entropy_into", head, h);
  if (std::ssize(targets) != h.rows() || dh.rows() != h.rows() || dh.cols() != h.cols())
    throw shape_error(message("cross_entropy_into: ", targets.size(), " targets and a gradient of ", dh.rows(), " x ",
                              dh.cols(), " for hidden states of ", h.rows(), " x ", h.cols()));
  for (int const target : targets)
    if (target >= head.weight.rows())
      throw config_error(message("cross_entropy_into: target ", target, " of a vocabulary of ", head.weight.rows()));
  return detail::loss_over_slices(head, h, dh, ctx, detail::cross_entropy_row{head, targets, weight});
}

/// Kullback-Leibler divergence, in nats, of each row's distribution from the teacher's: sum_j p_j (log p_j - log q_j), p of
/// `teacher` and its hidden states (tokens x d'), q of `head` and H (tokens x d); and `dh`, the gradient of `weight` times
/// their sum by H. The teacher's logits are made here, from its hidden states, and not kept. Three products of the head's size
/// and one of the teacher's. Memory: 128 MB of logits. Numerics as cross_entropy_into.
/// @throws shape_error if sizes do not fit.
inline std::vector<double> divergence_into(output_head const& head, matrix_view<float const> h, output_head const& teacher,
                                           matrix_view<float const> teacher_h, matrix_view<float> dh, float weight,
                                           context const& ctx = {}) {
  detail::check_head("divergence_into", head, h);
  detail::check_head("divergence_into: teacher", teacher, teacher_h);
  if (teacher_h.rows() != h.rows() || dh.rows() != h.rows() || dh.cols() != h.cols() ||
      teacher.weight.rows() != head.weight.rows())
    throw shape_error(message("divergence_into: a teacher of ", teacher_h.rows(), " tokens and ", teacher.weight.rows(),
                              " words, a gradient of ", dh.rows(), " x ", dh.cols(), ", for hidden states of ", h.rows(), " x ",
                              h.cols(), " and ", head.weight.rows(), " words"));
  matrix<float> logits(std::min(detail::tokens_per_slice(head.weight.rows()), h.rows()), head.weight.rows());
  index_t slice_begin = 0;
  return detail::loss_over_slices(head, h, dh, ctx,
                                  detail::divergence_row{head, teacher, teacher_h, weight, logits, slice_begin});
}

/// |y - t|^2 / |t|^2 of each row y of Y and t of `wanted` (both tokens x d): what a norm behind Y would see of the error; and
/// `dy`, the gradient of `weight` times their sum by Y. A row that should be 0 throughout has none: its loss and gradient are
/// 0. O(tokens d). Bit-identical for any executor. **Numerics** sums over a row are double, the gradient float.
/// @throws shape_error if sizes do not fit.
inline std::vector<double> relative_error_into(matrix_view<float const> y, matrix_view<float const> wanted,
                                               matrix_view<float> dy, float weight, context const& ctx = {}) {
  if (wanted.rows() != y.rows() || wanted.cols() != y.cols() || dy.rows() != y.rows() || dy.cols() != y.cols())
    throw shape_error(message("relative_error_into: wanted is ", wanted.rows(), " x ", wanted.cols(), ", the gradient ",
                              dy.rows(), " x ", dy.cols(), ", Y ", y.rows(), " x ", y.cols()));
  std::vector<double> losses(static_cast<std::size_t>(y.rows()));
  ctx.parallel_for(y.rows(), 16, [&](index_t begin, index_t end) {
    for (index_t t = begin; t < end; ++t) {
      double error = 0, size = 0;
      for (index_t j = 0; j < y.cols(); ++j) {
        double const off = static_cast<double>(y(t, j)) - static_cast<double>(wanted(t, j));
        error += off * off;
        size += static_cast<double>(wanted(t, j)) * static_cast<double>(wanted(t, j));
      }
      double const share = size > 0 ? 1 / size : 0;
      losses[static_cast<std::size_t>(t)] = error * share;
      auto const factor = static_cast<float>(2 * static_cast<double>(weight) * share);
      for (index_t j = 0; j < y.cols(); ++j) dy(t, j) = factor * (y(t, j) - wanted(t, j));
    }
  });
  return losses;
}

} // namespace SLIM_ABI
} // namespace slim
