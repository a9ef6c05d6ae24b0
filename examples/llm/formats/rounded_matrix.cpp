#include "formats/rounded_matrix.hpp"

#include "run/input_error.hpp"

#include "slim/interop/gguf_grids.hpp"
#include "slim/io/gguf/encode_blocks.hpp"
#include "slim/quantization/absmax.hpp"
#include "slim/quantization/grid_quantizer.hpp"

#include <algorithm>
#include <cmath>

namespace slim_llm {
namespace {

using slim::tensor_type;

bool is_half(tensor_type type) { return type == tensor_type::f16 || type == tensor_type::bf16; }

/// Rows as they are stored; `part` becomes what they are read as.
std::vector<std::byte> round_rows(tensor_type type, matrix<float>& part) {
  if (is_half(type)) {
    std::vector<std::byte> bytes;
    for (index_t k = 0; k < part.size(); ++k) {
      float& w = part.data()[k];
      std::uint16_t const bits = type == tensor_type::f16 ? slim::fp16(w).bits : slim::bf16(w).bits;
      slim::detail::append_bytes(bytes, bits);
      w = type == tensor_type::f16 ? static_cast<float>(slim::fp16::from_bits(bits))
                                   : static_cast<float>(slim::bf16::from_bits(bits));
    }
    return bytes;
  }
  slim::calibration const none(part.cols());
  slim::integer_codes const codes =
      type == tensor_type::q8_0
          ? slim::absmax_quantizer(
                {.bits = 8, .block = slim::per_group(slim::block_of(type).elements), .scale_format = slim::number_format::fp16})
                .quantize(part.view(), none)
          : slim::grid_quantizer(slim::stock_grid_of(type).value()).quantize(part.view(), none);
  auto bytes = required(slim::encode_blocks(type, codes));
  codes.dequantize_into(part.view());
  return bytes;
}

} // namespace

side_types default_side_types(model const& m) {
  constexpr auto type = tensor_type::q8_0;
  auto const block = slim::block_of(type);
  double const bits = 8.0 * static_cast<double>(block.bytes) / static_cast<double>(block.elements);
  side_types types;
  for (stored_matrix const* const side : {&m.embedding, &m.head})
    if (auto const* const tensor = side->tensor();
        tensor && tensor->bits_per_element() > bits && tensor->cols() % block.elements == 0)
      types[tensor->name] = type;
  return types;
}

bool can_round_to(tensor_type type) { return is_half(type) || slim::stock_grid_of(type).has_value(); }

std::uint64_t bytes_in(slim::tensor_info const& tensor, tensor_type type) {
  auto const block = slim::block_of(type);
  if (tensor.cols() % block.elements != 0)
    throw input_error(slim::message(tensor.name, ": rows of ", tensor.cols(), " numbers are no whole blocks of ",
                                    block.elements, ", which ", slim::name_of(type), " needs"));
  return static_cast<std::uint64_t>(tensor.size() / block.elements * block.bytes);
}

stored_matrix rounded_to(stored_matrix const& values, side_types const& types, scratch_file& scratch,
                         std::vector<std::string>& notes) {
  auto const* const tensor = values.tensor();
  auto const wanted = tensor ? types.find(tensor->name) : types.end();
  if (wanted == types.end() || wanted->second == tensor->type) return values;
  tensor_type const type = wanted->second;
  std::uint64_t const size = bytes_in(*tensor, type), begin = scratch.reserve(size);
  std::uint64_t offset = begin;
  double change = 0, all = 0;
  constexpr index_t rows_at_once = 1024;
  for (index_t first = 0; first < values.rows(); first += rows_at_once) {
    matrix<float> part(std::min(rows_at_once, values.rows() - first), values.cols());
    values.rows_into(first, part.view());
    matrix<float> read = part;
    auto const bytes = round_rows(type, read);
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
  slim::tensor_info small{tensor->name, type, std::string(slim::name_of(type)), tensor->shape, mapped.bytes};
  notes.push_back(slim::message(tensor->name, ": written as ", small.stored_type, " in place of ", tensor->stored_type,
                                ", relative error ", all > 0 ? std::sqrt(change / all) : 0.0));
  return {std::move(small), mapped.keeps};
}

} // namespace slim_llm
