#include "formats/export_report.hpp"

#include <cmath>

namespace slim_llm {

void export_report::compare(std::string const& name, matrix<float> const& written, matrix<float> const& packed) {
  if (written == packed) return;
  double change = 0, size = 0;
  for (index_t k = 0; k < packed.size(); ++k) {
    double const w = static_cast<double>(packed.data()[k]), d = static_cast<double>(written.data()[k]) - w;
    change += d * d;
    size += w * w;
  }
  double const relative = size > 0 ? std::sqrt(change / size) : 1.0;
  ++rounded_layers;
  if (relative < largest_change) return;
  largest_change = relative;
  most_changed = name;
}

matrix<float> values_of(slim::integer_codes const& codes) {
  matrix<float> values(codes.rows(), codes.cols());
  codes.dequantize_into(values.view());
  return values;
}

bool holds(slim::number_format format, matrix<float> const& values) {
  for (index_t k = 0; k < values.size(); ++k)
    if (slim::rounded_to(format, values.data()[k]) != values.data()[k]) return false;
  return true;
}

void require_done(slim::status const& done) {
  if (!done) throw input_error(done.why());
}

void write_verified(slim::gguf_writer const& writer, std::filesystem::path const& out,
                    std::function<void(slim::gguf_file const&)> const& verify) {
  std::filesystem::path draft = out;
  draft += ".unverified";
  require_done(writer.write(draft));
  std::error_code error;
  try {
    verify(required(slim::gguf_file::open(draft)));
    std::filesystem::rename(draft, out, error);
  } catch (...) {
    std::filesystem::remove(draft, error);
    throw;
  }
  if (error) throw input_error(out.string() + ": cannot be written: " + error.message());
}

void require_same(std::filesystem::path const& file, std::string const& tensor, matrix<float> const& found,
                  matrix<float> const& expected) {
  bool const shaped = found.rows() == expected.rows() && found.cols() == expected.cols();
  for (index_t k = 0; k < expected.size() && shaped; ++k)
    if (!(found.data()[k] == expected.data()[k]))
      throw input_error(slim::message(file.string(), ": read back, '", tensor, "' has ", found.data()[k], " in row ",
                                      k / expected.cols(), ", column ", k % expected.cols(), ", ", expected.data()[k],
                                      " was written"));
  if (!shaped) throw input_error(file.string() + ": read back, '" + tensor + "' has another shape");
}

} // namespace slim_llm
