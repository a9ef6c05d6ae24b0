#pragma once
/// @file
/// Matrices of the device format as dense 16-bit numbers, written once over a warp type W (tile.cuh). A warp copies an atom to
/// shared memory and takes it apart by the fragments that products use.

#include "slim/kernels/cuda/device_layout.hpp"
#include "slim/kernels/cuda/forward_kernel.cuh"

namespace slim {
inline namespace SLIM_ABI {
namespace cuda {

/// A matrix to be written out: row-major, padded to whole atoms (16 rows, 128 columns), two numbers in a word. What pads is
/// anything.
struct dequantize_job {
  device_layout layout;
  std::uint8_t const* matrix = nullptr; ///< in the device format, on 16 bytes
  u32* out = nullptr;
  int first_cta = 0; ///< CTAs: warps_per_cta atoms, one below the other, each

  /// Words of a row of `out`.
  [[nodiscard]] SLIM_HOST_DEVICE std::int64_t stride() const { return layout.depth() * (device_atom_cols / 2); }
  [[nodiscard]] SLIM_HOST_DEVICE std::int64_t size() const { return layout.atoms() * device_atom_rows * stride(); }
  [[nodiscard]] SLIM_HOST_DEVICE std::int64_t ctas() const {
    return (layout.atoms() + warps_per_cta - 1) / warps_per_cta * layout.depth();
  }
};

/// What a launch writes: the matrices of a layer.
struct dequantize_plan {
  dequantize_job jobs[3] = {};
  int count = 0, ctas = 0, shared_bytes = 0;
};

/// One CTA of a launch, as one of its warps sees it. A number is rounded twice: scale times (code - zero) to float, that to N.
template <number_format N, class W>
class dequantize_cta {
public:
  SLIM_DEVICE dequantize_cta(W& w, dequantize_plan const& p, int cta) : w_(w), job_(p.jobs[job_of(p, cta)]) {
    int const index = cta - job_.first_cta, depth = static_cast<int>(job_.layout.depth());
    atom_ = warps_per_cta * (index / depth) + w.warp();
    block_ = index % depth;
    at_ = job_.layout.atom_bytes() * w.warp();
    stride_ = job_.stride();
    out_ = job_.out + std::int64_t{device_atom_rows} * atom_ * stride_ + device_atom_cols / 2 * block_;
  }

  SLIM_DEVICE void run() {
    bool const there = atom_ < job_.layout.atoms();
    std::uint8_t const* const from = job_.matrix + (there ? job_.layout.atom_offset(atom_, block_) : 0);
    w_.for_each(there ? job_.layout.atom_bytes() / 16 : 0, [&](int i) { w_.copy16(at_ + 16 * i, from + 16 * i, 16); });
    w_.commit();
    w_.wait_copies(0);
    w_.sync(); // what other lanes copied is there
    if (!there) return;
    switch (job_.layout.kind) {
    case device_kind::sparse24: return codes<device_kind::sparse24>();
    case device_kind::dense2: return codes<device_kind::dense2>();
    case device_kind::dense3: return codes<device_kind::dense3>();
    case device_kind::dense4: return codes<device_kind::dense4>();
    default: return numbers();
    }
  }

private:
  [[nodiscard]] SLIM_DEVICE static int job_of(dequantize_plan const& p, int cta) {
    int job = 0;
    while (job + 1 < p.count && p.jobs[job + 1].first_cta <= cta) ++job;
    return job;
  }

  /// The word of columns col and col + 1 of a row of the atom; col is even.
  [[nodiscard]] SLIM_DEVICE u32& out(int row, int col) const { return out_[row * stride_ + col / 2]; }
  [[nodiscard]] SLIM_DEVICE static u32 scaled(u32 number, float scale) {
    return W::template bits_of<N>(scale * W::template value_of<N>(static_cast<std::uint16_t>(number & 0xffffu)));
  }

  /// Scale of rows g + 8 r in a set.
  [[nodiscard]] SLIM_DEVICE typename W::real scale_of(int set, int r) {
    if (job_.layout.sets() > 0) return w_.row_half(at_ + job_.layout.scales_offset(set), r);
    return w_.row_scale(reinterpret_cast<float const*>(job_.matrix + job_.layout.row_scales_offset()), device_atom_rows * atom_,
                        r);
  }
  /// Stored zero point of rows g + 8 r in a set, twice in a word.
  template <device_kind K>
  [[nodiscard]] SLIM_DEVICE lanes<W> zero_of(int set, int r) {
    if (!job_.layout.zeros) return w_.all(number_pair<N>::twice(1u << (code_fragments<N, K, W>::bits - 1)));
    if (job_.layout.sets() > 0) return w_.row_byte(at_ + job_.layout.zeros_offset(set), r);
    return w_.row_byte(job_.matrix + job_.layout.row_zeros_offset() + device_atom_rows * atom_, r);
  }

  template <device_kind K>
  SLIM_DEVICE void codes() {
    code_fragments<N, K, W> atom;
    atom.load(w_, at_);
    SLIM_UNROLL
    for (int q = 0; q < 4; ++q) {
      int const set = q * job_.layout.sets() / 4;
      typename W::real const scales[2] = {scale_of(set, 0), scale_of(set, 1)};
      SLIM_UNROLL
      for (int r = 0; r < 2; ++r) atom.zeros.set(w_, r, zero_of<K>(set, r));
      if constexpr (K == device_kind::sparse24) {
        SLIM_UNROLL
        for (int r = 0; r < 4; ++r) two_of_four(q, r, atom.pair(w_, 4 * q + r), scales[r % 2]);
      } else {
        SLIM_UNROLL
        for (int p = 8 * q; p < 8 * q + 8; ++p) {
          lanes<W> pair = atom.pair(w_, p);
          typename W::real scale = scales[p % 2];
          w_.by_lane([&](int lane) {
            u32 const both = w_.of(pair, lane);
            float const s = w_.of(scale, lane);
            place(p, lane) = scaled(both, s) | scaled(both >> 16, s) << 16;
          });
        }
      }
    }
  }

  /// Where pair p of a lane goes: operand A of mma.m16n8k16.
  [[nodiscard]] SLIM_DEVICE u32& place(int p, int lane) const {
    return out(lane / 4 + 8 * (p % 2), 16 * (p / 4) + 2 * (lane % 4) + 8 * (p % 4 / 2));
  }

  /// Register r of step q of mma.sp: a lane's two entries of a group of four columns.
  SLIM_DEVICE void two_of_four(int q, int r, lanes<W> pair, typename W::real scale) {
    w_.by_lane([&](int lane) {
      int const row = lane / 4 + 8 * (r % 2), group = 8 * q + lane % 4 + 4 * (r / 2);
      device_place const at = sparse_position_place(row, group);
      u32 const positions = w_.load(at_ + at.offset) >> at.bit & 15u, both = w_.of(pair, lane);
      float const s = w_.of(scale, lane);
      std::uint64_t const four = std::uint64_t{scaled(both, s)} << (16 * (positions & 3u)) |
                                 std::uint64_t{scaled(both >> 16, s)} << (16 * (positions >> 2));
      out(row, 4 * group) = static_cast<u32>(four);
      out(row, 4 * group + 2) = static_cast<u32>(four >> 32);
    });
  }

  SLIM_DEVICE void numbers() {
    SLIM_UNROLL
    for (int k = 0; k < 8; ++k) {
      lanes<W> four[4];
      w_.load4(at_ + 512 * k, four);
      SLIM_UNROLL
      for (int p = 4 * k; p < 4 * k + 4; ++p) w_.by_lane([&](int lane) { place(p, lane) = w_.of(four[p % 4], lane); });
    }
  }

  W& w_;
  dequantize_job const job_;
  int atom_, block_, at_;
  std::int64_t stride_;
  u32* out_;
};

} // namespace cuda
} // namespace SLIM_ABI
} // namespace slim
