#include "formats/import_folder.hpp"

#include "formats/assemble.hpp"
#include "formats/export_names.hpp"
#include "formats/export_report.hpp"
#include "formats/export_source.hpp"
#include "formats/layer_format.hpp"
#include "formats/load_formats.hpp"
#include "run/output_files.hpp"

#include "slim/interop/even_groups.hpp"
#include "slim/io/gguf/encode_blocks.hpp"
#include "slim/packing/dense_codes.hpp"

#include <cmath>
#include <cstring>

namespace slim_llm {
namespace {

using nlohmann::ordered_json;

[[noreturn]] void fail(std::filesystem::path const& path, std::string const& reason) {
  throw input_error(path.string() + ": " + reason);
}

ordered_json read_object(std::filesystem::path const& path) {
  ordered_json object = ordered_json::parse(read_text(path), nullptr, false);
  if (!object.is_object()) fail(path, "is not a JSON object");
  return object;
}

/// A member, or a fallback if it is missing or null. @throws input_error if it is of another type.
template <class T>
T member(std::filesystem::path const& path, ordered_json const& object, std::string const& key, T const& fallback) {
  auto const at = object.find(key);
  if (at == object.end() || at->is_null()) return fallback;
  try {
    return at->template get<T>();
  } catch (nlohmann::json::exception const&) {
    fail(path, "'" + key + "' is not of the type that it must have");
  }
}

/// "a.b" if the name is "a.b" + suffix, else nothing.
std::string without_suffix(std::string const& name, std::string const& suffix) {
  return name.size() > suffix.size() && name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : "";
}

/// What a group of config_groups says about its modules.
struct scheme {
  int bits = 0;
  std::vector<std::string> targets;
};

std::vector<scheme> schemes_of(std::filesystem::path const& path, ordered_json const& said) {
  if (member<std::string>(path, said, "format", "") != "pack-quantized")
    fail(path,
         "compressed-tensors format '" + member<std::string>(path, said, "format", "") + "' is not read; pack-quantized is");
  std::vector<scheme> out;
  ordered_json const groups = member<ordered_json>(path, said, "config_groups", ordered_json::object());
  for (auto const& entry : groups.items()) {
    auto const& group = entry.value();
    ordered_json const weights = group.is_object() ? member<ordered_json>(path, group, "weights", {}) : ordered_json();
    if (!weights.is_object()) fail(path, "config group '" + entry.key() + "' has no 'weights'");
    if (member<std::string>(path, weights, "type", "int") != "int") fail(path, "codes of type float are not read");
    out.push_back({member<int>(path, weights, "num_bits", 0), member<std::vector<std::string>>(path, group, "targets", {})});
  }
  if (out.empty()) fail(path, "'config_groups' is empty");
  return out;
}

int bits_of(std::filesystem::path const& path, std::vector<scheme> const& schemes, std::string const& module) {
  if (schemes.size() == 1) return schemes.front().bits;
  for (scheme const& s : schemes)
    if (std::find(s.targets.begin(), s.targets.end(), module) != s.targets.end()) return s.bits;
  fail(path, "no config group names the module '" + module + "' (patterns are not read)");
}

/// A factor in blocks of 32 as codes, rows x cols.
template <class Block>
slim::integer_codes codes_of_blocks(slim::tensor_info const& tensor, int bits) {
  slim::integer_codes codes(tensor.rows(), tensor.cols(), bits, slim::per_group(32), slim::number_format::fp16);
  for (index_t k = 0; k < codes.scales.size(); ++k) {
    Block b;
    std::memcpy(&b, tensor.bytes.data() + static_cast<std::size_t>(k) * sizeof b, sizeof b);
    codes.scales.data()[k] = static_cast<float>(b.d);
    std::int8_t* const row = codes.codes.data() + 32 * k;
    for (std::size_t j = 0; j < 32; ++j) {
      if constexpr (std::is_same_v<Block, slim::ggml::block_q8_0>)
        row[j] = b.qs[j];
      else
        row[j] = static_cast<std::int8_t>((j < 16 ? b.qs[j] & 15 : b.qs[j - 16] >> 4) - 8);
    }
  }
  return codes;
}

/// A factor as it is stored: values and, of types with blocks, codes.
struct read_factor {
  matrix<float> values;
  std::optional<slim::integer_codes> codes;
  slim::number_format format = slim::number_format::fp32;
};

read_factor factor_of(slim::tensor_info const& tensor) {
  read_factor f;
  f.values = required(slim::read_matrix(tensor));
  if (tensor.type == slim::tensor_type::q4_0) f.codes = codes_of_blocks<slim::ggml::block_q4_0>(tensor, 4);
  if (tensor.type == slim::tensor_type::q8_0) f.codes = codes_of_blocks<slim::ggml::block_q8_0>(tensor, 8);
  if (tensor.type == slim::tensor_type::f16) f.format = slim::number_format::fp16;
  if (tensor.type == slim::tensor_type::bf16) f.format = slim::number_format::bf16;
  return f;
}

/// left (d_in x r) and right (r x d_out), times `scaling`.
slim::adapter joined(std::string const& name, read_factor left, read_factor right, double scaling, linear_info const& l) {
  slim::adapter a;
  a.left = std::move(left.values);
  a.right = std::move(right.values);
  a.format = left.format == right.format ? left.format : slim::number_format::fp32;
  if (left.codes && right.codes && scaling == 1.0) {
    a.left_codes = std::move(left.codes);
    a.right_codes = std::move(right.codes);
  } else if (left.codes || right.codes) {
    a.format = slim::number_format::fp32;
  }
  if (scaling != 1.0) {
    for (index_t k = 0; k < a.right.size(); ++k) a.right.data()[k] *= static_cast<float>(scaling);
    a.format = slim::number_format::fp32;
  }
  if (a.left.rows() != l.d_in || a.right.cols() != l.d_out || a.left.cols() != a.right.rows())
    throw input_error(slim::message(name, ": factors of ", a.left.rows(), " x ", a.left.cols(), " and ", a.right.rows(), " x ",
                                    a.right.cols(), " do not fit a layer of ", l.d_in, " inputs and ", l.d_out, " outputs"));
  return a;
}

read_factor transposed(read_factor f) {
  f.values = matrix<float>(slim::transposed(f.values.view()));
  if (f.codes) f.codes = slim::transposed(*f.codes);
  return f;
}

std::map<std::string, linear_info> linears_by_module(model const& m) {
  std::map<std::string, linear_info> out;
  for (linear_info const& l : linears_of(m)) out.emplace(without_suffix(l.name, ".weight"), l);
  return out;
}

/// All factors must have found their linear. @throws input_error naming the first that did not.
void require_all_used(std::filesystem::path const& path, std::size_t used, std::vector<slim::tensor_info> const& tensors,
                      std::function<bool(std::string const&)> const& is_used) {
  if (used == tensors.size()) return;
  for (auto const& tensor : tensors)
    if (!is_used(tensor.name)) fail(path, "tensor '" + tensor.name + "' belongs to no linear of the model");
}

/// Adapters of a folder: names of factors behind a prefix and the module, and the scaling of each module.
std::map<std::string, slim::adapter> from_folder(std::filesystem::path const& file, model const& m, std::string const& prefix,
                                                 std::string const& left_name, std::string const& right_name, bool transpose,
                                                 std::function<double(std::string const&, index_t)> const& scaling) {
  auto const opened = required(slim::safetensors_file::open(file));
  std::map<std::string, slim::adapter> out;
  std::map<std::string, bool> used;
  for (auto const& [module, l] : linears_by_module(m)) {
    auto const* const left = opened.find(prefix + module + left_name);
    auto const* const right = opened.find(prefix + module + right_name);
    if (!left && !right) continue;
    if (!left || !right) fail(file, "the adapter of " + module + " lacks a factor");
    used[left->name] = used[right->name] = true;
    read_factor a = factor_of(*left), b = factor_of(*right);
    if (transpose) {
      a = transposed(std::move(a));
      b = transposed(std::move(b));
    }
    index_t const rank = a.values.cols();
    out.emplace(l.name, joined(module, std::move(a), std::move(b), scaling(module, rank), l));
  }
  require_all_used(file, used.size(), opened.tensors(), [&](std::string const& name) { return used.contains(name); });
  return out;
}

std::map<std::string, slim::adapter> from_peft(std::filesystem::path const& folder, model const& m) {
  auto const path = folder / "adapter_config.json";
  ordered_json const config = read_object(path);
  if (member<std::string>(path, config, "peft_type", "") != "LORA") fail(path, "is no LoRA adapter ('peft_type')");
  for (char const* key : {"use_dora", "lora_bias"})
    if (member<bool>(path, config, key, false)) fail(path, slim::message("'", key, "' is not read"));
  auto const alpha = member<double>(path, config, "lora_alpha", 8.0);
  auto const alphas = member<std::map<std::string, double>>(path, config, "alpha_pattern", {});
  bool const root = member<bool>(path, config, "use_rslora", false);
  return from_folder(folder / "adapter_model.safetensors", m, "base_model.model.", ".lora_A.weight", ".lora_B.weight", true,
                     [&](std::string const& module, index_t rank) {
                       auto const own = alphas.find(module);
                       double const r = static_cast<double>(rank);
                       return (own == alphas.end() ? alpha : own->second) / (root ? std::sqrt(r) : r);
                     });
}

std::map<std::string, slim::adapter> from_mlx(std::filesystem::path const& folder, model const& m) {
  auto const path = folder / "adapter_config.json";
  ordered_json const config = read_object(path);
  if (member<std::string>(path, config, "fine_tune_type", "lora") != "lora") fail(path, "'fine_tune_type' is not lora");
  ordered_json const parameters = member<ordered_json>(path, config, "lora_parameters", ordered_json::object());
  auto const scale = member<double>(path, parameters, "scale", 20.0); // mlx-lm's default
  return from_folder(folder / "adapters.safetensors", m, "", ".lora_a", ".lora_b", false,
                     [&](std::string const&, index_t) { return scale; });
}

std::map<std::string, slim::adapter> from_lora_gguf(std::filesystem::path const& path,
                                                    std::span<slim::tensor_info const> tensors, model const& m) {
  auto const opened = required(slim::gguf_file::open(path));
  if (required(opened.get_or<std::string>("adapter.type", "")) != "lora") fail(path, "is no LoRA adapter ('adapter.type')");
  auto const alpha = required(opened.get_or<double>("adapter.lora.alpha", 0.0));
  tensor_names const names = names_in_gguf(tensors, m);
  std::map<std::string, slim::adapter> out;
  std::map<std::string, bool> used;
  for (linear_info const& l : linears_of(m)) {
    std::string const& name = names.of(l.name);
    auto const* const left = opened.find(name + ".lora_a");
    auto const* const right = opened.find(name + ".lora_b");
    if (!left && !right) continue;
    if (!left || !right) fail(path, "the adapter of " + name + " lacks a factor");
    used[left->name] = used[right->name] = true;
    read_factor a = transposed(factor_of(*left)), b = transposed(factor_of(*right));
    double const scaling = alpha == 0 ? 1.0 : alpha / static_cast<double>(a.values.cols());
    std::vector<index_t> const order = names.row_order(l, m.config);
    std::vector<index_t> back(order.size());
    for (std::size_t k = 0; k < order.size(); ++k) back[static_cast<std::size_t>(order[k])] = static_cast<index_t>(k);
    out.emplace(l.name, with_outputs(joined(name, std::move(a), std::move(b), scaling, l), back, name));
  }
  require_all_used(path, used.size(), opened.tensors(), [&](std::string const& name) { return used.contains(name); });
  return out;
}

/// Codes and adapter of a linear in the formats of .slim files. @throws input_error if they have no place there
packed_layer packed_of(std::string const& name, slim::integer_codes const& codes, slim::adapter const* adapter) {
  packed_layer layer;
  try {
    layer.weight = slim::dense_codes::pack(codes);
    if (!adapter) return layer;
    layer.format = adapter->format;
    if (adapter->left_codes) {
      layer.left = slim::dense_codes::pack(*adapter->left_codes);
      layer.right = slim::dense_codes::pack(*adapter->right_codes);
    } else {
      layer.left_values = adapter->left;
      layer.right_values = adapter->right;
    }
  } catch (slim::error const& wrong) {
    throw input_error(name + ": has no place in a .slim file: " + wrong.what());
  }
  return layer;
}

/// Codes of a matrix that is no linear, in a type that holds their values: Q8_0, F16 or F32. Sets the type of `tensor`.
std::vector<std::byte> plain_bytes(slim::integer_codes const& codes, slim::tensor_info& tensor) {
  if (auto blocks = slim::encode_blocks(slim::tensor_type::q8_0, codes)) {
    tensor.type = slim::tensor_type::q8_0;
    tensor.stored_type = slim::name_of(tensor.type);
    return std::move(blocks).value();
  }
  matrix<float> const values = values_of(codes);
  bool const halves = holds(slim::number_format::fp16, values);
  tensor.type = halves ? slim::tensor_type::f16 : slim::tensor_type::f32;
  tensor.stored_type = slim::name_of(tensor.type);
  return stored_numbers(values, halves ? slim::number_format::fp16 : slim::number_format::fp32);
}

} // namespace

quantized_folder::quantized_folder(std::filesystem::path const& path)
    : path_(path), file_(required(slim::safetensors_folder::open(path))), config_(read_object(path / "config.json")) {
  auto const config = path / "config.json";
  ordered_json const said = member<ordered_json>(config, config_, "quantization_config", ordered_json::object());
  std::string const method = said.is_object() ? member<std::string>(config, said, "quant_method", "") : "";
  std::string suffix;
  std::function<int(std::string const&)> bits;
  if (method == "compressed-tensors") {
    format_ = find_layer_format("ct");
    suffix = ".weight_packed";
    bits = [schemes = schemes_of(config, said), config](std::string const& module) { return bits_of(config, schemes, module); };
  } else if (method == "gptq") {
    std::string const version = member<std::string>(config, said, "checkpoint_format", "gptq");
    if (version != "gptq" && version != "gptq_v2")
      fail(config, "checkpoint_format '" + version + "' is not read; gptq and gptq_v2 are");
    format_ = find_layer_format(version == "gptq" ? "gptq:v1" : "gptq:v2");
    suffix = ".qweight";
    bits = [all = member<int>(config, said, "bits", 4)](std::string const&) { return all; };
  } else if (config_.contains("quantization")) {
    ordered_json const affine = member<ordered_json>(config, config_, "quantization", ordered_json::object());
    if (member<std::string>(config, affine, "mode", "affine") != "affine") fail(config, "MLX's 'mode' is not affine");
    format_ = find_layer_format("mlx");
    suffix = ".scales";
    bits = [affine, config](std::string const& module) {
      auto const own = affine.find(module);
      return member<int>(config, own != affine.end() && own->is_object() ? *own : affine, "bits", 4);
    };
  } else {
    fail(config, "names no quantization that is read here: compressed-tensors (pack-quantized), gptq, or MLX's affine");
  }
  for (auto const& tensor : file_.tensors())
    if (std::string const module = without_suffix(tensor.name, suffix); !module.empty()) bits_[module] = bits(module);
  if (bits_.empty()) fail(path, "has no tensor whose name ends with " + suffix);
  for (auto const& [module, count] : bits_)
    if (count != 2 && count != 3 && count != 4 && count != 8)
      fail(config, slim::message("codes of ", count, " bits (", module, ") are not read; 2, 3, 4 and 8 are"));
}

quantized_folder::~quantized_folder() = default;

std::string quantized_folder::describe() const {
  return slim::message(format_->name(), ", ", bits_.size(), " layers of codes");
}

slim::integer_codes quantized_folder::codes(std::string const& module) const {
  try {
    return slim::with_positive_scales(
        format_->read([&](std::string const& name) { return file_.find(name); }, module, bits_.at(module)));
  } catch (slim::error const& wrong) {
    fail(path_, module + ": " + wrong.what());
  }
}

std::string quantized_folder::module_of(std::string const& tensor) const {
  for (char const* suffix : {".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx",
                             ".qweight", ".qzeros", ".scales", ".g_idx", ".biases", ".weight"})
    if (std::string module = without_suffix(tensor, suffix); bits_.contains(module)) return module;
  return {};
}

slim_source quantized_folder::source() const {
  slim_source source;
  source.fingerprint = [] { return std::string(); }; // nobody knows what was quantized
  std::set<std::string> seen;
  for (slim::tensor_info const& tensor : file_.tensors()) {
    std::string const module = module_of(tensor.name);
    if (module.empty()) {
      source.tensors.push_back(tensor);
    } else if (seen.insert(module).second) {
      slim::integer_codes const layer = codes(module);
      slim::tensor_info coded;
      coded.name = module + ".weight";
      coded.stored_type = coded_type;
      coded.shape = {layer.rows(), layer.cols()};
      source.tensors.push_back(std::move(coded));
    }
  }
  for (std::string const& name : small_files(path_))
    if (name != "quantize_config.json") source.files[name] = read_text(path_ / name);
  ordered_json config = config_;
  config.erase("quantization_config");
  config.erase("quantization");
  source.files["config.json"] = config.dump(2) + "\n";
  return source;
}

imported_model quantized_folder::write_slim(std::filesystem::path const& out, std::filesystem::path const& adapters) const {
  slim_source from = source();
  std::map<std::string, std::span<std::byte const>> files;
  for (auto const& [name, content] : from.files) files[name] = std::as_bytes(std::span(content));
  std::shared_ptr<void const> const open(std::shared_ptr<void const>(), &file_); // this object keeps it open
  auto const loaded = [&] { return required(model_of_hugging_face(model_files(path_, files, open), {from.tensors, open})); };
  std::set<std::string> linears;
  for (linear_info const& l : linears_of(loaded())) linears.insert(l.name);
  scratch_file scratch(folder_of(out));
  std::vector<mapped_bytes> numbers; // of embedding and head, which MLX quantizes, too
  for (slim::tensor_info& tensor : from.tensors)
    if (tensor.stored_type == coded_type && !linears.contains(tensor.name)) {
      auto const bytes = plain_bytes(codes(without_suffix(tensor.name, ".weight")), tensor);
      std::uint64_t const offset = scratch.reserve(bytes.size());
      scratch.write(offset, bytes);
      numbers.push_back(scratch.map(offset, bytes.size()));
      tensor.bytes = numbers.back().bytes;
    }
  model const m = loaded();
  auto const added = adapters.empty() ? std::map<std::string, slim::adapter>() : read_adapters(adapters, from.tensors, m);
  slim_writer writer(from, m, out, {{"name", "imported from " + describe()}}, {});
  for (index_t n = 0; n < m.config.layers; ++n) {
    block b = load_block(m, n);
    packed_weights layers;
    for (linear& l : b.linears) {
      std::string const module = without_suffix(l.name, ".weight");
      auto const adapter = added.find(l.name);
      if (!bits_.contains(module)) {
        if (adapter != added.end()) fail(path_, module + " is not quantized, and adapters go beside codes");
        continue;
      }
      slim::integer_codes const found = codes(module);
      l.weight = matrix<float>(found.rows(), found.cols());
      layers.emplace(l.name, packed_of(l.name, found, adapter == added.end() ? nullptr : &adapter->second));
    }
    use_packed(b, layers, std::nullopt);
    writer.add(b, layers);
  }
  double const bytes = writer.finish();
  return {writer.bytes(), linear_weight_count(m), added.size(), bytes, m.notes};
}

std::map<std::string, slim::adapter> read_adapters(std::filesystem::path const& path,
                                                   std::span<slim::tensor_info const> tensors, model const& m) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return from_lora_gguf(path, tensors, m);
  if (std::filesystem::exists(path / "adapter_model.safetensors", ignored)) return from_peft(path, m);
  if (std::filesystem::exists(path / "adapters.safetensors", ignored)) return from_mlx(path, m);
  fail(path, "has neither adapter_model.safetensors (PEFT) nor adapters.safetensors (mlx-lm)");
}

} // namespace slim_llm
