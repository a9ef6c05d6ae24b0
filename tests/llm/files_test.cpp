// What slim-llm writes, and what it must not write over: outputs against inputs, full disks, types of a written folder.

#include "formats/config_dtype.hpp"
#include "formats/load.hpp"
#include "run/help_text.hpp"
#include "run/input_error.hpp"
#include "run/nearest.hpp"
#include "run/output_files.hpp"
#include "support/temporary_folder.hpp"
#include "tiny_folder.hpp"
#include "tiny_gguf.hpp"

#include "slim/io/file.hpp"

#include <nlohmann/json.hpp>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <sys/resource.h>
#include <sys/wait.h>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

/// Exit code of slim-llm; what it says goes to `log`. `before`: shell commands in front of it.
int run(std::string const& arguments, std::filesystem::path const& log, std::string const& before = "") {
  std::string const command = before + SLIM_LLM_PROGRAM + " " + arguments + " > " + log.string() + " 2>&1";
  int const status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string letters(index_t count) {
  std::string text;
  for (int const id : random_tokens(count, 26, 8)) text += static_cast<char>('a' + id);
  return text;
}

/// Names and contents of all files of a folder.
std::map<std::string, std::string> contents(std::filesystem::path const& folder) {
  std::map<std::string, std::string> all;
  for (auto const& entry : std::filesystem::recursive_directory_iterator(folder))
    all[entry.path().string()] = entry.is_regular_file() ? slim_test::read_file(entry.path()) : "";
  return all;
}

std::string why(file_plan const& files) {
  try {
    files.check();
  } catch (input_error const& error) {
    return error.what();
  }
  return "";
}

} // namespace

TEST_CASE("no output takes the place of an input, of a part of a model, or of another output") {
  slim_test::temporary_folder const folder;
  auto const at = [&](char const* name) { return folder / name; };
  std::filesystem::create_directories(at("model"));
  slim_test::write_file(at("model/model.safetensors"), "weights");
  slim_test::write_file(at("model/config.json"), "{}");
  slim_test::write_file(at("text"), "text");
  std::filesystem::create_hard_link(at("model/model.safetensors"), at("linked"));
  std::filesystem::create_symlink(at("model/config.json"), at("symlink"));
  std::filesystem::create_symlink(at("model"), at("same_model"));
  std::filesystem::create_directories(at("sharded"));
  slim_test::write_file(at("sharded/model.safetensors.index.json"), "{}");
  struct outputs {
    char const *out = "", *state = "", *json = "", *csv = "";
  };
  auto const refusal = [&](outputs const& o) {
    auto const place = [&](char const* name) { return *name && *name != '/' ? folder / name : std::filesystem::path(name); };
    file_plan files;
    files.reads_model(at("model"));
    files.reads_file("--text", at("text"));
    files.writes_model("--out", place(o.out), at("model"));
    files.writes_file("--state", place(o.state));
    files.writes_text("--json", place(o.json));
    files.writes_text("--layers-csv", place(o.csv));
    return why(files);
  };
  CHECK(refusal({}) == "");
  CHECK(refusal({.out = "new", .state = "p", .json = "j.json", .csv = "c.csv"}) == "");
  CHECK(refusal({.out = "new/"}) == "");
  CHECK(refusal({.out = "model/new"}) == "");
  CHECK(refusal({.json = "/dev/null", .csv = "/dev/null"}) == "");
  CHECK(refusal({.json = "model/result.json"}) == ""); // no part of a model
  for (char const* wrong : {"model/model.safetensors", "model/config.json", "model/../model/config.json", "linked", "symlink",
                            "same_model/config.json", "model/tokenizer.json", "model/extra.safetensors", "text", "model"}) {
    INFO(wrong);
    CHECK(refusal({.state = wrong}) != "");
    CHECK(refusal({.json = wrong}) != "");
  }
  CHECK_THAT(refusal({.state = "model/model.safetensors"}), Catch::Contains("--state") && Catch::Contains("the model"));
  CHECK_THAT(refusal({.out = "model"}), Catch::Contains("--out"));
  CHECK(refusal({.out = "same_model"}) != "");
  CHECK_THAT(refusal({.out = "text"}), Catch::Contains("--text"));
  CHECK_THAT(refusal({.out = "new", .state = "new/p"}), Catch::Contains("inside --out"));
  CHECK_THAT(refusal({.out = "new/", .state = "new/p"}), Catch::Contains("inside --out"));
  CHECK_THAT(refusal({.out = "new", .state = "new/p/q"}), Catch::Contains("inside --out"));
  CHECK_THAT(refusal({.out = "new", .json = "new"}), Catch::Contains("--json"));
  CHECK_THAT(refusal({.json = "a", .csv = "a"}), Catch::Contains("--layers-csv"));
  CHECK_THAT(refusal({.json = "a", .csv = "./b/../a"}), Catch::Contains("--layers-csv"));
  CHECK_THAT(refusal({.json = "nowhere/a"}), Catch::Contains("nowhere does not exist"));
  CHECK_THAT(refusal({.json = "text/a"}), Catch::Contains("is not a folder"));
  CHECK_THAT(refusal({.out = "sharded"}), Catch::Contains("model.safetensors.index.json"));
  CHECK_THAT(refusal({.state = "/dev/null"}), Catch::Contains("device"));
  CHECK(refusal({.json = ("n" + std::string(300, 'x')).c_str()}) != "");
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 6); // the checks leave nothing behind

  file_plan missing;
  missing.reads_file("--text", at("model"));
  CHECK_THAT(why(missing), Catch::Contains("is a folder"));
  CHECK_THROWS_AS(require_room({{"--out", at("x"), 1e18}}), input_error);
  CHECK_NOTHROW(require_room({{"--out", at("x"), 1000}}));
}

TEST_CASE("the program refuses outputs that would harm before it reads anything, and leaves every file as it was") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_folder(folder / "model", m);
  slim_test::write_file(folder / "text", letters(900));
  std::filesystem::create_directory(folder / "other");
  auto const at = [&](char const* name) { return (folder / name).string(); };
  std::string const common = "compress " + at("model") + " --calib " + at("text") + " --text " + at("text") +
                             " --context 32 --calib-tokens 128 --held-out-tokens 0 --max-tokens 128 --recipe slim-q@g32 ";
  auto const before = contents(folder.path());
  for (std::string const& wrong :
       {"--out " + at("new") + " --events " + at("model/model.safetensors"), "--out " + at("model"),
        "--out " + at("new") + " --json " + at("model/config.json"), "--out " + at("new") + " --events " + at("new/events"),
        "--out " + at("new") + " --events " + at("text"), "--out " + at("new") + " --json " + at("nowhere/a.json"),
        "--out " + at("text"), "--out " + at("nowhere/new"), "--out " + at("new") + " --layers-csv " + at("other")}) {
    INFO(wrong);
    CHECK(run(common + wrong, "/dev/null") == 1);
    CHECK((contents(folder.path()) == before));
  }
  std::string const eval = "eval " + at("model") + " --text " + at("text") + " --context 32 --max-tokens 64 ";
  CHECK(run(eval + "--json " + at("text"), folder / "other/log") == 1);
  CHECK(run(eval + "--json /dev/full", folder / "other/log") == 1);
  CHECK_THAT(slim_test::read_file(folder / "other/log"), Catch::Contains("/dev/full: cannot be written: No space left"));
  CHECK(run("recipes", "/dev/full") == 1);
  CHECK(run(eval + "--json /dev/stdout", folder / "other/log") == 0);
  CHECK_THAT(slim_test::read_file(folder / "other/log"), Catch::Contains("\"perplexity\""));
}

TEST_CASE("a file that cannot grow ends with an error, its name, and the old file; the same for a folder") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_folder(folder / "model", m);
  model of_file = random_llama(256);
  write_tiny_gguf(folder / "m.gguf", of_file);
  slim_test::write_file(folder / "text", letters(900));
  slim_test::write_file(folder / "old.gguf", "old");
  std::filesystem::create_directory(folder / "old");
  slim_test::write_file(folder / "old/model.safetensors", "old");
  auto const at = [&](char const* name) { return (folder / name).string(); };
  std::string const common = " --calib " + at("text") + " --text " + at("text") +
                             " --context 32 --calib-tokens 128 --held-out-tokens 0 --max-tokens 128 --recipe slim-q@g32 ";
  auto const log = [&] { return slim_test::read_file(folder / "log"); };
  auto const before = [&](int blocks) { return "ulimit -f " + std::to_string(blocks) + "; "; }; // of 512 bytes in sh
  for (int const blocks : {1, 24, 60}) { // the scratch file, or the model
    INFO(blocks);
    CHECK(run("compress " + at("m.gguf") + common + "--out " + at("old.gguf"), folder / "log", before(blocks)) == 1);
    CHECK_THAT(log(), Catch::Contains("File too large") && Catch::Contains(folder.path().string()));
    CHECK((slim_test::read_file(folder / "old.gguf") == "old"));
    CHECK(run("compress " + at("model") + common + "--out " + at("old"), folder / "log", before(blocks)) == 1);
    CHECK_THAT(log(), Catch::Contains("File too large"));
    CHECK((slim_test::read_file(folder / "old/model.safetensors") == "old"));
    CHECK(std::distance(std::filesystem::directory_iterator(folder / "old"), {}) == 1);
  }
  CHECK(run("compress " + at("model") + common + "--out " + at("new/"), folder / "log") == 0);
  CHECK(load_model(folder / "new").why() == "");
  CHECK(run("compress " + at("model") + common + "--out " + at("old"), folder / "log") == 0);
  CHECK(load_model(folder / "old").why() == "");
  CHECK(std::distance(std::filesystem::directory_iterator(folder / "old"), {}) == 3);
}

TEST_CASE("a .slim file, an export and a run whose disk is full end with an error; what was there stays, and the run goes on") {
  slim_test::temporary_folder const folder;
  model m = random_llama(256);
  write_tiny_gguf(folder / "m.gguf", m);
  slim_test::write_file(folder / "text", letters(900));
  auto const at = [&](char const* name) { return (folder / name).string(); };
  std::string const compress = "compress " + at("m.gguf") + " --calib " + at("text") + " --text " + at("text") +
                               " --context 32 --calib-tokens 128 --held-out-tokens 0 --max-tokens 128 --recipe int3-lr@g8@r2 ";
  REQUIRE(run(compress + "--out " + at("a.slim"), folder / "log") == 0);
  std::string const exported = "export " + at("a.slim") + " --allow-lossy --adapter none --to ";
  REQUIRE(run(exported + "hf --out " + at("hf"), folder / "log") == 0);
  REQUIRE(run(compress + "--run " + at("whole"), folder / "log") == 0);
  slim_test::write_file(folder / "log", "");
  slim_test::write_file(folder / "other", "");
  auto const before = contents(folder.path());
  for (std::string const& command : {compress + "--out " + at("a.slim"), exported + "hf --out " + at("hf")})
    for (char const* limit : {"ulimit -f 1; ", "ulimit -f 24; "}) { // of 512 bytes in sh
      INFO(command << limit);
      CHECK(run(command, folder / "log", limit) == 1);
      CHECK_THAT(slim_test::read_file(folder / "log"), Catch::Contains("File too large"));
      slim_test::write_file(folder / "log", "");
      CHECK((contents(folder.path()) == before));
    }
  for (char const* limit : {"ulimit -f 1; ", "ulimit -f 12; ", "ulimit -f 48; "}) { // nothing, a part of a block, a block
    INFO(limit);
    CHECK(run(compress + "--resume --run " + at("stopped"), folder / "log", limit) == 1);
    CHECK_THAT(slim_test::read_file(folder / "log"), Catch::Contains("File too large") && Catch::Contains(at("stopped")));
  }
  CHECK(run(compress + "--resume --run " + at("stopped"), folder / "log") == 0);
  CHECK((slim_test::read_file(folder / "stopped/model.slim") == slim_test::read_file(folder / "whole/model.slim")));
}

TEST_CASE("a replaced file never touches what stands beside it, and goes where a link points to") {
  slim_test::temporary_folder const folder;
  slim_test::write_file(folder / "a", "old");
  slim_test::write_file(folder / "a.tmp", "of somebody else");
  std::filesystem::create_symlink("a", folder / "link");
  {
    auto file = slim::replacing_file::create(folder / "link");
    REQUIRE(file.why() == "");
    file->write(std::string_view("new"));
    CHECK(slim_test::read_file(folder / "a") == "old");
    CHECK(file->commit().why() == "");
  }
  CHECK(slim_test::read_file(folder / "a") == "new");
  CHECK(slim_test::read_file(folder / "a.tmp") == "of somebody else");
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 3);
}

TEST_CASE("the type of config.json is changed in its place, and nothing else") {
  CHECK(with_dtype(R"({"a": {"dtype": "x"}, "torch_dtype": "bfloat16", "b": [1, "}"]})", "float16") ==
        R"({"a": {"dtype": "x"}, "torch_dtype": "float16", "b": [1, "}"]})");
  CHECK(with_dtype(R"({"dtype":null,"s":"\"dtype\": \\","x":Infinity,"torch_dtype":"float32"})", "float16") ==
        R"({"dtype":"float16","s":"\"dtype\": \\","x":Infinity,"torch_dtype":"float16"})");
  CHECK(nlohmann::json::parse(with_dtype(R"({"a": 1})", "float16")) == nlohmann::json{{"a", 1}, {"torch_dtype", "float16"}});
  CHECK(nlohmann::json::parse(with_dtype("{ }", "float16")) == nlohmann::json{{"torch_dtype", "float16"}});
  CHECK(with_dtype("no object", "float16") == "no object");
}

TEST_CASE("a written folder names the type in which its weights are right, and holds what was evaluated") {
  slim_test::temporary_folder const folder;
  slim_test::write_file(folder / "text", letters(900));
  auto const at = [&](char const* name) { return (folder / name).string(); };
  auto const compressed = [&](char const* dtype, float scale) {
    model m = random_llama(256);
    auto const scaled = [](matrix<float>& w, float by) {
      std::for_each(w.data(), w.data() + w.size(), [&](float& x) { x *= by; });
    };
    scaled(m.blocks[0]["up"].weight, scale);
    scaled(m.blocks[0]["down"].weight, 1 / scale);
    std::filesystem::remove_all(folder / "model");
    std::filesystem::remove_all(folder / "out");
    write_tiny_folder(folder / "model", m, dtype);
    int const code =
        run("compress " + at("model") + " --out " + at("out") + " --calib " + at("text") + " --text " + at("text") +
                " --context 32 --calib-tokens 128 --held-out-tokens 0 --max-tokens 128 --recipe dense --json " + at("c.json"),
            folder / "log");
    INFO(slim_test::read_file(folder / "log"));
    REQUIRE(code == 0);
    auto result = nlohmann::json::parse(slim_test::read_file(folder / "c.json"));
    result["dtype"] = nlohmann::json::parse(slim_test::read_file(folder / "out/config.json"))["torch_dtype"];
    REQUIRE(run("eval " + at("out") + " --text " + at("text") + " --context 32 --max-tokens 128 --last --json " + at("e.json"),
                folder / "log") == 0);
    result["again"] = nlohmann::json::parse(slim_test::read_file(folder / "e.json"))["nll"];
    return result;
  };
  auto const plain = compressed("BF16", 1);
  CHECK(plain["dtype"] == "float16"); // linears are F16; the rest, BF16, survives it
  CHECK(plain["nll"].get<double>() == Approx(plain["again"].get<double>()).epsilon(1e-9));
  CHECK(plain["warnings"].empty());
  CHECK(compressed("F32", 1)["dtype"] == "float32"); // the embedding would be rounded
  CHECK(compressed("F16", 1)["dtype"] == "float16");
  auto const small = compressed("F32", 1e-7f);
  CHECK(small["nll"].get<double>() == Approx(small["again"].get<double>()).epsilon(1e-9));
  REQUIRE(small["warnings"].size() == 2); // up is too small, down too large
  CHECK_THAT(small["warnings"][0].get<std::string>(),
             Catch::Contains("layers.0.mlp.up_proj.weight") && Catch::Contains("too small for F16"));
  CHECK_THAT(small["warnings"][1].get<std::string>(),
             Catch::Contains("layers.0.mlp.down_proj.weight") && Catch::Contains("beyond the range of F16"));
  std::filesystem::remove_all(folder / "out");
  CHECK(run("compress " + at("model") + " --strict --out " + at("out") + " --calib " + at("text") + " --text " + at("text") +
                " --context 32 --calib-tokens 128 --held-out-tokens 0 --max-tokens 128 --recipe dense",
            folder / "log") == 1);
  CHECK_THAT(slim_test::read_file(folder / "log"), Catch::Contains("--strict: "));
  CHECK(!std::filesystem::exists(folder / "out"));
}

TEST_CASE("the nearest known name; help that fits") {
  std::vector<std::string> const names = {"compress", "eval", "generate", "int3-lr", "int4-lr"};
  CHECK(did_you_mean("compres", names) == "; did you mean 'compress'?");
  CHECK(did_you_mean("comrpess", names) == "; did you mean 'compress'?");
  CHECK(did_you_mean("evla", names) == "; did you mean 'eval'?");
  CHECK(did_you_mean("int5-lr", names) == "; did you mean 'int3-lr'?");
  CHECK(did_you_mean("frobnicate", names).empty());
  CHECK(wrapped("abc def ghi\n", 7, 4) == "abc def\nghi\n");
  CHECK(wrapped("  abc def ghi\nshort", 9, 4) == "  abc def\n    ghi\nshort");
  CHECK(wrapped("  a=b,c,d,e", 7, 2) == "  a=b,\n  c,d,e");
  CHECK(wrapped("unbreakable", 4, 2) == "unbreakable");
  CHECK(shell_quoted("a/b-1.gguf") == "a/b-1.gguf");
  CHECK(shell_quoted("my model") == "'my model'");
  CHECK(shell_quoted("it's") == "'it'\\''s'");
  CHECK(shell_quoted("") == "''");
}

TEST_CASE("rows that no stored scale holds, and layers of which nothing is left, are warnings") {
  model m = random_llama();
  name_linears(m);
  float* const row = m.blocks[1]["v"].weight.row(3);
  std::for_each(row, row + m.blocks[1]["v"].d_in(), [](float& w) { w *= 1e-12f; });
  auto const cost =
      compress_in_place(m, random_tokens(80, 61), find_recipe("rtn-int4@g8").value(), {.context = 8, .calib_tokens = 56});
  REQUIRE(cost.warnings.size() == 1);
  CHECK_THAT(cost.warnings[0], Catch::Contains("linear.9: 1 of 12 rows became 0"));
}
