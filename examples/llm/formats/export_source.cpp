#include "formats/export_source.hpp"

#include "slim/interop/even_groups.hpp"

namespace slim_llm {
namespace {

/// Rows of a table of scales or zero points; a table with one row for all stays.
template <class Table>
void permute_rows(Table& to, Table const& from, std::vector<index_t> const& order) {
  if (from.rows() <= 1) return;
  for (index_t k = 0; k < from.rows(); ++k) std::copy_n(from.row(order[static_cast<std::size_t>(k)]), from.cols(), to.row(k));
}

} // namespace

export_layer layer_of(packed_file const& packed, linear_info const& l) {
  decoded_layer layer = decode(l, packed.layer(l.name));
  if (layer.kept.count() < layer.codes.codes.size()) {
    if (!layer.codes.has_zero()) throw input_error(l.name + ": is pruned, and its codes have none for 0");
    layer.codes.prune(layer.kept);
  }
  return {l, slim::with_negative_scales(std::move(layer.codes)), std::move(layer.adapter)};
}

export_source source_of(checkpoint const& file, model const& dense) {
  if (!file.container())
    throw input_error(file.path().string() + ": is not compressed; give a .slim file, as compress --out NAME.slim writes it");
  auto const packed = file.container()->linears();
  export_source source{&file, &dense, linears_of(dense), {}, {}};
  for (linear_info const& l : source.linears) packed->require(l.name);
  source.read = [packed](linear_info const& l) { return layer_of(*packed, l); };
  source.read_adapter = [packed](linear_info const& l) { return decode_adapter(l, packed->layer(l.name)); };
  return source;
}

export_layer with_rows(export_layer layer, std::vector<index_t> const& order) {
  if (order.empty()) return layer;
  index_t const tall = layer.codes.block.rows_of(layer.codes.rows());
  if ((tall != 1 && tall != layer.codes.rows()) || layer.codes.scales.has_second_level())
    throw input_error(layer.info.name + ": its rows change their order in this format, and several of them share scales");
  slim::integer_codes const from = layer.codes;
  permute_rows(layer.codes.codes, from.codes, order);
  permute_rows(layer.codes.scales, from.scales, order);
  permute_rows(layer.codes.zeros, from.zeros, order);
  permute_rows(layer.codes.offsets, from.offsets, order);
  layer.adapter = with_outputs(std::move(layer.adapter), order, layer.info.name);
  return layer;
}

slim::adapter with_outputs(slim::adapter a, std::vector<index_t> const& order, std::string const& name) {
  if (order.empty() || a.rank() == 0) return a;
  auto const permute = [&](auto& to) {
    auto const from = to;
    for (index_t i = 0; i < from.rows(); ++i)
      for (index_t k = 0; k < from.cols(); ++k) to(i, k) = from(i, order[static_cast<std::size_t>(k)]);
  };
  permute(a.right);
  if (!a.right_codes) return a;
  if (a.right_codes->block.cols_of(a.right_codes->cols()) != 1)
    throw input_error(name + ": outputs change their order in this format, and those of its adapter share scales");
  permute(a.right_codes->codes);
  permute(a.right_codes->scales);
  permute(a.right_codes->zeros);
  return a;
}

} // namespace slim_llm
