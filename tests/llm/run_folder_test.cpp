#include "compress/run_folder.hpp"

#include "run/input_error.hpp"
#include "support/skip.hpp"
#include "support/temporary_folder.hpp"
#include "tiny_gguf.hpp"

#include "slim/core/random.hpp"
#include "slim/io/safetensors/reader.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <sstream>
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
  /// The same in a job of several ranks.
  [[nodiscard]] static std::string in_ranks(int ranks, std::string const& line) {
    return job() + "-n " + std::to_string(ranks) + " " + line;
  }
  /// mpirun, with nothing behind it.
  [[nodiscard]] static std::string job() {
    return "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 " + mpirun +
           " --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none ";
  }
#if defined(SLIM_MPIRUN)
  static inline std::string const mpirun = SLIM_MPIRUN;
#else
  static inline std::string const mpirun;
#endif
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

namespace {

/// Processes that a process has started.
std::vector<pid_t> children_of(pid_t parent) {
  std::istringstream list(
      slim_test::read_file("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children"));
  std::vector<pid_t> all;
  for (pid_t child = 0; list >> child;) all.push_back(child);
  return all;
}

/// False if the process has ended, whether or not its end was asked for.
bool runs(pid_t process) {
  std::ifstream stat("/proc/" + std::to_string(process) + "/stat");
  std::string text;
  std::getline(stat, text);
  std::size_t const name_end = text.rfind(')');
  return name_end != std::string::npos && text.substr(name_end, 3) != ") Z";
}

index_t count_of(std::string const& part, std::string const& text) {
  index_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

} // namespace

TEST_CASE("a job of 1, 2, 3 or 4 ranks writes the bytes of a process alone") {
  if (run_place::mpirun.empty()) return slim_test::skip("slim-llm was built without MPI (SLIM_LLM_MPI)");
  run_place const here;
  for (std::string const recipe : {"int3-lr@g16@r2", "slim-q@g16", "joint-q@g16"}) {
    bool const all = recipe.starts_with("int3");
    auto const line = [&](std::string const& run, std::string const& options) {
      std::string command = here.command(run, all ? "" : "--no-eval");
      command.replace(command.find("int3-lr@g16@r2"), 14, recipe);
      return command.replace(command.find(" compress"), 1, " " + options + " ");
    };
    REQUIRE(here.run(line(recipe, "--threads 2")) == 0);
    std::string const expected = here.bytes(recipe + "/model.slim");
    REQUIRE(!expected.empty());
    for (int const ranks : all ? std::vector{1, 2, 3, 4} : std::vector{3}) {
      std::string const run = recipe + std::to_string(ranks);
      CHECK(here.run(here.in_ranks(ranks, line(run, ranks == 2 ? "--threads 1" : "--threads 2"))) == 0);
      INFO(here.log());
      CHECK(here.bytes(run + "/model.slim") == expected);
      CHECK(count_of("going on", here.log()) == 0);
      CHECK(count_of("step 1: ", here.log()) == 1); // the first rank speaks for all
    }
  }
}

TEST_CASE("a rank that dies ends its job, and the run goes on in any number of ranks") {
  if (run_place::mpirun.empty()) return slim_test::skip("slim-llm was built without MPI (SLIM_LLM_MPI)");
  run_place const here;
  REQUIRE(here.run(here.command("whole")) == 0);
  std::string const expected = here.bytes("whole/model.slim");
  for (int const signal : {SIGKILL, SIGTERM}) { // to a rank behind the first; to mpirun, as a batch system sends it
    std::string const run = "run" + std::to_string(signal);
    bool cut = false;
    for (int ranks = 3; ranks > 1; --ranks) {
      pid_t const job = here.start(here.in_ranks(ranks, here.command(run, "--resume")));
      index_t const blocks = here.blocks_kept(run) + 1;
      int status = 0;
      bool ended = false;
      while (!(ended = ::waitpid(job, &status, WNOHANG) != 0) && here.blocks_kept(run) < blocks)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (ended) break; // done before its moment came
      auto const processes = children_of(job);
      REQUIRE(processes.size() == static_cast<std::size_t>(ranks));
      auto const sent = clock_type::now();
      ::kill(signal == SIGKILL ? processes.back() : job, signal);
      CHECK(here.end_of(job) != 0);
      CHECK(seconds_since(sent) < 10);
      while (std::any_of(processes.begin(), processes.end(), runs) && seconds_since(sent) < 10)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      CHECK(std::none_of(processes.begin(), processes.end(), runs));
      INFO(here.log());
      CHECK(count_of("slim-llm: ", here.log()) <= 1);
      cut = true;
    }
    CHECK(cut);
    REQUIRE(here.run(signal == SIGKILL ? here.in_ranks(4, here.command(run, "--resume")) : here.command(run, "--resume")) == 0);
    CHECK(here.bytes(run + "/model.slim") == expected);
  }
}

TEST_CASE("what a rank cannot do ends its job with one sentence and exit code 1") {
  if (run_place::mpirun.empty()) return slim_test::skip("slim-llm was built without MPI (SLIM_LLM_MPI)");
  run_place const here;
  auto const refused = [&](std::string const& line, std::string const& reason) {
    CHECK(here.run(line) == 1);
    INFO(here.log());
    CHECK(here.log().find(reason) != std::string::npos);
    CHECK(count_of("slim-llm: ", here.log()) == 1);
  };
  model m = random_llama(256);
  for (float& w : m.blocks[1].find_norm("mlp_norm")->weight) w = 3e38f;
  write_tiny_gguf(here.folder / "overflows", m);
  std::string line = here.command("nan", "--no-eval");
  line.replace(line.find(here.at("source")), here.at("source").size(), here.at("overflows"));
  refused(here.in_ranks(3, line), "tensor 'blk.1.ffn_gate.weight'");
  // Files differ from machine to machine: one rank has another text, or none.
  auto const last_reads = [&](std::string const& text) {
    return here.job() + "-n 2 " + here.command("run_of_" + text, "--no-eval") + " : -n 1 " +
           here.command("run_of_" + text, "--no-eval", text);
  };
  refused(last_reads("other_text"), "rank 2: this rank has another calibration text");
  refused(last_reads("no_text"), "rank 2: ");
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
