// The emulated kernels, for ThreadSanitizer: `cuda_races` has to be silent, `cuda_races barrier` leaves out a barrier and
// `cuda_races counter` the memory order of the counter of arrivals; both have to be reported. Exit code 1 if outputs are wrong
// that should be right.

#include "emulated_layers.hpp"

#include <cstdio>

namespace {

using namespace slim_test;

bool right(layer_case const& c, slim::index_t tokens, int ctas, emulation const& how, std::uint64_t seed) {
  constexpr slim::number_format n = slim::number_format::fp16;
  made_layer const layer = make_layer(c, seed);
  slim::matrix<float> const x = small_integers(tokens, c.cols, 2, seed + 5);
  std::vector<half_rows> y;
  y.emplace_back(tokens, c.rows, c.rows);
  emulated const run = emulate<n>({layer.packed(n)}, in_halves<n>(x, (c.cols + 7) / 8 * 8), y, false, ctas, how);
  if (!run.complaint.empty()) std::printf("%s\n", run.complaint.c_str());
  slim::matrix<double> const want = product_by_definition<n>(layer, x);
  bool same = run.complaint.empty();
  for (slim::index_t t = 0; t < tokens; ++t)
    for (slim::index_t i = 0; i < c.rows; ++i) same = same && y[0](t, i) == bits_of<n>(static_cast<float>(want(t, i)));
  return same;
}

} // namespace

int main(int argc, char** argv) {
  std::string const leave_out = argc > 1 ? argv[1] : "";
  layer_case const cases[] = {
      {.rows = 80, .cols = 1300, .rank = 20, .bits = 3, .block = slim::per_group(128), .zeros = true},
      {.rows = 144, .cols = 1300, .bits = 4, .sparse = true},
  };
  bool all = true;
  std::uint64_t seed = 1;
  for (layer_case const& c : cases)
    for (bool const bulk : {false, true})
      for (int const ctas : {1, 3}) {
        emulation const how{
            .bulk = bulk, .early = seed % 3 == 0, .skip_barrier = leave_out == "barrier", .relaxed = leave_out == "counter"};
        all = right(c, seed % 2 == 0 ? 3 : 9, ctas, how, seed) && all;
        ++seed;
      }
  if (!all) std::printf("outputs differ\n");
  return all || leave_out == "barrier" ? 0 : 1;
}
