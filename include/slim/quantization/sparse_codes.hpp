#pragma once
/// @file
/// `sparse_codes`: the weight of a compressed layer, codes on a mask. One noun for what chains hand on, compressed layers hold,
/// joint methods return, sets move in and packed bytes unpack to.

#include "slim/core/none.hpp"
#include "slim/quantization/quantized_matrix.hpp"

#include <algorithm>
#include <optional>
#include <string_view>

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

  /// @throws shape_error, config_error unless codes and mask are sound and fit each other. `who` begins the message.
  void check(std::string_view who) const
    requires quantized_matrix<Codes>
  {
    if constexpr (requires { codes.check(who); }) codes.check(who);
    if (auto const* const kept = mask_or_null()) kept->check(who, codes.rows(), codes.cols());
  }

  /// mask .* dequantize(codes), d_out x d_in. @throws shape_error if mask and codes disagree
  [[nodiscard]] matrix<float> values(context const& ctx = {}) const
    requires quantized_matrix<Codes>
  {
    matrix<float> out(codes.rows(), codes.cols(), uninitialized);
    codes.dequantize_into(out.view(), ctx);
    if (auto const* const kept = mask_or_null()) kept->apply_to(out.view());
    return out;
  }

  /// Bits of all that is stored, in the cheapest of the packed formats: kept codes with their scales and which weights are
  /// kept, or all codes where that is less (dense_codes), if a pruned weight can be stored as one.
  [[nodiscard]] double stored_bits() const
    requires quantized_matrix<Codes>
  {
    auto const* const kept = mask_or_null();
    if (!kept) return codes.stored_bits(nullptr);
    double const sparse = codes.stored_bits(kept) + kept->index_bits();
    return detail::can_store_zero(codes) ? std::min(sparse, codes.stored_bits(nullptr)) : sparse;
  }
};

} // namespace SLIM_ABI
} // namespace slim
