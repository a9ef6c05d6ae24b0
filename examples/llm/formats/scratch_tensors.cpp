#include "formats/scratch_tensors.hpp"

#include "run/input_error.hpp"

#include "slim/io/file.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>

namespace slim_llm {
namespace {

/// Position of a type in the order of the file.
std::size_t order_of(std::string const& type) {
  constexpr std::array<char const*, 4> widest_first = {"F32", "BF16", "F16", "U8"};
  auto const found = std::find(widest_first.begin(), widest_first.end(), type);
  return static_cast<std::size_t>(found - widest_first.begin());
}

void copy_bytes(slim::replacing_file& to, scratch_file const& scratch, scratch_tensor const& tensor) {
  std::vector<std::byte> buffer(std::size_t{1} << 20);
  for (std::uint64_t done = 0; done < tensor.size;) {
    auto const part = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), tensor.size - done));
    scratch.read(tensor.offset + done, part);
    to.write(part);
    done += part.size();
  }
}

} // namespace

void save_scratch_tensors(std::filesystem::path const& path, std::vector<scratch_tensor> tensors, scratch_file const& scratch,
                          std::map<std::string, std::string> const& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](scratch_tensor const& a, scratch_tensor const& b) {
    return std::pair(order_of(a.type), a.name) < std::pair(order_of(b.type), b.name);
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (scratch_tensor const& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.type}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.size}}};
    offset += tensor.size;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  auto file = required(slim::replacing_file::create(path));
  file.write_number(static_cast<std::uint64_t>(text.size()));
  file.write(text);
  for (scratch_tensor const& tensor : tensors) copy_bytes(file, scratch, tensor);
  if (auto const done = file.commit(); !done) throw input_error(done.why());
}

} // namespace slim_llm
