#include "formats/load.hpp"

#include "formats/load_formats.hpp"
#include "formats/packed_weights.hpp"
#include "formats/slim_container.hpp"

#include "slim/io/safetensors/reader.hpp"

namespace slim_llm {
namespace {

slim::result<model> load_gguf(std::filesystem::path const& path) {
  auto opened = slim::gguf_file::open(path);
  if (!opened) return slim::failure{opened.why()};
  auto const file = std::make_shared<slim::gguf_file const>(std::move(*opened));
  return model_of_gguf(*file, {file->tensors(), file});
}

slim::result<model> load_folder(std::filesystem::path const& path) {
  auto opened = slim::safetensors_folder::open(path);
  if (!opened) return slim::failure{opened.why()};
  auto const parts = std::make_shared<slim::safetensors_folder const>(std::move(*opened));
  model_tensors tensors{parts->tensors(), parts};
  if (parts->has_unread_index())
    tensors.notes.push_back(
        "model.safetensors is there and is read, as transformers does; model.safetensors.index.json is not");
  return model_of_hugging_face(model_files(path), tensors);
}

slim::result<model> load_container(std::filesystem::path const& path, std::optional<slim::input_precision> inputs) {
  auto const file = slim_container::open(path);
  if (!file) return slim::failure{file.why()};
  model_tensors const tensors{file->tensors(), file->keeps_open()};
  auto m = file->gguf() ? model_of_gguf(*file->gguf(), tensors) : model_of_hugging_face(file->files(), tensors);
  if (m) read_packed(*m, file->linears(), inputs);
  return m;
}

} // namespace

slim::result<model> load_model(std::filesystem::path const& path, std::optional<slim::input_precision> inputs) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return slim::failure{path.string() + ": there is no such file or folder"};
  if (std::filesystem::is_directory(path, error)) return load_folder(path);
  return is_slim_path(path) ? load_container(path, inputs) : load_gguf(path);
}

} // namespace slim_llm
