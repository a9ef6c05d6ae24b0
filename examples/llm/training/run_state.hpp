#pragma once
/// @file
/// Where a training run stands, as a file: safetensors with F32 tensors "now.K" and "best.K", the numbers of tensor K, U8
/// tensor "optimizer", and metadata run, step, best_step, before, best_loss (losses as C prints them with %a).

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace slim_llm {

struct run_state {
  std::string name; ///< of the run: what it trains on what
  std::ptrdiff_t step = 0, best_step = 0;
  double before = 0, best_loss = 0;
  std::vector<std::vector<float>> values, best;
  std::vector<std::byte> optimizer;
};

/// Writes the file beside its place and renames it, so that the old one stays until the new one is whole. @throws input_error
void write_run_state(std::filesystem::path const& file, run_state const& state);

/// Reads what write_run_state wrote of a run of this name with tensors of these sizes. False, and nothing changes, if there is
/// no such file. No byte is trusted. @throws input_error naming the file if it is no state, or of another run.
[[nodiscard]] bool read_run_state(std::filesystem::path const& file, run_state& state);

} // namespace slim_llm
