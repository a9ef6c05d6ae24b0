#include "formats/export_gguf.hpp"

#include "formats/export_names.hpp"

#include "slim/interop/mlx.hpp"
#include "slim/io/gguf/encode_blocks.hpp"

#include <algorithm>
#include <map>
#include <optional>

namespace slim_llm {
namespace {

struct block_type {
  char const* name;
  slim::tensor_type type;
  std::uint32_t file_type; ///< llama.cpp's LLAMA_FTYPE_MOSTLY_*
  bool chosen = false;     ///< where no type is named
};

/// By their size. Types of a super-block take codes of their own grids.
constexpr block_type block_types[] = {
    {"q2_k", slim::tensor_type::q2_k, 10},      {"q3_k", slim::tensor_type::q3_k, 12},
    {"q4_k", slim::tensor_type::q4_k, 15},      {"q4_0", slim::tensor_type::q4_0, 2, true},
    {"q4_1", slim::tensor_type::q4_1, 3, true}, {"q5_0", slim::tensor_type::q5_0, 8, true},
    {"q5_k", slim::tensor_type::q5_k, 17},      {"q5_1", slim::tensor_type::q5_1, 9, true},
    {"q6_k", slim::tensor_type::q6_k, 18},      {"q8_0", slim::tensor_type::q8_0, 7, true},
};

/// The linears of a tensor: one, or the slices of a stacked one.
struct written_tensor {
  std::vector<linear_info> slices;
  block_type const* type = nullptr;
  bool rounded = false; ///< scales and minima are
};

/// Scales in F16, minima rounded alone: what types with a minimum hold.
slim::integer_codes nearest(slim::integer_codes const& codes) {
  slim::integer_codes out = slim::in_even_groups(codes, slim::even_group(codes));
  bool const offsets = !codes.zeros.empty();
  if (offsets) out.offsets = slim::scale_table(out.scales.rows(), out.scales.cols(), {.format = slim::number_format::fp16});
  for (index_t i = 0; i < out.scales.rows(); ++i)
    for (index_t g = 0; g < out.scales.cols(); ++g) {
      out.scales(i, g) = slim::rounded_to(slim::number_format::fp16, out.scales(i, g));
      if (offsets) out.offsets(i, g) = slim::rounded_to(slim::number_format::fp16, slim::detail::mlx_bias(out, i, g));
    }
  if (offsets) out.zeros = {};
  return out;
}

/// Makes blocks of the linears of one source.
class block_maker {
public:
  block_maker(export_source const& source, tensor_names const& names) : source_(source), names_(names) {}

  /// The codes of a slice as they are written.
  [[nodiscard]] slim::integer_codes codes_of(written_tensor const& tensor, std::size_t slice) const {
    auto codes = packed_codes(tensor.slices[slice]);
    return tensor.rounded ? nearest(codes) : codes;
  }
  [[nodiscard]] std::vector<std::byte> bytes_of(written_tensor const& tensor) const {
    std::vector<std::byte> all;
    for (std::size_t k = 0; k < tensor.slices.size(); ++k) {
      auto const part = slim::encode_blocks(tensor.type->type, codes_of(tensor, k)).value();
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  /// Chooses the first type that holds all slices exactly, or rounded if that is allowed and none does. @throws input_error
  /// naming the slice that none holds
  void choose(written_tensor& tensor, std::vector<block_type const*> const& possible, bool allow_lossy) const {
    std::string why;
    for (bool const rounded : {false, true}) {
      if (rounded && !allow_lossy) break;
      tensor.rounded = rounded;
      for (block_type const* type : possible) {
        tensor.type = type;
        why = why_not(tensor);
        if (why.empty()) return;
      }
    }
    throw input_error(why + (allow_lossy ? "" : " (--allow-lossy rounds scales and minima)"));
  }
  /// What was packed. O(elements)
  [[nodiscard]] slim::integer_codes packed_codes(linear_info const& l) const {
    return with_rows(source_.read(l), names_.row_order(l, source_.dense->config)).codes;
  }

private:
  [[nodiscard]] std::string why_not(written_tensor const& tensor) const {
    for (std::size_t k = 0; k < tensor.slices.size(); ++k)
      if (auto const blocks = slim::encode_blocks(tensor.type->type, codes_of(tensor, k)); !blocks)
        return tensor.slices[k].name + ": cannot be held: " + blocks.why();
    return {};
  }

  export_source const& source_;
  tensor_names const& names_;
};

std::vector<block_type const*> possible_types(std::string const& name) {
  std::vector<block_type const*> out;
  for (block_type const& type : block_types)
    if (name.empty() ? type.chosen : name == type.name) out.push_back(&type);
  return out;
}

/// Adds the tensors of a .slim file to its metadata, linears without numbers: those are replaced.
void add_tensors(slim::gguf_writer& writer, slim_container const& container,
                 std::map<std::string, written_tensor> const& linears) {
  for (slim::tensor_info const& tensor : container.tensors()) {
    if (tensor_of(tensor.name) != tensor.name)
      throw input_error(tensor.name + ": is one of several matrices of a tensor (experts); export the GGUF file and its packed "
                                      "linears instead of the .slim file");
    writer.add(
        linears.contains(tensor.name)
            ? slim::outgoing_tensor{tensor.name, slim::tensor_type::f16, {}, tensor.shape, std::function<matrix<float>()>()}
            : slim::outgoing_copy(tensor));
  }
}

/// The GGUF file that everything but the linears is taken from; without tensors, those of the .slim file. @throws input_error
slim::gguf_file const& base_of(export_source const& source, std::optional<slim::gguf_file>& opened,
                               std::filesystem::path const& base) {
  if (!base.empty()) return opened.emplace(required(slim::gguf_file::open(base)));
  if (auto const* own = gguf_of(*source.file)) return *own;
  throw input_error(
      source.file->path().string() +
      ": comes from a folder, and the tokenizer of a GGUF file is not made of it here; give a GGUF file of the same "
      "model (llama.cpp's convert_hf_to_gguf.py makes one) with --base");
}

} // namespace

bool is_gguf_type(std::string const& type) { return type.empty() || !possible_types(type).empty(); }

std::string gguf_types() {
  std::string all;
  for (block_type const& type : block_types) all += (all.empty() ? "" : ", ") + std::string(type.name);
  return all;
}

double gguf_bytes_of(slim::integer_codes const& codes, std::string const& type, std::string& why_not) {
  double bytes = 0;
  for (block_type const* possible : possible_types(type)) {
    auto const layout = slim::block_of(possible->type);
    bytes = static_cast<double>(codes.codes.size() / layout.elements * layout.bytes);
    auto const blocks = slim::encode_blocks(possible->type, codes);
    why_not = blocks.why();
    if (blocks) break;
  }
  return bytes;
}

void export_gguf(export_source const& source, std::string const& type, std::filesystem::path const& base,
                 std::filesystem::path const& out, export_options const& options, export_report& report) {
  std::optional<slim::gguf_file> opened;
  slim::gguf_file const& file = base_of(source, opened, base);
  tensor_names const names = names_in_gguf(*source.file, *source.dense);
  block_maker const blocks(source, names);
  std::map<std::string, written_tensor> tensors; // slices lie in their order, as here
  for (linear_info const& l : source.linears) tensors[names.of(l.name)].slices.push_back(l);
  auto const possible = possible_types(type);
  slim::gguf_writer writer(file);
  bool const from_container = base.empty() && source.file->container();
  if (from_container) add_tensors(writer, *source.file->container(), tensors);
  auto const& all_tensors = from_container ? source.file->tensors() : file.tensors();
  std::map<std::uint32_t, index_t> count_of;
  for (auto& [name, tensor] : tensors) {
    auto const at =
        std::find_if(all_tensors.begin(), all_tensors.end(), [&, &name = name](auto const& t) { return t.name == name; });
    if (at == all_tensors.end()) throw input_error(file.path().string() + ": there is no tensor '" + name + "'");
    slim::tensor_info const& described = *at;
    index_t const rows = tensor.slices.front().d_out, cols = tensor.slices.front().d_in;
    if (described.size() != rows * cols * static_cast<index_t>(tensor.slices.size()) || described.cols() != cols)
      throw input_error(slim::message(file.path().string(), ": '", name, "' is not ", rows, " x ", cols,
                                      ", as the model has it: it is another model's"));
    blocks.choose(tensor, possible, options.allow_lossy);
    auto const layout = slim::block_of(tensor.type->type);
    auto const bytes = static_cast<std::uint64_t>(described.size() / layout.elements * layout.bytes);
    writer.replace(name, tensor.type->type,
                   slim::computed_bytes{bytes, [&blocks, &tensor = tensor] { return blocks.bytes_of(tensor); }});
    report.linear_bytes += static_cast<double>(bytes);
    count_of[tensor.type->file_type] += described.size();
    for (std::size_t k = 0; k < tensor.slices.size() && tensor.rounded; ++k)
      report.compare(tensor.slices[k].name, values_of(blocks.codes_of(tensor, k)),
                     values_of(blocks.packed_codes(tensor.slices[k])));
  }
  for (auto const& tensor : all_tensors)
    if (!tensors.contains(tensor.name)) report.other_bytes += static_cast<double>(tensor.bytes.size());
  auto const most =
      std::max_element(count_of.begin(), count_of.end(), [](auto const& a, auto const& b) { return a.second < b.second; });
  writer.set("general.file_type", most->first);
  write_verified(writer, out, [&](slim::gguf_file const& written) {
    for (auto const& [name, tensor] : tensors) {
      slim::tensor_info part = required(written.require(name));
      std::size_t const size = part.bytes.size() / tensor.slices.size();
      auto const all = part.bytes;
      part.shape = {tensor.slices.front().d_out, tensor.slices.front().d_in};
      for (std::size_t k = 0; k < tensor.slices.size(); ++k) {
        part.bytes = all.subspan(k * size, size);
        require_same(written.path(), tensor.slices[k].name, required(slim::read_matrix(part)),
                     values_of(blocks.codes_of(tensor, k)));
      }
    }
  });
}

} // namespace slim_llm
