#include "ncnn_model.hpp"

#include "input_error.hpp"

#include "slim/core/finite.hpp"
#include "slim/core/scalar.hpp"
#include "slim/io/file.hpp"

#include <bit>
#include <charconv>
#include <cstdint>
#include <map>
#include <sstream>

namespace slim_image {
namespace {

constexpr index_t largest_extent = 1 << 14; // channels and sides of kernels: products of four of them fit

/// A layer's line: type, name, what it reads and makes, and numbered parameters.
struct layer_line {
  std::string place; ///< file and layer, for messages
  std::string type, name, reads, makes;
  std::map<int, std::string> parameters; ///< those that nobody has asked for yet

  [[noreturn]] void fail(std::string const& what) const { throw input_error(slim::message(place, ": ", what)); }

  template <class T>
  T parsed(std::string const& text, int key) const {
    T value{};
    auto const [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || stop != text.data() + text.size())
      fail(slim::message("parameter ", key, " is '", text.substr(0, 40), "'"));
    return value;
  }

  /// Takes a parameter out of the line.
  index_t take(int key, index_t otherwise, index_t least, index_t most) {
    auto const found = parameters.extract(key);
    if (found.empty()) return otherwise;
    auto const value = parsed<index_t>(found.mapped(), key);
    if (value < least || value > most)
      fail(slim::message("parameter ", key, " is ", value, ", this program takes ", least, " to ", most));
    return value;
  }

  /// One number in an array, "1,VALUE".
  float take_single(int key, float otherwise) {
    auto const found = parameters.extract(key);
    if (found.empty()) return otherwise;
    if (!found.mapped().starts_with("1,")) fail(slim::message("parameter ", key, " is not one number"));
    return parsed<float>(found.mapped().substr(2), key);
  }
};

layer_line line_of(std::string const& text, std::filesystem::path const& path) {
  layer_line line;
  std::istringstream in(text);
  int reads = -1, makes = -1;
  in >> line.type >> line.name >> reads >> makes;
  line.place = slim::message(path.string(), ": layer '", line.name, "' (", line.type, ")");
  if (!in || reads != (line.type == "Input" ? 0 : 1) || makes != 1)
    line.fail("does not read one map and make one; only chains are read");
  if (reads == 1) in >> line.reads;
  in >> line.makes;
  for (std::string word; in >> word;) {
    auto const equals = word.find('=');
    if (equals == std::string::npos) line.fail(slim::message("'", word, "' is no parameter"));
    line.parameters.emplace(line.parsed<int>(word.substr(0, equals), 0), word.substr(equals + 1));
  }
  return line;
}

/// Takes the parameters of a layer that follows one with so many channels.
convolution layer_of(layer_line& line, index_t inputs) {
  convolution layer;
  layer.name = line.name;
  layer.transposed = line.type == "Deconvolution";
  if (!layer.transposed && line.type != "Convolution") line.fail("this type is not read");
  layer.inputs = inputs;
  layer.outputs = line.take(0, 0, 1, largest_extent);
  layer.kernel = line.take(1, 0, 1, 64);
  (void)line.take(11, layer.kernel, layer.kernel, layer.kernel);
  (void)line.take(2, 1, 1, 1); // dilation
  layer.stride = line.take(3, 1, 1, 64);
  layer.pad = line.take(4, 0, 0, layer.kernel - 1);
  for (int const side : {14, 15, 16}) (void)line.take(side, layer.pad, layer.pad, layer.pad);
  (void)line.take(5, 1, 1, 1); // there is a bias
  index_t const weights = layer.outputs * layer.inputs * layer.kernel * layer.kernel;
  if (layer.outputs == 0 || layer.kernel == 0) line.fail("has no outputs or no kernel");
  (void)line.take(6, weights, weights, weights);
  index_t const activation = line.take(9, 0, 0, 2);
  float const slope = line.take_single(-23310, 0.0f);
  layer.slope = activation == 0 ? 1.0f : activation == 1 ? 0.0f : slope;
  if (!line.parameters.empty()) line.fail(slim::message("parameter ", line.parameters.begin()->first, " is not known"));
  return layer;
}

/// Numbers of MODEL.bin, in order.
class weight_reader {
public:
  weight_reader(std::span<std::byte const> bytes, std::filesystem::path const& path) : bytes_(bytes), path_(path) {}

  /// A tag, then so many numbers in the type that it says; fp16 ends on a multiple of 4 bytes.
  std::vector<float> tagged(index_t count, std::string const& layer) {
    constexpr std::uint32_t fp16_tag = 0x01306B47;
    std::uint32_t const tag = word(layer);
    if (tag == 0) return floats(count, layer);
    if (tag != fp16_tag)
      throw input_error(slim::message(path_.string(), ": layer '", layer, "': weights have tag ", tag, "; fp32 (0) and fp16 (",
                                      fp16_tag, ") are read"));
    require((count * 2 + 3) / 4 * 4, layer);
    std::vector<float> out;
    for (index_t k = 0; k < count; ++k)
      out.push_back(finite(
          static_cast<float>(slim::fp16::from_bits(static_cast<std::uint16_t>(byte(2 * k) | byte(2 * k + 1) << 8))), k, layer));
    at_ += (count * 2 + 3) / 4 * 4;
    return out;
  }

  std::vector<float> floats(index_t count, std::string const& layer) {
    require(count * 4, layer);
    std::vector<float> out;
    for (index_t k = 0; k < count; ++k) out.push_back(finite(std::bit_cast<float>(word(layer)), k, layer));
    return out;
  }

  void end() const {
    if (at_ != std::ssize(bytes_))
      throw input_error(slim::message(path_.string(), ": has ", std::ssize(bytes_) - at_, " bytes behind the last layer"));
  }

private:
  void require(index_t count, std::string const& layer) const {
    if (std::ssize(bytes_) - at_ < count)
      throw input_error(slim::message(path_.string(), ": ends in layer '", layer, "': ", count, " bytes at ", at_,
                                      ", the file has ", bytes_.size()));
  }
  [[nodiscard]] std::uint32_t byte(index_t offset) const {
    return std::to_integer<std::uint32_t>(bytes_[static_cast<std::size_t>(at_ + offset)]);
  }
  std::uint32_t word(std::string const& layer) {
    require(4, layer);
    std::uint32_t const value = byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24;
    at_ += 4;
    return value;
  }
  float finite(float value, index_t k, std::string const& layer) const {
    if (!slim::detail::is_finite(value))
      throw input_error(slim::message(path_.string(), ": layer '", layer, "': number ", k, " is not finite"));
    return value;
  }

  std::span<std::byte const> bytes_;
  std::filesystem::path const& path_;
  index_t at_ = 0;
};

/// From (output, input, y, x) to the linear layer's rows and columns.
slim::matrix<float> as_linear(convolution const& layer, std::vector<float> const& values) {
  index_t const area = layer.kernel * layer.kernel;
  slim::matrix<float> weight = layer.transposed ? slim::matrix<float>(area * layer.outputs, layer.inputs)
                                                : slim::matrix<float>(layer.outputs, area * layer.inputs);
  for (index_t o = 0; o < layer.outputs; ++o)
    for (index_t i = 0; i < layer.inputs; ++i)
      for (index_t k = 0; k < area; ++k) {
        float const value = values[static_cast<std::size_t>((o * layer.inputs + i) * area + k)];
        (layer.transposed ? weight(k * layer.outputs + o, i) : weight(o, k * layer.inputs + i)) = value;
      }
  return weight;
}

} // namespace

std::vector<convolution> read_ncnn_model(std::filesystem::path const& param) {
  std::filesystem::path const bin = std::filesystem::path(param).replace_extension(".bin");
  slim::mapped_file const text = required(slim::mapped_file::open(param)), data = required(slim::mapped_file::open(bin));
  std::istringstream in{std::string(text.text())};
  constexpr int magic = 7767517;
  int first = 0, layers = 0, maps = 0;
  in >> first >> layers >> maps >> std::ws;
  if (!in || first != magic)
    throw input_error(slim::message(param.string(), ": is no ncnn model: it does not begin with ", magic, " and two counts"));
  weight_reader weights(data.bytes(), bin);
  std::vector<convolution> chain;
  std::string before;
  index_t channels = 3;
  int lines = 0;
  for (std::string line_text; std::getline(in, line_text) && !line_text.empty(); ++lines) {
    layer_line line = line_of(line_text, param);
    if (line.reads != before) line.fail(slim::message("reads '", line.reads, "', not what the layer before makes"));
    before = line.makes;
    if (line.type == "Input") continue;
    convolution layer = layer_of(line, channels);
    index_t const count = layer.outputs * layer.inputs * layer.kernel * layer.kernel;
    layer.weight = as_linear(layer, weights.tagged(count, layer.name));
    layer.bias = weights.floats(layer.outputs, layer.name);
    channels = layer.outputs;
    chain.push_back(std::move(layer));
  }
  weights.end();
  if (lines != layers) throw input_error(slim::message(param.string(), ": promises ", layers, " layers and has ", lines));
  if (chain.empty() || channels != 3)
    throw input_error(
        slim::message(param.string(), ": makes ", channels, " channels in ", chain.size(), " convolutions; a picture has 3"));
  return chain;
}

} // namespace slim_image
