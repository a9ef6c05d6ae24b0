#pragma once
/// @file
/// The kernel of `forward_into`, written once over a warp type W (tile.cuh): a persistent grid, whose CTAs take equal shares of
/// the *units* of a launch. A unit is 128 outputs of a job x some blocks of 128 inputs, chunks of the device format. A CTA
/// copies units into a ring in shared memory, ahead of their use. Outputs that several CTAs have a part of are added by the
/// last of them to arrive, in the order of the CTAs: nobody waits, and sums do not depend on who is last.

#include "slim/kernels/cuda/device_layout.hpp"
#include "slim/kernels/cuda/tile.cuh"

namespace slim {
inline namespace SLIM_ABI {
namespace cuda {

inline constexpr int most_jobs = 8;     ///< of a launch
inline constexpr int most_tiles = 8;    ///< of 8 tokens: 64 tokens
inline constexpr int warps_per_cta = 8; ///< one for each 16 of the 128 outputs of a unit
inline constexpr int most_stages = 8;   ///< of the ring

/// A matrix that a job multiplies, and what it is multiplied with: 16-bit numbers, tokens x cols.
struct kernel_operand {
  device_kind kind = device_kind::dense4;
  bool zeros = false;
  bool aligned = false; ///< rows of x begin on 16 bytes
  int sets = 0, atoms = 0, depth = 0, atom_bytes = 0;
  int units = 0; ///< of a pair of strips: `depth` column blocks, some at a time
  std::uint8_t const* chunks = nullptr;
  float const* row_scales = nullptr;       ///< null: scales of groups, or numbers
  std::uint8_t const* row_zeros = nullptr; ///< where zero points go with row scales
  std::uint16_t const* x = nullptr;
  std::int64_t x_stride = 0;
  int x_cols = 0;
};

/// Y (tokens x rows) = the sum of one or two products.
struct kernel_job {
  kernel_operand operands[2] = {};
  int depth = 0; ///< units of a pair, of both
  int pairs = 0; ///< of strips, 128 outputs each
  int first_unit = 0, first_pair = 0;
  int rows = 0;
  bool add = false; ///< Y += instead of Y =
  std::uint16_t* y = nullptr;
  std::int64_t y_stride = 0;
};

/// What a launch computes. `slots` has two for every CTA, `arrived` a counter for every pair, 0 before and after.
struct kernel_plan {
  kernel_job jobs[most_jobs] = {};
  int count = 0, units = 0, ctas = 0, tokens = 0;
  int stages = 0, stage_bytes = 0;
  int blocks = 1; ///< column blocks of a unit, of the last one of an operand perhaps fewer
  float* slots = nullptr;
  u32* arrived = nullptr;
};

/// Shared memory: a barrier of 8 bytes for each stage, a flag, the stages. A stage holds inputs, then up to 8 atoms.
inline constexpr int flag_offset = 128, stages_offset = 256;
[[nodiscard]] SLIM_HOST_DEVICE constexpr int input_bytes(int tiles) { return 2048 * tiles; }
/// Numbers in a slot: the sums of a unit.
[[nodiscard]] SLIM_HOST_DEVICE constexpr int slot_size(int tiles) { return 4 * tiles * 32 * warps_per_cta; }

/// The first unit of a CTA's share; that of CTA `ctas` is the end.
[[nodiscard]] SLIM_HOST_DEVICE constexpr int first_unit_of(kernel_plan const& p, int cta) {
  return static_cast<int>(static_cast<std::int64_t>(p.units) * cta / p.ctas);
}
/// The CTA that has a unit.
[[nodiscard]] SLIM_HOST_DEVICE constexpr int cta_of(kernel_plan const& p, int unit) {
  return static_cast<int>((static_cast<std::int64_t>(unit + 1) * p.ctas - 1) / p.units);
}

/// A walk over the units of a share, columns first, and over the stages that they are copied into.
struct unit_cursor {
  int unit, job = 0, pair, k;
  int stage = 0, phase = 0; ///< the phase counts how often the ring was walked through

  SLIM_DEVICE unit_cursor(kernel_plan const& p, int first) : unit(first) {
    while (job + 1 < p.count && p.jobs[job + 1].first_unit <= first) ++job;
    pair = (first - p.jobs[job].first_unit) / p.jobs[job].depth;
    k = (first - p.jobs[job].first_unit) % p.jobs[job].depth;
  }
  SLIM_DEVICE void advance(kernel_plan const& p) {
    ++unit;
    if (++stage == p.stages) {
      stage = 0;
      ++phase;
    }
    if (++k < p.jobs[job].depth) return;
    k = 0;
    if (++pair < p.jobs[job].pairs) return;
    pair = 0;
    ++job;
  }
  /// Which operand the unit belongs to, and its first column block there.
  [[nodiscard]] SLIM_DEVICE int operand(kernel_plan const& p) const { return k < p.jobs[job].operands[0].units ? 0 : 1; }
  [[nodiscard]] SLIM_DEVICE int first_block(kernel_plan const& p) const {
    return (k - (k < p.jobs[job].operands[0].units ? 0 : p.jobs[job].operands[0].units)) * p.blocks;
  }
};

/// One CTA of a launch, as one of its warps sees it.
template <number_format N, int TILES, class W>
class forward_cta {
public:
  SLIM_DEVICE forward_cta(W& w, kernel_plan const& p, int cta)
      : w_(w), p_(p), cta_(cta), begin_(first_unit_of(p, cta)), end_(first_unit_of(p, cta + 1)) {}

  SLIM_DEVICE void run() {
    if (begin_ == end_) return;
    w_.init_barriers(p_.stages);
    unit_cursor ahead(p_, begin_), inputs = ahead, now = ahead;
    for (int s = 0; s + 1 < p_.stages; ++s) // weights do not depend on the kernel before
      if (ahead.unit < end_) {
        copy_weights(ahead);
        ahead.advance(p_);
      }
    w_.wait_for_kernel_before();
    for (int s = 0; s + 1 < p_.stages; ++s) {
      if (inputs.unit < end_) {
        copy_inputs(inputs);
        inputs.advance(p_);
      }
      w_.commit();
    }
    for (; now.unit < end_; now.advance(p_)) {
      w_.wait_copies(p_.stages - 2);
      w_.wait_bulk(now.stage, now.phase);
      w_.sync(); // the copies of all warps are there, and the stage before is free
      if (ahead.unit < end_) {
        copy_weights(ahead);
        copy_inputs(ahead);
        ahead.advance(p_);
      }
      w_.commit();
      multiply(now);
    }
  }

private:
  [[nodiscard]] SLIM_DEVICE int inputs_at(int stage) const { return stages_offset + stage * p_.stage_bytes; }
  [[nodiscard]] SLIM_DEVICE int atoms_at(int stage) const { return inputs_at(stage) + p_.blocks * input_bytes(TILES); }
  [[nodiscard]] SLIM_DEVICE static int smaller(int a, int b) { return a < b ? a : b; }

  SLIM_DEVICE void copy_weights(unit_cursor const& c) {
    if (!w_.copies_chunks()) return;
    kernel_operand const& o = p_.jobs[c.job].operands[c.operand(p_)];
    int const k = c.first_block(p_), count = smaller(p_.blocks, o.depth - k), first = 2 * device_strip_atoms * c.pair;
    int const upper = upper_atoms(o, c.pair), lower = smaller(device_strip_atoms, o.atoms - first - upper);
    // Chunks of both strips of the pair: in the last strip of a matrix they may have fewer atoms.
    std::uint8_t const* const from = o.chunks + (static_cast<std::int64_t>(first) * o.depth + k * upper) * o.atom_bytes;
    std::uint8_t const* const below =
        o.chunks + (static_cast<std::int64_t>(first + device_strip_atoms) * o.depth + k * lower) * o.atom_bytes;
    w_.copy_chunks(c.stage, atoms_at(c.stage), from, count * upper * o.atom_bytes, below, count * lower * o.atom_bytes);
  }

  [[nodiscard]] SLIM_DEVICE static int upper_atoms(kernel_operand const& o, int pair) {
    return smaller(device_strip_atoms, o.atoms - 2 * device_strip_atoms * pair);
  }

  SLIM_DEVICE void copy_inputs(unit_cursor const& c) {
    kernel_operand const& o = p_.jobs[c.job].operands[c.operand(p_)];
    int const first = c.first_block(p_), count = smaller(p_.blocks, o.depth - first), to = inputs_at(c.stage);
    w_.for_each(16 * TILES * count, [&](int i) {
      int const block = i / (16 * TILES), token = (16 * TILES * w_.warp() + i % (16 * TILES)) / 16, unit = i % 16;
      int const at = to + block * input_bytes(TILES) + input_offset(token, unit),
                first_col = device_atom_cols * (first + block);
      int const left = token < p_.tokens ? o.x_cols - first_col - 8 * unit : 0;
      int const there = left < 0 ? 0 : smaller(left, 8);
      std::uint16_t const* const from = o.x + token * o.x_stride + first_col + 8 * unit;
      if (there == 0)
        w_.copy16(at, o.chunks, 0); // zeros; the address only has to be aligned
      else if (o.aligned)
        w_.copy16(at, from, 2 * there);
      else
        w_.gather16(at, from, there);
    });
  }

  SLIM_DEVICE void multiply(unit_cursor const& c) {
    kernel_job const& job = p_.jobs[c.job];
    kernel_operand const& o = job.operands[c.operand(p_)];
    int const k = c.first_block(p_), count = smaller(p_.blocks, o.depth - k),
              atom = 2 * device_strip_atoms * c.pair + w_.warp();
    if (atom < o.atoms) {
      // The chunks of the upper strip stand before those of the lower one.
      int const upper = upper_atoms(o, c.pair), lower = o.atoms - 2 * device_strip_atoms * c.pair - upper;
      bool const below = w_.warp() >= device_strip_atoms;
      int const step = below ? smaller(device_strip_atoms, lower) : upper;
      int const first = below ? count * upper + w_.warp() - device_strip_atoms : w_.warp();
      atom_scales const scales{o.sets, o.zeros, o.row_zeros + (o.row_zeros ? device_atom_rows * atom : 0)};
      for (int block = 0; block < count; ++block)
        multiply_atom(o.kind, scales, atoms_at(c.stage) + (first + block * step) * o.atom_bytes,
                      inputs_at(c.stage) + block * input_bytes(TILES));
      if (o.sets == 0 && (k + count == o.depth || c.unit + 1 == end_)) {
        typename W::real const scale[2] = {w_.row_scale(o.row_scales, device_atom_rows * atom, 0),
                                           w_.row_scale(o.row_scales, device_atom_rows * atom, 1)};
        fold<TILES>(w_, scale, part_, total_);
      }
    }
    if (c.k + 1 == job.depth || c.unit + 1 == end_) finish(c, atom < o.atoms);
  }

  SLIM_DEVICE void multiply_atom(device_kind kind, atom_scales const& scales, int at, int x) {
    switch (kind) {
    case device_kind::sparse24: multiply_codes<N, device_kind::sparse24, TILES>(w_, scales, at, x, part_, total_); break;
    case device_kind::dense2: multiply_codes<N, device_kind::dense2, TILES>(w_, scales, at, x, part_, total_); break;
    case device_kind::dense3: multiply_codes<N, device_kind::dense3, TILES>(w_, scales, at, x, part_, total_); break;
    case device_kind::dense4: multiply_codes<N, device_kind::dense4, TILES>(w_, scales, at, x, part_, total_); break;
    default: multiply_numbers<N, TILES>(w_, at, x, part_); break;
    }
  }

  /// The sums of a pair, or this CTA's part of them, are complete.
  SLIM_DEVICE void finish(unit_cursor const& c, bool there) {
    kernel_job const& job = p_.jobs[c.job];
    int const first = job.first_unit + c.pair * job.depth;
    int const lead = cta_of(p_, first), parts = cta_of(p_, first + job.depth - 1) - lead + 1;
    if (parts == 1) {
      if (there) write(c, total_);
    } else {
      if (there) each_sum([&](int n, int k, int at, int lane) { slot_of(cta_, first)[at] = w_.of(total_.v[n][k], lane); });
      w_.sync();
      if (w_.warp() == 0)
        w_.elected([&] { w_.store(flag_offset, w_.arrive(p_.arrived + job.first_pair + c.pair, parts) ? 1u : 0u); });
      w_.sync();
      if (w_.load(flag_offset) != 0 && there) {
        tile_sums<TILES, W> all;
        for (int s = 0; s < parts; ++s)
          each_sum(
              [&](int n, int k, int at, int lane) { w_.of(all.v[n][k], lane) += w_.fresh(slot_of(lead + s, first) + at); });
        write(c, all);
      }
    }
    total_ = {};
  }

  /// A CTA has two slots: one for a pair that it begins in the middle of, or at the beginning of its share, and one for the
  /// last.
  [[nodiscard]] SLIM_DEVICE float* slot_of(int cta, int first) const {
    return p_.slots + (2 * static_cast<std::int64_t>(cta) + (first <= first_unit_of(p_, cta) ? 0 : 1)) * slot_size(TILES);
  }

  /// f(n, k, number in the slot, lane) for every sum of this warp.
  template <class F>
  SLIM_DEVICE void each_sum(F const& f) {
    SLIM_UNROLL
    for (int i = 0; i < 4 * TILES; ++i)
      w_.by_lane([&](int lane) { f(i / 4, i % 4, (i * warps_per_cta + w_.warp()) * 32 + lane, lane); });
  }

  SLIM_DEVICE void write(unit_cursor const& c, tile_sums<TILES, W>& sums) {
    kernel_job const& job = p_.jobs[c.job];
    each_sum([&](int n, int k, int, int lane) {
      int const token = 8 * n + 2 * (lane % 4) + k % 2;
      int const row = 128 * c.pair + 16 * w_.warp() + lane / 4 + 8 * (k / 2);
      if (token >= p_.tokens || row >= job.rows) return;
      std::uint16_t* const y = job.y + token * job.y_stride + row;
      float const sum = w_.of(sums.v[n][k], lane);
      *y = W::template bits_of<N>(job.add ? W::template value_of<N>(*y) + sum : sum);
    });
  }

  W& w_;
  kernel_plan const& p_;
  int cta_, begin_, end_;
  tile_sums<TILES, W> part_, total_;
};

} // namespace cuda
} // namespace SLIM_ABI
} // namespace slim
