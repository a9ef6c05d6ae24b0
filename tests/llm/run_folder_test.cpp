#include "compress/run_folder.hpp"

#include "run/input_error.hpp"
#include "support/temporary_folder.hpp"
#include "tiny_gguf.hpp"

#include "slim/core/random.hpp"
#include "slim/io/safetensors/reader.hpp"

#include <catch2/catch.hpp>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace slim_llm;
using namespace slim_llm::testing;

namespace {

using clock_type = std::chrono::steady_clock;

double seconds_since(clock_type::time_point start) { return std::chrono::duration<double>(clock_type::now() - start).count(); }

/// A model of six blocks, a text, and runs of slim-llm on them.
struct run_place {
  slim_test::temporary_folder folder;

  run_place() {
    model m = random_of(llama_family, [](model_config& c) {
      c.layers = 6;
      c.vocab = 256;
    });
    m.embedding = random_matrix(256, m.config.hidden, 1);
    write_tiny_gguf(folder / "source", m);
    std::string text;
    for (int const id : random_tokens(3000, 26, 8)) text += static_cast<char>('a' + id);
    slim_test::write_file(folder / "text", text);
    slim_test::write_file(folder / "other_text", text + "b");
  }

  [[nodiscard]] std::string at(std::string const& name) const { return (folder / name).string(); }
  [[nodiscard]] std::string log() const { return slim_test::read_file(folder / "log"); }
  [[nodiscard]] std::string bytes(std::string const& name) const { return slim_test::read_file(folder / name); }
  [[nodiscard]] std::string command(std::string const& run, std::string const& more = "",
                                    std::string const& text = "text") const {
    return std::string(SLIM_LLM_PROGRAM) + " compress " + at("source") + " --calib " + at(text) + " --text " + at("text") +
           " --context 32 --calib-tokens 1600 --held-out-tokens 64 --max-tokens 256 --recipe int3-lr@g16@r2 --run " + at(run) +
           " " + more;
  }
  /// Process of a command whose output goes to `log`.
  [[nodiscard]] pid_t start(std::string const& line) const {
    std::string const all = "exec " + line + " > " + at("log") + " 2>&1";
    pid_t const child = ::fork();
    if (child == 0) {
      ::execl("/bin/sh", "sh", "-c", all.c_str(), nullptr);
      ::_exit(127);
    }
    return child;
  }
  /// Exit code, or minus the signal.
  [[nodiscard]] static int end_of(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  }
  [[nodiscard]] int run(std::string const& line) const { return end_of(start(line)); }
  [[nodiscard]] index_t blocks_kept(std::string const& run) const {
    auto const file = slim::safetensors_file::open(folder / run / "state.safetensors");
    return file ? nlohmann::json::parse(file->metadata().at("state")).at("blocks").get<index_t>() : 0;
  }
  [[nodiscard]] index_t block_files(std::string const& run) const {
    index_t count = 0;
    std::error_code error;
    for (auto const& file : std::filesystem::directory_iterator(folder / run, error))
      count += file.path().filename().string().starts_with("block-") && file.path().extension() == ".safetensors" ? 1 : 0;
    return count;
  }
};

} // namespace

TEST_CASE("a run that is killed at any moment goes on to the bytes of an undisturbed one, and redoes at most one block") {
  run_place const here;
  auto const begin = clock_type::now();
  REQUIRE(here.run(here.command("whole")) == 0);
  double const all = seconds_since(begin);
  std::string const expected = here.bytes("whole/model.slim");
  REQUIRE(!expected.empty());
  CHECK(here.block_files("whole") == 0); // nothing is left but results
  CHECK(here.run(here.command("whole", "--resume")) == 0);
  CHECK(here.log().find("is complete") != std::string::npos);
  CHECK(here.run(here.command("whole")) == 1);
  CHECK(here.log().find("holds a run already") != std::string::npos);

  std::string const program = SLIM_LLM_PROGRAM;
  REQUIRE(here.run(program + " report " + here.at("whole")) == 0);
  std::string const page = here.bytes("whole/report.html");
  for (char const* part : {"<svg", "share of weights by level", "singular values", "-4 to 3", "int3-lr@g16@r2", "perplexity",
                           "blk.5.ffn_down.weight", "prefers-color-scheme", "</html>"})
    CHECK(page.find(part) != std::string::npos);
  for (char const* part : {"<script", "http", "nan"}) CHECK(page.find(part) == std::string::npos);
  REQUIRE(here.run(program + " card " + here.at("whole")) == 0);
  CHECK(here.bytes("whole/README.md").find("| perplexity") != std::string::npos);

  int killed = 0;
  char const* const moments = std::getenv("SLIM_KILLS"); // by hand: more of them
  int const count = moments ? std::atoi(moments) : 6;
  for (int k = 0; k < count; ++k) {
    std::string const run = "run" + std::to_string(k);
    int const signal = k % 3 == 2 ? SIGTERM : SIGKILL;
    for (int kills = 0;; ++kills) { // each run is killed twice before it may end
      pid_t const child = here.start(here.command(run, "--resume"));
      double const random = slim::random_uniform(7, static_cast<std::uint64_t>(2 * k + kills));
      bool const by_blocks = k % 2 == 0; // soon after so many blocks; else at any time
      index_t const wanted = kills < 2 ? k % 3 + 2 * kills : 100;
      double moment = kills < 2 && !by_blocks ? all * (0.05 + 0.9 * random) : 1e9;
      auto const started = clock_type::now();
      int status = 0;
      bool ended = false;
      while (!(ended = ::waitpid(child, &status, WNOHANG) != 0) && seconds_since(started) < moment) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        if (by_blocks && moment == 1e9 && here.block_files(run) >= wanted) moment = seconds_since(started) + 0.03 * random;
      }
      if (ended) {
        INFO(here.log());
        REQUIRE((WIFEXITED(status) && WEXITSTATUS(status) == 0));
        break;
      }
      auto const sent = clock_type::now();
      ::kill(child, signal);
      int const end = here.end_of(child);
      ++killed;
      if (signal == SIGTERM && end != 0 && end != -SIGTERM) {
        CHECK(end == 128 + SIGTERM);
        CHECK(seconds_since(sent) < 2.5);
        CHECK(here.log().find("--resume") != std::string::npos);
      }
      bool const complete = std::filesystem::exists(here.folder / run / "result.json"); // then it was cleaning up
      CHECK((complete || here.block_files(run) <= here.blocks_kept(run) + 1));
    }
    CHECK(here.bytes(run + "/model.slim") == expected);
  }
  CHECK(2 * killed >= count); // a run may be done before its moment comes
}

TEST_CASE("a run is refused to go on with anything else than it was begun with, and to a second process") {
  run_place const here;
  REQUIRE(here.run(here.command("run", "--no-eval")) == 0);
  auto const refused = [&](std::string const& line, std::string const& reason) {
    CHECK(here.run(line) == 1);
    INFO(here.log());
    CHECK(here.log().find(reason) != std::string::npos);
  };
  refused(here.command("run", "--no-eval --resume", "other_text"), "begun with another calibration text");
  refused(here.command("run", "--resume"), "begun with another evaluation");
  refused(here.command("run", "--no-eval --resume --rank 3"), "begun with another rank");
  std::string const settings = here.bytes("run/run.json");
  auto const changed = [&](char const* key) {
    auto edited = nlohmann::json::parse(settings);
    edited[key] = "other";
    slim_test::write_file(here.folder / "run" / "run.json", edited.dump());
    refused(here.command("run", "--no-eval --resume"), std::string("begun with another ") + key);
  };
  for (char const* key : {"version", "model", "recipe"}) changed(key);

  int const held = ::open((here.folder / "run" / "lock").c_str(), O_RDWR);
  REQUIRE(::flock(held, LOCK_EX) == 0);
  refused(here.command("run", "--no-eval --resume"), "works there");
  ::close(held);

  std::filesystem::create_directory(here.folder / "other");
  slim_test::write_file(here.folder / "other" / "letter.txt", "dear");
  refused(here.command("other"), "holds files and no run");
  CHECK(here.bytes("other/letter.txt") == "dear");
  std::string without_codes = here.command("new");
  without_codes.replace(without_codes.find("int3-lr@g16@r2"), 14, "wanda-24");
  refused(without_codes, "makes no integer codes");
  refused(std::string(SLIM_LLM_PROGRAM) + " report " + here.at("other"), "holds no run");
  std::filesystem::remove(here.folder / "run" / "result.json");
  refused(std::string(SLIM_LLM_PROGRAM) + " card " + here.at("run"), "is not complete");
}

TEST_CASE("a run with a budget of bits goes on with the bits that it chose") {
  run_place const here;
  auto const with_bits = [&](std::string const& run, std::string const& more, std::string const& bits = "3.9") {
    std::string line = here.command(run, "--no-eval --bits " + bits + " " + more);
    return line.replace(line.find("int3-lr@g16@r2"), 14, "gptq-int4@g16");
  };
  REQUIRE(here.run(with_bits("whole", "")) == 0);
  pid_t const child = here.start(with_bits("cut", ""));
  auto const begin = clock_type::now();
  while (here.block_files("cut") < 2 && !std::filesystem::exists(here.folder / "cut/result.json") && seconds_since(begin) < 60)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(child, SIGKILL);
  (void)run_place::end_of(child);
  CHECK(here.run(with_bits("cut", "--resume", "3.5")) == 1);
  CHECK(here.log().find("begun with another --bits") != std::string::npos);
  REQUIRE(here.run(with_bits("cut", "--resume")) == 0);
  CHECK(here.bytes("cut/model.slim") == here.bytes("whole/model.slim"));
}

TEST_CASE("reports of layers come back from JSON as they were") {
  layer_result layer;
  layer.block = 3;
  layer.name = "a";
  layer.role = "q";
  layer.report.rows = 4;
  layer.report.cols = 5;
  layer.report.notes = {"one", "two"};
  layer.report.objective = {0.1, 1.0 / 3};
  slim::step_report step;
  step.step = "round";
  step.relative_error = 1.0 / 7;
  step.rank = 2;
  step.notes = {"fallback"};
  layer.report.steps = {step};
  layer.vanished_rows = 1;
  auto const back = layers_of_json(nlohmann::json::parse(layers_as_json({layer}).dump())).at(0);
  CHECK(back.report.steps[0].relative_error == step.relative_error);
  CHECK(std::isnan(back.report.steps[0].output_error));
  CHECK(back.report.objective == layer.report.objective);
  CHECK(layers_as_json({back}) == layers_as_json({layer}));
}
