#include "formats/load.hpp"
#include "models/state_store.hpp"
#include "run/memory.hpp"
#include "run/memory_plan.hpp"
#include "support/temporary_folder.hpp"
#include "tiny_gguf.hpp"

#include <catch2/catch.hpp>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

block_state filled_state(index_t tokens, std::uint64_t seed) {
  block_state state;
  state.hidden = random_matrix(tokens, 5, seed);
  return state;
}

} // namespace

TEST_CASE("states come back from a scratch file as they were, also when what they carry grows and goes") {
  for (bool const on_disk : {false, true}) {
    state_store states(on_disk);
    CHECK(states.empty());
    for (std::uint64_t w = 0; w < 3; ++w) states.add(filled_state(4, w));
    REQUIRE(states.size() == 3);
    for (std::size_t w = 0; w < 3; ++w) {
      block_state state = states.take(w);
      CHECK(state.hidden == random_matrix(4, 5, w));
      state.carry(1) = random_matrix(4, static_cast<index_t>(9 - 2 * w), 10 + w); // number 0 stays empty
      states.put(w, std::move(state));
    }
    for (std::size_t w = 3; w-- > 0;) {
      block_state state = states.take(w);
      CHECK(state.hidden == random_matrix(4, 5, w));
      CHECK(state.carry(0).empty());
      CHECK(state.carry(1) == random_matrix(4, static_cast<index_t>(9 - 2 * w), 10 + w));
      state.carried.clear();
      states.put(w, std::move(state));
    }
    CHECK(states.take(1).carried.empty());
  }
}

TEST_CASE("a model in its file gives the weights, evaluations and layers of the same model in memory, states on disk or not") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_gguf(folder / "tiny.gguf", m);
  model const stored = load_model(folder / "tiny.gguf").value();
  m.rotary = stored.rotary;
  m.config.rope = stored.config.rope;
  CHECK(stored.blocks.empty());
  CHECK(linear_weight_count(stored) == linear_weight_count(m));
  auto const ids = random_tokens(96, 256);
  auto const expected = evaluate(m, ids, {.context = 16});
  for (bool const on_disk : {false, true})
    CHECK(evaluate(stored, ids, {.context = 16, .states_on_disk = on_disk}).window_nll == expected.window_nll);

  for (char const* recipe : {"slim-q@g16", "joint-q@g16@r2"}) {
    INFO(recipe);
    auto const how = find_recipe(recipe).value();
    model compressed = m;
    auto const cost = compress_in_place(compressed, ids, how, {.context = 16, .calib_tokens = 64, .held_out_tokens = 32}, 32);
    for (bool const on_disk : {false, true}) {
      index_t blocks = 0;
      auto const again = compress_model(stored, ids, how,
                                        {.context = 16, .calib_tokens = 64, .held_out_tokens = 32, .states_on_disk = on_disk},
                                        32, [&](index_t n, block& b, packed_weights& packed) {
                                          CHECK(n == blocks++);
                                          CHECK(packed.empty());
                                          for (linear const& l : b.linears)
                                            CHECK(l.weight == compressed.blocks[static_cast<std::size_t>(n)][l.role].weight);
                                        });
      CHECK(blocks == 2);
      CHECK(again.layer_error == cost.layer_error);
      CHECK(again.held_out_error == cost.held_out_error);
    }
    auto const first = compress_model(stored, ids, how, {.context = 16, .calib_tokens = 64, .max_blocks = 1}, 32,
                                      [](index_t n, block&, packed_weights&) { CHECK(n == 0); });
    CHECK(first.blocks == 1);
    CHECK(first.layers.size() == 7);
  }

  model loaded = stored;
  load_into_memory(loaded);
  CHECK(loaded.blocks.size() == 2);
  CHECK(loaded.blocks[1]["down"].weight == m.blocks[1]["down"].weight);
  CHECK(*loaded.output_head().in_memory() == *m.embedding.in_memory());
}

TEST_CASE("a plan does not depend on the number of blocks, uses the disk before it refuses, and names its parts") {
  auto const how = find_recipe("joint-q").value();
  model m = random_llama();
  planned_work const work{.window = 1024,
                          .calib_tokens = 1 << 20,
                          .held_out_tokens = 1024,
                          .evaluated_tokens = 4096,
                          .evaluations = 1,
                          .how = &how};
  double const all = plan_memory(m, work, 1e12).total();
  CHECK(!plan_memory(m, work, 1e12).states_on_disk);
  auto const on_disk = plan_memory(m, work, all - 1);
  CHECK(on_disk.states_on_disk);
  CHECK(on_disk.total() < all / 2);
  CHECK_THROWS_WITH(plan_memory(m, work, on_disk.total() / 2), Catch::Contains("--memory-limit") &&
                                                                   Catch::Contains("one block as floats") &&
                                                                   Catch::Contains("are needed"));
  m.blocks.push_back(m.blocks.back());
  m.config.layers = 3;
  CHECK(plan_memory(m, work, 1e12).total() == all);
}

TEST_CASE("numbers of bytes are read with their unit") {
  CHECK(parse_bytes("--x", "5.5G") == 5.5e9);
  CHECK(parse_bytes("--x", "800MB") == 8e8);
  CHECK(parse_bytes("--x", "1234") == 1234);
  for (char const* wrong : {"", "G", "-1G", "0", "5 G", "5T", "nan", "inf"})
    CHECK_THROWS_WITH(parse_bytes("--x", wrong), Catch::Contains(std::string("--x ") + wrong));
}
