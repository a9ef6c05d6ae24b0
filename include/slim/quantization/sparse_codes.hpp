#pragma once
/// @file
/// `sparse_codes`: the weight of a compressed layer, codes on a mask. One noun for what chains hand on, compressed layers hold,
/// joint methods return, sets move in and packed bytes unpack to.

#include "slim/core/none.hpp"
#include "slim/quantization/quantized_matrix.hpp"

#include <optional>

namespace slim {
inline namespace SLIM_ABI {

/// Codes of a matrix (d_out x d_in) and the mask of the weights that are kept. A weight that is not kept is 0, whatever its
/// code.
///
/// @tparam Mask slim::mask, std::optional<slim::mask>, or none: every weight is kept.
/// @tparam Codes a quantized_matrix, or none: nothing is decided yet (inside a chain).
template <class Mask = none, class Codes = none>
struct sparse_codes {
  using mask_type = Mask;
  using codes_type = Codes;

  [[no_unique_address]] Mask mask;
  [[no_unique_address]] Codes codes;

  /// The mask, or null where every weight is kept.
  [[nodiscard]] slim::mask const* mask_or_null() const noexcept {
    if constexpr (is_none<Mask>)
      return nullptr;
    else if constexpr (std::is_same_v<Mask, std::optional<slim::mask>>)
      return mask ? &*mask : nullptr;
    else
      return &mask;
  }
  [[nodiscard]] slim::mask* mask_or_null() noexcept {
    return const_cast<slim::mask*>(static_cast<sparse_codes const&>(*this).mask_or_null());
  }

  [[nodiscard]] index_t rows() const
    requires quantized_matrix<Codes>
  {
    return codes.rows();
  }
  [[nodiscard]] index_t cols() const
    requires quantized_matrix<Codes>
  {
    return codes.cols();
  }

  /// mask .* dequantize(codes), d_out x d_in. @throws shape_error if mask and codes disagree
  [[nodiscard]] matrix<float> values(context const& ctx = {}) const
    requires quantized_matrix<Codes>
  {
    matrix<float> out(codes.rows(), codes.cols());
    codes.dequantize_into(out.view(), ctx);
    if (auto const* const kept = mask_or_null()) kept->apply_to(out.view());
    return out;
  }

  /// Bits of all that is stored: kept codes with their scales, and which weights are kept.
  [[nodiscard]] double stored_bits() const
    requires quantized_matrix<Codes>
  {
    auto const* const kept = mask_or_null();
    return codes.stored_bits(kept) + (kept ? kept->index_bits() : 0.0);
  }
};

} // namespace SLIM_ABI
} // namespace slim
