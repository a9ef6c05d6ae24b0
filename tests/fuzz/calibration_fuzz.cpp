// libFuzzer target of saved calibrations: whatever is read must save to the same bytes, and can be merged, remapped and
// observed on. Inputs start as saved calibrations of all kinds, so that mutations get past the head.

#include "slim/calibration/calibration_bytes.hpp"
#include "slim/testing/hard_matrices.hpp"

#include "fresh_or_mutated.hpp"

#include <cstdlib>

namespace {

/// A small saved calibration made from a seed.
std::vector<std::byte> saved_calibration(unsigned seed) {
  auto const channels = static_cast<slim::index_t>(seed % 5), tokens = static_cast<slim::index_t>(seed / 5 % 7);
  slim::calibration_config const config{.gram = seed % 2 == 0,
                                        .outputs = static_cast<slim::index_t>(seed / 3 % 3),
                                        .samples = static_cast<slim::index_t>(seed / 7 % 4),
                                        .sample_seed = seed,
                                        .first_token = seed / 11 % 3};
  slim::matrix<float> const x = slim::testing::normal_matrix(tokens, channels, seed),
                            y = slim::testing::normal_matrix(tokens, config.outputs, seed + 1);
  slim::calibration calib(channels, config);
  calib.observe(x.view(), y.view());
  if (seed % 3 == 0) calib.hold_out(slim::testing::observed(x, {.samples = 2}));
  if (seed % 13 == 0 && calib.has_gram()) calib = slim::calibration::from_gram(calib.gram(), tokens);
  return slim::save(calib);
}

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed) {
  return slim_test::fresh_or_mutated(data, size, max_size, seed, 80, saved_calibration);
}

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::span<std::byte const> const bytes(reinterpret_cast<std::byte const*>(data), size);
  auto const read = slim::load_calibration(bytes);
  if (!read) {
    if (read.why().size() < 20) std::abort();
    return 0;
  }
  std::vector<std::byte> const again = slim::save(*read);
  if (!std::equal(bytes.begin(), bytes.end(), again.begin(), again.end())) std::abort();
  if (read->config().outputs > 1024) return 0; // of no channels: the bytes need not hold them
  slim::calibration copy = *read;
  copy.merge(*read);
  copy.observe(slim::matrix<float>(1, copy.channels()).view(), slim::matrix<float>(1, copy.config().outputs).view());
  std::vector<slim::index_t> const from(static_cast<std::size_t>(std::min<slim::index_t>(copy.channels(), 3)), 0);
  if (copy.remapped(from).tokens() != copy.tokens()) std::abort();
  return 0;
}
