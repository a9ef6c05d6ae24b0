#include "formats/slim_writer.hpp"

#include "formats/assemble.hpp"
#include "run/fnv_hash.hpp"
#include "run/memory.hpp"
#include "run/output_files.hpp"

#include "slim/core/version.hpp"
#include "slim/io/gguf/writer.hpp"
#include "slim/packing/entropy_coded_matrix.hpp"

#include <algorithm>

namespace slim_llm {
namespace {

/// Metadata of a GGUF file as a GGUF file without tensors.
std::string header_of(slim::gguf_file const& file) {
  std::string out = "GGUF";
  slim::detail::append_number(out, std::uint32_t{3});
  slim::detail::append_number(out, std::int64_t{0});
  slim::detail::append_number(out, static_cast<std::int64_t>(file.metadata().size()));
  for (auto const& entry : file.metadata()) {
    slim::detail::append_metadata(out, entry.key);
    out.append(reinterpret_cast<char const*>(entry.raw.data()), entry.raw.size());
  }
  return out;
}

/// A tensor of the source as safetensors stores it: as it is, or as bytes if the type is not known there.
scratch_tensor plain_tensor(slim::tensor_info const& tensor) {
  bool const as_it_is = slim::detail::find_safetensors_type(tensor.stored_type) != nullptr;
  auto const size = tensor.bytes.size();
  return {tensor.name,
          as_it_is ? tensor.stored_type : "U8",
          as_it_is ? tensor.shape : std::vector<index_t>{static_cast<index_t>(size)},
          0,
          size,
          tensor.bytes};
}

nlohmann::json listed(std::string const& name, std::string const& type, std::vector<index_t> const& shape) {
  return {{"name", name}, {"type", type}, {"shape", shape}};
}

std::string version_of(bool entropy_coded) {
  return std::string(entropy_coded ? slim_format::coded_version : slim_format::version);
}

/// Packed bytes, or their entropy code if that is wanted and smaller.
std::vector<std::byte> stored_codes(std::vector<std::byte> packed, bool entropy_coded) {
  if (!entropy_coded) return packed;
  auto coded = slim::entropy_encode_matrix(packed);
  return coded.size() < packed.size() ? std::move(coded) : std::move(packed);
}

std::map<std::string, std::string> metadata_of(std::string const& source, nlohmann::json const& recipe,
                                               nlohmann::json const& list, bool entropy_coded, nlohmann::json hashes) {
  std::map<std::string, std::string> metadata = {{"format", "slim"},
                                                 {"version", version_of(entropy_coded)},
                                                 {"made_by", "slim-llm " + std::string(slim::version())},
                                                 {"source", source},
                                                 {"recipe", recipe.dump()},
                                                 {"tensors", list.dump()}};
  hashes[std::string(slim_format::metadata)] = hash_of_metadata(metadata);
  metadata["hashes"] = hashes.dump();
  return metadata;
}

std::string in_container(std::string const& file) { return std::string(slim_format::file_prefix) + file; }

} // namespace

slim_source slim_source_of(checkpoint const& file) {
  slim_source source{file.tensors(), {}, [&file] { return file.fingerprint(); }};
  std::string const header(slim_format::gguf_name);
  auto const* const container = file.container();
  if (container) source.fingerprint = [container] { return container->source(); };
  if (auto const* const gguf = container ? container->gguf() : file.gguf()) {
    source.files[header] = header_of(*gguf);
    return source;
  }
  model_files const files = container ? container->files() : model_files(file.path());
  for (std::string const& name : files.names()) source.files[name] = required(files.text(name));
  return source;
}

slim_writer::slim_writer(slim_source source, model const& m, std::filesystem::path out, nlohmann::json recipe,
                         slim_options const& options)
    : source_(std::move(source)), out_(std::move(out)), recipe_(std::move(recipe)), repeated_head_(m.repeated_head),
      entropy_coded_(options.entropy_coded), scratch_(folder_of(out_)) {
  for (slim::tensor_info const& tensor : source_.tensors) source_names_.insert(tensor.name);
  written_.config = m.config;
  written_.positions = m.positions;
  written_.rotary = m.rotary;
  written_.project_in = m.project_in;
  written_.project_out = m.project_out;
  written_.final_norm = m.final_norm;
  written_.embedding = rounded_to(m.embedding, options.sides, scratch_, notes_);
  written_.head = rounded_to(m.head, options.sides, scratch_, notes_);
}

void slim_writer::add_scratch(std::string name, std::string type, std::vector<index_t> shape,
                              std::span<std::byte const> bytes) {
  std::uint64_t const offset = scratch_.reserve(bytes.size());
  scratch_.write(offset, bytes);
  fnv_hash hash;
  hash.add(bytes);
  hashes_[name] = hash.text();
  tensors_.push_back({std::move(name), std::move(type), std::move(shape), offset, bytes.size()});
}

/// A tensor of the source, byte for byte.
void slim_writer::add_plain(slim::tensor_info const& tensor) {
  listed_[tensor.name] = listed(tensor.name, tensor.stored_type, tensor.shape);
  fnv_hash hash;
  hash.add(tensor.bytes);
  drop_pages(tensor.bytes);
  hashes_[tensor.name] = hash.text();
  tensors_.push_back(plain_tensor(tensor));
}

std::string slim_writer::source_name(std::string const& linear) const {
  return source_names_.contains(linear) ? linear : tensor_of(linear);
}

/// The matrix of a linear in its tensor, which may stack several.
void slim_writer::add_source_slice(linear const& l) {
  std::string const name = source_name(l.name);
  auto const& all = source_.tensors;
  auto const found = std::find_if(all.begin(), all.end(), [&](auto const& tensor) { return tensor.name == name; });
  slim::tensor_info slice = *found;
  slice.name = l.name;
  slice.shape = {l.d_out(), l.d_in()};
  if (name != l.name) {
    std::size_t const size = found->bytes.size() / static_cast<std::size_t>(found->size() / slice.size());
    slice.bytes = found->bytes.subspan(std::stoul(l.name.substr(name.size() + 1)) * size, size);
  }
  add_plain(slice);
}

void slim_writer::add(block const& b, packed_weights const& layers) {
  for (linear const& l : b.linears) {
    linears_[source_name(l.name)].push_back(l.name);
    auto const found = layers.find(l.name);
    if (found == layers.end()) {
      add_source_slice(l);
      continue;
    }
    weights_[l.name] = {hash_of_floats(l.weight.view()), {l.name, l.role, l.d_out(), l.d_in()}};
    listed_[l.name] = listed(l.name, std::string(coded_type), {l.d_out(), l.d_in()});
    for_each_part(l.name, found->second, [&](std::string const& name, std::string const& type, auto shape, auto const& bytes) {
      bool const codes = type == "U8";
      auto const stored = stored_codes(bytes, codes && entropy_coded_);
      if (codes) shape = {static_cast<index_t>(stored.size())};
      bytes_.resident += static_cast<double>(bytes.size());
      bytes_.in_file += static_cast<double>(stored.size());
      add_scratch(name, type, std::move(shape), stored);
    });
  }
}

double slim_writer::finish() {
  for (auto const& [name, content] : source_.files) {
    auto const bytes = std::as_bytes(std::span(content));
    add_scratch(in_container(name), "U8", {static_cast<index_t>(bytes.size())}, bytes);
  }
  auto const rounded_of = [&](std::string const& name) -> slim::tensor_info const* {
    for (stored_matrix const* const m : {&written_.embedding, &written_.head})
      if (auto const* const tensor = m->tensor(); tensor && tensor->name == name) return tensor;
    return nullptr;
  };
  auto list = nlohmann::json::array();
  for (auto const& tensor : source_.tensors) {
    if (tensor.name == repeated_head_) continue;
    if (auto const found = linears_.find(tensor.name); found != linears_.end()) {
      for (std::string const& name : found->second) list.push_back(listed_.at(name));
      continue;
    }
    auto const* const small = rounded_of(tensor.name);
    add_plain(small ? *small : tensor);
    list.push_back(listed_.at(tensor.name));
  }
  auto const metadata = metadata_of(source_.fingerprint(), recipe_, list, entropy_coded_, hashes_);
  std::filesystem::path unverified = out_;
  unverified += ".new";
  save_scratch_tensors(unverified, std::move(tensors_), scratch_, metadata);
  verify(unverified);
  std::error_code error;
  std::filesystem::rename(unverified, out_, error);
  if (error) throw input_error(out_.string() + ": cannot be written: " + error.message());
  slim::sync_folder(out_.parent_path());
  return static_cast<double>(std::filesystem::file_size(out_));
}

/// What is read from the file is what was evaluated.
void slim_writer::verify(std::filesystem::path const& written) const {
  auto const fail = [&](std::string const& what) {
    throw input_error(written.string() + ": was written and read again, and " + what +
                      ": do not use it. The disk may be at fault, or the program is");
  };
  auto const file = required(slim_container::open(written));
  if (std::string const damage = file.find_damage(); !damage.empty()) fail(damage);
  for (auto const& [name, added] : weights_) {
    linear l;
    l.name = name;
    l.weight = matrix<float>(added.second.d_out, added.second.d_in);
    use_packed(l, file.linears()->layer(name), std::nullopt);
    if (hash_of_floats(l.weight.view()) != added.first) fail("the weights of '" + name + "' are not those that were evaluated");
  }
}

double slim_file_bytes(slim_source const& source, model const& m, nlohmann::json const& recipe, slim_options const& options,
                       std::function<packed_layer const&(linear_info const&)> const& layer_of) {
  std::map<std::string, std::vector<linear_info>> linears;
  for (linear_info const& l : linears_of(m)) linears[tensor_of(l.name)].push_back(l);
  std::vector<scratch_tensor> tensors;
  auto list = nlohmann::json::array();
  auto hashes = nlohmann::json::object();
  auto const add = [&](std::string const& name, char const* type, std::vector<index_t> shape, auto const& bytes) {
    tensors.push_back({name, type, std::move(shape), 0, bytes.size()});
    hashes[name] = fnv_hash().text();
  };
  for (auto const& [name, content] : source.files)
    add(in_container(name), "U8", {static_cast<index_t>(content.size())}, content);
  for (slim::tensor_info tensor : source.tensors) {
    if (tensor.name == m.repeated_head) continue;
    if (auto const found = linears.find(tensor.name); found != linears.end()) {
      for (linear_info const& l : found->second) {
        for_each_part(l.name, layer_of(l), add);
        list.push_back(listed(l.name, std::string(coded_type), {l.d_out, l.d_in}));
      }
      continue;
    }
    if (auto const side = options.sides.find(tensor.name); side != options.sides.end()) {
      tensor.stored_type = slim::name_of(side->second);
      tensor.bytes = {tensor.bytes.data(), bytes_in(tensor, side->second)}; // their number alone is looked at
    }
    tensors.push_back(plain_tensor(tensor));
    hashes[tensor.name] = fnv_hash().text();
    list.push_back(listed(tensor.name, tensor.stored_type, tensor.shape));
  }
  auto const header = order_and_describe(tensors, metadata_of(fnv_hash().text(), recipe, list, options.entropy_coded, hashes),
                                         "the .slim file");
  double bytes = 8 + static_cast<double>(header.size());
  for (auto const& tensor : tensors) bytes += static_cast<double>(tensor.size);
  return bytes;
}

linear_bytes recode_slim(slim_container const& file, std::filesystem::path const& out, bool entropy_coded) {
  auto const& stored = file.stored();
  scratch_file scratch(folder_of(out));
  std::vector<scratch_tensor> tensors;
  auto hashes = nlohmann::json::object();
  linear_bytes bytes;
  for (slim::tensor_info const& tensor : stored.tensors()) {
    scratch_tensor copy{tensor.name, tensor.stored_type, tensor.shape, 0, tensor.bytes.size(), tensor.bytes};
    fnv_hash hash;
    bool const linear = file.is_of_linear(tensor.name);
    if (linear && tensor.stored_type == "U8") {
      auto packed = packed_in(stored, tensor);
      bytes.resident += static_cast<double>(packed.size());
      auto const again = stored_codes(std::move(packed), entropy_coded);
      copy = {tensor.name, "U8", {static_cast<index_t>(again.size())}, scratch.reserve(again.size()), again.size()};
      scratch.write(copy.offset, again);
      hash.add(again);
    } else {
      hash.add(tensor.bytes);
      if (linear) bytes.resident += static_cast<double>(tensor.bytes.size());
    }
    if (linear) bytes.in_file += static_cast<double>(copy.size);
    hashes[tensor.name] = hash.text();
    tensors.push_back(std::move(copy));
  }
  auto metadata = stored.metadata();
  metadata["version"] = version_of(entropy_coded);
  hashes[std::string(slim_format::metadata)] = hash_of_metadata(metadata);
  metadata["hashes"] = hashes.dump();
  std::filesystem::path unverified = out;
  unverified += ".new";
  save_scratch_tensors(unverified, std::move(tensors), scratch, metadata);
  auto const again = required(slim_container::open(unverified));
  std::string damage = again.find_damage();
  for (slim::tensor_info const& tensor : stored.tensors())
    if (damage.empty() && file.is_of_linear(tensor.name) &&
        packed_in(again.stored(), *again.stored().find(tensor.name)) != packed_in(stored, tensor))
      damage = "tensor '" + tensor.name + "' is another";
  if (!damage.empty())
    throw input_error(unverified.string() + ": was written and read again, and " + damage + ": do not use it");
  std::error_code error;
  std::filesystem::rename(unverified, out, error);
  if (error) throw input_error(out.string() + ": cannot be written: " + error.message());
  slim::sync_folder(out.parent_path());
  return bytes;
}

} // namespace slim_llm
