#include "run/workspace.hpp"

#include "formats/load.hpp"
#include "run/file_output.hpp"
#include "run/fnv_hash.hpp"
#include "run/memory.hpp"
#include "text/json_lines.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <unordered_set>

namespace slim_llm {
namespace {

std::variant<slim::gguf_file, slim::safetensors_folder, slim_container> open_model_file(std::filesystem::path const& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) throw input_error(path.string() + ": does not exist");
  if (std::filesystem::is_directory(path, ignored)) return required(slim::safetensors_folder::open(path));
  if (is_slim_path(path)) return required(slim_container::open(path));
  return required(slim::gguf_file::open(path));
}

std::vector<int> at_least_two(std::vector<token_id> const& ids, std::filesystem::path const& file) {
  if (ids.size() < 2) throw input_error(slim::message(file.string(), ": has ", ids.size(), " tokens, at least 2 are needed"));
  return {ids.begin(), ids.end()};
}

} // namespace

checkpoint::checkpoint(std::filesystem::path path) : path_(std::move(path)), file_(open_model_file(path_)) {}

std::vector<slim::tensor_info> const& checkpoint::tensors() const {
  if (auto const* folder = std::get_if<slim::safetensors_folder>(&file_)) return folder->tensors();
  if (auto const* file = container()) return file->tensors();
  return std::get<slim::gguf_file>(file_).tensors();
}

double checkpoint::tensor_bytes() const {
  double bytes = 0;
  for (auto const& tensor : tensors()) bytes += static_cast<double>(tensor.bytes.size());
  if (auto const* file = container())
    for (auto const& factor : file->factors()) bytes += static_cast<double>(factor.bytes.size());
  return bytes;
}

double checkpoint::bits_per_weight(std::vector<linear_info> const& linears) const {
  std::unordered_set<std::string> wanted;
  bool const stacked = !container(); // there every linear is a tensor of its own
  for (linear_info const& l : linears) wanted.insert(stacked ? tensor_of(l.name) : l.name);
  double bits = 0, weights = 0;
  for (auto const& tensor : tensors())
    if (wanted.count(tensor.name)) {
      bits += 8.0 * static_cast<double>(tensor.bytes.size());
      weights += static_cast<double>(tensor.size());
    }
  if (auto const* file = container())
    for (auto const& factor : file->factors()) bits += 8.0 * static_cast<double>(factor.bytes.size());
  return weights > 0 ? bits / weights : 0.0;
}

std::string checkpoint::fingerprint() const {
  auto sorted = tensors();
  if (auto const* file = container()) sorted.insert(sorted.end(), file->factors().begin(), file->factors().end());
  std::sort(sorted.begin(), sorted.end(), [](auto const& a, auto const& b) { return a.name < b.name; });
  std::vector<std::uint64_t> parts(sorted.size());
  slim::context().parallel_for(static_cast<index_t>(sorted.size()), 1, [&](index_t begin, index_t end) {
    for (index_t k = begin; k < end; ++k) {
      slim::tensor_info const& tensor = sorted[static_cast<std::size_t>(k)];
      fnv_hash hash;
      hash.add(std::as_bytes(std::span(tensor.name)));
      hash.add(std::as_bytes(std::span(slim::name_of(tensor.type))));
      hash.add(std::as_bytes(std::span(tensor.stored_type)));
      hash.add(std::as_bytes(std::span(tensor.shape)));
      hash.add(tensor.bytes);
      drop_pages(tensor.bytes);
      parts[static_cast<std::size_t>(k)] = hash.value();
    }
  });
  fnv_hash whole;
  whole.add(std::as_bytes(std::span(parts)));
  return whole.text();
}

tokenizer checkpoint::load_tokenizer() const {
  if (auto const* file = gguf()) return required(tokenizer::from_gguf(*file));
  if (auto const* file = container())
    return required(file->gguf() ? tokenizer::from_gguf(*file->gguf()) : tokenizer::from_files(file->files()));
  return required(tokenizer::from_folder(path_));
}

workspace::workspace(std::filesystem::path const& path, std::optional<slim::input_precision> inputs)
    : file(path), words(file.load_tokenizer()), weights(required(load_model(path, inputs))) {
  source_bits = file.bits_per_weight(linears_of(weights));
  for (std::string const& note : weights.notes) std::cerr << "note: " << note << "\n";
}

std::string read_text(std::filesystem::path const& file) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored))
    throw input_error(file.string() + ": is a folder; the name of a text file is needed");
  errno = 0;
  std::unique_ptr<std::FILE, close_stream> const in(std::fopen(file.c_str(), "rb"));
  if (!in) throw input_error(file.string() + ": cannot be read: " + std::strerror(errno));
  std::string text;
  std::array<char, std::size_t{1} << 16> part;
  while (std::size_t const count = std::fread(part.data(), 1, part.size(), in.get())) text.append(part.data(), count);
  if (std::ferror(in.get()) != 0) throw input_error(file.string() + ": cannot be read: " + std::strerror(errno));
  return text;
}

std::vector<int> tokens_of(tokenizer const& words, std::filesystem::path const& file) {
  if (is_json_lines(file)) return at_least_two(required(tokens_of_json_lines(words, read_text(file), file)), file);
  return at_least_two(words.encode(read_text(file), {.special = false}), file);
}

std::vector<int> llama_cpp_tokens_of(tokenizer const& words, std::filesystem::path const& file) {
  if (words.adds_eos())
    throw input_error(
        "--protocol llama.cpp: the vocabulary puts an end of text behind every text, which llama-perplexity refuses");
  if (is_json_lines(file))
    throw input_error("--protocol llama.cpp: " + file.string() +
                      ": is not one text; give a .txt file, as llama-perplexity takes");
  std::string text = read_text(file);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return at_least_two(words.encode(text, {.special = false, .add_bos = words.adds_bos()}), file);
}

std::filesystem::path default_text(char const* name) {
  char const* const cache = std::getenv("SLIM_CACHE");
  char const* const home = std::getenv("HOME");
  std::filesystem::path const folder =
      cache ? std::filesystem::path(cache) : std::filesystem::path(home ? home : ".") / ".cache" / "slim";
  if (std::filesystem::exists(folder / name)) return folder / name;
  throw input_error(
      (folder / name).string() +
      ": the default text is not there; fetch it with `bash examples/fetch_model.sh text`, or name a text of yours");
}

} // namespace slim_llm
