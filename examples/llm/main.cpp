/// slim-llm: compresses language models in one shot, and says what it cost.
///
/// Exit codes: 0 success; 1 a file, text or model that cannot be used; 2 a command line that makes no sense; 130 and 143
/// stopped by Ctrl-C and SIGTERM.

#include "commands.hpp"
#include "run/file_output.hpp"
#include "run/help_text.hpp"
#include "run/input_error.hpp"
#include "run/nearest.hpp"
#include "run/ranks.hpp"
#include "run/stop_signal.hpp"

#include <CLI/CLI.hpp>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>

namespace {

using namespace slim_llm;

/// CLI11's help, broken to the width of the terminal.
class fitting_formatter : public CLI::Formatter {
public:
  std::string make_help(CLI::App const* app, std::string name, CLI::AppFormatMode mode) const override {
    return wrapped(CLI::Formatter::make_help(app, std::move(name), mode), help_width(), get_column_width());
  }
};

/// A whole number that fits: CLI11 takes one that does not as the largest that does.
std::string why_no_count(std::string const& text) {
  std::ptrdiff_t value = 0;
  auto const end = text.data() + text.size();
  auto const [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc() && stop == end) return {};
  return "'" + text + "' is not a whole number" + (error == std::errc::result_out_of_range ? " of this size" : "");
}

CLI::Option* add_count(CLI::App& command, char const* name, std::ptrdiff_t& value, char const* what) {
  return command.add_option(name, value, what)->check(why_no_count)->capture_default_str();
}

void add_text_options(CLI::App& command, text_options& text) {
  command.add_option("--calib", text.calib,
                     "text to calibrate on, from its beginning (default: Debian's jargon file, first part)");
  command.add_option("--text", text.text, "text to evaluate on, its last tokens (default: the jargon file, last part)");
  add_count(command, "--calib-tokens", text.calib_tokens, "tokens to calibrate on");
  add_count(command, "--held-out-tokens", text.held_out_tokens, "tokens behind those: measured on, not fitted to");
  add_count(command, "--context", text.context, "tokens per window");
  add_count(command, "--max-tokens", text.max_tokens, "tokens to evaluate on");
}

void add_rank_options(CLI::App& command, rank_options& ranks) {
  command.add_option("--rank", ranks.rank, "rank of the adapters: a ratio below 1, or a number (default: the recipe's)");
  command.add_option("--rank-by-role", ranks.by_role, "ranks by role, e.g. q=0.05,k=0.05,down=0.12");
  command.add_option("--rank-budget", ranks.budget,
                     "bits per weight of all linears: each layer gets the rank that its share of the bits is worth");
  command.add_option(
      "--bits", ranks.bits,
      "bits per weight of all linears: each layer gets codes of 2, 3 or 4 bits, as its share of the bits is worth");
}

template <class Command>
CLI::App* add_command(CLI::App& app, char const* name, char const* what, Command& command) {
  auto* const sub = app.add_subcommand(name, what);
  sub->add_option("--json", command.json, "also write the result to this file as JSON");
  return sub;
}

template <class Command>
void add_model(CLI::App* sub, Command& command) {
  sub->add_option("model", command.model, "a GGUF file, a Hugging Face folder or a .slim file")->required();
}

template <class Command>
void add_memory_limit(CLI::App* sub, Command& command) {
  sub->add_option("--memory-limit", command.memory_limit,
                  "refuse before the work begins if it needs more memory than this, e.g. 6G (default: no limit)");
}

/// The first argument that is no option should be a subcommand. @throws CLI::ExtrasError that names what it may mean.
void check_subcommand(CLI::App const& app, int argc, char** argv) {
  std::vector<std::string> names;
  for (CLI::App const* sub : app.get_subcommands({})) names.push_back(sub->get_name());
  for (int k = 1; k < argc; ++k) {
    std::string const word = argv[k];
    if (word == "--threads") ++k; // its value follows
    if (word.starts_with('-')) continue;
    if (std::find(names.begin(), names.end(), word) != names.end()) return;
    std::string all;
    for (auto const& name : names) all += (all.empty() ? "" : ", ") + name;
    std::string const nearest = did_you_mean(word, names);
    throw CLI::ExtrasError("'" + word + "' is not a subcommand" + (nearest.empty() ? "; there are " + all : nearest),
                           CLI::ExitCodes::ExtrasError);
  }
}

/// What went wrong, for people: never the text of a C++ exception that is not ours.
std::string sentence_of(std::exception_ptr const& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (std::bad_alloc const&) {
    return "there is not enough memory; see --memory-limit and the guide's section on memory";
  } catch (std::filesystem::filesystem_error const& error) {
    return error.path1().string() + ": " + error.code().message();
  } catch (input_error const& error) {
    return error.what();
  } catch (slim::error const& error) {
    return error.what();
  } catch (std::exception const& error) {
    return std::string("an unforeseen problem, which is a fault of the program: ") + error.what();
  }
}

} // namespace

int main(int argc, char** argv) {
  CLI::App app("slim-llm: one-shot compression of language models (4-bit codes, 2:4 sparsity, low-rank adapters).");
  app.formatter(std::make_shared<fitting_formatter>());
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 success; 1 a file, text or model that cannot be used; 2 a command line that makes no sense; 130 and 143 "
      "stopped by Ctrl-C and SIGTERM.");
  ranks alone;
  std::unique_ptr<ranks> job;
  int threads = 0;
  app.add_option("--threads", threads, "threads to use (default: all); results do not depend on it");

  compress_command compress;
  auto* sub = add_command(app, "compress", "compress a model and write it", compress);
  add_model(sub, compress);
  sub->add_option("--out", compress.out,
                  "where to write: NAME.slim, the whole model in few bytes; or as F16 in the form of the model, a GGUF file or "
                  "a folder (default with --run: model.slim there)");
  sub->add_option("--run", compress.run_path,
                  "a folder that keeps every finished block, so that --resume can go on after any end");
  sub->add_flag("--resume", compress.resume, "go on with the run that is in the folder of --run");
  sub->add_option("--recipe", compress.recipe_name,
                  "what to do: a name (`slim-llm recipes` lists them), or a JSON file with rules (default: by --for)");
  sub->add_option(
         "--for", compress.ranks.aim,
         "what the model should be good at: size (dense 3 bit), speed (2:4 sparsity), or a format of export, as --to has "
         "it there: refused unless the format holds the recipe's codes, and --rank-budget counts the bits of its files")
      ->capture_default_str();
  add_rank_options(*sub, compress.ranks);
  sub->add_option("--layers-csv", compress.layers_csv, "also write what every step did to every layer");
  sub->add_option(
      "--imatrix", compress.imatrix,
      "weigh channels by this file of llama-imatrix (GGUF) in place of a calibration text, for recipes that need no more");
  sub->add_option("--events", compress.events, "also write progress, warnings and notes to this file as JSON lines");
  sub->add_flag_callback("--no-eval", [&] { compress.with_evaluation = false; }, "do not measure perplexity");
  sub->add_flag("--strict", compress.strict,
                "write no model if a layer loses more than compression should: weights that its file cannot hold, rows "
                "that became 0, an output error of 1");
  sub->add_flag("--entropy-coded", compress.entropy_coded,
                "codes of the .slim file in as few bits as their frequencies say; they are decoded when it is loaded");
  add_memory_limit(sub, compress);
  add_count(*sub, "--max-blocks", compress.max_blocks,
            "a trial for time and memory: stop behind so many blocks, evaluate and write nothing (0: all)")
      ->check(CLI::NonNegativeNumber);
  add_text_options(*sub, compress.text);
  sub->callback([&] {
    if (compress.out.empty() && compress.run_path.empty() && compress.max_blocks == 0) throw CLI::RequiredError("--out");
    for (int k = 0; k < argc; ++k) compress.command_line += (k > 0 ? " " : "") + shell_quoted(argv[k]);
    compress.run(*job);
  });

  plan_command plan;
  sub = add_command(app, "plan", "say what compress would do: sizes, memory, time, disk", plan);
  add_model(sub, plan);
  sub->add_option("--recipe", plan.recipe_name, "as compress has it");
  sub->add_option("--for", plan.ranks.aim, "as compress has it")->capture_default_str();
  add_rank_options(*sub, plan.ranks);
  add_memory_limit(sub, plan);
  sub->add_option("--embeddings", plan.embeddings, "as export has it, with --for a format of export");
  sub->add_flag("--run", plan.with_run, "count the disk that compress --run needs, too");
  add_text_options(*sub, plan.text);
  sub->callback([&] { plan.run(); });

  validate_command validate;
  sub = add_command(app, "validate", "read a model and check all that can be checked", validate);
  sub->add_option("model", validate.path, "a GGUF file, a Hugging Face folder or a .slim file")->required();
  sub->callback([&] { validate.run(); });

  diff_command diff;
  sub = add_command(app, "diff", "compare two models, linear by linear", diff);
  sub->add_option("a", diff.a, "a GGUF file, a Hugging Face folder or a .slim file")->required();
  sub->add_option("b", diff.b, "another one of the same kind")->required();
  sub->add_option("--text", diff.text, "also compare outputs, on the first tokens of this text");
  add_count(*sub, "--max-tokens", diff.max_tokens, "of the text");
  sub->callback([&] { diff.run(); });

  report_command report;
  sub = app.add_subcommand("report", "what a run did, as one HTML page that opens offline");
  sub->add_option("run", report.folder, "the folder of compress --run")->required();
  sub->add_option("--out", report.out, "the page (default: report.html in the folder)");
  sub->callback([&] { report.run(); });

  card_command card;
  sub = app.add_subcommand("card", "a README for the file that a run wrote, with measured numbers only");
  sub->add_option("run", card.folder, "the folder of compress --run")->required();
  sub->add_option("--out", card.out, "the file (default: README.md in the folder)");
  sub->callback([&] { card.run(); });

  evaluate_command evaluate;
  sub = add_command(app, "eval", "perplexity of a model on a text", evaluate);
  add_model(sub, evaluate);
  sub->add_option("--text", evaluate.text, "the text (not with a file of predictions for --kl)");
  sub->add_option("--kl", evaluate.base,
                  "also measure how far the predictions are from those of this model, or of a file that --save-logits or "
                  "llama-perplexity --save-all-logits wrote: KL divergence, same likeliest token, delta p");
  sub->add_option("--save-logits", evaluate.save_logits,
                  "also write the predictions to this file, as llama-perplexity does (needs --protocol llama.cpp)");
  sub->add_option(
      "--choices", evaluate.choices,
      "in place of a text: questions with several answers, a line of JSON each with context, choices and answer (the "
      "number of the right one, from 0 on); a choice follows the context directly, space included");
  add_count(*sub, "--context", evaluate.context, "tokens per window");
  add_count(*sub, "--max-tokens", evaluate.max_tokens, "tokens to look at, 0 for all");
  sub->add_flag("--last", evaluate.last, "take the last tokens of the text instead of the first");
  sub->add_option("--protocol", evaluate.protocol, "windows (GPTQ, SLiM) or llama.cpp (llama-perplexity)")
      ->capture_default_str();
  sub->add_option("--inputs", evaluate.inputs,
                  "what linear layers see of their inputs: float, fp8, int8 (default float); of a .slim file int8 and int16 "
                  "run on its codes");
  sub->add_option("--kv-cache", evaluate.kv_cache,
                  "numbers that keys and values are rounded to: fp16, as generate does, or fp32")
      ->capture_default_str();
  add_memory_limit(sub, evaluate);
  sub->callback([&] { evaluate.run(); });

  generate_command generate;
  sub = add_command(app, "generate", "continue a text or many, and say how fast", generate);
  add_model(sub, generate);
  sub->add_option("--prompt", generate.prompt, "the text to continue");
  sub->add_option("--prompts", generate.prompts,
                  "a file of texts to continue: a text per line, or .jsonl, an object with \"prompt\" per line");
  add_count(*sub, "--batch", generate.batch, "texts of --prompts that are written at a time");
  sub->add_option("--inputs", generate.inputs, ".slim: what linear layers see of their inputs: int8, int16, float")
      ->capture_default_str();
  sub->add_option("--kv-cache", generate.kv_cache, "numbers that keys and values are kept in: fp16, fp32")
      ->capture_default_str();
  sub->add_flag("--chat", generate.chat, "the prompt is what a user says to an instruct model (ChatML)");
  add_count(*sub, "--max-tokens", generate.max_tokens, "tokens to write at most");
  sub->add_option("--temperature", generate.temperature, "0: the likeliest token each time")->capture_default_str();
  sub->add_option("--seed", generate.seed, "of the draws, with a temperature")->capture_default_str();
  add_count(*sub, "--prompt-tokens", generate.prompt_tokens, "use only so many tokens of the prompt (to measure; 0: all)");
  sub->add_flag("--ignore-end", generate.ignore_end, "write on behind the end of the text (to measure)");
  add_count(*sub, "--repetitions", generate.repetitions, "do the same so many times; the last one is shown (to measure)");
  sub->callback([&] { generate.run(); });

  ablate_command ablate;
  sub = add_command(app, "ablate", "compress and evaluate with many recipes: one table", ablate);
  add_model(sub, ablate);
  sub->add_option("--recipes", ablate.recipes, "names, separated by commas")->capture_default_str();
  sub->add_option("--against", ablate.against, "also compare every recipe with this one, windows paired");
  sub->add_option("--csv", ablate.csv, "also write the table as CSV");
  add_count(*sub, "--draws", ablate.draws, "calibration draws, one behind the other in the text; means are shown");
  add_count(*sub, "--first-draw", ablate.first_draw, "number of the first draw");
  sub->add_option("--protocol", ablate.protocol, "windows (GPTQ, SLiM) or llama.cpp (llama-perplexity)")->capture_default_str();
  sub->add_option("--svg", ablate.svg, "also draw excess NLL against bits, with the frontier");
  sub->add_option("--compare-with", ablate.compare_with, "points from elsewhere for the picture: a CSV of label,bits,excess");
  add_rank_options(*sub, ablate.ranks);
  sub->add_option("--layers-csv", ablate.layers_csv,
                  "also write a CSV per recipe with every layer and step; the recipe's name is appended");
  add_text_options(*sub, ablate.text);
  sub->callback([&] { ablate.run(); });

  finetune_command finetune;
  sub = add_command(app, "finetune", "train scales and adapters of a compressed model, codes frozen", finetune);
  sub->add_option("model", finetune.model, "the dense model, a GGUF file or a Hugging Face folder")->required();
  sub->add_option("--compressed", finetune.compressed,
                  "the .slim file that was made of it, or a GGUF file of it in types that have scales (Q4_0 to IQ4_XS)")
      ->required();
  sub->add_option("--out", finetune.out, "where to write the trained model: a file as that of --compressed")->required();
  sub->add_option("--train", finetune.train, "what trains: scales, adapters or both")->capture_default_str();
  sub->add_option("--loss", finetune.loss, "kl: towards the dense model's distributions; ce: the text itself")
      ->capture_default_str();
  add_count(*sub, "--steps", finetune.steps, "steps of the optimizer");
  add_count(*sub, "--tokens-per-step", finetune.tokens_per_step, "tokens between two steps");
  sub->add_option("--rate", finetune.rate, "learning rate at first, relative to the numbers; it falls along a cosine")
      ->capture_default_str();
  sub->add_option("--state", finetune.state, "where a stopped run leaves off, and goes on from");
  add_text_options(*sub, finetune.text);
  sub->callback([&] { finetune.run(); });

  refine_command refined;
  sub = add_command(app, "refine", "train scales and adapters of a .slim file block by block, towards the dense model's states",
                    refined);
  sub->add_option("model", refined.model, "the dense model, a GGUF file or a Hugging Face folder")->required();
  sub->add_option("--compressed", refined.compressed, "the .slim file that was made of it")->required();
  sub->add_option("--out", refined.out, "where to write the refined .slim file")->required();
  sub->add_option("--train", refined.train, "what trains: scales, adapters or both")->capture_default_str();
  add_count(*sub, "--passes", refined.passes, "passes over the tokens, for each part of a block");
  add_count(*sub, "--tokens-per-step", refined.tokens_per_step, "tokens between two steps");
  sub->add_option("--rate", refined.rate, "learning rate at first, relative to the numbers; it falls along a cosine")
      ->capture_default_str();
  add_text_options(*sub, refined.text);
  sub->callback([&] { refined.run(); });

  fisher_command fisher;
  sub = add_command(app, "fisher", "how much a model's loss cares for tokens and weights", fisher);
  add_model(sub, fisher);
  sub->add_option("--text", fisher.text, "the text, from its beginning")->required();
  sub->add_option("--out", fisher.out,
                  "also write the mean squared gradient of every weight of the linears, F32, to this safetensors file");
  add_count(*sub, "--context", fisher.context, "tokens per window, each a sequence of its own");
  add_count(*sub, "--max-tokens", fisher.max_tokens, "tokens to look at, 0 for all");
  sub->callback([&] { fisher.run(); });

  imatrix_command imatrix;
  sub = add_command(app, "imatrix", "sums of squares of what every linear reads, as llama-imatrix writes them", imatrix);
  add_model(sub, imatrix);
  sub->add_option("--text", imatrix.text, "the text, from its beginning")->required();
  sub->add_option("--out", imatrix.out, "the GGUF file to write, for llama-quantize --imatrix and compress --imatrix")
      ->required();
  add_count(*sub, "--context", imatrix.context, "tokens per window, each a sequence of its own");
  add_count(*sub, "--max-tokens", imatrix.max_tokens, "tokens to look at, 0 for all");
  sub->callback([&] { imatrix.run(); });

  export_command exported;
  sub = add_command(app, "export", "write a compressed model as files that other software loads", exported);
  sub->add_option("model", exported.model, "a .slim file")->required();
  sub->add_option(
         "--to", exported.to,
         "slim (a .slim file again, with or without --entropy-coded), ct (compressed-tensors), gptq, gptq:v1, gptq:v2, mlx, hf (numbers), gguf (smallest exact types), gguf:q4_1 "
         "and the like; several, separated by commas, go into one folder")
      ->required();
  sub->add_option("--out", exported.out, "the folder or GGUF file to write")->required();
  sub->add_option("--adapter", exported.adapter,
                  "peft, mlx or gguf: a file beside it, OUT-adapter or OUT-lora.gguf; merge (hf); none (default: what goes "
                  "with the format)");
  sub->add_option("--embeddings", exported.embeddings,
                  "f16, bf16 or f32: round embedding and head of a folder to it (default: the smallest of them that is exact)");
  sub->add_option("--base", exported.base, "gguf: a GGUF file of the model, if the .slim file was made of a folder");
  sub->add_flag("--entropy-coded", exported.entropy_coded, "slim: codes in as few bits as their frequencies say");
  sub->add_flag("--allow-lossy", exported.allow_lossy, "round what the format does not hold, and say how much that changed");
  add_count(*sub, "--max-rank", exported.max_rank, "refuse adapters of a higher rank (vLLM: 512; 0: none is refused)")
      ->check(CLI::NonNegativeNumber);
  sub->callback([&] { exported.run(); });

  import_command imported;
  sub = add_command(app, "import", "take over a model that other software quantized, codes as they are", imported);
  sub->add_option("folder", imported.folder, "a folder of compressed-tensors (pack-quantized), GPTQ or MLX (affine)")
      ->required();
  sub->add_option("--adapter", imported.adapter, "its adapter: a folder of PEFT or mlx-lm, or a LoRA GGUF");
  sub->add_option("--out", imported.out, "the .slim file to write")->required();
  sub->callback([&] { imported.run(); });

  inspect_command inspect;
  sub = add_command(app, "inspect", "list the tensors of a model", inspect);
  add_model(sub, inspect);
  sub->callback([&] { inspect.run(); });

  pack_command pack;
  sub = add_command(app, "pack", "a GGUF file without slack: the same bits in fewer bytes", pack);
  sub->add_option("model", pack.model, "GGUF file")->required();
  sub->add_option("out", pack.out, "where to write the packed file")->required();
  sub->add_flag("--lossless", pack.lossless, "every byte comes back; the only way there is")->required();
  sub->callback([&] { pack.run(); });

  unpack_command unpack;
  sub = app.add_subcommand("unpack", "a packed GGUF file as it was");
  sub->add_option("model", unpack.model, "file that pack wrote")->required();
  sub->add_option("out", unpack.out, "where to write the GGUF file")->required();
  sub->callback([&] { unpack.run(); });

  tokenize_command tokenize;
  sub = add_command(app, "tokenize", "token ids of a text, one per line", tokenize);
  add_model(sub, tokenize);
  sub->add_option("--text", tokenize.text, "the text")->required();
  sub->callback([&] { tokenize.run(); });

  recipes_command recipes;
  sub = add_command(app, "recipes", "list recipes and modifiers", recipes);
  sub->callback([&] { recipes.run(); });

  app.parse_complete_callback([&] {
#if defined(_OPENMP)
    if (threads > 0) omp_set_num_threads(threads);
#endif
  });

  std::signal(SIGXFSZ, SIG_IGN); // a file that grows beyond the limit is a failed write, not the end of the program
  try {
    job = join_job();
    check_subcommand(app, argc, argv);
    app.parse(argc, argv);
    flush_standard_output();
  } catch (interrupted const& wish) {
    std::fputc('\n', stderr);
    return job->give_up(128 + wish.signal, job->first() ? wish.what() : "");
  } catch (CLI::ParseError const& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (...) {
    return (job ? *job : alone).give_up(1, sentence_of(std::current_exception()));
  }
  return 0;
}
