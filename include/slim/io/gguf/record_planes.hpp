#pragma once
/// @file
/// Which bytes of a block of ggml mean the same kind of thing, for packing/entropy_coded.hpp.

#include "slim/io/tensor.hpp"
#include "slim/packing/entropy_coded.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// A block of the type, or a number. A number of several bytes has a plane for each, since the upper ones say more; codes, high
/// bits of codes, and small scales have one plane each. Bytes of unknown types have one plane.
[[nodiscard]] inline record_planes planes_of(tensor_type type) {
  record_planes planes;
  std::uint8_t next = 0;
  auto const number = [&](int bytes) {
    for (int k = 0; k < bytes; ++k) planes.push_back(next++);
  };
  auto const field = [&](std::size_t bytes) { planes.insert(planes.end(), bytes, next++); };
  switch (type) {
  case tensor_type::f32: number(4); break;
  case tensor_type::f16:
  case tensor_type::bf16: number(2); break;
  case tensor_type::f64: number(8); break;
  case tensor_type::q4_0:
  case tensor_type::iq4_nl: number(2), field(16); break;
  case tensor_type::q4_1: number(2), number(2), field(16); break;
  case tensor_type::q5_0: number(2), field(4), field(16); break;
  case tensor_type::q5_1: number(2), number(2), field(4), field(16); break;
  case tensor_type::q8_0: number(2), field(32); break;
  case tensor_type::q2_k: field(16), field(64), number(2), number(2); break;
  case tensor_type::q3_k: field(32), field(64), field(12), number(2); break;
  case tensor_type::q4_k: number(2), number(2), field(12), field(128); break;
  case tensor_type::q5_k: number(2), number(2), field(12), field(32), field(128); break;
  case tensor_type::q6_k: field(128), field(64), field(16), number(2); break;
  case tensor_type::iq4_xs: number(2), field(2), field(4), field(128); break;
  case tensor_type::other: field(1); break;
  }
  return planes;
}

} // namespace SLIM_ABI
} // namespace slim
