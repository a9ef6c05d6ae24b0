#include "formats/export_model.hpp"

#include "formats/config_dtype.hpp"
#include "formats/folder_files.hpp"
#include "run/file_output.hpp"
#include "run/output_files.hpp"

#include "slim/io/gguf/writer.hpp"
#include "slim/io/safetensors/writer.hpp"

#include <algorithm>
#include <cmath>
#include <map>

namespace slim_llm {
namespace {

constexpr index_t elements_per_task = index_t{1} << 16;

void check(slim::status const& done) {
  if (!done) throw input_error(done.why());
}

/// Configuration, tokenizer, generation settings. Weights of other formats stay behind.
void copy_small_files(std::filesystem::path const& from, std::filesystem::path const& to, char const* dtype) {
  for (auto const& name : small_files(from)) {
    std::string text = read_text(from / name);
    write_file(to / name, name == "config.json" ? with_dtype(std::move(text), dtype) : text);
  }
}

/// What rounding the weights of a task's share did.
struct rounding_loss {
  index_t beyond = 0;             ///< weights that F16 has no number for
  index_t vanished = 0;           ///< weights that became 0
  double change = 0, weights = 0; ///< sums of squares
};

/// Rounds the weight to F16; weights beyond its range become its largest number. A sentence if that is more than rounding.
std::string rounded_to_f16(linear& l, std::vector<slim::fp16>& stored) {
  constexpr float largest = 65504;
  index_t const count = l.weight.size();
  std::vector<rounding_loss> losses(static_cast<std::size_t>((count + elements_per_task - 1) / elements_per_task));
  context().parallel_for(count, elements_per_task, [&](index_t begin, index_t end) {
    for (index_t k = begin; k < end; ++k) { // a range may be several tasks long; every task has its sums
      rounding_loss& loss = losses[static_cast<std::size_t>(k / elements_per_task)];
      float const w = l.weight.data()[k];
      slim::fp16 const half(std::clamp(w, -largest, largest));
      float const rounded = static_cast<float>(half);
      double const difference = static_cast<double>(w) - static_cast<double>(rounded);
      loss.beyond += std::abs(w) > 65520.0f ? 1 : 0; // what rounds to infinity
      loss.vanished += rounded == 0.0f && w != 0.0f ? 1 : 0;
      loss.change += difference * difference;
      loss.weights += static_cast<double>(w) * static_cast<double>(w);
      stored[static_cast<std::size_t>(k)] = half;
      l.weight.data()[k] = rounded;
    }
  });
  rounding_loss all;
  for (auto const& loss : losses) {
    all.beyond += loss.beyond;
    all.vanished += loss.vanished;
    all.change += loss.change;
    all.weights += loss.weights;
  }
  double const change = all.weights > 0 ? std::sqrt(all.change / all.weights) : 0.0;
  constexpr double rounding = 1.0 / 2048; // of normal numbers, at most
  if (all.beyond > 0)
    return slim::message(l.name, ": ", all.beyond, " weights are beyond the range of F16 and were written as 65504");
  if (change > rounding)
    return slim::message(l.name, ": weights are too small for F16: ", all.vanished, " of ", count,
                         " became 0, and the layer changes by ", 100 * change, " %");
  return {};
}

} // namespace

model_writer::model_writer(checkpoint const& source, std::filesystem::path out, std::string recipe)
    : source_(source), out_(std::move(out)), recipe_(std::move(recipe)),
      scratch_(std::filesystem::is_directory(out_) ? out_ : folder_of(out_)) {}

std::vector<std::string> model_writer::add(block& b) {
  std::vector<std::string> warnings;
  for (linear& l : b.linears) {
    std::vector<slim::fp16> stored(static_cast<std::size_t>(l.weight.size()));
    if (auto warning = rounded_to_f16(l, stored); !warning.empty()) warnings.push_back(std::move(warning));
    auto const bytes = std::as_bytes(std::span(stored));
    std::uint64_t const offset = scratch_.reserve(bytes.size());
    scratch_.write(offset, bytes);
    linears_.emplace_back(linear_info{l.name, l.role, l.d_out(), l.d_in()}, offset);
  }
  return warnings;
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

std::map<std::string, std::vector<model_writer::stored_linear const*>> model_writer::by_tensor() const {
  std::map<std::string, std::vector<stored_linear const*>> tensors;
  for (stored_linear const& stored : linears_) tensors[tensor_of(stored.first.name)].push_back(&stored);
  return tensors;
}

void model_writer::write_gguf(slim::gguf_file const& source) const {
  constexpr std::uint32_t mostly_f16 = 1; // llama.cpp's LLAMA_FTYPE_MOSTLY_F16
  slim::gguf_writer writer(source);
  writer.set("general.file_type", mostly_f16);
  writer.set("slim.recipe", recipe_);
  auto const tensors = by_tensor();
  for (auto const& [name, slices] : tensors)
    writer.replace(name, slim::tensor_type::f16,
                   std::function<matrix<float>()>([this, &slices = slices] { return read_below_each_other(slices); }));
  check(writer.write(out_));
}

void model_writer::write_folder() const {
  auto const linears = by_tensor();
  std::vector<slim::outgoing_tensor> tensors;
  for (auto const& tensor : source_.tensors()) {
    auto const found = linears.find(tensor.name);
    if (found == linears.end())
      tensors.push_back(slim::outgoing_copy(tensor));
    else
      tensors.push_back(
          {tensor.name,
           slim::tensor_type::f16,
           {},
           tensor.shape,
           std::function<matrix<float>()>([this, &slices = found->second] { return read_below_each_other(slices); })});
  }
  replacing_folder folder(out_);
  copy_small_files(source_.path(), folder.temporary(), loaded_dtype(tensors));
  check(slim::save_safetensors(folder.temporary() / "model.safetensors", std::move(tensors), {{"format", "pt"}}));
  folder.commit();
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
