#pragma once
/// @file
/// Reader of safetensors, the model files of Hugging Face: one file, or a folder with one file or with shards and an index.
/// Enforces every rule of the reference reader (huggingface/safetensors `tensor.rs`), and refuses repeated names.

#include "slim/io/json.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <unordered_map>

namespace slim {
inline namespace SLIM_ABI {

namespace detail {

/// The dtypes of safetensors in the order of their alignment, which is also the writer's order, from low to high.
struct safetensors_type_row {
  std::string_view name;
  index_t bits;
  tensor_type type;
};

inline constexpr safetensors_type_row safetensors_types[] = {
    {"BOOL", 8, tensor_type::other},        {"F4", 4, tensor_type::other},          {"F6_E2M3", 6, tensor_type::other},
    {"F6_E3M2", 6, tensor_type::other},     {"U8", 8, tensor_type::other},          {"I8", 8, tensor_type::other},
    {"F8_E5M2", 8, tensor_type::other},     {"F8_E4M3", 8, tensor_type::other},     {"F8_E8M0", 8, tensor_type::other},
    {"F8_E4M3FNUZ", 8, tensor_type::other}, {"F8_E5M2FNUZ", 8, tensor_type::other}, {"I16", 16, tensor_type::other},
    {"U16", 16, tensor_type::other},        {"F16", 16, tensor_type::f16},          {"BF16", 16, tensor_type::bf16},
    {"I32", 32, tensor_type::other},        {"U32", 32, tensor_type::other},        {"F32", 32, tensor_type::f32},
    {"C64", 64, tensor_type::other},        {"F64", 64, tensor_type::f64},          {"I64", 64, tensor_type::other},
    {"U64", 64, tensor_type::other},
};

[[nodiscard]] constexpr safetensors_type_row const* find_safetensors_type(std::string_view name) {
  for (safetensors_type_row const& row : safetensors_types)
    if (row.name == name) return &row;
  return nullptr;
}

/// One entry of the header before its numbers are checked.
struct safetensors_entry {
  std::string name;
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::vector<std::uint64_t> offsets;
};

/// Reads the header as a stream of events: no document is built, nothing is allocated that is not in the text, and any
/// nesting the format does not have ends the parse.
class safetensors_header_handler {
public:
  std::vector<safetensors_entry> entries;
  std::map<std::string, std::string> metadata;
  std::string why;

  bool start_object(std::size_t) {
    if (depth_ >= 2 || (depth_ == 1 && inside_array_)) return refuse("an object too deep");
    return ++depth_, true;
  }
  bool end_object() {
    if (depth_-- == 2 && !in_metadata_) {
      auto const& entry = entries.back();
      if (entry.dtype.empty() || !seen_shape_ || entry.offsets.size() != 2)
        return refuse(message("tensor '", entry.name, "' lacks dtype, shape or data_offsets"));
    }
    return true;
  }
  bool key(std::string& text) {
    if (depth_ == 1) return begin_entry(text);
    if (in_metadata_ && metadata.contains(text)) return refuse(message("metadata key '", text, "' occurs twice"));
    field_ = text;
    if (in_metadata_) return true;
    if (text != "dtype" && text != "shape" && text != "data_offsets")
      return refuse(message("tensor '", entries.back().name, "' has an unknown field '", text, "'"));
    bool& calib = text == "dtype" ? seen_dtype_ : text == "shape" ? seen_shape_ : seen_offsets_;
    if (calib) return refuse(message("tensor '", entries.back().name, "' has two fields '", text, "'"));
    return calib = true;
  }
  bool string(std::string& text) {
    if (depth_ == 2 && in_metadata_ && !inside_array_) return metadata.emplace(field_, text), true;
    if (depth_ == 2 && field_ == "dtype" && !inside_array_) return entries.back().dtype = text, true;
    return refuse("a string in a wrong place");
  }
  bool start_array(std::size_t) {
    if (depth_ != 2 || in_metadata_ || inside_array_ || field_ == "dtype") return refuse("an array in a wrong place");
    return inside_array_ = true;
  }
  bool end_array() {
    inside_array_ = false;
    return true;
  }
  bool number_unsigned(std::uint64_t value) {
    if (!inside_array_) return refuse("a number in a wrong place");
    auto& numbers = field_ == "shape" ? entries.back().shape : entries.back().offsets;
    if (field_ == "shape" ? numbers.size() >= 32 : numbers.size() >= 2)
      return refuse(message("tensor '", entries.back().name, "' has too many numbers in its ", field_));
    return numbers.push_back(value), true;
  }
  bool number_integer(std::int64_t) { return refuse("a negative number"); }
  bool number_float(double, std::string const&) { return refuse("a number that is no integer"); }
  bool null() { return (depth_ == 1 && in_metadata_) || refuse("null in a wrong place"); } // the reference takes no metadata so
  bool boolean(bool) { return refuse("a boolean in a wrong place"); }
  bool binary(std::vector<std::uint8_t>&) { return refuse("binary data"); }
  template <class Exception>
  bool parse_error(std::size_t position, std::string const&, Exception const&) {
    return refuse(message("no valid JSON at byte ", position));
  }

private:
  bool refuse(std::string reason) {
    if (why.empty()) why = std::move(reason);
    return false;
  }
  bool begin_entry(std::string const& name) {
    if (!names_.insert(name).second) return refuse(message("the name '", name, "' occurs twice"));
    in_metadata_ = name == "__metadata__";
    field_.clear();
    seen_dtype_ = seen_shape_ = seen_offsets_ = false;
    if (!in_metadata_) entries.push_back({name, {}, {}, {}});
    return true;
  }

  int depth_ = 0;
  bool inside_array_ = false;
  bool in_metadata_ = false;
  bool seen_dtype_ = false;
  bool seen_shape_ = false;
  bool seen_offsets_ = false;
  std::string field_;
  std::set<std::string> names_;
};

} // namespace detail

/// An open safetensors file. Moved, not copied.
class safetensors_file {
public:
  /// The reference reader's bound on the header.
  static constexpr std::uint64_t max_header_bytes = 100'000'000;

  /// Maps the file and checks the whole header. The failure names file, tensor and reason.
  [[nodiscard]] static result<safetensors_file> open(std::filesystem::path const& path) {
    result<mapped_file> map = mapped_file::open(path);
    if (!map) return failure{map.why()};
    safetensors_file file(std::move(map).value());
    if (std::string why = file.parse(); !why.empty()) return failure{message(path.string(), ": ", why)};
    return file;
  }

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return map_.path(); }
  [[nodiscard]] std::uint64_t file_size() const noexcept { return map_.bytes().size(); }

  /// All tensors in the order of their bytes.
  [[nodiscard]] std::vector<tensor_info> const& tensors() const noexcept { return tensors_; }
  /// The tensor of that name, or nullptr.
  [[nodiscard]] tensor_info const* find(std::string_view name) const {
    auto const at = index_.find(std::string(name));
    return at == index_.end() ? nullptr : &tensors_[at->second];
  }
  [[nodiscard]] result<tensor_info> require(std::string_view name) const {
    if (tensor_info const* const found = find(name)) return *found;
    return failure{message(path().string(), ": there is no tensor '", name, "'")};
  }
  /// The `__metadata__` strings.
  [[nodiscard]] std::map<std::string, std::string> const& metadata() const noexcept { return metadata_; }

private:
  explicit safetensors_file(mapped_file map) : map_(std::move(map)) {}

  std::string parse() {
    std::uint64_t length = 0;
    if (file_size() < sizeof(length)) return "is too small to be a safetensors file";
    std::memcpy(&length, map_.bytes().data(), sizeof(length));
    if (length > max_header_bytes)
      return message("claims a header of ", length, " bytes; at most ", max_header_bytes, " are read");
    if (length > file_size() - sizeof(length)) return message("claims a header of ", length, " bytes, more than the file has");
    std::string_view const header = map_.text().substr(sizeof(length), static_cast<std::size_t>(length));
    if (header.empty() || header.front() != '{') return "has a header that does not begin with '{'";
    detail::safetensors_header_handler handler;
    if (!nlohmann::json::sax_parse(header.begin(), header.end(), &handler) || !handler.why.empty())
      return message("has a bad header: ", handler.why.empty() ? "no valid JSON" : handler.why);
    metadata_ = std::move(handler.metadata);
    return place(std::move(handler.entries), sizeof(length) + static_cast<std::size_t>(length));
  }

  /// Checks that the tensors tile the bytes behind the header, in some order, without hole or overlap.
  std::string place(std::vector<detail::safetensors_entry> entries, std::size_t start) {
    for (auto const& entry : entries)
      if (entry.offsets[1] < entry.offsets[0]) return message("tensor '", entry.name, "' ends before it begins");
    std::ranges::stable_sort(entries, {}, [](auto const& entry) { return std::pair(entry.offsets[0], entry.offsets[1]); });
    std::uint64_t end = 0;
    for (auto& entry : entries) {
      if (entry.offsets[0] != end)
        return message("tensor '", entry.name, "' begins at byte ", entry.offsets[0], ", where ", end, " is expected");
      end = entry.offsets[1];
      if (end > file_size() - start) return message("tensor '", entry.name, "' lies beyond the end of the file");
      if (std::string why = add(std::move(entry), start); !why.empty()) return why;
    }
    if (end != file_size() - start) return message("has ", file_size() - start - end, " bytes that belong to no tensor");
    return {};
  }

  std::string add(detail::safetensors_entry entry, std::size_t start) {
    detail::safetensors_type_row const* const row = detail::find_safetensors_type(entry.dtype);
    if (!row) return message("tensor '", entry.name, "' has dtype '", entry.dtype, "', which is not known");
    constexpr std::uint64_t most = std::uint64_t{1} << 56; // times 64 bits it still fits
    std::uint64_t elements = 1;
    tensor_info tensor;
    for (std::uint64_t const extent : entry.shape) {
      if (extent > most || (extent != 0 && elements > most / extent))
        return message("tensor '", entry.name, "' has more elements than can be counted");
      elements *= extent;
      tensor.shape.push_back(static_cast<index_t>(extent));
    }
    std::uint64_t const size = entry.offsets[1] - entry.offsets[0];
    std::uint64_t const bits = elements * static_cast<std::uint64_t>(row->bits);
    if (bits % 8 != 0 || bits / 8 != size)
      return message("tensor '", entry.name, "': its shape and dtype ", entry.dtype, " need ", bits, " bits, its offsets give ",
                     size, " bytes");
    tensor.name = std::move(entry.name);
    tensor.type = row->type;
    tensor.stored_type = std::move(entry.dtype);
    tensor.bytes = map_.bytes().subspan(start + static_cast<std::size_t>(entry.offsets[0]), static_cast<std::size_t>(size));
    index_.emplace(tensor.name, tensors_.size());
    tensors_.push_back(std::move(tensor));
    return {};
  }

  mapped_file map_;
  std::map<std::string, std::string> metadata_;
  std::vector<tensor_info> tensors_;
  std::unordered_map<std::string, std::size_t> index_;
};

/// A Hugging Face model: a folder with `model.safetensors`, or with shards and `model.safetensors.index.json`; or one file. If
/// a folder has both, the single file is the model and the index is not read: transformers looks for them in this order.
class safetensors_folder {
public:
  /// Opens and checks every shard. In a sharded model the index and the shards must name the same tensors.
  [[nodiscard]] static result<safetensors_folder> open(std::filesystem::path const& path) {
    std::error_code ignored;
    safetensors_folder folder;
    folder.path_ = path;
    if (!std::filesystem::is_directory(path, ignored)) return folder.with_single(path);
    std::filesystem::path const index = path / "model.safetensors.index.json", single = path / "model.safetensors";
    if (std::filesystem::exists(single, ignored)) {
      folder.has_unread_index_ = std::filesystem::exists(index, ignored);
      return folder.with_single(single);
    }
    if (std::filesystem::exists(index, ignored)) return folder.with_shards(index);
    return failure{message(path.string(), ": has neither model.safetensors nor model.safetensors.index.json",
                           std::filesystem::exists(path / "pytorch_model.bin", ignored)
                               ? "; pytorch_model.bin is not read, convert it to safetensors first"
                               : "")};
  }

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }
  /// The tensors of all shards, shard by shard.
  [[nodiscard]] std::vector<tensor_info> const& tensors() const noexcept { return tensors_; }
  [[nodiscard]] tensor_info const* find(std::string_view name) const {
    auto const at = index_.find(std::string(name));
    return at == index_.end() ? nullptr : &tensors_[at->second];
  }
  [[nodiscard]] result<tensor_info> require(std::string_view name) const {
    if (tensor_info const* const found = find(name)) return *found;
    return failure{message(path().string(), ": there is no tensor '", name, "'")};
  }
  [[nodiscard]] std::vector<safetensors_file> const& shards() const noexcept { return shards_; }
  /// There is an index beside the single file.
  [[nodiscard]] bool has_unread_index() const noexcept { return has_unread_index_; }

private:
  safetensors_folder() = default;

  result<safetensors_folder> with_single(std::filesystem::path const& file) {
    if (std::string why = add_shard(file); !why.empty()) return failure{std::move(why)};
    return std::move(*this);
  }

  result<safetensors_folder> with_shards(std::filesystem::path const& index) {
    result<nlohmann::json> const document = read_json(index);
    if (!document) return failure{document.why()};
    auto const bad = [&](auto const&... reason) { return failure{message(index.string(), ": ", reason...)}; };
    if (!document->is_object() || !document->contains("weight_map") || !document->at("weight_map").is_object())
      return bad("has no object 'weight_map'");
    std::map<std::string, std::size_t> tensors_of; // shard name -> how many tensors the index puts there
    for (auto const& [name, shard] : document->at("weight_map").items()) {
      if (!shard.is_string()) return bad("tensor '", name, "' is not mapped to a file name");
      std::string const file = shard.template get<std::string>();
      if (file.empty() || file == "." || file == ".." || file.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos)
        return bad("tensor '", name, "' is mapped to '", file, "', which is not a plain file name");
      ++tensors_of[file];
    }
    for (auto const& [file, count] : tensors_of) {
      if (std::string why = add_shard(path_ / file); !why.empty()) return failure{std::move(why)};
      if (shards_.back().tensors().size() != count)
        return bad("maps ", count, " tensors to ", file, ", which holds ", shards_.back().tensors().size());
      for (tensor_info const& tensor : shards_.back().tensors())
        if (auto const at = document->at("weight_map").find(tensor.name); at == document->at("weight_map").end() || *at != file)
          return bad("does not map tensor '", tensor.name, "' to ", file, ", which holds it");
    }
    return std::move(*this);
  }

  std::string add_shard(std::filesystem::path const& file) {
    result<safetensors_file> shard = safetensors_file::open(file);
    if (!shard) return shard.why();
    for (tensor_info const& tensor : shard->tensors()) {
      if (!index_.emplace(tensor.name, tensors_.size()).second)
        return message(file.string(), ": tensor '", tensor.name, "' is in another shard too");
      tensors_.push_back(tensor);
    }
    shards_.push_back(std::move(shard).value());
    return {};
  }

  bool has_unread_index_ = false;
  std::filesystem::path path_;
  std::vector<safetensors_file> shards_;
  std::vector<tensor_info> tensors_;
  std::unordered_map<std::string, std::size_t> index_;
};

} // namespace SLIM_ABI
} // namespace slim
