#pragma once
/// @file
/// What an R16 kernel walks over.

#include "slim/kernels/r16.hpp"

namespace slim::inline SLIM_ABI {
namespace detail {

/// Below it a scale of inputs has no finite inverse that is worth a code.
inline constexpr float smallest_input_scale = 0x1p-126f;

/// A row block, and how to walk it: in sets, all stages of one if there are no scales in the header.
struct r16_row_block {
  std::uint8_t const *header, *stages;
  index_t stage_count;
  bool scales;
  index_t set_bytes;        ///< of the header
  index_t set_stages;       ///< of a set
  index_t input_stages;     ///< that share a scale of the inputs; divides set_stages
  index_t set_inputs;       ///< scales of the inputs in a set
  std::uint8_t const* book; ///< levels of a code book, 16; + 128 if dense
  bool zero_points;
};

} // namespace detail
} // namespace slim::inline SLIM_ABI
