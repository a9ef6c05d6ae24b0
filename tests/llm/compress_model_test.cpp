#include "compress/compress_model.hpp"
#include "compress/rank_plan.hpp"
#include "compress/run_folder.hpp"
#include "random_model.hpp"
#include "thread_ranks.hpp"

#include "slim/slim.hpp"
#include "slim/testing/executors.hpp"
#include "slim/testing/hard_matrices.hpp"
#include "slim/testing/same_bits.hpp"

#include <catch2/catch.hpp>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

recipe named(std::string const& name) { return find_recipe(name).value(); }

std::vector<matrix<float>> all_weights(model& m) {
  std::vector<matrix<float>> all;
  for (linear const* l : all_linears(m)) all.push_back(l->weight);
  return all;
}

compress_config const windows_of_8{.context = 8, .calib_tokens = 40};

} // namespace

TEST_CASE("a compressed model is the same bit for bit on 1, 2 and 4 threads, a user's pool, and with tasks in reverse") {
  auto const ids = random_tokens(40, 61);
  auto const weights_on = [&](auto const& executor, char const* name) {
    context ctx;
    ctx.where = executor;
    model m = random_llama();
    (void)compress_in_place(m, ids, named(name), windows_of_8, 32, ctx);
    return all_weights(m);
  };
  for (char const* name :
       {"slim", "slim-q@g16", "slim-o@50", "l2qer@channel", "slim-repo", "eora", "joint-q@g16", "int3-lr@g16@r2"}) {
    auto const expected = weights_on(slim::serial_executor{}, name);
    CHECK(weights_on(slim::testing::thread_team_executor{2}, name) == expected);
    CHECK(weights_on(slim::testing::thread_team_executor{4}, name) == expected);
    CHECK(weights_on(slim::testing::backwards_executor{}, name) == expected);
#if defined(_OPENMP)
    for (int const threads : {1, 2, 4}) CHECK(weights_on(slim::openmp_executor{threads}, name) == expected);
#endif
  }
}

namespace {

/// What compressing a model in a job of so many ranks makes: weights, packed layers and reports.
struct made_by_ranks {
  std::vector<matrix<float>> weights;
  std::map<std::string, std::vector<std::byte>> codes;
  nlohmann::json layers;

  made_by_ranks(model const& source, recipe const& how, compress_config config, index_t size) {
    auto const ids = random_tokens(11 * 8, 61);
    in_ranks(size, [&](ranks& rank) {
      context ctx;
      ctx.where = serial;
      model m = source;
      packed_weights packed;
      compress_config mine = config;
      mine.job = &rank;
      auto const cost = compress_in_place(m, ids, how, mine, 32, ctx, &packed);
      if (!rank.first()) return;
      weights = all_weights(m);
      for (auto const& [name, layer] : packed) {
        codes[name] = layer.weight;
        for_each_part(name, layer, [&](std::string const& part, auto const&, auto const&, std::vector<std::byte> const& bytes) {
          codes[part] = bytes;
        });
      }
      layers = layers_as_json(cost.layers);
    });
    for (auto& layer : layers)
      for (auto& step : layer["steps"]) step["seconds"] = 0;
  }

  bool operator==(made_by_ranks const&) const = default;

private:
  static constexpr slim::serial_executor serial{};
};

} // namespace

TEST_CASE("a compressed model is the same bit for bit in jobs of 1, 2, 3 and 4 ranks, packed layers and reports included") {
  auto const check = [](model const& m, char const* name, compress_config config) {
    INFO(name);
    auto const how = named(name);
    config.keep_packed = how.packs;
    config.max_blocks = 2;
    made_by_ranks const alone(m, how, config, 1);
    CHECK(alone.layers.size() >= 14);
    for (index_t const size : {2, 3, 4}) CHECK(made_by_ranks(m, how, config, size) == alone);
  };
  compress_config const windows{.context = 8, .calib_tokens = 56, .held_out_tokens = 24, .keep = [](compression_state&) {}};
  for (char const* name : {"slim-q@g16", "joint-q@g16", "int3-lr@g16@r2", "int3-lr@g16@r2@guided", "slim-repo", "svdquant"})
    check(random_llama(), name, windows);
  check(random_llama(61, rope_style::rotate_half, 16), "int3-lr@g16@r2", windows); // Gram matrices of several tiles
  for (auto const& [name, m] : random_families())
    if (name == "experts") check(m, "int3-lr@g16@r2", windows);
  compress_config by_sums = windows;
  by_sums.statistics = [](linear const& l) {
    std::vector<double> squares;
    for (index_t j = 0; j < l.d_in(); ++j) squares.push_back(1.0 + static_cast<double>(j % 5));
    return slim::calibration::from_moments({.sum_square = squares}, 10);
  };
  check(random_llama(), "rtn-int4@g16@search", by_sums);
}

TEST_CASE("a model that overflows is refused in every rank alike, with the name of the tensor") {
  model m = random_llama();
  for (float& w : m.blocks[1].find_norm("mlp_norm")->weight) w = 3e38f;
  std::vector<std::string> said(3);
  in_ranks(3, [&](ranks& rank) {
    model mine = m;
    compress_config config = windows_of_8;
    config.job = &rank;
    try {
      (void)compress_in_place(mine, random_tokens(40, 61), named("slim-q@g16"), config);
    } catch (slim::nonfinite_error const& error) {
      said[static_cast<std::size_t>(rank.rank())] = error.what();
    }
  });
  CHECK(said[0].find("tensor 'gate'") != std::string::npos);
  CHECK(said[1] == said[0]);
  CHECK(said[2] == said[0]);
}

TEST_CASE("every layer is calibrated on what the compressed layers before it make of the text") {
  auto const ids = random_tokens(40, 61);
  auto const how = named("slim");
  model m = random_llama();
  (void)compress_in_place(m, ids, how, windows_of_8, 32);

  // Literally: run all windows at once through the half-compressed model, a linear at a time.
  model other = random_llama();
  forward_pass const pass(other, 8);
  auto hidden = pass.embed(ids);
  auto const compress = [&](linear& l, matrix<float> const& x) {
    slim::calibration calib(l.d_in(), {.gram = true});
    for (index_t w = 0; w < 5; ++w) calib.observe(matrix_view<float const>(x.view()).middle_rows(8 * w, 8));
    l.weight = slim::decompress(how.chain(how.rank).compress(l.weight.view(), calib));
  };
  for (block& b : other.blocks) {
    auto const x = pass.normalized(*b.find_norm("attention_norm"), hidden);
    for (char const* role : {"q", "k", "v"}) compress(b[role], x);
    block_state state;
    auto const a = pass.attention(b, state, apply(b["q"], x), apply(b["k"], x), apply(b["v"], x));
    compress(b["o"], a);
    apply_into(b["o"], a, hidden, slim::destination::add);
    auto const y = pass.normalized(*b.find_norm("mlp_norm"), hidden);
    for (char const* role : {"gate", "up"}) compress(b[role], y);
    auto const h = pass.gated(apply(b["gate"], y), apply(b["up"], y));
    compress(b["down"], h);
    apply_into(b["down"], h, hidden, slim::destination::add);
  }
  auto const weights = all_weights(m), expected = all_weights(other);
  REQUIRE(weights.size() == expected.size());
  for (std::size_t l = 0; l < weights.size(); ++l)
    for (index_t k = 0; k < weights[l].size(); ++k) REQUIRE(weights[l].data()[k] == Approx(expected[l].data()[k]).margin(2e-3));
}

TEST_CASE(
    "the ledger of a model is the weighted mean of its layers, and recipes that keep the weights cost what the source costs") {
  auto const ids = random_tokens(40, 61);
  model m = random_llama();
  auto const dense = compress_in_place(m, ids, named("dense"), windows_of_8, 5.0);
  CHECK(dense.bits_per_weight == 5.0);
  CHECK(dense.layers.empty());
  CHECK(all_weights(m) == [] {
    model fresh = random_llama();
    return all_weights(fresh);
  }());

  auto const cost = compress_in_place(m, ids, named("slim"), windows_of_8, 5.0);
  REQUIRE(cost.layers.size() == 14);
  double bits = 0, size = 0;
  for (auto const& layer : cost.layers) {
    bits += layer.report.last().bits_per_weight * static_cast<double>(layer.report.rows * layer.report.cols);
    size += static_cast<double>(layer.report.rows * layer.report.cols);
  }
  CHECK(cost.bits_per_weight == Approx(bits / size));
  CHECK(cost.calib_tokens == 40);
  CHECK(cost.layers.front().role == "q");
  CHECK(cost.layers.back().role == "down");
}

TEST_CASE("input rounding is switched on in every linear and changes the outputs") {
  auto const ids = random_tokens(16, 61);
  model m = random_llama();
  auto const before = all_logits(m, ids, 8);
  (void)compress_in_place(m, ids, named("dense@fp8"), windows_of_8, 32);
  for (block const& b : m.blocks) {
    CHECK(b["q"].round_input);
    CHECK(b["down"].round_input);
  }
  CHECK(!(all_logits(m, ids, 8) == before));
}

TEST_CASE("every base recipe runs, says what its layers cost, and leaves finite weights") {
  auto const ids = random_tokens(80, 61);
  for (auto const& base : base_recipes()) {
    INFO(base.name);
    bool const stock = base.name.starts_with("gguf:"); // blocks of 32: the types by which they differ have tests of their own
    if (stock && base.name != "gguf:q4_0" && base.name != "gguf:iq4_nl") continue;
    model m = random_llama(61, rope_style::rotate_half, stock ? 16 : 4);
    auto const cost =
        compress_in_place(m, ids, named(base.name.c_str()), {.context = 8, .calib_tokens = 40, .held_out_tokens = 40}, 32);
    for (auto const& weights : all_weights(m)) CHECK(slim::testing::all_finite(weights));
    if (base.name == "dense") continue;
    CHECK(cost.layers.size() == 14);
    CHECK(cost.bits_per_weight > 2.0);
    CHECK(cost.layer_error < 1.0);
    CHECK(cost.held_out_error > 0.0);
  }
}

TEST_CASE("a recipe's name says what is wrong with it") {
  CHECK(find_recipe("slimm").why().find("recipe 'slimm' is not known") != std::string::npos);
  CHECK(find_recipe("slim@g0").why().find("modifier @g0 is not known") != std::string::npos);
  CHECK(find_recipe("slim@g12x").why().find("modifier @g12x is not known") != std::string::npos);
  CHECK(find_recipe("absmax@50").why().find("prunes nothing") != std::string::npos);
  CHECK(find_recipe("wanda-24@channel").why().find("quantizes nothing") != std::string::npos);
  CHECK(find_recipes("slim,,dense").why().find("recipe ''") != std::string::npos);
  CHECK(find_recipe("gptq-int4@r0.1").why().find("has no adapter") != std::string::npos);
  CHECK(find_recipe("slim@no-target").why().find("aims at the weights anyway") != std::string::npos);
  CHECK(find_recipe("slim@r1.5").why().find("modifier @r1.5 is not known") != std::string::npos);
  CHECK(find_recipe("squeeze-3@g64").why().find("has groups of its own, or none") != std::string::npos);
  CHECK(find_recipe("sba-2@channel").why().find("needs groups of columns") != std::string::npos);
  CHECK(find_recipe("squeeze-3@damp1").why().find("has no error feedback") != std::string::npos);
  CHECK(find_recipe("gptq-int3@damp0").why().find("modifier @damp0 is not known") != std::string::npos);
  CHECK(find_recipe("svdquant@int8").why().find("rounds its inputs already") != std::string::npos);
  CHECK(find_recipe("rtn-int3@range=best").why().find("possible ranges are minmax") != std::string::npos);
  CHECK(find_recipe("spqr-3@range=dobi").why().find("does not round to nearest") != std::string::npos);
  CHECK(find_recipe("rtn-int3@range=output@g32").value().steps.front().find("DOBI by output error") != std::string::npos);
  for (char const* name : {"gptq-int3@search", "rtn-int4@search", "gptq-int4@search@channel"})
    CHECK(find_recipe(name).has_value());
  CHECK(find_recipe("int4-lr@search").why().find("does not take its scales from the largest weights") != std::string::npos);
  CHECK(find_recipe("absmax@search").why().find("has a scale that rows share") != std::string::npos);
  for (char const* name : {"ct:int4-g128@no-target@damp0.3", "mlx:3@g32@guided"}) CHECK(find_recipe(name).has_value());
  CHECK(find_recipe("gguf:q4_0@g64").why().find("has groups of its own") != std::string::npos);
  for (auto const& base : base_recipes()) CHECK(find_recipe(base.name).has_value());
  CHECK(find_recipes("slim-q@50@g128@fp8,dense").value().size() == 2);
}

TEST_CASE("layers aimed at the dense model's outputs repair what earlier layers broke") {
  // The same errors before: a layer fitted to dense outputs must end nearer to them than one fitted to its own weight.
  auto const ids = random_tokens(400, 61);
  auto const drift = [&](char const* name) {
    model const dense = random_llama();
    model m = random_llama();
    (void)compress_in_place(m, ids, named(name), {.context = 8, .calib_tokens = 400}, 32);
    forward_pass const pass(dense, 8);
    auto hidden = pass.embed(ids), moved = hidden;
    for (std::size_t b = 0; b < m.blocks.size(); ++b) {
      pass.run_block(dense.blocks[b], hidden);
      pass.run_block(m.blocks[b], moved);
    }
    double sum = 0;
    for (index_t k = 0; k < hidden.size(); ++k) sum += std::pow(static_cast<double>(hidden.data()[k] - moved.data()[k]), 2);
    return sum;
  };
  double const aimed = drift("joint@r2"), plain = drift("joint@r2@no-target");
  CHECK(aimed < 0.9 * plain);
}

TEST_CASE("tokens held out are measured and not fitted to") {
  auto const ids = random_tokens(80, 61);
  model m = random_llama(), other = random_llama();
  auto const with = compress_in_place(m, ids, named("slim"), {.context = 8, .calib_tokens = 40, .held_out_tokens = 40}, 32);
  auto const without = compress_in_place(other, ids, named("slim"), {.context = 8, .calib_tokens = 40}, 32);
  CHECK(all_weights(m) == all_weights(other));
  CHECK(with.held_out_error > 0.5 * with.layer_error);
  CHECK(without.held_out_error == 0.0);
}

TEST_CASE("a budget of bits is kept, and spent") {
  auto const ids = random_tokens(80, 61);
  model m = random_llama();
  name_linears(m);
  auto how = named("joint-q@g16");
  plan_ranks(how, {.rank = "", .by_role = "", .budget = 6.0}, m, ids, 8);
  auto const cost = compress_in_place(m, ids, how, {.context = 8, .calib_tokens = 80}, 32);
  CHECK(cost.bits_per_weight < 6.3); // scales of the last, ragged groups come on top
  CHECK(cost.bits_per_weight > 5.0);
  CHECK(how.ranks.size() == 14);
  auto by_role = named("slim");
  plan_ranks(by_role, {.rank = "3", .by_role = "q=0.5,down=2", .budget = 0}, m, ids, 8);
  CHECK(by_role.rank_of("any", "v").number == 3);
  CHECK(by_role.rank_of("any", "q").ratio == 0.5);
  CHECK(by_role.rank_of("any", "down").number == 2);
  CHECK_THROWS_WITH(plan_ranks(by_role, {.rank = "", .by_role = "x=1", .budget = 0}, m, ids, 8), Catch::Contains("x=1"));
  CHECK_THROWS_WITH(plan_ranks(by_role, {.rank = "1.5", .by_role = "", .budget = 0}, m, ids, 8), Catch::Contains("1.5"));
  CHECK_THROWS_WITH(plan_ranks(how, {.rank = "", .by_role = "", .budget = 0.5}, m, ids, 8), Catch::Contains("0.5"));
}

TEST_CASE("bits from a budget go to layers, and the budget is kept") {
  auto const ids = random_tokens(80, 61);
  model m = random_llama();
  name_linears(m);
  auto how = named("gptq-int3@g16");
  plan_ranks(how, {.rank = "", .by_role = "", .budget = 0, .bits = 4.5}, m, ids, 8);
  CHECK(how.bits.size() == 14);
  auto const cost = compress_in_place(m, ids, how, {.context = 8, .calib_tokens = 80}, 32);
  CHECK(cost.bits_per_weight <= 4.5 + 1e-9);
  CHECK(cost.bits_per_weight > 4.2);
  for (auto const& layer : cost.layers)
    CHECK(std::floor(layer.report.last().bits_per_weight - 1.0) <= how.bits.at(layer.name)); // scales of groups of 16: 1.2 bits
  CHECK_THROWS_WITH(plan_ranks(how, {.rank = "", .by_role = "", .budget = 0, .bits = 2.5}, m, ids, 8),
                    Catch::Contains("--bits 2.5: recipe gptq-int3@g16 takes 3."));
  auto svdquant = named("svdquant"), joint = named("int3-lr");
  CHECK_THROWS_WITH(plan_ranks(svdquant, {.rank = "", .by_role = "", .budget = 0, .bits = 4}, m, ids, 8),
                    Catch::Contains("svdquant has no codes of one width"));
  CHECK_THROWS_WITH(plan_ranks(joint, {.rank = "", .by_role = "", .budget = 0, .bits = 4}, m, ids, 8),
                    Catch::Contains("add @no-target"));
}

TEST_CASE("SVDQuant's codes read rounded inputs, its branch reads them as they come") {
  auto const ids = random_tokens(80, 61);
  model m = random_llama();
  (void)compress_in_place(m, ids, named("svdquant"), {.context = 8, .calib_tokens = 80}, 32);
  linear& l = m.blocks.front()["down"];
  REQUIRE(!l.rest_L.empty());
  matrix<float> const x = slim::testing::normal_matrix(5, l.d_in(), 3);
  matrix<float> rounded = x, codes = l.weight, expected(5, l.d_out()), inner(5, l.rest_L.cols());
  l.round_input(rounded.view());
  CHECK(!(rounded == x));
  matrix<float> const right_t(slim::transposed(l.rest_R.view())), left_t(slim::transposed(l.rest_L.view()));
  slim::gemm_into(right_t.view(), left_t.view(), codes.view(), slim::destination::subtract);
  slim::gemm_into(rounded.view(), slim::transposed(codes.view()), expected.view());
  slim::gemm_into(x.view(), l.rest_L.view(), inner.view());
  slim::gemm_into(inner.view(), l.rest_R.view(), expected.view(), slim::destination::add);
  matrix<float> const y = apply(l, x);
  for (index_t k = 0; k < y.size(); ++k) CHECK(y.data()[k] == Approx(expected.data()[k]).margin(1e-4));
}
