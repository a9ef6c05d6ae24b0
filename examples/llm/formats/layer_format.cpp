#include "formats/layer_format.hpp"

#include "run/input_error.hpp"

#include "slim/interop/compressed_tensors.hpp"
#include "slim/interop/gptq.hpp"
#include "slim/interop/mlx.hpp"
#include "slim/io/safetensors/reader.hpp"

#include <cstring>
#include <numeric>
#include <set>

namespace slim_llm {
namespace {

using nlohmann::ordered_json;

slim::tensor_info const& require(tensor_finder const& find, std::string const& name) {
  auto const* const tensor = find(name);
  if (!tensor) throw input_error("there is no tensor '" + name + "'");
  return *tensor;
}

/// A tensor of 32-bit words.
std::vector<std::int32_t> words_of(slim::tensor_info const& tensor) {
  if (tensor.stored_type != "I32" && tensor.stored_type != "U32")
    throw input_error("tensor '" + tensor.name + "' is " + tensor.stored_type + ", words of 32 bits are needed");
  std::vector<std::int32_t> words(tensor.bytes.size() / 4);
  if (!words.empty()) std::memcpy(words.data(), tensor.bytes.data(), words.size() * 4);
  return words;
}

slim::number_format format_of(slim::tensor_info const& tensor) {
  if (tensor.type == slim::tensor_type::f16) return slim::number_format::fp16;
  if (tensor.type == slim::tensor_type::bf16) return slim::number_format::bf16;
  return slim::number_format::fp32;
}

index_t extent(slim::tensor_info const& tensor, std::size_t axis) {
  if (tensor.shape.size() != 2) throw input_error("tensor '" + tensor.name + "' is no matrix");
  return tensor.shape[axis];
}

std::span<float const> numbers(matrix<float> const& m) { return {m.data(), static_cast<std::size_t>(m.size())}; }

template <class T>
std::vector<std::byte> bytes_of(std::vector<T> const& values) {
  auto const bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> as_f16(matrix<float> const& values) {
  std::vector<slim::fp16> stored;
  for (index_t k = 0; k < values.size(); ++k) stored.emplace_back(values.data()[k]);
  return bytes_of(stored);
}

/// Scales as numbers of F16, in groups of `group`.
slim::integer_codes with_half_scales(slim::integer_codes const& codes, index_t group) {
  slim::integer_codes out = slim::in_even_groups(codes, group);
  for (index_t k = 0; k < out.scales.size(); ++k)
    out.scales.data()[k] = slim::rounded_to(slim::number_format::fp16, out.scales.data()[k]);
  return out;
}

/// Bits and symmetry that layers have, and which have them.
std::map<std::pair<int, bool>, std::vector<stored_layer const*>> by_scheme(std::vector<stored_layer> const& layers) {
  std::map<std::pair<int, bool>, std::vector<stored_layer const*>> out;
  for (stored_layer const& l : layers) out[{l.bits, l.symmetric}].push_back(&l);
  return out;
}

/// Source: compressed-tensors 0.20.1, QuantizationConfig and PackedQuantizationCompressor.
class compressed_tensors_format final : public layer_format {
public:
  [[nodiscard]] std::string name() const override { return "ct"; }
  [[nodiscard]] index_t group_of(index_t even) const override { return even; }
  [[nodiscard]] std::string why_not(slim::integer_codes const& codes, index_t group) const override {
    return slim::why_not_pack_quantized(codes, group);
  }
  [[nodiscard]] slim::integer_codes nearest(slim::integer_codes const& codes, index_t group) const override {
    return with_half_scales(codes, group);
  }
  [[nodiscard]] std::vector<layer_part> parts(stored_layer const& l) const override {
    index_t const groups = l.d_in / l.group;
    std::vector<layer_part> out = {{".weight_packed", "I32", {l.d_out, slim::detail::words_of(l.d_in, l.bits)}},
                                   {".weight_scale", "F16", {l.d_out, groups}},
                                   {".weight_shape", "I64", {2}}};
    if (!l.symmetric) out.push_back({".weight_zero_point", "I32", {slim::detail::words_of(l.d_out, l.bits), groups}});
    return out;
  }
  [[nodiscard]] std::vector<std::byte> bytes(std::string const& suffix, slim::integer_codes const& codes,
                                             index_t group) const override {
    if (suffix == ".weight_shape") return bytes_of(std::vector<std::int64_t>{codes.rows(), codes.cols()});
    slim::pack_quantized_layer const packed = slim::to_pack_quantized(codes, group);
    if (suffix == ".weight_scale") return as_f16(packed.weight_scale);
    return bytes_of(suffix == ".weight_packed" ? packed.weight_packed : packed.weight_zero_point);
  }
  [[nodiscard]] slim::integer_codes read(tensor_finder const& find, std::string const& module, int bits) const override {
    auto const& shape = require(find, module + ".weight_shape");
    std::int64_t extents[2] = {};
    if (shape.stored_type != "I64" || shape.bytes.size() != sizeof extents)
      throw input_error("tensor '" + shape.name + "' does not hold two numbers of 64 bits");
    std::memcpy(extents, shape.bytes.data(), sizeof extents);
    auto const packed = words_of(require(find, module + ".weight_packed"));
    auto const& scale = require(find, module + ".weight_scale");
    matrix<float> const scales = required(slim::read_matrix(scale));
    if (find(module + ".weight_g_idx")) throw input_error(module + ": channels in another order (actorder) are not read");
    std::vector<std::int32_t> zeros;
    if (auto const* const zero = find(module + ".weight_zero_point")) zeros = words_of(*zero);
    return slim::from_pack_quantized({extents[0], extents[1], bits, format_of(scale), packed, numbers(scales), zeros});
  }
  [[nodiscard]] ordered_json config(std::vector<stored_layer> const& layers,
                                    std::vector<std::string> const& left) const override {
    ordered_json groups = ordered_json::object();
    auto const schemes = by_scheme(layers);
    for (auto const& [scheme, members] : schemes) {
      ordered_json targets = ordered_json::array();
      if (schemes.size() == 1) targets.push_back("Linear");
      for (stored_layer const* l : members)
        if (schemes.size() > 1) targets.push_back(l->module);
      groups["group_" + std::to_string(groups.size())] = {{"targets", targets},
                                                          {"weights",
                                                           {{"num_bits", scheme.first},
                                                            {"type", "int"},
                                                            {"symmetric", scheme.second},
                                                            {"strategy", "group"},
                                                            {"group_size", members.front()->group}}}};
    }
    return {{"quantization_config",
             {{"quant_method", "compressed-tensors"},
              {"format", "pack-quantized"},
              {"quantization_status", "compressed"},
              {"config_groups", groups},
              {"ignore", left}}}};
  }
};

/// Source: GPTQModel 7.7, QuantizeConfig.
class gptq_format final : public layer_format {
public:
  explicit gptq_format(int version) : version_(version) {}

  [[nodiscard]] std::string name() const override { return version_ == 0 ? "gptq" : "gptq:v" + std::to_string(version_); }
  [[nodiscard]] index_t group_of(index_t even) const override { return even; }
  [[nodiscard]] std::string why_not(slim::integer_codes const& codes, index_t group) const override {
    return slim::why_not_gptq(codes, group, version_ == 0 ? codes.zeros.empty() : version_ == 1);
  }
  [[nodiscard]] slim::integer_codes nearest(slim::integer_codes const& codes, index_t group) const override {
    return with_half_scales(codes, group);
  }
  [[nodiscard]] std::string settle(std::vector<stored_layer> const& layers) override {
    bool symmetric = true;
    for (stored_layer const& l : layers) {
      symmetric = symmetric && l.symmetric;
      if (l.bits != layers.front().bits)
        return slim::message(l.module, " has codes of ", l.bits, " bits, ", layers.front().module, " of ", layers.front().bits,
                             "; it has one number of bits");
    }
    if (version_ == 0) version_ = symmetric ? 1 : 2;
    return {};
  }
  [[nodiscard]] std::vector<layer_part> parts(stored_layer const& l) const override {
    index_t const groups = l.d_in / l.group;
    return {{".qweight", "I32", {l.d_in * l.bits / 32, l.d_out}},
            {".qzeros", "I32", {groups, l.d_out * l.bits / 32}},
            {".scales", "F16", {groups, l.d_out}},
            {".g_idx", "I32", {l.d_in}}};
  }
  [[nodiscard]] std::vector<std::byte> bytes(std::string const& suffix, slim::integer_codes const& codes,
                                             index_t group) const override {
    slim::gptq_layer const packed = slim::to_gptq(codes, group, version_ == 1);
    if (suffix == ".scales") return bytes_of(packed.scales);
    return bytes_of(suffix == ".qweight" ? packed.qweight : suffix == ".qzeros" ? packed.qzeros : packed.g_idx);
  }
  [[nodiscard]] slim::integer_codes read(tensor_finder const& find, std::string const& module, int bits) const override {
    auto const& weight = require(find, module + ".qweight");
    auto const qweight = words_of(weight), qzeros = words_of(require(find, module + ".qzeros"));
    auto const& scale = require(find, module + ".scales");
    if (scale.type != slim::tensor_type::f16) throw input_error("tensor '" + scale.name + "' is not F16");
    std::vector<slim::fp16> scales(scale.bytes.size() / 2);
    if (!scales.empty()) std::memcpy(scales.data(), scale.bytes.data(), scales.size() * 2);
    std::vector<std::int32_t> g_idx;
    if (auto const* const groups = find(module + ".g_idx")) g_idx = words_of(*groups);
    auto layer = slim::from_gptq(
        {extent(weight, 1), extent(weight, 0) * 32 / bits, bits, qweight, qzeros, scales, g_idx, version_ == 1});
    if (!layer.order.empty()) throw input_error(module + ": channels in another order (desc_act) are not read");
    return std::move(layer.codes);
  }
  [[nodiscard]] ordered_json config(std::vector<stored_layer> const& layers, std::vector<std::string> const&) const override {
    bool symmetric = true;
    for (stored_layer const& l : layers) symmetric = symmetric && l.symmetric;
    return {{"quantization_config",
             {{"quant_method", "gptq"},
              {"bits", layers.front().bits},
              {"group_size", layers.front().group},
              {"desc_act", false},
              {"sym", symmetric},
              {"lm_head", false},
              {"checkpoint_format", version_ == 1 ? "gptq" : "gptq_v2"},
              {"pack_dtype", "int32"},
              {"true_sequential", true},
              {"damp_percent", 0.01}}}};
  }
  [[nodiscard]] std::map<std::string, std::string> more_files(ordered_json const& config) const override {
    return {{"quantize_config.json", config.at("quantization_config").dump(2) + "\n"}}; // older loaders read it there
  }

private:
  int version_; ///< of the format; 0: settle decides
};

/// Source: mlx-lm 0.32, load_model and mlx.nn.QuantizedLinear.
class mlx_format final : public layer_format {
public:
  [[nodiscard]] std::string name() const override { return "mlx"; }
  [[nodiscard]] index_t group_of(index_t even) const override {
    for (index_t const size : {128, 64, 32})
      if (even % size == 0) return size;
    return even;
  }
  [[nodiscard]] std::string why_not(slim::integer_codes const& codes, index_t group) const override {
    return slim::why_not_mlx(codes, group);
  }
  /// A bias stands for the zero point: it is rounded alone.
  [[nodiscard]] slim::integer_codes nearest(slim::integer_codes const& codes, index_t group) const override {
    slim::integer_codes const even = with_half_scales(codes, group);
    slim::integer_codes out = even;
    out.zeros = {};
    out.offsets = slim::scale_table(even.scales.rows(), even.scales.cols(), {.format = slim::number_format::fp16});
    for (index_t i = 0; i < out.offsets.rows(); ++i)
      for (index_t g = 0; g < out.offsets.cols(); ++g)
        out.offsets(i, g) = slim::rounded_to(slim::number_format::fp16, slim::detail::mlx_bias(even, i, g));
    return out;
  }
  [[nodiscard]] std::vector<layer_part> parts(stored_layer const& l) const override {
    index_t const groups = l.d_in / l.group;
    return {{".weight", "U32", {l.d_out, l.d_in * l.bits / 32}},
            {".scales", "F16", {l.d_out, groups}},
            {".biases", "F16", {l.d_out, groups}}};
  }
  [[nodiscard]] std::vector<std::byte> bytes(std::string const& suffix, slim::integer_codes const& codes,
                                             index_t group) const override {
    slim::mlx_layer const packed = slim::to_mlx(codes, group);
    if (suffix == ".weight") return bytes_of(packed.weight);
    return as_f16(suffix == ".scales" ? packed.scales : packed.biases);
  }
  [[nodiscard]] slim::integer_codes read(tensor_finder const& find, std::string const& module, int bits) const override {
    auto const& weight = require(find, module + ".weight");
    auto const& scale = require(find, module + ".scales");
    auto const words = words_of(weight);
    matrix<float> const scales = required(slim::read_matrix(scale)),
                        biases = required(slim::read_matrix(require(find, module + ".biases")));
    return slim::from_mlx(
        {extent(weight, 0), extent(weight, 1) * 32 / bits, bits, format_of(scale), words, numbers(scales), numbers(biases)});
  }
  [[nodiscard]] ordered_json config(std::vector<stored_layer> const& layers, std::vector<std::string> const&) const override {
    ordered_json said = {{"group_size", layers.front().group}, {"bits", layers.front().bits}, {"mode", "affine"}};
    for (stored_layer const& l : layers)
      if (l.bits != layers.front().bits || l.group != layers.front().group)
        said[l.module] = {{"group_size", l.group}, {"bits", l.bits}, {"mode", "affine"}};
    return {{"quantization", said}, {"quantization_config", said}};
  }
  [[nodiscard]] std::string framework() const override { return "mlx"; }
};

} // namespace

std::uint64_t layer_part::bytes() const {
  auto const* const row = slim::detail::find_safetensors_type(type);
  index_t bits = row->bits;
  for (index_t const n : shape) bits *= n;
  return static_cast<std::uint64_t>(bits / 8);
}

index_t even_group_of(slim::integer_codes const& codes) {
  index_t const even = slim::even_group(codes);
  if (codes.block.cols_of(codes.cols()) < codes.cols() || even <= 128) return even;
  return std::gcd<index_t>(even, 128);
}

index_t common_group(std::vector<index_t> const& even, layer_format const& format) {
  index_t common = 0;
  for (index_t const columns : even) common = std::gcd(common, columns);
  return format.group_of(common);
}

std::unique_ptr<layer_format> find_layer_format(std::string const& name) {
  if (name == "ct") return std::make_unique<compressed_tensors_format>();
  if (name == "gptq") return std::make_unique<gptq_format>(0);
  if (name == "gptq:v1") return std::make_unique<gptq_format>(1);
  if (name == "gptq:v2") return std::make_unique<gptq_format>(2);
  if (name == "mlx") return std::make_unique<mlx_format>();
  return nullptr;
}

} // namespace slim_llm
