#include "formats/export_model.hpp"

#include "slim/io/gguf_writer.hpp"
#include "slim/io/safetensors_writer.hpp"

#include <unordered_map>

namespace slim_llm {
namespace {

using weights_by_name = std::unordered_map<std::string, linear const*>;

weights_by_name linears_by_name(model const& m) {
  weights_by_name all;
  for (block const& b : m.blocks)
    for (linear const& l : b.linears) all.emplace(l.name, &l);
  return all;
}

void check(slim::status const& done) {
  if (!done) throw input_error(done.why());
}

void export_gguf(slim::gguf_file const& source, weights_by_name const& linears, std::filesystem::path const& out,
                 std::string const& recipe) {
  constexpr std::uint32_t mostly_f16 = 1; // llama.cpp's LLAMA_FTYPE_MOSTLY_F16
  slim::gguf_writer writer(source);
  writer.set("general.file_type", mostly_f16);
  writer.set("slim.recipe", recipe);
  for (auto const& [name, weights] : linears) writer.replace(name, slim::tensor_type::f16, weights->weight.view());
  check(writer.write(out));
}

/// Small files that belong to the model: configuration, tokenizer, generation settings. Weights of other formats stay behind.
void copy_small_files(std::filesystem::path const& from, std::filesystem::path const& to) {
  for (auto const& entry : std::filesystem::directory_iterator(from)) {
    auto const extension = entry.path().extension();
    bool const small = extension == ".json" || extension == ".txt" || extension == ".model" || extension == ".jinja";
    bool const index = entry.path().filename() == "model.safetensors.index.json";
    if (entry.is_regular_file() && small && !index)
      std::filesystem::copy_file(entry.path(), to / entry.path().filename(), std::filesystem::copy_options::overwrite_existing);
  }
}

void export_folder(checkpoint const& source, weights_by_name const& linears, std::filesystem::path const& out) {
  std::filesystem::create_directories(out);
  std::vector<slim::outgoing_tensor> tensors;
  for (auto const& tensor : source.tensors()) {
    auto const found = linears.find(tensor.name);
    tensors.push_back(found == linears.end()
                          ? slim::outgoing_copy(tensor)
                          : slim::outgoing_matrix(tensor.name, slim::tensor_type::f16, found->second->weight.view()));
  }
  check(slim::save_safetensors(out / "model.safetensors", std::move(tensors), {{"format", "pt"}}));
  copy_small_files(source.path(), out);
}

} // namespace

double export_model(workspace& work, std::filesystem::path const& out, std::string const& recipe) {
  if (std::error_code ignored; std::filesystem::equivalent(work.file.path(), out, ignored))
    throw input_error(out.string() + ": is the model itself; give another --out");
  auto const linears = linears_by_name(work.weights);
  if (auto const* gguf = work.file.gguf()) {
    export_gguf(*gguf, linears, out, recipe);
    return static_cast<double>(std::filesystem::file_size(out));
  }
  export_folder(work.file, linears, out);
  return static_cast<double>(std::filesystem::file_size(out / "model.safetensors"));
}

} // namespace slim_llm
