// Small calibrations with every part that one can have.
#pragma once

#include "slim/testing/hard_matrices.hpp"

namespace slim_test {

inline std::vector<slim::testing::named_calibration> small_calibrations() {
  using namespace slim;
  using namespace slim::testing;
  matrix<float> const x = normal_matrix(7, 3, 1), y = normal_matrix(7, 2, 2);
  std::vector<named_calibration> all;
  all.push_back({"nothing seen", calibration(3, {.gram = true, .outputs = 2, .samples = 4})});
  all.push_back({"no channels", observed(matrix<float>(5, 0), {.gram = true, .outputs = 0, .samples = 2})});
  all.push_back({"moments", observed(x)});
  all.push_back({"one channel, Gram", observed(normal_matrix(4, 1, 3), {.gram = true, .samples = 9})});
  calibration whole(3, {.gram = true, .outputs = 2, .samples = 4, .sample_seed = 5, .first_token = 6});
  whole.observe(x.view(), y.view());
  whole.hold_out(observed(normal_matrix(5, 3, 4), {.gram = true, .samples = 2}));
  all.push_back({"everything", whole});
  whole.merge(whole);
  all.push_back(
      {"merged and remapped", whole.remapped(std::vector<index_t>{2, 0, 1, 1}, std::vector<double>{-1.0, 0.0, 3.0, 1e-3})});
  matrix<float> bad = x;
  bad(2, 2) = std::numeric_limits<float>::infinity();
  calibration zeroed(3);
  zeroed.observe(bad, {.on_nonfinite = nonfinite::zero});
  all.push_back({"zeroed activations", zeroed});
  all.push_back({"from a Gram matrix", calibration::from_gram(whole.gram(), 14)});
  all.push_back({"from moments", calibration::from_moments({.sum_square = {1.0, 2.0, 0.0}, .max_abs = {0.5f, 1.0f, 0.0f}}, 9)});
  all.push_back({"dead channels", observed(matrix<float>(4, 3), {.gram = true})});
  return all;
}

} // namespace slim_test
