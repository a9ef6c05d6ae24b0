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
  /// @throws shape_error, config_error if the codes have a check and it fails
  void check(std::string_view who) const { self_->check(who); }
  /// Whether a pruned weight can be stored as a code; false of codes that do not say.
  [[nodiscard]] bool has_zero() const { return self_->has_zero(); }
  /// Codes of weights that are not kept come to stand for 0, if they can (in a copy: copies of this one stay as they are).
  void prune(mask const& kept) {
    if (auto pruned = self_->pruned(kept)) self_ = std::move(pruned);
  }

  /// Codes that know themselves in parts say so by a member `in_parts()`; others are one part. See in_parts.
  [[nodiscard]] any_codes own_parts() const {
    auto parts = self_->parts();
    return parts ? any_codes(std::move(parts)) : *this;
  }

  /// The codes themselves if they are a C, else null.
  template <class C>
  [[nodiscard]] C const* get_if() const noexcept {
    return self_->type() == &type_of<C> ? &static_cast<model<C> const*>(self_.get())->codes : nullptr;
  }

private:
  /// Its address stands for the type of the codes: units without run-time type information have none of their own.
  template <class C>
  static constexpr char type_of = 0;

  struct face {
    virtual ~face() = default;
    virtual char const* type() const = 0;
    virtual index_t rows() const = 0;
    virtual index_t cols() const = 0;
    virtual double stored_bits(mask const*) const = 0;
    virtual void dequantize_into(matrix_view<float>, context const&) const = 0;
    virtual void check(std::string_view) const = 0;
    virtual bool has_zero() const = 0;
    virtual std::shared_ptr<face const> pruned(mask const&) const = 0;
    virtual std::shared_ptr<face const> parts() const = 0;
  };
  template <class C>
  struct model final : face {
    explicit model(C c) : codes(std::move(c)) {}
    char const* type() const override { return &type_of<C>; }
    index_t rows() const override { return codes.rows(); }
    index_t cols() const override { return codes.cols(); }
    double stored_bits(mask const* kept) const override { return codes.stored_bits(kept); }
    void dequantize_into(matrix_view<float> values, context const& ctx) const override { codes.dequantize_into(values, ctx); }
    void check(std::string_view who) const override {
      if constexpr (requires { codes.check(who); }) codes.check(who);
    }
    bool has_zero() const override { return detail::can_store_zero(codes); }
    std::shared_ptr<face const> pruned(mask const& kept) const override {
      if constexpr (requires(C copy) { copy.prune(kept); }) {
        auto copy = std::make_shared<model>(codes);
        copy->codes.prune(kept);
        return copy;
      } else {
        return nullptr;
      }
    }
    std::shared_ptr<face const> parts() const override {
      if constexpr (requires { codes.in_parts(); })
        return static_cast<any_codes>(codes.in_parts()).self_;
      else
        return nullptr;
    }
    C codes;
  };

  explicit any_codes(std::shared_ptr<face const> self) : self_(std::move(self)) {}

  std::shared_ptr<face const> self_;
};

static_assert(quantized_matrix<any_codes>);

} // namespace SLIM_ABI
} // namespace slim
