#pragma once
/// @file
/// Second half of loading, common to all formats: a configuration, the family's list of tensors, and the tensors themselves
/// become a model.

#include "models/family.hpp"

#include "slim/core/result.hpp"
#include "slim/io/tensor.hpp"

#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace slim_llm {

/// How positions are turned into angles.
struct rope_settings {
  enum class scaling { none, linear, llama3 };
  double theta = 10000;
  scaling kind = scaling::none;
  double factor = 1; ///< linear and llama3: positions (or low frequencies) are divided by this
  double low_frequency_factor = 1, high_frequency_factor = 4; ///< llama3
  double original_context = 8192;                             ///< llama3
};

/// Angle per position of pair j = 0 .. head_dim / 2 - 1. Source: transformers, modeling_rope_utils.py.
[[nodiscard]] std::vector<double> rope_frequencies(rope_settings const& rope, index_t head_dim);

/// The tensors of one file or folder, by name. Remembers the first thing that went wrong; from then on everything it hands
/// out is empty, so that callers check once, at the end.
class tensor_source {
public:
  explicit tensor_source(std::string file) : file_(std::move(file)) {}

  /// The bytes that `tensors` show must outlive this object.
  void add(std::span<slim::tensor_info const> tensors);
  [[nodiscard]] bool has(std::string const& name) const { return tensors_.contains(name); }
  /// Shape of a tensor, outermost first; empty if it is not there.
  [[nodiscard]] std::vector<index_t> shape_of(std::string const& name) const;

  /// The tensor as it lies in the file; it is certain that it can be read as a matrix of this shape.
  [[nodiscard]] slim::tensor_info find(std::string const& name, index_t rows, index_t cols);
  [[nodiscard]] matrix<float> read(std::string const& name, index_t rows, index_t cols);
  [[nodiscard]] std::vector<float> read_vector(std::string const& name, index_t size);
  /// The tensor is known and not needed.
  void ignore(std::string const& name) { used_.insert(name); }

  void fail(std::string const& reason);
  [[nodiscard]] bool failed() const { return !why_.empty(); }
  /// First failure, or the name of a tensor that nobody took; empty if all is well.
  [[nodiscard]] std::string why() const;

private:
  [[nodiscard]] slim::tensor_info const* require(std::string const& name);

  std::string file_;
  std::unordered_map<std::string, slim::tensor_info> tensors_;
  std::unordered_set<std::string> used_;
  std::string why_;
};

/// Checks that the numbers of a configuration make sense together; the reason if not.
[[nodiscard]] std::string why_not_valid(model_config const& config);

/// Finds everything the model needs in `source`. `config` must be valid. Linears of the blocks, the embedding and the head stay
/// in the file, which `file` keeps open.
[[nodiscard]] slim::result<model> assemble(model_config config, tensor_layout const& layout, tensor_source& source,
                                           std::shared_ptr<void const> file);

} // namespace slim_llm
