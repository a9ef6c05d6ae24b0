// What slim-llm exchanges with other programs from the command line: what --for promises of an export and what the export
// writes, importance matrices, and questions with several answers, each against values computed here.

#include "compress/recipe.hpp"
#include "formats/load.hpp"
#include "support/temporary_folder.hpp"
#include "tiny_gguf.hpp"

#include <nlohmann/json.hpp>

#include <catch2/catch.hpp>

#include <cstdlib>
#include <sys/wait.h>

using namespace slim_llm;
using namespace slim_llm::testing;
using Catch::Contains;

namespace {

/// A model whose extents other software can pack, and a text.
struct place {
  slim_test::temporary_folder folder;
  model m = random_of(llama_family, [](model_config& c) {
    c.vocab = 256;
    c.hidden = c.embedding_dim = 64;
    c.heads = 4;
    c.kv_heads = 2;
    c.head_dim = 16;
    c.intermediate = 96;
  });

  place() {
    m.embedding = random_matrix(256, 64, 1, 0.5);
    m.final_norm.weight = random_vector(64, 9, 1.0, 0.1);
    write_tiny_gguf(folder / "m.gguf", m);
    std::string text;
    for (int const id : random_tokens(700, 26, 8)) text += static_cast<char>('a' + id);
    slim_test::write_file(folder / "text", text);
  }

  [[nodiscard]] std::string at(std::string const& name) const { return (folder / name).string(); }
  [[nodiscard]] std::string log() const { return slim_test::read_file(folder / "log"); }
  [[nodiscard]] int run(std::string const& arguments) const {
    int const status = std::system((std::string(SLIM_LLM_PROGRAM) + " " + arguments + " > " + at("log") + " 2>&1").c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  [[nodiscard]] int compress(std::string const& command, std::string const& more) const {
    return run(command + " " + at("m.gguf") + " --calib " + at("text") + " --text " + at("text") +
               " --context 32 --calib-tokens 256 --held-out-tokens 0 --max-tokens 128 " + more);
  }
  [[nodiscard]] nlohmann::json json(std::string const& name) const {
    return nlohmann::json::parse(slim_test::read_file(folder / name));
  }
};

std::string file_name(std::string to) {
  std::replace(to.begin(), to.end(), ':', '-');
  return to;
}

} // namespace

TEST_CASE("plan --for a format says the bytes that an export of the .slim file writes, of several formats in one run") {
  place const here;
  std::string const recipe = "--recipe int3-lr@g32@r3@bf16-scales ";
  REQUIRE(here.compress("compress", recipe + "--no-eval --out " + here.at("small.slim")) == 0);
  REQUIRE(here.run("export " + here.at("small.slim") + " --to ct,gptq,mlx,gguf,gguf:q4_1,hf --out " + here.at("all") +
                   " --json " + here.at("e.json")) == 0);
  auto const written = here.json("e.json")["exports"];
  REQUIRE(written.size() == 6);
  for (auto const& found : written) {
    std::string const to = found["format"];
    INFO(to);
    CHECK(found["rounded_layers"] == 0);
    CHECK(std::filesystem::exists(here.folder / "all" / (file_name(to) + (to.starts_with("gguf") ? ".gguf" : ""))));
    if (to == "hf") continue;
    REQUIRE(here.compress("plan", recipe + "--for " + to + " --json " + here.at("p.json")) == 0);
    auto const planned = here.json("p.json")["export"];
    CHECK(planned["linear_bytes"] == found["linear_bytes"]);
    CHECK(planned["adapter_bytes"] == found["adapter_bytes"]);
  }
  CHECK(here.run("export " + here.at("small.slim") + " --to ct,gguf:q9 --out " + here.at("no")) == 1);
  CHECK_FALSE(std::filesystem::exists(here.folder / "no"));
}

TEST_CASE("recipes named after an engine's format make codes that its files hold as they are, without an adapter") {
  place const here;
  auto const exported = [&](std::string const& recipe, std::string const& to, std::size_t count) {
    int const made = here.compress("compress", "--recipe " + recipe + " --no-eval --out " + here.at("a.slim"));
    INFO(recipe << ": " << here.log());
    REQUIRE(made == 0);
    int const done = here.run("export " + here.at("a.slim") + " --to " + to + " --out " + here.at(file_name("as-" + recipe)) +
                              " --json " + here.at("e.json"));
    INFO(here.log());
    REQUIRE(done == 0);
    auto const json = here.json("e.json");
    auto const all = count > 1 ? json["exports"] : nlohmann::json::array({json});
    REQUIRE(all.size() == count);
    for (auto const& found : all) {
      REQUIRE(here.compress("plan", "--recipe " + recipe + " --for " + std::string(found["format"]) + " --json " +
                                        here.at("p.json")) == 0);
      CHECK(here.json("p.json")["export"]["linear_bytes"] == found["linear_bytes"]);
      CHECK(found["rounded_layers"] == 0);
      CHECK(found["adapter_bytes"] == 0);
    }
  };
  exported("ct:int4-g32", "ct,gptq,gguf:q4_0", 3);
  exported("mlx:3@g32", "mlx", 1);
  exported("mlx:4@g32", "mlx", 1);
}

TEST_CASE(
    "a format named by --for counts the bits of its files for a budget of ranks, and is refused before the work if it cannot hold "
    "the recipe") {
  place const here;
  auto const other_ranks_for = [&](std::string const& to, double bits) {
    REQUIRE(here.compress("compress", "--recipe int3-lr@g32@bf16-scales --no-eval --for " + to + " --rank-budget " +
                                          std::to_string(bits) + " --out " + here.at("b.slim")) == 0);
    REQUIRE(here.run("export " + here.at("b.slim") + " --to " + to + " --out " + here.at("b-" + file_name(to)) + " --json " +
                     here.at("e.json")) == 0);
    double const spent = here.json("e.json")["bits_per_weight"];
    INFO(to << " " << spent);
    CHECK(spent <= bits);
    CHECK(spent > bits - 0.6);
    std::filesystem::remove_all(here.folder / "peft");
    std::filesystem::remove_all(here.folder / "peft-adapter");
    REQUIRE(here.run("export " + here.at("b.slim") + " --to ct --out " + here.at("peft")) == 0);
    auto const about = here.json("peft-adapter/adapter_config.json");
    return about["rank_pattern"].size(); // ranks other than the largest
  };
  CHECK(other_ranks_for("ct", 6) > 0);
  CHECK(other_ranks_for("mlx", 6.5) == 0); // mlx-lm stores one rank for all

  auto const refused = [&](std::string const& command, std::string const& more, std::string const& why) {
    CHECK(here.compress(command, more) == 1);
    INFO(here.log());
    CHECK_THAT(here.log(), Contains(why));
  };
  std::string const out = " --out " + here.at("never.slim");
  refused("plan", "--for mlx --recipe int3-lr@g32", "blk.0.attn_q.weight: scale");
  refused("compress", "--for mlx --recipe int3-lr@g32" + out, "--recipe int3-lr@g32@bf16-scales would do");
  refused("compress", "--for gguf:q4_k" + out, "rows of 64 are no whole blocks of 256");
  refused("compress", "--for ct --recipe wanda-24 --out " + here.at("never.gguf"), "makes no integer codes");
  refused("plan", "--for fame", "possible are size");
  refused("plan", "--for fame --recipe int3-lr@g32", "possible are size");
  CHECK_FALSE(std::filesystem::exists(here.folder / "never.slim"));
}

TEST_CASE("an imatrix holds the sums of squares of what linears read, and a recipe weighs channels by one") {
  place const here;
  REQUIRE(here.run("imatrix " + here.at("m.gguf") + " --text " + here.at("text") + " --context 32 --max-tokens 100 --out " +
                   here.at("i.gguf")) == 0);
  model m = load_model(here.folder / "m.gguf").value();
  load_into_memory(m);
  std::map<std::string, std::vector<double>> sums; // by every linear, over three whole windows
  forward_pass const pass(m, 32);
  std::vector<int> ids;
  for (char const c : slim_test::read_file(here.folder / "text").substr(0, 96)) ids.push_back(c);
  matrix<float> hidden = pass.embed(ids);
  for (block const& b : m.blocks)
    pass.run_block(b, hidden, [&](stage const& s, matrix_view<float const> x) {
      for (std::string const& role : s.linears) {
        auto& sum = sums[b[role].name];
        sum.resize(static_cast<std::size_t>(x.cols()));
        for (index_t t = 0; t < x.rows(); ++t)
          for (index_t j = 0; j < x.cols(); ++j)
            sum[static_cast<std::size_t>(j)] += static_cast<double>(x(t, j)) * static_cast<double>(x(t, j));
      }
    });
  auto const file = slim::gguf_file::open(here.folder / "i.gguf").value();
  CHECK(file.tensors().size() == 2 * sums.size());
  CHECK(file.get<std::string>("general.type").value() == "imatrix");
  CHECK(file.get<int>("imatrix.chunk_count").value() == 3);
  CHECK(file.get<int>("imatrix.chunk_size").value() == 32);
  for (auto const& [name, sum] : sums) {
    auto const stored = slim::read_matrix(*file.find(name + ".in_sum2")).value();
    REQUIRE(stored.size() == std::ssize(sum));
    for (index_t j = 0; j < stored.size(); ++j)
      CHECK(stored.data()[j] == Approx(sum[static_cast<std::size_t>(j)]).epsilon(1e-5));
    CHECK(slim::read_matrix(*file.find(name + ".counts")).value()(0, 0) == 96);
  }

  auto const weigh = [&](std::string const& more) {
    return here.run("compress " + here.at("m.gguf") + " --text " + here.at("text") +
                    " --context 32 --max-tokens 128 --imatrix " + more + " --out " + here.at("i.slim"));
  };
  REQUIRE(weigh(here.at("i.gguf") + " --recipe slim-quant-wanda@g32") == 0);
  auto const how = find_recipe("slim-quant-wanda@g32").value();
  model found = load_model(here.folder / "i.slim").value();
  load_into_memory(found);
  for (std::size_t n = 0; n < m.blocks.size(); ++n)
    for (linear const& l : m.blocks[n].linears) {
      std::vector<double> squares(sums.at(l.name));
      for (double& x : squares) x = static_cast<double>(static_cast<float>(x));
      auto const calib = slim::calibration::from_moments({.sum_square = squares}, 96);
      CHECK(found.blocks[n][l.role].weight == slim::decompress(how.chain_for(l.name, l.role).compress(l.weight.view(), calib)));
    }
  CHECK(weigh(here.at("i.gguf") + " --recipe int3-lr@g32") == 1);
  CHECK_THAT(here.log(), Contains("recipe int3-lr@g32 needs to see what linears read"));
  CHECK(weigh(here.at("i.gguf") + " --recipe slim-q@g32") == 1);
  CHECK_THAT(here.log(), Contains("recipe slim-q@g32 needs more than sums of squares"));
  CHECK(weigh(here.at("m.gguf") + " --recipe rtn-int4@g32") == 1);
  CHECK_THAT(here.log(), Contains("m.gguf: is no imatrix"));
  CHECK(weigh(here.at("i.gguf") + " --recipe rtn-int4@g32 --calib " + here.at("text")) == 1);
}

TEST_CASE("questions with several answers are scored as every choice alone would be") {
  place const here;
  auto const questions = nlohmann::json::array({
      {{"context", "abcabc"}, {"choices", {"d", "efgh", "ijklmnopqrst"}}, {"answer", 1}},
      {{"context", "the word is "}, {"choices", {"short", "a long one, by far the longest of them all"}}, {"answer", 0}},
      {{"context", "x"}, {"choices", {" y", " z", " yy", " zz"}}, {"answer", 3}},
  });
  std::string lines;
  for (auto const& question : questions) lines += question.dump() + "\n\n";
  slim_test::write_file(here.folder / "q.jsonl", lines);
  REQUIRE(here.run("eval " + here.at("m.gguf") + " --choices " + here.at("q.jsonl") + " --json " + here.at("q.json")) == 0);
  auto const found = here.json("q.json");
  model m = load_model(here.folder / "m.gguf").value();
  load_into_memory(m);
  double right = 0, right_by_length = 0;
  for (std::size_t q = 0; q < questions.size(); ++q) {
    std::string const given = questions[q]["context"];
    std::vector<double> sums, means;
    for (std::string const choice : questions[q]["choices"]) {
      std::vector<int> ids;
      for (char const c : given + choice) ids.push_back(c);
      auto const logits = all_logits(m, ids, std::ssize(ids));
      std::size_t const begin = given.find_last_not_of(' ') + 1; // the space at the end is the choice's
      double sum = 0;
      for (std::size_t t = begin; t < ids.size(); ++t) {
        double whole = 0;
        for (index_t v = 0; v < 256; ++v) whole += std::exp(static_cast<double>(logits(static_cast<index_t>(t) - 1, v)));
        sum += static_cast<double>(logits(static_cast<index_t>(t) - 1, ids[t])) - std::log(whole);
      }
      CHECK(found["log_likelihoods"][q][sums.size()].get<double>() == Approx(sum).epsilon(1e-5));
      sums.push_back(sum);
      means.push_back(sum / static_cast<double>(choice.size() - choice.find_first_not_of(' ')));
    }
    auto const best = [&](std::vector<double> const& x) { return std::max_element(x.begin(), x.end()) - x.begin(); };
    right += best(sums) == questions[q]["answer"].get<index_t>() ? 1 : 0;
    right_by_length += best(means) == questions[q]["answer"].get<index_t>() ? 1 : 0;
  }
  CHECK(found["acc"]["mean"].get<double>() == Approx(right / 3));
  CHECK(found["acc_norm"]["mean"].get<double>() == Approx(right_by_length / 3));
  auto const refused = [&](char const* line, char const* why) {
    slim_test::write_file(here.folder / "bad.jsonl", std::string("\n") + line + "\n");
    CHECK(here.run("eval " + here.at("m.gguf") + " --choices " + here.at("bad.jsonl")) == 1);
    CHECK_THAT(here.log(), Contains("bad.jsonl: line 2: ") && Contains(why));
  };
  refused(R"({"context": "a", "choices": ["b", "c"], "answer": 2})", "'answer' is not the number of a choice, 0 to 1");
  refused(R"({"context": "a", "choices": ["b"], "answer": 0})", "'choices' is not a list of two or more");
  refused(R"({"context": "", "choices": ["b", "c"], "answer": 0})", "'context' is empty");
  refused(R"({"context": "a", "choices": ["b", ""], "answer": 0})", "a choice is not a text");
  refused(R"({"context": "a", "options": ["b", "c"], "answer": 0})", "'options'");
  CHECK(here.run("eval " + here.at("m.gguf") + " --choices " + here.at("q.jsonl") + " --text " + here.at("text")) == 1);
}
