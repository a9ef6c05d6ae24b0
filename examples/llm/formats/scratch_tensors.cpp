#include "formats/scratch_tensors.hpp"

#include "run/input_error.hpp"
#include "run/memory.hpp"

#include "slim/io/safetensors/reader.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

constexpr std::size_t part_bytes = std::size_t{1} << 20;

/// Position of a type in the order of the file, from low to high.
auto const* order_of(std::string const& type) { return slim::detail::find_safetensors_type(type); }

void copy_bytes(slim::replacing_file& to, scratch_file const& scratch, scratch_tensor const& tensor) {
  if (!tensor.mapped.empty()) {
    to.write(tensor.mapped);
    return drop_pages(tensor.mapped);
  }
  std::vector<std::byte> buffer(part_bytes);
  for (std::uint64_t done = 0; done < tensor.size;) {
    auto const part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), tensor.size - done));
    scratch.read(tensor.offset + done, part);
    to.write(part);
    done += part.size();
  }
}

} // namespace

std::string order_and_describe(std::vector<scratch_tensor>& tensors, std::map<std::string, std::string> const& metadata,
                               std::filesystem::path const& path) {
  std::sort(tensors.begin(), tensors.end(), [](scratch_tensor const& a, scratch_tensor const& b) {
    auto const *const of_a = order_of(a.type), *const of_b = order_of(b.type);
    return of_a != of_b ? of_a > of_b : a.name < b.name;
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (scratch_tensor const& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.type}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.size}}};
    offset += tensor.size;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (nlohmann::json::exception const&) {
    throw input_error(path.string() + ": cannot be written: the name of a tensor, or a text about the model, is not UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

void save_scratch_tensors(std::filesystem::path const& path, std::vector<scratch_tensor> tensors, scratch_file const& scratch,
                          std::map<std::string, std::string> const& metadata) {
  std::string const text = order_and_describe(tensors, metadata, path);
  auto file = required(slim::replacing_file::create(path));
  file.write_number(static_cast<std::uint64_t>(text.size()));
  file.write(text);
  for (scratch_tensor const& tensor : tensors) copy_bytes(file, scratch, tensor);
  if (auto const done = file.commit(); !done) throw input_error(done.why());
}

} // namespace slim_llm
