#pragma once
/// @file
/// `any_codes`: codes of any type behind one virtual call per matrix.

#include "slim/quantization/quantized_matrix.hpp"

#include <memory>

namespace slim {
inline namespace SLIM_ABI {

/// Codes of any quantizer. Copies share the codes, which never change.
class any_codes {
public:
  template <quantized_matrix C>
    requires(!std::same_as<C, any_codes>)
  any_codes(C codes) : self_(std::make_shared<model<C>>(std::move(codes))) {} // NOLINT: implicit on purpose

  [[nodiscard]] index_t rows() const { return self_->rows(); }
  [[nodiscard]] index_t cols() const { return self_->cols(); }
  [[nodiscard]] double stored_bits(mask const* kept = nullptr) const { return self_->stored_bits(kept); }
  void dequantize_into(matrix_view<float> values, context const& ctx = {}) const { self_->dequantize_into(values, ctx); }

  /// The codes themselves if they are a C, else null.
  template <class C>
  [[nodiscard]] C const* get_if() const noexcept {
    auto const* same = dynamic_cast<model<C> const*>(self_.get());
    return same ? &same->codes : nullptr;
  }

private:
  struct face {
    virtual ~face() = default;
    virtual index_t rows() const = 0;
    virtual index_t cols() const = 0;
    virtual double stored_bits(mask const*) const = 0;
    virtual void dequantize_into(matrix_view<float>, context const&) const = 0;
  };
  template <class C>
  struct model final : face {
    explicit model(C c) : codes(std::move(c)) {}
    index_t rows() const override { return codes.rows(); }
    index_t cols() const override { return codes.cols(); }
    double stored_bits(mask const* kept) const override { return codes.stored_bits(kept); }
    void dequantize_into(matrix_view<float> values, context const& ctx) const override { codes.dequantize_into(values, ctx); }
    C codes;
  };

  std::shared_ptr<face const> self_;
};

static_assert(quantized_matrix<any_codes>);

} // namespace SLIM_ABI
} // namespace slim
