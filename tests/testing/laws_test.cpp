/// The law suites themselves: they accept what keeps the laws, and catch, by name, what breaks one.
#include "slim/core/norms.hpp"
#include "slim/testing/archetypes.hpp"
#include "slim/testing/laws.hpp"

#include <catch2/catch.hpp>

#include <mutex>

using namespace slim;
using namespace slim::testing;

namespace {

bool names(violations const& broken, std::string const& law) {
  return std::any_of(broken.begin(), broken.end(), [&](violation const& v) { return v.law.find(law) != std::string::npos; });
}

} // namespace

TEST_CASE("archetypes keep the laws") {
  CHECK(describe(check_saliency(saliency_archetype(0))) == "");
  CHECK(describe(check_linear_saliency(linear_saliency_archetype(0))) == "");
  CHECK(describe(check_pruner(pruner_archetype(0))) == "");
  CHECK(describe(check_quantizer(quantizer_archetype(0))) == "");
  CHECK(describe(check_input_quantizer(input_quantizer_archetype(0), 0.0)) == "");
  CHECK(describe(check_low_rank_solver(low_rank_solver_archetype(0), 1)) == "");
  CHECK(describe(check_transform([](index_t) { return transform_archetype(0); })) == "");
  CHECK(describe(check_transform([](index_t) { return calibration_transform_archetype(0); })) == "");
  CHECK(describe(check_executor(executor_archetype(0))) == "");
  CHECK(describe(check_bit_allocator(bit_allocator_archetype(0))) == "");
}

TEST_CASE("executors that ship keep the laws") {
  CHECK(describe(check_executor(serial_executor{})) == "");
  CHECK(describe(check_executor(backwards_executor{})) == "");
  CHECK(describe(check_executor(thread_team_executor{1})) == "");
  CHECK(describe(check_executor(thread_team_executor{4})) == "");
#if defined(_OPENMP)
  CHECK(describe(check_executor(openmp_executor{})) == "");
  CHECK(describe(check_executor(openmp_executor{3})) == "");
#endif
  CHECK(describe(check_executor(context{}.where)) == "");
}

namespace {

struct executor_that_skips_the_last {
  void for_each(index_t count, task_ref task) const {
    for (index_t k = 0; k + 1 < count; ++k) task(k);
  }
};

struct executor_that_repeats {
  void for_each(index_t count, task_ref task) const {
    for (index_t k = 0; k < count; ++k) task(k == 5 ? 4 : k);
  }
};

struct executor_that_overshoots {
  void for_each(index_t count, task_ref task) const {
    for (index_t k = 0; k <= count; ++k) task(k);
  }
};

} // namespace

TEST_CASE("check_executor catches tasks left out, repeated and invented") {
  CHECK(names(check_executor(executor_that_skips_the_last{}), "returns after the last"));
  CHECK(names(check_executor(executor_that_repeats{}), "exactly once"));
  CHECK(names(check_executor(executor_that_overshoots{}), "not asked for"));
}

namespace {

struct saliency_with_nan {
  struct scorer {
    matrix_view<float const> w;
    float operator()(index_t i, index_t j) const { return 1.0f / w(i, j) * 0.0f; }
  };
  scorer prepare(matrix_view<float const> w, calibration const&, context const&) const { return {w}; }
  std::string describe() const { return ""; }
};

struct saliency_with_memory {
  mutable float calls = 0;
  struct scorer {
    float offset;
    float operator()(index_t, index_t j) const { return offset + static_cast<float>(j); }
  };
  scorer prepare(matrix_view<float const>, calibration const&, context const&) const { return {calls += 1.0f}; }
  std::string describe() const { return ""; }
};

struct weights_with_zeros {
  std::vector<float> channel_weights(calibration const& calib) const {
    std::vector<float> weights;
    for (double const m : calib.mean_abs()) weights.push_back(static_cast<float>(m));
    return weights;
  }
  std::string describe() const { return ""; }
};

struct weights_too_few {
  std::vector<float> channel_weights(calibration const&) const { return {1.0f}; }
  std::string describe() const { return ""; }
};

} // namespace

TEST_CASE("saliency suites catch NaN, memory, zero weights and missing weights") {
  CHECK(names(check_saliency(saliency_with_nan{}), "finite"));
  CHECK(names(check_saliency(saliency_with_memory{}), "same twice"));
  CHECK(names(check_linear_saliency(weights_with_zeros{}), "positive"));
  CHECK(names(check_linear_saliency(weights_too_few{}), "one weight per channel"));
}

namespace {

/// 2:4 that forgets the ragged end of a row.
struct pruner_without_tail {
  mask select(matrix_view<float const> w, calibration const&, context const&) const {
    mask kept(w.rows(), w.cols(), {2, 4});
    for (index_t i = 0; i < w.rows(); ++i)
      for (index_t j = 0; j + 3 < w.cols(); j += 4) kept.keep(i, j), kept.keep(i, j + 1);
    return kept;
  }
  std::string describe() const { return ""; }
};

struct pruner_of_another_shape {
  mask select(matrix_view<float const> w, calibration const&, context const&) const { return mask(w.cols(), w.rows()); }
  std::string describe() const { return ""; }
};

/// Keeps rows in the order in which threads get to them.
struct pruner_that_races {
  mask select(matrix_view<float const> w, calibration const&, context const& ctx) const {
    mask kept(w.rows(), w.cols());
    index_t arrived = 0;
    std::mutex mutex;
    ctx.parallel_for(w.rows(), 1, [&](index_t i, index_t) {
      std::lock_guard const lock(mutex);
      for (index_t j = 0; j < w.cols(); ++j) kept.keep(i, j, arrived % 2 == 0 && i < w.rows() - 1);
      ++arrived;
    });
    return kept;
  }
  std::string describe() const { return ""; }
};

} // namespace

TEST_CASE("check_pruner catches a forgotten tail, a wrong shape and a race") {
  CHECK(names(check_pruner(pruner_without_tail{}), "pattern"));
  CHECK(names(check_pruner(pruner_of_another_shape{}), "shape"));
  CHECK(names(check_pruner(pruner_that_races{}), "backwards"));
}

namespace {

/// Integer codes with one thing wrong.
struct quantizer_with_a_flaw {
  int flaw = 0;
  integer_codes quantize(matrix_view<float const> w, calibration const&, context const& ctx) const {
    integer_codes codes(w.rows(), w.cols(), 4, per_channel, number_format::fp16);
    for (index_t i = 0; i < codes.scales.rows(); ++i)
      for (index_t g = 0; g < codes.scales.cols(); ++g) codes.scales(i, g) = flaw == 1 ? 0.1f : 0.125f; // 0.1 is no fp16 number
    codes.encode(w, ctx);
    for (index_t k = 0; k < codes.codes.size(); ++k) {
      std::int8_t& code = codes.codes.data()[k];
      if (flaw == 2 && code == 7) code = 8;
      if (flaw == 3 && code > -8 && code < 7) code = static_cast<std::int8_t>(code + 1);
      if (flaw == 4 && code == 0) code = 1;
    }
    return codes;
  }
  std::string describe() const { return ""; }
};

struct quantizer_with_infinities {
  struct codes {
    matrix<float> values;
    index_t rows() const { return values.rows(); }
    index_t cols() const { return values.cols(); }
    double stored_bits(mask const* kept) const { return 8.0 * static_cast<double>(kept ? kept->count() : rows() * cols()); }
    void dequantize_into(matrix_view<float> out, context const&) const {
      for (index_t i = 0; i < out.rows(); ++i)
        for (index_t j = 0; j < out.cols(); ++j) out(i, j) = 1.0f / values(i % std::max<index_t>(rows(), 1), j);
    }
  };
  codes quantize(matrix_view<float const> w, calibration const&, context const&) const { return {matrix<float>(w)}; }
  std::string describe() const { return ""; }
};

} // namespace

TEST_CASE("check_quantizer catches wrong scales, codes, rounding, zeros and infinities") {
  std::vector<named_matrix> const matrices = hard_shapes();
  CHECK(describe(check_quantizer(quantizer_with_a_flaw{0}, matrices)) == "");
  CHECK(names(check_quantizer(quantizer_with_a_flaw{1}, matrices), "scales are numbers of their format"));
  CHECK(names(check_quantizer(quantizer_with_a_flaw{2}, hard_values()), "fit in their bits"));
  CHECK(names(check_quantizer(quantizer_with_a_flaw{3}, matrices), "nearest"));
  CHECK(names(check_quantizer(quantizer_with_a_flaw{4}, hard_values()), "0 stays 0"));
  violations const broken = check_quantizer(quantizer_with_infinities{}, hard_values());
  CHECK(names(broken, "finite weights have finite values"));
  CHECK(names(broken, "another shape"));
}

namespace {

/// An adapter with one thing wrong.
struct solver_with_a_flaw {
  int flaw = 0;
  adapter solve(matrix_view<float const> e, calibration const&, context const&) const {
    adapter found = empty_adapter(e.cols(), e.rows());
    if (e.empty()) return found;
    index_t const rank = flaw == 1 ? 2 : 1;
    found.left = matrix<float>(e.cols(), rank);
    found.right = matrix<float>(rank, e.rows());
    if (flaw == 2) // doubles the error
      for (index_t i = 0; i < e.rows(); ++i) found.right(0, i) = i == 0 ? -1.0f : 0.0f;
    if (flaw == 2)
      for (index_t j = 0; j < e.cols(); ++j) found.left(j, 0) = e(0, j);
    if (flaw == 3) found.left(0, 0) = std::numeric_limits<float>::quiet_NaN();
    if (flaw == 4) {
      found.format = number_format::bf16;
      found.left(0, 0) = 0.1f;
    }
    if (flaw == 5) {
      found.left_mask = mask(rank, e.cols(), {2, 4});
      found.left(0, 0) = 0.0f;
    }
    return found;
  }
  double energy(matrix_view<float const> e, calibration const& calib, context const& = {}) const {
    return weighted_squared_norm(e, std::vector<float>(static_cast<std::size_t>(calib.channels()), 1.0f));
  }
  std::string describe() const { return ""; }
};

/// Says that channels weigh 2, and measures as if they weighed 1.
struct solver_of_two_norms : solver_with_a_flaw {
  std::vector<float> channel_weights(calibration const& calib) const {
    return std::vector<float>(static_cast<std::size_t>(calib.channels()), 2.0f);
  }
};

} // namespace

TEST_CASE("check_low_rank_solver catches excess rank, harm, NaN, format and a broken mask") {
  std::vector<named_matrix> const matrices = hard_shapes();
  CHECK(describe(check_low_rank_solver(solver_with_a_flaw{0}, 1, matrices)) == "");
  CHECK(names(check_low_rank_solver(solver_with_a_flaw{1}, 1, matrices), "rank asked for"));
  CHECK(names(check_low_rank_solver(solver_with_a_flaw{2}, 1, matrices), "no adapter"));
  CHECK(names(check_low_rank_solver(solver_with_a_flaw{3}, 1, matrices), "finite"));
  CHECK(names(check_low_rank_solver(solver_with_a_flaw{4}, 1, matrices), "numbers of its format"));
  CHECK(names(check_low_rank_solver(solver_with_a_flaw{5}, 1, matrices), "pattern"));
  CHECK(names(check_low_rank_solver(solver_of_two_norms{}, 1, matrices), "the one of the channel weights"));
}

namespace {

struct allocator_with_a_flaw {
  int flaw = 0;
  mutable index_t asked = 0;
  std::vector<double> widths() const { return {2.0, 3.0}; }
  std::vector<index_t> allocate(bit_offers const& offers) const {
    if (flaw != 3) offers.check("allocator_with_a_flaw");
    if (flaw != 4 && offers.widths != widths()) throw config_error("other widths");
    std::vector<index_t> chosen(offers.sizes.size(), flaw == 0 ? 2 : 0);
    if (flaw == 1) chosen.push_back(0);
    if (flaw == 2 && !chosen.empty()) chosen.front() = asked++ % 2;
    return chosen;
  }
  std::string describe() const { return ""; }
};

} // namespace

TEST_CASE("check_bit_allocator catches positions that do not exist, whims, and offers taken unseen") {
  CHECK(names(check_bit_allocator(allocator_with_a_flaw{0}), "positions exist"));
  CHECK(names(check_bit_allocator(allocator_with_a_flaw{1}), "a position per item"));
  CHECK(names(check_bit_allocator(allocator_with_a_flaw{2}), "the same twice"));
  CHECK(names(check_bit_allocator(allocator_with_a_flaw{3}), "a missing score"));
  CHECK(names(check_bit_allocator(allocator_with_a_flaw{4}), "other widths"));
}

namespace {

struct input_rounding_with_a_flaw {
  int flaw = 0;
  void round_inplace(matrix_view<float> x) const {
    for (index_t i = 0; i < x.rows(); ++i)
      for (index_t j = 0; j < x.cols(); ++j) x(i, j) = flaw == 0 ? x(i, j) * 0.5f : x(i, j) == 0.0f ? 1e-30f : x(i, j);
  }
  std::string describe() const { return ""; }
};

} // namespace

TEST_CASE("check_input_quantizer catches drift and zeros that move") {
  violations const drifting = check_input_quantizer(input_rounding_with_a_flaw{0}, 0.5);
  CHECK(names(drifting, "again"));
  CHECK_FALSE(names(drifting, "bound"));
  CHECK(names(check_input_quantizer(input_rounding_with_a_flaw{0}, 0.4), "bound"));
  CHECK(names(check_input_quantizer(input_rounding_with_a_flaw{1}, 0.5), "0 stays 0"));
}
