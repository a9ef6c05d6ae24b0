#include "formats/patched_gguf.hpp"

#include "run/input_error.hpp"

#include "slim/io/file.hpp"

#include <algorithm>
#include <vector>

namespace slim_llm {

void write_with_tensors(slim::gguf_file const& file, std::map<std::string, std::span<std::byte const>> const& tensors,
                        std::filesystem::path const& out) {
  struct patch {
    std::size_t begin = 0;
    std::span<std::byte const> bytes;
  };
  std::vector<patch> patches;
  for (auto const& [name, bytes] : tensors) {
    auto const tensor = required(file.require(name));
    if (tensor.bytes.size() != bytes.size())
      throw input_error(
          slim::message(file.path().string(), ": tensor '", name, "' has ", tensor.bytes.size(), " bytes, not ", bytes.size()));
    patches.push_back({static_cast<std::size_t>(tensor.bytes.data() - file.bytes().data()), bytes});
  }
  std::sort(patches.begin(), patches.end(), [](patch const& a, patch const& b) { return a.begin < b.begin; });
  auto written = required(slim::replacing_file::create(out));
  std::size_t at = 0;
  for (patch const& p : patches) {
    written.write(file.bytes().subspan(at, p.begin - at));
    written.write(p.bytes);
    at = p.begin + p.bytes.size();
  }
  written.write(file.bytes().subspan(at));
  if (auto const done = written.commit(); !done) throw input_error(done.why());
  auto const again = required(slim::gguf_file::open(out));
  for (auto const& [name, bytes] : tensors) {
    auto const tensor = required(again.require(name));
    if (!std::equal(tensor.bytes.begin(), tensor.bytes.end(), bytes.begin(), bytes.end()))
      throw input_error(out.string() + ": tensor '" + name + "' does not read back as it was written");
  }
}

} // namespace slim_llm
