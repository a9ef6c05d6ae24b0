#include "formats/load.hpp"

#include "formats/load_formats.hpp"

namespace slim_llm {

slim::result<model> load_model(std::filesystem::path const& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return slim::failure{path.string() + ": there is no such file or folder"};
  return std::filesystem::is_directory(path, error) ? load_hugging_face(path) : load_gguf(path);
}

} // namespace slim_llm
