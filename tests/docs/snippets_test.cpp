// The components that the documentation shows, word for word (check_snippets.py compares): they compile, and keep their laws.
#include "slim/interop/gptq.hpp"
#include "slim/interop/imatrix.hpp"
#include "slim/slim.hpp"
#include "slim/testing/laws.hpp"

#include <catch2/catch.hpp>

namespace {

/// Magnitude relative to the largest of the row.
struct relative_magnitude {
  struct scorer {
    slim::matrix_view<float const> w;
    std::vector<float> largest;
    float operator()(slim::index_t i, slim::index_t j) const {
      float const top = largest[static_cast<std::size_t>(i)];
      return top > 0.0f ? std::abs(w(i, j)) / top : 0.0f;
    }
  };
  scorer prepare(slim::matrix_view<float const> w, slim::calibration const&, slim::context const&) const {
    scorer s{w, {}};
    for (slim::index_t i = 0; i < w.rows(); ++i) s.largest.push_back(slim::largest_magnitude(w.middle_rows(i, 1)));
    return s;
  }
  std::string describe() const { return "relative magnitude"; }
};

/// What is stored of a layer, and what is read of it.
slim::unpacked_matrix stored_and_read(slim::integer_codes const& codes, slim::mask const& kept) {
  std::vector<std::byte> const bytes = slim::sparse24::pack(codes, kept); // throws if a group keeps three columns
  slim::result<slim::unpacked_matrix> read = slim::unpack(bytes);         // any format; no exceptions
  if (!read) throw slim::error(read.why());                               // what is wrong, and where
  return std::move(read).value();
}

/// Stops the work from another thread, and tells what it does until then.
slim::context watched(std::stop_source& source, auto& tell) {
  slim::context ctx;
  ctx.stop = source.get_token();
  ctx.progress = tell; // void(slim::progress_report const&); kept alive by you
  return ctx;
}

/// Codes of GPTQ, as they come from a file, ready to run; X takes its columns in the order that is returned.
std::pair<slim::packed_linear, std::vector<slim::index_t>> run_gptq(slim::gptq_arrays const& arrays) {
  slim::gptq_codes const layer = slim::from_gptq(arrays); // shape_error, config_error if an array does not fit the others
  return {slim::pack_linear(layer.codes, nullptr, nullptr), layer.order};
}

/// A layer's inputs as an imatrix knows them: enough for Wanda, not for a Gram matrix.
auto prune_by_imatrix(slim::matrix_view<float const> w, std::span<float const> in_sum2, std::span<float const> counts) {
  slim::calibration const calib = slim::from_imatrix(in_sum2, counts);
  return slim::compress(w, calib, slim::chain(slim::nm_pruner<2, 4>(slim::wanda{}), slim::absmax_quantizer()));
}

/// Largest activation ever seen.
struct peak_saliency {
  std::vector<float> channel_weights(slim::calibration const& calib) const {
    std::vector<float> weights = calib.max_abs();
    for (float& w : weights) w = std::max(w, 1e-6f);
    return weights;
  }
  std::string describe() const { return "peak"; }
};

/// Leaves layers alone whose error is small already.
template <slim::low_rank_solver Solver>
struct only_if_needed {
  Solver inner;
  double threshold = 0;

  slim::adapter solve(slim::matrix_view<float const> e, slim::calibration const& calib, slim::context const& ctx = {}) const {
    if (slim::output_energy(e, calib, ctx) <= threshold) return slim::empty_adapter(e.cols(), e.rows());
    return inner.solve(e, calib, ctx);
  }
  double energy(slim::matrix_view<float const> e, slim::calibration const& calib, slim::context const& ctx = {}) const {
    return inner.energy(e, calib, ctx);
  }
  std::string describe() const { return slim::message(std::string(inner.describe()), ", where needed"); }
};

/// The order of channels turned around.
struct reversed {
  slim::matrix<float> apply(slim::matrix_view<float const> w) const {
    slim::matrix<float> out(w.rows(), w.cols());
    for (slim::index_t i = 0; i < w.rows(); ++i)
      for (slim::index_t j = 0; j < w.cols(); ++j) out(i, j) = w(i, w.cols() - 1 - j);
    return out;
  }
  slim::matrix<float> invert(slim::matrix_view<float const> w) const { return apply(w); }
  slim::calibration apply_to(slim::calibration const& calib) const {
    std::vector<slim::index_t> from;
    for (slim::index_t j = calib.channels() - 1; j >= 0; --j) from.push_back(j);
    return calib.remapped(from);
  }
  std::string describe() const { return "reversed channels"; }
};

/// Drops activations that hardly matter.
struct thresholded_input {
  float share = 1e-3f; // of the largest
  void round_inplace(slim::matrix_view<float> x) const {
    float const threshold = share * slim::largest_magnitude(x);
    for (slim::index_t i = 0; i < x.rows(); ++i)
      for (slim::index_t j = 0; j < x.cols(); ++j)
        if (std::abs(x(i, j)) < threshold) x(i, j) = 0.0f;
  }
  std::string describe() const { return "thresholded inputs"; }
};

/// Adds the mean error of every row back to the kept weights of that row.
struct restore_row_means {
  template <class State>
  State operator()(State state, slim::calibration const&, slim::context const&) const {
    for (slim::index_t i = 0; i < state.original.rows(); ++i) {
      double lost = 0, kept = 0;
      for (slim::index_t j = 0; j < state.original.cols(); ++j) {
        lost += static_cast<double>(state.original(i, j)) - static_cast<double>(state.current(i, j));
        kept += state.current(i, j) != 0.0f ? 1.0 : 0.0;
      }
      for (slim::index_t j = 0; j < state.original.cols(); ++j)
        if (state.current(i, j) != 0.0f) state.current(i, j) += static_cast<float>(lost / kept);
    }
    return state;
  }
  std::string describe() const { return "restore row means"; } // for the report; optional
};

} // namespace

using namespace slim::testing;

TEST_CASE("the saliency of the documentation keeps the laws, and prunes") {
  CHECK(describe(check_saliency(relative_magnitude{})) == "");
  auto const shown = slim::unstructured_pruner(relative_magnitude{}, {.sparsity = 0.5, .scope = slim::prune_scope::matrix});
  CHECK(describe(check_pruner(shown)) == "");
  slim::matrix<float> w(2, 2); // every row relative to its own largest: 1, 0.25 and 0.75, 1
  w(0, 0) = 400, w(0, 1) = 100, w(1, 0) = 3, w(1, 1) = -4;
  auto const kept = shown.select(w, slim::calibration(2));
  CHECK((kept.kept(0, 0) && !kept.kept(0, 1) && !kept.kept(1, 0) && kept.kept(1, 1)));
}

TEST_CASE("the linear saliency of the documentation keeps the laws, and makes a solver") {
  CHECK(describe(check_linear_saliency(peak_saliency{})) == "");
  auto const solver = slim::saliency_lora<peak_saliency>({.rank = {.ratio = 0.1}});
  STATIC_REQUIRE(slim::low_rank_solver<std::remove_const_t<decltype(solver)>>);
}

TEST_CASE("the low-rank solver of the documentation keeps the laws, and leaves small errors alone") {
  only_if_needed<slim::saliency_lora<slim::slim_saliency>> const solver{slim::slim_lora({.rank = {.number = 3}}), 1.0};
  CHECK(describe(check_low_rank_solver(solver, 3, hard_values())) == "");
  auto const calib = observed(normal_matrix(40, 30, 1), {.gram = true});
  CHECK(solver.solve(normal_matrix(20, 30, 2).view(), calib).rank() == 3);
  CHECK(solver.solve(normal_matrix(20, 30, 2, 1e-4f).view(), calib).rank() == 0);
}

TEST_CASE("the input quantizer of the documentation keeps the laws") {
  CHECK(describe(check_input_quantizer(thresholded_input{}, 1e-3)) == "");
}

TEST_CASE("the transform of the documentation keeps the laws, and the permutation it shows keeps more and computes the same") {
  CHECK(describe(check_transform([](slim::index_t) { return reversed{}; })) == "");
  auto const W = normal_matrix(24, 32, 1), W_up = normal_matrix(32, 8, 3);
  auto const calibration = observed(normal_matrix(64, 32, 2), {.gram = true});
  auto const found = slim::permutation_for_nm(W, calibration, slim::ria(), {.pattern = {2, 4}});
  auto const permuted = found.permutation.apply(W);
  auto const calib = found.permutation.apply_to(calibration);
  auto const up = found.permutation.apply_to_producer(W_up);
  CHECK(found.score_after > found.score_before);
  CHECK(slim::output_energy(permuted, calib) == Approx(slim::output_energy(W, calibration)));
  CHECK(up(0, 0) == W_up(found.permutation.order()[0], 0));
}

TEST_CASE("what the documentation stores is what it reads") {
  auto const W = normal_matrix(8, 32, 1);
  auto const layer = slim::compress(W, slim::chain(slim::absmax_quantizer({.bits = 4, .block = slim::per_group(16)}),
                                                   slim::nm_pruner<2, 4>(slim::magnitude{})));
  auto const read = stored_and_read(layer.weight.codes, layer.weight.mask);
  CHECK(read.mask == layer.weight.mask);
  CHECK(read.values() == layer.weight.values());
}

TEST_CASE("the step of the documentation brings the sum of every row back") {
  auto const W = normal_matrix(24, 32, 1);
  auto const calib = observed(normal_matrix(64, 32, 2), {.gram = true});
  auto const layer =
      slim::compress(W, calib, slim::chain(slim::nm_pruner<2, 4>(slim::wanda{}), restore_row_means{}, slim::slim_lora()));
  REQUIRE(layer.report.steps.size() == 3);
  CHECK(layer.report.steps[1].step == "restore row means");
  slim::matrix<float> const kept = layer.weight.values();
  for (slim::index_t i = 0; i < W.rows(); ++i) {
    double lost = 0;
    for (slim::index_t j = 0; j < W.cols(); ++j) {
      lost += static_cast<double>(W(i, j)) - static_cast<double>(kept(i, j));
      CHECK((layer.weight.mask.kept(i, j) || kept(i, j) == 0.0f));
    }
    CHECK(std::abs(lost) < 1e-5);
  }
}

TEST_CASE("embedding.md: work is watched and stopped, codes and sums of others run") {
  int told = 0;
  auto const tell = [&](slim::progress_report const&) { ++told; };
  std::stop_source source;
  slim::matrix<float> w(8, 32);
  for (slim::index_t k = 0; k < w.size(); ++k) w.data()[k] = static_cast<float>(k % 13) - 6.0f;
  auto const recipe = slim::chain(slim::absmax_quantizer());
  (void)slim::compress(w, recipe, watched(source, tell));
  CHECK(told > 0);
  source.request_stop();
  CHECK_THROWS_AS(slim::compress(w, recipe, watched(source, tell)), slim::cancelled);

  std::vector<std::int32_t> const qweight(4 * 8, 0x55555555), qzeros(1, 0x77777777);
  std::vector<slim::fp16> const scales(8, slim::fp16(0.5f));
  auto const [packed, order] =
      run_gptq({.d_out = 8, .d_in = 32, .bits = 4, .qweight = qweight, .qzeros = qzeros, .scales = scales});
  slim::matrix<float> x(1, 32), y(1, 8);
  x(0, 3) = 1.0f;
  slim::forward_into(packed, x, y, {.inputs = slim::input_precision::exact});
  CHECK((y(0, 0) == -1.5f && order.empty()));

  std::vector<float> in_sum2(32, 1.0f);
  in_sum2[2] = in_sum2[3] = 100.0f; // the smallest two of the first four weights
  auto const layer = prune_by_imatrix(w, in_sum2, std::vector<float>{4.0f});
  CHECK((layer.weight.mask.kept(0, 2) && layer.weight.mask.kept(0, 3) && !layer.weight.mask.kept(0, 0)));
}
