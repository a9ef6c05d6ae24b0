#pragma once
/// @file
/// How numbers follow their gradients: AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), and descent with momentum
/// (Sutskever et al. 2013; Nesterov's form as PyTorch has it). Both keep moments of tensors that their caller owns, and can be
/// saved and read again, so that a run that was stopped goes on with the same bits.

#include "slim/core/byte_stream.hpp"
#include "slim/core/error.hpp"
#include "slim/core/finite.hpp"
#include "slim/core/result.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace slim {
inline namespace SLIM_ABI {

/// Options of adamw; the defaults are those of its paper but for the decay.
struct adamw_config {
  double beta1 = 0.9;   ///< of the mean of gradients
  double beta2 = 0.999; ///< of the mean of their squares
  double epsilon = 1e-8;
  double weight_decay = 0; ///< decoupled: numbers shrink by learning rate * decay, whatever their gradient

  /// @throws config_error on a value out of range
  void check() const {
    if (!(beta1 >= 0 && beta1 < 1) || !(beta2 >= 0 && beta2 < 1) || !(epsilon > 0) || !(weight_decay >= 0))
      throw config_error(
          message("adamw: betas ", beta1, " and ", beta2, ", epsilon ", epsilon, ", weight decay ", weight_decay));
  }
};

/// Options of sgd.
struct sgd_config {
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 0; ///< decoupled, as adamw_config has it

  /// @throws config_error on a value out of range
  void check() const {
    if (!(momentum >= 0 && momentum < 1) || !(weight_decay >= 0))
      throw config_error(message("sgd: momentum ", momentum, ", weight decay ", weight_decay));
  }
};

namespace detail {

/// Moments of tensors, as many per number as the rule of the optimizer needs, and how often each tensor was stepped.
///
/// Bytes: magic, u64 tensors; per tensor u64 size, u64 steps, f32 x size x moments. Little-endian.
class moment_store {
public:
  moment_store(char const (&magic)[9], std::size_t moments) : magic_(magic), moments_(moments) {}

  struct tensor {
    std::uint64_t steps = 0;
    std::vector<float> moments; ///< of all numbers, one kind behind the other
  };

  std::size_t add(index_t size) {
    if (size < 0) throw shape_error(message("optimizer: a tensor of ", size, " numbers"));
    tensors_.push_back({0, std::vector<float>(moments_ * static_cast<std::size_t>(size))});
    return tensors_.size() - 1;
  }

  /// @throws shape_error, config_error unless the step makes sense
  [[nodiscard]] tensor& stepped(std::size_t number, std::span<float> parameters, std::span<float const> gradient, double rate) {
    if (number >= tensors_.size()) throw shape_error(message("optimizer: tensor ", number, " of ", tensors_.size()));
    tensor& t = tensors_[number];
    if (parameters.size() * moments_ != t.moments.size() || gradient.size() != parameters.size())
      throw shape_error(message("optimizer: ", parameters.size(), " numbers and ", gradient.size(),
                                " gradients for a tensor of ", t.moments.size() / moments_));
    if (!is_finite(rate) || rate < 0) throw config_error(message("optimizer: learning rate ", rate));
    ++t.steps;
    return t;
  }

  [[nodiscard]] std::vector<std::byte> bytes() const {
    std::vector<std::byte> out;
    for (std::size_t k = 0; k < 8; ++k) out.push_back(static_cast<std::byte>(magic_[k]));
    append_bytes(out, static_cast<std::uint64_t>(tensors_.size()));
    for (tensor const& t : tensors_) {
      append_bytes(out, static_cast<std::uint64_t>(t.moments.size() / moments_));
      append_bytes(out, t.steps);
      auto const raw = std::as_bytes(std::span(t.moments));
      out.insert(out.end(), raw.begin(), raw.end());
    }
    return out;
  }

  /// Takes moments of the tensors that it has room for. What is wrong with the bytes, or nothing; unchanged if something is.
  [[nodiscard]] std::string read(std::span<std::byte const> bytes) {
    byte_reader reader(bytes);
    auto const magic = reader.take(8);
    auto const count = reader.read<std::uint64_t>();
    if (reader.failed() || std::memcmp(magic.data(), magic_, 8) != 0) return "they are no state of this optimizer";
    if (count != tensors_.size()) return message("they hold moments of ", count, " tensors, not ", tensors_.size());
    std::vector<tensor> read;
    for (tensor const& mine : tensors_) {
      auto const size = reader.read<std::uint64_t>();
      tensor t{reader.read<std::uint64_t>(), {}};
      if (!reader.failed() && size != mine.moments.size() / moments_)
        return message("tensor ", read.size(), " has ", size, " numbers, not ", mine.moments.size() / moments_);
      auto const raw = reader.take(mine.moments.size() * sizeof(float));
      if (reader.failed()) return "they end too soon";
      t.moments.resize(mine.moments.size());
      if (!raw.empty()) std::memcpy(t.moments.data(), raw.data(), raw.size());
      for (std::size_t k = 0; k < t.moments.size(); ++k)
        if (!is_finite(t.moments[k]) || (k >= size && t.moments[k] < 0)) // the second kind are means of squares
          return message("tensor ", read.size(), " has a moment of ", t.moments[k]);
      read.push_back(std::move(t));
    }
    if (reader.left() > 0) return message(reader.left(), " bytes follow their end");
    tensors_ = std::move(read);
    return {};
  }

private:
  char const* magic_;
  std::size_t moments_;
  std::vector<tensor> tensors_;
};

} // namespace detail

/// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// w -= rate (decay w + (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)), t the steps of the tensor.
/// **Numerics** moments are stored as floats, a step computes in double. O(size). A rate of 0 changes no number.
class adamw {
public:
  /// @throws config_error
  explicit adamw(adamw_config config = {}) : config_(config) { config_.check(); }

  /// Room for a tensor of so many numbers; its number. @throws shape_error
  std::size_t add(index_t size) { return store_.add(size); }

  /// One step of that tensor. @throws shape_error if sizes are others; config_error on a rate that is negative or not finite.
  void step(std::size_t tensor, std::span<float> parameters, std::span<float const> gradient, double rate) {
    auto& t = store_.stepped(tensor, parameters, gradient, rate);
    double const first = 1 - std::pow(config_.beta1, static_cast<double>(t.steps));
    double const second = 1 - std::pow(config_.beta2, static_cast<double>(t.steps));
    std::size_t const size = parameters.size();
    float *const m = t.moments.data(), *const v = m + size;
    for (std::size_t k = 0; k < size; ++k) {
      double const g = static_cast<double>(gradient[k]), w = static_cast<double>(parameters[k]);
      double const mean = config_.beta1 * static_cast<double>(m[k]) + (1 - config_.beta1) * g;
      double const square = config_.beta2 * static_cast<double>(v[k]) + (1 - config_.beta2) * g * g;
      m[k] = static_cast<float>(mean);
      v[k] = static_cast<float>(square);
      double const move = mean / first / (std::sqrt(square / second) + config_.epsilon);
      parameters[k] = static_cast<float>(w - rate * (config_.weight_decay * w + move));
    }
  }

  /// Moments and step counts, to go on from. The configuration is not in it.
  [[nodiscard]] std::vector<std::byte> state() const { return store_.bytes(); }
  /// Goes on from what state() gave of an optimizer of the same tensors; what is wrong with the bytes, or an empty string. No
  /// byte is trusted; nothing changes where something is wrong.
  [[nodiscard]] std::string restore(std::span<std::byte const> bytes) { return store_.read(bytes); }

private:
  adamw_config config_;
  detail::moment_store store_{"SLIMADMW", 2};
};

/// b = momentum b + g; w -= rate (decay w + b), or with Nesterov's form rate (decay w + g + momentum b).
/// **Numerics** and errors as adamw.
class sgd {
public:
  /// @throws config_error
  explicit sgd(sgd_config config = {}) : config_(config) { config_.check(); }

  /// As adamw has them.
  std::size_t add(index_t size) { return store_.add(size); }
  void step(std::size_t tensor, std::span<float> parameters, std::span<float const> gradient, double rate) {
    auto& t = store_.stepped(tensor, parameters, gradient, rate);
    for (std::size_t k = 0; k < parameters.size(); ++k) {
      double const g = static_cast<double>(gradient[k]), w = static_cast<double>(parameters[k]);
      double const b = config_.momentum * static_cast<double>(t.moments[k]) + g;
      t.moments[k] = static_cast<float>(b);
      double const move = config_.nesterov ? g + config_.momentum * b : b;
      parameters[k] = static_cast<float>(w - rate * (config_.weight_decay * w + move));
    }
  }
  [[nodiscard]] std::vector<std::byte> state() const { return store_.bytes(); }
  [[nodiscard]] std::string restore(std::span<std::byte const> bytes) { return store_.read(bytes); }

private:
  sgd_config config_;
  detail::moment_store store_{"SLIMSGDM", 1};
};

} // namespace SLIM_ABI
} // namespace slim
