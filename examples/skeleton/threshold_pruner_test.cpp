/// The test to copy: the laws every pruner owes, and what this one promises beyond them. Any test framework will do; here none.

#include "threshold_pruner.hpp"

#include <slim/testing/pruner_laws.hpp>

#include <cstdio>

int main() {
  int failed = 0;
  auto const expect = [&failed](bool holds, char const* what) {
    if (!holds) std::printf("FAILED: %s\n", what);
    failed += holds ? 0 : 1;
  };

  for (double const share : {0.0, 0.5, 3.0}) {
    std::string const broken = slim::testing::describe(slim::testing::check_pruner(mine::threshold_pruner({.share = share})));
    expect(broken.empty(), broken.c_str());
  }

  slim::matrix<float> w(2, 4); // root mean squares 2.5 and 0
  for (slim::index_t j = 0; j < 4; ++j) w(0, j) = j == 2 ? -3.0f : j == 1 ? 4.0f : 0.0f;
  slim::mask const kept = mine::threshold_pruner({.share = 0.5}).select(w, slim::calibration(4));
  expect(kept.kept(0, 1) && kept.kept(0, 2) && !kept.kept(0, 0) && !kept.kept(0, 3),
         "weights of at least 1.25 are kept, of either sign");
  expect(kept.kept(1, 0) && kept.kept(1, 3), "a row of zeros is kept");
  expect(mine::threshold_pruner({.share = 0.0}).select(w, slim::calibration(4)).count() == 8, "share 0 keeps all");

  bool refused = false;
  try {
    mine::threshold_pruner({.share = -1.0});
  } catch (slim::config_error const&) {
    refused = true;
  }
  expect(refused, "a negative share is refused");
  return failed == 0 ? 0 : 1;
}
