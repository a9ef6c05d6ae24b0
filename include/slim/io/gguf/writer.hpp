#pragma once
/// @file
/// Writer of GGUF version 3, from scratch or from a template: all metadata of a file (tokenizer included) copied byte for
/// byte, chosen tensors replaced. So a compressed model keeps all metadata that its runtime needs.

#include "slim/io/gguf/reader.hpp"
#include "slim/io/outgoing_tensor.hpp"

namespace slim {
inline namespace SLIM_ABI {

namespace detail {

template <class T>
[[nodiscard]] constexpr gguf_type gguf_type_of() {
  if constexpr (std::same_as<T, bool>)
    return gguf_type::boolean;
  else if constexpr (std::same_as<T, std::uint8_t>)
    return gguf_type::u8;
  else if constexpr (std::same_as<T, std::int8_t>)
    return gguf_type::i8;
  else if constexpr (std::same_as<T, std::uint16_t>)
    return gguf_type::u16;
  else if constexpr (std::same_as<T, std::int16_t>)
    return gguf_type::i16;
  else if constexpr (std::same_as<T, std::uint32_t>)
    return gguf_type::u32;
  else if constexpr (std::same_as<T, std::int32_t>)
    return gguf_type::i32;
  else if constexpr (std::same_as<T, std::uint64_t>)
    return gguf_type::u64;
  else if constexpr (std::same_as<T, std::int64_t>)
    return gguf_type::i64;
  else if constexpr (std::same_as<T, float>)
    return gguf_type::f32;
  else if constexpr (std::same_as<T, double>)
    return gguf_type::f64;
  else {
    static_assert(std::convertible_to<T, std::string_view>,
                  "slim: GGUF metadata holds numbers, bool, strings, and vectors of them");
    return gguf_type::string;
  }
}

template <class T>
void append_number(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

template <class T>
void append_metadata(std::string& out, T const& value) {
  if constexpr (std::same_as<T, bool>)
    out.push_back(value ? '\1' : '\0');
  else if constexpr (std::is_arithmetic_v<T>)
    append_number(out, value);
  else {
    std::string_view const text(value);
    append_number(out, static_cast<std::uint64_t>(text.size()));
    out += text;
  }
}

} // namespace detail

/// Collects metadata and tensors, then writes them in one go. Order is kept; what is replaced keeps its place.
class gguf_writer {
public:
  /// An empty file.
  gguf_writer() = default;

  /// Everything of `source`, which must stay open until the file is written. The alignment is kept.
  explicit gguf_writer(gguf_file const& source) {
    for (gguf_entry const& entry : source.metadata())
      put(entry.key, std::string(reinterpret_cast<char const*>(entry.raw.data()), entry.raw.size()));
    for (tensor_info const& tensor : source.tensors()) add(outgoing_copy(tensor));
  }

  /// Sets or replaces a metadata value: a number of fixed width, bool, string, or a vector of these. The C++ type decides
  /// the stored type: give `std::uint32_t{1}` where the format wants u32.
  template <class T>
  void set(std::string const& key, T const& value) {
    std::string raw;
    if constexpr (detail::is_vector<T>) {
      detail::append_number(raw, static_cast<std::uint32_t>(gguf_type::array));
      detail::append_number(raw, static_cast<std::uint32_t>(detail::gguf_type_of<typename T::value_type>()));
      detail::append_number(raw, static_cast<std::uint64_t>(value.size()));
      for (typename T::value_type const& element : value) detail::append_metadata(raw, element);
    } else {
      detail::append_number(raw, static_cast<std::uint32_t>(detail::gguf_type_of<T>()));
      detail::append_metadata(raw, value);
    }
    put(key, std::move(raw));
  }

  /// Removes a metadata key, if it is there.
  void erase(std::string const& key) {
    std::erase_if(entries_, [&](auto const& entry) { return entry.key == key; });
  }

  /// Appends a tensor. @throws config_error on a name that is taken or has 64 bytes or more, a type ggml does not know, or
  /// more than 4 dimensions; shape_error if source and shape do not fit.
  void add(outgoing_tensor tensor) {
    if (find(tensor.name)) throw config_error(message("gguf_writer: tensor '", tensor.name, "' is there already"));
    if (tensor.name.size() >= 64)
      throw config_error(message("gguf_writer: tensor name '", tensor.name, "' has 64 bytes or more"));
    if (tensor.shape.size() > 4)
      throw config_error(message("gguf_writer: tensor '", tensor.name, "' has more than 4 dimensions"));
    if (!row_of(tensor))
      throw config_error(message("gguf_writer: tensor '", tensor.name, "': type '", tensor.stored_type, "' is unknown"));
    detail::check_outgoing(tensor);
    tensors_.push_back(std::move(tensor));
  }

  /// Gives a tensor other numbers of the same shape (stacked matrices: below each other): floats, written as F32, F16
  /// or BF16, or bytes of any type ggml knows; views and bytes live until write, functions are called when the tensor's turn
  /// comes.
  /// @throws config_error if there is no such tensor; shape_error if the size differs.
  void replace(std::string const& name, tensor_type type, tensor_source source) {
    outgoing_tensor* const tensor = find(name);
    if (!tensor) throw config_error(message("gguf_writer: there is no tensor '", name, "' to replace"));
    outgoing_tensor changed{name, type, {}, tensor->shape, std::move(source)};
    detail::check_outgoing(changed);
    *tensor = std::move(changed);
  }

  /// Written beside `path` and renamed. Memory: the header and one computed tensor.
  [[nodiscard]] status write(std::filesystem::path const& path) const {
    result<replacing_file> file = replacing_file::create(path);
    if (!file) return failure{file.why()};
    std::uint64_t const alignment = chosen_alignment();
    file->write(std::string_view("GGUF"));
    file->write_number(std::uint32_t{3});
    file->write_number(static_cast<std::int64_t>(tensors_.size()));
    file->write_number(static_cast<std::int64_t>(entries_.size()));
    for (auto const& entry : entries_) {
      write_string(*file, entry.key);
      file->write(entry.raw);
    }
    std::uint64_t offset = 0;
    for (outgoing_tensor const& tensor : tensors_) {
      write_description(*file, tensor, offset);
      offset += (detail::outgoing_bytes(tensor) + alignment - 1) / alignment * alignment;
    }
    if (!tensors_.empty()) file->pad(alignment);
    for (outgoing_tensor const& tensor : tensors_) {
      detail::write_outgoing(*file, tensor);
      file->pad(alignment);
    }
    return file->commit();
  }

private:
  struct raw_entry {
    std::string key;
    std::string raw; // type and value, as in the file
  };

  void put(std::string const& key, std::string raw) {
    if (key.empty()) throw config_error("gguf_writer: a metadata key must not be empty");
    for (raw_entry& entry : entries_)
      if (entry.key == key) {
        entry.raw = std::move(raw);
        return;
      }
    entries_.push_back({key, std::move(raw)});
  }

  outgoing_tensor* find(std::string_view name) {
    for (outgoing_tensor& tensor : tensors_)
      if (tensor.name == name) return &tensor;
    return nullptr;
  }

  /// ggml's number and name of the type; by name for those that are only copied.
  static detail::ggml_type_row const* row_of(outgoing_tensor const& tensor) {
    if (tensor.type != tensor_type::other) return detail::find_ggml_type(tensor.type);
    for (detail::ggml_type_row const& row : detail::ggml_types)
      if (row.name == tensor.stored_type) return &row;
    return nullptr;
  }

  /// @throws config_error unless general.alignment is a u32 that is a power of two.
  std::uint64_t chosen_alignment() const {
    for (raw_entry const& entry : entries_) {
      if (entry.key != "general.alignment") continue;
      std::uint32_t type = 0;
      std::uint32_t value = 0;
      if (entry.raw.size() == 8) {
        std::memcpy(&type, entry.raw.data(), 4);
        std::memcpy(&value, entry.raw.data() + 4, 4);
      }
      if (type != static_cast<std::uint32_t>(gguf_type::u32) || !std::has_single_bit(value))
        throw config_error("gguf_writer: general.alignment must be a std::uint32_t that is a power of two");
      return value;
    }
    return 32;
  }

  static void write_string(replacing_file& file, std::string_view text) {
    file.write_number(static_cast<std::uint64_t>(text.size()));
    file.write(text);
  }

  static void write_description(replacing_file& file, outgoing_tensor const& tensor, std::uint64_t offset) {
    write_string(file, tensor.name);
    file.write_number(static_cast<std::uint32_t>(tensor.shape.size()));
    for (std::size_t k = tensor.shape.size(); k-- > 0;) file.write_number(static_cast<std::int64_t>(tensor.shape[k]));
    file.write_number(row_of(tensor)->number);
    file.write_number(offset);
  }

  std::vector<raw_entry> entries_;
  std::vector<outgoing_tensor> tensors_;
};

} // namespace SLIM_ABI
} // namespace slim
