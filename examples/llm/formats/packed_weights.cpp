#include "formats/packed_weights.hpp"

#include "run/input_error.hpp"
#include "run/memory.hpp"

#include "slim/io/gguf/encode_blocks.hpp"
#include "slim/io/safetensors/writer.hpp"
#include "slim/packing/entropy_coded_matrix.hpp"
#include "slim/packing/pack_codes.hpp"

namespace slim_llm {
namespace {

std::vector<std::byte> packed_bytes(slim::integer_codes const& codes, slim::mask const* kept, context const& ctx) {
  if (!kept) return slim::dense_codes::pack(codes, ctx);
  if (kept->pattern() == slim::sparsity_pattern{2, 4}) return slim::sparse24::pack(codes, *kept, ctx);
  return slim::nm_bitmask::pack(codes, *kept, ctx);
}

void pack_adapter(packed_layer& packed, slim::adapter const* low_rank, context const& ctx) {
  if (!low_rank || low_rank->rank() == 0) return;
  slim::adapter const& a = *low_rank;
  packed.format = a.format;
  if (a.left_codes && a.right_codes) {
    packed.left = packed_bytes(*a.left_codes, nullptr, ctx);
    packed.right = packed_bytes(*a.right_codes, nullptr, ctx);
  } else {
    packed.left_values = a.left;
    packed.right_values = a.right;
  }
}

template <class Stored>
std::vector<std::byte> converted(matrix<float> const& values) {
  std::vector<Stored> stored;
  stored.reserve(static_cast<std::size_t>(values.size()));
  for (index_t k = 0; k < values.size(); ++k) stored.push_back(Stored(values.data()[k]));
  auto const bytes = std::as_bytes(std::span(stored));
  return {bytes.begin(), bytes.end()};
}

slim::number_format format_of(slim::tensor_type type) {
  return type == slim::tensor_type::f16    ? slim::number_format::fp16
         : type == slim::tensor_type::bf16 ? slim::number_format::bf16
                                           : slim::number_format::fp32;
}

/// A factor of an adapter: codes, or values, or nothing.
void read_factor(slim::safetensors_file const& file, std::string const& name, std::vector<std::byte>& codes,
                 matrix<float>& values, slim::number_format& format) {
  auto const* const tensor = file.find(name);
  if (!tensor) return;
  if (tensor->stored_type == "U8") {
    codes = packed_in(file, *tensor);
    return;
  }
  values = required(slim::read_matrix(*tensor));
  format = format_of(tensor->type);
}

bool is_factor(std::string const& name) { return name.ends_with(".left") || name.ends_with(".right"); }

slim::unpacked_matrix unpacked_any(std::string const& name, std::vector<std::byte> const& bytes, context const& ctx) {
  auto found = slim::unpack(bytes, {}, ctx);
  if (!found) throw input_error(name + ": " + found.why());
  return std::move(*found);
}

slim::sparse_codes<slim::mask, slim::integer_codes> unpacked(std::string const& name, std::vector<std::byte> const& bytes,
                                                             context const& ctx) {
  auto found = unpacked_any(name, bytes, ctx);
  auto const* const codes = found.codes.get_if<slim::integer_codes>();
  if (!codes || !codes->offsets.empty())
    throw input_error(name + ": is stored with books, outliers, a second level or parts of columns, which only running and "
                             "evaluating know; here uniform codes are needed");
  return {std::move(found.mask), *codes};
}

void check_shape(linear_info const& l, index_t rows, index_t cols) {
  if (rows != l.d_out || cols != l.d_in)
    throw input_error(slim::message(l.name, ": packed as ", rows, " x ", cols, ", the model has ", l.d_out, " x ", l.d_in));
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

std::vector<std::byte> packed_in(slim::safetensors_file const& file, slim::tensor_info const& tensor) {
  auto bytes = slim::is_coded_matrix(tensor.bytes)
                   ? slim::entropy_decode_matrix(tensor.bytes)
                   : slim::result<std::vector<std::byte>>(std::vector<std::byte>(tensor.bytes.begin(), tensor.bytes.end()));
  drop_pages(tensor.bytes);
  if (!bytes) throw input_error(file.path().string() + ": tensor '" + tensor.name + "': " + bytes.why());
  return std::move(bytes).value();
}

char const* stored_type_of(slim::number_format format) {
  switch (format) {
  case slim::number_format::fp16: return "F16";
  case slim::number_format::bf16: return "BF16";
  case slim::number_format::fp32: break;
  }
  return "F32";
}

std::vector<std::byte> stored_numbers(matrix<float> const& values, slim::number_format format) {
  switch (format) {
  case slim::number_format::fp16: return converted<slim::fp16>(values);
  case slim::number_format::bf16: return converted<slim::bf16>(values);
  case slim::number_format::fp32: break;
  }
  return converted<float>(values);
}

double packed_layer::bytes() const {
  auto const packed = static_cast<double>(weight.size() + left.size() + right.size());
  return packed + slim::bit_width(format) / 8.0 * static_cast<double>(left_values.size() + right_values.size());
}

packed_layer pack(std::string const& name, slim::any_layer const& layer, context const& ctx) {
  auto const* const kept = layer.weight.mask_or_null();
  auto const* const low_rank = layer.adapter ? &*layer.adapter : nullptr;
  slim::any_codes const known = slim::in_parts(layer.weight.codes);
  auto const* const codes = known.get_if<slim::integer_codes>();
  if (codes && codes->offsets.empty()) return pack(*codes, kept, low_rank, ctx);
  if (kept) throw slim::config_error(name + " cannot be packed: codes of this kind are not stored with pruned weights");
  try {
    packed_layer packed;
    packed.weight = slim::pack_codes(known, ctx);
    pack_adapter(packed, low_rank, ctx);
    return packed;
  } catch (slim::config_error const& why) {
    throw slim::config_error(name + " cannot be packed: " + why.what());
  }
}

packed_layer pack(slim::integer_codes const& codes, slim::mask const* kept, slim::adapter const* low_rank, context const& ctx) {
  packed_layer packed;
  packed.weight = packed_bytes(codes, kept, ctx);
  pack_adapter(packed, low_rank, ctx);
  return packed;
}

packed_layer pack_blocks(std::string const& name, slim::tensor_type type, slim::any_layer const& layer, context const& ctx) {
  auto const* const even = layer.weight.codes.get_if<slim::integer_codes>();
  auto const* const book = layer.weight.codes.get_if<slim::codebook_codes>();
  if (!even && !book) throw slim::config_error(name + " has no blocks: the recipe makes no codes");
  auto const* const kept = layer.weight.mask_or_null();
  auto made = even ? slim::encode_blocks(type, *even, kept, ctx) : slim::encode_blocks(type, *book, kept, ctx);
  if (!made) throw slim::config_error(name + ": " + made.why());
  packed_layer packed;
  packed.weight = std::move(made).value();
  packed.blocks = type;
  return packed;
}

void write_packed(std::filesystem::path const& path, packed_weights const& layers) {
  std::vector<slim::outgoing_tensor> tensors;
  for (auto const& [name, layer] : layers)
    for_each_part(name, layer, [&](std::string const& part, std::string const& type, auto const& shape, auto const& bytes) {
      tensors.push_back({part, slim::tensor_type::other, type, shape,
                         slim::computed_bytes{bytes.size(), [bytes = std::vector<std::byte>(bytes)] { return bytes; }}});
    });
  if (auto const done = slim::save_safetensors(path, std::move(tensors), {{"format", "slim"}}); !done)
    throw input_error(done.why());
}

packed_file::packed_file(std::filesystem::path const& path)
    : file_(std::make_shared<slim::safetensors_file const>(required(slim::safetensors_file::open(path)))) {
  for (auto const& tensor : file_->tensors()) {
    if (is_factor(tensor.name)) continue;
    if (tensor.stored_type != "U8")
      throw input_error(path.string() + ": " + tensor.name + " is " + tensor.stored_type + ", packed weights are U8");
    names_.insert(tensor.name);
  }
}

void packed_file::require(std::string const& name) const {
  if (!names_.contains(name)) throw input_error(name + ": is not among the packed weights");
}

packed_layer packed_file::layer(std::string const& name) const {
  require(name);
  packed_layer layer;
  layer.weight = packed_in(*file_, *file_->find(name));
  read_factor(*file_, name + ".left", layer.left, layer.left_values, layer.format);
  read_factor(*file_, name + ".right", layer.right, layer.right_values, layer.format);
  if (layer.left.empty() != layer.right.empty() || layer.left_values.empty() != layer.right_values.empty())
    throw input_error(file_->path().string() + ": the adapter of " + name + " lacks a factor, or they are of two kinds");
  return layer;
}

packed_weights packed_file::all() const {
  packed_weights weights;
  for (std::string const& name : names_) weights.emplace(name, layer(name));
  return weights;
}

slim::input_precision packed_precision(std::string const& inputs) {
  if (inputs == "int8") return slim::input_precision::int8;
  if (inputs == "int16") return slim::input_precision::int16;
  if (inputs == "float") return slim::input_precision::exact;
  throw input_error("--inputs " + inputs + ": possible are int8, int16, float");
}

decoded_layer decode(linear_info const& l, packed_layer const& layer, context const& ctx) {
  auto [kept, codes] = unpacked(l.name, layer.weight, ctx);
  check_shape(l, codes.rows(), codes.cols());
  return {std::move(kept), std::move(codes), decode_adapter(l, layer, ctx)};
}

slim::adapter decode_adapter(linear_info const& l, packed_layer const& layer, context const& ctx) {
  slim::adapter a = adapter_of(l.name, layer, ctx);
  if (a.rank() > 0 && (a.left.rows() != l.d_in || a.right.cols() != l.d_out || a.right.rows() != a.rank()))
    throw input_error(slim::message(l.name, ": packed with an adapter of ", a.left.rows(), " x ", a.rank(), " and ",
                                    a.right.rows(), " x ", a.right.cols(), ", the model has ", l.d_out, " x ", l.d_in));
  return a;
}

namespace {

/// Codes of any kind that a packed layer holds, and its adapter.
struct runnable_layer {
  slim::sparse_codes<slim::mask, slim::any_codes> weight;
  slim::adapter adapter;
};

runnable_layer decode_any(linear_info const& l, packed_layer const& layer, context const& ctx) {
  auto found = unpacked_any(l.name, layer.weight, ctx);
  check_shape(l, found.rows(), found.cols());
  return {std::move(found), decode_adapter(l, layer, ctx)};
}

/// Lets a linear run on the codes of a layer.
void run_on_codes(linear& l, runnable_layer const& layer, slim::input_precision inputs, context const& ctx) {
  auto const& [weight, a] = layer;
  bool const dense = weight.mask.count() == weight.rows() * weight.cols();
  l.packed = std::make_shared<slim::packed_linear const>(
      slim::pack_linear(weight.codes, dense ? nullptr : &weight.mask, a.rank() > 0 ? &a : nullptr, ctx));
  l.packed_inputs = inputs;
}

void take_values(linear& l, runnable_layer const& layer, context const& ctx) {
  l.weight = matrix<float>(layer.weight.rows(), layer.weight.cols());
  layer.weight.codes.dequantize_into(l.weight.view(), ctx); // pruned weights have the code of 0
  if (layer.adapter.rank() > 0) layer.adapter.add_to(l.weight.view(), ctx);
}

} // namespace

void use_packed(linear& l, packed_layer const& layer, std::optional<slim::input_precision> inputs, context const& ctx) {
  auto const decoded = decode_any({l.name, l.role, l.d_out(), l.d_in()}, layer, ctx);
  if (inputs) run_on_codes(l, decoded, *inputs, ctx);
  take_values(l, decoded, ctx);
}

void use_packed(block& b, packed_weights const& layers, std::optional<slim::input_precision> inputs, context const& ctx) {
  for (linear& l : b.linears)
    if (auto const found = layers.find(l.name); found != layers.end()) use_packed(l, found->second, inputs, ctx);
}

void read_packed(model& m, std::shared_ptr<packed_file const> layers, std::optional<slim::input_precision> inputs) {
  std::map<std::string, linear_info> shapes;
  for (linear_info const& l : m.file_linears) shapes.emplace(l.name, l);
  m.read_block = [read = m.read_block, shapes = std::move(shapes), layers, inputs](index_t number, context const& ctx) {
    block b = read(number, ctx);
    for (linear& l : b.linears) {
      if (!layers->names().contains(l.name)) continue;
      auto const layer = decode_any(shapes.at(l.name), layers->layer(l.name), ctx);
      l.weight = {};
      if (inputs)
        run_on_codes(l, layer, *inputs, ctx);
      else
        take_values(l, layer, ctx);
    }
    return b;
  };
}

} // namespace slim_llm
