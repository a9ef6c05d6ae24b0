#pragma once
/// @file
/// What an export may do, and what it did.

#include "formats/export_source.hpp"

#include "slim/io/gguf/writer.hpp"

#include <filesystem>

namespace slim_llm {

struct export_options {
  std::optional<slim::tensor_type> embeddings = {}; ///< of embedding and head in folders; none: the smallest exact one
  bool allow_lossy = false; ///< numbers that the format does not hold are rounded, and the report says so
  index_t max_rank = 0;     ///< adapters of a higher rank are refused; 0: none are
};

/// Bytes by what they are for, and what was not exact.
struct export_report {
  double linear_bytes = 0, adapter_bytes = 0, other_bytes = 0;
  double embedding_bytes = 0; ///< of embedding and head, which other_bytes counts, too
  index_t rounded_layers = 0; ///< linears that are not bit for bit what was packed
  double largest_change = 0;  ///< of a linear: relative Frobenius norm of what rounding changed
  std::string most_changed;   ///< the linear
  std::vector<std::string> notes;

  /// Compares what is written of a linear with what was packed.
  void compare(std::string const& name, matrix<float> const& written, matrix<float> const& packed);
};

/// The values of codes. O(elements)
[[nodiscard]] matrix<float> values_of(slim::integer_codes const& codes);

/// Whether all numbers of a matrix are numbers of a format.
[[nodiscard]] bool holds(slim::number_format format, matrix<float> const& values);

/// The failure as input_error.
void require_done(slim::status const& done);

/// Writes a GGUF file under another name, lets `verify` read it, and only then gives it its name. @throws input_error
void write_verified(slim::gguf_writer const& writer, std::filesystem::path const& out,
                    std::function<void(slim::gguf_file const&)> const& verify);

/// Values read back from a written file against those that should be in it. @throws input_error naming tensor and place.
void require_same(std::filesystem::path const& file, std::string const& tensor, matrix<float> const& found,
                  matrix<float> const& expected);

} // namespace slim_llm
