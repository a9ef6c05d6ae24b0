#pragma once
/// @file
/// How an R16 kernel walks over row blocks.

#include "slim/kernels/cpu/r16.hpp"

namespace slim {
inline namespace SLIM_ABI {
namespace detail {

/// Below it a scale of inputs has no finite inverse that is worth a code.
inline constexpr float smallest_input_scale = 0x1p-126f;

/// Over every row block of a matrix: in chunks of sets of stages. Where a row has one scale, sets have no bytes, and some
/// stages.
struct r16_walk {
  r16_kind kind;
  index_t stage_count;
  bool scales;
  index_t chunk_sets;
  index_t header_bytes;      ///< in front of the stages of a chunk
  index_t last_header_bytes; ///< of the last one, which may have fewer sets
  index_t set_bytes;         ///< in the header
  index_t set_stages;        ///< of a set
  index_t input_stages;      ///< that share a scale of the inputs; divides set_stages
  index_t set_inputs;        ///< scales of the inputs in a set
  bool zero_points;
  index_t scale_bytes;         ///< 2: scales of groups are fp16; 4: fp32
  int scale_bits, offset_bits; ///< of scales and offsets that are codes; else 0
  std::uint8_t book[16];       ///< levels of a code book; + 128 if dense
};

/// Where the sums of a tile go: row r of the n-th row block of a stream, token t, to `first[stream][t * stride + 16 n + r]`.
struct r16_output {
  int streams; ///< 1 or, of tiles of 1 and 2 vectors, 2
  float* first[2];
  index_t stride;
  index_t tokens; ///< that are wanted, the first ones of the tile
  index_t planes; ///< vectors of a token, 1 or 2, which are added
  bool add;       ///< to what is there
};

} // namespace detail
} // namespace SLIM_ABI
} // namespace slim
