#pragma once
/// @file
/// From layers, X and Y to the launches of forward_kernel.cuh: one that computes X L of all adapters, one that computes all
/// outputs.

#include "slim/kernels/cuda/forward_kernel.cuh"

#include <algorithm>
#include <span>

namespace slim {
inline namespace SLIM_ABI {
namespace cuda {

/// A layer of a product and where its outputs go. `bytes` are those of the device format, in the memory that the kernel reads,
/// on 16 bytes.
struct layer_call {
  std::uint8_t const* bytes = nullptr;
  device_header header = {};
  std::uint16_t* y = nullptr; ///< tokens x d_out
  std::int64_t y_stride = 0;
};

/// X of a launch: tokens x d_in 16-bit numbers.
struct input_rows {
  std::uint16_t const* data = nullptr;
  std::int64_t stride = 0;
  int tokens = 0; ///< 1 to 8 most_tiles
};

/// What a card offers: CTAs that run at once, bytes of shared memory of each.
struct launch_limits {
  int ctas = 1;
  int shared_bytes = 0;
};

/// Tiles of 8 tokens that a kernel is compiled for: 1, 2, 4 or 8.
[[nodiscard]] constexpr int tiles_of(int tokens) { return tokens <= 8 ? 1 : tokens <= 16 ? 2 : tokens <= 32 ? 4 : most_tiles; }

/// Row length of X L in the workspace: whole atoms.
[[nodiscard]] constexpr std::int64_t inner_stride(device_header const& h) {
  return (static_cast<std::int64_t>(h.rank) + device_atom_cols - 1) / device_atom_cols * device_atom_cols;
}

/// 16-bit numbers of X L of all layers.
[[nodiscard]] inline std::int64_t inner_size(std::span<layer_call const> calls, int tokens) {
  std::int64_t total = 0;
  for (layer_call const& call : calls) total += inner_stride(call.header) * tokens;
  return total;
}

/// Both launches; `left` has no jobs if there is no adapter. `slots` and `arrived` are the caller's to set.
struct forward_plans {
  kernel_plan left, outputs;
};

namespace detail {

[[nodiscard]] inline kernel_operand operand_of(std::uint8_t const* matrix, device_layout const& layout, input_rows const& x) {
  kernel_operand o;
  o.kind = layout.kind;
  o.zeros = layout.zeros;
  o.aligned = reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0;
  o.sets = layout.sets();
  o.atoms = static_cast<int>(layout.atoms());
  o.depth = static_cast<int>(layout.depth());
  o.atom_bytes = layout.atom_bytes();
  o.chunks = matrix;
  if (layout.row_scales()) o.row_scales = reinterpret_cast<float const*>(matrix + layout.row_scales_offset());
  if (layout.row_scales() && layout.zeros) o.row_zeros = matrix + layout.row_zeros_offset();
  o.x = x.data;
  o.x_stride = x.stride;
  o.x_cols = static_cast<int>(layout.cols);
  return o;
}

/// A job without outputs is none.
inline void add_job(kernel_plan& p, kernel_job job) {
  job.pairs = (job.operands[0].atoms + 2 * device_strip_atoms - 1) / (2 * device_strip_atoms);
  if (job.pairs == 0) return;
  if (p.count > 0) job.first_pair = p.jobs[p.count - 1].first_pair + p.jobs[p.count - 1].pairs;
  p.jobs[p.count++] = job;
}

/// Cuts the jobs into units of so many column blocks.
inline void cut(kernel_plan& p, int blocks) {
  p.blocks = blocks;
  p.units = 0;
  for (int j = 0; j < p.count; ++j) {
    kernel_job& job = p.jobs[j];
    job.depth = 0;
    for (kernel_operand& o : job.operands) {
      o.units = (o.depth + blocks - 1) / blocks;
      job.depth += o.units;
    }
    job.first_unit = p.units;
    p.units += job.pairs * job.depth;
  }
}

/// Units are as large as leaves four stages of the ring and two units for each CTA: what is done once per unit is then done
/// less often.
inline void share_out(kernel_plan& p, int tokens, launch_limits const& limits) {
  int atom_bytes = 0;
  for (int j = 0; j < p.count; ++j)
    for (kernel_operand const& o : p.jobs[j].operands) atom_bytes = std::max(atom_bytes, o.atom_bytes);
  int const block_bytes = input_bytes(tiles_of(tokens)) + 2 * device_strip_atoms * atom_bytes;
  p.tokens = tokens;
  for (int const blocks : {4, 2, 1}) {
    cut(p, blocks);
    p.stage_bytes = (blocks * block_bytes + 127) / 128 * 128;
    p.stages = std::min(most_stages, (limits.shared_bytes - stages_offset) / p.stage_bytes);
    if (p.stages >= 4 && p.units >= 2 * limits.ctas) break;
  }
  p.ctas = std::min(limits.ctas, p.units);
}

} // namespace detail

/// Units that the products of a layer take; plans count in 32 bits.
[[nodiscard]] inline std::int64_t units_of(device_header const& h) {
  device_layer_layout const l(h);
  auto const pairs = [](device_layout const& m) { return (m.atoms() + 2 * device_strip_atoms - 1) / (2 * device_strip_atoms); };
  return pairs(l.weight) * (l.weight.depth() + l.right.depth()) + pairs(l.left) * l.left.depth();
}

/// Plans Y = X W^T + (X L) R, or Y +=, of at most most_jobs layers that read the same X. `inner` has room for inner_size
/// numbers, on 16 bytes; null where only the launches' sizes are asked for.
[[nodiscard]] inline forward_plans plan_forward(std::span<layer_call const> calls, input_rows const& x, std::uint16_t* inner,
                                                bool add, launch_limits const& limits) {
  forward_plans plans;
  for (layer_call const& call : calls) {
    device_layer_layout const layout(call.header);
    kernel_job job{.rows = static_cast<int>(call.header.rows), .add = add, .y = call.y, .y_stride = call.y_stride};
    job.operands[0] = detail::operand_of(call.bytes + layout.weight_offset(), layout.weight, x);
    if (call.header.rank > 0) {
      std::int64_t const stride = inner_stride(call.header);
      kernel_job left{.rows = static_cast<int>(call.header.rank), .y = inner, .y_stride = stride};
      left.operands[0] = detail::operand_of(call.bytes + layout.left_offset(), layout.left, x);
      detail::add_job(plans.left, left);
      job.operands[1] = detail::operand_of(call.bytes + layout.right_offset(), layout.right, {inner, stride, x.tokens});
      if (inner) inner += stride * x.tokens; // not null + n, which is undefined
    }
    detail::add_job(plans.outputs, job);
  }
  for (kernel_plan* p : {&plans.left, &plans.outputs})
    if (p->count > 0) detail::share_out(*p, x.tokens, limits);
  return plans;
}

} // namespace cuda
} // namespace SLIM_ABI
} // namespace slim
