// What every operation of a warp type gives for some bytes of shared memory: run by the host warp in tests, and by a GPU in
// bench/cuda/device_test.cu, where the two are compared.
#pragma once

#include "slim/kernels/cuda/forward_kernel.cuh"

#include <cstring>

namespace slim_test {

/// The bytes that a trial reads: 1024 of words, 2048 of inputs (8 tokens x 128 small integers), 32 of scales (fp16), 32 of zero
/// points (0 to 4), 256 of metadata (legal nibbles).
inline constexpr int trial_bytes = 3392, trial_inputs = 1024, trial_scales = 3072, trial_zeros = 3104, trial_metadata = 3136;
/// Words of 32 lanes that a trial gives.
inline constexpr int trial_words = 152;

/// put(word number, lane, value) for every result.
template <slim::number_format N, class W, class Put>
class primitives {
public:
  SLIM_DEVICE primitives(W& w, Put const& put) : w_(w), put_(put) {}

  SLIM_DEVICE void run() {
    pairs<slim::device_kind::dense2>(32);
    pairs<slim::device_kind::dense3>(32);
    auto const dense = pairs<slim::device_kind::dense4>(32);
    pairs<slim::device_kind::sparse24>(16);
    typename W::word b[4], a[4], metadata[2];
    for (int q = 0; q < 4; ++q) {
      w_.load_inputs(trial_inputs, 0, 4 * q, b);
      for (int k = 0; k < 4; ++k) word(b[k]);
    }
    SLIM_UNROLL
    for (int r = 0; r < 4; ++r) a[r] = dense.pair(w_, r);
    typename W::real c[4] = {};
    w_.template mma<N>(c, a, b[0], b[1]);
    reals(c);
    w_.load2(trial_metadata, metadata);
    word(metadata[0]);
    word(metadata[1]);
    w_.template mma_sp<N, 0>(c, a, b, metadata[0]);
    reals(c);
    w_.template mma_sp<N, 1>(c, a, b, metadata[1]);
    reals(c);
    for (int r = 0; r < 2; ++r) {
      typename W::real const scale = w_.row_half(trial_scales, r);
      real(scale);
      real(w_.add_scaled(c[0], scale, c[1]));
      word(w_.row_byte(trial_zeros, r));
    }
    w_.by_lane([&](int lane) { put_(next_, lane, w_.load(trial_metadata + 8 * (31 - lane))); }); // each lane its own place
    ++next_;
    word(w_.shift_right(b[0], 5));
    word(w_.and_or(b[0], 0x0ff00ff0u, b[1]));
    word(w_.and_or(b[0], 0x0ff00ff0u, 0x80000001u));
  }

private:
  template <slim::device_kind K>
  SLIM_DEVICE slim::cuda::code_fragments<N, K, W> pairs(int count) {
    slim::cuda::code_fragments<N, K, W> atom;
    atom.load(w_, 0);
    for (int r = 0; r < 2; ++r) atom.zeros.set(w_, r, w_.row_byte(trial_zeros, r));
    SLIM_UNROLL
    for (int p = 0; p < 32; ++p)
      if (p < count) word(atom.pair(w_, p));
    return atom;
  }
  SLIM_DEVICE void word(typename W::word v) {
    w_.by_lane([&](int lane) { put_(next_, lane, w_.of(v, lane)); });
    ++next_;
  }
  SLIM_DEVICE void real(typename W::real v) {
    w_.by_lane([&](int lane) { put_(next_, lane, u32_of(w_.of(v, lane))); });
    ++next_;
  }
  SLIM_DEVICE void reals(typename W::real (&c)[4]) {
    for (int k = 0; k < 4; ++k) real(c[k]);
  }
  static SLIM_DEVICE slim::cuda::u32 u32_of(float x) {
    slim::cuda::u32 bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
  }

  W& w_;
  Put const& put_;
  int next_ = 0;
};

} // namespace slim_test
