#pragma once
/// @file
/// Reader of GGUF, the model files of llama.cpp: versions 2 and 3, little-endian, one part. The file is mapped, its
/// directory is checked completely, and nothing is allocated out of proportion to the file. Makes every check ggml's own loader
/// makes. Source: ggml `docs/gguf.md`, `src/gguf.cpp` (d99724f2).
///
/// GGUF lists extents innermost first; tensor_info::shape is the reverse, (d_out, d_in) for a linear layer.

#include "slim/core/byte_stream.hpp"
#include "slim/io/file.hpp"

#include <bit>
#include <concepts>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Types of metadata values, with the numbers the format gives them.
enum class gguf_type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

[[nodiscard]] constexpr std::string_view name_of(gguf_type type) {
  constexpr std::string_view names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
  return names[static_cast<std::size_t>(type)];
}

/// One metadata entry as it lies in the file.
struct gguf_entry {
  std::string key;
  gguf_type type = gguf_type::u8; ///< type of the value, or of the elements of an array
  bool is_array = false;
  std::uint64_t count = 1;             ///< elements of an array
  std::span<std::byte const> elements; ///< the value itself, without type and count
  std::span<std::byte const> raw;      ///< everything behind the key, to be copied byte for byte
};

namespace detail {

/// The tensor types of ggml: number, name, block. Numbers left out were removed from the format.
struct ggml_type_row {
  std::uint32_t number;
  std::string_view name;
  block_layout block;
  tensor_type type;
};

inline constexpr ggml_type_row ggml_types[] = {
    {0, "F32", {1, 4}, tensor_type::f32},           {1, "F16", {1, 2}, tensor_type::f16},
    {2, "Q4_0", {32, 18}, tensor_type::q4_0},       {3, "Q4_1", {32, 20}, tensor_type::q4_1},
    {6, "Q5_0", {32, 22}, tensor_type::q5_0},       {7, "Q5_1", {32, 24}, tensor_type::q5_1},
    {8, "Q8_0", {32, 34}, tensor_type::q8_0},       {9, "Q8_1", {32, 36}, tensor_type::other},
    {10, "Q2_K", {256, 84}, tensor_type::q2_k},     {11, "Q3_K", {256, 110}, tensor_type::q3_k},
    {12, "Q4_K", {256, 144}, tensor_type::q4_k},    {13, "Q5_K", {256, 176}, tensor_type::q5_k},
    {14, "Q6_K", {256, 210}, tensor_type::q6_k},    {15, "Q8_K", {256, 292}, tensor_type::other},
    {16, "IQ2_XXS", {256, 66}, tensor_type::other}, {17, "IQ2_XS", {256, 74}, tensor_type::other},
    {18, "IQ3_XXS", {256, 98}, tensor_type::other}, {19, "IQ1_S", {256, 50}, tensor_type::other},
    {20, "IQ4_NL", {32, 18}, tensor_type::iq4_nl},  {21, "IQ3_S", {256, 110}, tensor_type::other},
    {22, "IQ2_S", {256, 82}, tensor_type::other},   {23, "IQ4_XS", {256, 136}, tensor_type::iq4_xs},
    {24, "I8", {1, 1}, tensor_type::other},         {25, "I16", {1, 2}, tensor_type::other},
    {26, "I32", {1, 4}, tensor_type::other},        {27, "I64", {1, 8}, tensor_type::other},
    {28, "F64", {1, 8}, tensor_type::f64},          {29, "IQ1_M", {256, 56}, tensor_type::other},
    {30, "BF16", {1, 2}, tensor_type::bf16},        {34, "TQ1_0", {256, 54}, tensor_type::other},
    {35, "TQ2_0", {256, 66}, tensor_type::other},   {39, "MXFP4", {32, 17}, tensor_type::other},
};

[[nodiscard]] constexpr ggml_type_row const* find_ggml_type(std::uint32_t number) {
  for (ggml_type_row const& row : ggml_types)
    if (row.number == number) return &row;
  return nullptr;
}

[[nodiscard]] constexpr ggml_type_row const* find_ggml_type(tensor_type type) {
  for (ggml_type_row const& row : ggml_types)
    if (row.type == type && type != tensor_type::other) return &row;
  return nullptr;
}

/// Bytes of one element of a metadata type; 0 for strings and arrays, whose size is in the file.
[[nodiscard]] constexpr std::uint64_t byte_size(gguf_type type) {
  switch (type) {
  case gguf_type::u8:
  case gguf_type::i8:
  case gguf_type::boolean: return 1;
  case gguf_type::u16:
  case gguf_type::i16: return 2;
  case gguf_type::u32:
  case gguf_type::i32:
  case gguf_type::f32: return 4;
  case gguf_type::u64:
  case gguf_type::i64:
  case gguf_type::f64: return 8;
  case gguf_type::string:
  case gguf_type::array: break;
  }
  return 0;
}

/// A string of GGUF: u64 length and that many bytes. Empty if it does not fit.
[[nodiscard]] inline std::string_view read_string(byte_reader& reader) noexcept {
  auto const part = reader.take(reader.read<std::uint64_t>());
  return {reinterpret_cast<char const*>(part.data()), part.size()};
}

/// Calls `visit(T)` with one stored number of a metadata type; false for strings and arrays.
template <class Visit>
bool visit_number(gguf_type type, std::byte const* at, Visit const& visit) {
  auto const load = [&](auto value) {
    std::memcpy(&value, at, sizeof(value));
    visit(value);
    return true;
  };
  switch (type) {
  case gguf_type::u8: return load(std::uint8_t{});
  case gguf_type::i8: return load(std::int8_t{});
  case gguf_type::u16: return load(std::uint16_t{});
  case gguf_type::i16: return load(std::int16_t{});
  case gguf_type::u32: return load(std::uint32_t{});
  case gguf_type::i32: return load(std::int32_t{});
  case gguf_type::u64: return load(std::uint64_t{});
  case gguf_type::i64: return load(std::int64_t{});
  case gguf_type::f32: return load(float{});
  case gguf_type::f64: return load(double{});
  case gguf_type::boolean:
  case gguf_type::string:
  case gguf_type::array: break;
  }
  return false;
}

/// Stored number -> T without loss of meaning: integers that fit, any number to a floating type. False if it does not fit.
template <class T, class U>
bool convert_metadata(U stored, T& out) {
  if constexpr (std::floating_point<T>) {
    out = static_cast<T>(stored);
    return true;
  } else if constexpr (std::integral<U>) {
    out = static_cast<T>(stored);
    return std::in_range<T>(stored);
  } else {
    return false;
  }
}

template <class T>
inline constexpr bool is_vector = false;
template <class T>
inline constexpr bool is_vector<std::vector<T>> = true;

} // namespace detail

/// An open GGUF file: directory of tensors and metadata. Copies share its bytes.
class gguf_file {
public:
  /// Maps and checks the whole directory. The failure names file, key or tensor, and reason.
  [[nodiscard]] static result<gguf_file> open(std::filesystem::path const& path) {
    result<mapped_file> map = mapped_file::open(path);
    if (!map) return failure{map.why()};
    auto const kept = std::make_shared<mapped_file const>(std::move(map).value());
    return read(kept->bytes(), path, kept);
  }

  /// The same for bytes in memory that are a whole GGUF file, perhaps inside another one. `keeps` keeps them there; it may be
  /// null if they outlive the result. `path` is what failures call them.
  [[nodiscard]] static result<gguf_file> read(std::span<std::byte const> bytes, std::filesystem::path const& path,
                                              std::shared_ptr<void const> keeps = {}) {
    gguf_file file(bytes, path, std::move(keeps));
    if (std::string why = file.parse(); !why.empty()) return failure{message(path.string(), ": ", why)};
    return file;
  }

  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }
  [[nodiscard]] std::uint32_t version() const noexcept { return version_; }
  /// Bytes each tensor's offset is a multiple of.
  [[nodiscard]] std::uint64_t alignment() const noexcept { return alignment_; }
  [[nodiscard]] std::uint64_t file_size() const noexcept { return bytes_.size(); }
  /// The whole file, in which the tensors' bytes lie.
  [[nodiscard]] std::span<std::byte const> bytes() const noexcept { return bytes_; }

  /// All tensors in file order.
  [[nodiscard]] std::vector<tensor_info> const& tensors() const noexcept { return tensors_; }
  /// The tensor of that name, or nullptr.
  [[nodiscard]] tensor_info const* find(std::string_view name) const {
    auto const at = tensor_index_.find(std::string(name));
    return at == tensor_index_.end() ? nullptr : &tensors_[at->second];
  }
  /// The tensor of that name, or a sentence naming file and tensor.
  [[nodiscard]] result<tensor_info> require(std::string_view name) const {
    if (tensor_info const* const found = find(name)) return *found;
    return failure{message(path().string(), ": there is no tensor '", name, "'")};
  }

  /// All metadata in file order.
  [[nodiscard]] std::vector<gguf_entry> const& metadata() const noexcept { return entries_; }
  [[nodiscard]] gguf_entry const* find_entry(std::string_view key) const {
    auto const at = entry_index_.find(std::string(key));
    return at == entry_index_.end() ? nullptr : &entries_[at->second];
  }
  [[nodiscard]] bool has(std::string_view key) const { return find_entry(key) != nullptr; }

  /// The value of a key as T: an integer type (any stored integer that fits), float or double (any stored number), bool,
  /// std::string, std::string_view (into the map), or a std::vector of these. Fails on a missing key and on a wrong type.
  template <class T>
  [[nodiscard]] result<T> get(std::string_view key) const {
    gguf_entry const* const entry = find_entry(key);
    if (!entry) return failure{message(path().string(), ": metadata key '", key, "' is missing")};
    T value{};
    if (!read_entry(*entry, value))
      return failure{message(path().string(), ": metadata key '", key, "' holds ",
                             entry->is_array ? "an array of " : "a value of type ", name_of(entry->type),
                             ", which is not what is needed here")};
    return value;
  }

  /// As get, but a missing key gives `fallback`. A wrong type is a failure all the same.
  template <class T>
  [[nodiscard]] result<T> get_or(std::string_view key, T fallback) const {
    if (!has(key)) return fallback;
    return get<T>(key);
  }

private:
  gguf_file(std::span<std::byte const> bytes, std::filesystem::path path, std::shared_ptr<void const> keeps)
      : bytes_(bytes), path_(std::move(path)), keeps_(std::move(keeps)) {}

  template <class T>
  static bool read_entry(gguf_entry const& entry, T& out) {
    if constexpr (detail::is_vector<T>) {
      return entry.is_array && read_array(entry, out);
    } else {
      if (entry.is_array) return false;
      detail::byte_reader reader(entry.elements);
      return read_element(entry.type, reader, out);
    }
  }

  template <class T>
  static bool read_array(gguf_entry const& entry, std::vector<T>& out) {
    detail::byte_reader reader(entry.elements);
    for (std::uint64_t k = 0; k < entry.count; ++k) {
      T element{};
      if (!read_element(entry.type, reader, element)) return false;
      out.push_back(std::move(element));
    }
    return true;
  }

  template <class T>
  static bool read_element(gguf_type type, detail::byte_reader& reader, T& out) {
    if constexpr (std::same_as<T, std::string> || std::same_as<T, std::string_view>) {
      if (type != gguf_type::string) return false;
      out = T(detail::read_string(reader));
      return !reader.failed();
    } else {
      auto const bytes = reader.take(detail::byte_size(type));
      if (reader.failed() || bytes.empty()) return false;
      if constexpr (std::same_as<T, bool>) {
        out = bytes[0] != std::byte{0};
        return type == gguf_type::boolean;
      } else {
        bool fits = false;
        return detail::visit_number(type, bytes.data(), [&](auto stored) { fits = detail::convert_metadata(stored, out); }) &&
               fits;
      }
    }
  }

  /// Fills everything from the map; the sentence of the first error, or nothing.
  std::string parse() {
    detail::byte_reader reader(bytes_);
    auto const magic = reader.take(4);
    if (reader.failed() || std::memcmp(magic.data(), "GGUF", 4) != 0) return "is not a GGUF file";
    version_ = reader.read<std::uint32_t>();
    auto const tensor_count = reader.read<std::int64_t>();
    auto const entry_count = reader.read<std::int64_t>();
    if (reader.failed()) return "is cut off inside the header";
    if (version_ != 0 && (version_ & 0xffffu) == 0) return "is a big-endian GGUF file; only little-endian ones are read";
    if (version_ < 2 || version_ > 3) return message("has GGUF version ", version_, "; versions 2 and 3 are read");
    // The smallest entry takes 14 bytes (a key of one letter, a type, a value of one byte), the smallest tensor 24.
    if (entry_count < 0 || static_cast<std::uint64_t>(entry_count) > reader.left() / 14)
      return message("claims ", entry_count, " metadata entries, more than its ", file_size(), " bytes can hold");
    for (std::int64_t k = 0; k < entry_count; ++k)
      if (std::string why = parse_entry(reader); !why.empty()) return why;
    if (std::string why = check_metadata(); !why.empty()) return why;
    if (tensor_count < 0 || static_cast<std::uint64_t>(tensor_count) > reader.left() / 24)
      return message("claims ", tensor_count, " tensors, more than its ", file_size(), " bytes can hold");
    return parse_tensors(reader, tensor_count);
  }

  std::string parse_entry(detail::byte_reader& reader) {
    gguf_entry entry;
    entry.key = detail::read_string(reader);
    if (reader.failed()) return message("is cut off inside the key of metadata entry ", entries_.size());
    if (entry.key.empty()) return message("metadata entry ", entries_.size(), " has an empty key");
    std::size_t const start = reader.position();
    auto type = reader.read<std::uint32_t>();
    entry.is_array = type == static_cast<std::uint32_t>(gguf_type::array);
    if (entry.is_array) {
      type = reader.read<std::uint32_t>();
      entry.count = reader.read<std::uint64_t>();
    }
    if (reader.failed()) return message("is cut off inside metadata key '", entry.key, "'");
    if (type > static_cast<std::uint32_t>(gguf_type::f64) || type == static_cast<std::uint32_t>(gguf_type::array))
      return message("metadata key '", entry.key, "' has ", entry.is_array ? "elements of type " : "type ", type,
                     type == static_cast<std::uint32_t>(gguf_type::array) ? " (arrays of arrays are not read)"
                                                                          : ", which does not exist");
    entry.type = static_cast<gguf_type>(type);
    std::size_t const elements_start = reader.position();
    if (!skip_elements(reader, entry.type, entry.count)) return message("is cut off inside metadata key '", entry.key, "'");
    entry.raw = bytes_.subspan(start, reader.position() - start);
    entry.elements = bytes_.subspan(elements_start, reader.position() - elements_start);
    if (!entry_index_.emplace(entry.key, entries_.size()).second) return message("metadata key '", entry.key, "' occurs twice");
    entries_.push_back(std::move(entry));
    return {};
  }

  /// False if the elements do not fit into the rest of the file.
  static bool skip_elements(detail::byte_reader& reader, gguf_type type, std::uint64_t count) {
    constexpr std::uint64_t most = std::uint64_t{1} << 30; // ggml's limit for arrays and for strings
    std::uint64_t const size = type == gguf_type::string ? 8 : detail::byte_size(type);
    if (count > most || count > reader.left() / size) return false;
    if (type != gguf_type::string) {
      (void)reader.take(count * size);
      return true;
    }
    for (std::uint64_t k = 0; k < count; ++k)
      if (detail::read_string(reader).size() > most || reader.failed()) return false;
    return true;
  }

  std::string check_metadata() {
    if (gguf_entry const* const entry = find_entry("general.alignment")) {
      std::uint32_t stored = 0;
      if (entry->is_array || entry->type != gguf_type::u32 || !read_entry(*entry, stored) || !std::has_single_bit(stored))
        return "metadata key 'general.alignment' is not a u32 that is a power of two";
      alignment_ = stored;
    }
    std::uint64_t parts = 1;
    if (gguf_entry const* const entry = find_entry("split.count"); entry && read_entry(*entry, parts) && parts > 1)
      return message("is one of ", parts, " parts of a split model; join them first (llama-gguf-split --merge)");
    return {};
  }

  std::string parse_tensors(detail::byte_reader& reader, std::int64_t count) {
    std::vector<std::uint64_t> offsets;
    std::vector<std::uint64_t> sizes;
    for (std::int64_t k = 0; k < count; ++k)
      if (std::string why = parse_tensor(reader, offsets, sizes); !why.empty()) return why;
    if (count == 0) return {};
    std::uint64_t const start = padded(reader.position());
    std::uint64_t expected = 0; // tensors lie one behind the other, each padded to the alignment
    for (std::size_t k = 0; k < tensors_.size(); ++k) {
      if (offsets[k] != expected)
        return message("tensor '", tensors_[k].name, "' begins at offset ", offsets[k], ", where ", expected, " is expected");
      if (start > file_size() || expected > file_size() - start || sizes[k] > file_size() - start - expected)
        return message("tensor '", tensors_[k].name, "' of ", sizes[k], " bytes lies beyond the end of the file");
      tensors_[k].bytes = bytes_.subspan(static_cast<std::size_t>(start + expected), static_cast<std::size_t>(sizes[k]));
      expected = padded(expected + sizes[k]);
    }
    return {};
  }

  std::string parse_tensor(detail::byte_reader& reader, std::vector<std::uint64_t>& offsets,
                           std::vector<std::uint64_t>& sizes) {
    tensor_info tensor;
    std::string_view const name = detail::read_string(reader);
    if (reader.failed()) return message("is cut off inside the name of tensor ", tensors_.size());
    if (name.size() >= 64) return message("tensor ", tensors_.size(), " has a name of ", name.size(), " bytes; 63 are allowed");
    tensor.name = name;
    auto const dimensions = reader.read<std::uint32_t>();
    if (!reader.failed() && dimensions > 4)
      return message("tensor '", tensor.name, "' has ", dimensions, " dimensions; 4 are allowed");
    std::vector<std::int64_t> extents;
    for (std::uint32_t k = 0; k < dimensions && !reader.failed(); ++k) extents.push_back(reader.read<std::int64_t>());
    auto const type = reader.read<std::uint32_t>();
    offsets.push_back(reader.read<std::uint64_t>());
    if (reader.failed()) return message("is cut off inside the description of tensor '", tensor.name, "'");
    detail::ggml_type_row const* const row = detail::find_ggml_type(type);
    if (!row) return message("tensor '", tensor.name, "' has type number ", type, ", which is not known");
    tensor.type = row->type;
    tensor.stored_type = row->name;
    tensor.shape.assign(extents.rbegin(), extents.rend());
    std::uint64_t size = 0;
    if (std::string why = byte_count(tensor, row->block, size); !why.empty()) return why;
    sizes.push_back(size);
    if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) return message("tensor '", tensor.name, "' occurs twice");
    tensors_.push_back(std::move(tensor));
    return {};
  }

  /// Bytes of a tensor, refusing negative extents, rows that are not whole blocks, and products beyond 2^62.
  static std::string byte_count(tensor_info const& tensor, block_layout block, std::uint64_t& bytes) {
    constexpr index_t most = std::numeric_limits<index_t>::max() / 2;
    index_t elements = 1;
    for (index_t const extent : tensor.shape) {
      if (extent < 0) return message("tensor '", tensor.name, "' has a negative extent ", extent);
      if (extent != 0 && elements > most / extent)
        return message("tensor '", tensor.name, "' has more elements than can be counted");
      elements *= extent;
    }
    if (tensor.cols() % block.elements != 0)
      return message("tensor '", tensor.name, "' has rows of ", tensor.cols(), " elements, not a multiple of the ",
                     block.elements, " of ", tensor.stored_type);
    if (elements / block.elements > most / block.bytes)
      return message("tensor '", tensor.name, "' has more bytes than can be counted");
    bytes = static_cast<std::uint64_t>(elements / block.elements * block.bytes);
    return {};
  }

  /// `offset` rounded up to the alignment (which is at most 2^31, and offsets stay below 2^63).
  [[nodiscard]] std::uint64_t padded(std::uint64_t offset) const noexcept {
    return (offset + alignment_ - 1) / alignment_ * alignment_;
  }

  std::span<std::byte const> bytes_;
  std::filesystem::path path_;
  std::shared_ptr<void const> keeps_;
  std::uint32_t version_ = 0;
  std::uint64_t alignment_ = 32;
  std::vector<gguf_entry> entries_;
  std::unordered_map<std::string, std::size_t> entry_index_;
  std::vector<tensor_info> tensors_;
  std::unordered_map<std::string, std::size_t> tensor_index_;
};

} // namespace SLIM_ABI
} // namespace slim
