#include "formats/rounded_matrix.hpp"

#include "run/input_error.hpp"

#include "slim/io/gguf/encode_blocks.hpp"
#include "slim/quantization/absmax.hpp"

#include <algorithm>
#include <cmath>

namespace slim_llm {
namespace {

constexpr auto small_type = slim::tensor_type::q8_0;

} // namespace

bool is_rounded_to_q8(slim::tensor_info const& tensor) {
  auto const block = slim::block_of(small_type);
  double const small_bits = 8.0 * static_cast<double>(block.bytes) / static_cast<double>(block.elements);
  return tensor.bits_per_element() > small_bits && tensor.cols() % block.elements == 0;
}

stored_matrix rounded_to_q8(stored_matrix const& values, scratch_file& scratch, std::vector<std::string>& notes) {
  auto const* const tensor = values.tensor();
  auto const block = slim::block_of(small_type);
  if (!tensor || !is_rounded_to_q8(*tensor)) return values;
  slim::absmax_quantizer const rounding(
      {.bits = 8, .block = slim::per_group(block.elements), .scale_format = slim::number_format::fp16});
  slim::tensor_info small{tensor->name, small_type, std::string(slim::name_of(small_type)), tensor->shape, {}};
  std::uint64_t const size = static_cast<std::uint64_t>(values.rows() * values.cols() / block.elements * block.bytes);
  std::uint64_t const begin = scratch.reserve(size);
  std::uint64_t offset = begin;
  double change = 0, all = 0;
  constexpr index_t rows_at_once = 1024;
  for (index_t first = 0; first < values.rows(); first += rows_at_once) {
    matrix<float> part(std::min(rows_at_once, values.rows() - first), values.cols());
    values.rows_into(first, part.view());
    auto const codes = rounding.quantize(part.view(), slim::calibration(part.cols()));
    auto const bytes = required(slim::encode_blocks(small_type, codes));
    matrix<float> read(part.rows(), part.cols());
    codes.dequantize_into(read.view());
    for (index_t k = 0; k < part.size(); ++k) {
      double const w = static_cast<double>(part.data()[k]), d = w - static_cast<double>(read.data()[k]);
      change += d * d;
      all += w * w;
    }
    scratch.write(offset, bytes);
    offset += bytes.size();
  }
  values.drop_pages();
  auto const mapped = scratch.map(begin, size);
  small.bytes = mapped.bytes;
  notes.push_back(slim::message(tensor->name, ": written as Q8_0 in place of ", tensor->stored_type, ", relative error ",
                                all > 0 ? std::sqrt(change / all) : 0.0));
  return {std::move(small), mapped.keeps};
}

} // namespace slim_llm
