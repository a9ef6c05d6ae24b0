#pragma once
#include <slim/pipeline/compress.hpp>
#include <slim/quantization/absmax.hpp>

#include <cstdint>
#include <cstring>

// Whether a NaN and an infinity in the weights, the activations and a Gram matrix are refused. They come as bits: under
// -ffinite-math-only there are no others.
#define REFUSES_NAN                                                                                                            \
  int refused = 0;                                                                                                             \
  for (std::uint32_t const bits : {0x7fc00000u, 0x7f800000u, 0xff800000u}) {                                                   \
    float bad;                                                                                                                 \
    std::memcpy(&bad, &bits, 4);                                                                                               \
    slim::matrix<float> w(4, 8);                                                                                               \
    w(2, 5) = bad;                                                                                                             \
    slim::calibration calib(8);                                                                                                \
    try {                                                                                                                      \
      (void)slim::compress(w, slim::chain(slim::absmax_quantizer()));                                                          \
    } catch (slim::nonfinite_error const&) {                                                                                   \
      ++refused;                                                                                                               \
    }                                                                                                                          \
    try {                                                                                                                      \
      calib.observe(w);                                                                                                        \
    } catch (slim::nonfinite_error const&) {                                                                                   \
      ++refused;                                                                                                               \
    }                                                                                                                          \
    std::uint64_t const wide = bits == 0x7fc00000u ? 0x7ff8000000000000u : 0x7ff0000000000000u;                                \
    slim::matrix<double> gram(2, 2);                                                                                           \
    std::memcpy(&gram(0, 0), &wide, 8);                                                                                        \
    try {                                                                                                                      \
      (void)slim::calibration::from_gram(gram.view(), 3);                                                                      \
    } catch (slim::nonfinite_error const&) {                                                                                   \
      ++refused;                                                                                                               \
    }                                                                                                                          \
  }                                                                                                                            \
  return refused == 9
