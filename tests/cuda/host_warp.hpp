// A warp of the GPU on the host, for kernels that are templates over the warp type (slim/kernels/cuda/tile.cuh). A value is a
// vector of 32 lanes, a warp a thread, __syncthreads a barrier, a counter in global memory a std::atomic_ref with the memory
// order that the device code names. ThreadSanitizer finds what barriers and orders leave out.
//
// Copies into shared memory are asynchronous: their destination is NaN until the kernel waits for them, and they are made then
// (or, second mode, at once). Shared memory checks bounds, alignment and that bytes were written before they are read.
#pragma once

#include "mma_model.hpp"

#include "slim/kernels/cuda/dequantize_kernel.cuh"
#include "slim/kernels/cuda/forward_kernel.cuh"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace slim_test {

/// How an emulation runs, and what is left out of the kernel on purpose to see it found.
struct emulation {
  bool bulk = false;         ///< copies of weights as sm_90 makes them: by one lane, with a barrier that counts bytes
  bool early = false;        ///< copies are made at once
  bool skip_barrier = false; ///< the second barrier of every warp is left out
  bool relaxed = false;      ///< arrivals neither acquire nor release
};

class shared_memory {
public:
  explicit shared_memory(int size) : bytes_(static_cast<std::size_t>(size)), written_(static_cast<std::size_t>(size)) {}

  std::uint8_t const* read(int at, int size) const {
    check(at, size);
    for (int k = 0; k < size; ++k)
      if (written_[static_cast<std::size_t>(at + k)] == 0) throw std::logic_error("shared memory: read before written");
    return bytes_.data() + at;
  }
  void write(int at, void const* from, int size) {
    check(at, size);
    std::memcpy(bytes_.data() + at, from, static_cast<std::size_t>(size));
    std::memset(written_.data() + at, 1, static_cast<std::size_t>(size));
  }

private:
  void check(int at, int size) const {
    if (at % size != 0 || at < 0 || at + size > static_cast<int>(bytes_.size()))
      throw std::logic_error("shared memory: " + std::to_string(size) + " bytes at " + std::to_string(at) + " of " +
                             std::to_string(bytes_.size()));
  }
  std::vector<std::uint8_t> bytes_, written_;
};

/// A copy of up to 16 bytes that is under way; what is not copied becomes 0.
struct copy_16 {
  int to;
  void const* from;
  int bytes;
};

/// What the warps of a CTA share.
struct host_cta {
  host_cta(int shared_bytes, emulation const& mode) : shared(shared_bytes), how(mode) {}

  shared_memory shared;
  emulation how;
  std::barrier<> all{slim::cuda::warps_per_cta};
  std::atomic<int> bank_conflicts{0};

  /// An mbarrier: the copies of its phase, and how many phases are complete.
  struct stage_barrier {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<copy_16> copies;
    int expected = 0, complete = 0;
  };
  std::deque<stage_barrier> barriers{slim::cuda::most_stages};

  void start(copy_16 const& c, std::vector<copy_16>& waiting) {
    if (c.bytes < 0 || c.bytes > 16 || reinterpret_cast<std::uintptr_t>(c.from) % 16 != 0)
      throw std::logic_error("copy: misaligned");
    std::uint32_t const poison[4] = {~0u, ~0u, ~0u, ~0u}; // NaN in every format
    shared.write(c.to, poison, 16);
    if (how.early)
      finish(c);
    else
      waiting.push_back(c);
  }
  void finish(copy_16 const& c) {
    std::uint8_t bytes[16] = {};
    if (c.bytes > 0) std::memcpy(bytes, c.from, static_cast<std::size_t>(c.bytes));
    shared.write(c.to, bytes, 16);
  }
};

class host_warp {
public:
  using word = slim_test::word;
  using real = slim_test::real;

  host_warp(host_cta& cta, int warp) : cta_(cta), warp_(warp) {}

  // Lanes.
  [[nodiscard]] int warp() const { return warp_; }
  template <class F>
  void for_each(int n, F const& f) {
    for (int i = 0; i < n; ++i) f(i);
  }
  template <class F>
  void by_lane(F const& f) {
    for (int lane = 0; lane < 32; ++lane) f(lane);
  }
  template <class F>
  void elected(F const& f) {
    f();
  }
  template <class T>
  static T& of(lane_values<T>& v, int lane) {
    return v.v[static_cast<std::size_t>(lane)];
  }

  // Words.
  static word all(std::uint32_t value) {
    return each([&](std::size_t) { return value; });
  }
  static word and_or(word const& a, std::uint32_t b, std::uint32_t c) {
    return each([&](std::size_t l) { return (a.v[l] & b) | c; });
  }
  static word and_or(word const& a, std::uint32_t b, word const& c) {
    return each([&](std::size_t l) { return (a.v[l] & b) | c.v[l]; });
  }
  static word shift_right(word const& a, int n) {
    return each([&](std::size_t l) { return a.v[l] >> n; });
  }
  template <slim::number_format N>
  static word add2(word const& a, word const& b) {
    return each([&](std::size_t l) { return rounded<N>(a.v[l], slim::cuda::number_pair<N>::power(0), b.v[l]); });
  }
  template <slim::number_format N>
  static word fma2(word const& a, std::uint32_t b, word const& c) {
    return each([&](std::size_t l) { return rounded<N>(a.v[l], b, c.v[l]); });
  }
  static real add_scaled(real const& total, real const& scale, real const& part) {
    real out;
    for (std::size_t l = 0; l < 32; ++l)
      out.v[l] = static_cast<float>(static_cast<double>(scale.v[l]) * static_cast<double>(part.v[l]) +
                                    static_cast<double>(total.v[l]));
    return out;
  }

  // Tensor cores.
  template <slim::number_format N>
  static void mma(real (&c)[4], word const (&a)[4], word const& b0, word const& b1) {
    mma_m16n8k16<N>(c, a, b0, b1);
  }
  template <slim::number_format N, int Selector>
  static void mma_sp(real (&c)[4], word const (&a)[4], word const (&b)[4], word const& metadata) {
    mma_sp_m16n8k32<N, Selector>(c, a, b, metadata);
  }

  // Shared memory.
  void load4(int at, word (&r)[4]) { load(at, r); }
  void load2(int at, word (&r)[2]) { load(at, r); }
  void load_inputs(int x, int token, int unit, word (&b)[4]) {
    for (int m = 0; m < 4; ++m) {
      unsigned banks = 0;
      for (std::size_t l = 0; l < 32; ++l) {
        int const row = x + slim::cuda::input_offset(token + static_cast<int>(l) / 4, unit + m);
        if (l % 4 == 0) count_bank(banks, row);
        std::memcpy(&b[m].v[l], cta_.shared.read(row, 16) + 4 * (l % 4), 4);
      }
    }
  }
  real row_half(int at, int r) {
    real out;
    for (std::size_t l = 0; l < 32; ++l) {
      std::uint16_t half;
      std::memcpy(&half, cta_.shared.read(at + 2 * (static_cast<int>(l) / 4 + 8 * r), 2), 2);
      out.v[l] = value_of<slim::number_format::fp16>(half);
    }
    return out;
  }
  word row_byte(int at, int r) {
    return each([&](std::size_t l) { return *cta_.shared.read(at + static_cast<int>(l) / 4 + 8 * r, 1) * 0x10001u; });
  }
  void store(int at, std::uint32_t value) { cta_.shared.write(at, &value, 4); }
  std::uint32_t load(int at) {
    std::uint32_t value;
    std::memcpy(&value, cta_.shared.read(at, 4), 4);
    return value;
  }

  // Global memory.
  static word row_byte(std::uint8_t const* from, int r) {
    return each([&](std::size_t l) { return from[static_cast<int>(l) / 4 + 8 * r] * 0x10001u; });
  }
  static real row_scale(float const* scales, int first, int r) {
    real out;
    for (std::size_t l = 0; l < 32; ++l) out.v[l] = scales ? scales[first + static_cast<int>(l) / 4 + 8 * r] : 1.0f;
    return out;
  }
  static float fresh(float const* from) { return *from; }
  template <slim::number_format N>
  static std::uint16_t bits_of(float value) {
    return slim_test::bits_of<N>(value);
  }
  template <slim::number_format N>
  static float value_of(std::uint16_t bits) {
    return slim_test::value_of<N>(bits);
  }
  /// Counts arrivals from 0 up to `parts`; the last one sets the counter to 0 again.
  [[nodiscard]] bool arrive(std::uint32_t* counter, int parts) const {
    std::atomic_ref<std::uint32_t> const shared(*counter);
    auto const last = static_cast<std::uint32_t>(parts - 1);
    std::uint32_t before = shared.load(std::memory_order_relaxed);
    auto const order = cta_.how.relaxed ? std::memory_order_relaxed : std::memory_order_acq_rel;
    while (!shared.compare_exchange_weak(before, before >= last ? 0 : before + 1, order, std::memory_order_relaxed)) {
    }
    return before == last;
  }

  // Copies and barriers.
  void init_barriers(int) {}
  void wait_for_kernel_before() {}
  void sync() {
    if (cta_.how.skip_barrier && ++syncs_ == 2) return;
    cta_.all.arrive_and_wait();
  }
  void copy16(int to, void const* from, int bytes) { cta_.start({to, from, bytes}, groups_.back()); }
  void gather16(int to, std::uint16_t const* from, int count) {
    std::uint16_t halves[8] = {};
    std::copy_n(from, count, halves);
    cta_.shared.write(to, halves, 16);
  }
  void commit() { groups_.emplace_back(); }
  void wait_copies(int groups) {
    while (static_cast<int>(groups_.size()) > groups + 1) {
      for (copy_16 const& c : groups_.front()) cta_.finish(c);
      groups_.pop_front();
    }
  }
  [[nodiscard]] bool copies_chunks() const { return !cta_.how.bulk || warp_ == 0; }
  void copy_chunks(int stage, int to, std::uint8_t const* upper, int upper_bytes, std::uint8_t const* lower, int lower_bytes) {
    int const count = (upper_bytes + lower_bytes) / 16;
    auto const unit = [&](int i) {
      return copy_16{to + 16 * i, 16 * i < upper_bytes ? upper + 16 * i : lower + (16 * i - upper_bytes), 16};
    };
    if (!cta_.how.bulk) {
      for (int i = 0; i < count; ++i)
        if (i / 32 % slim::cuda::warps_per_cta == warp_) cta_.start(unit(i), groups_.back());
    } else {
      host_cta::stage_barrier& barrier = cta_.barriers[static_cast<std::size_t>(stage)];
      std::lock_guard const lock(barrier.mutex);
      barrier.expected = upper_bytes + lower_bytes;
      for (int i = 0; i < count; ++i) cta_.start(unit(i), barrier.copies);
      barrier.changed.notify_all();
    }
  }
  void wait_bulk(int stage, int phase) {
    if (!cta_.how.bulk) return;
    host_cta::stage_barrier& barrier = cta_.barriers[static_cast<std::size_t>(stage)];
    std::unique_lock lock(barrier.mutex);
    // Another lane may not have issued the copy yet.
    bool const issued = barrier.changed.wait_for(lock, std::chrono::seconds(20),
                                                 [&] { return barrier.expected > 0 || barrier.complete > phase; });
    if (barrier.complete == phase + 1) return;
    if (!issued) throw std::logic_error("mbarrier: nothing was copied");
    int bytes = cta_.how.early ? barrier.expected : 0;
    for (copy_16 const& c : barrier.copies) {
      cta_.finish(c);
      bytes += 16;
    }
    if (barrier.complete != phase || bytes != barrier.expected)
      throw std::logic_error("mbarrier: stage " + std::to_string(stage) + ", phase " + std::to_string(phase) + " after " +
                             std::to_string(barrier.complete) + ", " + std::to_string(bytes) + " bytes of " +
                             std::to_string(barrier.expected));
    barrier.copies.clear();
    barrier.expected = 0;
    ++barrier.complete;
  }

private:
  template <class F>
  static word each(F const& f) {
    word r;
    for (std::size_t l = 0; l < 32; ++l) r.v[l] = f(l);
    return r;
  }
  /// a * b + c, rounded once; all three exact in double.
  template <slim::number_format N>
  static std::uint32_t rounded(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
    std::uint32_t out = 0;
    for (int k = 0; k < 2; ++k) {
      float const sum =
          slim_test::value_of<N>(half_of(a, k)) * slim_test::value_of<N>(half_of(b, k)) + slim_test::value_of<N>(half_of(c, k));
      out |= static_cast<std::uint32_t>(slim_test::bits_of<N>(sum)) << (16 * k);
    }
    return out;
  }
  template <std::size_t Count>
  void load(int at, word (&r)[Count]) {
    unsigned banks = 0;
    for (std::size_t l = 0; l < 32; ++l) {
      int const from = at + static_cast<int>(4 * Count * l);
      if (Count == 4 && l % 8 == 0) banks = 0;
      if (Count == 4) count_bank(banks, from);
      std::uint8_t const* const bytes = cta_.shared.read(from, 4 * Count);
      for (std::size_t k = 0; k < Count; ++k) std::memcpy(&r[k].v[l], bytes + 4 * k, 4);
    }
  }
  /// Eight accesses of 16 bytes that are made together should fall into eight different groups of four banks.
  void count_bank(unsigned& banks, int at) {
    unsigned const bank = 1u << (at / 16 % 8);
    if ((banks & bank) != 0) cta_.bank_conflicts.fetch_add(1, std::memory_order_relaxed);
    banks |= bank;
  }

  host_cta& cta_;
  int warp_, syncs_ = 0;
  std::deque<std::vector<copy_16>> groups_{1};
};

/// What an emulated launch had to complain about; empty if nothing.
struct emulated {
  std::string complaint;
  int bank_conflicts = 0;
};

/// Runs run(warp, CTA) for every warp of every CTA, each in a thread of its own.
template <class Run>
emulated run_ctas(int count, int shared_bytes, emulation const& how, Run const& run) {
  std::deque<host_cta> ctas;
  std::vector<std::thread> warps;
  emulated out;
  std::mutex complaints;
  for (int c = 0; c < count; ++c) ctas.emplace_back(shared_bytes, how);
  for (int c = 0; c < count; ++c)
    for (int k = 0; k < slim::cuda::warps_per_cta; ++k)
      warps.emplace_back([&, c, k] {
        host_cta& cta = ctas[static_cast<std::size_t>(c)];
        try {
          host_warp warp(cta, k);
          run(warp, c);
        } catch (std::exception const& e) {
          std::lock_guard const lock(complaints);
          out.complaint = e.what();
          cta.all.arrive_and_drop(); // or the other warps would wait for this one
        }
      });
  for (std::thread& t : warps) t.join();
  for (host_cta const& cta : ctas) out.bank_conflicts += cta.bank_conflicts.load();
  return out;
}

template <slim::number_format N, int Tiles>
emulated run_launch(slim::cuda::kernel_plan const& plan, emulation const& how) {
  return run_ctas(plan.ctas, slim::cuda::stages_offset + plan.stages * plan.stage_bytes, how,
                  [&](host_warp& warp, int cta) { slim::cuda::forward_cta<N, Tiles, host_warp>(warp, plan, cta).run(); });
}

template <slim::number_format N>
emulated run_dequantize(slim::cuda::dequantize_plan const& plan, emulation const& how) {
  return run_ctas(plan.ctas, plan.shared_bytes, how,
                  [&](host_warp& warp, int cta) { slim::cuda::dequantize_cta<N, host_warp>(warp, plan, cta).run(); });
}

} // namespace slim_test
