#pragma once
/// @file
/// Compressed layers as bytes: `save(layer)` and `load_layer(bytes)`. Everything a layer is made of, mask, codes of every kind
/// of the library, adapter and report; what is kept comes back bit for bit. Bytes: docs/formats/layer.md.

#include "slim/core/finite.hpp"
#include "slim/core/result.hpp"
#include "slim/packing/bit_fields.hpp"
#include "slim/packing/packed_header.hpp"
#include "slim/pipeline/any.hpp"
#include "slim/quantization/codes/codebook_codes.hpp"
#include "slim/quantization/codes/integer_codes.hpp"
#include "slim/quantization/codes/plain_values.hpp"
#include "slim/quantization/codes/with_outliers.hpp"

#include <cstddef>
#include <string_view>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// The first bytes of a saved layer, and the numbers of its parts.
struct layer_format {
  static constexpr char magic[8] = {'S', 'L', 'I', 'M', 'L', 'A', 'Y', 'R'};
  static constexpr std::uint32_t version = 1;
  enum kind : std::uint8_t { integer = 1, codebook = 2, plain = 3, integer_outliers = 4, codebook_outliers = 5 };
  enum flag : std::uint8_t { has_mask = 1, has_adapter = 2 };
  enum integer_flag : std::uint8_t { has_group_bits = 1, has_zeros = 2, has_offsets = 4, has_factors = 8 };
  enum book_flag : std::uint8_t { has_scales = 1, has_book_factors = 2 };
  enum adapter_flag : std::uint8_t { left_codes = 1, right_codes = 2, left_mask = 4 };
};

[[nodiscard]] inline bool is_number_of(number_format format, float value) noexcept {
  return std::bit_cast<std::uint32_t>(rounded_to(format, value)) == std::bit_cast<std::uint32_t>(value);
}

/// Appends the parts of a layer. @throws nonfinite_error, config_error, shape_error on parts that no reader would accept.
class layer_writer {
public:
  [[nodiscard]] std::vector<std::byte> take() { return std::move(out_); }

  template <class T>
  void number(T value) {
    append_bytes(out_, value);
  }

  void text(std::string const& s) {
    number(static_cast<std::uint32_t>(s.size()));
    auto const* const first = reinterpret_cast<std::byte const*>(s.data());
    out_.insert(out_.end(), first, first + s.size());
  }
  void texts(std::vector<std::string> const& all) {
    number(static_cast<std::uint32_t>(all.size()));
    for (auto const& s : all) text(s);
  }

  /// In 16 bits each where the format has 16 and holds them all, else in 32: a byte says which.
  void numbers(float const* values, index_t count, number_format format, char const* what) {
    bool narrow = bit_width(format) == 16;
    for (index_t k = 0; k < count; ++k) {
      if (!is_finite(values[k])) throw nonfinite_error(message("slim::save: ", what, " ", k, " is ", values[k]));
      narrow = narrow && is_number_of(format, values[k]);
    }
    number(static_cast<std::uint8_t>(narrow ? format : number_format::fp32));
    for (index_t k = 0; k < count; ++k)
      if (!narrow)
        number(values[k]);
      else
        number(format == number_format::bf16 ? bf16(values[k]).bits : fp16(values[k]).bits);
  }

  void block(scale_block b) {
    number(std::int64_t{b.rows});
    number(std::int64_t{b.cols});
  }

  /// Fields of a few bits, all in one row.
  template <class Field>
  void fields(index_t count, int bits, Field const& field) {
    std::byte* const room = append_room(out_, field_bytes(count, bits));
    field_writer writer(room);
    for (index_t k = 0; k < count; ++k) writer.put(field(k), bits);
    writer.end_row();
  }

  void kept(mask const& m) {
    number(static_cast<std::uint32_t>(m.pattern().n));
    number(static_cast<std::uint32_t>(m.pattern().m));
    for (index_t i = 0; i < m.rows(); ++i) fields(m.cols(), 1, [&](index_t j) { return m.kept(i, j) ? 1u : 0u; });
  }

  void table(scale_table const& t, char const* what) {
    scale_storage const& s = t.stored();
    number(static_cast<std::uint8_t>(s.format));
    number(static_cast<std::uint8_t>(s.bits));
    number(static_cast<std::uint8_t>(s.shifted ? 1 : s.centered ? 2 : 0));
    block(s.block);
    if (s.bits == 0) return numbers(t.data(), t.size(), s.format, what);
    fields(t.size(), s.bits, [&](index_t k) { return unsigned{t.codes().data()[k]}; });
    numbers(t.steps().data(), t.steps().size(), s.format, what);
    numbers(t.offsets().data(), t.offsets().size(), s.format, what);
  }

  /// Kept codes only, row by row.
  void codes(integer_codes const& c, mask const* m) {
    c.check("slim::save");
    number(static_cast<std::uint8_t>(c.bits));
    number(static_cast<std::uint8_t>(
        (c.group_bits.empty() ? 0 : layer_format::has_group_bits) | (c.zeros.empty() ? 0 : layer_format::has_zeros) |
        (c.offsets.empty() ? 0 : layer_format::has_offsets) | (c.channel_factors.empty() ? 0 : layer_format::has_factors)));
    block(c.block);
    for (std::uint8_t const bits : c.group_bits) number(bits);
    table(c.scales, "scale");
    for (index_t b = 0; b < c.zeros.rows(); ++b)
      for (index_t g = 0; g < c.zeros.cols(); ++g) number(in_bits(c.zeros(b, g), c.bits_of(g), "zero point"));
    if (!c.offsets.empty()) table(c.offsets, "offset");
    factors(c.channel_factors);
    index_t const wide = c.block.cols_of(c.cols());
    for (index_t i = 0; i < c.rows(); ++i) {
      std::int64_t bits = 0;
      for (index_t j = 0; j < c.cols(); ++j) bits += !m || m->kept(i, j) ? c.bits_of(j / wide) : 0;
      field_writer writer(append_room(out_, (bits + 7) / 8));
      for (index_t j = 0; j < c.cols(); ++j)
        if (!m || m->kept(i, j)) {
          int const width = c.bits_of(j / wide);
          writer.put(field_of(in_bits(c.codes(i, j), width, "code"), width), width);
        }
      writer.end_row();
    }
  }

  /// Codes of which a weight is kept, row by row.
  void codes(codebook_codes const& c, mask const* m) {
    c.check("slim::save");
    number(static_cast<std::uint8_t>(c.bits));
    number(static_cast<std::uint8_t>((c.scales.empty() ? 0 : layer_format::has_scales) |
                                     (c.channel_factors.empty() ? 0 : layer_format::has_book_factors)));
    number(std::int64_t{c.dim});
    block(c.book_block);
    number(static_cast<std::uint8_t>(c.book_format));
    numbers(c.books.data(), c.books.size(), c.book_format, "level");
    block(c.block);
    if (!c.scales.empty()) table(c.scales, "scale");
    factors(c.channel_factors);
    for (index_t i = 0; i < c.rows(); ++i) {
      index_t stored = 0;
      for (index_t k = 0; k < c.codes.cols(); ++k) stored += is_kept(c, m, i, k) ? 1 : 0;
      field_writer writer(append_room(out_, field_bytes(stored, c.bits)));
      for (index_t k = 0; k < c.codes.cols(); ++k)
        if (is_kept(c, m, i, k)) writer.put(c.codes(i, k), c.bits);
      writer.end_row();
    }
  }

  void codes(plain_values const& c, mask const* m) {
    number(static_cast<std::uint8_t>(c.format));
    std::vector<float> stored;
    for (index_t i = 0; i < c.rows(); ++i)
      for (index_t j = 0; j < c.cols(); ++j)
        if (!m || m->kept(i, j)) stored.push_back(c.values(i, j));
    numbers(stored.data(), std::ssize(stored), c.format, "kept weight");
  }

  template <class Base>
  void codes(with_outliers<Base> const& c, mask const* m) {
    c.check("slim::save");
    codes(c.base, m);
    sparse_residual const& r = c.outliers;
    number(static_cast<std::uint8_t>(r.format));
    for (index_t const begin : r.row_begin) number(static_cast<std::int64_t>(begin));
    for (std::int32_t const column : r.columns) number(column);
    numbers(r.values.data(), r.count(), r.format, "outlier");
  }

  void low_rank(adapter const& a) {
    number(static_cast<std::uint8_t>((a.left_codes ? layer_format::left_codes : 0) |
                                     (a.right_codes ? layer_format::right_codes : 0) |
                                     (a.left_mask ? layer_format::left_mask : 0)));
    number(static_cast<std::uint8_t>(a.format));
    number(std::int64_t{a.rank()});
    if (a.left_mask) kept(*a.left_mask);
    factor(a.left, a.left_codes, a.format);
    factor(a.right, a.right_codes, a.format);
    texts(a.notes);
  }

  void report(layer_report const& r) {
    number(static_cast<std::uint8_t>(r.exact_output_error ? 1 : 0));
    texts(r.notes);
    number(static_cast<std::uint32_t>(r.objective.size()));
    for (double const x : r.objective) number(x);
    number(static_cast<std::uint32_t>(r.steps.size()));
    for (step_report const& s : r.steps) {
      text(s.step);
      for (double const x : {s.relative_error, s.output_error, s.held_out_error, s.sparsity, s.bits_per_weight, s.seconds})
        number(x);
      number(std::int64_t{s.rank});
      texts(s.notes);
    }
  }

  /// Whether a weight that code k of row i stands for is kept.
  [[nodiscard]] static bool is_kept(codebook_codes const& c, mask const* m, index_t i, index_t k) {
    if (!m) return true;
    for (index_t j = k * c.dim; j < std::min(c.cols(), (k + 1) * c.dim); ++j)
      if (m->kept(i, j)) return true;
    return false;
  }

private:
  static std::int8_t in_bits(std::int8_t code, int bits, char const* what) {
    if (field_of(code, bits) >> bits != 0)
      throw config_error(message("slim::save: ", what, " ", int{code}, " in ", bits, " bits"));
    return code;
  }
  void factors(std::vector<float> const& all) {
    if (!all.empty()) numbers(all.data(), std::ssize(all), number_format::fp32, "channel factor");
  }
  void factor(matrix<float> const& values, std::optional<integer_codes> const& c, number_format format) {
    if (c)
      codes(*c, nullptr);
    else
      numbers(values.data(), values.size(), format, "number of a factor");
  }

  std::vector<std::byte> out_;
};

/// Reads what layer_writer wrote. The first thing that is wrong is kept as a sentence, and everything after it reads as
/// nothing.
class layer_reader {
public:
  layer_reader(std::span<std::byte const> bytes, std::int64_t weights) : reader_(bytes), weights_(weights) {}

  [[nodiscard]] bool failed() const noexcept { return reader_.failed() || !why_.empty(); }
  [[nodiscard]] std::string why() const {
    return !why_.empty() ? why_ : reader_.failed() ? message("the bytes end at ", reader_.position()) : "";
  }
  [[nodiscard]] bool at_end() const noexcept { return reader_.left() == 0; }

  template <class T>
  [[nodiscard]] T number() {
    return failed() ? T{} : reader_.read<T>();
  }

  /// A number in [low, high].
  template <class T>
  [[nodiscard]] T number_in(T low, T high, char const* what) {
    std::size_t const at = reader_.position();
    T const value = number<T>();
    if (!failed() && (value < low || value > high)) fail(at, message(what, " is ", value));
    return failed() ? low : value;
  }

  [[nodiscard]] number_format format() { return static_cast<number_format>(number_in<std::uint8_t>(0, 2, "number format")); }
  [[nodiscard]] std::uint8_t flags(int all) {
    std::size_t const at = reader_.position();
    auto const value = number<std::uint8_t>();
    if (!failed() && (value & ~all) != 0) fail(at, "a flag is set that this reader does not know");
    return value;
  }
  [[nodiscard]] scale_block block() {
    auto const rows = number_in<std::int64_t>(0, largest_extent, "block rows");
    return {.rows = rows, .cols = number_in<std::int64_t>(0, largest_extent, "block columns")};
  }

  [[nodiscard]] std::string text() {
    auto const bytes = take(number<std::uint32_t>());
    return {reinterpret_cast<char const*>(bytes.data()), bytes.size()};
  }
  [[nodiscard]] std::vector<std::string> texts() {
    std::vector<std::string> all;
    for (auto left = number<std::uint32_t>(); left > 0 && !failed(); --left) all.push_back(text());
    return all;
  }

  /// `positive`: numbers above 0. Stored in the narrow format only if that is how layer_writer would store them.
  void numbers(float* to, index_t count, number_format format, bool positive = false) {
    std::size_t const at = reader_.position();
    auto const stored = static_cast<number_format>(number_in<std::uint8_t>(0, 2, "number format"));
    if (!failed() && stored != format && stored != number_format::fp32) fail(at, "numbers of another format");
    bool all_narrow = bit_width(format) == 16;
    auto const bytes = take(count, bit_width(stored) / 8);
    if (failed()) return;
    for (index_t k = 0; k < count; ++k) {
      float value = 0;
      if (stored == number_format::fp32) {
        std::memcpy(&value, bytes.data() + 4 * k, 4);
      } else {
        std::uint16_t bits = 0;
        std::memcpy(&bits, bytes.data() + 2 * k, 2);
        value = stored == number_format::bf16 ? static_cast<float>(bf16::from_bits(bits))
                                              : static_cast<float>(fp16::from_bits(bits));
      }
      if (!is_finite(value) || (positive && !(value > 0.0f))) return fail(at, message("number ", k, " is ", value));
      all_narrow = all_narrow && is_number_of(format, value);
      to[k] = value;
    }
    if (all_narrow && stored == number_format::fp32) fail(at, "numbers in more bits than they need");
  }

  template <class Put>
  void fields(index_t count, int bits, Put const& put) {
    std::size_t const at = reader_.position();
    field_reader reader(take(field_bytes(count, bits)));
    if (failed()) return;
    for (index_t k = 0; k < count; ++k) put(k, reader.get(bits));
    if (!reader.end_row()) fail(at, "bits behind the last field are set");
  }

  [[nodiscard]] mask kept(index_t rows, index_t cols) {
    auto const n = number_in<std::uint32_t>(0, 1u << 30, "pattern"), m = number_in<std::uint32_t>(0, 1u << 30, "pattern");
    std::size_t const at = reader_.position();
    if (!failed() && (n > m || cols < 0 ||
                      reader_.left() < static_cast<std::uint64_t>(field_bytes(cols, 1)) * static_cast<std::uint64_t>(rows)))
      fail(at, "a mask that does not fit");
    if (failed()) return {0, 0};
    mask found(rows, cols, {.n = static_cast<index_t>(n), .m = static_cast<index_t>(m)});
    for (index_t i = 0; i < rows; ++i) fields(cols, 1, [&](index_t j, unsigned bit) { found.keep(i, j, bit != 0); });
    return found;
  }

  [[nodiscard]] scale_table table(index_t rows, index_t cols, bool not_negative) {
    scale_storage s;
    s.format = format();
    s.bits = number_in<std::uint8_t>(0, 8, "bits of scales");
    auto const shift = number_in<std::uint8_t>(0, s.bits > 0 ? 2 : 1, "shift of scales");
    s.shifted = shift == 1;
    s.centered = shift == 2;
    s.block = block();
    std::size_t const at = reader_.position();
    if (failed()) return {};
    scale_table found(rows, cols, s);
    if (s.bits == 0) {
      numbers(found.data(), found.size(), s.format);
    } else {
      matrix<std::uint8_t> codes(rows, cols);
      matrix<float> steps(found.steps().rows(), found.steps().cols()), offsets(found.offsets().rows(), found.offsets().cols());
      fields(codes.size(), s.bits, [&](index_t k, unsigned code) { codes.data()[k] = static_cast<std::uint8_t>(code); });
      numbers(steps.data(), steps.size(), s.format);
      numbers(offsets.data(), offsets.size(), s.format);
      if (failed()) return {};
      found.set_second_level(std::move(codes), std::move(steps), std::move(offsets));
    }
    for (index_t k = 0; k < found.size() && !failed(); ++k)
      if (float const x = found.data()[k]; !is_finite(x) || (not_negative && !(x >= 0.0f)))
        fail(at, message("scale ", k, " is ", x));
    return found;
  }

  [[nodiscard]] integer_codes integers(index_t rows, index_t cols, mask const* m) {
    int const bits = number_in<std::uint8_t>(1, 8, "bits of codes");
    auto const has = flags(15);
    scale_block const shared = block();
    std::size_t const at = reader_.position();
    if (!failed() && (has & layer_format::has_zeros) && (has & layer_format::has_offsets)) fail(at, "zero points and offsets");
    std::int64_t const tall = block_count(rows, shared.rows_of(rows)), wide = block_count(cols, shared.cols_of(cols));
    if (!failed() && static_cast<std::uint64_t>(tall * wide) > 8 * reader_.left() + 8)
      fail(at, message(tall, " x ", wide, " scales"));
    if (failed()) return {0, 0, 4, per_tensor, number_format::fp32};
    integer_codes c(rows, cols, bits, shared, number_format::fp32);
    if ((has & layer_format::has_group_bits) && wide == 0) fail(at, "bits of groups without groups");
    if (has & layer_format::has_group_bits)
      for (std::int64_t g = 0; g < wide && !failed(); ++g)
        c.group_bits.push_back(number_in<std::uint8_t>(1, static_cast<std::uint8_t>(bits), "bits of a group"));
    c.scales = table(tall, wide, true);
    if (has & layer_format::has_zeros) {
      if (!failed() && tall * wide == 0) fail(at, "zero points without scales");
      c.zeros = matrix<std::int8_t>(failed() ? 0 : tall, failed() ? 0 : wide);
      for (index_t b = 0; b < c.zeros.rows(); ++b)
        for (index_t g = 0; g < c.zeros.cols() && !failed(); ++g)
          c.zeros(b, g) = number_in<std::int8_t>(static_cast<std::int8_t>(c.lowest_of(g)),
                                                 static_cast<std::int8_t>(c.highest_of(g)), "zero point");
    }
    if (has & layer_format::has_offsets) {
      if (!failed() && tall * wide == 0) fail(at, "offsets without scales");
      c.offsets = table(tall, wide, false);
    }
    factors(c.channel_factors, (has & layer_format::has_factors) != 0, cols);
    for (index_t i = 0; i < rows && !failed(); ++i) {
      std::int64_t in_row = 0;
      index_t const group = shared.cols_of(cols);
      for (index_t j = 0; j < cols; ++j) in_row += !m || m->kept(i, j) ? c.bits_of(j / group) : 0;
      std::size_t const here = reader_.position();
      field_reader reader(take((in_row + 7) / 8));
      if (failed()) break;
      for (index_t j = 0; j < cols; ++j) {
        bool const stored = !m || m->kept(i, j);
        int const width = c.bits_of(j / group);
        c.codes(i, j) = stored ? code_of(reader.get(width), width) : static_cast<std::int8_t>(c.zero_at(i, j));
      }
      if (!reader.end_row()) fail(here, "bits behind the last code of a row are set");
    }
    return c;
  }

  [[nodiscard]] codebook_codes codebook(index_t rows, index_t cols, mask const* m) {
    int const bits = number_in<std::uint8_t>(1, 8, "bits of codes");
    auto const has = flags(3);
    auto const dim = number_in<std::int64_t>(1, 1 << 20, "columns of a code");
    scale_block const shared = block();
    auto const stored_as = format();
    std::size_t const at = reader_.position();
    if (!failed() && shared.cols % dim != 0) fail(at, "a book of parts of codes");
    std::int64_t const books = block_count(rows, shared.rows_of(rows)) * block_count(cols, shared.cols_of(cols));
    if (!failed() && static_cast<std::uint64_t>(books) * static_cast<std::uint64_t>(dim << bits) > reader_.left())
      fail(at, message(books, " books"));
    if (failed()) return {0, 0, 4};
    codebook_codes c(rows, cols, bits, shared, dim);
    c.book_format = stored_as;
    numbers(c.books.data(), c.books.size(), stored_as);
    c.block = block();
    if (has & layer_format::has_scales) {
      std::int64_t const tall = block_count(rows, c.block.rows_of(rows)), wide = block_count(cols, c.block.cols_of(cols));
      if (!failed() && (tall * wide == 0 || static_cast<std::uint64_t>(tall * wide) > 8 * reader_.left() + 8))
        fail(at, "scales that do not fit");
      if (!failed()) c.scales = table(tall, wide, true);
    }
    factors(c.channel_factors, (has & layer_format::has_book_factors) != 0, cols);
    for (index_t i = 0; i < rows && !failed(); ++i) {
      index_t stored = 0;
      for (index_t k = 0; k < c.codes.cols(); ++k) stored += layer_writer::is_kept(c, m, i, k) ? 1 : 0;
      std::size_t const here = reader_.position();
      field_reader reader(take(field_bytes(stored, bits)));
      if (failed()) break;
      for (index_t k = 0; k < c.codes.cols(); ++k)
        if (layer_writer::is_kept(c, m, i, k)) c.codes(i, k) = static_cast<std::uint8_t>(reader.get(bits));
      if (!reader.end_row()) fail(here, "bits behind the last code of a row are set");
    }
    return c;
  }

  [[nodiscard]] plain_values plain(index_t rows, index_t cols, mask const* m) {
    plain_values c;
    c.format = format();
    index_t const stored = m ? m->count() : rows * cols;
    if (failed() || !has_room(stored, 2)) return c;
    std::vector<float> values(static_cast<std::size_t>(stored));
    numbers(values.data(), stored, c.format);
    if (failed()) return c;
    c.values = matrix<float>(rows, cols);
    std::size_t next = 0;
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < cols; ++j)
        if (!m || m->kept(i, j)) c.values(i, j) = values[next++];
    return c;
  }

  [[nodiscard]] sparse_residual residual(index_t rows, index_t cols) {
    sparse_residual r;
    r.format = format();
    if (failed() || !has_room(rows + 1, 8)) return r;
    std::int64_t before = 0;
    for (index_t i = 0; i <= rows && !failed(); ++i) {
      before = number_in<std::int64_t>(before, i == 0 ? 0 : before + cols, "first outlier of a row");
      r.row_begin.push_back(before);
    }
    if (failed() || !has_room(before, 4)) return r;
    r.columns.reserve(static_cast<std::size_t>(before));
    for (std::int64_t k = 0; k < before && !failed(); ++k)
      r.columns.push_back(number_in<std::int32_t>(0, static_cast<std::int32_t>(cols - 1), "column of an outlier"));
    r.values.resize(r.columns.size());
    numbers(r.values.data(), before, r.format);
    return r;
  }

  [[nodiscard]] std::optional<any_codes> codes(std::uint8_t kind, index_t rows, index_t cols, mask const* m) {
    auto const done = [&](auto made) { return failed() ? std::nullopt : std::optional<any_codes>(std::move(made)); };
    switch (kind) {
    case layer_format::integer: return done(integers(rows, cols, m));
    case layer_format::codebook: return done(codebook(rows, cols, m));
    case layer_format::plain: return done(plain(rows, cols, m));
    case layer_format::integer_outliers: {
      auto base = integers(rows, cols, m);
      auto rest = residual(rows, cols);
      return done(with_outliers<integer_codes>{std::move(base), std::move(rest)});
    }
    default: {
      auto base = codebook(rows, cols, m);
      auto rest = residual(rows, cols);
      return done(with_outliers<codebook_codes>{std::move(base), std::move(rest)});
    }
    }
  }

  [[nodiscard]] adapter low_rank(index_t d_out, index_t d_in) {
    adapter a;
    auto const has = flags(7);
    a.format = format();
    auto const rank = number_in<std::int64_t>(0, std::max(d_out, d_in), "rank");
    if (failed() || rank * std::max(d_in, d_out) > weights_) {
      if (!failed()) fail(reader_.position(), message("rank ", rank));
      return a;
    }
    if (has & layer_format::left_mask) a.left_mask = kept(rank, d_in);
    factor(a.left, a.left_codes, (has & layer_format::left_codes) != 0, d_in, rank, a.format);
    factor(a.right, a.right_codes, (has & layer_format::right_codes) != 0, rank, d_out, a.format);
    a.notes = texts();
    return a;
  }

  [[nodiscard]] layer_report report(index_t rows, index_t cols) {
    layer_report r;
    r.rows = rows;
    r.cols = cols;
    r.exact_output_error = number_in<std::uint8_t>(0, 1, "flag of the report") != 0;
    r.notes = texts();
    for (auto left = number<std::uint32_t>(); left > 0 && !failed(); --left) r.objective.push_back(number<double>());
    for (auto left = number<std::uint32_t>(); left > 0 && !failed(); --left) {
      step_report s;
      s.step = text();
      for (double* const x :
           {&s.relative_error, &s.output_error, &s.held_out_error, &s.sparsity, &s.bits_per_weight, &s.seconds})
        *x = number<double>();
      s.rank = number<std::int64_t>();
      s.notes = texts();
      r.steps.push_back(std::move(s));
    }
    return r;
  }

  void fail(std::size_t at, std::string const& what) {
    if (why_.empty()) why_ = message("byte ", at, ": ", what);
  }

private:
  [[nodiscard]] std::span<std::byte const> take(std::int64_t count, int each = 1) {
    if (failed() || !has_room(count, each)) return {};
    return reader_.take(count * each);
  }
  /// Whether as many things of `each` bytes can follow: nothing is allocated before that.
  [[nodiscard]] bool has_room(std::int64_t count, int each) {
    if (failed()) return false;
    if (count < 0 || static_cast<std::uint64_t>(count) > reader_.left() / static_cast<std::size_t>(each))
      fail(reader_.position(), message(count, " times ", each, " bytes where ", reader_.left(), " are left"));
    return why_.empty();
  }
  void factors(std::vector<float>& to, bool there, index_t cols) {
    if (!there) return;
    if (!failed() && cols == 0) fail(reader_.position(), "channel factors without channels");
    if (!has_room(cols, 4)) return;
    to.assign(static_cast<std::size_t>(cols), 1.0f);
    numbers(to.data(), cols, number_format::fp32, true);
  }
  void factor(matrix<float>& values, std::optional<integer_codes>& codes_of, bool has_codes, index_t rows, index_t cols,
              number_format format_of) {
    if (has_codes) codes_of = integers(rows, cols, nullptr);
    if (!has_codes && !has_room(rows * cols, 2)) return;
    if (failed()) return;
    values = matrix<float>(rows, cols);
    if (has_codes)
      codes_of->dequantize_into(values.view());
    else
      numbers(values.data(), values.size(), format_of);
  }

  byte_reader reader_;
  std::int64_t weights_;
  std::string why_;
};

/// @throws shape_error, config_error unless all parts of the layer fit each other: what is saved, and what was read.
inline void check_layer(any_layer const& layer, std::string_view who) {
  layer.weight.check(who);
  if (layer.adapter) layer.adapter->check(who, layer.weight.rows(), layer.weight.cols());
}

} // namespace detail

/// The layer as bytes. @throws config_error if its codes are of a type of your own, or parts do not fit each other;
/// nonfinite_error on a number that is none.
[[nodiscard]] inline std::vector<std::byte> save(any_layer const& layer) {
  using detail::layer_format;
  detail::layer_writer out;
  for (char const c : layer_format::magic) out.number(c);
  out.number(layer_format::version);
  auto const& weight = layer.weight;
  mask const* const kept = weight.mask_or_null();
  detail::check_layer(layer, "slim::save");
  auto const write = [&](std::uint8_t kind, auto const& codes) {
    out.number(kind);
    out.number(
        static_cast<std::uint8_t>((kept ? layer_format::has_mask : 0) | (layer.adapter ? layer_format::has_adapter : 0)));
    out.number(std::int64_t{weight.rows()});
    out.number(std::int64_t{weight.cols()});
    if (kept) out.kept(*kept);
    out.codes(codes, kept);
  };
  if (auto const* c = weight.codes.get_if<integer_codes>())
    write(layer_format::integer, *c);
  else if (auto const* b = weight.codes.get_if<codebook_codes>())
    write(layer_format::codebook, *b);
  else if (auto const* p = weight.codes.get_if<plain_values>())
    write(layer_format::plain, *p);
  else if (auto const* o = weight.codes.get_if<with_outliers<integer_codes>>())
    write(layer_format::integer_outliers, *o);
  else if (auto const* q = weight.codes.get_if<with_outliers<codebook_codes>>())
    write(layer_format::codebook_outliers, *q);
  else
    throw config_error("slim::save: the layer's codes are of a type that the library does not know how to store");
  if (layer.adapter) out.low_rank(*layer.adapter);
  out.report(layer.report);
  return out.take();
}

/// The same for a layer of known types.
template <class Mask, class Codes, class Adapter>
[[nodiscard]] std::vector<std::byte> save(compressed_layer<Mask, Codes, Adapter> const& layer) {
  return save(to_any(layer));
}

/// The layer that bytes hold, or why there is none. Never reads out of bounds, and takes memory in proportion to the bytes;
/// `limit` bounds the weights of a layer whose codes take no bytes. The codes of pruned weights come back as the zero point (0
/// of a table's positions).
[[nodiscard]] inline result<any_layer> load_layer(std::span<std::byte const> bytes, unpack_limit limit = {}) {
  using detail::layer_format;
  std::int64_t const allowed = detail::weights_allowed(limit, bytes.size());
  detail::layer_reader in(bytes, allowed);
  for (char const c : layer_format::magic)
    if (in.number<char>() != c) return failure{"layer: the first eight bytes are not SLIMLAYR"};
  if (auto const version = in.number<std::uint32_t>(); version != layer_format::version)
    return failure{message("layer: format version ", version, ", this reader knows ", layer_format::version)};
  auto const kind = in.number_in<std::uint8_t>(1, 5, "kind of codes");
  auto const has = in.flags(3);
  auto const rows = in.number_in<std::int64_t>(0, detail::largest_extent, "rows"),
             cols = in.number_in<std::int64_t>(0, detail::largest_extent, "columns");
  if (in.failed()) return failure{"layer: " + in.why()};
  if (std::max<std::int64_t>(rows, 1) * std::max<std::int64_t>(cols, 1) > allowed)
    return failure{
        message("layer: ", rows, " x ", cols, ", more weights than the ", allowed, " allowed for bytes of this size")};
  std::optional<mask> kept;
  if (has & layer_format::has_mask) kept = in.kept(rows, cols);
  if (in.failed()) return failure{"layer: " + in.why()};
  auto codes = in.codes(kind, rows, cols, kept ? &*kept : nullptr);
  if (!codes) return failure{"layer: " + in.why()};
  any_layer layer{{std::move(kept), std::move(*codes)}, std::nullopt, {}};
  if (has & layer_format::has_adapter) layer.adapter = in.low_rank(rows, cols);
  layer.report = in.report(rows, cols);
  if (in.failed()) return failure{"layer: " + in.why()};
  if (!in.at_end()) return failure{"layer: there are bytes behind its end"};
  try {
    detail::check_layer(layer, "layer");
  } catch (error const& why) {
    return failure{why.what()};
  }
  return layer;
}

} // namespace SLIM_ABI
} // namespace slim
