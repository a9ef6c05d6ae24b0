#pragma once
/// @file
/// A tensor in a file: name, type, shape and bytes, the same for GGUF and safetensors; and its conversion to float.

#include "slim/core/matrix.hpp"
#include "slim/core/result.hpp"
#include "slim/io/gguf/blocks.hpp"

#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// How a file stores numbers. `other`: known to the container, not to read_matrix (integers, FP8, rarer quantizations).
enum class tensor_type {
  f32,
  f16,
  bf16,
  f64,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
  other
};

/// The name ggml and its tools use: "F32", "Q4_K", ...
[[nodiscard]] constexpr std::string_view name_of(tensor_type type) {
  constexpr std::string_view names[] = {"F32",  "F16",  "BF16", "F64",  "Q4_0", "Q4_1",   "Q5_0",   "Q5_1", "Q8_0",
                                        "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "other"};
  return names[static_cast<std::size_t>(type)];
}

/// A type is stored in blocks of `elements` neighbours of a row, `bytes` bytes each; plain numbers are blocks of one.
struct block_layout {
  index_t elements;
  index_t bytes;
};

/// Block of a type; {1, 0} for `other`.
[[nodiscard]] constexpr block_layout block_of(tensor_type type) {
  switch (type) {
  case tensor_type::f32: return {1, 4};
  case tensor_type::f16:
  case tensor_type::bf16: return {1, 2};
  case tensor_type::f64: return {1, 8};
  case tensor_type::q4_0: return {ggml::block_q4_0::elements, sizeof(ggml::block_q4_0)};
  case tensor_type::q4_1: return {ggml::block_q4_1::elements, sizeof(ggml::block_q4_1)};
  case tensor_type::q5_0: return {ggml::block_q5_0::elements, sizeof(ggml::block_q5_0)};
  case tensor_type::q5_1: return {ggml::block_q5_1::elements, sizeof(ggml::block_q5_1)};
  case tensor_type::q8_0: return {ggml::block_q8_0::elements, sizeof(ggml::block_q8_0)};
  case tensor_type::q2_k: return {ggml::block_q2_k::elements, sizeof(ggml::block_q2_k)};
  case tensor_type::q3_k: return {ggml::block_q3_k::elements, sizeof(ggml::block_q3_k)};
  case tensor_type::iq4_nl: return {ggml::block_iq4_nl::elements, sizeof(ggml::block_iq4_nl)};
  case tensor_type::iq4_xs: return {ggml::block_iq4_xs::elements, sizeof(ggml::block_iq4_xs)};
  case tensor_type::q4_k: return {ggml::block_q4_k::elements, sizeof(ggml::block_q4_k)};
  case tensor_type::q5_k: return {ggml::block_q5_k::elements, sizeof(ggml::block_q5_k)};
  case tensor_type::q6_k: return {ggml::block_q6_k::elements, sizeof(ggml::block_q6_k)};
  case tensor_type::other: break;
  }
  return {1, 0};
}

/// A tensor inside an open file. Refers to the file's memory map: valid while the file object (or what it was moved to) lives.
struct tensor_info {
  std::string name;
  tensor_type type = tensor_type::other;
  std::string stored_type;          ///< the type's name as the file format spells it: "Q4_1", "IQ4_NL", "F8_E4M3"
  std::vector<index_t> shape;       ///< outermost first, as PyTorch: (d_out, d_in); empty for a scalar
  std::span<std::byte const> bytes; ///< row-major; a whole number of blocks per row; no alignment promised

  /// Number of elements: product of the shape.
  [[nodiscard]] index_t size() const {
    index_t count = 1;
    for (index_t const extent : shape) count *= extent;
    return count;
  }
  /// As a matrix: rank 0 and 1 are one row. Meaningful up to rank 2.
  [[nodiscard]] index_t rows() const { return shape.size() < 2 ? 1 : shape[0]; }
  [[nodiscard]] index_t cols() const { return shape.empty() ? 1 : shape.back(); }
  /// Stored bits per element; 0 for an empty tensor.
  [[nodiscard]] double bits_per_element() const {
    return size() == 0 ? 0.0 : 8.0 * static_cast<double>(bytes.size()) / static_cast<double>(size());
  }
};

/// The value of a `status`: success without a result.
struct done {};
/// Success, or a sentence that says what failed.
using status = result<done>;

namespace detail {

template <class T, class Convert>
void convert_numbers(std::byte const* bytes, index_t count, float* out, Convert const& convert) {
  for (index_t k = 0; k < count; ++k) {
    T stored;
    std::memcpy(&stored, bytes + k * static_cast<index_t>(sizeof(T)), sizeof(T));
    out[k] = convert(stored);
  }
}

/// `count` weights (whole blocks) from bytes; false if the type is `other`.
inline bool dequantize_run(tensor_type type, std::byte const* bytes, index_t count, float* out) {
  index_t const blocks = count / block_of(type).elements;
  switch (type) {
  case tensor_type::f32:
    if (count > 0) std::memcpy(out, bytes, static_cast<std::size_t>(count) * sizeof(float));
    return true;
  case tensor_type::f16: convert_numbers<std::uint16_t>(bytes, count, out, ggml::half_to_float); return true;
  case tensor_type::bf16:
    convert_numbers<std::uint16_t>(bytes, count, out,
                                   [](std::uint16_t bits) { return static_cast<float>(bf16::from_bits(bits)); });
    return true;
  case tensor_type::f64:
    convert_numbers<double>(bytes, count, out, [](double value) { return static_cast<float>(value); });
    return true;
  case tensor_type::q4_0: ggml::dequantize_blocks<ggml::block_q4_0>(bytes, blocks, out); return true;
  case tensor_type::q4_1: ggml::dequantize_blocks<ggml::block_q4_1>(bytes, blocks, out); return true;
  case tensor_type::q5_0: ggml::dequantize_blocks<ggml::block_q5_0>(bytes, blocks, out); return true;
  case tensor_type::q5_1: ggml::dequantize_blocks<ggml::block_q5_1>(bytes, blocks, out); return true;
  case tensor_type::q8_0: ggml::dequantize_blocks<ggml::block_q8_0>(bytes, blocks, out); return true;
  case tensor_type::q2_k: ggml::dequantize_blocks<ggml::block_q2_k>(bytes, blocks, out); return true;
  case tensor_type::q3_k: ggml::dequantize_blocks<ggml::block_q3_k>(bytes, blocks, out); return true;
  case tensor_type::iq4_nl: ggml::dequantize_blocks<ggml::block_iq4_nl>(bytes, blocks, out); return true;
  case tensor_type::iq4_xs: ggml::dequantize_blocks<ggml::block_iq4_xs>(bytes, blocks, out); return true;
  case tensor_type::q4_k: ggml::dequantize_blocks<ggml::block_q4_k>(bytes, blocks, out); return true;
  case tensor_type::q5_k: ggml::dequantize_blocks<ggml::block_q5_k>(bytes, blocks, out); return true;
  case tensor_type::q6_k: ggml::dequantize_blocks<ggml::block_q6_k>(bytes, blocks, out); return true;
  case tensor_type::other: break;
  }
  return false;
}

/// Why a tensor cannot be read as a matrix of float; empty if it can. The readers guarantee the byte count; a tensor_info
/// made by hand is checked here.
inline std::string why_not_a_matrix(tensor_info const& tensor) {
  if (tensor.type == tensor_type::other)
    return message("tensor '", tensor.name, "': numbers of type ", tensor.stored_type, " cannot be read as float");
  if (tensor.shape.size() > 2)
    return message("tensor '", tensor.name, "' has ", tensor.shape.size(), " dimensions, a matrix has at most 2");
  block_layout const block = block_of(tensor.type);
  for (index_t const extent : tensor.shape)
    if (extent < 0) return message("tensor '", tensor.name, "' has a negative extent ", extent);
  index_t const have = static_cast<index_t>(tensor.bytes.size());
  bool const fits =
      tensor.cols() % block.elements == 0 &&
      (tensor.rows() == 0 || tensor.cols() == 0 ? have == 0
                                                : have % block.bytes == 0 && have / block.bytes % tensor.rows() == 0 &&
                                                      have / block.bytes / tensor.rows() == tensor.cols() / block.elements);
  if (!fits)
    return message("tensor '", tensor.name, "': ", have, " bytes do not hold ", tensor.rows(), " x ", tensor.cols(),
                   " numbers of type ", name_of(tensor.type));
  return {};
}

} // namespace detail

/// Writes `out.rows()` rows of a tensor of rank 0 to 2, from row `first` on. Fails, naming the tensor, on type `other`, a
/// higher rank, or a shape that does not fit. O(elements written); serial.
[[nodiscard]] inline status dequantize_rows_into(tensor_info const& tensor, index_t first, matrix_view<float> out) {
  if (std::string why = detail::why_not_a_matrix(tensor); !why.empty()) return failure{std::move(why)};
  if (first < 0 || out.rows() > tensor.rows() - first || out.cols() != tensor.cols())
    return failure{message("tensor '", tensor.name, "' is ", tensor.rows(), " x ", tensor.cols(), ": no ", out.rows(), " x ",
                           out.cols(), " rows from row ", first)};
  if (out.empty()) return done{}; // a damaged file may say 2^40 rows of no columns
  block_layout const block = block_of(tensor.type);
  index_t const row_bytes = tensor.cols() / block.elements * block.bytes;
  for (index_t i = 0; i < out.rows(); ++i)
    detail::dequantize_run(tensor.type, tensor.bytes.data() + (first + i) * row_bytes, out.cols(), out.row(i));
  return done{};
}

/// Writes the whole tensor into a view of its shape (rank 0 and 1: one row).
[[nodiscard]] inline status dequantize_into(tensor_info const& tensor, matrix_view<float> out) {
  if (out.rows() != tensor.rows())
    return failure{message("tensor '", tensor.name, "' has ", tensor.rows(), " rows, the destination has ", out.rows())};
  return dequantize_rows_into(tensor, 0, out);
}

/// The tensor as float: (d_out, d_in), row-major; rank 0 and 1 become one row.
[[nodiscard]] inline result<matrix<float>> read_matrix(tensor_info const& tensor) {
  if (std::string why = detail::why_not_a_matrix(tensor); !why.empty()) return failure{std::move(why)};
  matrix<float> out(tensor.rows(), tensor.cols());
  if (status const read = dequantize_into(tensor, out); !read) return failure{read.why()};
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
