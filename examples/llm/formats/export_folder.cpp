#include "formats/export_folder.hpp"

#include "formats/config_dtype.hpp"
#include "formats/export_names.hpp"
#include "formats/folder_files.hpp"
#include "models/stored_matrix.hpp"
#include "run/file_output.hpp"
#include "run/memory.hpp"
#include "run/output_files.hpp"

#include "slim/interop/mlx.hpp"
#include "slim/io/safetensors/writer.hpp"

#include <cmath>
#include <cstring>
#include <set>

namespace slim_llm {
namespace {

/// A linear of the source and how the folder has it.
struct placed_linear {
  linear_info info;
  std::vector<index_t> order; ///< of rows in the source
  stored_layer stored;
};

std::string module_of(std::string const& weight) {
  constexpr std::string_view suffix = ".weight";
  if (!weight.ends_with(suffix))
    throw input_error("tensor '" + weight + "' is a linear's and its name does not end with .weight");
  return weight.substr(0, weight.size() - suffix.size());
}

std::vector<placed_linear> place_linears(export_source const& source, tensor_names const& names) {
  std::vector<placed_linear> placed;
  for (linear_info const& l : source.linears)
    placed.push_back({l, names.row_order(l, source.dense->config), {module_of(names.of(l.name)), l.d_out, l.d_in}});
  return placed;
}

/// Tensors of the source that hold linears.
std::set<std::string> tensors_of_linears(export_source const& source) {
  std::set<std::string> tensors;
  for (linear_info const& l : source.linears) tensors.insert({l.name, tensor_of(l.name)});
  return tensors;
}

export_layer read_layer(export_source const& source, placed_linear const& l) { return with_rows(source.read(l.info), l.order); }

/// The folder while it is made.
struct folder_draft {
  std::vector<slim::outgoing_tensor> tensors;
  std::vector<std::string> left; ///< modules of matrices that are not compressed
  double other_bytes = 0;
};

/// What scanning a tensor found.
struct number_types {
  bool in_half = true, in_bf16 = true;
  bool beyond_half = false; ///< a number is larger than those of F16, as which folders without F32 are loaded
  double change = 0;        ///< by rounding to `wanted`, relative
};

number_types types_that_hold(slim::tensor_info const& as_matrix, std::optional<slim::number_format> wanted) {
  index_t const cols = as_matrix.cols(), rows_at_once = std::max<index_t>(1, (index_t{1} << 20) / std::max<index_t>(cols, 1));
  number_types found;
  double change = 0, all = 0;
  for (index_t first = 0; first < as_matrix.rows() && (wanted || found.in_half || found.in_bf16); first += rows_at_once) {
    matrix<float> part(std::min(rows_at_once, as_matrix.rows() - first), cols);
    require_done(slim::dequantize_rows_into(as_matrix, first, part.view()));
    found.in_half = found.in_half && holds(slim::number_format::fp16, part);
    found.in_bf16 = found.in_bf16 && holds(slim::number_format::bf16, part);
    for (index_t k = 0; k < part.size(); ++k) {
      found.beyond_half = found.beyond_half || std::abs(part.data()[k]) >= 65520.0f;
      if (!wanted) continue;
      double const w = static_cast<double>(part.data()[k]),
                   d = w - static_cast<double>(slim::rounded_to(*wanted, part.data()[k]));
      change += d * d;
      all += w * w;
    }
  }
  found.change = all > 0 ? std::sqrt(change / all) : 0.0;
  return found;
}

/// A tensor that a folder has no type for, or of a GGUF file, as numbers: of type `wanted`, or the smallest that holds them.
slim::outgoing_tensor converted(slim::tensor_info const& tensor, std::string const& name,
                                std::optional<slim::tensor_type> wanted, bool allow_lossy, std::vector<std::string>& notes) {
  index_t const cols = tensor.cols();
  slim::tensor_info as_matrix = tensor;
  as_matrix.shape = {cols > 0 ? tensor.size() / cols : 0, cols};
  auto const format_of = [](slim::tensor_type type) {
    return type == slim::tensor_type::f16    ? slim::number_format::fp16
           : type == slim::tensor_type::bf16 ? slim::number_format::bf16
                                             : slim::number_format::fp32;
  };
  auto const found = types_that_hold(as_matrix, wanted ? std::optional(format_of(*wanted)) : std::nullopt);
  if (wanted && *wanted != slim::tensor_type::f32 && found.beyond_half)
    throw input_error("--embeddings: " + tensor.name +
                      " has numbers beyond those of F16, as which the folder would be loaded; f32 has them");
  auto const type = wanted                                ? *wanted
                    : found.in_half || allow_lossy        ? slim::tensor_type::f16
                    : found.in_bf16 && !found.beyond_half ? slim::tensor_type::bf16
                                                          : slim::tensor_type::f32;
  if (wanted && found.change > 0)
    notes.push_back(slim::message(tensor.name, " (", tensor.stored_type, ") is rounded to ", slim::name_of(type),
                                  ", relative error ", found.change));
  else if (!wanted && !found.in_half && allow_lossy)
    notes.push_back(slim::message(tensor.name, " (", tensor.stored_type, ") is rounded to F16"));
  else if (type == slim::tensor_type::f32 && !wanted)
    notes.push_back(slim::message(tensor.name, " (", tensor.stored_type,
                                  ") is written as F32: neither F16 nor BF16 holds its "
                                  "numbers; --embeddings f16 rounds embedding and head, --allow-lossy everything"));
  return {name, type, {}, tensor.shape, std::function<matrix<float>()>([as_matrix] {
            matrix<float> values = read_parallel(as_matrix, {});
            drop_pages(as_matrix.bytes);
            return values;
          })};
}

/// Embedding or head.
bool is_side(model const& m, slim::tensor_info const& tensor) {
  for (stored_matrix const* const side : {&m.embedding, &m.head})
    if (side->tensor() && side->tensor()->name == tensor.name) return true;
  return false;
}

/// Everything but the linears.
folder_draft copy_others(export_source const& source, tensor_names const& names, export_options const& options,
                         std::vector<slim::tensor_info> const& skipped, export_report& report) {
  folder_draft draft;
  auto const linears = tensors_of_linears(source);
  for (auto const& tensor : source.file->tensors()) {
    bool const in_codes = std::any_of(skipped.begin(), skipped.end(), [&](auto const& s) { return s.name == tensor.name; });
    if (linears.contains(tensor.name) || in_codes) continue;
    std::string const& name = names.of(tensor.name);
    if (tensor.shape.size() == 2 && name.ends_with(".weight")) draft.left.push_back(module_of(name));
    bool const side = is_side(*source.dense, tensor);
    auto const wanted = side ? options.embeddings : std::nullopt;
    bool const copied = slim::detail::find_safetensors_type(tensor.stored_type) && !gguf_of(*source.file) &&
                        (!wanted || *wanted == tensor.type);
    draft.tensors.push_back(copied ? slim::outgoing_copy(tensor)
                                   : converted(tensor, name, wanted, options.allow_lossy, report.notes));
    auto const bytes = static_cast<double>(slim::detail::outgoing_bytes(draft.tensors.back()));
    draft.other_bytes += bytes;
    if (side) report.embedding_bytes += bytes;
  }
  return draft;
}

/// Writes the files, lets `verify` look at them, and only then gives the folder its name.
template <class Verify>
void write_folder(std::map<std::string, std::string> const& files, std::vector<slim::outgoing_tensor> tensors,
                  std::string const& framework, std::filesystem::path const& out, Verify const& verify) {
  replacing_folder folder(out);
  for (auto const& [name, text] : files) write_file(folder.temporary() / name, text);
  auto const path = folder.temporary() / "model.safetensors";
  require_done(slim::save_safetensors(path, std::move(tensors), {{"format", framework}}));
  verify(required(slim::safetensors_file::open(path)));
  folder.commit();
}

/// The files of the folder with the type to load and the members of a format.
std::map<std::string, std::string> files_of(export_source const& source, std::vector<slim::outgoing_tensor> const& tensors,
                                            nlohmann::ordered_json const& members, std::vector<std::string>& notes) {
  auto files = files_of_folder(*source.file, *source.dense, notes);
  auto const config = files.find("config.json");
  if (config == files.end()) throw input_error(source.file->path().string() + ": has no config.json");
  config->second = with_members(with_dtype(config->second, loaded_dtype(tensors)), members);
  return files;
}

/// The codes that are written: those that were packed, or the nearest ones.
slim::integer_codes codes_to_write(layer_format const& format, slim::integer_codes const& codes, index_t group,
                                   std::string const& name, bool allow_lossy) {
  std::string why = format.why_not(codes, group);
  if (why.empty()) return codes;
  if (allow_lossy && slim::detail::why_not_words(codes, group).empty()) {
    slim::integer_codes nearest = format.nearest(codes, group);
    why = format.why_not(nearest, group);
    if (why.empty()) return nearest;
  }
  throw input_error(
      slim::message(name, ": ", format.name(), " cannot hold it: ", why, allow_lossy ? "" : " (--allow-lossy rounds scales)"));
}

/// A matrix in Q8_0 as 8-bit codes.
slim::integer_codes codes_of_q8_0(slim::tensor_info const& tensor) {
  using block = slim::ggml::block_q8_0;
  slim::integer_codes codes(tensor.rows(), tensor.cols(), 8, slim::per_group(block::elements), slim::number_format::fp16);
  for (index_t k = 0; k < codes.scales.size(); ++k) {
    block b;
    std::memcpy(&b, tensor.bytes.data() + static_cast<std::size_t>(k) * sizeof b, sizeof b);
    codes.scales.data()[k] = static_cast<float>(b.d);
    std::copy(b.qs.begin(), b.qs.end(), codes.codes.data() + k * block::elements);
  }
  return codes;
}

/// Matrices in Q8_0 beside the linears (embedding, head) where MLX's format holds their bits; none in other formats.
std::vector<slim::tensor_info> others_in_codes(export_source const& source, layer_format const& format) {
  std::vector<slim::tensor_info> found;
  auto const linears = tensors_of_linears(source);
  for (auto const& tensor : source.file->tensors()) {
    bool const fits = tensor.type == slim::tensor_type::q8_0 && tensor.shape.size() == 2 && !linears.contains(tensor.name);
    if (format.name() == "mlx" && fits && format.why_not(codes_of_q8_0(tensor), slim::ggml::block_q8_0::elements).empty())
      found.push_back(tensor);
  }
  return found;
}

/// One tensor per part of a layer, whose codes are made when it is written.
double add_parts(std::vector<slim::outgoing_tensor>& tensors, layer_format const& format, stored_layer const& stored,
                 std::function<slim::integer_codes()> const& codes) {
  double bytes = 0;
  for (layer_part const& part : format.parts(stored)) {
    bytes += static_cast<double>(part.bytes());
    auto const type = part.type == "F16" ? slim::tensor_type::f16 : slim::tensor_type::other;
    tensors.push_back({stored.module + part.suffix, type, part.type, part.shape,
                       slim::computed_bytes{part.bytes(), [&format, codes, suffix = part.suffix, group = stored.group] {
                                              return format.bytes(suffix, codes(), group);
                                            }}});
  }
  return bytes;
}

} // namespace

void export_folder(export_source const& source, layer_format& format, std::filesystem::path const& out,
                   export_options const& options, export_report& report) {
  tensor_names const names = names_in_folder(*source.file, *source.dense);
  std::vector<placed_linear> linears = place_linears(source, names);
  std::vector<index_t> even;
  std::vector<stored_layer> stored;
  for (placed_linear& l : linears) {
    slim::integer_codes const codes = read_layer(source, l).codes;
    even.push_back(even_group_of(codes));
    auto const written = codes_to_write(format, codes, format.group_of(even.back()), l.info.name, options.allow_lossy);
    l.stored.bits = codes.bits;
    l.stored.symmetric = codes.symmetric();
    if (!(written == codes)) report.compare(l.info.name, values_of(written), values_of(codes));
  }
  index_t const group = common_group(even, format);
  for (placed_linear& l : linears) {
    l.stored.group = group;
    stored.push_back(l.stored);
  }
  if (std::string const why = format.settle(stored); !why.empty()) throw input_error(format.name() + ": " + why);
  auto const codes_of = [&](placed_linear const& l) {
    return codes_to_write(format, read_layer(source, l).codes, group, l.info.name, options.allow_lossy);
  };
  std::vector<slim::tensor_info> const others =
      options.embeddings ? std::vector<slim::tensor_info>() : others_in_codes(source, format);
  folder_draft draft = copy_others(source, names, options, others, report);
  for (placed_linear const& l : linears)
    report.linear_bytes += add_parts(draft.tensors, format, l.stored, [&codes_of, &l] { return codes_of(l); });
  for (slim::tensor_info const& other : others) {
    stored.push_back({module_of(names.of(other.name)), other.rows(), other.cols(), 8, true, slim::ggml::block_q8_0::elements});
    double const bytes = add_parts(draft.tensors, format, stored.back(), [&other] { return codes_of_q8_0(other); });
    draft.other_bytes += bytes;
    if (is_side(*source.dense, other)) report.embedding_bytes += bytes;
  }
  report.other_bytes += draft.other_bytes;
  if (std::find(draft.left.begin(), draft.left.end(), "lm_head") == draft.left.end()) draft.left.push_back("lm_head");
  nlohmann::ordered_json const members = format.config(stored, draft.left);
  auto files = files_of(source, draft.tensors, members, report.notes);
  for (auto const& [name, text] : format.more_files(members)) files[name] = text;
  write_folder(files, std::move(draft.tensors), format.framework(), out, [&](slim::safetensors_file const& file) {
    auto const find = [&](std::string const& name) { return file.find(name); };
    auto const verify = [&](stored_layer const& l, slim::integer_codes const& codes) {
      require_same(file.path(), l.module, values_of(format.read(find, l.module, l.bits)), values_of(codes));
    };
    for (placed_linear const& l : linears) verify(l.stored, codes_of(l));
    for (std::size_t k = 0; k < others.size(); ++k) verify(stored[linears.size() + k], codes_of_q8_0(others[k]));
  });
}

void export_dense_folder(export_source const& source, bool merge, std::filesystem::path const& out,
                         export_options const& options, export_report& report) {
  tensor_names const names = names_in_folder(*source.file, *source.dense);
  std::vector<placed_linear> const linears = place_linears(source, names);
  auto const exact_values = [&](placed_linear const& l) {
    export_layer const layer = read_layer(source, l);
    matrix<float> values = values_of(layer.codes);
    if (merge && layer.adapter.rank() > 0) layer.adapter.add_to(values.view());
    return values;
  };
  std::vector<bool> is_half;
  for (placed_linear const& l : linears)
    is_half.push_back(options.allow_lossy || holds(slim::number_format::fp16, exact_values(l)));
  auto const values = [&](std::size_t k) {
    matrix<float> w = exact_values(linears[k]);
    if (is_half[k])
      for (index_t n = 0; n < w.size(); ++n) w.data()[n] = slim::rounded_to(slim::number_format::fp16, w.data()[n]);
    return w;
  };
  folder_draft draft = copy_others(source, names, options, {}, report);
  report.other_bytes += draft.other_bytes;
  for (std::size_t k = 0; k < linears.size(); ++k) {
    placed_linear const& l = linears[k];
    draft.tensors.push_back({l.stored.module + ".weight",
                             is_half[k] ? slim::tensor_type::f16 : slim::tensor_type::f32,
                             {},
                             {l.info.d_out, l.info.d_in},
                             std::function<matrix<float>()>([&values, k] { return values(k); })});
    report.linear_bytes += static_cast<double>(slim::detail::outgoing_bytes(draft.tensors.back()));
    if (is_half[k]) report.compare(l.info.name, values(k), exact_values(l));
  }
  auto const files = files_of(source, draft.tensors, {}, report.notes);
  write_folder(files, std::move(draft.tensors), "pt", out, [&](slim::safetensors_file const& file) {
    for (std::size_t k = 0; k < linears.size(); ++k) {
      std::string const name = linears[k].stored.module + ".weight";
      require_same(file.path(), name, required(slim::read_matrix(required(file.require(name)))), values(k));
    }
  });
}

} // namespace slim_llm
