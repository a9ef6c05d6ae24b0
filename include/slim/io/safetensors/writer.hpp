#pragma once
/// @file
/// Writer of safetensors, in the layout of the reference: tensors by alignment of their type (highest first), then by name;
/// the header padded with spaces to a multiple of 8; written beside and renamed.

#include "slim/io/outgoing_tensor.hpp"
#include "slim/io/safetensors/reader.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Writes one file. `metadata` is strings to strings; transformers wants {"format": "pt"}.
/// @throws config_error on a repeated name, the name `__metadata__`, a type without a safetensors name, or text that is not
/// UTF-8;
///   shape_error if a source and its shape do not fit.
[[nodiscard]] inline status save_safetensors(std::filesystem::path const& path, std::vector<outgoing_tensor> tensors,
                                             std::map<std::string, std::string> const& metadata = {{"format", "pt"}}) {
  auto const dtype = [](outgoing_tensor const& tensor) {
    return tensor.type == tensor_type::other ? std::string_view(tensor.stored_type) : name_of(tensor.type);
  };
  std::set<std::string_view> names;
  for (outgoing_tensor const& tensor : tensors) {
    if (tensor.name == "__metadata__" || !names.insert(tensor.name).second)
      throw config_error(message("save_safetensors: tensor name '", tensor.name, "' is ",
                                 names.contains(tensor.name) ? "repeated" : "reserved"));
    detail::safetensors_type_row const* const row = detail::find_safetensors_type(dtype(tensor));
    if (!row)
      throw config_error(
          message("save_safetensors: tensor '", tensor.name, "': type ", dtype(tensor), " is not of this format"));
    detail::check_outgoing(tensor);
    index_t bits = row->bits;
    for (index_t const extent : tensor.shape) bits *= extent;
    if (static_cast<std::uint64_t>(bits) != 8 * detail::outgoing_bytes(tensor))
      throw shape_error(message("save_safetensors: tensor '", tensor.name, "' has ", detail::outgoing_bytes(tensor),
                                " bytes for ", bits, " bits"));
  }
  std::ranges::sort(tensors, [&](outgoing_tensor const& a, outgoing_tensor const& b) {
    auto const* const row_a = detail::find_safetensors_type(dtype(a));
    auto const* const row_b = detail::find_safetensors_type(dtype(b));
    return row_a != row_b ? row_a > row_b : a.name < b.name;
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (outgoing_tensor const& tensor : tensors) {
    std::uint64_t const end = offset + detail::outgoing_bytes(tensor);
    header[tensor.name] = {{"dtype", dtype(tensor)}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (nlohmann::json::exception const& problem) {
    throw config_error(message("save_safetensors: a name or a metadata string is not UTF-8 (", problem.what(), ")"));
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  result<replacing_file> file = replacing_file::create(path);
  if (!file) return failure{file.why()};
  file->write_number(static_cast<std::uint64_t>(text.size()));
  file->write(text);
  for (outgoing_tensor const& tensor : tensors) detail::write_outgoing(*file, tensor);
  return file->commit();
}

} // namespace SLIM_ABI
} // namespace slim
