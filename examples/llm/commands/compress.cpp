#include "compress/compress_model.hpp"
#include "compress/resolved_recipe.hpp"
#include "compress/run_folder.hpp"
#include "compress/side_rules.hpp"
#include "compress/stock_types.hpp"
#include "formats/blocks_writer.hpp"
#include "formats/export_model.hpp"
#include "formats/imatrix_file.hpp"
#include "formats/slim_writer.hpp"
#include "run/context_length.hpp"
#include "run/event_log.hpp"
#include "run/help_text.hpp"
#include "run/json_output.hpp"
#include "run/memory.hpp"
#include "run/memory_plan.hpp"
#include "run/output_files.hpp"
#include "run/progress_line.hpp"
#include "run/ranks.hpp"
#include "run/stop_signal.hpp"
#include "run/table.hpp"
#include "text/calibration_text.hpp"

#include "slim/core/version.hpp"
#include "slim/linalg/gemm_kernels.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <functional>
#include <optional>

namespace slim_llm {
namespace {

nlohmann::json evaluation_as_json(evaluation const& found) {
  return {{"perplexity", found.perplexity}, {"nll", found.nll},       {"nll_stderr", found.nll_stderr},
          {"tokens", found.tokens},         {"window", found.window}, {"window_nll", found.window_nll}};
}

evaluation evaluation_of_json(nlohmann::json const& kept) {
  evaluation found;
  found.perplexity = kept.at("perplexity");
  found.nll = kept.at("nll");
  found.nll_stderr = kept.at("nll_stderr");
  found.tokens = kept.at("tokens");
  found.window = kept.at("window");
  found.window_nll = kept.at("window_nll").get<std::vector<double>>();
  return found;
}

evaluation evaluate_dense(model const& m, text_tokens const& text, evaluation_config const& config, run_folder* run,
                          context const& ctx) {
  if (run)
    if (auto const kept = run->result("dense"); !kept.is_null()) return evaluation_of_json(kept);
  progress_line line("evaluating the dense model", "block");
  auto const found = evaluate(m, text.evaluation, config, ctx, [&](index_t done, index_t total) { line.show(done, total); });
  if (run) run->keep_result("dense", evaluation_as_json(found));
  return found;
}

/// What is done with every block as soon as it is compressed: it is evaluated and kept for the files.
class block_results {
public:
  /// Everything but `run` must live as long; `run` may be null.
  block_results(compress_command const& command, std::filesystem::path const& out, workspace const& work,
                text_tokens const& text, evaluation_config const& config, nlohmann::json const& about, recipe const& how,
                run_folder* run, context const& ctx)
      : work_(work), on_disk_(config.states_on_disk), run_(run), ctx_(ctx) {
    if (command.max_blocks > 0) return; // a trial
    if (is_slim_path(out))
      slim_.emplace(slim_source_of(work.file), work.weights, out, about,
                    slim_options{side_types_of(how, work.weights), command.entropy_coded});
    else if (!how.preset.empty())
      blocks_.emplace(work.file, work.weights, out, how.name, file_type_of(how.preset), side_types_of(how, work.weights));
    else
      file_.emplace(work.file, out, how.name);
    if (!command.with_evaluation) return;
    model const& written = slim_ ? slim_->written() : blocks_ ? blocks_->written() : work.weights;
    compressed_.emplace(written, text.evaluation, config, ctx);
    if (slim_) on_int8_.emplace(written, text.evaluation, config, ctx);
  }

  /// The block is evaluated as it is written: rounded first. Returns what was lost by that.
  std::vector<std::string> add(index_t number, block& b, packed_weights const& layers) {
    if (run_) run_->keep_block(number, layers);
    auto warnings = write(b, layers);
    if (compressed_) compressed_->advance(b);
    if (!on_int8_) return warnings;
    if (use_codes(b, layers))
      on_int8_->advance(b);
    else
      on_int8_.reset();
    return warnings;
  }

  void keep(compression_state& state) {
    if (run_) run_->keep_state(state, evaluations());
  }

  /// Goes on with what a run has kept, if it has. Returns what its blocks lost when they were written.
  std::vector<std::string> restore(compression_state& state) {
    std::vector<std::string> warnings;
    if (!run_) return warnings;
    index_t const done = run_->blocks_done();
    for (index_t n = 0; n < done; ++n) {
      block b = load_block(work_.weights, n, ctx_);
      auto const layers = run_->block(n);
      use_packed(b, layers, std::nullopt, ctx_);
      for (auto& warning : write(b, layers)) warnings.push_back(std::move(warning));
      if (on_int8_ && !use_codes(b, layers)) on_int8_.reset(); // as it was then
    }
    run_->restore_state(state, evaluations(), on_disk_);
    return warnings;
  }

  /// Perplexities and file sizes of a whole model.
  struct totals {
    evaluation compressed;
    std::optional<evaluation> on_int8; ///< on the packed codes
    double written_bytes = 0;
    linear_bytes linears; ///< of a .slim file
    std::vector<std::string> notes;
  };

  totals finish() {
    totals all;
    if (compressed_) all.compressed = compressed_->finish();
    if (on_int8_) all.on_int8 = on_int8_->finish();
    if (file_) all.written_bytes = file_->finish();
    if (slim_) all.written_bytes = slim_->finish();
    if (slim_) all.notes = slim_->notes();
    if (slim_) all.linears = slim_->bytes();
    if (blocks_) all.written_bytes = blocks_->finish();
    if (blocks_) all.notes = blocks_->notes();
    if (!no_kernel_.empty()) all.notes.push_back("not evaluated with int8 inputs: " + no_kernel_);
    return all;
  }

private:
  std::vector<std::string> write(block& b, packed_weights const& layers) {
    std::vector<std::string> warnings;
    if (file_) warnings = file_->add(b);
    if (slim_) slim_->add(b, layers);
    if (blocks_) blocks_->add(b, layers);
    return warnings;
  }

  /// False, and why, if no kernel runs the codes: the file may hold them all the same.
  bool use_codes(block& b, packed_weights const& layers) {
    try {
      use_packed(b, layers, slim::input_precision::int8, ctx_);
    } catch (slim::config_error const& error) {
      no_kernel_ = error.what();
    }
    return no_kernel_.empty();
  }

  run_folder::evaluations evaluations() {
    run_folder::evaluations all;
    if (compressed_) all.emplace_back("evaluated", &*compressed_);
    if (on_int8_) all.emplace_back("evaluated_int8", &*on_int8_);
    return all;
  }

  workspace const& work_;
  bool on_disk_;
  run_folder* run_;
  context const& ctx_;
  std::optional<model_writer> file_;
  std::optional<slim_writer> slim_;
  std::optional<blocks_writer> blocks_;
  std::optional<block_evaluation> compressed_, on_int8_;
  std::string no_kernel_;
};

/// What the layers' codes, positions, scales and adapters would take, plus everything else as it is in the source.
double compact_bytes(workspace const& work, double source_linear_bits, double bits_per_weight, double linear_weights) {
  return work.file.tensor_bytes() + (bits_per_weight - source_linear_bits) * linear_weights / 8.0;
}

void print_notes(char const* kind, std::vector<std::string> const& notes, char const* where) {
  constexpr std::size_t shown = 5;
  for (std::size_t k = 0; k < std::min(shown, notes.size()); ++k) std::printf("%s: %s\n", kind, notes[k].c_str());
  if (notes.size() > shown) std::printf("%s: and %zu more; %s has them all\n", kind, notes.size() - shown, where);
}

/// Everything that the command reads and writes, checked.
void check_files(compress_command const& command) {
  file_plan files;
  files.reads_model(command.model);
  files.reads_file("--imatrix", command.imatrix);
  if (command.imatrix.empty()) files.reads_file("--calib", calibration_file(command.text));
  files.reads_file("--text", evaluation_file(command.text));
  if (command.max_blocks == 0) {
    if (is_slim_path(command.out))
      files.writes_file("--out", command.out);
    else
      files.writes_model("--out", command.out, command.model);
  }
  files.writes_text("--json", command.json);
  files.writes_text("--layers-csv", command.layers_csv);
  files.writes_text("--events", command.events);
  files.check();
}

/// Scratch files and what is made of them are there at one time.
void check_room(compress_command const& command, std::filesystem::path const& out, workspace const& work,
                memory_plan const& plan) {
  auto const weights = static_cast<double>(linear_weight_count(work.weights));
  constexpr double written_bits = 16, packed_bits = 5; // F16; what most recipes need, with their scales and adapters
  double const kept = work.file.tensor_bytes() - work.source_bits * weights / 8;
  std::vector<needed_room> needs = {plan.scratch_room()};
  if (command.max_blocks == 0)
    needs.push_back({"--out", out, kept + 2 * (is_slim_path(out) ? packed_bits : written_bits) * weights / 8});
  if (!command.run_path.empty())
    needs.push_back({"--run", command.run_path / "state", 2 * plan.state_bytes + packed_bits * weights / 8});
  require_room(needs);
}

/// What lost more than compression should, under --strict.
void refuse_losses(std::vector<std::string> const& warnings) {
  if (warnings.empty()) return;
  std::string const more = warnings.size() > 1 ? " (and " + std::to_string(warnings.size() - 1) + " more)" : "";
  throw input_error("--strict: " + warnings.front() + more + "; no model was written");
}

void print_next_steps(compress_command const& command, std::filesystem::path const& out) {
  std::string const model = shell_quoted(command.model.string()), file = shell_quoted(out.string());
  if (is_slim_path(out))
    std::printf("\nWorth trying next:\n"
                "  slim-llm generate %s --prompt \"Once upon a time\"   # runs on the codes\n"
                "  slim-llm eval %s --text YOUR_TEXT --context 1024   # on a text of yours\n"
                "  slim-llm ablate %s --recipes dense,slim-q,eora,joint-q,int3-lr --svg frontier.svg   # what each part is "
                "worth\n",
                file.c_str(), file.c_str(), model.c_str());
  else
    std::printf(
        "\nWorth trying next:\n"
        "  slim-llm compress %s --for speed --out sparse.gguf   # 2:4 sparsity in place of dense 3-bit codes\n"
        "  slim-llm ablate %s --recipes dense,slim-q,eora,joint-q,int3-lr --svg frontier.svg   # what each part is worth\n"
        "  slim-llm eval %s --text YOUR_TEXT --context 1024   # on a text of yours\n",
        model.c_str(), model.c_str(), file.c_str());
}

/// What a run must have in common with the one that goes on.
nlohmann::json settings_of(compress_command const& command, workspace const& work, nlohmann::json const& recipe) {
  auto const& ranks = command.ranks;
  return {
      {"version", slim::version()},
      {"model", work.file.fingerprint()},
      {"recipe", {recipe.at("name"), recipe.at("steps"), recipe.at("rules")}},
      {"rank", ranks.rank + ";" + ranks.by_role + ";" + std::to_string(ranks.budget) + (ranks.budget != 0 ? ranks.aim : "")},
      {"--bits", ranks.bits},
      {"calibration text", recipe.at("calib_text")},
      {"evaluation text", hash_of_file(evaluation_file(command.text))},
      {"--calib-tokens", command.text.calib_tokens},
      {"--held-out-tokens", command.text.held_out_tokens},
      {"--context", command.text.context},
      {"--max-tokens", command.text.max_tokens},
      {"evaluation", command.with_evaluation},
      {"--entropy-coded", command.entropy_coded}};
}

/// A text that all ranks have from the first one.
std::string of_first_rank(ranks& job, std::string text) {
  job.broadcast(text, 0);
  return text;
}

/// What the bits of float products depend on.
std::string instruction_set() {
  if (slim::detail::has_bf16_products()) return "AVX512 with BF16";
  switch (slim::best_simd_level()) {
  case slim::simd_level::avx512: return "AVX512";
  case slim::simd_level::avx2: return "AVX2";
  default: return "plain";
  }
}

/// Refuses to go on if the ranks do not do the same: files and CPUs may differ from machine to machine. @throws input_error
void require_agreement(ranks& job, nlohmann::json settings) {
  if (job.size() == 1) return;
  settings["instruction set"] = instruction_set();
  auto const theirs = nlohmann::json::parse(of_first_rank(job, settings.dump()));
  for (auto const& [what, value] : settings.items())
    if (theirs.at(what) != value)
      throw input_error("this rank has another " + what + " than rank 0: " + value.dump() + " here, " + theirs.at(what).dump() +
                        " there; give all ranks the same files, options and CPUs");
}

/// Ranks and bits that were planned before, or by another rank.
void take_plan(compress_command const& command, recipe& how, nlohmann::json const& ranks, nlohmann::json const& bits) {
  set_ranks(how, ranks);
  if (!bits.is_null()) how.bits = bits.get<std::map<std::string, int>>();
  if (!command.ranks.rank.empty()) how.rank = required(parse_rank(command.ranks.rank));
}

/// Ranks and bits as the options ask for them; those of a run that goes on are not planned again.
void settle_ranks(compress_command const& command, recipe& how, workspace const& work, text_tokens const& tokens,
                  run_folder* run, context const& ctx) {
  if (run)
    if (auto const kept = run->result("ranks"); !kept.is_null()) return take_plan(command, how, kept, run->result("bits"));
  progress_line line("planning ranks of " + how.name, "block");
  plan_ranks(how, command.ranks, work.weights, tokens.fitted(), command.text.context, ctx,
             [&](index_t done, index_t total) { line.show(done, total); });
  if (!run) return;
  run->keep_result("bits", how.bits);
  run->keep_result("ranks", ranks_as_json(how));
}

/// All ranks of a job get what the first one has settled.
void share_plan(ranks& job, compress_command const& command, recipe& how) {
  if (job.size() == 1) return;
  nlohmann::json const settled = {{"ranks", ranks_as_json(how)}, {"bits", how.bits}};
  auto const plan = nlohmann::json::parse(of_first_rank(job, settled.dump()));
  if (!job.first()) take_plan(command, how, plan.at("ranks"), plan.at("bits"));
}

void require_sense(compress_command const& command, recipe const& how, std::filesystem::path const& out) {
  if (command.entropy_coded && !is_slim_path(out) && command.max_blocks == 0)
    throw input_error("--entropy-coded: is for .slim files; slim-llm pack --lossless does it to GGUF files");
  for (recipe_rule const& rule : how.rules)
    if (rule.type && command.max_blocks == 0 && !is_slim_path(out) && how.preset.empty())
      throw input_error("recipe " + how.name + ": the rule for '" + rule.match + "' gives a type of embedding or head, which " +
                        out.string() + " keeps as the model has them; give --out a name that ends with .slim");
  require_context(command.text.context);
  if (is_slim_path(command.model))
    throw input_error(command.model.string() + ": is compressed already; give the model that it was made of");
  if (command.resume && command.run_path.empty())
    throw input_error("--resume: needs --run, the folder of the run to go on with");
  if (!command.imatrix.empty() && !command.text.calib.empty())
    throw input_error("--imatrix: takes the place of a calibration text; leave --calib out");
  if (!command.imatrix.empty() && (command.ranks.budget != 0 || command.ranks.bits != 0))
    throw input_error("--imatrix: bits are shared out by what linears read of a text; leave --rank-budget and --bits out");
  if (!command.run_path.empty() && command.max_blocks > 0)
    throw input_error("--run and --max-blocks: a trial keeps nothing to go on with; give one of them");
  bool const needs_codes = is_slim_path(out) || !command.run_path.empty();
  if (needs_codes && command.max_blocks == 0 && !how.packs)
    throw input_error(
        "recipe " + how.name +
        (how.round_input ? " rounds inputs, which no .slim file says, while " : " makes no integer codes, which ") +
        (is_slim_path(out) ? "a .slim file" : "--run") +
        " needs; give --out another name (.gguf, or a folder), or another --recipe");
}

/// The tokens to fit to and to judge by; none to fit to with an imatrix.
text_tokens tokens_of_texts(tokenizer const& words, compress_command const& command) {
  text_options options = command.text;
  if (!command.imatrix.empty()) {
    options.calib = evaluation_file(options);
    options.calib_tokens = 1;
    options.held_out_tokens = 0;
  }
  text_tokens tokens = load_text_tokens(words, options);
  note_shortened(tokens, options);
  if (!command.imatrix.empty()) tokens.calibration.clear();
  return tokens;
}

/// The recipe with all that it is applied to.
nlohmann::json resolved(compress_command const& command, recipe const& how, text_tokens const& tokens) {
  if (command.imatrix.empty()) return resolved_recipe(command.text, how, tokens);
  text_options options = command.text;
  options.calib = command.imatrix; // its hash takes the place of the text's
  auto about = resolved_recipe(options, how, tokens);
  about["calibration"] = "imatrix";
  return about;
}

/// Which parts of the work there are.
struct work_parts {
  bool whole, evaluates, writes_slim;

  work_parts(compress_command const& command, std::filesystem::path const& out)
      : whole(command.max_blocks == 0), evaluates(whole && command.with_evaluation), writes_slim(whole && is_slim_path(out)) {}

  [[nodiscard]] index_t evaluations() const { return !evaluates ? 0 : writes_slim ? 2 : 1; }
};

/// What compressing a model found.
struct outcome {
  evaluation dense; ///< if anything was evaluated
  compression cost;
  block_results::totals total;
  std::vector<std::string> warnings;
};

/// What ranks have in common.
compress_config config_of(compress_command const& command, recipe const& how, memory_plan const& plan, work_parts const& parts,
                          imatrix_reader const* imatrix, ranks& job) {
  compress_config config{.context = command.text.context,
                         .calib_tokens = command.text.calib_tokens,
                         .held_out_tokens = command.text.held_out_tokens,
                         .keep_packed = parts.writes_slim || !command.run_path.empty() || !how.preset.empty(),
                         .max_blocks = command.max_blocks,
                         .states_on_disk = plan.states_on_disk,
                         .job = &job};
  if (imatrix) config.statistics = [imatrix](linear const& l) { return imatrix->of(l); };
  config.keep = [](compression_state&) {};
  return config;
}

/// All blocks of the model through compression, evaluation and the writers of files.
void compress_blocks(compress_command const& command, recipe const& how, workspace const& work, text_tokens const& tokens,
                     compress_config config, block_results& results, event_log& log, context const& ctx, outcome& found) {
  index_t const blocks = work.weights.config.layers;
  index_t const wanted = command.max_blocks > 0 ? std::min<index_t>(command.max_blocks, blocks) : blocks;
  config.restore = [&](compression_state& state) {
    found.warnings = results.restore(state);
    if (state.blocks > 0) std::fprintf(stderr, "going on behind block %td of %td\n", state.blocks, blocks);
  };
  config.keep = [&](compression_state& state) {
    results.keep(state);
    log.add("block",
            {{"done", state.blocks},
             {"blocks", wanted},
             {"compression_seconds", state.seconds},
             {"seconds_left", state.seconds / static_cast<double>(state.blocks) * static_cast<double>(wanted - state.blocks)}});
  };
  progress_line line("compressing with " + how.name, "block");
  found.cost = compress_model(
      work.weights, tokens.calibration, how, config, work.source_bits,
      [&](index_t number, block& b, packed_weights& layers) {
        for (auto& warning : results.add(number, b, layers)) found.warnings.push_back(std::move(warning));
        if (command.strict) refuse_losses(found.warnings);
      },
      ctx, [&](index_t done, index_t total) { line.show(done, total); });
}

double seconds_for_all(compression const& cost, workspace const& work) {
  return cost.seconds * static_cast<double>(work.weights.config.layers) / static_cast<double>(cost.blocks);
}

double compact_bytes_of(workspace const& work, compression const& cost) {
  return compact_bytes(work, work.source_bits, cost.bits_per_weight, static_cast<double>(linear_weight_count(work.weights)));
}

void print_outcome(compress_command const& command, std::filesystem::path const& written, recipe const& how,
                   workspace const& work, work_parts const& parts, outcome const& found) {
  auto const& [dense, cost, total, warnings] = found;
  table summary({"", "dense", how.name});
  if (parts.evaluates) {
    summary.add({"perplexity", fixed(dense.perplexity, 3), fixed(total.compressed.perplexity, 3)});
    summary.add({"nll per token", fixed(dense.nll, 4) + " +- " + fixed(dense.nll_stderr, 4),
                 fixed(total.compressed.nll, 4) + " +- " + fixed(total.compressed.nll_stderr, 4)});
  }
  if (total.on_int8) summary.add({"perplexity on packed codes, int8 inputs", "", fixed(total.on_int8->perplexity, 3)});
  summary.add({"bits per weight of the linears", fixed(work.source_bits, 3), fixed(cost.bits_per_weight, 3)});
  auto const bits_of = [&](double bytes) {
    return fixed(8 * bytes / static_cast<double>(linear_weight_count(work.weights)), 3);
  };
  if (parts.writes_slim) {
    summary.add({"bits resident", "", bits_of(total.linears.resident)});
    summary.add({"bits in the file", "", bits_of(total.linears.in_file)});
  }
  double const source_bytes = work.file.tensor_bytes();
  if (!parts.writes_slim)
    summary.add({"bytes, packed", readable_bytes(source_bytes), readable_bytes(compact_bytes_of(work, cost))});
  if (parts.whole) summary.add({"bytes of the file", readable_bytes(source_bytes), readable_bytes(total.written_bytes)});
  summary.add({"mean layer output error", "0", fixed(cost.layer_error, 4)});
  if (cost.held_out_error > 0) summary.add({"the same on tokens held out", "0", fixed(cost.held_out_error, 4)});
  summary.add({"seconds to compress", "", fixed(cost.seconds, 1)});
  if (!parts.whole)
    summary.add({"seconds for all " + std::to_string(work.weights.config.layers) + " blocks at this pace", "",
                 fixed(seconds_for_all(cost, work), 0)});
  summary.add({"peak memory", "", readable_bytes(peak_memory())});
  std::printf("\n%s", summary.text().c_str());
  if (parts.evaluates)
    std::printf("\n%td tokens of text to calibrate, %td predicted tokens to evaluate, windows of %td.\n", cost.calib_tokens,
                dense.tokens, dense.window);
  if (!parts.whole)
    std::printf("\nA trial with %td of %td blocks: nothing was evaluated, and no model was written.\n", cost.blocks,
                work.weights.config.layers);
  else if (parts.writes_slim)
    std::printf("%s holds the whole compressed model: slim-llm eval, generate and inspect need nothing else.\n",
                written.c_str());
  else if (!how.preset.empty())
    std::printf("%s holds the weights in ggml's own types: llama.cpp and what reads its files load it as it is.\n",
                written.c_str());
  else
    std::printf(
        "%s holds the compressed weights with the adapters merged, as F16: it runs in stock software but is not small.\n",
        written.c_str());
  print_notes("warning", warnings, "--json");
  print_notes("note", cost.notes, "--layers-csv");
  if (parts.whole) print_next_steps(command, written);
}

nlohmann::json outcome_as_json(compress_command const& command, std::filesystem::path const& written, recipe const& how,
                               workspace const& work, memory_plan const& plan, work_parts const& parts, outcome const& found) {
  auto const& [dense, cost, total, warnings] = found;
  nlohmann::json result = {{"model", command.model.string()},
                           {"recipe", how.name},
                           {"bits_per_weight", cost.bits_per_weight},
                           {"source_bits_per_weight", work.source_bits},
                           {"source_bytes", work.file.tensor_bytes()},
                           {"packed_bytes", compact_bytes_of(work, cost)},
                           {"layer_error", cost.layer_error},
                           {"held_out_error", cost.held_out_error},
                           {"seconds", cost.seconds},
                           {"blocks", cost.blocks},
                           {"peak_bytes", peak_memory()},
                           {"planned_bytes", plan.total()},
                           {"calib_tokens", cost.calib_tokens},
                           {"notes", cost.notes},
                           {"warnings", warnings}};
  if (parts.whole)
    result.update({{"out", written.string()}, {"written_bytes", total.written_bytes}});
  else
    result["seconds_for_all_blocks"] = seconds_for_all(cost, work);
  if (parts.writes_slim)
    result.update({{"entropy_coded", command.entropy_coded},
                   {"linear_bytes_resident", total.linears.resident},
                   {"linear_bytes_in_file", total.linears.in_file}});
  if (total.on_int8) result["packed_int8_perplexity"] = total.on_int8->perplexity;
  if (parts.evaluates)
    result.update({{"dense_perplexity", dense.perplexity},
                   {"dense_nll", dense.nll},
                   {"perplexity", total.compressed.perplexity},
                   {"nll", total.compressed.nll},
                   {"nll_stderr", total.compressed.nll_stderr},
                   {"tokens", total.compressed.tokens}});
  return result;
}

} // namespace

void compress_command::run(slim_llm::ranks& job) const {
  stop_signal stop;
  try {
    run_until(stop, job);
  } catch (slim::cancelled const&) {
    throw stop.reason();
  }
}

void compress_command::run_until(stop_signal& stop, slim_llm::ranks& job) const {
  recipe how = required(find_recipe(recipe_name.empty() ? default_recipe(ranks.aim) : recipe_name));
  auto const written = !out.empty() || run_path.empty() ? out : run_path / "model.slim";
  require_sense(*this, how, written);
  std::optional<run_folder> folder;
  if (job.first()) {
    check_files(*this);
    if (!run_path.empty()) folder.emplace(run_path, resume);
  }
  run_folder* const kept = folder ? &*folder : nullptr;
  stop.set_advice(kept ? "what is done is kept; go on with: " + command_line + (resume ? "" : " --resume")
                       : "nothing was written; with --run FOLDER it could go on");
  context ctx;
  ctx.stop = stop.token();
  work_parts const parts(*this, written);
  workspace const work(model);
  require_exportable(how, work.weights, ranks.aim);
  note_long_context(text.context, work.weights.config);
  text_tokens const tokens = tokens_of_texts(work.words, *this);
  memory_plan const plan = plan_memory(work.weights, planned_compression(tokens, text, ranks, how, parts.evaluations()),
                                       memory_limit.empty() ? 0 : parse_bytes("--memory-limit", memory_limit));
  if (job.first()) check_room(*this, written, work, plan);
  if (kept || job.size() > 1) {
    auto const settings = settings_of(*this, work, resolved(*this, how, tokens));
    require_agreement(job, settings);
    if (kept) kept->settle(settings);
  }
  bool complete = kept && !kept->result("result").is_null();
  job.broadcast(complete, 0);
  if (complete) {
    std::printf("%s is complete: there is nothing left to do.\n", run_path.c_str());
    return;
  }
  if (job.first()) settle_ranks(*this, how, work, tokens, kept, ctx);
  share_plan(job, *this, how);
  std::optional<imatrix_reader> statistics;
  if (!imatrix.empty()) statistics.emplace(imatrix, work.file, work.weights);
  compress_config const config = config_of(*this, how, plan, parts, statistics ? &*statistics : nullptr, job);
  if (!job.first()) {
    (void)compress_model(work.weights, tokens.calibration, how, config, work.source_bits, {}, ctx);
    return;
  }
  auto const blocks = work.weights.config.layers;
  std::printf("%s: %s, %td blocks, %.1f M weights in linear layers at %.2f bits\n", model.string().c_str(),
              work.weights.config.name.c_str(), blocks, static_cast<double>(linear_weight_count(work.weights)) / 1e6,
              work.source_bits);
  for (std::size_t k = 0; k < how.steps.size(); ++k) std::printf("step %zu: %s\n", k + 1, how.steps[k].c_str());
  std::fflush(stdout);
  event_log log(events);
  log.add("begin", {{"model", model.string()}, {"recipe", how.name}, {"blocks", blocks}, {"planned_bytes", plan.total()}});

  evaluation_config const evaluated{.context = text.context, .states_on_disk = plan.states_on_disk};
  outcome found;
  if (parts.evaluates) {
    found.dense = evaluate_dense(work.weights, tokens, evaluated, kept, ctx);
    log.add("dense", {{"perplexity", found.dense.perplexity}, {"nll", found.dense.nll}});
  }
  block_results results(*this, written, work, tokens, evaluated, resolved(*this, how, tokens), how, kept, ctx);
  compress_blocks(*this, how, work, tokens, config, results, log, ctx, found);
  compression& cost = found.cost;
  if (!layers_csv.empty()) write_layer_csv(cost.layers, layers_csv);
  found.warnings.insert(found.warnings.end(), cost.warnings.begin(), cost.warnings.end());
  if (strict) refuse_losses(found.warnings);
  found.total = results.finish();
  cost.notes.insert(cost.notes.begin(), found.total.notes.begin(), found.total.notes.end());
  if (parts.whole) log.add("written", {{"out", written.string()}, {"bytes", found.total.written_bytes}});
  for (auto const& warning : found.warnings) log.add("warning", {{"text", warning}});
  for (auto const& note : cost.notes) log.add("note", {{"text", note}});
  print_outcome(*this, written, how, work, parts, found);
  if (json.empty() && !kept) return;
  auto result = outcome_as_json(*this, written, how, work, plan, parts, found);
  if (!json.empty()) write_json(json, result);
  if (!kept) return;
  result["layers"] = layers_as_json(cost.layers);
  kept->keep_result("result", result);
  kept->clean_up();
}

} // namespace slim_llm
