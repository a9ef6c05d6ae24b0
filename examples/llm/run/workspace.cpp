#include "run/workspace.hpp"

#include "formats/load.hpp"

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <unordered_set>

namespace slim_llm {
namespace {

std::variant<slim::gguf_file, slim::safetensors_folder> open_model_file(std::filesystem::path const& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) throw input_error(path.string() + ": does not exist");
  if (std::filesystem::is_directory(path, ignored)) return required(slim::safetensors_folder::open(path));
  return required(slim::gguf_file::open(path));
}

} // namespace

checkpoint::checkpoint(std::filesystem::path path) : path_(std::move(path)), file_(open_model_file(path_)) {}

std::vector<slim::tensor_info> const& checkpoint::tensors() const {
  if (auto const* folder = std::get_if<slim::safetensors_folder>(&file_)) return folder->tensors();
  return std::get<slim::gguf_file>(file_).tensors();
}

double checkpoint::tensor_bytes() const {
  double bytes = 0;
  for (auto const& tensor : tensors()) bytes += static_cast<double>(tensor.bytes.size());
  return bytes;
}

double checkpoint::bits_per_weight(std::vector<linear_info> const& linears) const {
  std::unordered_set<std::string> wanted;
  for (linear_info const& l : linears) wanted.insert(tensor_of(l.name));
  double bits = 0, weights = 0;
  for (auto const& tensor : tensors())
    if (wanted.count(tensor.name)) {
      bits += 8.0 * static_cast<double>(tensor.bytes.size());
      weights += static_cast<double>(tensor.size());
    }
  return weights > 0 ? bits / weights : 0.0;
}

tokenizer checkpoint::load_tokenizer() const {
  if (auto const* file = gguf()) return required(tokenizer::from_gguf(*file));
  return required(tokenizer::from_folder(path_));
}

workspace::workspace(std::filesystem::path const& path)
    : file(path), words(file.load_tokenizer()), weights(required(load_model(path))) {
  source_bits = file.bits_per_weight(linears_of(weights));
  for (std::string const& note : weights.notes) std::cerr << "note: " << note << "\n";
}

std::string read_text(std::filesystem::path const& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw input_error(file.string() + ": cannot be read");
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (in.bad()) throw input_error(file.string() + ": reading failed");
  return text;
}

std::vector<int> tokens_of(tokenizer const& words, std::filesystem::path const& file, bool drop_final_newline) {
  std::string text = read_text(file);
  if (drop_final_newline && !text.empty() && text.back() == '\n') text.pop_back();
  auto const ids = words.encode(text, {.special = false});
  if (ids.size() < 2) throw input_error(slim::message(file.string(), ": has ", ids.size(), " tokens, at least 2 are needed"));
  return {ids.begin(), ids.end()};
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
