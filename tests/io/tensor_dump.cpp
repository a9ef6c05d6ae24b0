// tensor_dump FILE FOLDER: every tensor of a .gguf or .safetensors file as raw float32 in FOLDER/<name>.f32, and the file
// written again: FOLDER/copy.gguf by template with F16 for 2-D tensors of F32, or FOLDER/copy.safetensors as F32.
// For tests/golden/io_oracle.py.

#include "slim/io/gguf/writer.hpp"
#include "slim/io/safetensors/writer.hpp"

#include <cstdio>
#include <fstream>

namespace {

int complain(std::string const& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  return 1;
}

int dump(std::vector<slim::tensor_info> const& tensors, std::filesystem::path const& folder) {
  for (slim::tensor_info const& tensor : tensors) {
    auto const values = slim::read_matrix(tensor);
    if (!values) return complain(values.why());
    std::ofstream out(folder / (tensor.name + ".f32"), std::ios::binary);
    out.write(reinterpret_cast<char const*>(values->data()), static_cast<std::streamsize>(values->size() * 4));
  }
  return 0;
}

int copy_gguf(slim::gguf_file const& file, std::filesystem::path const& folder) {
  slim::gguf_writer writer(file);
  writer.set("general.file_type", std::uint32_t{1});
  writer.set("slim.words", std::vector<std::string>{"a", "b"});
  for (slim::tensor_info const& tensor : file.tensors())
    if (tensor.type == slim::tensor_type::f32 && tensor.shape.size() == 2)
      writer.replace(tensor.name, slim::tensor_type::f16,
                     std::function<slim::matrix<float>()>([&tensor] { return slim::read_matrix(tensor).value(); }));
  auto const written = writer.write(folder / "copy.gguf");
  return written ? 0 : complain(written.why());
}

int copy_safetensors(slim::safetensors_folder const& model, std::filesystem::path const& folder) {
  std::vector<slim::outgoing_tensor> tensors;
  for (slim::tensor_info const& tensor : model.tensors())
    tensors.push_back({tensor.name, slim::tensor_type::f32, {}, tensor.shape, std::function<slim::matrix<float>()>([&tensor] {
                         return slim::read_matrix(tensor).value();
                       })});
  auto const written = slim::save_safetensors(folder / "copy.safetensors", std::move(tensors));
  return written ? 0 : complain(written.why());
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::filesystem::path const folder = argv[2];
  if (std::filesystem::path(argv[1]).extension() == ".gguf") {
    auto const file = slim::gguf_file::open(argv[1]);
    if (!file) return complain(file.why());
    int const failed = dump(file->tensors(), folder);
    return failed ? failed : copy_gguf(*file, folder);
  }
  auto const model = slim::safetensors_folder::open(argv[1]);
  if (!model) return complain(model.why());
  int const failed = dump(model->tensors(), folder);
  return failed ? failed : copy_safetensors(*model, folder);
}
