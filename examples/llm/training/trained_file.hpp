#pragma once
/// @file
/// Files of compressed models that train: whether they belong to a dense model, and writing them again.

#include "formats/slim_writer.hpp"
#include "run/workspace.hpp"

namespace slim_llm {

/// Whether `compressed` can be a compressed form of `dense`: as many blocks and linears of the same shapes. A `.slim` file must
/// have been made of it; one that does not say (it was imported) gets a note on standard error. @throws input_error
void require_form_of(workspace const& dense, workspace const& compressed);

/// A `.slim` file again, with trained layers in place of its own.
class trained_file {
public:
  /// `compressed`, a `.slim` file, must live as long; `how` is added to its recipe. @throws input_error
  trained_file(workspace const& compressed, std::filesystem::path const& out, std::string const& how);

  /// `layers` has those of the block that were codes, and may have others. Blocks come in order. @throws input_error
  void add(index_t block, packed_weights const& layers);
  /// As slim_writer::finish.
  void finish();

private:
  workspace const& compressed_;
  slim_writer writer_;
};

} // namespace slim_llm
