#include "compress/recipe.hpp"
#include "evaluate/evaluate.hpp"
#include "formats/load.hpp"
#include "formats/packed_weights.hpp"
#include "formats/patched_gguf.hpp"
#include "formats/slim_container.hpp"
#include "support/temporary_folder.hpp"
#include "tiny_gguf.hpp"
#include "training/block_scales.hpp"

#include <nlohmann/json.hpp>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <sstream>

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

} // namespace

TEST_CASE("compress writes a model that loads again and does what the compressed weights do") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_gguf(folder / "tiny.gguf", m);
  slim_test::write_file(folder / "a.txt", letters(400));
  slim_test::write_file(folder / "b.txt", letters(700).substr(400));
  auto const path = [&](char const* name) { return (folder / name).string(); };
  REQUIRE(run("compress " + path("tiny.gguf") + " --calib " + path("a.txt") + " --text " + path("b.txt") +
                  " --context 32 --calib-tokens 256 --max-tokens 128 --recipe slim@g16 --out " + path("out.gguf") + " --json " +
                  path("c.json") + " --layers-csv " + path("layers.csv"),
              folder / "log") == 0);
  auto const result = nlohmann::json::parse(slim_test::read_file(folder / "c.json"));

  REQUIRE(run("eval " + path("out.gguf") + " --text " + path("b.txt") + " --context 32 --max-tokens 128 --last --json " +
                  path("e.json"),
              folder / "log") == 0);
  auto const again = nlohmann::json::parse(slim_test::read_file(folder / "e.json"));
  CHECK(again["nll"].get<double>() == Approx(result["nll"].get<double>()).epsilon(2e-3)); // F16 storage
  CHECK(again["tokens"] == result["tokens"]);
  CHECK(again["perplexity"].get<double>() == Approx(std::exp(again["nll"].get<double>())));

  auto const file = slim::gguf_file::open(folder / "out.gguf").value();
  CHECK(file.find("blk.0.attn_q.weight")->type == slim::tensor_type::f16);
  CHECK(file.find("token_embd.weight")->type == slim::tensor_type::f32);
  auto const csv = slim_test::read_file(folder / "layers.csv");
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 1 + 14 * 3); // header, 14 linears of 3 steps
}

TEST_CASE("a recipe on ggml's grids writes the file that was evaluated, in the types that llama-quantize would take") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256, rope_style::rotate_half, 16);
  write_tiny_gguf(folder / "tiny.gguf", m);
  slim_test::write_file(folder / "a.txt", letters(400));
  auto const path = [&](char const* name) { return (folder / name).string(); };
  std::string const common = "compress " + path("tiny.gguf") + " --calib " + path("a.txt") + " --text " + path("a.txt") +
                             " --context 32 --calib-tokens 256 --max-tokens 128 --recipe gguf:q4_k_m";
  REQUIRE(run(common + " --out " + path("out.gguf") + " --json " + path("c.json"), folder / "log") == 0);
  auto const result = nlohmann::json::parse(slim_test::read_file(folder / "c.json"));
  REQUIRE(run("eval " + path("out.gguf") + " --text " + path("a.txt") + " --context 32 --max-tokens 128 --last --json " +
                  path("e.json"),
              folder / "log") == 0);
  auto const again = nlohmann::json::parse(slim_test::read_file(folder / "e.json"));
  CHECK(again["nll"].get<double>() == Approx(result["nll"].get<double>()).epsilon(1e-9));
  auto const file = slim::gguf_file::open(folder / "out.gguf").value();
  CHECK(file.find("blk.0.attn_q.weight")->type == slim::tensor_type::q5_0); // rows of 96: Q4_K falls back
  CHECK(file.find("blk.0.attn_v.weight")->type == slim::tensor_type::q5_0);
  CHECK(file.find("blk.1.attn_v.weight")->type == slim::tensor_type::q8_0); // Q6_K in the last eighth of the blocks
  CHECK(file.find("blk.1.ffn_down.weight")->type == slim::tensor_type::q8_0);
  CHECK(file.find("token_embd.weight")->type == slim::tensor_type::q8_0);
  CHECK(file.find("blk.0.attn_norm.weight")->type == slim::tensor_type::f32);
  CHECK(result.dump().find("blk.0.attn_q.weight: Q5_0 in place of Q4_K, as llama-quantize does") != std::string::npos);
  CHECK(run(common + " --out " + path("out.slim"), folder / "log") == 1);
  CHECK(slim_test::read_file(folder / "log").find("recipe gguf:q4_k_m makes no integer codes") != std::string::npos);

  // Scales a tenth too large: training finds some of the way back (random weights teach slowly), and changes linears only.
  std::vector<block_scales> linears;
  std::map<std::string, std::span<std::byte const>> wrong;
  linears.reserve(file.tensors().size());
  for (slim::tensor_info const& tensor : file.tensors()) {
    if (!tensor.name.starts_with("blk.") || tensor.shape.size() != 2) continue;
    auto& linear = linears.emplace_back(tensor);
    linear.set(std::vector<float>(static_cast<std::size_t>(linear.count()), 1.1f));
    wrong.emplace(tensor.name, linear.bytes());
  }
  write_with_tensors(file, wrong, folder / "wrong.gguf");
  std::string const tune = "finetune " + path("tiny.gguf") + " --calib " + path("a.txt") + " --text " + path("a.txt") +
                           " --context 32 --calib-tokens 192 --held-out-tokens 64 --max-tokens 128 --rate 0.003 --steps 32" +
                           " --tokens-per-step 64 --out " + path("tuned.gguf");
  REQUIRE(run(tune + " --compressed " + path("wrong.gguf") + " --json " + path("t.json"), folder / "log") == 0);
  auto const tuned = nlohmann::json::parse(slim_test::read_file(folder / "t.json"));
  CHECK(tuned["choosing_loss_after"].get<double>() < 0.95 * tuned["choosing_loss_before"].get<double>());
  auto const trained = slim::gguf_file::open(folder / "tuned.gguf").value();
  REQUIRE(trained.file_size() == file.file_size());
  for (slim::tensor_info const& tensor : file.tensors()) {
    auto const& other = *trained.find(tensor.name);
    CHECK(std::equal(tensor.bytes.begin(), tensor.bytes.end(), other.bytes.begin(), other.bytes.end()) ==
          !wrong.contains(tensor.name));
  }
  CHECK(run(tune, folder / "log") == 2); // no --compressed
  CHECK(run(tune + " --train adapters --compressed " + path("out.gguf"), folder / "log") == 1);
  CHECK(run(tune + " --compressed " + path("tiny.gguf"), folder / "log") == 1);
  CHECK(slim_test::read_file(folder / "log").find("no linear is stored in blocks that have scales") != std::string::npos);
}

TEST_CASE("a GGUF file comes back from pack --lossless byte by byte, and damage is named") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_gguf(folder / "tiny.gguf", m);
  auto const path = [&](char const* name) { return (folder / name).string(); };
  CHECK(run("pack " + path("tiny.gguf") + " " + path("tiny.packed"), folder / "log") == 2); // --lossless is asked for
  REQUIRE(run("pack --lossless " + path("tiny.gguf") + " " + path("tiny.packed") + " --json " + path("p.json"),
              folder / "log") == 0);
  REQUIRE(run("unpack " + path("tiny.packed") + " " + path("back.gguf"), folder / "log") == 0);
  auto const original = slim_test::read_file(folder / "tiny.gguf"), packed = slim_test::read_file(folder / "tiny.packed");
  CHECK(slim_test::read_file(folder / "back.gguf") == original);
  auto const json = nlohmann::json::parse(slim_test::read_file(folder / "p.json"));
  CHECK(json["bytes"] == original.size());
  CHECK(packed.size() < original.size());
  for (std::size_t const at : {std::size_t{3}, std::size_t{14}, std::size_t{25}, packed.size() / 2, packed.size() - 1}) {
    std::string bad = packed;
    bad[at] = static_cast<char>(bad[at] ^ 5);
    slim_test::write_file(folder / "bad.packed", bad);
    CHECK(run("unpack " + path("bad.packed") + " " + path("bad.gguf"), folder / "log") == 1);
    CHECK_THAT(slim_test::read_file(folder / "log"), Catch::Contains("bad.packed: "));
    CHECK_FALSE(std::filesystem::exists(folder / "bad.gguf"));
  }
}

TEST_CASE("a trial with some blocks reports on them and writes no model; a limit of memory is kept or refused with its parts") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_gguf(folder / "tiny.gguf", m);
  slim_test::write_file(folder / "a.txt", letters(700));
  auto const path = [&](char const* name) { return (folder / name).string(); };
  auto const log = [&] { return slim_test::read_file(folder / "log"); };
  std::string const common = "compress " + path("tiny.gguf") + " --calib " + path("a.txt") + " --text " + path("a.txt") +
                             " --context 32 --calib-tokens 128 --held-out-tokens 32 --max-tokens 128 --recipe slim@g16 ";
  REQUIRE(run(common + "--max-blocks 1 --out " + path("o.gguf") + " --json " + path("t.json"), folder / "log") == 0);
  auto const trial = nlohmann::json::parse(slim_test::read_file(folder / "t.json"));
  CHECK(trial["blocks"] == 1);
  CHECK(trial["seconds_for_all_blocks"].get<double>() == Approx(2 * trial["seconds"].get<double>()));
  CHECK(!trial.contains("perplexity"));
  CHECK(!trial.contains("out"));
  CHECK(!std::filesystem::exists(folder / "o.gguf"));
  CHECK(log().find("1 of 2 blocks") != std::string::npos);
  CHECK(run(common + "--max-blocks 1", folder / "log") == 0);
  CHECK(run(common, folder / "log") == 2); // no --out

  CHECK(run(common + "--out " + path("o.gguf") + " --memory-limit 1M", folder / "log") == 1);
  CHECK(log().find("one block as floats") != std::string::npos);
  CHECK(run(common + "--out " + path("o.gguf") + " --memory-limit nothing", folder / "log") == 1);
  CHECK(run(common + "--out " + path("o.gguf") + " --memory-limit 2G", folder / "log") == 0);
  CHECK(run("eval " + path("tiny.gguf") + " --text " + path("a.txt") + " --context 32 --memory-limit 1M", folder / "log") == 1);
  CHECK(run("eval " + path("tiny.gguf") + " --text " + path("a.txt") + " --context 32 --memory-limit 1G", folder / "log") == 0);
}

TEST_CASE("ablate gives a row per recipe, excess over dense paired, and refuses a text that would serve twice") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_gguf(folder / "tiny.gguf", m);
  slim_test::write_file(folder / "a.txt", letters(400));
  auto const path = [&](char const* name) { return (folder / name).string(); };
  std::string const common =
      "ablate " + path("tiny.gguf") + " --calib " + path("a.txt") + " --text " + path("a.txt") + " --context 32 ";
  REQUIRE(run(common + "--calib-tokens 128 --max-tokens 128 --recipes dense,absmax@g16,slim --against slim --json " +
                  path("r.json") + " --csv " + path("r.csv"),
              folder / "log") == 0);
  auto const rows = nlohmann::json::parse(slim_test::read_file(folder / "r.json"))["rows"];
  REQUIRE(rows.size() == 3);
  CHECK(rows[0]["recipe"] == "dense");
  CHECK(rows[0]["excess_nll"] == 0.0);
  for (auto const& row : rows) {
    CHECK(row["excess_nll"].get<double>() == Approx(row["nll"].get<double>() - rows[0]["nll"].get<double>()).margin(1e-9));
    for (char const* key : {"perplexity", "excess_stderr", "bits_per_weight", "layer_error", "seconds", "peak_bytes"})
      CHECK(row.contains(key));
  }
  // 16-bit scales: rows of 24 weights have 2 groups (16 and a ragged 8), rows of 40 have 3. 152 rows of the former, 24 of the
  // latter.
  CHECK(rows[1]["bits_per_weight"].get<double>() == Approx(4.0 + 16.0 * (152 * 2 + 24 * 3) / (152 * 24 + 24 * 40)));
  CHECK(slim_test::read_file(folder / "log").find("against slim") != std::string::npos);
  // The divergence is that which eval finds for the same compressed model, written and read again.
  CHECK(rows[0]["kl"] == 0.0);
  CHECK(rows[0]["same_top"] == 1.0);
  REQUIRE(run("compress " + path("tiny.gguf") + " --calib " + path("a.txt") + " --text " + path("a.txt") +
                  " --context 32 --calib-tokens 128 --max-tokens 128 --recipe absmax@g16 --no-eval --out " + path("out.slim"),
              folder / "log") == 0);
  auto const text = slim_test::read_file(folder / "a.txt"); // ablate takes its last tokens, eval the first
  slim_test::write_file(folder / "last.txt", text.substr(text.size() - 128));
  REQUIRE(run("eval " + path("out.slim") + " --kl " + path("tiny.gguf") + " --text " + path("last.txt") +
                  " --context 32 --json " + path("e.json"),
              folder / "log") == 0);
  auto const apart = nlohmann::json::parse(slim_test::read_file(folder / "e.json"))["divergence"];
  CHECK(apart["kl"]["mean"].get<double>() > 0.0);
  CHECK(rows[1]["kl"].get<double>() == Approx(apart["kl"]["mean"].get<double>()).epsilon(1e-3));
  CHECK(rows[1]["same_top"].get<double>() == Approx(apart["same_top"]["mean"].get<double>()));

  slim_test::write_file(folder / "points.csv", "label,bits,excess\nelsewhere,4.5,0.5\n");
  REQUIRE(
      run(common + "--calib-tokens 64 --held-out-tokens 32 --max-tokens 128 --recipes slim,int4-lr@g16@r2 --draws 2 --json " +
              path("d.json") + " --csv " + path("d.csv") + " --svg " + path("d.svg") + " --compare-with " + path("points.csv"),
          folder / "log") == 0);
  auto const two = nlohmann::json::parse(slim_test::read_file(folder / "d.json"))["rows"];
  REQUIRE(two.size() == 2);
  CHECK(two[1]["draws"].size() == 2);
  CHECK(two[1]["draws"][0]["excess_nll"] != two[1]["draws"][1]["excess_nll"]);
  CHECK(two[1]["excess_nll"].get<double>() ==
        Approx((two[1]["draws"][0]["excess_nll"].get<double>() + two[1]["draws"][1]["excess_nll"].get<double>()) / 2)
            .margin(1e-9));
  CHECK(two[1]["excess_low"] <= two[1]["excess_nll"]);
  CHECK(two[1]["excess_nll"] <= two[1]["excess_high"]);
  CHECK(two[1]["held_out_error"] > 0.0);
  auto const csv = slim_test::read_file(folder / "d.csv");
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 1 + 2 * 2);
  auto const svg = slim_test::read_file(folder / "d.svg");
  CHECK(svg.find("elsewhere") != std::string::npos);
  CHECK(svg.find("</svg>") != std::string::npos);

  CHECK(run(common + "--calib-tokens 128 --max-tokens 320", folder / "log") == 1);
  CHECK(slim_test::read_file(folder / "log").find("too few for") != std::string::npos);
}

TEST_CASE("exit codes: 1 for what cannot be used, 2 for a command line that makes no sense, each with one sentence") {
  slim_test::temporary_folder const folder;
  auto const log = folder / "log";
  auto const says = [&](char const* text) { return slim_test::read_file(log).find(text) != std::string::npos; };
  slim_test::write_file(folder / "broken.gguf", "GGUF, but not really");
  CHECK(run("inspect " + (folder / "broken.gguf").string(), log) == 1);
  CHECK(says("broken.gguf"));
  CHECK(run("inspect " + (folder / "missing.gguf").string(), log) == 1);
  CHECK(says("does not exist"));
  CHECK(run("compress x.gguf --out y --recipe nonsense", log) == 1);
  CHECK(says("recipe 'nonsense' is not known"));
  CHECK(run("compress x.gguf --out y --for fame", log) == 1);
  CHECK(says("--for fame"));
  CHECK(run("compress", log) == 2);
  CHECK(run("frobnicate", log) == 2);
  CHECK(says("'frobnicate' is not a subcommand; there are compress, plan"));
  CHECK(run("--threads 1 evla x", log) == 2);
  CHECK(says("did you mean 'eval'?"));
  CHECK(run("compress x.gguf --out y --recipe int3-rl", log) == 1);
  CHECK(says("did you mean 'int3-lr'?"));
  CHECK(run("eval x.gguf --text y --context 99999999999999999999", log) == 2);
  CHECK(says("is not a whole number of this size"));
  CHECK(run("eval x.gguf --text y --context 99999999999", log) == 1);
  CHECK(says("--context 99999999999: possible are 2 to"));
  CHECK(run("eval x.gguf --text y --max-tokens -3", log) == 1);
  CHECK(says("--max-tokens -3"));
  CHECK(run("", log) == 2);
  for (char const* command : {"compress", "eval", "ablate", "inspect", "tokenize", "recipes"}) {
    CHECK(run(std::string(command) + " --help", log) == 0);
    CHECK(says("--json"));
    std::istringstream lines(slim_test::read_file(log));
    for (std::string line; std::getline(lines, line);) CHECK(line.size() <= 100);
    CHECK(!says("{false}"));
  }
}

TEST_CASE("llama.cpp's protocol puts BOS before the whole text, then in place of the first token of every window") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  std::string const text = letters(100);
  slim_test::write_file(folder / "a.txt", text + "\n");
  std::vector<int> ids;
  for (char const c : text) ids.push_back(c);
  auto const nll = [&](bool adds, char const* protocol) {
    write_tiny_gguf(folder / "m.gguf", m, [&](slim::gguf_writer& file) {
      file.set("tokenizer.ggml.bos_token_id", std::uint32_t{7});
      file.set("tokenizer.ggml.add_bos_token", adds);
    });
    std::string const command = "eval " + (folder / "m.gguf").string() + " --text " + (folder / "a.txt").string() +
                                " --context 20 --protocol " + protocol + " --json " + (folder / "e.json").string();
    REQUIRE(run(command, folder / "log") == 0);
    return nlohmann::json::parse(slim_test::read_file(folder / "e.json"))["nll"].get<double>();
  };
  double const without = nll(false, "llama.cpp"), windows = nll(true, "windows"), with = nll(true, "llama.cpp");
  auto const loaded = load_model(folder / "m.gguf").value();
  auto const expected = [&](std::vector<int> const& tokens, evaluation_config const& config) {
    return Approx(evaluate(loaded, tokens, config).nll).epsilon(1e-6);
  };
  evaluation_config const as_llama_cpp{.context = 20, .protocol = protocol::llama_cpp};
  evaluation_config const with_bos{.context = 20, .protocol = protocol::llama_cpp, .first_token = 7};
  CHECK(without == expected(ids, as_llama_cpp));
  CHECK(with != expected(ids, with_bos));
  std::vector<int> behind_bos = ids; // 101 tokens: five windows, each of which begins one token earlier than without BOS
  behind_bos.insert(behind_bos.begin(), 7);
  CHECK(with == expected(behind_bos, with_bos));
  ids.push_back('\n');
  CHECK(windows == expected(ids, {.context = 20}));
}

TEST_CASE(
    "finetune and refine write the .slim file again with what trained, beside the model that it was made of and no other") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_gguf(folder / "a.gguf", m);
  slim_test::write_file(folder / "a.txt", letters(600));
  auto const path = [&](std::string const& name) { return (folder / name).string(); };
  auto const log = [&] { return slim_test::read_file(folder / "log"); };
  auto const json = [&](char const* name) { return nlohmann::json::parse(slim_test::read_file(folder / name)); };
  std::string const text = " --calib " + path("a.txt") + " --text " + path("a.txt") + " --context 32 --max-tokens 128 ";
  REQUIRE(run("compress " + path("a.gguf") + text +
                  "--calib-tokens 128 --recipe int3-lr@g8@r2 --entropy-coded --no-eval --out " + path("o.slim"),
              folder / "log") == 0);
  auto const before = slim_container::open(folder / "o.slim").value();
  auto const nll = [&](std::string const& file) {
    REQUIRE(run("eval " + path(file) + " --text " + path("a.txt") + " --context 32 --max-tokens 128 --last --json " +
                    path("e.json"),
                folder / "log") == 0);
    return json("e.json")["nll"].get<double>();
  };
  std::string const few = text + "--calib-tokens 192 --held-out-tokens 64 --tokens-per-step 64 --rate 0.002 ";
  for (std::string const command : {"finetune", "refine"}) {
    auto const train = [&](char const* dense, std::string const& compressed, std::string const& more = "") {
      return run(command + " " + path(dense) + few + "--compressed " + path(compressed) + " --out " + path(command + ".slim") +
                     (command == "finetune" ? " --steps 8" : " --passes 2") + " --json " + path("t.json") + more,
                 folder / "log");
    };
    REQUIRE(train("a.gguf", "o.slim") == 0);
    INFO(log());
    CHECK(log().find("note:") == std::string::npos);
    CHECK(json("t.json")["nll_before"].get<double>() == nll("o.slim"));
    CHECK(json("t.json")["nll_after"].get<double>() == nll(command + ".slim"));
    auto const after = slim_container::open(folder / (command + ".slim")).value();
    CHECK(after.find_damage().empty());
    CHECK(after.entropy_coded());
    CHECK(after.source() == before.source());
    CHECK(after.recipe()["name"] == before.recipe()["name"]);
    CHECK(after.recipe()["trained"][0].get<std::string>().starts_with(command + " --train scales,adapters"));
    index_t changed = 0;
    REQUIRE(after.tensors().size() == before.tensors().size());
    for (auto const& tensor : before.tensors()) {
      auto const same = [&](slim_container const& file) { return file.stored().find(tensor.name)->bytes; };
      if (tensor.stored_type != "codes") {
        CHECK(std::ranges::equal(same(after), same(before)));
        continue;
      }
      linear_info const shape{tensor.name, "", tensor.rows(), tensor.cols()};
      auto const of = [&](slim_container const& file) { return decode(shape, file.linears()->layer(tensor.name)); };
      CHECK(of(after).codes.codes == of(before).codes.codes);
      changed += of(after).codes.scales.data()[0] != of(before).codes.scales.data()[0] ||
                 of(after).adapter.left(0, 0) != of(before).adapter.left(0, 0);
    }
    CHECK(changed > 0);

    matrix<float> embedding = m.embedding.to_float(); // one number of a tensor that is not packed makes another model
    embedding(5, 5) += 1e-3f;
    model other = m;
    other.embedding = stored_matrix(std::move(embedding));
    write_tiny_gguf(folder / "b.gguf", other);
    CHECK(train("b.gguf", "o.slim") == 1);
    CHECK(log().find("was made of another model") != std::string::npos);
    std::string unnamed = slim_test::read_file(folder / "o.slim"); // an imported file does not say
    std::size_t const key = unnamed.find("\"source\"");
    REQUIRE(key != std::string::npos);
    unnamed.replace(key, 8, "\"secret\"");
    slim_test::write_file(folder / "unnamed.slim", unnamed);
    CHECK(train("b.gguf", "unnamed.slim") == 0);
    CHECK(log().find("does not say which model it was made of") != std::string::npos);
    CHECK(train("a.gguf", "a.gguf") == 1); // a GGUF file goes to a GGUF file, and is not refined
    CHECK(train("a.gguf", "o.slim", " --packed x") == 2);
  }
}

TEST_CASE("texts and windows that are not what one would expect get a word") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_gguf(folder / "m.gguf", m);
  slim_test::write_file(folder / "five.txt", "abcde");
  slim_test::write_file(folder / "long.txt", letters(700));
  auto const log = [&](std::string const& arguments, int code) {
    CHECK(run("eval " + (folder / "m.gguf").string() + " --text " + (folder / arguments).string(), folder / "log") == code);
    return slim_test::read_file(folder / "log");
  };
  auto const five = log("five.txt --context 64", 0);
  CHECK_THAT(five, Catch::Contains("has 5 tokens, fewer than --context 64") && Catch::Contains("(1 windows of 5,"));
  CHECK_THAT(log("long.txt --context 300", 0), Catch::Contains("longer than the 256 tokens that the model was made for"));
  CHECK_THAT(log("long.txt --context 300 --protocol llama.cpp --max-tokens 300", 0), !Catch::Contains("less than two windows"));
  CHECK_THAT(log("five.txt --context 4 --protocol llama.cpp", 0), Catch::Contains("less than two windows"));
  CHECK_THAT(log("", 1), Catch::Contains("is a folder"));
  CHECK_THAT(log("missing.txt", 1), Catch::Contains("missing.txt: does not exist"));
}

TEST_CASE("inspect, tokenize and recipes give their result as data") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_gguf(folder / "tiny.gguf", m);
  slim_test::write_file(folder / "a.txt", "ab\n");
  auto const path = [&](char const* name) { return (folder / name).string(); };
  REQUIRE(run("inspect " + path("tiny.gguf") + " --json " + path("i.json"), folder / "log") == 0);
  CHECK(nlohmann::json::parse(slim_test::read_file(folder / "i.json"))["tensors"].size() == 2 + 2 * 9);
  REQUIRE(run("tokenize " + path("tiny.gguf") + " --text " + path("a.txt"), folder / "log") == 0);
  CHECK(slim_test::read_file(folder / "log") == "97\n98\n10\n");
  REQUIRE(run("tokenize " + path("tiny.gguf") + " --text " + path("a.txt") + " --json " + path("t.json"), folder / "log") == 0);
  CHECK(nlohmann::json::parse(slim_test::read_file(folder / "t.json"))["tokens"] == std::vector<int>{97, 98, 10});
  REQUIRE(run("recipes --json " + path("r.json"), folder / "log") == 0);
  CHECK(nlohmann::json::parse(slim_test::read_file(folder / "r.json"))["recipes"].size() == base_recipes().size());
}
