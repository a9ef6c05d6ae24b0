#include "formats/slim_container.hpp"

#include "evaluate/evaluate.hpp"
#include "formats/load.hpp"
#include "run/workspace.hpp"
#include "support/temporary_folder.hpp"
#include "tiny_folder.hpp"
#include "tiny_gguf.hpp"

#include "slim/io/safetensors/writer.hpp"

#include <nlohmann/json.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cstdlib>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

/// Exit code of slim-llm; what it says goes to `log`.
int run(std::string const& arguments, std::filesystem::path const& log) {
  int const status = std::system((std::string(SLIM_LLM_PROGRAM) + " " + arguments + " > " + log.string() + " 2>&1").c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string letters(index_t count) {
  std::string text;
  for (int const id : random_tokens(count, 26, 8)) text += static_cast<char>('a' + id);
  return text;
}

/// random_llama with 256 tokens and rows of whole blocks of 32.
model wide_llama() {
  model m = random_of(llama_family, [](model_config& c) {
    c.hidden = c.embedding_dim = 32;
    c.heads = 8;
    c.kv_heads = 4;
    c.intermediate = 64;
    c.vocab = 256;
  });
  m.embedding = random_matrix(256, 32, 1);
  m.final_norm.weight.assign(32, 1.0f);
  return m;
}

/// A folder with a text and a model, and slim-llm in it.
struct place {
  slim_test::temporary_folder folder;
  place() { slim_test::write_file(folder / "text", letters(900)); }

  [[nodiscard]] std::string at(std::string const& name) const { return (folder / name).string(); }
  [[nodiscard]] std::string log() const { return slim_test::read_file(folder / "log"); }
  [[nodiscard]] int run(std::string const& arguments) const { return ::run(arguments, folder / "log"); }
  [[nodiscard]] nlohmann::json json(std::string const& name) const {
    return nlohmann::json::parse(slim_test::read_file(folder / name));
  }
  [[nodiscard]] int compress(std::string const& source, std::string const& more) const {
    return run("compress " + at(source) + " --calib " + at("text") + " --text " + at("text") +
               " --context 32 --calib-tokens 256 --held-out-tokens 64 --max-tokens 128 " + more);
  }
  [[nodiscard]] double nll(std::string const& file, std::string const& more = "") const {
    REQUIRE(run("eval " + at(file) + " --text " + at("text") + " --context 32 --max-tokens 128 --last --json " + at("e.json") +
                " " + more) == 0);
    return json("e.json")["perplexity"];
  }
};

/// Bytes of a .slim file after `change` of one tensor's bytes or of the metadata.
void rewrite(std::filesystem::path const& from, std::filesystem::path const& to, std::string const& tensor,
             std::function<void(std::vector<std::byte>&, std::map<std::string, std::string>&)> const& change) {
  auto const file = slim::safetensors_file::open(from).value();
  auto metadata = file.metadata();
  std::vector<slim::outgoing_tensor> tensors;
  std::vector<std::byte> bytes;
  for (auto const& stored : file.tensors()) {
    tensors.push_back(slim::outgoing_copy(stored));
    if (stored.name != tensor) continue;
    bytes.assign(stored.bytes.begin(), stored.bytes.end());
    change(bytes, metadata);
    tensors.back().source = std::span<std::byte const>(bytes);
    if (stored.stored_type == "U8") tensors.back().shape = {static_cast<index_t>(bytes.size())};
    if (bytes.empty()) tensors.pop_back();
  }
  REQUIRE(slim::save_safetensors(to, std::move(tensors), metadata));
}

} // namespace

TEST_CASE("a .slim file is the whole model: eval finds to the last bit what compress evaluated, with the source gone") {
  for (bool const as_folder : {false, true}) {
    place const here;
    model m = wide_llama();
    if (as_folder)
      write_tiny_folder(here.folder / "source", m, "BF16");
    else
      write_tiny_gguf(here.folder / "source", m);
    for (std::string const recipe : {"int3-lr@g32@r4", "slim-q@g32", "joint-q@g32@r3"}) {
      REQUIRE(here.compress("source",
                            "--recipe " + recipe + " --out " + here.at("small.slim") + " --json " + here.at("c.json")) == 0);
      REQUIRE(here.run("diff " + here.at("source") + " " + here.at("source")) == 0);
      CHECK(here.log().find("14 linears, 14 of them equal") != std::string::npos);
      REQUIRE(here.run("diff " + here.at("source") + " " + here.at("small.slim") + " --text " + here.at("text") + " --json " +
                       here.at("d.json")) == 0);
      auto const first = here.json("d.json")["layers"][0];
      CHECK(first["differing"] == 32 * 32);
      CHECK((first["weights"] > 0.01 && first["weights"] < 1 && first["outputs"] > 0.01 && first["outputs"] < 1));
      std::filesystem::rename(here.folder / "source", here.folder / "gone");
      auto const said = here.json("c.json");
      CHECK(here.nll("small.slim") == said["perplexity"].get<double>());
      CHECK(here.nll("small.slim", "--inputs int8") == said["packed_int8_perplexity"].get<double>());
      CHECK(said["written_bytes"].get<double>() == static_cast<double>(std::filesystem::file_size(here.folder / "small.slim")));
      CHECK(here.run("generate " + here.at("small.slim") + " --prompt abc --max-tokens 3") == 0);
      CHECK(here.run("tokenize " + here.at("small.slim") + " --text " + here.at("text")) == 0);
      REQUIRE(here.run("inspect " + here.at("small.slim")) == 0);
      CHECK(here.log().find("codes") != std::string::npos);
      CHECK(here.log().find("Q8_0") != std::string::npos);
      auto const file = slim_container::open(here.folder / "small.slim").value();
      CHECK(file.recipe()["name"] == recipe);
      CHECK(file.linears()->names().size() == 14);
      CHECK(file.find_damage().empty());
      CHECK((file.gguf() != nullptr) == !as_folder);
      CHECK(here.compress("small.slim", "--out " + here.at("again.slim")) == 1);
      CHECK(here.log().find("is compressed already") != std::string::npos);
      std::filesystem::rename(here.folder / "gone", here.folder / "source");
    }
    for (std::string const recipe : {"squeeze-3", "spqr-3", "sba-2@g32", "bits-2-4-16"}) { // books, tiles, parts, residuals
      INFO(recipe);
      REQUIRE(here.compress("source",
                            "--recipe " + recipe + " --out " + here.at("system.slim") + " --json " + here.at("c.json")) == 0);
      auto const said = here.json("c.json");
      CHECK(here.nll("system.slim") == said["perplexity"].get<double>());
      CHECK(here.nll("system.slim", "--inputs int8") == said["packed_int8_perplexity"].get<double>());
      CHECK(here.nll("system.slim", "--inputs int8") == Approx(here.nll("system.slim")).epsilon(0.02));
    }
    CHECK(here.compress("source", "--recipe wanda-24 --out " + here.at("none.slim")) == 1);
    CHECK(here.log().find("makes no integer codes") != std::string::npos);
    CHECK(!std::filesystem::exists(here.folder / "none.slim"));
  }
}

TEST_CASE("prompts of a file are continued as each is alone, however many are written at a time") {
  place const here;
  model m = wide_llama();
  write_tiny_gguf(here.folder / "source", m);
  REQUIRE(here.compress("source", "--recipe slim-q@g32 --out " + here.at("small.slim")) == 0);
  std::vector<std::string> const prompts = {"abc", "the second prompt is longer", "x", "and one more"};
  std::string lines = "\n", json_lines;
  for (std::string const& prompt : prompts) {
    lines += prompt + "\r\n \n";
    json_lines += nlohmann::json{{"prompt", prompt}}.dump() + "\n";
  }
  slim_test::write_file(here.folder / "prompts.txt", lines);
  slim_test::write_file(here.folder / "prompts.jsonl", json_lines);
  auto const generate = [&](std::string const& more) {
    return here.run("generate " + here.at("small.slim") + " --max-tokens 9 --ignore-end --json " + here.at("g.json") + " " +
                    more);
  };
  std::vector<std::string> alone;
  for (std::string const& prompt : prompts) {
    REQUIRE(generate("--prompt '" + prompt + "'") == 0);
    alone.push_back(here.json("g.json")["answer"]);
    CHECK(here.json("g.json")["tokens"] == 9);
  }
  for (std::string const more : {"prompts.txt --batch 1", "prompts.txt --batch 3", "prompts.jsonl"}) {
    REQUIRE(generate("--prompts " + (here.folder / more).string()) == 0);
    auto const found = here.json("g.json");
    REQUIRE(found["texts"].size() == prompts.size());
    for (std::size_t n = 0; n < prompts.size(); ++n) {
      CHECK(found["texts"][n]["prompt"] == prompts[n]);
      CHECK(found["texts"][n]["answer"] == alone[n]);
    }
    CHECK(here.log().find("[2] " + prompts[1]) != std::string::npos);
    CHECK(here.log().find("[2]") < here.log().find("[3]"));
  }
  slim_test::write_file(here.folder / "chat.jsonl", "{\"messages\": []}\n");
  slim_test::write_file(here.folder / "none.txt", "\n\n");
  for (auto const& [more, why] : std::vector<std::pair<std::string, std::string>>{
           {"", "--prompt TEXT or --prompts FILE is needed"},
           {"--prompt a --prompts " + here.at("prompts.txt"), "takes the place of --prompt"},
           {"--prompts " + here.at("chat.jsonl"), "chat.jsonl: line 1: holds 'messages'"},
           {"--prompts " + here.at("none.txt"), "none.txt: holds no prompt"},
           {"--prompt a --batch 0", "--batch 0: at least 1"},
           {"--prompt a --kv-cache bf16", "--kv-cache bf16: possible are fp16, fp32"}}) {
    CHECK(generate(more) == 1);
    CAPTURE(more, here.log());
    CHECK(here.log().find(why) != std::string::npos);
  }
}

TEST_CASE("eval says what keys and values of 16 bits cost") {
  place const here;
  model m = wide_llama();
  write_tiny_gguf(here.folder / "source", m);
  double const whole = here.nll("source"), half = here.nll("source", "--kv-cache fp16");
  CHECK(half == Approx(whole).epsilon(1e-3));
  CHECK(half != whole);
}

TEST_CASE("an expert without codes, and tensors that a rule skips, are stored in a .slim file as the source has them") {
  place const here;
  model m = random_of(mixture_family, [](model_config& c) {
    c.vocab = 256;
    c.experts = 5;
    c.experts_per_token = 2;
    c.has.head_norms = c.normalize_expert_weights = true;
  });
  m.embedding = random_matrix(256, m.config.hidden, 1);
  auto& router = m.blocks[1].kept[0].weight; // expert 3 of the second block always loses
  for (block& b : m.blocks)
    for (float& w : b.find_norm("mlp_norm")->weight) w = 1;
  std::array<float, 5> const favour = {1, -2, 3, 0, -5};
  for (index_t e = 0; e < 5; ++e)
    for (index_t j = 0; j < router.cols(); ++j) router(e, j) = j == 0 ? favour[static_cast<std::size_t>(e)] : 0.0f;
  write_tiny_gguf(here.folder / "source", m);
  slim_test::write_file(here.folder / "r.json",
                        R"json({"recipe": "slim-q@g16", "rules": [{"match": ".*attn_v.*", "skip": true}]})json");
  REQUIRE(here.compress("source", "--recipe " + here.at("r.json") + " --out " + here.at("small.slim") + " --json " +
                                      here.at("c.json")) == 0);
  std::filesystem::remove(here.folder / "source");
  CHECK(here.nll("small.slim") == here.json("c.json")["perplexity"].get<double>());
  auto const file = slim_container::open(here.folder / "small.slim").value();
  index_t plain = 0;
  for (auto const& tensor : file.tensors()) {
    bool const expected = tensor.name.find("attn_v") != std::string::npos ||
                          (tensor.name.find("blk.1.") == 0 && tensor.name.find("[3]") != std::string::npos);
    bool const is_linear =
        tensor.name.find("_exps.weight[") != std::string::npos || tensor.name.find("attn_v") != std::string::npos;
    if (is_linear) CHECK((tensor.stored_type == "F32") == expected);
    plain += expected ? 1 : 0;
  }
  CHECK(plain == 2 + 3);
  CHECK(here.run("validate " + here.at("small.slim")) == 0);
}

TEST_CASE("a plan knows the bytes of the .slim file, names a source that lacks files, and writes nothing") {
  place const here;
  model m = wide_llama();
  write_tiny_folder(here.folder / "source", m, "F16");
  for (std::string const recipe : {"int3-lr@g32@r4", "slim@g32", "slim-quant-wanda@50", "slim-o", "joint-int8@channel"}) {
    std::string const common = " --calib " + here.at("text") + " --text " + here.at("text") +
                               " --context 32 --calib-tokens 256 --held-out-tokens 64 --max-tokens 128 --recipe " + recipe +
                               " ";
    REQUIRE(here.run("plan " + here.at("source") + common + "--run --json " + here.at("p.json")) == 0);
    INFO(here.log());
    CHECK(here.log().find("has no chat_template.jinja") != std::string::npos);
    CHECK(!std::filesystem::exists(here.folder / "small.slim"));
    auto const plan = here.json("p.json");
    REQUIRE(here.run("compress " + here.at("source") + common + "--no-eval --out " + here.at("small.slim")) == 0);
    CHECK(plan["slim_bytes"].get<double>() == static_cast<double>(std::filesystem::file_size(here.folder / "small.slim")));
    CHECK(plan["seconds"].get<double>() > 0);
    std::filesystem::remove(here.folder / "small.slim");
  }
}

TEST_CASE("embedding and head of a .slim file are Q8_0 of the source's, the nearest codes of every block") {
  place const here;
  model m = wide_llama();
  write_tiny_gguf(here.folder / "source", m);
  REQUIRE(here.compress("source", "--recipe int3-lr@g32@r4 --no-eval --out " + here.at("small.slim")) == 0);
  CHECK(here.log().find("token_embd.weight: written as Q8_0 in place of F32, relative error 0.00") != std::string::npos);
  auto const read = load_model(here.folder / "small.slim").value();
  matrix<float> const found = read.embedding.to_float(), &source = *m.embedding.in_memory();
  for (index_t i = 0; i < source.rows(); ++i) {
    float largest = 0;
    for (index_t j = 0; j < 32; ++j) largest = std::max(largest, std::abs(source(i, j)));
    float const step = static_cast<float>(slim::fp16(largest / 127));
    for (index_t j = 0; j < 32; ++j) REQUIRE(std::abs(found(i, j) - source(i, j)) <= 0.5001f * step);
  }
}

TEST_CASE("a .slim file whose bytes have changed is found out, and one whose parts do not fit is refused with the reason") {
  place const here;
  model m = wide_llama();
  write_tiny_gguf(here.folder / "source", m);
  REQUIRE(here.compress("source", "--recipe int3-lr@g32@r4 --no-eval --out " + here.at("small.slim")) == 0);
  auto const small = here.folder / "small.slim", bad = here.folder / "bad.slim";
  auto const whole = slim::safetensors_file::open(small).value();
  for (auto const& tensor : whole.tensors()) { // one bit of the last byte of any tensor
    rewrite(small, bad, tensor.name, [](auto& bytes, auto&) { bytes.back() ^= std::byte{1}; });
    auto const opened = slim_container::open(bad);
    INFO(tensor.name);
    std::string const name = tensor.name.substr(tensor.name.find(':') + 1); // of a small file, without what is in front
    CHECK((opened ? opened->find_damage() : opened.why()).find(name) != std::string::npos);
  }
  std::string const linear = "blk.0.attn_q.weight";
  auto const why = [&](std::function<void(std::vector<std::byte>&, std::map<std::string, std::string>&)> const& change) {
    rewrite(small, bad, linear, change);
    auto const opened = slim_container::open(bad);
    return opened ? opened->find_damage() : opened.why();
  };
  CHECK(why([](auto&, auto& data) { data["recipe"] = "{}"; }) == "metadata: are not as they were written");
  CHECK(why([](auto&, auto& data) { data["version"] = "3"; }).find("is of version 3") != std::string::npos);
  CHECK(why([](auto&, auto& data) { data["format"] = "pt"; }).find("no compressed model") != std::string::npos);
  CHECK(why([](auto&, auto& data) { data["tensors"] = "[]"; }).find("is not in its list of tensors") != std::string::npos);
  CHECK(why([](auto& bytes, auto&) { bytes.clear(); }).find("tensor '" + linear + "' is missing") != std::string::npos);
  CHECK(why([](auto& bytes, auto&) { bytes.resize(40); }).find(linear) != std::string::npos);
  auto const wrong_shape = [](auto&, auto& data) {
    auto list = nlohmann::json::parse(data["tensors"]);
    for (auto& entry : list)
      if (entry["type"] == "codes") entry["shape"] = {16, 64};
    data["tensors"] = list.dump();
  };
  CHECK(why(wrong_shape).find("is not stored as the list of tensors says") != std::string::npos);

  std::string const bytes = slim_test::read_file(small);
  slim_test::write_file(bad, bytes.substr(0, bytes.size() - 5));
  CHECK(here.run("eval " + here.at("bad.slim") + " --text " + here.at("text")) == 1);
  CHECK(here.log().find("lies beyond the end of the file") != std::string::npos);
  std::size_t const header = bytes.find("blk.1"); // any byte of the directory replaced: refused, or found out, or no matter
  for (std::size_t k = 0; k < 4000; ++k) {
    std::string changed = bytes;
    std::size_t const at = 8 + (k * 7919) % (2 * header);
    changed[at] = static_cast<char>(changed[at] ^ (1 << (k % 7)));
    slim_test::write_file(bad, changed);
    if (auto const opened = slim_container::open(bad)) (void)opened->find_damage();
  }
}

TEST_CASE("texts as JSON lines are tokenized line by line, or are tokens already; what is neither is refused by its line") {
  place const here;
  model m = wide_llama();
  write_tiny_gguf(here.folder / "source", m);
  workspace const work(here.folder / "source");
  auto const ids = [&](std::string const& content) {
    slim_test::write_file(here.folder / "t.jsonl", content);
    return tokens_of(work.words, here.folder / "t.jsonl");
  };
  CHECK(ids("{\"text\": \"ab\"}\n\n{\"ids\": [3, 255]}\r\n{\"text\": \"c\"}") == std::vector<int>{'a', 'b', 3, 255, 'c'});
  auto const refused = [&](std::string const& content, std::string const& reason) {
    try {
      (void)ids("{\"text\": \"ab\"}\n" + content);
      FAIL("was taken");
    } catch (input_error const& error) {
      INFO(error.what());
      CHECK(std::string(error.what()).find("t.jsonl: line 2: " + reason) != std::string::npos);
    }
  };
  refused("{\"ids\": [3, 256]}", "'ids' holds 256; the vocabulary has 256 tokens");
  refused("{\"messages\": []}", "holds 'messages': chat templates are not read");
  refused("{\"text\": \"a\", \"ids\": [1]}", "needs 'text' or 'ids', and not both");
  refused("[1]", "is not an object");
  refused("{\"text\": 3}", "'text' is not a text");
  refused("{", "is not valid JSON");
}
