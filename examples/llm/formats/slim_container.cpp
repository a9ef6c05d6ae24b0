#include "formats/slim_container.hpp"

#include "formats/assemble.hpp"
#include "formats/packed_weights.hpp"
#include "run/fnv_hash.hpp"
#include "run/memory.hpp"

#include "slim/packing/entropy_coded_matrix.hpp"

namespace slim_llm {
namespace {

bool is_factor_of(std::string const& name, std::set<std::string> const& layers) {
  for (std::string_view const suffix : {".left", ".right"})
    if (name.ends_with(suffix) && layers.contains(name.substr(0, name.size() - suffix.size()))) return true;
  return false;
}

/// The row of ggml's types of that name, or null.
slim::detail::ggml_type_row const* ggml_type(std::string_view name) {
  for (auto const& row : slim::detail::ggml_types)
    if (row.name == name) return &row;
  return nullptr;
}

/// Whether the bytes of a tensor in blocks are as many as its shape asks for.
bool fits(slim::tensor_info const& tensor, slim::block_layout block) {
  return tensor.cols() % block.elements == 0 &&
         static_cast<std::uint64_t>(tensor.size() / block.elements * block.bytes) == tensor.bytes.size();
}

/// A shape whose product can be counted; false if it is none.
bool read_shape(nlohmann::json const& list, std::vector<index_t>& shape) {
  constexpr index_t most = index_t{1} << 48;
  index_t elements = 1;
  if (!list.is_array() || list.size() > 8) return false;
  for (nlohmann::json const& extent : list) {
    if (!extent.is_number_unsigned() || extent.get<std::uint64_t>() > static_cast<std::uint64_t>(most)) return false;
    shape.push_back(extent.get<index_t>());
    if (shape.back() != 0 && elements > most / shape.back()) return false;
    elements *= shape.back();
  }
  return true;
}

std::string text_of(nlohmann::json const& object, std::string_view key) {
  auto const found = object.find(std::string(key));
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

} // namespace

bool is_slim_path(std::filesystem::path const& path) { return path.extension() == ".slim"; }

slim::result<slim_container> slim_container::open(std::filesystem::path const& path) {
  auto opened = slim::safetensors_file::open(path);
  if (!opened) return slim::failure{opened.why()};
  slim_container container;
  container.file_ = std::make_shared<slim::safetensors_file const>(std::move(*opened));
  std::string why = container.read_metadata();
  if (why.empty()) why = container.add_files();
  bool const named = why.starts_with(path.string());
  if (!why.empty()) return slim::failure{named ? why : path.string() + ": " + why};
  return container;
}

std::string slim_container::read_metadata() {
  auto const& data = file_->metadata();
  auto const said = [&](char const* key) {
    auto const found = data.find(key);
    return found == data.end() ? std::string() : found->second;
  };
  if (said("format") != "slim" || said("version").empty()) return "is a safetensors file, but no compressed model of slim-llm";
  coded_ = said("version") == slim_format::coded_version;
  if (said("version") != slim_format::version && !coded_)
    return "is of version " + said("version") + " of its format; this program reads " + std::string(slim_format::version) +
           " and " + std::string(slim_format::coded_version);
  source_ = said("source");
  auto recipe = slim::parse_json(said("recipe"), "metadata 'recipe'");
  if (!recipe) return recipe.why();
  recipe_ = std::move(*recipe);
  auto const list = slim::parse_json(said("tensors"), "metadata 'tensors'");
  if (!list) return list.why();
  if (!list->is_array()) return "metadata 'tensors': is not a list";
  std::set<std::string> names, coded;
  for (nlohmann::json const& entry : *list) {
    if (std::string why = add_tensor(entry); !why.empty()) return why;
    std::string const& name = tensors_.back().name;
    if (!names.insert(name).second) return "metadata 'tensors': '" + name + "' occurs twice";
    if (tensors_.back().stored_type == coded_type) coded.insert(name);
  }
  for (auto const& tensor : file_->tensors()) {
    if (names.contains(tensor.name)) continue;
    if (is_factor_of(tensor.name, coded))
      factors_.push_back(tensor);
    else if (tensor.name.starts_with(slim_format::file_prefix))
      small_files_.emplace(tensor.name.substr(slim_format::file_prefix.size()), tensor.bytes);
    else
      return "tensor '" + tensor.name + "' is not in its list of tensors";
  }
  linears_ = std::make_shared<packed_file const>(file_, std::move(coded));
  return {};
}

/// An entry of the list of tensors, held against what is stored.
std::string slim_container::add_tensor(nlohmann::json const& entry) {
  slim::tensor_info tensor;
  tensor.name = text_of(entry, "name");
  tensor.stored_type = text_of(entry, "type");
  if (tensor.name.empty() || tensor.stored_type.empty() || !entry.contains("shape") ||
      !read_shape(entry["shape"], tensor.shape))
    return "metadata 'tensors': an entry is not a name, a type and a shape";
  auto const* const stored = file_->find(tensor.name);
  if (!stored) return "tensor '" + tensor.name + "' is missing";
  std::string const other = "tensor '" + tensor.name + "' is not stored as the list of tensors says";
  tensor.bytes = stored->bytes;
  if (tensor.stored_type == coded_type) {
    bool const coded = coded_ && slim::is_coded_matrix(stored->bytes);
    auto const header = coded ? slim::read_coded_header(stored->bytes) : slim::read_packed_header(stored->bytes);
    if (!header) return "tensor '" + tensor.name + "': " + header.why();
    if (stored->stored_type != "U8" || tensor.shape != std::vector<index_t>{header->rows, header->cols}) return other;
  } else if (tensor.stored_type == stored->stored_type) {
    if (tensor.shape != stored->shape) return other;
    tensor.type = stored->type;
  } else {
    auto const* const row = ggml_type(tensor.stored_type);
    if (!row || stored->stored_type != "U8" || !fits(tensor, row->block)) return other;
    tensor.type = row->type;
  }
  tensors_.push_back(std::move(tensor));
  return {};
}

std::string slim_container::add_files() {
  auto const header = small_files_.find(std::string(slim_format::gguf_name));
  if (header == small_files_.end()) return small_files_.contains("config.json") ? "" : "has no configuration of a model";
  auto read = slim::gguf_file::read(header->second, path() / header->first, file_);
  if (!read) return read.why();
  gguf_ = std::make_shared<slim::gguf_file const>(std::move(*read));
  small_files_.erase(header);
  return {};
}

bool slim_container::is_of_linear(std::string const& name) const {
  return linears_->names().contains(name) || is_factor_of(name, linears_->names());
}

std::string slim_container::find_damage() const {
  auto const found = file_->metadata().find("hashes");
  if (found == file_->metadata().end()) return "metadata 'hashes': is missing";
  auto const hashes = slim::parse_json(found->second, "metadata 'hashes'");
  if (!hashes) return hashes.why();
  if (text_of(*hashes, slim_format::metadata) != hash_of_metadata(file_->metadata()))
    return "metadata: are not as they were written";
  for (auto const& tensor : file_->tensors()) {
    fnv_hash hash;
    hash.add(tensor.bytes);
    drop_pages(tensor.bytes);
    if (text_of(*hashes, tensor.name) != hash.text()) return "tensor '" + tensor.name + "': is not as it was written";
  }
  return {};
}

std::string hash_of_metadata(std::map<std::string, std::string> const& metadata) {
  fnv_hash hash;
  for (auto const& [key, value] : metadata) {
    if (key == "hashes") continue;
    hash.add(std::as_bytes(std::span(key)));
    hash.add(std::as_bytes(std::span(value)));
  }
  return hash.text();
}

} // namespace slim_llm
