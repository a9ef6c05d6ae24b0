#include "formats/blocks_writer.hpp"

#include "formats/export_report.hpp"
#include "run/fnv_hash.hpp"
#include "run/memory.hpp"

#include "slim/io/gguf/writer.hpp"

#include <numeric>

namespace slim_llm {
namespace {

slim::gguf_file const& gguf_source(checkpoint const& source, std::string const& recipe) {
  if (auto const* const gguf = source.gguf()) return *gguf;
  throw input_error(source.path().string() + ": is no GGUF file, whose metadata and tokenizer --recipe " + recipe +
                    " writes again; llama.cpp's convert_hf_to_gguf.py makes one of a folder");
}

} // namespace

blocks_writer::blocks_writer(checkpoint const& source, model const& m, std::filesystem::path out, std::string recipe,
                             std::uint32_t file_type, side_types const& sides)
    : source_(source), out_(std::move(out)), recipe_(std::move(recipe)), file_type_(file_type), scratch_(folder_of(out_)) {
  (void)gguf_source(source, recipe_);
  written_.config = m.config;
  written_.positions = m.positions;
  written_.rotary = m.rotary;
  written_.project_in = m.project_in;
  written_.project_out = m.project_out;
  written_.final_norm = m.final_norm;
  written_.embedding = rounded_to(m.embedding, sides, scratch_, notes_);
  written_.head = rounded_to(m.head, sides, scratch_, notes_);
}

void blocks_writer::add(block const& b, packed_weights const& layers) {
  for (linear const& l : b.linears) {
    auto const found = layers.find(l.name);
    if (found == layers.end())
      throw input_error("--out: '" + l.name + "' was sent no token of the calibration text, so it has no codes; give more " +
                        "--calib-tokens or another --calib");
    auto const& bytes = found->second.weight;
    std::uint64_t const offset = scratch_.reserve(bytes.size());
    scratch_.write(offset, bytes);
    tensors_[tensor_of(l.name)].push_back({{l.name, l.role, l.d_out(), l.d_in()},
                                           found->second.blocks.value(),
                                           offset,
                                           bytes.size(),
                                           hash_of_floats(l.weight.view())});
  }
}

double blocks_writer::finish() {
  slim::gguf_writer writer(gguf_source(source_, recipe_));
  writer.set("general.file_type", file_type_);
  writer.set("general.quantization_version", std::uint32_t{2});
  writer.set("slim.recipe", recipe_);
  for (auto const& [name, slices] : tensors_) {
    std::uint64_t const bytes = std::accumulate(slices.begin(), slices.end(), std::uint64_t{0},
                                                [](std::uint64_t sum, stored_linear const& l) { return sum + l.bytes; });
    writer.replace(name, slices.front().type, slim::computed_bytes{bytes, [this, &slices = slices, bytes] {
                                                                     std::vector<std::byte> all(bytes);
                                                                     std::uint64_t at = 0;
                                                                     for (stored_linear const& l : slices) {
                                                                       scratch_.read(l.offset,
                                                                                     std::span(all).subspan(at, l.bytes));
                                                                       at += l.bytes;
                                                                     }
                                                                     return all;
                                                                   }});
  }
  for (stored_matrix const* const m : {&written_.embedding, &written_.head})
    if (auto const* const tensor = m->tensor()) writer.replace(tensor->name, tensor->type, tensor->bytes);
  write_verified(writer, out_, [&](slim::gguf_file const& file) {
    for (auto const& [name, slices] : tensors_) {
      slim::tensor_info part = required(file.require(name));
      auto const all = part.bytes;
      std::uint64_t at = 0;
      for (stored_linear const& l : slices) {
        part.shape = {l.info.d_out, l.info.d_in};
        part.bytes = all.subspan(at, l.bytes);
        at += l.bytes;
        if (hash_of_floats(required(slim::read_matrix(part)).view()) != l.hash)
          throw input_error(file.path().string() + ": read back, the weights of '" + l.info.name +
                            "' are not those that were evaluated; the disk may be at fault, or the program is");
      }
    }
  });
  return static_cast<double>(std::filesystem::file_size(out_));
}

} // namespace slim_llm
