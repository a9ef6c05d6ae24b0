#include "compress/compress_model.hpp"
#include "random_model.hpp"

#include "slim/testing/same_bits.hpp"

#include <catch2/catch.hpp>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

// A family that the program does not know: attention and MLP read the same norm (Phi, Falcon), q, k and v are one linear, and
// the output of attention is normalized before it is added (Gemma 2).

enum carried : std::size_t { attention_mix, mlp_mix };

matrix<float> shared_input(forward_pass const& pass, block const& b, block_state& state) {
  return pass.normalized(*b.find_norm("input_norm"), state.hidden);
}

matrix<float> columns(matrix<float> const& m, index_t first, index_t count) {
  return matrix<float>(m.view().block(0, first, m.rows(), count));
}

void run_both(forward_pass const& pass, block const& b, block_state& state, std::vector<matrix<float>> outputs) {
  auto const& c = pass.config();
  auto const& qkv = outputs[0];
  state.carry(attention_mix) = pass.attention(b, state, columns(qkv, 0, c.q_size()), columns(qkv, c.q_size(), c.kv_size()),
                                              columns(qkv, c.q_size() + c.kv_size(), c.kv_size()));
  state.carry(mlp_mix) = pass.relu(std::move(outputs[1]));
}

void add_normalized(forward_pass const& pass, block const& b, block_state& state, std::vector<matrix<float>> outputs) {
  pass.normalize_inplace(*b.find_norm("post_attention_norm"), outputs[0]);
  for (index_t k = 0; k < outputs[0].size(); ++k) state.hidden.data()[k] += outputs[0].data()[k];
}

std::vector<stage> parallel_stages(model_config const&) {
  return {{.linears = {"qkv", "up"}, .input = shared_input, .combine = run_both},
          {.linears = {"o"},
           .input = [](forward_pass const&, block const&, block_state& s) { return s.carry(attention_mix); },
           .combine = add_normalized},
          {.linears = {"down"}, .input = [](forward_pass const&, block const&, block_state& s) { return s.carry(mlp_mix); }}};
}

model_family const parallel_family = {.name = "parallel", .stages = parallel_stages};

model random_parallel() {
  model m = random_llama();
  m.config.family = &parallel_family;
  auto const& c = m.config;
  std::uint64_t seed = 700;
  std::vector<float> const ones(static_cast<std::size_t>(c.hidden), 1.0f);
  for (block& b : m.blocks) {
    b.norms = {named_norm("input_norm", ones), named_norm("post_attention_norm", ones)};
    b.linears = {random_linear("qkv", c.q_size() + 2 * c.kv_size(), c.hidden, ++seed),
                 random_linear("up", c.intermediate, c.hidden, ++seed), random_linear("o", c.hidden, c.q_size(), ++seed),
                 random_linear("down", c.hidden, c.intermediate, ++seed)};
  }
  return m;
}

} // namespace

TEST_CASE("a family with parallel attention, fused q, k, v and norms behind attention is compressed by its stages alone") {
  auto const ids = random_tokens(400, 61);
  for (char const* recipe : {"slim-q@g16", "eora", "joint-q@g16@r2"}) {
    INFO(recipe);
    model m = random_parallel();
    auto const cost =
        compress_in_place(m, ids, find_recipe(recipe).value(), {.context = 8, .calib_tokens = 320, .held_out_tokens = 80}, 32);
    REQUIRE(cost.layers.size() == 8);
    CHECK(cost.layers[0].role == "qkv");
    CHECK(cost.layers[3].role == "down");
    CHECK(cost.layer_error < 0.5);
    CHECK(cost.held_out_error > 0.0);
    for (linear const* l : all_linears(m)) CHECK(slim::testing::all_finite(l->weight));
  }
}

TEST_CASE("the table finds families by the types that files name") {
  CHECK(find_family(&model_family::gguf, "qwen3") == &llama_family);
  CHECK(find_family(&model_family::hugging_face, "opt") == &opt_family);
  CHECK(find_family(&model_family::gguf, "opt") == nullptr);
  CHECK(known_types(&model_family::gguf) == "llama, qwen2 and qwen3");
  for (model_family const* family : families()) {
    model_config c = random_llama().config;
    c.has.head_norms = true;
    for (auto format : {&model_family::gguf, &model_family::hugging_face}) {
      if ((family->*format).names.empty()) continue;
      std::vector<std::string> roles;
      for (linear_tensor const& tensor : (family->*format).tensors(c, "").linears) roles.push_back(tensor.role);
      c.family = family;
      CHECK(roles == linear_roles(c)); // every linear that a stage runs is loaded, and no other
    }
  }
}
