#pragma once
/// @file
/// A tensor that a writer will store: its description, and the source of its numbers. Tensors are written one after the other,
/// so that only one computed tensor is in memory at a time.

#include "slim/io/file.hpp"

#include <functional>
#include <variant>

namespace slim {
inline namespace SLIM_ABI {

/// Bytes that are made when the tensor is written.
struct computed_bytes {
  std::uint64_t size = 0; ///< that `make` will return
  std::function<std::vector<std::byte>()> make;
};

/// Source of a tensor's numbers: bytes, which are copied; a float view, which is converted; or a function that makes floats or
/// bytes, which is called when the tensor is written. The memory of bytes and views must live until the file is written.
using tensor_source =
    std::variant<std::span<std::byte const>, matrix_view<float const>, std::function<matrix<float>()>, computed_bytes>;

/// A tensor for a writer.
struct outgoing_tensor {
  std::string name;
  tensor_type type = tensor_type::f32; ///< f32, f16 or bf16 for float sources; any for bytes
  std::string stored_type;             ///< needed for type `other`: the name the format uses, e.g. "I32"
  std::vector<index_t> shape;          ///< outermost first
  tensor_source source;
};

/// A matrix written as f32, f16 or bf16, rounded to nearest even.
[[nodiscard]] inline outgoing_tensor outgoing_matrix(std::string name, tensor_type type, matrix_view<float const> values) {
  return {std::move(name), type, {}, {values.rows(), values.cols()}, values};
}

/// A vector (rank 1).
[[nodiscard]] inline outgoing_tensor outgoing_vector(std::string name, tensor_type type, std::span<float const> values) {
  index_t const size = static_cast<index_t>(values.size());
  return {std::move(name), type, {}, {size}, matrix_view<float const>(values.data(), 1, size)};
}

/// A tensor of another file, byte for byte.
[[nodiscard]] inline outgoing_tensor outgoing_copy(tensor_info const& tensor) {
  return {tensor.name, tensor.type, tensor.stored_type, tensor.shape, tensor.bytes};
}

namespace detail {

/// Bytes the tensor will take. For bytes: as many as there are.
[[nodiscard]] inline std::uint64_t outgoing_bytes(outgoing_tensor const& tensor) {
  if (auto const* const made = std::get_if<computed_bytes>(&tensor.source)) return made->size;
  if (auto const* const bytes = std::get_if<std::span<std::byte const>>(&tensor.source)) return bytes->size();
  index_t elements = 1;
  for (index_t const extent : tensor.shape) elements *= extent;
  return static_cast<std::uint64_t>(elements * block_of(tensor.type).bytes);
}

/// @throws config_error, shape_error if the description does not fit the source.
inline void check_outgoing(outgoing_tensor const& tensor) {
  index_t elements = 1;
  for (index_t const extent : tensor.shape) {
    if (extent < 0) throw shape_error(message("outgoing tensor '", tensor.name, "': negative extent ", extent));
    elements *= extent;
  }
  block_layout const block = block_of(tensor.type);
  if (std::holds_alternative<std::span<std::byte const>>(tensor.source) ||
      std::holds_alternative<computed_bytes>(tensor.source)) {
    std::uint64_t const bytes = outgoing_bytes(tensor);
    if (tensor.type != tensor_type::other &&
        (elements % block.elements != 0 || static_cast<index_t>(bytes) != elements / block.elements * block.bytes))
      throw shape_error(message("outgoing tensor '", tensor.name, "': ", bytes, " bytes for ", elements, " numbers of type ",
                                name_of(tensor.type)));
    return;
  }
  if (tensor.type != tensor_type::f32 && tensor.type != tensor_type::f16 && tensor.type != tensor_type::bf16)
    throw config_error(
        message("outgoing tensor '", tensor.name, "': float is written as F32, F16 or BF16, not ", name_of(tensor.type)));
  if (auto const* const view = std::get_if<matrix_view<float const>>(&tensor.source); view && view->size() != elements)
    throw shape_error(
        message("outgoing tensor '", tensor.name, "': ", elements, " numbers announced, ", view->size(), " given"));
}

template <class Stored>
void write_converted(replacing_file& file, matrix_view<float const> values) {
  std::vector<Stored> row(static_cast<std::size_t>(values.cols()));
  for (index_t i = 0; i < values.rows(); ++i) {
    for (index_t j = 0; j < values.cols(); ++j) row[static_cast<std::size_t>(j)] = Stored(values(i, j));
    file.write(std::as_bytes(std::span(row)));
  }
}

inline void write_floats(replacing_file& file, tensor_type type, matrix_view<float const> values) {
  if (type == tensor_type::f16) return write_converted<fp16>(file, values);
  if (type == tensor_type::bf16) return write_converted<bf16>(file, values);
  write_converted<float>(file, values);
}

/// Writes the numbers. @throws shape_error if what is computed is not of the announced size; what the function throws.
inline void write_outgoing(replacing_file& file, outgoing_tensor const& tensor) {
  if (auto const* const bytes = std::get_if<std::span<std::byte const>>(&tensor.source)) return file.write(*bytes);
  if (auto const* const view = std::get_if<matrix_view<float const>>(&tensor.source))
    return write_floats(file, tensor.type, *view);
  if (auto const* const made = std::get_if<computed_bytes>(&tensor.source)) {
    std::vector<std::byte> const bytes = made->make();
    if (bytes.size() != made->size)
      throw shape_error(message("outgoing tensor '", tensor.name, "': computed as ", bytes.size(), " bytes, ", made->size,
                                " were announced"));
    return file.write(bytes);
  }
  matrix<float> const values = std::get<std::function<matrix<float>()>>(tensor.source)();
  if (static_cast<std::uint64_t>(values.size() * block_of(tensor.type).bytes) != outgoing_bytes(tensor))
    throw shape_error(message("outgoing tensor '", tensor.name, "': computed as ", values.rows(), " x ", values.cols(),
                              ", which is not the announced size"));
  write_floats(file, tensor.type, values);
}

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
