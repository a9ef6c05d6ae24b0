#include "compress/compress_model.hpp"
#include "evaluate/evaluate.hpp"
#include "evaluate/generate.hpp"
#include "formats/export_folder.hpp"
#include "formats/export_model.hpp"
#include "formats/export_names.hpp"
#include "formats/load.hpp"
#include "formats/slim_writer.hpp"
#include "tiny_folder.hpp"

#include "slim/testing/same_bits.hpp"

#include <algorithm>
#include <array>
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
  state.carry(mlp_mix) = pass.activated(std::move(outputs[1]));
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

model mixture_of_bytes() {
  model m = random_of(mixture_family, [](model_config& c) {
    c.vocab = 256;
    c.experts = 5;
    c.experts_per_token = 2;
    c.has.head_norms = c.normalize_expert_weights = true;
  });
  m.embedding = random_matrix(256, m.config.hidden, 1);
  return m;
}

/// Names and shapes of the tensors of a folder.
std::map<std::string, std::vector<index_t>> shapes_in(std::filesystem::path const& folder) {
  std::map<std::string, std::vector<index_t>> shapes;
  checkpoint const file(folder); // whose tensors must outlive the loop
  for (auto const& tensor : file.tensors()) shapes[tensor.name] = tensor.shape;
  return shapes;
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
  CHECK(known_types(&model_family::gguf) == "llama, qwen2, qwen3, smollm3, olmo2, gemma2, gemma3, phi3, qwen3moe and olmoe");
  for (model_family const* family : families()) {
    model_config c = random_llama().config;
    c.has.head_norms = true;
    c.experts = 3;
    for (auto format : {&model_family::gguf, &model_family::hugging_face}) {
      if ((family->*format).names.empty()) continue;
      std::vector<std::string> roles;
      for (linear_tensor const& tensor : (family->*format).tensors(c, "").linears) roles.push_back(tensor.role);
      c.family = family;
      CHECK(roles == linear_roles(c)); // every linear that a stage runs is loaded, and no other
    }
  }
}

TEST_CASE("every family: a text that grows token by token, or by pieces, has the logits of the whole text at once") {
  for (auto const& [name, m] : random_families()) {
    INFO(name);
    auto const ids = random_tokens(90, 61);
    auto const whole = all_logits(m, ids, 90);
    generation const engine(m, 90, {.kv_cache = slim::number_format::fp32});
    growing_text by_one = engine.begin(), by_pieces = engine.begin();
    for (std::size_t first = 0; first < ids.size(); first += 30)
      for (std::size_t k = 0; k < 30; ++k) {
        auto const logits = engine.append(by_one, {ids.data() + first + k, 1});
        for (index_t j = 0; j < 61; ++j) REQUIRE(logits(0, j) == Approx(whole(index_t(first + k), j)).margin(2e-4));
      }
    for (std::size_t first = 0; first < ids.size(); first += 30) {
      auto const logits = engine.append(by_pieces, {ids.data() + first, 30});
      for (index_t j = 0; j < 61; ++j) REQUIRE(logits(0, j) == Approx(whole(index_t(first + 29), j)).margin(2e-4));
    }
  }
}

TEST_CASE("a window hides what lies before it, and nothing else") {
  model m = random_of(llama_family, [](model_config& c) { c.attention = {{.window = 3}, {}}; });
  m.blocks.pop_back();
  m.config.layers = 1;
  auto ids = random_tokens(300, 61); // more than one block of queries
  auto const before = all_logits(m, ids, 300);
  ids[150] = (ids[150] + 1) % 61;
  auto const after = all_logits(m, ids, 300);
  for (index_t t = 0; t < 300; ++t) {
    bool const same = before.view().middle_rows(t, 1)(0, 0) == after.view().middle_rows(t, 1)(0, 0);
    CHECK(same == (t < 150 || t > 152));
  }
}

TEST_CASE("every family is compressed by its stages, also towards the dense model's outputs") {
  auto const ids = random_tokens(400, 61);
  for (auto const& [name, dense] : random_families())
    for (char const* recipe : {"slim-q@g16", "joint-q@g16@r2"}) {
      INFO(name << " " << recipe);
      model m = dense;
      auto const cost = compress_in_place(m, ids, find_recipe(recipe).value(),
                                          {.context = 40, .calib_tokens = 320, .held_out_tokens = 80}, 32);
      CHECK(cost.layers.size() == all_linears(m).size());
      CHECK(cost.layer_error > 0.0);
      CHECK(cost.layer_error < 0.5);
      for (linear const* l : all_linears(m)) CHECK(slim::testing::all_finite(l->weight));
      for (std::size_t n = 0; n < m.blocks.size(); ++n)
        for (std::size_t k = 0; k < m.blocks[n].kept.size(); ++k)
          CHECK(m.blocks[n].kept[k].weight == dense.blocks[n].kept[k].weight);
    }
}

TEST_CASE("an expert that no token was sent to is left as it is, and named") {
  model m = random_families().back().second;
  auto& router = m.blocks[1].kept[0].weight; // expert 3 of the second block always loses
  for (block& b : m.blocks)
    for (float& w : b.find_norm("mlp_norm")->weight) w = 1;
  std::array<float, 5> const favour = {1, -2, 3, 0, -5}; // of the first channel: two experts like it positive, two negative
  for (index_t e = 0; e < 5; ++e)
    for (index_t j = 0; j < router.cols(); ++j) router(e, j) = j == 0 ? favour[std::size_t(e)] : 0.0f;
  model const dense = m;
  name_linears(m);
  auto const cost =
      compress_in_place(m, random_tokens(80, 61), find_recipe("slim-q@g16").value(), {.context = 40, .calib_tokens = 80}, 32);
  index_t left = 0;
  for (std::size_t k = 0; k < m.blocks[1].linears.size(); ++k) {
    linear const& l = m.blocks[1].linears[k];
    if (l.role.find("expert3.") == std::string::npos) continue;
    ++left;
    CHECK(l.weight == dense.blocks[1].linears[k].weight);
    CHECK(std::count_if(cost.notes.begin(), cost.notes.end(), [&](std::string const& note) {
            return note.find(l.name + ": ") == 0 && note.find("no token") != std::string::npos;
          }) == 1);
  }
  CHECK(left == 3);
  packed_weights packed;
  model again = dense;
  name_linears(again);
  (void)compress_in_place(again, random_tokens(80, 61), find_recipe("slim-q@g16").value(),
                          {.context = 40, .calib_tokens = 80, .keep_packed = true}, 32, {}, &packed);
  for (block const& b : again.blocks)
    for (linear const& l : b.linears)
      CHECK(packed.contains(l.name) == (&b != &again.blocks[1] || l.role.find("expert3.") == std::string::npos));
}

TEST_CASE("experts that a GGUF file stacks in one tensor are read, packed, and written back into their places") {
  slim_test::temporary_folder const folder;
  model made = mixture_of_bytes();
  write_tiny_gguf(folder / "in.gguf", made);
  checkpoint const source(folder / "in.gguf");
  auto const read = load_model(folder / "in.gguf");
  REQUIRE(read.why() == "");
  CHECK(source.bits_per_weight(linears_of(*read)) == Approx(32));
  model dense = *read;
  load_into_memory(dense);
  for (std::size_t n = 0; n < dense.blocks.size(); ++n)
    for (linear const& l : made.blocks[n].linears) {
      CHECK(dense.blocks[n][l.role].weight == l.weight);
      CHECK(dense.blocks[n][l.role].name == l.name);
    }

  model packed_model = dense;
  packed_weights packed;
  auto const ids = random_tokens(400, 256);
  auto const cost = compress_in_place(packed_model, ids, find_recipe("slim-q@g32").value(),
                                      {.context = 40, .calib_tokens = 320, .keep_packed = true}, 32, {}, &packed);
  CHECK(packed.size() == all_linears(dense).size());
  auto const compressed = evaluate(packed_model, ids, {.context = 40});
  for (block& b : packed_model.blocks) use_packed(b, packed, slim::input_precision::exact);
  CHECK(evaluate(packed_model, ids, {.context = 40}).nll == Approx(compressed.nll).epsilon(1e-3));

  model_writer writer(source, folder / "out.gguf", "slim-q");
  model written = dense; // a writer rounds what it writes
  for (block& b : written.blocks) CHECK(writer.add(b).empty());
  CHECK(writer.finish() > 0);
  auto const file = slim::gguf_file::open(folder / "out.gguf").value();
  CHECK(file.find("blk.1.ffn_down_exps.weight")->type == slim::tensor_type::f16);
  CHECK(file.find("blk.1.ffn_down_exps.weight")->shape == std::vector<index_t>{5, 24, 40});
  auto const again = load_model(folder / "out.gguf");
  REQUIRE(again.why() == "");
  CHECK(evaluate(*again, ids, {.context = 40}).nll == Approx(evaluate(dense, ids, {.context = 40}).nll).epsilon(2e-3)); // F16
}

TEST_CASE(
    "experts that a folder stacks in two tensors are read, written back so, kept in a .slim file, and exported one by one") {
  slim_test::temporary_folder const folder;
  model const made = mixture_of_bytes();
  write_tiny_folder(folder / "single", made);
  write_tiny_folder(folder / "stacked", made, "F32", true);
  std::string const experts = "model.layers.1.mlp.experts.";
  auto const shapes = shapes_in(folder / "stacked");
  REQUIRE(shapes.at(experts + "gate_up_proj") == std::vector<index_t>{5, 80, 24});
  REQUIRE(shapes.at(experts + "down_proj") == std::vector<index_t>{5, 24, 40});
  REQUIRE(shapes.size() < shapes_in(folder / "single").size());
  checkpoint const source(folder / "stacked");
  auto const read = load_model(folder / "stacked");
  REQUIRE(read.why() == "");
  CHECK(source.bits_per_weight(linears_of(*read)) == Approx(32));
  model dense = *read;
  load_into_memory(dense);
  for (std::size_t n = 0; n < dense.blocks.size(); ++n)
    for (linear const& l : made.blocks[n].linears) CHECK(dense.blocks[n][l.role].weight == l.weight);
  CHECK(dense.blocks[1]["expert3.up"].name == experts + "gate_up_proj[7]");

  model_writer back(source, folder / "back", "a test");
  for (block& b : dense.blocks) CHECK(back.add(b).empty()); // a writer rounds what it writes
  CHECK(back.finish() > 0);
  CHECK(shapes_in(folder / "back") == shapes);
  model again = required(load_model(folder / "back"));
  load_into_memory(again);
  for (std::size_t n = 0; n < dense.blocks.size(); ++n)
    for (linear const& l : dense.blocks[n].linears) CHECK(again.blocks[n][l.role].weight == l.weight);

  auto const ids = random_tokens(400, 256);
  slim_writer whole(slim_source_of(source), *read, folder / "whole.slim", nlohmann::json::object(), {});
  slim_writer partial(slim_source_of(source), *read, folder / "partial.slim", nlohmann::json::object(),
                      {.sides = {}, .entropy_coded = true});
  (void)compress_model(*read, ids, find_recipe("slim-quant@g8").value(),
                       {.context = 40, .calib_tokens = 320, .keep_packed = true}, 32,
                       [&](index_t n, block& b, packed_weights& layers) {
                         whole.add(b, layers);
                         again.blocks[static_cast<std::size_t>(n)] = b;
                         if (n == 1) layers.erase(b["expert3.up"].name); // as if it had been sent no token
                         partial.add(b, layers);
                       });
  CHECK(whole.finish() > 0);
  CHECK(partial.finish() > 0);
  auto const require_same = [&](std::filesystem::path const& path, bool but_one) {
    INFO(path);
    model m = required(load_model(path));
    load_into_memory(m);
    for (std::size_t n = 0; n < m.blocks.size(); ++n)
      for (linear const& l : again.blocks[n].linears) {
        bool const left = but_one && n == 1 && l.role == "expert3.up";
        CHECK(m.blocks[n][l.role].weight == (left ? made.blocks[n][l.role].weight : l.weight));
      }
  };
  require_same(folder / "whole.slim", false);
  require_same(folder / "partial.slim", true);

  checkpoint const file(folder / "whole.slim");
  model const described = required(load_model(folder / "whole.slim"));
  export_report report;
  export_dense_folder(source_of(file, described), false, folder / "exported", {}, report);
  CHECK(shapes_in(folder / "exported") == shapes_in(folder / "single"));
  require_same(folder / "exported", false);
  auto const in_gguf = names_in_gguf(source, *read);
  CHECK(in_gguf.of(experts + "gate_up_proj[6]") == "blk.1.ffn_gate_exps.weight");
  CHECK(in_gguf.of(experts + "gate_up_proj[7]") == "blk.1.ffn_up_exps.weight");
}

TEST_CASE("an activation that llama.cpp would not compute keeps a model out of GGUF files") {
  model_config c = random_llama().config;
  c.name = "mistral";
  CHECK(gguf_architecture(c) == "llama");
  c.activation = activation_kind::gelu;
  CHECK_THROWS_WITH(gguf_architecture(c), Catch::Contains("silu") && Catch::Contains("gelu") && Catch::Contains("GGUF"));
}

TEST_CASE("numbers that overflow inside a model leave as errors, not as a perplexity or a compressed model") {
  auto const ids = random_tokens(80, 61);
  model m = random_llama();
  for (float& w : m.final_norm.weight) w = 3e38f;
  CHECK_THROWS_WITH(evaluate(m, ids, {.context = 40}), Catch::Contains("window 0") && Catch::Contains("no finite number"));
  m = random_llama();
  name_linears(m);
  for (float& w : m.blocks[1].find_norm("mlp_norm")->weight) w = 3e38f;
  CHECK_THROWS_WITH(compress_in_place(m, ids, find_recipe("slim-q@g16").value(), {.context = 40, .calib_tokens = 80}, 32),
                    Catch::Contains(m.blocks[1]["gate"].name) && Catch::Contains("infinite"));
}
