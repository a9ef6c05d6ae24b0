#pragma once
/// @file
/// Calibrations as bytes: `save(calibration)` and `load_calibration(bytes)`, to resume, to ship, or to merge what several
/// machines have seen. Everything is kept bit for bit, tokens held out and samples included.
///
/// Format, version 1. Little-endian, nothing aligned. Head: "SLIMCALB", u32 version, u32 0. Then one record:
///
///  * u32 flags: 1 Gram matrix, 2 mean, 4 mean_abs, 8 max_abs, 16 sample_peak_mean_abs are there, 32 a record of tokens held
///    out follows; u32 0
///  * i64 x 5: channels d, outputs, tokens, zeroed activations, tokens asked for as a sample
///  * u64 x 2: sample_seed, first_token
///  * f64 x d: sums of x_j^2; then, where there, sums of x_j, sums of abs(x_j), f32 x d largest abs(x_j), f64 x d peaks
///  * f64 x d (d + 1) / 2: upper triangle of X^T X, row by row, where there
///  * f64 x d x outputs: X^T Y, row by row
///  * (u64, i64) x n, n = min(asked for, tokens): number drawn by each token of the sample, its place; places ascend
///  * f32 x n x d: the sample
///
/// The record of tokens held out comes last, of the same d, and holds out nothing itself.
///
/// Shares of one calibration (calibration_config::share) that have seen the same tokens differ in their products alone, and
/// each number of those is 0 in all shares but one: the bytes of all shares, put together by bitwise or, are the bytes of the
/// whole.

#include "slim/calibration/calibration.hpp"
#include "slim/core/byte_stream.hpp"
#include "slim/core/finite.hpp"
#include "slim/core/result.hpp"

#include <cstddef>
#include <cstring>

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Writes and reads a calibration's members.
struct calibration_bytes {
  static constexpr char magic[8] = {'S', 'L', 'I', 'M', 'C', 'A', 'L', 'B'};
  static constexpr std::uint32_t version = 1;
  static constexpr std::uint32_t gram_flag = 1, held_out_flag = 32, all_flags = 63;

  static constexpr std::int64_t most_tokens = std::int64_t{1} << 56; ///< so that counters have room for what is merged

  [[nodiscard]] static constexpr std::uint32_t flag_of(statistic what) noexcept { return 2u << static_cast<unsigned>(what); }

  /// The fixed part of a record.
  struct head {
    std::uint32_t flags, zero;
    std::int64_t channels, outputs, tokens, zeroed, samples;
    std::uint64_t sample_seed, first_token;

    [[nodiscard]] bool has(std::uint32_t flag) const noexcept { return (flags & flag) != 0; }
    [[nodiscard]] std::int64_t kept() const noexcept { return std::min(samples, tokens); }
  };
  static_assert(sizeof(head) == 64 && sizeof(token_sample::ticket) == 16);

  /// @throws nonfinite_error
  static void append(std::vector<std::byte>& out, calibration const& c) {
    std::uint32_t flags = (c.has_gram() ? gram_flag : 0) | (c.held_out() ? held_out_flag : 0);
    for (statistic const what : {statistic::mean, statistic::mean_abs, statistic::max_abs, statistic::sample_peak_mean_abs})
      if (c.knows(what)) flags |= flag_of(what);
    append_bytes(out, head{flags, 0, c.channels_, c.config_.outputs, c.tokens_, c.zeroed_, c.config_.samples,
                           c.config_.sample_seed, c.config_.first_token});
    append_numbers<double>(out, c.sum_square_, "the sum of squares");
    append_numbers<double>(out, c.sum_, "the sum");
    append_numbers<double>(out, c.sum_abs_, "the sum of magnitudes");
    append_numbers<float>(out, c.max_abs_, "the largest magnitude");
    append_numbers<double>(out, c.peak_mean_abs_, "the peak");
    for (index_t i = 0; i < c.gram_.rows(); ++i)
      append_numbers<double>(out, {c.gram_.row(i) + i, static_cast<std::size_t>(c.channels_ - i)}, "the Gram matrix");
    append_numbers<double>(out, {c.cross_.data(), static_cast<std::size_t>(c.cross_.size())}, "the moment with the outputs");
    for (token_sample::ticket const& drawn : c.sample_.tickets()) append_bytes(out, drawn);
    matrix<float> const& rows = c.sample_.rows();
    append_numbers<float>(out, {rows.data(), static_cast<std::size_t>(rows.size())}, "the sample");
    if (c.held_out()) append(out, *c.held_out());
  }

  /// Reads a record into c; what is wrong with it, or nothing. `channels`: of the record before, or -1.
  static std::string read(byte_reader& reader, calibration& c, std::int64_t channels = -1) {
    head const h = reader.read<head>();
    if (std::string why = check(h, reader, channels); !why.empty()) return why;
    c = calibration(h.channels, {.gram = h.has(gram_flag),
                                 .outputs = h.outputs,
                                 .samples = h.samples,
                                 .sample_seed = h.sample_seed,
                                 .first_token = h.first_token});
    for (statistic const what : {statistic::mean, statistic::mean_abs, statistic::max_abs, statistic::sample_peak_mean_abs})
      if (!h.has(flag_of(what))) c.forget(calibration::bit(what));
    c.tokens_ = h.tokens;
    c.zeroed_ = h.zeroed;
    double const any = -std::numeric_limits<double>::infinity();
    if (!read_numbers<double>(reader, c.sum_square_, 0.0, h)) return bad("sum of squares");
    if (!read_numbers<double>(reader, c.sum_, any, h)) return bad("sum");
    if (!read_numbers<double>(reader, c.sum_abs_, 0.0, h)) return bad("sum of magnitudes");
    if (!read_numbers<float>(reader, c.max_abs_, 0.0, h)) return bad("largest magnitude");
    if (!read_numbers<double>(reader, c.peak_mean_abs_, 0.0, h)) return bad("peak");
    for (index_t i = 0; i < c.gram_.rows(); ++i) {
      std::span<double> const row(c.gram_.row(i) + i, static_cast<std::size_t>(c.channels_ - i));
      if (!read_numbers<double>(reader, row, any, h) || row[0] < 0.0) return bad("Gram matrix");
      for (index_t j = i + 1; j < c.channels_; ++j) c.gram_(j, i) = c.gram_(i, j);
    }
    if (!read_numbers<double>(reader, {c.cross_.data(), static_cast<std::size_t>(c.cross_.size())}, any, h))
      return bad("moment with the outputs");
    if (!read_sample(reader, c, h)) return bad("sample");
    if (!h.has(held_out_flag)) return {};
    if (channels >= 0) return "its tokens held out hold out others";
    calibration held_out(0);
    if (std::string why = read(reader, held_out, h.channels); !why.empty()) return message("tokens held out: ", why);
    c.hold_out(std::move(held_out));
    return {};
  }

private:
  static std::string bad(char const* what) { return message("it has a number that cannot be in its ", what); }

  /// Whether the fixed part makes sense and the bytes behind it are enough for all that it promises.
  static std::string check(head const& h, byte_reader const& reader, std::int64_t channels) {
    if (reader.failed()) return "it ends inside a record's head";
    if ((h.flags & ~all_flags) != 0 || h.zero != 0) return message("its flags are ", h.flags, ", which are not all known");
    if (h.channels < 0 || h.outputs < 0 || h.tokens < 0 || h.zeroed < 0 || h.samples < 0) return "it has a negative size";
    if (h.tokens > most_tokens || h.zeroed > most_tokens) return message("it counts ", h.tokens, " tokens");
    if (channels >= 0 && h.channels != channels)
      return message("it has ", h.channels, " channels where ", channels, " are expected");
    auto left = static_cast<std::uint64_t>(reader.left());
    auto const fits = [&](std::int64_t rows, std::int64_t cols, std::uint64_t bytes_each) {
      auto const a = static_cast<std::uint64_t>(rows), b = static_cast<std::uint64_t>(cols);
      if (a != 0 && b > left / bytes_each / a) return false;
      left -= a * b * bytes_each;
      return true;
    };
    std::int64_t const d = h.channels, half = d / 2 + d % 2, odd = d % 2 == 0 ? d + 1 : d; // half * odd = d (d + 1) / 2
    if (!fits(d, 1, 8) || (h.has(flag_of(statistic::mean)) && !fits(d, 1, 8)) ||
        (h.has(flag_of(statistic::mean_abs)) && !fits(d, 1, 8)) || (h.has(flag_of(statistic::max_abs)) && !fits(d, 1, 4)) ||
        (h.has(flag_of(statistic::sample_peak_mean_abs)) && !fits(d, 1, 8)) || (h.has(gram_flag) && !fits(half, odd, 8)) ||
        !fits(d, h.outputs, 8) || !fits(h.kept(), 1, 16) || !fits(h.kept(), d, 4))
      return message("it is shorter than ", d, " channels, ", h.outputs, " outputs and ", h.kept(), " kept tokens take");
    return {};
  }

  template <class T>
  static void append_numbers(std::vector<std::byte>& out, std::span<T const> numbers, char const* what) {
    for (T const x : numbers)
      if (!detail::is_finite(x)) throw nonfinite_error(message("save: ", what, " of the calibration is ", x));
    auto const bytes = std::as_bytes(numbers);
    out.insert(out.end(), bytes.begin(), bytes.end());
  }

  /// False if a number is not finite, below `lowest`, or not 0 where no tokens were seen.
  template <class T>
  static bool read_numbers(byte_reader& reader, std::span<T> numbers, double lowest, head const& h) {
    auto const bytes = reader.take(numbers.size_bytes());
    if (reader.failed()) return false;
    if (!bytes.empty()) std::memcpy(numbers.data(), bytes.data(), bytes.size());
    for (T const x : numbers)
      if (!detail::is_finite(x) || static_cast<double>(x) < lowest || (h.tokens == 0 && x != T{})) return false;
    return true;
  }

  static bool read_sample(byte_reader& reader, calibration& c, head const& h) {
    std::vector<token_sample::ticket> tickets;
    for (std::int64_t k = 0; k < h.kept(); ++k) {
      auto const drawn = reader.read<token_sample::ticket>();
      if (drawn.place < (tickets.empty() ? 0 : tickets.back().place + 1) || drawn.place >= h.tokens) return false;
      tickets.push_back(drawn);
    }
    matrix<float> rows(h.kept(), h.channels);
    double const any = -std::numeric_limits<double>::infinity();
    if (!read_numbers<float>(reader, {rows.data(), static_cast<std::size_t>(rows.size())}, any, h)) return false;
    c.sample_ = token_sample(std::move(tickets), std::move(rows));
    return true;
  }
};

} // namespace detail

/// A calibration as bytes, see the head of this file: 8 bytes per number, half of the symmetric Gram matrix.
/// @throws nonfinite_error if a statistic is not finite (activations let through by context::on_nonfinite, or a Gram matrix
/// that overflowed): no bytes hold such numbers.
[[nodiscard]] inline std::vector<std::byte> save(calibration const& calib) {
  std::vector<std::byte> out;
  for (char const c : detail::calibration_bytes::magic) out.push_back(static_cast<std::byte>(c));
  detail::append_bytes(out, detail::calibration_bytes::version);
  detail::append_bytes(out, std::uint32_t{0});
  detail::calibration_bytes::append(out, calib);
  return out;
}

/// What save() wrote, or one sentence why these bytes are none. No byte is trusted: sizes are held against the bytes that are
/// there before memory is taken, at most some three times as much as there are bytes. Whatever is read saves to the same bytes.
[[nodiscard]] inline result<calibration> load_calibration(std::span<std::byte const> bytes) {
  auto const refuse = [](std::string const& why) { return failure{message("these bytes are no calibration: ", why)}; };
  using format = detail::calibration_bytes;
  detail::byte_reader reader(bytes);
  auto const magic = reader.take(sizeof(format::magic));
  auto const version = reader.read<std::uint32_t>(), zero = reader.read<std::uint32_t>();
  if (reader.failed() || std::memcmp(magic.data(), format::magic, sizeof(format::magic)) != 0)
    return refuse("they do not begin with SLIMCALB, a version and 0");
  if (version != format::version || zero != 0)
    return refuse(message("they have version ", version, ".", zero, "; known is ", format::version, ".0"));
  calibration calib(0);
  if (std::string why = format::read(reader, calib); !why.empty()) return refuse(why);
  if (reader.left() > 0) return refuse(message(reader.left(), " bytes follow its end"));
  return calib;
}

} // namespace SLIM_ABI
} // namespace slim
