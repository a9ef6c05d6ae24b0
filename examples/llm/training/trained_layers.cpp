#include "training/trained_layers.hpp"

#include "run/input_error.hpp"

#include "slim/training/linear_gradient.hpp"
#include "slim/training/scale_gradient.hpp"
#include "slim/training/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace slim_llm {
namespace {

std::vector<float> numbers_of(matrix<float> const& m) { return {m.data(), m.data() + m.size()}; }

void add_to(std::vector<float>& sum, matrix<float> const& part) {
  for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += part.data()[k];
}

/// A factor as it is stored: on the grid of its codes, or as numbers of a format.
void store_factor(std::vector<float> const& values, std::optional<slim::integer_codes>& codes, slim::number_format format,
                  matrix<float>& stored, context const& ctx) {
  if (codes) {
    codes->encode({values.data(), stored.rows(), stored.cols()}, ctx);
    codes->dequantize_into(stored.view(), ctx);
    return;
  }
  for (index_t k = 0; k < stored.size(); ++k) stored.data()[k] = slim::rounded_to(format, values[static_cast<std::size_t>(k)]);
}

/// Where codes clip, the straight-through gradient is 0.
void stop_where_clipped(std::vector<float> const& values, std::optional<slim::integer_codes> const& codes, matrix<float>& d) {
  if (!codes) return;
  for (index_t i = 0; i < d.rows(); ++i)
    for (index_t j = 0; j < d.cols(); ++j) {
      float const level = values[static_cast<std::size_t>(i * d.cols() + j)] / codes->scale_at(i, j);
      auto const zero = static_cast<float>(codes->zero_at(i, j));
      if (level + zero < static_cast<float>(codes->lowest()) - 0.5f ||
          level + zero > static_cast<float>(codes->highest()) + 0.5f)
        d(i, j) = 0.0f;
    }
}

} // namespace

trained_parts parse_trained_parts(std::string const& names) {
  trained_parts parts{.scales = false, .adapters = false};
  std::istringstream words(names);
  for (std::string word; std::getline(words, word, ',');) {
    if (word == "scales")
      parts.scales = true;
    else if (word == "adapters")
      parts.adapters = true;
    else
      throw input_error("--train " + names + ": '" + word + "' does not train; scales and adapters do");
  }
  if (!parts.scales && !parts.adapters) throw input_error("--train: nothing is named; scales and adapters train");
  return parts;
}

int trained_layers::add_tensor(std::string const& linear, trained_tensor::kind what, std::vector<float> values) {
  double squares = 0;
  for (float const x : values) squares += static_cast<double>(x) * static_cast<double>(x);
  double const size = std::sqrt(squares / static_cast<double>(std::max<std::size_t>(values.size(), 1)));
  tensors_.push_back({linear, what, std::move(values), size > 0 ? size : 1});
  return static_cast<int>(tensors_.size()) - 1;
}

void trained_layers::add(linear& l, packed_layer const& packed, context const& ctx) {
  trained_layer layer{decode({l.name, l.role, l.d_out(), l.d_in()}, packed, ctx), {}};
  auto const& codes = layer.stored.codes;
  slim::adapter const& a = layer.stored.adapter;
  layer.first_scales = codes.scales;
  if (parts_.scales && !codes.scales.has_second_level())
    layer.scales = add_tensor(l.name, trained_tensor::kind::scales,
                              std::vector<float>(static_cast<std::size_t>(codes.scales.size()), 1.0f));
  if (parts_.adapters && a.rank() > 0) {
    layer.left = add_tensor(l.name, trained_tensor::kind::left, numbers_of(a.left));
    layer.right = add_tensor(l.name, trained_tensor::kind::right, numbers_of(a.right));
  }
  l.L = a.left;
  l.R = a.right;
  layers_.emplace(l.name, std::move(layer));
  follow(l, ctx);
}

void trained_layers::add(linear& l, slim::tensor_info const& blocks, context const& ctx) {
  block_scales stored(blocks);
  if (stored.rows() != l.d_out() || stored.cols() != l.d_in())
    throw input_error(slim::message("tensor '", blocks.name, "' is ", stored.rows(), " x ", stored.cols(), ", the model has ",
                                    l.d_out(), " x ", l.d_in()));
  int const number =
      add_tensor(l.name, trained_tensor::kind::scales, std::vector<float>(static_cast<std::size_t>(stored.count()), 1.0f));
  blocks_.emplace(l.name, trained_blocks{std::move(stored), number});
  follow(l, ctx);
}

void trained_layers::follow(linear& l, context const& ctx) {
  if (auto const found = blocks_.find(l.name); found != blocks_.end()) {
    found->second.stored.set(tensors_[static_cast<std::size_t>(found->second.scales)].values, ctx);
    found->second.stored.values_into(l.weight.view(), ctx);
    return;
  }
  auto const at = layers_.find(l.name);
  if (at == layers_.end()) return;
  trained_layer& layer = at->second;
  auto& [kept, codes, a] = layer.stored;
  if (layer.scales >= 0) {
    auto const& factors = tensors_[static_cast<std::size_t>(layer.scales)].values;
    for (index_t k = 0; k < codes.scales.size(); ++k) {
      float const first = layer.first_scales.data()[k], factor = factors[static_cast<std::size_t>(k)];
      // A scale is never negative; a factor that would make it so stops at the least scale there is.
      codes.scales.data()[k] =
          factor == 1.0f ? first : slim::rounded_to(codes.scales.format(), first * std::max(factor, 1e-3f));
    }
  }
  codes.dequantize_into(l.weight.view(), ctx); // pruned weights have the code of 0
  if (layer.left < 0) return;
  store_factor(tensors_[static_cast<std::size_t>(layer.left)].values, a.left_codes, a.format, a.left, ctx);
  store_factor(tensors_[static_cast<std::size_t>(layer.right)].values, a.right_codes, a.format, a.right, ctx);
  l.L = a.left;
  l.R = a.right;
}

void trained_layers::set(tensor_numbers values) {
  if (values.size() != tensors_.size())
    throw slim::shape_error(slim::message("trained layers: ", values.size(), " tensors, ", tensors_.size(), " train"));
  for (std::size_t k = 0; k < values.size(); ++k) {
    if (values[k].size() != tensors_[k].values.size())
      throw slim::shape_error(slim::message("trained layers: ", values[k].size(), " numbers for ", tensors_[k].linear));
    tensors_[k].values = std::move(values[k]);
  }
}

tensor_numbers trained_layers::values() const {
  tensor_numbers all;
  for (trained_tensor const& t : tensors_) all.push_back(t.values);
  return all;
}

tensor_numbers trained_layers::no_gradients() const {
  tensor_numbers all;
  for (trained_tensor const& t : tensors_) all.emplace_back(t.values.size());
  return all;
}

double trained_layers::shorten(tensor_numbers& gradients, double longest) const {
  std::vector<std::span<float>> const all(gradients.begin(), gradients.end());
  for (std::size_t k = 0; k < all.size(); ++k)
    for (float& g : all[k]) g *= static_cast<float>(tensors_[k].size);
  return slim::clip_norm(all, longest);
}

tensor_numbers trained_layers::stepped(slim::adamw& optimizer, tensor_numbers const& gradients, double rate) const {
  tensor_numbers numbers = values();
  for (std::size_t k = 0; k < numbers.size(); ++k) optimizer.step(k, numbers[k], gradients[k], rate * tensors_[k].size);
  return numbers;
}

void trained_layers::add_gradients(linear const& l, matrix_view<float const> x, matrix_view<float const> dy,
                                   tensor_numbers& gradients, context const& ctx) const {
  if (auto const found = blocks_.find(l.name); found != blocks_.end()) {
    matrix<float> dw(l.d_out(), l.d_in());
    slim::add_linear_gradients({l.weight.view(), l.L.view(), l.R.view()}, x, dy,
                               {.x = {}, .weight = dw.view(), .left = {}, .right = {}}, ctx);
    found->second.stored.add_gradient(dw.view(), gradients[static_cast<std::size_t>(found->second.scales)], ctx);
    return;
  }
  auto const at = layers_.find(l.name);
  if (at == layers_.end()) return;
  trained_layer const& layer = at->second;
  auto const& [kept, codes, a] = layer.stored;
  matrix<float> dw, dl, dr;
  if (layer.scales >= 0) dw = matrix<float>(l.d_out(), l.d_in());
  if (layer.left >= 0) {
    dl = matrix<float>(a.left.rows(), a.left.cols());
    dr = matrix<float>(a.right.rows(), a.right.cols());
  }
  slim::add_linear_gradients({l.weight.view(), l.L.view(), l.R.view()}, x, dy,
                             {.x = {}, .weight = dw.view(), .left = dl.view(), .right = dr.view()}, ctx);
  if (layer.scales >= 0) {
    matrix<float> d = slim::scale_gradient(codes, &kept, dw, ctx);
    for (index_t k = 0; k < d.size(); ++k) d.data()[k] *= layer.first_scales.data()[k];
    add_to(gradients[static_cast<std::size_t>(layer.scales)], d);
  }
  if (layer.left < 0) return;
  auto const left = static_cast<std::size_t>(layer.left), right = static_cast<std::size_t>(layer.right);
  stop_where_clipped(tensors_[left].values, a.left_codes, dl);
  stop_where_clipped(tensors_[right].values, a.right_codes, dr);
  add_to(gradients[left], dl);
  add_to(gradients[right], dr);
}

packed_weights trained_layers::layers(context const& ctx) const {
  packed_weights all;
  for (auto const& [name, layer] : layers_) {
    auto const& [kept, codes, a] = layer.stored;
    bool const dense = kept.count() == codes.codes.size();
    all.emplace(name, pack(codes, dense ? nullptr : &kept, &a, ctx));
  }
  return all;
}

std::map<std::string, std::span<std::byte const>> trained_layers::blocks() const {
  std::map<std::string, std::span<std::byte const>> all;
  for (auto const& [name, blocks] : blocks_) all.emplace(name, blocks.stored.bytes());
  return all;
}

} // namespace slim_llm
