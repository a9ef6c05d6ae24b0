#include "formats/export_model.hpp"

#include "slim/io/gguf/writer.hpp"
#include "slim/io/safetensors/writer.hpp"

#include <algorithm>
#include <map>
#include <unordered_map>

namespace slim_llm {
namespace {

constexpr index_t elements_per_task = index_t{1} << 16;

/// Where the scratch file goes: into the folder that is written, or into that of the file. @throws input_error
std::filesystem::path prepared_folder(checkpoint const& source, std::filesystem::path const& out) {
  if (std::error_code ignored; std::filesystem::equivalent(source.path(), out, ignored))
    throw input_error(out.string() + ": is the model itself; give another --out");
  if (source.gguf()) return folder_of(out);
  std::filesystem::create_directories(out);
  return out;
}

void check(slim::status const& done) {
  if (!done) throw input_error(done.why());
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

} // namespace

model_writer::model_writer(checkpoint const& source, std::filesystem::path out, std::string recipe)
    : source_(source), out_(std::move(out)), recipe_(std::move(recipe)), scratch_(prepared_folder(source, out_)) {}

void model_writer::add(block const& b) {
  for (linear const& l : b.linears) {
    std::vector<slim::fp16> stored(static_cast<std::size_t>(l.weight.size()));
    context().parallel_for(l.weight.size(), elements_per_task, [&](index_t begin, index_t end) {
      for (index_t k = begin; k < end; ++k) stored[static_cast<std::size_t>(k)] = slim::fp16(l.weight.data()[k]);
    });
    auto const bytes = std::as_bytes(std::span(stored));
    std::uint64_t const offset = scratch_.reserve(bytes.size());
    scratch_.write(offset, bytes);
    linears_.emplace_back(linear_info{l.name, l.role, l.d_out(), l.d_in()}, offset);
  }
}

/// A linear as floats that are F16 numbers.
matrix<float> model_writer::read(linear_info const& l, std::uint64_t offset) const {
  std::vector<slim::fp16> stored(static_cast<std::size_t>(l.d_out * l.d_in));
  scratch_.read(offset, std::as_writable_bytes(std::span(stored)));
  matrix<float> values(l.d_out, l.d_in);
  context().parallel_for(values.size(), elements_per_task, [&](index_t begin, index_t end) {
    for (index_t k = begin; k < end; ++k) values.data()[k] = static_cast<float>(stored[static_cast<std::size_t>(k)]);
  });
  return values;
}

matrix<float> model_writer::read_below_each_other(std::vector<stored_linear const*> const& slices) const {
  if (slices.size() == 1) return read(slices.front()->first, slices.front()->second);
  index_t const rows = slices.front()->first.d_out, cols = slices.front()->first.d_in;
  matrix<float> all(rows * static_cast<index_t>(slices.size()), cols);
  for (std::size_t k = 0; k < slices.size(); ++k) {
    matrix<float> const one = read(slices[k]->first, slices[k]->second);
    std::copy_n(one.data(), one.size(), all.row(rows * static_cast<index_t>(k)));
  }
  return all;
}

void model_writer::write_gguf(slim::gguf_file const& source) const {
  constexpr std::uint32_t mostly_f16 = 1; // llama.cpp's LLAMA_FTYPE_MOSTLY_F16
  slim::gguf_writer writer(source);
  writer.set("general.file_type", mostly_f16);
  writer.set("slim.recipe", recipe_);
  std::map<std::string, std::vector<stored_linear const*>> tensors; // in a stacked tensor slices lie in their order, as here
  for (stored_linear const& stored : linears_) tensors[tensor_of(stored.first.name)].push_back(&stored);
  for (auto const& [name, slices] : tensors)
    writer.replace(name, slim::tensor_type::f16,
                   std::function<matrix<float>()>([this, &slices = slices] { return read_below_each_other(slices); }));
  check(writer.write(out_));
}

void model_writer::write_folder() const {
  std::unordered_map<std::string, std::pair<linear_info, std::uint64_t> const*> by_name;
  for (auto const& entry : linears_) by_name.emplace(entry.first.name, &entry);
  std::vector<slim::outgoing_tensor> tensors;
  for (auto const& tensor : source_.tensors()) {
    auto const found = by_name.find(tensor.name);
    if (found == by_name.end())
      tensors.push_back(slim::outgoing_copy(tensor));
    else
      tensors.push_back(
          {tensor.name, slim::tensor_type::f16, {}, tensor.shape, std::function<matrix<float>()>([this, entry = found->second] {
             return read(entry->first, entry->second);
           })});
  }
  check(slim::save_safetensors(out_ / "model.safetensors", std::move(tensors), {{"format", "pt"}}));
  copy_small_files(source_.path(), out_);
}

double model_writer::finish() const {
  if (auto const* gguf = source_.gguf()) {
    write_gguf(*gguf);
    return static_cast<double>(std::filesystem::file_size(out_));
  }
  write_folder();
  return static_cast<double>(std::filesystem::file_size(out_ / "model.safetensors"));
}

} // namespace slim_llm
