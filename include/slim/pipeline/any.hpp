#pragma once
/// @file
/// Type erasure at matrix granularity, for programs that choose components at run time: one virtual call per matrix, none per
/// weight. `any_quantizer`, `any_pruner` and `any_low_rank_solver` model their concepts; `any_chain` is any chain.

#include "slim/pipeline/compress.hpp"
#include "slim/quantization/codes/any_codes.hpp"

#include <memory>

namespace slim {
inline namespace SLIM_ABI {

/// Any quantizer.
class any_quantizer {
public:
  template <quantizer Q>
    requires(!std::same_as<Q, any_quantizer>)
  any_quantizer(Q q) : self_(std::make_shared<model<Q>>(std::move(q))) {} // NOLINT: implicit on purpose

  [[nodiscard]] any_codes quantize(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    return self_->quantize(w, calib, ctx);
  }
  [[nodiscard]] std::string describe() const { return self_->describe(); }

private:
  struct face {
    virtual ~face() = default;
    virtual any_codes quantize(matrix_view<float const>, calibration const&, context const&) const = 0;
    virtual std::string describe() const = 0;
  };
  template <class Q>
  struct model final : face {
    explicit model(Q q) : component(std::move(q)) {}
    any_codes quantize(matrix_view<float const> w, calibration const& calib, context const& ctx) const override {
      return component.quantize(w, calib, ctx);
    }
    std::string describe() const override { return component.describe(); }
    Q component;
  };

  std::shared_ptr<face const> self_;
};

static_assert(quantizer<any_quantizer>);

/// Any pruner.
class any_pruner {
public:
  template <pruner P>
    requires(!std::same_as<P, any_pruner>)
  any_pruner(P p) : self_(std::make_shared<model<P>>(std::move(p))) {} // NOLINT: implicit on purpose

  [[nodiscard]] mask select(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    return self_->select(w, calib, ctx);
  }
  [[nodiscard]] std::string describe() const { return self_->describe(); }

private:
  struct face {
    virtual ~face() = default;
    virtual mask select(matrix_view<float const>, calibration const&, context const&) const = 0;
    virtual std::string describe() const = 0;
  };
  template <class P>
  struct model final : face {
    explicit model(P p) : component(std::move(p)) {}
    mask select(matrix_view<float const> w, calibration const& calib, context const& ctx) const override {
      return component.select(w, calib, ctx);
    }
    std::string describe() const override { return component.describe(); }
    P component;
  };

  std::shared_ptr<face const> self_;
};

static_assert(pruner<any_pruner>);

/// Any low-rank solver.
class any_low_rank_solver {
public:
  template <low_rank_solver S>
    requires(!std::same_as<S, any_low_rank_solver>)
  any_low_rank_solver(S s) : self_(std::make_shared<model<S>>(std::move(s))) {} // NOLINT: implicit on purpose

  [[nodiscard]] adapter solve(matrix_view<float const> e, calibration const& calib, context const& ctx = {}) const {
    return self_->solve(e, calib, ctx);
  }
  [[nodiscard]] double energy(matrix_view<float const> e, calibration const& calib, context const& ctx = {}) const {
    return self_->energy(e, calib, ctx);
  }
  [[nodiscard]] std::string describe() const { return self_->describe(); }

private:
  struct face {
    virtual ~face() = default;
    virtual adapter solve(matrix_view<float const>, calibration const&, context const&) const = 0;
    virtual double energy(matrix_view<float const>, calibration const&, context const&) const = 0;
    virtual std::string describe() const = 0;
  };
  template <class S>
  struct model final : face {
    explicit model(S s) : component(std::move(s)) {}
    adapter solve(matrix_view<float const> e, calibration const& calib, context const& ctx) const override {
      return component.solve(e, calib, ctx);
    }
    double energy(matrix_view<float const> e, calibration const& calib, context const& ctx) const override {
      return component.energy(e, calib, ctx);
    }
    std::string describe() const override { return component.describe(); }
    S component;
  };

  std::shared_ptr<face const> self_;
};

static_assert(low_rank_solver<any_low_rank_solver>);

/// A compressed layer whose parts are known at run time.
struct any_layer {
  sparse_codes<std::optional<mask>, any_codes> weight; ///< W_c, d_out x d_in; no mask: every weight is kept
  std::optional<slim::adapter> adapter;
  layer_report report;
};

/// The dense weight (d_out x d_in) of the layer: W_c + (L R)^T.
[[nodiscard]] inline matrix<float> decompress(any_layer const& layer, context const& ctx = {}) {
  matrix<float> weights = layer.weight.values(ctx);
  if (layer.adapter) layer.adapter->add_to(weights.view(), ctx);
  return weights;
}

/// A compressed layer of any type as an any_layer.
template <class Mask, class Codes, class Adapter>
[[nodiscard]] any_layer to_any(compressed_layer<Mask, Codes, Adapter> layer) {
  any_layer out{{std::nullopt, any_codes(std::move(layer.weight.codes))}, std::nullopt, std::move(layer.report)};
  if constexpr (!is_none<Mask>) out.weight.mask = std::move(layer.weight.mask);
  if constexpr (!is_none<Adapter>) out.adapter = std::move(layer.adapter);
  return out;
}

/// Any chain, to be chosen at run time.
class any_chain {
public:
  template <class... Steps>
  any_chain(step_chain<Steps...> steps)
      : self_(std::make_shared<model<Steps...>>(std::move(steps))) {} // NOLINT: implicit on purpose

  /// slim::compress with this recipe. W is (d_out x d_in).
  [[nodiscard]] any_layer compress(matrix_view<float const> w, calibration const& calib, context const& ctx = {}) const {
    return self_->compress(w, calib, ctx);
  }
  /// What each step is, in order.
  [[nodiscard]] std::vector<std::string> steps() const { return self_->describe(); }

private:
  struct face {
    virtual ~face() = default;
    virtual any_layer compress(matrix_view<float const>, calibration const&, context const&) const = 0;
    virtual std::vector<std::string> describe() const = 0;
  };
  template <class... Steps>
  struct model final : face {
    explicit model(step_chain<Steps...> c) : steps(std::move(c)) {}
    any_layer compress(matrix_view<float const> w, calibration const& calib, context const& ctx) const override {
      return to_any(slim::compress(w, calib, steps, ctx));
    }
    std::vector<std::string> describe() const override {
      return std::apply([](auto const&... step) { return std::vector<std::string>{detail::name_of_step(step)...}; },
                        steps.steps);
    }
    step_chain<Steps...> steps;
  };

  std::shared_ptr<face const> self_;
};

} // namespace SLIM_ABI
} // namespace slim
