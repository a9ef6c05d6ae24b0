#pragma once
/// @file
/// `pack_device`: a compressed layer as the bytes that GPU kernels run on, and `unpack_device`, their reader
/// (docs/formats/device.md).

#include "slim/kernels/cuda/device_layout.hpp"
#include "slim/kernels/packed_linear.hpp"

#include <algorithm>
#include <concepts>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// A layer for the GPU. The bytes are what slim::cuda::device_linear takes, in a .cu file.
struct device_bytes {
  std::vector<std::byte> bytes;
  std::vector<std::string> notes; ///< what the kernels run otherwise than it was compressed: pruned weights as zeros, say
};

/// How numbers that have no codes are stored: what the type of X will be.
struct device_options {
  number_format numbers = number_format::fp16; ///< fp16 or bf16

  /// @throws config_error
  void check() const {
    if (numbers == number_format::fp32)
      throw config_error("slim::pack_device: numbers in fp32, the kernels have fp16 and bf16");
  }
};

namespace detail {

inline void set_bits(std::byte* atom, device_place place, unsigned value) noexcept {
  std::uint32_t word;
  std::memcpy(&word, atom + place.offset, sizeof word);
  word |= value << place.bit;
  std::memcpy(atom + place.offset, &word, sizeof word);
}

[[nodiscard]] inline unsigned bits_at(std::byte const* atom, device_place place, int bits) noexcept {
  std::uint32_t word;
  std::memcpy(&word, atom + place.offset, sizeof word);
  return word >> place.bit & ((1u << bits) - 1u);
}

/// Places of a kind, worked out once at run time: as constants they cost whoever includes this header more than its parsing.
template <device_kind K>
struct dense_places {
  struct place {
    std::uint16_t offset;
    std::uint8_t bit;
    bool together; ///< all bits in one word
  };
  place at[device_atom_rows][device_atom_cols] = {};

  dense_places() {
    for (int row = 0; row < device_atom_rows; ++row)
      for (int col = 0; col < device_atom_cols; ++col) {
        device_place const first = dense_place(K, row, col, 0);
        at[row][col] = {static_cast<std::uint16_t>(first.offset), static_cast<std::uint8_t>(first.bit),
                        dense_place(K, row, col, 1).offset == first.offset};
      }
  }
};
template <device_kind K>
[[nodiscard]] dense_places<K> const& places_of_dense() {
  static dense_places<K> const places;
  return places;
}

template <device_kind K>
void set_dense(dense_places<K> const& places, std::byte* atom, int row, int col, unsigned value) noexcept {
  auto const& place = places.at[row][col];
  if (place.together) return set_bits(atom, {place.offset, place.bit}, value);
  for (int b = 0; b < stored_bits(K); ++b) set_bits(atom, dense_place(K, row, col, b), value >> b & 1u);
}

template <device_kind K>
[[nodiscard]] unsigned dense_at(dense_places<K> const& places, std::byte const* atom, int row, int col) noexcept {
  auto const& place = places.at[row][col];
  if (place.together) return bits_at(atom, {place.offset, place.bit}, stored_bits(K));
  unsigned value = 0;
  for (int b = 0; b < stored_bits(K); ++b) value |= bits_at(atom, dense_place(K, row, col, b), 1) << b;
  return value;
}

/// The same of 2:4: both codes and the positions of a group.
struct sparse_places {
  device_place code[device_atom_rows][device_atom_cols / 4][2] = {}, position[device_atom_rows][device_atom_cols / 4] = {};

  sparse_places() {
    for (int row = 0; row < device_atom_rows; ++row)
      for (int group = 0; group < device_atom_cols / 4; ++group) {
        for (int slot = 0; slot < 2; ++slot) code[row][group][slot] = sparse_code_place(row, group, slot);
        position[row][group] = sparse_position_place(row, group);
      }
  }
};
[[nodiscard]] inline sparse_places const& places_of_sparse() {
  static sparse_places const places;
  return places;
}

/// f<K>() for a kind that is not sparse24.
template <class F>
void with_dense_kind(device_kind kind, F const& f) {
  switch (kind) {
  case device_kind::dense2: return f.template operator()<device_kind::dense2>();
  case device_kind::dense3: return f.template operator()<device_kind::dense3>();
  case device_kind::dense4: return f.template operator()<device_kind::dense4>();
  default: return f.template operator()<device_kind::fp16>(); // numbers of both formats lie in the same places
  }
}

/// A finite number that the format holds as it is, or what is wrong with it.
[[nodiscard]] inline std::uint16_t device_scale(float scale, std::string_view what, index_t row, index_t group) {
  if (!is_finite(scale))
    throw nonfinite_error(
        message("slim::pack_device: the scale of row ", row, ", group ", group, " of the ", what, " is ", scale));
  fp16 const half(scale);
  if (!(static_cast<float>(half) == scale))
    throw config_error(message("slim::pack_device: the scale ", scale, " of row ", row, ", group ", group, " of the ", what,
                               " is no fp16 number; quantize with scale_format fp16"));
  return half.bits;
}

/// The bits of a number in fp16 or bf16. @throws config_error where it overflows
[[nodiscard]] inline std::uint16_t device_number(float x, number_format format, std::string_view what, index_t i, index_t j) {
  float const stored = rounded_to(format, x);
  if (is_finite(x) && !is_finite(stored))
    throw config_error(message("slim::pack_device: number (", i, ", ", j, ") of the ", what, " is ", x,
                               ", above the largest of ", name_of(format)));
  return format == number_format::fp16 ? fp16(x).bits : bf16(x).bits;
}

/// One matrix on its way into atoms. `what` names it in messages.
struct device_matrix {
  std::string_view what;
  device_layout layout;
  integer_codes const* codes = nullptr; ///< unless it holds numbers
  mask const* kept = nullptr;           ///< of sparse24
  matrix_view<float const> values = {}; ///< unless it holds codes

  [[nodiscard]] device_part part() const noexcept {
    return {.kind = layout.kind,
            .zeros = static_cast<std::uint8_t>(layout.zeros),
            .group = static_cast<std::uint32_t>(layout.group)};
  }

  /// Fills byte_size() bytes that are 0.
  void put(std::byte* out, context const& ctx) const {
    ctx.parallel_for(layout.atoms(), 1, [&](index_t begin, index_t end) {
      for (index_t a = begin; a < end; ++a)
        for (index_t k = 0; k < layout.depth(); ++k) put_atom(out + layout.atom_offset(a, k), a, k);
    });
    if (!layout.row_scales() || layout.cols == 0) return;
    for (index_t i = 0; i < layout.rows; ++i) {
      float const scale = codes->scale_at(i, 0);
      if (!is_finite(scale))
        throw nonfinite_error(message("slim::pack_device: the scale of row ", i, " of the ", what, " is ", scale));
      std::memcpy(out + layout.row_scales_offset() + 4 * i, &scale, sizeof scale);
      if (layout.zeros) out[layout.row_zeros_offset() + i] = zero_of(i, 0);
    }
  }

private:
  [[nodiscard]] std::byte zero_of(index_t i, index_t j) const noexcept {
    return static_cast<std::byte>(codes->zero_at(i, j) + (1 << (stored_bits(layout.kind) - 1)));
  }

  void put_atom(std::byte* atom, index_t a, index_t k) const {
    index_t const first_row = a * device_atom_rows, first_col = k * device_atom_cols;
    int const rows = static_cast<int>(std::min<index_t>(device_atom_rows, layout.rows - first_row));
    int const cols = static_cast<int>(std::min<index_t>(device_atom_cols, layout.cols - first_col));
    if (layout.kind == device_kind::sparse24) {
      for (int r = 0; r < device_atom_rows; ++r)
        for (int g = 0; g < device_atom_cols / 4; ++g) put_group(atom, r, g, first_row, first_col);
    } else {
      with_dense_kind(layout.kind, [&]<device_kind K>() {
        dense_places<K> const& places = places_of_dense<K>();
        for (int r = 0; r < rows; ++r)
          for (int c = 0; c < cols; ++c) set_dense<K>(places, atom, r, c, dense_of<K>(first_row + r, first_col + c));
      });
    }
    for (int s = 0; s < layout.sets(); ++s) {
      index_t const col = first_col + s * (device_atom_cols / layout.sets());
      for (int r = 0; r < rows && col < layout.cols; ++r) {
        std::uint16_t const scale = device_scale(codes->scale_at(first_row + r, col), what, first_row + r, col / layout.group);
        std::memcpy(atom + layout.scales_offset(s) + 2 * r, &scale, sizeof scale);
        if (layout.zeros) atom[layout.zeros_offset(s) + r] = zero_of(first_row + r, col);
      }
    }
  }

  template <device_kind K>
  [[nodiscard]] unsigned dense_of(index_t i, index_t j) const {
    if constexpr (has_codes(K))
      return static_cast<unsigned>(codes->codes(i, j) + (1 << (stored_bits(K) - 1)));
    else
      return device_number(values(i, j), layout.kind == device_kind::fp16 ? number_format::fp16 : number_format::bf16, what, i,
                           j);
  }

  /// Two entries: what is kept, then columns behind the end, then the lowest columns that are free.
  void put_group(std::byte* atom, int r, int g, index_t first_row, index_t first_col) const {
    index_t const i = first_row + r, first = first_col + 4 * g;
    bool taken[4] = {};
    int count = 0;
    auto const take = [&](int p) {
      if (count < 2 && !taken[p]) {
        taken[p] = true;
        ++count;
      }
    };
    auto const inside = [&](int p) { return i < layout.rows && first + p < layout.cols; };
    for (int p = 0; p < 4; ++p)
      if (inside(p) && kept->kept(i, first + p)) take(p);
    for (int p = 0; p < 4; ++p)
      if (!inside(p)) take(p);
    for (int p = 0; p < 4; ++p) take(p);
    sparse_places const& places = places_of_sparse();
    unsigned positions = 0;
    for (int p = 0, slot = 0; p < 4; ++p) {
      if (!taken[p]) continue;
      bool const real = inside(p) && kept->kept(i, first + p);
      set_bits(atom, places.code[r][g][slot], static_cast<unsigned>((real ? codes->codes(i, first + p) : 0) + 8));
      positions |= static_cast<unsigned>(p) << (2 * slot++);
    }
    set_bits(atom, places.position[r][g], positions);
  }
};

/// Zero points that the kernels can subtract: from the lowest code to one above the highest (GPTQ stores such a one).
inline void require_device_zeros(integer_codes const& codes, int bits, std::string_view what) {
  int const half = 1 << (bits - 1);
  for (index_t b = 0; b < codes.zeros.rows(); ++b)
    for (index_t g = 0; g < codes.zeros.cols(); ++g)
      if (codes.zeros(b, g) < -half || codes.zeros(b, g) > half)
        throw config_error(message("slim::pack_device: zero point ", int{codes.zeros(b, g)}, " of the ", what, " (block ", b,
                                   ", ", g, "), possible are ", -half, " to ", half, " with ", bits, " bits"));
}

/// The layout of codes. @throws config_error with the reason if there is no atom for them.
[[nodiscard]] inline device_layout device_layout_of(integer_codes const& codes, bool sparse, std::string_view what) {
  auto const refuse = [&](auto const&... why) { throw config_error(message("slim::pack_device: the ", what, " ", why...)); };
  if (codes.bits > 4) refuse("has codes of ", codes.bits, " bits, the GPU's kernels have at most 4");
  if (!codes.offsets.empty()) refuse("has real offsets, the GPU's kernels have integer zero points only");
  if (!codes.channel_factors.empty()) refuse("has channel factors, the GPU's kernels have none");
  device_layout out{.zeros = !codes.zeros.empty(), .rows = codes.rows(), .cols = codes.cols()};
  out.kind = sparse            ? device_kind::sparse24
             : codes.bits <= 2 ? device_kind::dense2
             : codes.bits == 3 ? device_kind::dense3
                               : device_kind::dense4;
  require_device_zeros(codes, stored_bits(out.kind), what);
  index_t const group = codes.block.cols_of(codes.cols());
  if (group >= codes.cols()) return out;
  if (group != 32 && group != 64 && group % device_atom_cols != 0)
    refuse("has groups of ", group, " columns, possible are 32, 64 and multiples of 128");
  out.group = static_cast<int>(group);
  return out;
}

/// The parts of a layer, and its bytes.
class device_packer {
public:
  device_packer(device_options const& options, context const& ctx) : options_(options), ctx_(ctx) { options.check(); }

  /// Codes, on a mask unless it is null.
  void add(integer_codes const& codes, mask const* kept, std::string_view what) {
    codes.check_codes("slim::pack_device", kept);
    bool const sparse = kept && keeps_two_of_four(*kept) && codes.symmetric() && codes.bits <= 4;
    if (sparse || !kept) {
      parts_.push_back({.what = what, .layout = device_layout_of(codes, sparse, what), .codes = &codes, .kept = kept});
      return;
    }
    if (!codes.has_zero())
      throw config_error(message("slim::pack_device: the ", what,
                                 " is pruned to no 2:4 pattern, and its codes have no 0 that pruned "
                                 "weights could be stored as"));
    notes_.push_back(
        message("the ", what, " runs dense, with zeros where it is pruned: the kernels have 2:4 without zero points only"));
    integer_codes& dense = pruned_.emplace_back(codes);
    dense.prune(*kept);
    parts_.push_back({.what = what, .layout = device_layout_of(dense, false, what), .codes = &dense});
  }

  /// Numbers, rows x cols.
  void add(matrix<float> values, std::string_view what) {
    device_kind const kind = options_.numbers == number_format::fp16 ? device_kind::fp16 : device_kind::bf16;
    matrix<float> const& own = values_.emplace_back(std::move(values));
    parts_.push_back({.what = what, .layout = {.kind = kind, .rows = own.rows(), .cols = own.cols()}, .values = own.view()});
  }

  void note(std::string what) { notes_.push_back(std::move(what)); }
  [[nodiscard]] number_format numbers() const noexcept { return options_.numbers; }

  /// Of one part (the weight), or three (L^T, the weight, R^T).
  [[nodiscard]] device_bytes packed() {
    bool const adapted = parts_.size() == 3;
    device_matrix const& weight = parts_[adapted ? 1 : 0];
    device_header header{.rows = extent(weight.layout.rows), .cols = extent(weight.layout.cols), .weight = weight.part()};
    if (adapted) {
      header.rank = extent(parts_[0].layout.rows);
      header.left = parts_[0].part();
      header.right = parts_[2].part();
    }
    if (std::string const why = why_not(header); !why.empty()) throw config_error(message("slim::pack_device: ", why));
    device_layer_layout const layout(header);
    header.bytes = static_cast<std::uint64_t>(layout.byte_size());
    device_bytes out{.bytes = std::vector<std::byte>(header.bytes), .notes = std::move(notes_)};
    std::memcpy(out.bytes.data(), &header, sizeof header);
    std::byte* at = out.bytes.data() + sizeof header;
    for (device_matrix const& part : parts_) {
      part.put(at, ctx_);
      at += part.layout.byte_size();
    }
    return out;
  }

private:
  [[nodiscard]] static std::uint32_t extent(index_t n) {
    if (n > index_t{most_device_extent})
      throw config_error(message("slim::pack_device: an extent of ", n, ", possible are up to 2^31 - 1"));
    return static_cast<std::uint32_t>(n);
  }

  device_options options_;
  context const& ctx_;
  std::vector<device_matrix> parts_;
  std::deque<integer_codes> pruned_; // which keep their addresses
  std::deque<matrix<float>> values_;
  std::vector<std::string> notes_;
};

inline void add_weight(device_packer& to, integer_codes const& codes, mask const* kept) { to.add(codes, kept, "weight"); }
inline void add_weight(device_packer& to, plain_values const& plain, mask const* kept) {
  matrix<float> values = plain.values;
  if (kept) {
    kept->check("slim::pack_device", values.rows(), values.cols());
    kept->apply_to(values.view());
    to.note("the weight runs dense, with zeros where it is pruned: the kernels leave out pruned weights of codes only");
  }
  bool const exact =
      std::all_of(values.data(), values.data() + values.size(), [&](float x) { return rounded_to(to.numbers(), x) == x; });
  if (!exact) to.note(message("the weight is rounded to ", name_of(to.numbers())));
  to.add(std::move(values), "weight");
}

} // namespace detail

/// A layer as bytes for the GPU, from what pack_linear takes: codes (or numbers), on a mask unless `kept` is null, and an
/// adapter unless `low_rank` is null. Codes of at most 4 bits; scales of groups are fp16 numbers; groups have 32, 64 or a
/// multiple of 128 columns, or whole rows. What keeps at most two of four columns and has no zero points runs as 2:4; other
/// masks run dense with zeros, and a note says so. O(d_out d_in).
/// @throws shape_error, config_error if parts do not fit each other or there is no atom for them; nonfinite_error
template <class Codes>
  requires std::same_as<Codes, integer_codes> || std::same_as<Codes, plain_values>
[[nodiscard]] device_bytes pack_device(Codes const& codes, mask const* kept, adapter const* low_rank,
                                       device_options const& options = {}, context const& ctx = {}) {
  detail::device_packer packer(options, ctx);
  if (low_rank) low_rank->check("slim::pack_device", codes.rows(), codes.cols());
  if (!low_rank || low_rank->rank() == 0) {
    detail::add_weight(packer, codes, kept);
    return packer.packed();
  }
  adapter const& a = *low_rank;
  std::optional<integer_codes> left, right;
  if (a.left_codes) left = transposed(*a.left_codes);
  if (a.right_codes) right = transposed(*a.right_codes);
  auto const add_factor = [&](std::optional<integer_codes> const& factor, mask const* factor_kept, matrix<float> const& values,
                              std::string_view what) {
    if (factor) return packer.add(*factor, factor_kept, what);
    if (options.numbers != a.format)
      packer.note(message("the ", what, " is rounded from ", name_of(a.format), " to ", name_of(options.numbers)));
    packer.add(matrix<float>(transposed(values.view())), what);
  };
  add_factor(left, a.left_mask ? &*a.left_mask : nullptr, a.left, "adapter's left factor");
  detail::add_weight(packer, codes, kept);
  add_factor(right, nullptr, a.right, "adapter's right factor");
  return packer.packed();
}

/// The same of what `compress` returns, with types known or erased. @throws the same; config_error if the layer's codes are of
/// a kind that the GPU's kernels do not read (code books, outliers beside them, a basis of their own, a type of yours).
template <class Layer>
  requires requires(Layer const& layer) {
    layer.weight.codes;
    layer.weight.mask_or_null();
    layer.adapter;
  }
[[nodiscard]] device_bytes pack_device(Layer const& layer, device_options const& options = {}, context const& ctx = {}) {
  auto const& codes = layer.weight.codes;
  mask const* const kept = layer.weight.mask_or_null();
  adapter const* const low_rank = detail::part_or_null(layer.adapter);
  if constexpr (requires { pack_device(codes, kept, low_rank, options, ctx); }) {
    return pack_device(codes, kept, low_rank, options, ctx);
  } else {
    if constexpr (requires { codes.template get_if<integer_codes>(); }) {
      if (auto const* const uniform = codes.template get_if<integer_codes>())
        return pack_device(*uniform, kept, low_rank, options, ctx);
      if (auto const* const plain = codes.template get_if<plain_values>())
        return pack_device(*plain, kept, low_rank, options, ctx);
    }
    throw config_error(
        "slim::pack_device: the GPU's kernels read uniform codes and numbers; this layer has others (a code book, outliers "
        "beside codes, a basis of its own, a type that the library does not know)");
  }
}

/// What bytes of the device format hold. Packing it again gives the same bytes.
struct unpacked_device_layer {
  std::variant<integer_codes, plain_values> codes; ///< of the weight
  std::optional<slim::mask> mask;                  ///< of a 2:4 weight
  std::optional<slim::adapter> adapter;
  device_options options; ///< how numbers are stored, where there are any
};

namespace detail {

/// A matrix that is read from atoms.
struct read_device_matrix {
  std::variant<integer_codes, plain_values> codes;
  std::optional<mask> kept;
};

class device_reader {
public:
  device_reader(std::span<std::byte const> bytes, device_layout const& layout) : bytes_(bytes), layout_(layout) {}

  /// Everything, or a complaint in `why()`.
  [[nodiscard]] read_device_matrix read() {
    read_device_matrix out;
    if (!has_codes(layout_.kind)) {
      plain_values& plain = out.codes.emplace<plain_values>();
      plain.values = matrix<float>(layout_.rows, layout_.cols);
      plain.format = layout_.kind == device_kind::fp16 ? number_format::fp16 : number_format::bf16;
      read_dense([&](index_t i, index_t j, unsigned bits) {
        auto const half = static_cast<std::uint16_t>(bits);
        plain.values(i, j) = plain.format == number_format::fp16 ? static_cast<float>(fp16::from_bits(half))
                                                                 : static_cast<float>(bf16::from_bits(half));
        // Of the NaNs only those that a conversion writes: one spelling.
        std::uint16_t const again =
            plain.format == number_format::fp16 ? fp16(plain.values(i, j)).bits : bf16(plain.values(i, j)).bits;
        if (again != half) complain("number (", i, ", ", j, ") is a NaN that is never written");
      });
      return out;
    }
    int const bits = stored_bits(layout_.kind);
    bool const by_row = layout_.row_scales();
    integer_codes codes(layout_.rows, layout_.cols, bits, by_row ? per_channel : per_group(layout_.group),
                        by_row ? number_format::fp32 : number_format::fp16);
    if (layout_.zeros) codes.zeros = matrix<std::int8_t>(codes.scales.rows(), codes.scales.cols());
    read_scales(codes);
    if (layout_.kind == device_kind::sparse24) {
      out.kept.emplace(layout_.rows, layout_.cols);
      read_sparse(codes, *out.kept);
    } else {
      read_dense([&](index_t i, index_t j, unsigned field) { codes.codes(i, j) = code_of(field, bits); });
    }
    out.codes = std::move(codes);
    return out;
  }

  [[nodiscard]] std::string const& why() const noexcept { return why_; }

private:
  template <class... Parts>
  void complain(Parts const&... parts) {
    if (why_.empty()) why_ = message(parts...);
  }

  /// f(i, j, stored bits) for every weight; what pads has to be 0.
  template <class F>
  void read_dense(F const& f) {
    with_dense_kind(layout_.kind, [&]<device_kind K>() {
      dense_places<K> const& places = places_of_dense<K>();
      for_each_atom([&](std::byte const* atom, index_t first_row, index_t first_col) {
        for (int r = 0; r < device_atom_rows; ++r)
          for (int c = 0; c < device_atom_cols; ++c) {
            unsigned const bits = dense_at<K>(places, atom, r, c);
            if (first_row + r < layout_.rows && first_col + c < layout_.cols)
              f(first_row + r, first_col + c, bits);
            else if (bits != 0)
              complain("padding of row ", first_row + r, ", column ", first_col + c, " is set");
          }
      });
    });
  }

  void read_sparse(integer_codes& codes, mask& kept) {
    for_each_atom([&](std::byte const* atom, index_t first_row, index_t first_col) {
      for (int r = 0; r < device_atom_rows; ++r)
        for (int g = 0; g < device_atom_cols / 4; ++g) read_group(codes, kept, atom, r, g, first_row, first_col);
    });
  }

  void read_group(integer_codes& codes, mask& kept, std::byte const* atom, int r, int g, index_t first_row, index_t first_col) {
    index_t const i = first_row + r, first = first_col + 4 * g;
    sparse_places const& places = places_of_sparse();
    unsigned const positions = bits_at(atom, places.position[r][g], 4);
    auto const inside = [&](int p) { return i < layout_.rows && first + p < layout_.cols; };
    int const place[2] = {static_cast<int>(positions & 3u), static_cast<int>(positions >> 2)};
    if (place[0] >= place[1]) return complain("row ", i, ", columns from ", first, ": positions do not ascend");
    int behind = 0; // the place that the next filler behind the end has to have
    while (behind < 4 && inside(behind)) ++behind;
    for (int slot = 0; slot < 2; ++slot) {
      int const p = place[slot];
      std::int8_t const code = code_of(bits_at(atom, places.code[r][g][slot], 4), 4);
      if (inside(p)) {
        codes.codes(i, first + p) = code;
        kept.keep(i, first + p);
      } else if (p != behind++ || code != 0) {
        return complain("row ", i, ", columns from ", first, ": a filler is not where it has to be");
      }
    }
  }

  void read_scales(integer_codes& codes) {
    if (layout_.row_scales()) {
      for (index_t i = 0; i < layout_.atoms() * device_atom_rows; ++i) {
        float scale;
        std::memcpy(&scale, bytes_.data() + layout_.row_scales_offset() + 4 * i, sizeof scale);
        unsigned const zero =
            layout_.zeros ? static_cast<unsigned>(bytes_[static_cast<std::size_t>(layout_.row_zeros_offset() + i)]) : 0;
        put_scale(codes, i, 0, i < layout_.rows && layout_.cols > 0, scale, std::bit_cast<std::uint32_t>(scale), zero);
      }
      return;
    }
    for_each_atom([&](std::byte const* atom, index_t first_row, index_t first_col) {
      for (int s = 0; s < layout_.sets(); ++s)
        for (int r = 0; r < device_atom_rows; ++r) {
          std::uint16_t half;
          std::memcpy(&half, atom + layout_.scales_offset(s) + 2 * r, sizeof half);
          unsigned const zero = layout_.zeros ? static_cast<unsigned>(atom[layout_.zeros_offset(s) + r]) : 0;
          index_t const col = first_col + s * (device_atom_cols / layout_.sets()), i = first_row + r, g = col / layout_.group;
          bool const there = i < layout_.rows && col < layout_.cols;
          if (there && col % layout_.group != 0 &&
              (fp16(codes.scales(i, g)).bits != half || (layout_.zeros && stored_zero(codes, i, g) != zero)))
            complain("row ", i, ", columns from ", col, ": another scale or zero point than in the atom before, in one group");
          put_scale(codes, i, g, there, static_cast<float>(fp16::from_bits(half)), half, zero);
        }
    });
  }

  [[nodiscard]] unsigned stored_zero(integer_codes const& codes, index_t i, index_t g) const {
    return static_cast<unsigned>(codes.zeros(i, g) + (1 << (stored_bits(layout_.kind) - 1)));
  }

  void put_scale(integer_codes& codes, index_t i, index_t g, bool there, float scale, std::uint32_t bits, unsigned zero) {
    if (!there) {
      if (bits != 0 || zero != 0) complain("scale or zero point of row ", i, ", group ", g, ", which pads, is set");
      return;
    }
    if (!is_finite(scale)) complain("scale of row ", i, ", group ", g, " is ", scale);
    codes.scales(i, g) = scale;
    unsigned const most = 1u << stored_bits(layout_.kind);
    if (zero > most) complain("zero point of row ", i, ", group ", g, " is ", zero, ", possible are 0 to ", most);
    if (layout_.zeros)
      codes.zeros(i, g) = static_cast<std::int8_t>(static_cast<int>(std::min(zero, most)) - static_cast<int>(most / 2));
  }

  template <class F>
  void for_each_atom(F const& f) {
    for (index_t a = 0; a < layout_.atoms(); ++a)
      for (index_t k = 0; k < layout_.depth(); ++k)
        f(bytes_.data() + layout_.atom_offset(a, k), a * device_atom_rows, k * device_atom_cols);
  }

  std::span<std::byte const> bytes_;
  device_layout layout_;
  std::string why_;
};

/// Factors as pack_device takes them, from L^T and R^T.
[[nodiscard]] inline adapter adapter_of(read_device_matrix left, read_device_matrix right) {
  adapter a;
  auto const take = [&](read_device_matrix& part, matrix<float>& values, std::optional<integer_codes>& codes) {
    if (auto const* const uniform = std::get_if<integer_codes>(&part.codes)) {
      codes = transposed(*uniform);
      values = matrix<float>(codes->rows(), codes->cols());
      codes->dequantize_into(values.view());
    } else {
      auto const& plain = *std::get_if<plain_values>(&part.codes);
      values = matrix<float>(transposed(plain.values.view()));
      a.format = plain.format;
    }
  };
  take(left, a.left, a.left_codes);
  take(right, a.right, a.right_codes);
  a.left_mask = std::move(left.kept);
  return a;
}

} // namespace detail

/// Reads what pack_device wrote, and refuses all that it would not have written: one layer has one spelling. Codes of 2:4 come
/// back with 4 bits, scales of tensors as scales of rows. Memory is in proportion to the bytes. The failure says what is wrong.
[[nodiscard]] inline result<unpacked_device_layer> unpack_device(std::span<std::byte const> bytes) {
  auto const header = read_device_header(bytes);
  if (!header) return failure{header.why()};
  device_layer_layout const layout(*header);
  std::string why;
  auto const read = [&](device_layout const& of, std::int64_t offset, char const* what) {
    detail::device_reader reader(bytes.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(of.byte_size())), of);
    detail::read_device_matrix out = reader.read();
    if (why.empty() && !reader.why().empty()) why = message("device layer: ", what, ": ", reader.why());
    return out;
  };
  unpacked_device_layer out;
  auto const note_format = [&](detail::read_device_matrix const& part) {
    if (auto const* const plain = std::get_if<plain_values>(&part.codes)) out.options.numbers = plain->format;
  };
  detail::read_device_matrix weight = read(layout.weight, layout.weight_offset(), "weight");
  note_format(weight);
  out.codes = std::move(weight.codes);
  out.mask = std::move(weight.kept);
  if (header->rank > 0) {
    detail::read_device_matrix left = read(layout.left, layout.left_offset(), "left factor");
    detail::read_device_matrix right = read(layout.right, layout.right_offset(), "right factor");
    note_format(left);
    note_format(right);
    out.adapter = detail::adapter_of(std::move(left), std::move(right));
  }
  if (!why.empty()) return failure{why};
  return out;
}

} // namespace SLIM_ABI
} // namespace slim
