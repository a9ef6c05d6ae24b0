#include "formats/code_statistics.hpp"

#include "formats/export_report.hpp"
#include "formats/load.hpp"

#include "slim/linalg/low_rank.hpp"

#include <algorithm>
#include <cmath>
#include <map>

namespace slim_llm {
namespace {

constexpr index_t fewest_singular_values = 32;

void count_levels(matrix<float> const& w, slim::integer_codes const& codes, code_statistics& out) {
  std::vector<index_t> counts(static_cast<std::size_t>(code_statistics::bins));
  index_t clipped = 0;
  for (index_t i = 0; i < w.rows(); ++i)
    for (index_t j = 0; j < w.cols(); ++j) {
      auto const scale = static_cast<double>(codes.scale_at(i, j));
      if (scale == 0) continue;
      double const scaled = static_cast<double>(w(i, j)) * static_cast<double>(codes.factor_at(j));
      double const level = (scaled - static_cast<double>(codes.offset_at(i, j))) / scale + codes.zero_at(i, j);
      clipped += level < codes.lowest() - 0.5 || level > codes.highest() + 0.5 ? 1 : 0;
      auto const bin = static_cast<index_t>(std::clamp((level - code_statistics::first_level) / code_statistics::bin, 0.0,
                                                       static_cast<double>(code_statistics::bins - 1)));
      ++counts[static_cast<std::size_t>(bin)];
    }
  auto const all = static_cast<double>(w.size());
  out.clipped = static_cast<double>(clipped) / all;
  for (index_t const count : counts) out.shares.push_back(static_cast<double>(count) / all);
}

void decompose_error(matrix<float> const& w, matrix<float> const& coded, code_statistics& out) {
  matrix<float> error(w.rows(), w.cols());
  double energy = 0;
  for (index_t k = 0; k < w.size(); ++k) {
    error.data()[k] = w.data()[k] - coded.data()[k];
    energy += static_cast<double>(error.data()[k]) * static_cast<double>(error.data()[k]);
  }
  index_t const wanted = std::min({std::max(2 * out.rank, fewest_singular_values), w.rows(), w.cols()});
  if (!(energy > 0)) return;
  for (float const sigma : slim::truncated_low_rank(error.view(), wanted, {}, {}).singular_values)
    out.singular.push_back(static_cast<double>(sigma) / std::sqrt(energy));
}

} // namespace

std::vector<code_statistics> statistics_of_worst(std::vector<layer_result> const& layers, std::filesystem::path const& source,
                                                 std::filesystem::path const& compressed) {
  checkpoint const file(compressed);
  auto const packed = file.container()->linears();
  std::map<std::string, layer_result const*> worst;
  for (layer_result const& layer : layers) {
    if (!packed->names().contains(layer.name)) continue; // left as it is
    auto& found = worst[layer.role];
    if (!found || layer.report.last().output_error > found->report.last().output_error) found = &layer;
  }
  model const dense = required(load_model(source));
  std::vector<code_statistics> all;
  for (auto const& [role, layer] : worst) {
    block const b = load_block(dense, layer->block, {});
    matrix<float> const& w = b[role].weight;
    export_layer const read = layer_of(*packed, {layer->name, role, w.rows(), w.cols()});
    code_statistics& one = all.emplace_back();
    one.name = layer->name;
    one.role = role;
    one.rank = read.adapter.rank();
    one.lowest = read.codes.lowest();
    one.highest = read.codes.highest();
    count_levels(w, read.codes, one);
    decompose_error(w, values_of(read.codes), one);
  }
  return all;
}

} // namespace slim_llm
