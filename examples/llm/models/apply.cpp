#include "models/apply.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

void add_bias(std::vector<float> const& bias, matrix_view<float> y, context const& ctx) {
  if (bias.empty()) return;
  float const* const values = bias.data();
  constexpr index_t rows_per_task = 16;
  ctx.parallel_for(y.rows(), rows_per_task, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      float* const row = y.row(i);
      for (index_t j = 0; j < y.cols(); ++j) row[j] += values[j];
    }
  });
}

} // namespace

void apply_into(linear const& l, matrix_view<float const> x, matrix_view<float> y, context const& ctx) {
  apply_into(l, x, y, slim::destination::overwrite, ctx);
}

void apply_into(linear const& l, matrix_view<float const> x, matrix_view<float> y, slim::destination mode, context const& ctx) {
  if (x.cols() != l.d_in() || y.cols() != l.d_out() || x.rows() != y.rows())
    throw slim::shape_error(slim::message("apply_into: ", l.name, " is ", l.d_out(), " x ", l.d_in(), ", X is ", x.rows(),
                                          " x ", x.cols(), ", Y is ", y.rows(), " x ", y.cols()));
  matrix<float> rounded, rest;
  if (l.round_input) {
    rounded = matrix<float>(x);
    l.round_input(rounded.view());
    if (!l.rest_L.empty()) {
      rest = matrix<float>(x.rows(), l.rest_L.cols());
      slim::gemm_into(x, l.rest_L.view(), rest.view(), ctx);
      slim::gemm_into(rounded.view(), l.rest_L.view(), rest.view(), slim::destination::subtract, ctx);
    }
    x = rounded;
  }
  if (l.packed) {
    bool const add = mode == slim::destination::add;
    slim::forward_into(*l.packed, x, y, {.inputs = l.packed_inputs, .add = add}, ctx);
    return add_bias(l.bias, y, ctx);
  }
  slim::gemm_into(x, slim::transposed(l.weight.view()), y, mode, ctx);
  if (!rest.empty()) slim::gemm_into(rest.view(), l.rest_R.view(), y, slim::destination::add, ctx);
  if (!l.L.empty()) {
    matrix<float> inner(x.rows(), l.L.cols());
    slim::gemm_into(x, l.L.view(), inner, ctx);
    slim::gemm_into(matrix_view<float const>(inner), l.R.view(), y, slim::destination::add, ctx);
  }
  add_bias(l.bias, y, ctx);
}

matrix<float> apply(linear const& l, matrix_view<float const> x, context const& ctx) {
  matrix<float> y(x.rows(), l.d_out(), slim::uninitialized);
  apply_into(l, x, y, ctx);
  return y;
}

std::vector<matrix<float>> apply_each(std::span<linear const* const> group, matrix_view<float const> x, context const& ctx) {
  std::vector<matrix<float>> results;
  linear const& first = *group.front();
  bool const together = std::all_of(group.begin(), group.end(), [&](linear const* l) {
    return l->packed && !l->round_input && l->d_in() == x.cols() && l->packed_inputs == first.packed_inputs;
  });
  if (!together) {
    for (linear const* l : group) results.push_back(apply(*l, x, ctx));
    return results;
  }
  std::vector<slim::layer_output> outputs;
  for (linear const* l : group) results.emplace_back(x.rows(), l->d_out());
  for (std::size_t k = 0; k < results.size(); ++k) outputs.push_back({group[k]->packed.get(), results[k].view()});
  slim::forward_into(outputs, x, {.inputs = first.packed_inputs}, ctx);
  for (std::size_t k = 0; k < results.size(); ++k) add_bias(group[k]->bias, results[k].view(), ctx);
  return results;
}

} // namespace slim_llm
