#include "commands.hpp"
#include "compress/resolved_recipe.hpp"
#include "compress/side_rules.hpp"
#include "compress/time_estimate.hpp"
#include "formats/export_plan.hpp"
#include "formats/slim_writer.hpp"
#include "run/context_length.hpp"
#include "run/json_output.hpp"
#include "run/memory.hpp"
#include "run/memory_plan.hpp"
#include "run/table.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <optional>
#include <tuple>

namespace slim_llm {
namespace {

/// Linears of one kind: the same role, shape, recipe and rank, so the same bytes.
struct planned_kind {
  std::string role, recipe, verdict;
  index_t count = 0, d_out = 0, d_in = 0, rank = 0;
  packed_layer packed;                  ///< empty if the linears stay as they are
  std::optional<slim::any_layer> blank; ///< what was packed, until its export is planned
  planned_export exported;              ///< if --for names a format
  double source_bytes = 0;

  [[nodiscard]] double bytes() const { return packed.weight.empty() ? source_bytes : packed.bytes(); }
  [[nodiscard]] double weights() const { return static_cast<double>(d_out) * static_cast<double>(d_in); }
  /// With the adapter's factors in 16 bits, as most formats of other programs store them.
  [[nodiscard]] double bytes_with_plain_adapter() const {
    if (packed.weight.empty()) return source_bytes;
    return static_cast<double>(packed.weight.size()) + 2.0 * static_cast<double>(rank * (d_out + d_in));
  }
};

/// Whether a kernel runs the codes, or why they are decoded to floats.
std::string verdict_of(slim::any_layer const& layer) {
  auto const* const codes = layer.weight.codes.get_if<slim::integer_codes>();
  std::string uneven;
  if (index_t const group = codes->block.cols; group > 0 && codes->cols() % group != 0)
    uneven = slim::message("; the last group of a row has ", codes->cols() % group, " of ", group, " weights");
  try {
    (void)slim::pack_linear(*codes, layer.weight.mask_or_null(), layer.adapter ? &*layer.adapter : nullptr);
  } catch (slim::config_error const& error) {
    return "stored; runs as floats: " + std::string(error.what()) + uneven;
  }
  return "stored; runs on its codes" + uneven;
}

class planned_linears {
public:
  planned_linears(workspace const& work, recipe const& how, std::string const& aim) : for_export_(is_export_format(aim)) {
    for (linear_info const& l : linears_of(work.weights)) add(work, how, l);
    if (for_export_) plan_exports(aim);
  }

  [[nodiscard]] std::vector<planned_kind> const& kinds() const { return kinds_; }
  [[nodiscard]] packed_layer const& layer_of(linear_info const& l) const { return kinds_[kind_of_.at(l.name)].packed; }

private:
  void add(workspace const& work, recipe const& how, linear_info const& l) {
    recipe const* const mine = how.of(l.name);
    bool const coded = mine && mine->makes_codes;
    slim::adapter_rank const wanted = !coded                       ? slim::adapter_rank{}
                                      : how.ranks.contains(l.name) ? how.rank_of(l.name, l.role)
                                                                   : mine->rank_of(l.name, l.role);
    index_t const rank = coded && mine->stored ? wanted.of(l.d_out, l.d_in) : 0;
    auto const key = std::tuple(l.role, l.d_out, l.d_in, rank, mine);
    auto const [at, is_new] = by_key_.emplace(key, kinds_.size());
    kind_of_[l.name] = at->second;
    if (is_new) {
      planned_kind kind;
      kind.role = l.role;
      kind.recipe = mine ? mine->name : "";
      kind.d_out = l.d_out;
      kind.d_in = l.d_in;
      kind.source_bytes = kind.weights() * work.source_bits / 8;
      kind.verdict = "stays as it is";
      if (coded) {
        auto layer = mine->blank(l.d_out, l.d_in, wanted);
        kind.packed = pack(l.name, layer);
        kind.rank = layer.adapter ? layer.adapter->rank() : 0;
        kind.verdict = verdict_of(layer);
        if (for_export_) kind.blank = std::move(layer);
      }
      kinds_.push_back(std::move(kind));
    }
    ++kinds_[at->second].count;
  }

  void plan_exports(std::string const& to) {
    std::vector<slim::any_layer> blanks;
    for (auto& kind : kinds_) blanks.push_back(std::move(kind.blank).value());
    auto planned = plan_export(to, std::move(blanks));
    for (std::size_t k = 0; k < kinds_.size(); ++k) kinds_[k].exported = std::move(planned[k]);
  }

  bool for_export_;
  std::vector<planned_kind> kinds_;
  std::map<std::tuple<std::string, index_t, index_t, index_t, recipe const*>, std::size_t> by_key_;
  std::map<std::string, std::size_t> kind_of_;
};

/// Files that programs look for beside a model and that its folder lacks.
std::vector<std::string> missing_files(checkpoint const& source) {
  std::vector<std::string> missing;
  if (source.gguf()) {
    if (!source.gguf()->has("tokenizer.chat_template")) missing.emplace_back("tokenizer.chat_template (a key of its metadata)");
    return missing;
  }
  model_files const files(source.path());
  for (char const* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
    if (!files.has(name)) missing.emplace_back(name);
  auto const settings = files.json("tokenizer_config.json");
  if (!files.has("chat_template.jinja") && !(settings && settings->contains("chat_template")))
    missing.emplace_back("chat_template.jinja");
  return missing;
}

std::string readable_time(double seconds) {
  if (seconds < 120) return fixed(seconds, 0) + " s";
  return seconds < 7200 ? fixed(seconds / 60, 1) + " min" : fixed(seconds / 3600, 1) + " h";
}

} // namespace

void plan_command::run() const {
  recipe how = required(find_recipe(recipe_name.empty() ? default_recipe(ranks.aim) : recipe_name));
  auto const wanted = embedding_type("--embeddings", embeddings);
  if (wanted && !is_export_format(ranks.aim))
    throw input_error("--embeddings: says what an export holds; give its format with --for");
  require_context(text.context);
  if (is_slim_path(model)) throw input_error(model.string() + ": is compressed already; give the model that it was made of");
  if (ranks.budget != 0)
    throw input_error("--rank-budget: a plan cannot know the ranks, which are found by compressing every linear once");
  if (!how.makes_codes) throw input_error("recipe " + how.name + " makes no integer codes; a plan is about those that do");
  file_plan files;
  files.reads_model(model);
  files.reads_file("--calib", calibration_file(text));
  files.reads_file("--text", evaluation_file(text));
  files.writes_text("--json", json);
  files.check();
  workspace const work(model);
  require_exportable(how, work.weights, ranks.aim);
  note_long_context(text.context, work.weights.config);
  text_tokens const tokens = load_text_tokens(work.words, text);
  note_shortened(tokens, text);
  plan_ranks(how, ranks, work.weights, tokens.fitted(), text.context);
  constexpr index_t evaluations = 2; // as compress does for a .slim file
  double const limit = memory_limit.empty() ? 0 : parse_bytes("--memory-limit", memory_limit);
  memory_plan const memory = plan_memory(work.weights, planned_compression(tokens, text, ranks, how, evaluations), limit);
  planned_linears const linears(work, how, ranks.aim);
  side_types const sides = side_types_of(how, work.weights);
  double const bytes =
      slim_file_bytes(slim_source_of(work.file), work.weights, resolved_recipe(text, how, tokens), {sides, false},
                      [&](linear_info const& l) -> packed_layer const& { return linears.layer_of(l); });
  time_estimate const time = estimate_time(work.weights, how, tokens, text.context, evaluations);

  table rows({"linears", "shape", "rank", "bits/weight", "16-bit adapter", "bytes each", "verdict"});
  nlohmann::json kinds = nlohmann::json::array();
  double stored = 0, with_plain = 0, weights = 0, exported_linears = 0, exported_adapters = 0;
  for (auto const& kind : linears.kinds()) {
    auto const count = static_cast<double>(kind.count);
    stored += count * kind.bytes();
    with_plain += count * kind.bytes_with_plain_adapter();
    weights += count * kind.weights();
    exported_linears += count * kind.exported.linear_bytes;
    exported_adapters += count * kind.exported.adapter_bytes;
    double const bits = 8 * kind.bytes() / kind.weights(), plain_bits = 8 * kind.bytes_with_plain_adapter() / kind.weights();
    rows.add({std::to_string(kind.count) + " x " + kind.role, std::to_string(kind.d_out) + " x " + std::to_string(kind.d_in),
              std::to_string(kind.rank), fixed(bits, 3), fixed(plain_bits, 3), fixed(kind.bytes(), 0), kind.verdict});
    kinds.push_back({{"role", kind.role},
                     {"count", kind.count},
                     {"d_out", kind.d_out},
                     {"d_in", kind.d_in},
                     {"recipe", kind.recipe},
                     {"rank", kind.rank},
                     {"bytes", kind.bytes()},
                     {"verdict", kind.verdict}});
  }
  double const scratch = memory.scratch_room().bytes;
  double const run_bytes = with_run ? 2 * memory.state_bytes + stored : 0;
  double const disk = bytes + stored + scratch + run_bytes; // the file, and packed linears that wait for it
  auto const missing = missing_files(work.file);
  std::printf("%s: %s, %td blocks, recipe %s\n\n%s\n", model.c_str(), work.weights.config.name.c_str(),
              work.weights.config.layers, how.name.c_str(), rows.text().c_str());
  std::printf(".slim file       %.0f bytes (the source's tensors have %.0f)\n", bytes, work.file.tensor_bytes());
  std::printf("linears          %.3f bits per weight; %.3f with adapters in 16 bits, as other programs' formats store them\n",
              8 * stored / weights, 8 * with_plain / weights);
  bool const for_export = is_export_format(ranks.aim);
  double embedding_bytes = 0;
  for (stored_matrix const* const side : {&work.weights.embedding, &work.weights.head}) {
    if (!for_export || !side->tensor()) continue;
    auto const rounded = sides.find(side->tensor()->name);
    embedding_bytes += side_bytes_in(ranks.aim, side->rows(), side->cols(),
                                     rounded == sides.end() ? side->tensor()->type : rounded->second, wanted);
  }
  if (for_export)
    std::printf("as %-13s %.0f bytes for linears, %.0f for adapters: %.3f bits per weight\n", ranks.aim.c_str(),
                exported_linears, exported_adapters, 8 * (exported_linears + exported_adapters) / weights);
  if (for_export)
    std::printf("                 at most %.0f for embedding and head%s\n", embedding_bytes,
                wanted || ranks.aim.starts_with("gguf") ? "" : " (--embeddings f16 or bf16 rounds them)");
  std::printf("peak memory      %s%s\n", readable_bytes(memory.total()).c_str(),
              memory.states_on_disk ? ", with hidden states in a scratch file" : "");
  for (auto const& part : memory.parts)
    std::printf("                 %s %s\n", readable_bytes(part.bytes).c_str(), part.what.c_str());
  std::printf("disk             %s\n", readable_bytes(disk).c_str());
  std::printf("time             about %s here: %s solving, %s statistics, %s windows through blocks, %s predictions\n",
              readable_time(time.total()).c_str(), readable_time(time.solving).c_str(), readable_time(time.observing).c_str(),
              readable_time(time.running).c_str(), readable_time(time.predicting).c_str());
  if (work.source_bits < 16)
    std::printf(
        "note: the source is quantized already, to %.2f bits per weight: its errors stay, and the result is compared with "
        "it, not with the model before\n",
        work.source_bits);
  for (auto const& name : missing) std::printf("note: %s has no %s\n", model.c_str(), name.c_str());
  if (json.empty()) return;
  nlohmann::json result = {{"model", model.string()},
                           {"recipe", how.name},
                           {"slim_bytes", bytes},
                           {"bits_per_weight", 8 * stored / weights},
                           {"bits_per_weight_16_bit_adapters", 8 * with_plain / weights},
                           {"source_bits_per_weight", work.source_bits},
                           {"peak_bytes", memory.total()},
                           {"disk_bytes", disk},
                           {"seconds", time.total()},
                           {"seconds_solving", time.solving},
                           {"seconds_observing", time.observing},
                           {"seconds_running", time.running},
                           {"seconds_predicting", time.predicting},
                           {"linears", kinds},
                           {"missing", missing}};
  if (for_export)
    result["export"] = {{"format", ranks.aim},
                        {"linear_bytes", exported_linears},
                        {"adapter_bytes", exported_adapters},
                        {"embedding_bytes", embedding_bytes}};
  write_json(json, result);
}

} // namespace slim_llm
