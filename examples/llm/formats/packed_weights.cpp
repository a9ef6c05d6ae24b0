#include "formats/packed_weights.hpp"

#include "run/workspace.hpp"

#include "slim/io/safetensors_writer.hpp"
#include "slim/packing/unpack.hpp"

namespace slim_llm {
namespace {

std::vector<std::byte> packed_bytes(slim::integer_codes const& codes, slim::mask const* kept, context const& ctx) {
  if (!kept) return slim::dense_codes::pack(codes, {}, ctx);
  if (kept->pattern() == slim::sparsity_pattern{2, 4}) return slim::sparse24::pack(codes, *kept, {}, ctx);
  return slim::nm_bitmask::pack(codes, *kept, {}, ctx);
}

slim::outgoing_tensor outgoing_bytes(std::string name, std::vector<std::byte> const& bytes) {
  return {std::move(name), slim::tensor_type::other, "U8", {static_cast<index_t>(bytes.size())}, std::span(bytes)};
}

slim::tensor_type type_of(slim::number_format format) {
  switch (format) {
  case slim::number_format::fp16: return slim::tensor_type::f16;
  case slim::number_format::bf16: return slim::tensor_type::bf16;
  case slim::number_format::fp32: break;
  }
  return slim::tensor_type::f32;
}

slim::number_format format_of(slim::tensor_type type) {
  return type == slim::tensor_type::f16    ? slim::number_format::fp16
         : type == slim::tensor_type::bf16 ? slim::number_format::bf16
                                           : slim::number_format::fp32;
}

std::vector<std::byte> copied(std::span<std::byte const> bytes) { return {bytes.begin(), bytes.end()}; }

/// A factor of an adapter: codes, or values, or nothing.
void read_factor(slim::safetensors_file const& file, std::string const& name, std::vector<std::byte>& codes,
                 matrix<float>& values, slim::number_format& format) {
  auto const* const tensor = file.find(name);
  if (!tensor) return;
  if (tensor->stored_type == "U8") {
    codes = copied(tensor->bytes);
    return;
  }
  values = required(slim::read_matrix(*tensor));
  format = format_of(tensor->type);
}

slim::unpacked_matrix unpacked(std::string const& name, std::vector<std::byte> const& bytes, context const& ctx) {
  auto found = slim::unpack(bytes, {}, ctx);
  if (!found) throw input_error(name + ": " + found.why());
  if (found->book) throw input_error(name + ": has a code book, which no recipe here writes");
  return std::move(found).value();
}

slim::adapter adapter_of(std::string const& name, packed_layer const& layer, context const& ctx) {
  slim::adapter a;
  auto const decode = [&](std::vector<std::byte> const& bytes, char const* part, matrix<float>& values,
                          std::optional<slim::integer_codes>& codes) {
    codes = unpacked(name + part, bytes, ctx).codes;
    values = matrix<float>(codes->rows(), codes->cols());
    codes->dequantize_into(values.view(), ctx);
  };
  a.format = layer.format;
  if (layer.left.empty()) {
    a.left = layer.left_values;
    a.right = layer.right_values;
  } else {
    decode(layer.left, ".left", a.left, a.left_codes);
    decode(layer.right, ".right", a.right, a.right_codes);
  }
  return a;
}

} // namespace

double packed_layer::bytes() const {
  auto const packed = static_cast<double>(weight.size() + left.size() + right.size());
  return packed + slim::bit_width(format) / 8.0 * static_cast<double>(left_values.size() + right_values.size());
}

packed_layer pack(std::string const& name, slim::any_layer const& layer, context const& ctx) {
  auto const* const codes = layer.codes ? layer.codes->get_if<slim::integer_codes>() : nullptr;
  if (!codes) throw slim::config_error(name + " cannot be packed: the recipe makes no integer codes");
  packed_layer packed;
  packed.weight = packed_bytes(*codes, layer.kept ? &*layer.kept : nullptr, ctx);
  if (!layer.low_rank || layer.low_rank->rank() == 0) return packed;
  slim::adapter const& a = *layer.low_rank;
  packed.format = a.format;
  if (a.left_codes && a.right_codes) {
    packed.left = packed_bytes(*a.left_codes, nullptr, ctx);
    packed.right = packed_bytes(*a.right_codes, nullptr, ctx);
  } else {
    packed.left_values = a.left;
    packed.right_values = a.right;
  }
  return packed;
}

void save_packed(packed_weights const& weights, std::filesystem::path const& path, std::string const& recipe) {
  std::vector<slim::outgoing_tensor> tensors;
  for (auto const& [name, layer] : weights) {
    tensors.push_back(outgoing_bytes(name, layer.weight));
    if (!layer.left.empty()) {
      tensors.push_back(outgoing_bytes(name + ".left", layer.left));
      tensors.push_back(outgoing_bytes(name + ".right", layer.right));
    } else if (!layer.left_values.empty()) {
      tensors.push_back(slim::outgoing_matrix(name + ".left", type_of(layer.format), layer.left_values.view()));
      tensors.push_back(slim::outgoing_matrix(name + ".right", type_of(layer.format), layer.right_values.view()));
    }
  }
  auto const done = slim::save_safetensors(path, std::move(tensors), {{"format", "slim"}, {"recipe", recipe}});
  if (!done) throw input_error(done.why());
}

packed_weights open_packed(std::filesystem::path const& path) {
  auto const file = required(slim::safetensors_file::open(path));
  packed_weights weights;
  for (auto const& tensor : file.tensors()) {
    std::string const& name = tensor.name;
    if (name.ends_with(".left") || name.ends_with(".right")) continue;
    if (tensor.stored_type != "U8")
      throw input_error(path.string() + ": " + name + " is " + tensor.stored_type + ", packed weights are U8");
    packed_layer layer;
    layer.weight = copied(tensor.bytes);
    read_factor(file, name + ".left", layer.left, layer.left_values, layer.format);
    read_factor(file, name + ".right", layer.right, layer.right_values, layer.format);
    if (layer.left.empty() != layer.right.empty() || layer.left_values.empty() != layer.right_values.empty())
      throw input_error(path.string() + ": the adapter of " + name + " lacks a factor, or they are of two kinds");
    weights.emplace(name, std::move(layer));
  }
  return weights;
}

slim::input_precision packed_precision(std::string const& inputs) {
  if (inputs.empty() || inputs == "int8") return slim::input_precision::int8;
  if (inputs == "int16") return slim::input_precision::int16;
  if (inputs == "float") return slim::input_precision::exact;
  throw input_error("--inputs " + inputs + ": possible with packed weights are int8, int16, float");
}

void use_packed(linear& l, packed_weights const& weights, slim::input_precision inputs, context const& ctx) {
  auto const found = weights.find(l.name);
  if (found == weights.end()) throw input_error(l.name + ": is not among the packed weights");
  auto const [codes, kept, book] = unpacked(l.name, found->second.weight, ctx);
  slim::adapter const a = adapter_of(l.name, found->second, ctx);
  bool const fits = codes.rows() == l.d_out() && codes.cols() == l.d_in() &&
                    (a.rank() == 0 || (a.left.rows() == l.d_in() && a.right.cols() == l.d_out() && a.right.rows() == a.rank()));
  if (!fits)
    throw input_error(slim::message(l.name, ": packed as ", codes.rows(), " x ", codes.cols(), " with rank ", a.rank(),
                                    ", the model has ", l.d_out(), " x ", l.d_in()));
  bool const dense = kept.count() == codes.codes.size();
  l.packed = std::make_shared<slim::packed_linear const>(
      slim::pack_linear(codes, dense ? nullptr : &kept, a.rank() > 0 ? &a : nullptr, ctx));
  l.packed_inputs = inputs;
  codes.dequantize_into(l.weight.view(), ctx);
  a.add_to(l.weight.view(), ctx);
}

void use_packed(model& m, packed_weights const& weights, slim::input_precision inputs, context const& ctx) {
  for (block& b : m.blocks)
    for (linear& l : b.linears) use_packed(l, weights, inputs, ctx);
}

} // namespace slim_llm
