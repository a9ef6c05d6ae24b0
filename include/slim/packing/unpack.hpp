#pragma once
/// @file
/// `unpack`: packed bytes of any format.

#include "slim/packing/csr_codes.hpp"
#include "slim/packing/dense_codes.hpp"
#include "slim/packing/nm_bitmask.hpp"
#include "slim/packing/sparse24.hpp"

namespace slim {
inline namespace SLIM_ABI {

/// Reads the kind from the header and unpacks.
[[nodiscard]] inline result<unpacked_matrix> unpack(std::span<std::byte const> bytes, unpack_limit limit = {},
                                                    context const& ctx = {}) {
  result<packed_header> const header = read_packed_header(bytes, limit);
  if (!header) return failure{header.why()};
  switch (header->kind) {
  case packed_kind::dense_codes: return dense_codes::unpack(bytes, limit, ctx);
  case packed_kind::sparse24: return sparse24::unpack(bytes, limit, ctx);
  case packed_kind::nm_bitmask: return nm_bitmask::unpack(bytes, limit, ctx);
  case packed_kind::csr_codes: return csr_codes::unpack(bytes, limit, ctx);
  }
  return failure{"packed matrix: unknown kind"};
}

} // namespace SLIM_ABI
} // namespace slim
