#pragma once
/// @file
/// Second half of loading, common to all formats: a configuration, the family's list of tensors, and the tensors themselves
/// become a model.

#include "models/family.hpp"

#include "slim/core/result.hpp"
#include "slim/io/tensor.hpp"

#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace slim_llm {

/// stored_type of a tensor whose numbers are codes, which are read elsewhere.
inline constexpr std::string_view coded_type = "codes";

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

  /// The tensor as it lies in the file; it is certain that it can be read as a matrix of this shape, or that it is codes of
  /// one.
  [[nodiscard]] slim::tensor_info find(std::string const& name, index_t rows, index_t cols);
  [[nodiscard]] matrix<float> read(std::string const& name, index_t rows, index_t cols);
  [[nodiscard]] std::vector<float> read_vector(std::string const& name, index_t size);
  /// The matrix of a linear in tensor `name`, which stacks those of several. Its name is the tensor's with "[slice]" behind. It
  /// may also be a tensor of that name.
  [[nodiscard]] slim::tensor_info find_slice(std::string const& name, linear_tensor const& l);
  /// Tensors whose names begin so are no part of what is read; a note says how many there are.
  void leave_out(std::vector<std::string> const& prefixes);
  /// The tensor is known and not needed.
  void ignore(std::string const& name) { used_.insert(name); }
  /// The tensor contradicts the configuration, as `reason` says.
  void deny(std::string const& name, std::string const& reason);

  /// A tensor of a block that the configuration does not count contradicts it: prefix + number + ".", numbers from `number` on.
  void deny_blocks_from(std::string const& prefix, index_t number);

  void fail(std::string const& reason);
  [[nodiscard]] bool failed() const { return !why_.empty(); }
  [[nodiscard]] std::string const& why() const { return why_; }

  void note(std::string const& sentence) { notes_.push_back(file_ + ": " + sentence); }
  [[nodiscard]] std::vector<std::string> const& notes() const { return notes_; }

  /// Looks at the tensors that nobody took. Those that cannot change a result (buffers of rotary positions, empty ones, whole
  /// numbers) are passed over with a note; any other is a failure.
  void settle_unused();
  /// Fails on the first number of the tensors that were taken that is NaN or infinite as a float, with tensor, row and column.
  /// O(all their elements); in parallel.
  void check_numbers(context const& ctx = {});

private:
  [[nodiscard]] slim::tensor_info const* require(std::string const& name);

  std::string file_;
  std::unordered_map<std::string, slim::tensor_info> tensors_;
  std::unordered_set<std::string> used_, left_out_;
  std::vector<std::string> notes_;
  std::string why_;
};

/// Checks that the numbers of a configuration make sense together; the reason if not.
[[nodiscard]] std::string why_not_valid(model_config const& config);

/// Finds everything the model needs in `source`. `config` must be valid. Linears of the blocks, the embedding and the head stay
/// in the file, which `file` keeps open. Blocks have zeros where a linear is stored as codes: model::read_block has to be
/// wrapped.
[[nodiscard]] slim::result<model> assemble(model_config config, tensor_layout const& layout, tensor_source& source,
                                           std::shared_ptr<void const> file);

} // namespace slim_llm
