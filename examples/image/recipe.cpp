#include "recipe.hpp"

#include "input_error.hpp"

#include "slim/calibration/bias_correction.hpp"
#include "slim/pipeline/compress.hpp"

#include <charconv>

namespace slim_image {
namespace {

template <class T>
std::optional<T> number_in(std::string_view text) {
  T value{};
  auto const [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stop != text.data() + text.size()) return {};
  return value;
}

[[nodiscard]] int bits_in(std::string_view text, std::string_view name) {
  auto const bits = number_in<int>(text);
  if (!bits || *bits < 1 || *bits > 8)
    throw input_error(slim::message("recipe ", name, ": '", text, "' is no width; possible are 1 to 8 bits"));
  return *bits;
}

void set_range(recipe& to, std::string_view rule) {
  slim::range_quantizer_config& weights = to.weights;
  weights.by_output = rule == "output";
  if (rule == "minmax") {
    weights.range.rule = slim::range_rule::min_max;
  } else if (rule == "dobi" || rule == "output") {
    weights.range.rule = slim::range_rule::dobi;
  } else if (auto const percentile = number_in<double>(rule); percentile && *percentile > 50.0 && *percentile <= 100.0) {
    weights.range = {.rule = slim::range_rule::percentile, .percentile = *percentile};
  } else {
    throw input_error(slim::message("recipe ", to.name, ": @range=", rule,
                                    " is not known; possible are minmax, dobi, output, and percentiles above 50 up to 100"));
  }
}

void modify(recipe& to, std::string_view modifier) {
  if (modifier.starts_with("range="))
    set_range(to, modifier.substr(6));
  else if (modifier.starts_with("inputs="))
    to.input_bits = bits_in(modifier.substr(7), to.name);
  else if (modifier == "tensor")
    to.weights.block = slim::per_tensor;
  else if (modifier == "bias")
    to.corrects_bias = true;
  else
    throw input_error(slim::message("recipe ", to.name, ": @", modifier,
                                    " is not known; there are @range=RULE, @tensor, @bias and @inputs=BITS"));
}

} // namespace

recipe recipe_of(std::string_view name) {
  recipe out;
  out.name = name;
  std::size_t at = std::min(name.find('@'), name.size());
  if (!name.starts_with("int"))
    throw input_error(slim::message("recipe ", name, ": does not begin with int and a number of bits"));
  out.weights.bits = bits_in(name.substr(3, at - 3), name);
  while (at < name.size()) {
    std::size_t const next = std::min(name.find('@', at + 1), name.size());
    modify(out, name.substr(at + 1, next - at - 1));
    at = next;
  }
  return out;
}

compressed_convolution compressed(convolution const& layer, slim::calibration const& calib, recipe const& by,
                                  slim::context const& ctx) {
  auto const small = slim::compress(layer.weight, calib, slim::chain(slim::range_quantizer(by.weights)), ctx);
  compressed_convolution out{layer, {}, small.report.steps.back().bits_per_weight, small.report.steps.back().output_error};
  out.layer.weight = slim::decompress(small, ctx);
  if (by.corrects_bias) {
    std::vector<float> const change = slim::bias_correction(layer.weight.view(), out.layer.weight.view(), calib);
    for (std::size_t c = 0; c < change.size(); ++c) out.layer.bias[c] += change[c];
  }
  if (by.input_bits > 0) out.inputs = slim::bounded_input::fitted(calib.samples(), by.input_bits, by.weights.range);
  return out;
}

} // namespace slim_image
