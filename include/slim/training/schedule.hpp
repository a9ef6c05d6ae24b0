#pragma once
/// @file
/// Learning rates over the steps of a run, and gradients that are kept from being too long.

#include "slim/core/matrix_view.hpp"

#include <algorithm>
#include <cmath>
#include <span>

namespace slim {
inline namespace SLIM_ABI {

/// How a learning rate falls after its warm-up.
enum class decay_shape {
  constant, ///< not at all
  linear,   ///< along a line
  cosine,   ///< along half a period of a cosine
};

/// A run's learning rates.
struct schedule_config {
  double peak = 1e-3;  ///< learning rate at the end of the warm-up
  double last = 0;     ///< ... of the last step
  index_t warm_up = 0; ///< steps of a rate that rises along a line to the peak
  index_t steps = 1;   ///< of the whole run
  decay_shape shape = decay_shape::cosine;
};

/// The learning rate of each step of a run.
class schedule {
public:
  /// @throws config_error unless 0 <= warm_up <= steps, 1 <= steps and both rates are finite and not negative
  explicit schedule(schedule_config config) : config_(config) {
    if (config.steps < 1 || config.warm_up < 0 || config.warm_up > config.steps)
      throw config_error(message("schedule: warm-up of ", config.warm_up, " steps of ", config.steps));
    if (!(config.peak >= 0) || !(config.last >= 0) || std::isinf(config.peak) || std::isinf(config.last))
      throw config_error(message("schedule: learning rates ", config.peak, " to ", config.last));
  }

  /// Of step number `step`, from 0 on; behind the last step that of the last.
  [[nodiscard]] double at(index_t step) const {
    if (step < config_.warm_up) return config_.peak * static_cast<double>(step + 1) / static_cast<double>(config_.warm_up);
    if (config_.shape == decay_shape::constant) return config_.peak;
    index_t const falling = config_.steps - config_.warm_up - 1, done = std::min(step - config_.warm_up, falling);
    double const share = falling > 0 ? static_cast<double>(done) / static_cast<double>(falling) : 0.0;
    double const left = config_.shape == decay_shape::linear ? 1 - share : 0.5 * (1 + std::cos(3.141592653589793 * share));
    return config_.last + (config_.peak - config_.last) * left;
  }

private:
  schedule_config config_;
};

/// The Euclidean norm of all gradients together, summed in double in their order. If it is above `longest`, all are multiplied
/// by longest / norm. Gradients that are not finite stay as they are: the norm says so. @throws config_error if longest <= 0
inline double clip_norm(std::span<std::span<float> const> gradients, double longest) {
  if (!(longest > 0)) throw config_error(message("clip_norm: longest norm ", longest));
  double sum = 0;
  for (auto const& g : gradients)
    for (float const x : g) sum += static_cast<double>(x) * static_cast<double>(x);
  double const norm = std::sqrt(sum);
  if (!(norm > longest) || std::isinf(norm)) return norm;
  double const factor = longest / norm;
  for (auto const& g : gradients)
    for (float& x : g) x = static_cast<float>(static_cast<double>(x) * factor);
  return norm;
}

} // namespace SLIM_ABI
} // namespace slim
