// Training of what stands beside codes, of the whole model and block by block: it lowers the loss, never ends worse, has the
// same bits on every executor and after a stop, and refuses what cannot be.

#include "llm/random_model.hpp"
#include "models/backward.hpp"
#include "run/input_error.hpp"
#include "support/temporary_folder.hpp"
#include "training/distill.hpp"
#include "training/refine.hpp"
#include "training/run_state.hpp"

#include "slim/testing/executors.hpp"

#include <catch2/catch.hpp>

#include <fstream>

using namespace slim_llm;
using namespace slim_llm::testing;
using Catch::Matchers::Contains;

namespace {

/// A small model, its packed layers and texts.
struct setting {
  model dense, base; ///< base: the compressed model but for its linears
  packed_weights layers;
  std::vector<int> train, choose;

  explicit setting(char const* recipe, model const& m = random_llama()) : dense(m) {
    name_linears(dense);
    base = dense;
    train = random_tokens(320, dense.config.vocab, 5);
    choose = random_tokens(96, dense.config.vocab, 6);
    model compressed = dense;
    compress_in_place(compressed, train, *find_recipe(recipe), {.context = 32, .calib_tokens = 320, .keep_packed = true}, 32,
                      {}, &layers);
  }
  [[nodiscard]] student made(trained_parts const& parts = {}) const { return {dense, layers, parts}; }
  [[nodiscard]] distillation trained(student& s, distill_config const& config, context const& ctx = {},
                                     progress const& report = {}) const {
    return distill(s, dense, train, choose, config, ctx, report);
  }
};

refine_config const few{.context = 32, .tokens_per_step = 64, .passes = 4, .learning_rate = 1e-2};

/// Refines on the training text, chosen by `choose`; the parts, and the layers as they are then.
std::pair<refinement, packed_weights> refined(setting const& given, std::vector<int> const& choose, refine_config const& config,
                                              context const& ctx = {}) {
  packed_weights after;
  auto const source = [&](std::string const& name) { return std::optional(given.layers.at(name)); };
  auto result = refine(
      given.dense, given.base, source, given.train, choose, config,
      [&](index_t, packed_weights const& block) { after.insert(block.begin(), block.end()); }, ctx);
  return {std::move(result), std::move(after)};
}

distill_config const small{
    .context = 32, .tokens_per_step = 64, .steps = 24, .learning_rate = 1e-2, .choose_every = 4, .state = {}, .run_name = "r"};

bool same(packed_weights const& a, packed_weights const& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](auto const& x, auto const& y) {
    return x.first == y.first && x.second.weight == y.second.weight && x.second.left == y.second.left &&
           x.second.right == y.second.right && x.second.left_values == y.second.left_values &&
           x.second.right_values == y.second.right_values;
  });
}

} // namespace

TEST_CASE("training scales and adapters comes nearer to the dense model, and what is stored is what trained") {
  for (char const* recipe : {"int3-lr@r2", "slim@r2", "joint-q@r2"}) {
    INFO(recipe);
    setting const given(recipe);
    student s = given.made();
    CHECK(same(s.layers(), given.layers)); // the start is what was packed
    auto const done = distill(s, given.dense, given.train, given.train, small);
    CHECK(done.after < 0.97 * done.before); // random tokens teach nothing about others
    CHECK(done.steps == 24);
    student again(given.dense, s.layers(), {});
    distill_config none = small;
    none.steps = 0;
    CHECK(distill(again, given.dense, given.train, given.train, none).before == done.after);
    // Codes stay.
    for (auto const& [name, layer] : s.layers()) {
      linear_info shape;
      for (linear_info const& l : linears_of(given.dense))
        if (l.name == name) shape = l;
      CHECK(decode(shape, layer).codes.codes == decode(shape, given.layers.at(name)).codes.codes);
    }
  }
}

TEST_CASE("cross entropy can be trained, too") {
  setting const given("int3-lr@r2");
  distill_config config = small;
  config.loss = training_loss::cross_entropy;
  student s = given.made();
  auto const done = distill(s, given.dense, given.train, given.train, config);
  CHECK(done.after < done.before);
}

TEST_CASE("gradients of scale factors and factors of adapters are those of differences") {
  setting const given("slim@r2");
  student s = given.made();
  distill_config none = small;
  none.steps = 0;
  auto const loss_at = [&](std::size_t tensor, std::size_t k, float change) {
    student moved = s;
    auto values = s.trained().values();
    values[tensor][k] += change;
    moved.set(values);
    return distill(moved, given.dense, given.choose, given.choose, none).before;
  };
  // One step of a text against the derivative along its own gradient: scales are stored in 16 bits, so steps are wide.
  matrix<float> const head = given.dense.output_head().to_float();
  std::vector<std::vector<float>> gradients;
  for (auto const& v : s.trained().values()) gradients.emplace_back(v.size());
  forward_pass const pass(given.dense, 32);
  auto hidden = pass.embed(given.choose);
  for (block const& b : given.dense.blocks) pass.run_block(b, hidden);
  auto const teacher = pass.head_input(hidden);
  (void)differentiate(
      s.weights(), 32, given.choose,
      [&](matrix_view<float const> h, matrix_view<float> dh) {
        return slim::divergence_into({head.view()}, h, {head.view()}, teacher, dh, 1.0f / 96);
      },
      [&](linear const& l, matrix_view<float const> x, matrix_view<float const> dy) {
        s.trained().add_gradients(l, x, dy, gradients);
      });
  int compared = 0;
  for (std::size_t tensor = 0; tensor < gradients.size(); ++tensor) {
    auto const largest = std::max_element(gradients[tensor].begin(), gradients[tensor].end(),
                                          [](float a, float b) { return std::abs(a) < std::abs(b); });
    auto const k = static_cast<std::size_t>(largest - gradients[tensor].begin());
    bool const scales = s.trained().tensors()[tensor].what == trained_tensor::kind::scales;
    float const change = scales ? 0.015625f : 0.03125f;
    double const difference = (loss_at(tensor, k, change) - loss_at(tensor, k, -change)) / (2 * static_cast<double>(change));
    INFO(s.trained().tensors()[tensor].linear << " " << static_cast<int>(s.trained().tensors()[tensor].what));
    CHECK(difference == Approx(static_cast<double>(*largest)).epsilon(0.08).margin(2e-4));
    ++compared;
  }
  CHECK(compared == 42);
}

TEST_CASE("a rate of 0 changes nothing, and training never ends worse than it began on the choosing text") {
  setting const given("int3-lr@r2");
  distill_config config = small;
  config.learning_rate = 0;
  student s = given.made();
  auto const still = given.trained(s, config);
  CHECK(same(s.layers(), given.layers));
  CHECK(still.after == still.before);
  config.learning_rate = 3; // far too much
  auto const wild = given.trained(s, config);
  CHECK(wild.after <= wild.before);
  config.steps = 0;
  CHECK(given.trained(s, config).before == wild.after);
}

TEST_CASE("training has the same bits on every executor and for a run that was stopped") {
  slim_test::temporary_folder const folder;
  setting const given("int3-lr@r2");
  student whole = given.made();
  auto const want = given.trained(whole, small);
  for (int const threads : {2, 3, 8}) {
    slim::testing::thread_team_executor const team{threads};
    student s = given.made();
    (void)given.trained(s, small, slim::testing::on(team));
    CHECK(same(s.layers(), whole.layers()));
  }
  distill_config config = small;
  config.state = folder.path() / "state.safetensors";
  struct killed {};
  for (index_t const stop : {9, 17}) {
    student s = given.made();
    CHECK_THROWS_AS(given.trained(s, config, {},
                                  [&](index_t done, index_t) {
                                    if (done == stop) throw killed();
                                  }),
                    killed);
  }
  student resumed = given.made();
  auto const done = given.trained(resumed, config);
  CHECK(done.losses.size() == 8); // from step 16, the last state, on
  CHECK(done.after == want.after);
  CHECK(done.before == want.before);
  CHECK(same(resumed.layers(), whole.layers()));
}

TEST_CASE("states of other runs and damaged ones are refused by name and change nothing") {
  slim_test::temporary_folder const folder;
  auto const file = folder.path() / "state";
  run_state const state{"run of mine", 7, 4, 0.5, 0.25, {{1, 2}, {}}, {{3, 4}, {}}, {std::byte{9}}};
  write_run_state(file, state);
  run_state read{"run of mine", 0, 0, 0, 0, {{0, 0}, {}}, {{0, 0}, {}}, {}};
  REQUIRE(read_run_state(file, read));
  CHECK(read.values == state.values);
  CHECK(read.best == state.best);
  CHECK(read.optimizer == state.optimizer);
  CHECK(read.step == 7);
  CHECK(read.best_loss == 0.25);
  run_state other{"another", 0, 0, 0, 0, {{0, 0}, {}}, {{0, 0}, {}}, {}};
  CHECK_THROWS_WITH(read_run_state(file, other), Contains("run of mine") && Contains("state"));
  run_state longer{"run of mine", 0, 0, 0, 0, {{0, 0, 0}, {}}, {{0, 0, 0}, {}}, {}};
  CHECK_THROWS_WITH(read_run_state(file, longer), Contains("3"));
  CHECK_FALSE(read_run_state(folder.path() / "none", other));
  std::ifstream in(file, std::ios::binary);
  std::string const bytes{std::istreambuf_iterator<char>(in), {}};
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    std::ofstream(file, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(size));
    run_state cut{"run of mine", 0, 0, 0, 0, {{0, 0}, {}}, {{0, 0}, {}}, {}};
    CHECK_THROWS_AS(read_run_state(file, cut), input_error);
    CHECK(cut.step == 0);
  }
}

TEST_CASE("what cannot be trained is refused, naming it") {
  setting given("int3-lr@r2");
  distill_config config = small;
  config.context = 512;
  student s = given.made();
  CHECK_THROWS_WITH(given.trained(s, config), Contains("96 tokens, fewer than one window of 512"));
  config = small;
  config.learning_rate = -1;
  CHECK_THROWS_WITH(given.trained(s, config), Contains("learning rate -1"));
  given.train[3] = 61;
  CHECK_THROWS_WITH(given.trained(s, small), Contains("token 61"));
  CHECK_THROWS_WITH(parse_trained_parts("norms"), Contains("'norms' does not train"));
  CHECK_THROWS_WITH(parse_trained_parts(""), Contains("nothing is named"));
  CHECK_THROWS_WITH(parse_training_loss("mse"), Contains("--loss mse"));
  setting const bare("gptq-int3");
  CHECK_THROWS_WITH(bare.made({.scales = false}), Contains("no adapters"));
  given.layers.erase(given.layers.begin());
  CHECK(same(given.made().layers(), given.layers)); // a linear without a layer stays as it is
}

TEST_CASE("errors that refining begins with are those of the residual streams of both models, drift included") {
  for (auto const& [family, dense] : {std::pair("llama", random_llama()), std::pair("gemma2", random_families()[3].second)}) {
    INFO(family);
    setting given("int3-lr@r2", dense);
    matrix<float> embedding = given.base.embedding.to_float(); // that of the compressed model is rounded elsewhere
    for (index_t k = 0; k < embedding.size(); ++k) embedding.data()[k] *= k % 2 == 0 ? 1.05f : 0.95f;
    given.base.embedding = stored_matrix(std::move(embedding));
    refine_config still = few;
    still.learning_rate = 0;
    auto const [result, after] = refined(given, given.choose, still);
    CHECK(same(after, given.layers));
    REQUIRE(result.parts.size() == 4);
    CHECK(result.parts[0].linears == "q k v o");
    CHECK(result.parts[3].linears == "gate up down");
    model packed = given.base;
    for (block& b : packed.blocks) use_packed(b, given.layers, std::nullopt);
    forward_pass const pass(given.dense, 32);
    block_state want, have;
    want.hidden = pass.embed(given.choose);
    have.hidden = forward_pass(packed, 32).embed(given.choose);
    for (std::size_t p = 0; p < 4; ++p) {
      for (std::size_t k = p % 2 * 2; k < p % 2 * 2 + 2; ++k) {
        stage const& s = pass.stages()[k];
        pass.move_on(s, given.dense.blocks[p / 2], pass.input(s, given.dense.blocks[p / 2], want), want);
        pass.move_on(s, packed.blocks[p / 2], pass.input(s, packed.blocks[p / 2], have), have);
      }
      double mean = 0;
      for (index_t t = 0; t < want.hidden.rows(); ++t) {
        double error = 0, size = 0;
        for (index_t j = 0; j < want.hidden.cols(); ++j) {
          error += std::pow(static_cast<double>(have.hidden(t, j)) - static_cast<double>(want.hidden(t, j)), 2);
          size += std::pow(static_cast<double>(want.hidden(t, j)), 2);
        }
        mean += error / size / static_cast<double>(want.hidden.rows());
      }
      CHECK(result.parts[p].before == Approx(mean).epsilon(1e-3));
      CHECK(result.parts[p].after == result.parts[p].before);
    }
  }
}

TEST_CASE("refining brings every part nearer to the dense model and never ends farther, codes stay") {
  for (char const* recipe : {"int3-lr@r2", "slim@r2", "joint-q@r2"}) {
    INFO(recipe);
    setting const given(recipe);
    auto const [result, after] = refined(given, given.train, few);
    refine_config still = few;
    still.learning_rate = 0;
    auto const untouched = refined(given, given.train, still).first;
    for (std::size_t p = 0; p < result.parts.size(); ++p) {
      CHECK(result.parts[p].after < result.parts[p].before);
      CHECK(result.parts[p].before <= untouched.parts[p].before); // what the parts before it have gained
    }
    CHECK(result.parts.back().after < 0.98 * untouched.parts.back().after);
    for (linear_info const& l : linears_of(given.dense))
      CHECK(decode(l, after.at(l.name)).codes.codes == decode(l, given.layers.at(l.name)).codes.codes);
  }
  setting const given("int3-lr@r2");
  refine_config wild = few;
  wild.learning_rate = 3;
  for (refined_part const& part : refined(given, given.choose, wild).first.parts) CHECK(part.after <= part.before);
}

TEST_CASE("scales that are all wrong by one factor are found again") {
  setting given("rtn-int4@g32"); // what it aims at is what these codes mean
  for (block& b : given.dense.blocks) use_packed(b, given.layers, std::nullopt);
  for (linear_info const& l : linears_of(given.dense)) {
    decoded_layer stored = decode(l, given.layers.at(l.name));
    for (index_t k = 0; k < stored.codes.scales.size(); ++k)
      stored.codes.scales.data()[k] = slim::rounded_to(stored.codes.scales.format(), 1.1f * stored.codes.scales.data()[k]);
    given.layers.at(l.name) = pack(stored.codes, nullptr, nullptr);
  }
  refine_config patient = few;
  patient.passes = 20;
  for (refined_part const& part : refined(given, given.choose, patient).first.parts) {
    INFO(part.block << " " << part.linears);
    CHECK(part.after < 0.02 * part.before);
  }
}

TEST_CASE("refining has the same bits on every executor") {
  setting const given("int3-lr@r2");
  auto const want = refined(given, given.choose, few).second;
  CHECK_FALSE(same(want, given.layers));
  for (int const threads : {1, 2, 3, 8}) {
    slim::testing::thread_team_executor const team{threads};
    CHECK(same(refined(given, given.choose, few, slim::testing::on(team)).second, want));
  }
}

TEST_CASE("what cannot be refined is refused, naming it") {
  setting given("int3-lr@r2");
  refine_config config = few;
  config.context = 512;
  CHECK_THROWS_WITH(refined(given, given.choose, config), Contains("96 tokens, fewer than one window of 512"));
  config = few;
  config.learning_rate = std::nan("");
  CHECK_THROWS_WITH(refined(given, given.choose, config), Contains("learning rate nan"));
  config = few;
  config.passes = -1;
  CHECK_THROWS_WITH(refined(given, given.choose, config), Contains("-1 passes"));
  config = few;
  config.learning_rate = 1e30;
  CHECK_THROWS_WITH(refined(given, given.choose, config), Contains("block 0 (q k v o)") && Contains("lower learning rate"));
  given.train[3] = 61;
  CHECK_THROWS_WITH(refined(given, given.choose, few), Contains("token 61"));
  setting const bare("gptq-int3");
  config = few;
  config.parts.scales = false;
  CHECK_THROWS_WITH(refined(bare, bare.choose, config), Contains("no adapters"));
  CHECK(find_recipe("int3-lr@refine@kl")->refined);
  CHECK_THROWS_WITH(setting("int3-lr@refine"), Contains("use `refine`"));
  CHECK(find_recipe("wanda-24@refine").why().find("quantizes nothing") != std::string::npos);
}
