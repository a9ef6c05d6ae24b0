#pragma once
/// @file
/// A warp of the GPU for the kernels of forward_kernel.cuh and dequantize_kernel.cuh: a value is a lane's register, an
/// operation one or two instructions of PTX. Compute capability 8.0 and up; bulk copies and dependent launches from 9.0 on.

#include "slim/kernels/cuda/dequantize_kernel.cuh"
#include "slim/kernels/cuda/forward_kernel.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace slim {
inline namespace SLIM_ABI {
namespace cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SLIM_CUDA_BULK 1
#else
#define SLIM_CUDA_BULK 0
#endif

class device_warp {
public:
  using word = u32;
  using real = float;

  /// `shared` is the address of the CTA's dynamic shared memory, on 128 bytes.
  SLIM_DEVICE explicit device_warp(void* shared)
      : shared_(static_cast<u32>(__cvta_generic_to_shared(shared))), lane_(static_cast<int>(threadIdx.x) % 32) {}

  // Lanes.
  [[nodiscard]] SLIM_DEVICE int warp() const { return static_cast<int>(threadIdx.x) / 32; }
  template <class F>
  SLIM_DEVICE void for_each(int n, F const& f) {
    for (int i = lane_; i < n; i += 32) f(i);
  }
  template <class F>
  SLIM_DEVICE void by_lane(F const& f) {
    f(lane_);
  }
  template <class F>
  SLIM_DEVICE void elected(F const& f) {
    if (lane_ == 0) f();
  }
  template <class T>
  static SLIM_DEVICE T& of(T& v, int) {
    return v;
  }

  // Words.
  static SLIM_DEVICE u32 all(u32 value) { return value; }
  static SLIM_DEVICE u32 and_or(u32 a, u32 b, u32 c) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
  }
  static SLIM_DEVICE u32 shift_right(u32 a, int n) { return a >> n; }
  template <number_format N>
  static SLIM_DEVICE u32 add2(u32 a, u32 c) {
    if constexpr (N == number_format::bf16) return fma2<N>(a, number_pair<N>::power(0), c); // add.bf16x2 begins with sm_90
    u32 d;
    asm("add.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(c));
    return d;
  }
  template <number_format N>
  static SLIM_DEVICE u32 fma2(u32 a, u32 b, u32 c) {
    u32 d;
    if constexpr (N == number_format::fp16)
      asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    else
      asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
  }
  static SLIM_DEVICE float add_scaled(float total, float scale, float part) { return fmaf(scale, part, total); }

  // Tensor cores.
  template <number_format N>
  static SLIM_DEVICE void mma(float (&c)[4], u32 const (&a)[4], u32 b0, u32 b1) {
    if constexpr (N == number_format::fp16)
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  template <number_format N, int Selector>
  static SLIM_DEVICE void mma_sp(float (&c)[4], u32 const (&a)[4], u32 const (&b)[4], u32 metadata) {
    if constexpr (N == number_format::fp16)
      asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 "
                   "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata),
                     "n"(Selector));
    else
      asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 "
                   "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata),
                     "n"(Selector));
  }

  // Shared memory, by offsets from its beginning.
  SLIM_DEVICE void load4(int at, u32 (&r)[4]) {
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address(at + 16 * lane_))
                 : "memory");
  }
  SLIM_DEVICE void load2(int at, u32 (&r)[2]) {
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address(at + 8 * lane_)) : "memory");
  }
  SLIM_DEVICE void load_inputs(int x, int token, int unit, u32 (&b)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(address(x + input_offset(token + lane_ % 8, unit + lane_ / 8)))
                 : "memory");
  }
  SLIM_DEVICE float row_half(int at, int r) {
    unsigned short bits;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(address(at + 2 * (lane_ / 4 + 8 * r))) : "memory");
    return value_of<number_format::fp16>(bits);
  }
  SLIM_DEVICE u32 row_byte(int at, int r) {
    u32 byte;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(byte) : "r"(address(at + lane_ / 4 + 8 * r)) : "memory");
    return byte * 0x10001u;
  }
  SLIM_DEVICE void store(int at, u32 value) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address(at)), "r"(value) : "memory");
  }
  SLIM_DEVICE u32 load(int at) {
    u32 value;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address(at)) : "memory");
    return value;
  }

  // Global memory.
  SLIM_DEVICE u32 row_byte(std::uint8_t const* from, int r) { return __ldg(from + lane_ / 4 + 8 * r) * 0x10001u; }
  SLIM_DEVICE float row_scale(float const* scales, int first, int r) {
    return scales ? __ldg(scales + first + lane_ / 4 + 8 * r) : 1.0f;
  }
  static SLIM_DEVICE float fresh(float const* from) { return __ldcg(from); }
  template <number_format N>
  static SLIM_DEVICE std::uint16_t bits_of(float value) {
    if constexpr (N == number_format::fp16)
      return __half_as_ushort(__float2half_rn(value));
    else
      return __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
  template <number_format N>
  static SLIM_DEVICE float value_of(std::uint16_t bits) {
    if constexpr (N == number_format::fp16)
      return __half2float(__ushort_as_half(bits));
    else
      return __bfloat162float(__ushort_as_bfloat16(bits));
  }
  /// Counts arrivals from 0 up to `parts`; the last one sets the counter to 0 again. Whether this was the last.
  [[nodiscard]] SLIM_DEVICE bool arrive(u32* counter, int parts) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(parts - 1) : "memory");
    return before == static_cast<u32>(parts - 1);
  }

  // Copies and barriers.
  SLIM_DEVICE void sync() { __syncthreads(); }
  SLIM_DEVICE void copy16(int to, void const* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(to)), "l"(from), "r"(bytes) : "memory");
  }
  SLIM_DEVICE void gather16(int to, std::uint16_t const* from, int count) {
    u32 v[4];
    for (int k = 0; k < 4; ++k)
      v[k] = (2 * k < count ? u32{from[2 * k]} : 0u) | (2 * k + 1 < count ? u32{from[2 * k + 1]} << 16 : 0u);
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address(to)), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
  }
  SLIM_DEVICE void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  /// Until at most `groups` of this thread's groups of copies are under way.
  SLIM_DEVICE void wait_copies(int groups) {
    switch (groups) { // an immediate operand
    case 0: asm volatile("cp.async.wait_group 0;" ::: "memory"); break;
    case 1: asm volatile("cp.async.wait_group 1;" ::: "memory"); break;
    case 2: asm volatile("cp.async.wait_group 2;" ::: "memory"); break;
    case 3: asm volatile("cp.async.wait_group 3;" ::: "memory"); break;
    case 4: asm volatile("cp.async.wait_group 4;" ::: "memory"); break;
    case 5: asm volatile("cp.async.wait_group 5;" ::: "memory"); break;
    default: asm volatile("cp.async.wait_group 6;" ::: "memory"); break;
    }
  }
  /// Whether this thread has a part in copy_chunks.
  [[nodiscard]] SLIM_DEVICE bool copies_chunks() const { return !SLIM_CUDA_BULK || threadIdx.x == 0; }
  /// Two pieces of memory, one behind the other, into a stage. For threads with copies_chunks().
  SLIM_DEVICE void copy_chunks(int stage, int to, std::uint8_t const* upper, int upper_bytes, std::uint8_t const* lower,
                               int lower_bytes) {
#if SLIM_CUDA_BULK
    u32 const barrier = address(8 * stage);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(upper_bytes + lower_bytes)
                 : "memory");
    bulk(address(to), upper, upper_bytes, barrier);
    if (lower_bytes > 0) bulk(address(to + upper_bytes), lower, lower_bytes, barrier);
#else
    for (int at = 16 * static_cast<int>(threadIdx.x); at < upper_bytes + lower_bytes; at += 16 * 32 * warps_per_cta)
      copy16(to + at, at < upper_bytes ? upper + at : lower + (at - upper_bytes), 16);
#endif
  }
#if SLIM_CUDA_BULK
  SLIM_DEVICE void init_barriers(int stages) {
    if (threadIdx.x == 0) {
      for (int s = 0; s < stages; ++s) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address(8 * s)) : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
  }
  /// Until the copy of weights into a stage is there, the `phase`-th of this stage, counted from 0.
  SLIM_DEVICE void wait_bulk(int stage, int phase) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(address(8 * stage)),
                 "r"(phase & 1)
                 : "memory");
  }
  /// The next kernel of the stream may start; this one goes on when all that ran before it is written.
  SLIM_DEVICE void wait_for_kernel_before() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  }
#else
  SLIM_DEVICE void init_barriers(int) {}
  SLIM_DEVICE void wait_bulk(int, int) {}
  SLIM_DEVICE void wait_for_kernel_before() {}
#endif

private:
  [[nodiscard]] SLIM_DEVICE u32 address(int at) const { return shared_ + static_cast<u32>(at); }
#if SLIM_CUDA_BULK
  static SLIM_DEVICE void bulk(u32 to, void const* from, int bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(barrier)
                 : "memory");
  }
#endif

  u32 shared_;
  int lane_;
};

/// The kernel: forward_kernel.cuh. 256 threads, the plan's stages in dynamic shared memory.
template <number_format N, int TILES>
__global__ void __launch_bounds__(32 * warps_per_cta, 1) forward_kernel(__grid_constant__ kernel_plan const plan) {
  extern __shared__ __align__(128) unsigned char slim_shared[];
  device_warp warp(slim_shared);
  forward_cta<N, TILES, device_warp>(warp, plan, static_cast<int>(blockIdx.x)).run();
}

/// The kernel: dequantize_kernel.cuh. 256 threads, the plan's bytes of dynamic shared memory.
template <number_format N>
__global__ void __launch_bounds__(32 * warps_per_cta) dequantize_kernel(__grid_constant__ dequantize_plan const plan) {
  extern __shared__ __align__(128) unsigned char slim_shared[];
  device_warp warp(slim_shared);
  dequantize_cta<N, device_warp>(warp, plan, static_cast<int>(blockIdx.x)).run();
}

} // namespace cuda
} // namespace SLIM_ABI
} // namespace slim
