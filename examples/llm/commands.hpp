#pragma once
/// @file
/// The subcommands of slim-llm. Each is a struct of its options and `run`, which prints for people on stdout, writes the
/// result as data where asked, and throws input_error or slim::error on bad input.

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace slim_llm {

class ranks;
class stop_signal;

/// Where calibration and evaluation tokens come from. Calibration takes the first tokens of its text, evaluation the last
/// tokens of its own, so that one file can serve both; if they would overlap the command refuses.
struct text_options {
  std::filesystem::path calib; ///< empty: the default text's first part
  std::filesystem::path text;  ///< empty: the default text's last part
  std::ptrdiff_t calib_tokens = 16384;
  std::ptrdiff_t held_out_tokens = 2048; ///< behind those: errors are measured on them, nothing is fitted to them
  std::ptrdiff_t context = 1024;         ///< tokens per window, of calibration and of evaluation
  std::ptrdiff_t max_tokens = 8192;      ///< evaluated
};

/// What --for asks for, and ranks other than the recipe's own.
struct rank_options {
  std::string rank;         ///< "0.075", "32"; empty: the recipe's
  std::string by_role;      ///< "q=0.05,down=0.12"
  double budget = 0;        ///< bits per weight of all linears together: ranks by greatest gain per bit; 0: no budget
  double bits = 0;          ///< per weight of all linears, codes of 2 to 4 bits shared out; 0: as the recipe has it
  std::string aim = "size"; ///< a format of export: `budget` counts the bits of its files; else those of a .slim file
};

struct compress_command {
  std::filesystem::path model, json, layers_csv;
  std::filesystem::path out;      ///< .slim, or in the form of the model; may be empty with max_blocks or `run_path`
  std::filesystem::path run_path; ///< folder for what is needed to go on after any end; empty: none
  bool resume = false;            ///< go on with what is there
  std::filesystem::path imatrix;  ///< statistics to compress by in place of a calibration text; empty: none
  std::filesystem::path events;   ///< where progress goes as JSON lines; empty: nowhere
  std::string command_line;       ///< as it was given, to be repeated in advice
  text_options text;
  rank_options ranks;
  std::string recipe_name;       ///< empty: what `ranks.aim` names
  std::string memory_limit;      ///< "6G"; empty: none
  std::ptrdiff_t max_blocks = 0; ///< a trial: stop behind so many blocks and write nothing; 0: all
  bool with_evaluation = true;
  bool strict = false;        ///< a layer that lost more than compression should is an error
  bool entropy_coded = false; ///< codes of the .slim file take as few bits as their frequencies say
  void run(slim_llm::ranks& job) const;

private:
  void run_until(stop_signal& stop, slim_llm::ranks& job) const;
};

/// What compress would do, without doing it.
struct plan_command {
  std::filesystem::path model, json;
  text_options text;
  rank_options ranks;
  std::string recipe_name; ///< as compress_command
  std::string memory_limit;
  std::string embeddings; ///< as export_command, with --for a format
  bool with_run = false;  ///< count the room of a run folder
  void run() const;
};

struct validate_command {
  std::filesystem::path path, json;
  void run() const;
};

struct diff_command {
  std::filesystem::path a, b, json;
  std::filesystem::path text; ///< outputs are compared on its first tokens; empty: only weights
  std::ptrdiff_t max_tokens = 1024;
  void run() const;
};

/// Of a run folder: a page for people.
struct report_command {
  std::filesystem::path folder, out;
  void run() const;
};

struct card_command {
  std::filesystem::path folder, out;
  void run() const;
};

struct evaluate_command {
  std::filesystem::path model, text, json;
  std::filesystem::path base;        ///< a model, or its predictions, to measure the divergence from; may be empty
  std::filesystem::path save_logits; ///< where to write the predictions as llama-perplexity does; may be empty
  std::filesystem::path choices;     ///< questions with several answers, in place of a text; may be empty
  std::ptrdiff_t context = 2048, max_tokens = 0;
  std::string protocol = "windows";
  std::string inputs; ///< empty: float
  std::string kv_cache = "fp32";
  std::string memory_limit; ///< as in compress_command
  bool last = false;
  void run() const;

private:
  void run_choices() const;
};

struct generate_command {
  std::filesystem::path model, json;
  std::filesystem::path prompts; ///< a file of them, in place of `prompt`; empty: none
  std::string prompt, inputs = "int8", kv_cache = "fp16";
  std::ptrdiff_t batch = 16; ///< texts of `prompts` that are written at a time
  std::ptrdiff_t max_tokens = 128;
  std::ptrdiff_t prompt_tokens = 0; ///< so many from the beginning of a prompt; 0: all
  std::ptrdiff_t repetitions = 1;   ///< the same again, to measure
  double temperature = 0;
  std::uint64_t seed = 0;
  bool chat = false;
  bool ignore_end = false; ///< write max_tokens whatever they are
  void run() const;
};

struct ablate_command {
  std::filesystem::path model, json, csv, layers_csv, svg, compare_with;
  text_options text;
  rank_options ranks;
  std::ptrdiff_t draws = 1;      ///< calibration texts, one behind the other
  std::ptrdiff_t first_draw = 1; ///< number of the first
  std::string protocol = "windows";
  std::string recipes =
      "dense,absmax,slim-quant,magnitude-24,wanda-24,absmax-wanda,slim-quant-wanda,naive,l2qer,slim,slim-q,slim-o,"
      "magnitude-24@50,wanda-24@50,absmax-wanda@50,slim-quant-wanda@50,naive@50,l2qer@50,slim@50,slim-q@50,slim-o@50,slim@fp8";
  std::string against;
  void run() const;
};

struct finetune_command {
  std::filesystem::path model, compressed, out, state, json; ///< compressed and out: .slim files, or GGUF files
  text_options text = {
      .calib = {}, .text = {}, .calib_tokens = 65536, .held_out_tokens = 8192, .context = 512}; ///< held out: to choose by
  std::string train = "scales,adapters", loss = "kl";
  std::ptrdiff_t steps = 64, tokens_per_step = 2048;
  double rate = 5e-4;
  void run() const;
};

struct refine_command {
  std::filesystem::path model, compressed, out, json; ///< compressed and out: .slim files
  text_options text = {.calib = {}, .text = {}, .calib_tokens = 16384, .held_out_tokens = 4096, .context = 512};
  std::string train = "scales,adapters";
  std::ptrdiff_t passes = 5, tokens_per_step = 1024;
  double rate = 1e-3;
  void run() const;
};

struct fisher_command {
  std::filesystem::path model, text, out, json;
  std::ptrdiff_t context = 512, max_tokens = 16384;
  void run() const;
};

/// Sums of squares as llama-imatrix writes them.
struct imatrix_command {
  std::filesystem::path model, text, out, json;
  std::ptrdiff_t context = 512, max_tokens = 0;
  void run() const;
};

struct export_command {
  std::filesystem::path model, out, base, json; ///< out: of several formats, a folder with a file or folder for each
  std::string to;         ///< slim, ct, gptq, gptq:v1, gptq:v2, mlx, hf, gguf, gguf:TYPE; or several, separated by commas
  std::string adapter;    ///< peft, mlx, gguf, merge, none; empty: what goes with `to`
  std::string embeddings; ///< f16, bf16, f32: type of embedding and head in folders; empty: the smallest that is exact
  std::ptrdiff_t max_rank = 0;
  bool allow_lossy = false;
  bool entropy_coded = false; ///< with `to` slim, as compress_command
  void run() const;
};

struct import_command {
  std::filesystem::path folder, adapter, out, json;
  void run() const;
};

struct inspect_command {
  std::filesystem::path model, json;
  void run() const;
};

struct pack_command {
  std::filesystem::path model, out, json;
  bool lossless = false;
  void run() const;
};

struct unpack_command {
  std::filesystem::path model, out;
  void run() const;
};

struct tokenize_command {
  std::filesystem::path model, text, json;
  void run() const;
};

struct recipes_command {
  std::filesystem::path json;
  void run() const;
};

} // namespace slim_llm
