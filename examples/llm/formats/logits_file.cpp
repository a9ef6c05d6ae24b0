#include "formats/logits_file.hpp"

#include "run/input_error.hpp"
#include "run/memory.hpp"

#include "slim/core/byte_stream.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

namespace slim_llm {
namespace {

constexpr std::string_view magic = "_logits_";

} // namespace

bool is_logits_file(std::filesystem::path const& path) {
  std::string begin(magic.size(), '\0');
  return std::ifstream(path, std::ios::binary).read(begin.data(), static_cast<std::streamsize>(begin.size())) && begin == magic;
}

slim::result<logits_file> logits_file::open(std::filesystem::path const& path) {
  auto map = slim::mapped_file::open(path);
  if (!map) return slim::failure{map.why()};
  logits_file file(std::move(map).value());
  if (std::string const why = file.parse(); !why.empty()) return slim::failure{path.string() + ": " + why};
  return file;
}

std::string logits_file::parse() {
  slim::detail::byte_reader reader(map_.bytes());
  auto const begin = reader.take(magic.size());
  if (reader.failed() || std::memcmp(begin.data(), magic.data(), magic.size()) != 0)
    return "is not a file of predictions (llama-perplexity --save-all-logits)";
  window_ = static_cast<index_t>(reader.read<std::uint32_t>());
  vocab_ = static_cast<index_t>(reader.read<std::int32_t>());
  windows_ = static_cast<index_t>(reader.read<std::int32_t>());
  constexpr index_t most = index_t{1} << 24;
  if (reader.failed()) return "is cut off inside its header";
  if (window_ < 3 || window_ > most || vocab_ < 1 || vocab_ > most || windows_ < 1 || windows_ > most)
    return slim::message("claims ", windows_, " windows of ", window_, " tokens and a vocabulary of ", vocab_);
  auto const size = static_cast<std::uint64_t>(windows_) *
                    (4 * static_cast<std::uint64_t>(window_) + static_cast<std::uint64_t>(rows_per_window()) * row_bytes());
  if (reader.left() != size)
    return slim::message("has ", reader.left(), " bytes behind its header, ", windows_, " windows of ", window_,
                         " tokens and a vocabulary of ", vocab_, " take ", size);
  tokens_.reserve(static_cast<std::size_t>(windows_ * window_));
  for (index_t k = 0; k < windows_ * window_; ++k) {
    tokens_.push_back(reader.read<std::int32_t>());
    if (tokens_.back() < 0 || tokens_.back() >= vocab_)
      return slim::message("token ", k, " is ", tokens_.back(), ", outside its vocabulary of ", vocab_);
  }
  return {};
}

std::span<std::byte const> logits_file::rows_of(index_t w) const {
  std::size_t const header = magic.size() + 12 + 4 * tokens_.size();
  std::size_t const size = static_cast<std::size_t>(rows_per_window()) * row_bytes();
  return map_.bytes().subspan(header + static_cast<std::size_t>(w) * size, size);
}

void logits_file::drop_window(index_t w) const { drop_pages(rows_of(w)); }

void logits_file::read_row(index_t w, index_t row, std::span<float> out) const {
  auto const bytes = rows_of(w).subspan(static_cast<std::size_t>(row) * row_bytes(), row_bytes());
  float step = 0, lowest = 0;
  std::memcpy(&step, bytes.data(), 4);
  std::memcpy(&lowest, bytes.data() + 4, 4);
  for (std::size_t j = 0; j < out.size(); ++j) {
    std::uint16_t code = 0;
    std::memcpy(&code, bytes.data() + 8 + 2 * j, 2);
    out[j] = step * static_cast<float>(code) + lowest;
  }
}

logits_writer::logits_writer(std::filesystem::path const& path, index_t window, index_t vocab, std::span<int const> tokens)
    : file_(required(slim::replacing_file::create(path))), codes_(static_cast<std::size_t>(2 * ((vocab + 1) / 2) + 4)) {
  file_.write(magic);
  file_.write_number(static_cast<std::uint32_t>(window));
  file_.write_number(static_cast<std::int32_t>(vocab));
  file_.write_number(static_cast<std::int32_t>(static_cast<index_t>(tokens.size()) / window));
  for (int const id : tokens) file_.write_number(static_cast<std::int32_t>(id));
}

void logits_writer::add_row(std::span<float const> logits) {
  constexpr float deepest = 16;
  auto const [least, most] = std::minmax_element(logits.begin(), logits.end());
  float const highest = *most, bottom = std::max(*least, highest - deepest);
  double sum = 0;
  for (float const l : logits) sum += std::exp(static_cast<double>(l - highest));
  float const lowest = static_cast<float>(static_cast<double>(bottom - highest) - std::log(sum));
  float const step = (highest - bottom) / 65535.0f;
  std::memcpy(codes_.data(), &step, 4);
  std::memcpy(codes_.data() + 2, &lowest, 4);
  float const steps_per_unit = step > 0 ? 1 / step : 0;
  for (std::size_t j = 0; j < logits.size(); ++j)
    codes_[4 + j] = logits[j] > bottom
                        ? static_cast<std::uint16_t>(std::min(std::nearbyint(steps_per_unit * (logits[j] - bottom)), 65535.0f))
                        : std::uint16_t{0};
  file_.write(std::as_bytes(std::span(codes_)));
}

void logits_writer::finish() {
  if (auto const done = file_.commit(); !done) throw input_error(done.why());
}

} // namespace slim_llm
