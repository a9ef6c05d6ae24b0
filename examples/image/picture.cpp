#include "picture.hpp"

#include "input_error.hpp"

#include "slim/io/file.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string_view>
#include <vector>

namespace slim_image {
namespace {

/// The words and numbers before the pixels. Comments run from # to the end of a line.
class ppm_header {
public:
  ppm_header(std::string_view text, std::filesystem::path const& path) : text_(text), path_(path) {}

  std::string_view word() {
    for (;;) {
      while (at_ < text_.size() && is_space(text_[at_])) ++at_;
      if (at_ == text_.size() || text_[at_] != '#') break;
      while (at_ < text_.size() && text_[at_] != '\n') ++at_;
    }
    std::size_t const begin = at_;
    while (at_ < text_.size() && !is_space(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }

  index_t number(char const* what, index_t most) {
    std::string_view const digits = word();
    index_t value = 0;
    auto const [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || stop != digits.data() + digits.size() || value < 1 || value > most)
      throw input_error(
          slim::message(path_.string(), ": PPM: ", what, " is '", digits.substr(0, 40), "', possible are 1 to ", most));
    return value;
  }

  /// What lies behind the one space that ends the header.
  [[nodiscard]] std::string_view rest() const { return text_.substr(std::min(at_ + 1, text_.size())); }

private:
  static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

  std::string_view text_;
  std::filesystem::path const& path_;
  std::size_t at_ = 0;
};

void write_bytes(std::filesystem::path const& path, std::string const& header, std::vector<char> const& bytes) {
  std::ofstream out(path, std::ios::binary);
  out << header;
  out.write(bytes.data(), std::ssize(bytes));
  if (!out.flush()) throw input_error(slim::message(path.string(), ": cannot be written"));
}

} // namespace

feature_map read_ppm(std::filesystem::path const& path) {
  slim::mapped_file const file = required(slim::mapped_file::open(path));
  ppm_header header(file.text(), path);
  if (auto const magic = header.word(); magic != "P6")
    throw input_error(slim::message(path.string(), ": is no binary PPM: it does not begin with P6"));
  constexpr index_t largest_side = 1 << 15;
  index_t const width = header.number("the width", largest_side), height = header.number("the height", largest_side);
  index_t const top = header.number("the largest number", 65535), size = top < 256 ? 1 : 2;
  std::string_view const bytes = header.rest();
  if (std::ssize(bytes) != width * height * 3 * size)
    throw input_error(slim::message(path.string(), ": PPM: ", width, " x ", height, " pixels take ", width * height * 3 * size,
                                    " bytes, the file has ", bytes.size()));
  feature_map picture{height, width, slim::matrix<float>(height * width, 3)};
  for (index_t k = 0; k < picture.pixels.size(); ++k) {
    auto const byte = [&](index_t at) { return static_cast<unsigned char>(bytes[static_cast<std::size_t>(at)]); };
    int const value = size == 1 ? byte(k) : byte(2 * k) * 256 + byte(2 * k + 1);
    if (value > top) throw input_error(slim::message(path.string(), ": PPM: number ", k, " is ", value, ", above ", top));
    picture.pixels.data()[k] = static_cast<float>(value) / static_cast<float>(top);
  }
  return picture;
}

void write_picture(std::filesystem::path const& path, feature_map const& picture) {
  std::string const size = slim::message(picture.width, " ", picture.height, "\n");
  std::vector<char> bytes;
  if (path.extension() != ".pfm") {
    for (index_t k = 0; k < picture.pixels.size(); ++k)
      bytes.push_back(static_cast<char>(std::lround(255.0f * std::clamp(picture.pixels.data()[k], 0.0f, 1.0f))));
    return write_bytes(path, "P6\n" + size + "255\n", bytes);
  }
  for (index_t y = picture.height; y-- > 0;) { // from the bottom to the top
    float const* const row = picture.pixels.row(y * picture.width);
    for (index_t k = 0; k < picture.width * 3; ++k)
      for (int shift = 0; shift < 32; shift += 8)
        bytes.push_back(static_cast<char>(std::bit_cast<std::uint32_t>(row[k]) >> shift & 255u));
  }
  write_bytes(path, "PF\n" + size + "-1.0\n", bytes);
}

feature_map with_border(feature_map const& picture, index_t border) {
  index_t const height = picture.height + 2 * border, width = picture.width + 2 * border, channels = picture.pixels.cols();
  feature_map out{height, width, slim::matrix<float>(height * width, channels)};
  for (index_t y = 0; y < height; ++y)
    for (index_t x = 0; x < width; ++x) {
      index_t const from_y = std::clamp(y - border, index_t{0}, picture.height - 1);
      index_t const from_x = std::clamp(x - border, index_t{0}, picture.width - 1);
      std::copy_n(picture.pixels.row(from_y * picture.width + from_x), channels, out.pixels.row(y * width + x));
    }
  return out;
}

feature_map middle_of(feature_map const& map, index_t height, index_t width) {
  index_t const top = (map.height - height) / 2, left = (map.width - width) / 2, channels = map.pixels.cols();
  feature_map out{height, width, slim::matrix<float>(height * width, channels)};
  for (index_t y = 0; y < height; ++y)
    std::copy_n(map.pixels.row((top + y) * map.width + left), width * channels, out.pixels.row(y * width));
  return out;
}

double psnr(feature_map const& a, feature_map const& b) {
  double sum = 0;
  for (index_t k = 0; k < a.pixels.size(); ++k) {
    double const off = static_cast<double>(std::clamp(a.pixels.data()[k], 0.0f, 1.0f)) -
                       static_cast<double>(std::clamp(b.pixels.data()[k], 0.0f, 1.0f));
    sum += off * off;
  }
  return sum > 0.0 ? -10.0 * std::log10(sum / static_cast<double>(a.pixels.size())) : std::numeric_limits<double>::infinity();
}

} // namespace slim_image
