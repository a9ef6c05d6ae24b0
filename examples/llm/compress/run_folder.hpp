#pragma once
/// @file
/// A folder with everything that a compression needs to go on after any end, a kill included.
///
///     run.json                what the run is made of: model, texts, recipe, options, version
///     NAME.json               results that are not to be computed twice
///     block-0007.safetensors  the packed linears of a block
///     state.safetensors       hidden states before the next block, in F32; metadata: blocks that are done, reports of layers
///     lock                    held by the process that works here
///
/// Every file appears complete or not at all. state.safetensors is written last: what it counts as done is there.

#include "compress/compress_model.hpp"

#include <nlohmann/json.hpp>

namespace slim_llm {

class run_folder {
public:
  /// Makes the folder, or opens it to go on. @throws input_error if another process works there; if it holds a run and `resume`
  /// is false; if it holds other files and no run; or if it cannot be written.
  run_folder(std::filesystem::path path, bool resume);
  run_folder(run_folder const&) = delete;
  run_folder& operator=(run_folder const&) = delete;
  ~run_folder();

  [[nodiscard]] std::filesystem::path const& path() const { return path_; }
  /// Holds a run that goes on against `what`, or notes it down for the first time: an object of texts and numbers.
  /// @throws input_error naming the first entry that has changed.
  void settle(nlohmann::json const& what);
  /// A result by name, or null.
  [[nodiscard]] nlohmann::json result(std::string const& name) const;
  void keep_result(std::string const& name, nlohmann::json const& value);

  /// By name, to be kept and restored with the states of the compression.
  using evaluations = std::vector<std::pair<std::string, block_evaluation*>>;
  void keep_block(index_t number, packed_weights const& layers);
  [[nodiscard]] packed_weights block(index_t number) const;
  void keep_state(compression_state& state, evaluations const& beside);
  /// Blocks that were done when the state was kept last. @throws input_error if what was kept cannot be read.
  [[nodiscard]] index_t blocks_done() const;
  /// Fills `state`; it stays as it is if nothing was kept. @throws input_error if what was kept cannot be read or lacks an
  /// evaluation.
  void restore_state(compression_state& state, evaluations const& beside, bool on_disk) const;
  /// Removes what only serves to go on.
  void clean_up();

private:
  [[nodiscard]] std::filesystem::path block_file(index_t number) const;

  std::filesystem::path path_;
  int lock_ = -1;
};

/// Reports of layers as JSON; a number that is none becomes null and NaN again.
[[nodiscard]] nlohmann::json layers_as_json(std::vector<layer_result> const& layers);
[[nodiscard]] std::vector<layer_result> layers_of_json(nlohmann::json const& list);

} // namespace slim_llm
