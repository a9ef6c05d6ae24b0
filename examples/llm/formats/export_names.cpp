#include "formats/export_names.hpp"

#include "models/family.hpp"
#include "run/output_files.hpp"

#include <nlohmann/json.hpp>

#include <charconv>

namespace slim_llm {
namespace {

using nlohmann::ordered_json;

void pair_up(std::map<std::string, std::string>& names, std::string const& from, std::string const& to) {
  constexpr std::string_view weight = "weight", bias = "bias";
  if (from.empty() || to.empty()) return;
  names[from] = to;
  if (!from.ends_with(weight) || !to.ends_with(weight)) return; // no module's
  names[from.substr(0, from.size() - weight.size()).append(bias)] = to.substr(0, to.size() - weight.size()).append(bias);
}

/// Tensors of the same role have their names in both layouts. One of several linears of a tensor is found by its own name, and
/// its name there is that of the tensor.
std::map<std::string, std::string> paired(tensor_layout const& from, tensor_layout const& to, index_t layers) {
  std::map<std::string, std::string> names;
  pair_up(names, from.embedding, to.embedding);
  pair_up(names, from.final_norm, to.final_norm);
  pair_up(names, from.head, to.head);
  for (index_t n = 0; n < layers; ++n) {
    std::string const number = std::to_string(n) + ".";
    std::map<std::string, std::string> theirs; // by role: there may be hundreds of experts
    for (auto const& norm : to.norms) theirs[norm.role] = to.block_prefix + number + norm.name;
    for (auto const& linear : to.linears) theirs[linear.role] = to.block_prefix + number + linear.name;
    for (auto const& norm : from.norms) pair_up(names, from.block_prefix + number + norm.name, theirs[norm.role]);
    for (auto const& linear : from.linears) {
      std::string const name = from.block_prefix + number + linear.name;
      pair_up(names, linear.slice < 0 ? name : slice_name(name, linear.slice), theirs[linear.role]);
    }
  }
  return names;
}

bool has_tensor(std::span<slim::tensor_info const> tensors, std::string const& name) {
  return std::any_of(tensors.begin(), tensors.end(), [&](auto const& tensor) { return tensor.name == name; });
}

/// The layout of the folder that the model came from.
found_layout layout_of_folder(std::span<slim::tensor_info const> tensors, model_config const& config) {
  return find_layout(config.family->hugging_face, config, [&](std::string const& name) { return has_tensor(tensors, name); });
}

/// The decimal number of fewest digits that is this float: 1e-05, not 9.99999974e-06.
double shortest(double value) {
  char text[32];
  auto const end = std::to_chars(std::begin(text), std::end(text), static_cast<float>(value)).ptr;
  double back = value;
  std::from_chars(std::begin(text), end, back);
  return back;
}

[[noreturn]] void no_way_back(checkpoint const& file, std::string const& reason) {
  throw input_error(file.path().string() + ": no Hugging Face folder can be made of this GGUF file: " + reason +
                    "; export beside the folder that it was converted from, or to gguf");
}

/// The types whose configuration is known to map back, and their classes.
char const* class_of(std::string const& architecture) {
  if (architecture == "llama") return "LlamaForCausalLM";
  if (architecture == "qwen2") return "Qwen2ForCausalLM";
  if (architecture == "qwen3") return "Qwen3ForCausalLM";
  return nullptr;
}

void require_way_back(checkpoint const& file, model const& m) {
  slim::gguf_file const& gguf = *gguf_of(file);
  model_config const& c = m.config;
  if (!class_of(c.name)) no_way_back(file, "its architecture is " + c.name + "; llama, qwen2 and qwen3 map back");
  std::string const scaling = required(gguf.get_or<std::string>(c.name + ".rope.scaling.type", "none"));
  if (scaling != "none" || has_tensor(file.tensors(), "rope_freqs.weight") || m.rotary.size() != 1)
    no_way_back(file, "its rotary positions are scaled");
  if (!c.attention.empty()) no_way_back(file, "its blocks attend to windows");
}

ordered_json config_of(checkpoint const& file, model const& m) {
  slim::gguf_file const& gguf = *gguf_of(file);
  model_config const& c = m.config;
  ordered_json config = {{"architectures", ordered_json::array({class_of(c.name)})},
                         {"model_type", c.name},
                         {"vocab_size", c.vocab},
                         {"hidden_size", c.hidden},
                         {"intermediate_size", c.intermediate},
                         {"num_hidden_layers", c.layers},
                         {"num_attention_heads", c.heads},
                         {"num_key_value_heads", c.kv_heads},
                         {"head_dim", c.head_dim},
                         {"hidden_act", "silu"},
                         {"max_position_embeddings", c.max_positions},
                         {"rms_norm_eps", shortest(c.norm_epsilon)},
                         {"rope_theta", shortest(required(gguf.get_or<double>(c.name + ".rope.freq_base", 10000.0)))},
                         {"tie_word_embeddings", c.tied_embeddings},
                         {"attention_bias", false}};
  for (auto const& [key, ours] : {std::pair{"bos", "bos_token_id"}, {"eos", "eos_token_id"}, {"padding", "pad_token_id"}})
    if (auto const id = gguf.get<index_t>(std::string("tokenizer.ggml.") + key + "_token_id")) config[ours] = *id;
  return config;
}

/// tokenizer.json of a byte-level BPE vocabulary, as the `tokenizers` package reads it.
ordered_json tokenizer_of(slim::gguf_file const& gguf, bool single_digits) {
  auto const tokens = required(gguf.get<std::vector<std::string>>("tokenizer.ggml.tokens"));
  auto const types = required(gguf.get<std::vector<int>>("tokenizer.ggml.token_type"));
  constexpr int control = 3, user_defined = 4;
  ordered_json added = ordered_json::array(), vocab = ordered_json::object();
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    vocab[tokens[id]] = id;
    int const type = id < types.size() ? types[id] : 1;
    if (type != control && type != user_defined) continue;
    added.push_back({{"id", id},
                     {"content", tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type == control}});
  }
  ordered_json const bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  ordered_json const digits = {{"type", "Digits"}, {"individual_digits", true}};
  ordered_json split = bytes;
  if (single_digits) split = {{"type", "Sequence"}, {"pretokenizers", ordered_json::array({digits, bytes})}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", split},
          {"post_processor", nullptr},
          {"decoder", bytes},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", required(gguf.get<std::vector<std::string>>("tokenizer.ggml.merges"))}}}};
}

ordered_json tokenizer_config_of(slim::gguf_file const& gguf) {
  ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  auto const tokens = gguf.get<std::vector<std::string>>("tokenizer.ggml.tokens");
  for (auto const& [key, ours] : {std::pair{"bos", "bos_token"}, {"eos", "eos_token"}, {"padding", "pad_token"}}) {
    auto const id = gguf.get<std::size_t>(std::string("tokenizer.ggml.") + key + "_token_id");
    if (tokens && id && *id < tokens->size()) config[ours] = (*tokens)[*id];
  }
  if (auto const chat = gguf.get<std::string>("tokenizer.chat_template")) config["chat_template"] = *chat;
  return config;
}

} // namespace

slim::gguf_file const* gguf_of(checkpoint const& file) { return file.container() ? file.container()->gguf() : file.gguf(); }

std::vector<index_t> tensor_names::row_order(linear_info const& l, model_config const& config) const {
  if (!permuted || (l.role != "q" && l.role != "k")) return {};
  index_t const heads = l.role == "q" ? config.heads : config.kv_heads, dim = config.head_dim, half = dim / 2;
  std::vector<index_t> order(static_cast<std::size_t>(heads * dim));
  for (index_t h = 0; h < heads; ++h)
    for (index_t p = 0; p < 2; ++p)
      for (index_t j = 0; j < half; ++j) {
        index_t const in_pairs = h * dim + 2 * j + p, in_halves = h * dim + p * half + j;
        order[static_cast<std::size_t>(from_pairs ? in_halves : in_pairs)] = from_pairs ? in_pairs : in_halves;
      }
  return order;
}

std::string const& tensor_names::of(std::string const& name) const {
  auto found = names.find(name);
  if (found == names.end()) found = names.find(tensor_of(name));
  if (found == names.end()) throw input_error("tensor '" + name + "' has no place in the format that is written");
  return found->second;
}

tensor_names names_in_folder(checkpoint const& file, model const& m) {
  tensor_names out;
  if (!gguf_of(file)) {
    for (auto const& tensor : file.tensors()) out.names[tensor.name] = tensor.name;
    auto const found = layout_of_folder(file.tensors(), m.config);
    auto const single = m.config.family->hugging_face.tensors(m.config, found.root);
    if (found.stacked)
      for (auto const& [ours, theirs] : paired(found.tensors, single, m.config.layers)) out.names[ours] = theirs;
    return out;
  }
  require_way_back(file, m);
  auto const& family = *m.config.family;
  out.names = paired(family.gguf.tensors(m.config, ""),
                     family.hugging_face.tensors(m.config, family.hugging_face.roots.front()), m.config.layers);
  out.permuted = m.config.rope == rope_style::adjacent_pairs;
  out.from_pairs = true;
  for (auto const& tensor : file.tensors())
    if (out.permuted && tensor.name.ends_with(".bias")) no_way_back(file, "it has a bias, " + tensor.name);
  return out;
}

tensor_names names_in_gguf(checkpoint const& file, model const& m) {
  if (!gguf_of(file)) return names_in_gguf(file.tensors(), m);
  tensor_names out;
  for (auto const& tensor : file.tensors()) out.names[tensor.name] = tensor.name;
  return out;
}

tensor_names names_in_gguf(std::span<slim::tensor_info const> tensors, model const& m) {
  tensor_names out;
  std::string const architecture = gguf_architecture(m.config);
  out.names = paired(layout_of_folder(tensors, m.config).tensors, m.config.family->gguf.tensors(m.config, ""), m.config.layers);
  out.permuted = architecture == "llama" || architecture == "smollm3";
  return out;
}

std::string gguf_architecture(model_config const& config) {
  static std::map<std::string, std::string> const theirs = {
      {"mistral", "llama"}, {"gemma3_text", "gemma3"}, {"qwen3_moe", "qwen3moe"}};
  auto const other = theirs.find(config.name);
  std::string const name = other == theirs.end() ? config.name : other->second;
  auto const& known = config.family->gguf.names;
  if (std::find(known.begin(), known.end(), name) == known.end())
    throw input_error("GGUF knows no models of type " + config.name);
  if (config.activation != config.family->gguf.activation)
    throw input_error(std::string("GGUF has no key for the activation: llama.cpp would compute ") +
                      name_of(config.family->gguf.activation) + " in place of this model's " + name_of(config.activation));
  return name;
}

std::map<std::string, std::string> files_of_folder(checkpoint const& file, model const& m, std::vector<std::string>& notes) {
  std::map<std::string, std::string> files;
  if (!gguf_of(file)) {
    model_files const from = file.container() ? file.container()->files() : model_files(file.path());
    for (std::string const& name : from.names()) files[name] = required(from.text(name));
    return files;
  }
  slim::gguf_file const& gguf = *gguf_of(file);
  files["config.json"] = config_of(file, m).dump(2) + "\n";
  std::string const kind = required(gguf.get_or<std::string>("tokenizer.ggml.model", ""));
  std::string const split = required(gguf.get_or<std::string>("tokenizer.ggml.pre", ""));
  if (kind == "gpt2" && (split == "smollm" || split == "gpt-2")) {
    files["tokenizer.json"] = tokenizer_of(gguf, split == "smollm").dump(1) + "\n";
    files["tokenizer_config.json"] = tokenizer_config_of(gguf).dump(2) + "\n";
  } else {
    notes.push_back("no tokenizer.json was made: vocabulary " + kind + " (" + split +
                    ") does not map back here; copy the tokenizer of the original folder");
  }
  return files;
}

} // namespace slim_llm
