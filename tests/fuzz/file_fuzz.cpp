// libFuzzer target of a reader of model files, SLIM_FUZZ_FILE (gguf_file or safetensors_file): whatever the bytes, it gives
// tensors that lie in the file and can be read, or a sentence. Inputs start as files that our writers made.

#include "slim/io/gguf/writer.hpp"
#include "slim/io/safetensors/writer.hpp"

#include "fresh_or_mutated.hpp"
#include "memory_file.hpp"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <type_traits>
#include <vector>

namespace {

using namespace slim;
using file_type = SLIM_FUZZ_FILE;
constexpr bool is_gguf = std::is_same_v<file_type, gguf_file>;

/// A small file with a matrix of each type and, in GGUF, entries of each kind.
std::string written_file(unsigned seed) {
  std::filesystem::path const path = std::filesystem::temp_directory_path() / ("slim_fuzz_" + std::to_string(::getpid()));
  matrix<float> const values(1 + static_cast<index_t>(seed % 3), 32 * static_cast<index_t>(seed % 2) + 3);
  std::vector<std::byte> const blocks(36);
  std::vector<outgoing_tensor> tensors = {outgoing_matrix("a", tensor_type::f32, values.view()),
                                          outgoing_matrix("b", tensor_type::f16, values.view()),
                                          outgoing_matrix("c", tensor_type::bf16, values.view())};
  if constexpr (is_gguf) {
    gguf_writer file;
    file.set("general.architecture", std::string("llama"));
    file.set("n", std::uint32_t{seed});
    file.set("f", 0.5f);
    file.set("tokens", std::vector<std::string>{"a", "bc", ""});
    file.set("types", std::vector<std::int32_t>{1, 2, 3});
    for (outgoing_tensor& tensor : tensors) file.add(std::move(tensor));
    file.add({"q", tensor_type::q4_0, {}, {2, 32}, std::span(blocks)});
    if (!file.write(path)) std::abort();
  } else if (!save_safetensors(path, std::move(tensors), {{"format", "pt"}, {"note", "\"\\u00e9\\n\""}}))
    std::abort();
  std::ifstream in(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  std::filesystem::remove(path);
  return bytes;
}

std::string const& fresh_file(unsigned seed) {
  static std::vector<std::string> const files = [] {
    std::vector<std::string> all;
    for (unsigned k = 0; k < 6; ++k) all.push_back(written_file(k));
    return all;
  }();
  return files[seed % files.size()];
}

/// Every kind of value that a key of a GGUF file may have, of keys that are there in a fresh one. The metadata of safetensors
/// are strings, checked when the file is opened.
template <class File>
void read_metadata(File const& file) {
  if constexpr (is_gguf)
    for (char const* const key : {"general.architecture", "n", "f", "tokens", "types"}) {
      (void)file.template get<std::string>(key);
      (void)file.template get<double>(key);
      (void)file.template get<std::vector<std::string>>(key);
      (void)file.template get<std::vector<std::int32_t>>(key);
    }
}

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  return slim_test::fresh_or_mutated(data, size, max_size, seed, 8, fresh_file);
}

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  slim_test::memory_file const file(data, size);
  auto const read = file_type::open(file.path());
  if (!read) {
    if (read.why().size() < 20) std::abort();
    return 0;
  }
  double sum = 0; // every byte is touched, so that the sanitizer sees those outside of the file
  for (tensor_info const& tensor : read->tensors()) {
    for (std::byte const byte : tensor.bytes) sum += static_cast<double>(byte);
    auto const values = read_matrix(tensor);
    if (!values && values.why().size() < 10) std::abort();
    if (values && !values->empty()) sum += static_cast<double>(values->data()[values->size() - 1]);
  }
  read_metadata(*read);
  return sum == -1.0 ? 1 : 0;
}
